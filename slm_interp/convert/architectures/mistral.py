"""Mistral: Llama with a sliding window in every layer and heads of a free size.

Source: `transformers/models/mistral/modeling_mistral.py`.
"""

from __future__ import annotations

from typing import Any

from slm_interp.convert.config import ConfigReader
from slm_interp.convert.decoder import gated_decoder_fields, gated_decoder_rules, window_fields
from slm_interp.convert.rules import Rule

LAYERS = "model.layers"


def fields(config: ConfigReader) -> dict[str, Any]:
    """Mistral's sizes and window."""
    window = config["sliding_window"]
    layers = ["full_attention" if window is None else "sliding_attention"] * config["num_hidden_layers"]
    return {**gated_decoder_fields(config), **window_fields(layers, window)}


def rules(config: ConfigReader) -> tuple[Rule, ...]:
    """Mistral's weights."""
    return gated_decoder_rules(config)
