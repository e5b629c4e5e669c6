"""Llama, with every rotary scaling it is published with; biases where the config asks for them.

Source: `transformers/models/llama/modeling_llama.py`.
"""

from __future__ import annotations

from typing import Any

from slm_interp.convert.config import ConfigReader
from slm_interp.convert.decoder import gated_decoder_fields, gated_decoder_rules
from slm_interp.convert.rules import Rule

LAYERS = "model.layers"


def fields(config: ConfigReader) -> dict[str, Any]:
    """Llama's sizes. A bias in the MLP is refused: HookedTransformer adds it after the gate, Llama before."""
    config.require("mlp_bias", False, why="HookedTransformer adds b_in after the gate has been applied, Llama before.")
    return gated_decoder_fields(config)


def rules(config: ConfigReader) -> tuple[Rule, ...]:
    """Llama's weights; `attention_bias` gives all four projections a bias."""
    bias = config["attention_bias"]
    return gated_decoder_rules(config, qkv_bias=bias, out_bias=bias)
