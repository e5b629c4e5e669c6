"""GLM-4 as `transformers` names it: half of each head turns, on adjacent pairs; gate and up projection fused.

Source: `transformers/models/glm/modeling_glm.py`.
"""

from __future__ import annotations

from typing import Any

from slm_interp.convert.config import ConfigReader
from slm_interp.convert.decoder import gated_decoder_fields, gated_decoder_rules
from slm_interp.convert.rules import Rule

LAYERS = "model.layers"


def fields(config: ConfigReader) -> dict[str, Any]:
    """GLM's sizes; element 2i of a head turns with element 2i + 1, as in `rotate_half` there."""
    return {**gated_decoder_fields(config, partial_rotary=True), "rotary_adjacent_pairs": True}


def rules(config: ConfigReader) -> tuple[Rule, ...]:
    """GLM's weights; `attention_bias` gives queries, keys and values a bias, the output never."""
    return gated_decoder_rules(config, qkv_bias=config["attention_bias"], fused_gate=True)
