"""Qwen3: Llama with queries and keys normalised a head, heads of a free size, and windows if the config says so.

Source: `transformers/models/qwen3/modeling_qwen3.py`.
"""

from __future__ import annotations

from typing import Any

from slm_interp.convert.config import ConfigReader
from slm_interp.convert.decoder import gated_decoder_fields, gated_decoder_rules, window_fields
from slm_interp.convert.rules import Rule

LAYERS = "model.layers"


def fields(config: ConfigReader) -> dict[str, Any]:
    """Qwen3's sizes, windows and norms of queries and keys."""
    return {**gated_decoder_fields(config), **window_fields(config["layer_types"], config["sliding_window"]), "use_qk_norm": True}


def rules(config: ConfigReader) -> tuple[Rule, ...]:
    """Qwen3's weights."""
    bias = config["attention_bias"]
    return gated_decoder_rules(config, qkv_bias=bias, out_bias=bias, qk_norm=True)
