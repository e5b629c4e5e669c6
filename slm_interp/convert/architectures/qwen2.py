"""Qwen2 and Qwen2.5: Llama with biases on queries, keys and values, and windows in some layers if the config says so.

Source: `transformers/models/qwen2/modeling_qwen2.py`.
"""

from __future__ import annotations

from typing import Any

from slm_interp.convert.config import ConfigReader
from slm_interp.convert.decoder import gated_decoder_fields, gated_decoder_rules, window_fields
from slm_interp.convert.rules import Rule

LAYERS = "model.layers"


def fields(config: ConfigReader) -> dict[str, Any]:
    """Qwen2's sizes and windows."""
    return {**gated_decoder_fields(config), **window_fields(config["layer_types"], config["sliding_window"])}


def rules(config: ConfigReader) -> tuple[Rule, ...]:
    """Qwen2's weights."""
    return gated_decoder_rules(config, qkv_bias=True)
