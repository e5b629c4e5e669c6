"""Every config key that is read changes the model; every key that is not read is refused or known to change nothing.

A replica is written with its true weights, one key of its config is changed, and the conversion of the changed
folder is compared with Hugging Face's model of the unchanged config. It must be refused or differ by `FAR`.

The epsilons are told apart because embeddings are small here: 0.003, so squares of 1e-5 beside epsilons of 1e-6 to
1e-5. (At unit size 1e-6 against 1e-5 moves activations by 4e-6, within any bound.) Measured: unchanged configs
differ by at most 8e-6, changed ones by at least 1.8e-2.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from slm_interp.convert import load
from slm_interp.convert.architectures import names as architectures
from slm_interp.convert.source import open_source
from slm_interp.errors import ConversionError
from tests.convert.reference import hooked_transformer, hugging_face, random_tokens, worst
from tests.replicas import LLAMA3, N_UNITS, ROPE, VARIANTS, random_weights, write_slamkit

D_VOCAB = N_UNITS + 2
SAME, FAR = 5e-5, 1e-3
DIFFERS = "differs"
SHAPE = r"has shape|does not fit the pattern|embedding has"

# (variant, key, another value, what must happen: DIFFERS, or a pattern of the refusal)
GATED_CHANGES: list[tuple[str, Any, str]] = [
    ("hidden_size", 32, SHAPE),
    ("num_hidden_layers", 2, "No rule for|must be equal to the number of `layer_types`"),
    ("num_hidden_layers", 4, "The checkpoint lacks|must be equal to the number of `layer_types`"),
    ("num_attention_heads", 2, SHAPE),
    ("num_key_value_heads", 1, SHAPE),
    ("num_key_value_heads", 4, SHAPE),
    ("intermediate_size", 41, SHAPE),
    ("vocab_size", D_VOCAB + 1, "embedding has"),
    ("hidden_act", "gelu", DIFFERS),
    ("rms_norm_eps", 1e-5, DIFFERS),
    ("tie_word_embeddings", True, "should repeat"),
    ("head_dim", 8, SHAPE),
    ("rope_parameters", {**ROPE, "rope_theta": 11_000.0}, DIFFERS),
    ("rope_parameters", {**ROPE, "rope_type": "linear", "factor": 1.1}, DIFFERS),
    ("rope_parameters", {**ROPE, "partial_rotary_factor": 0.5}, "turns whole heads"),
]
SCALED_CHANGES = [
    ("rope_parameters", {**LLAMA3, "rope_theta": 550_000.0}, DIFFERS),
    ("rope_parameters", {**LLAMA3, "factor": 8.0}, DIFFERS),
    ("rope_parameters", {**LLAMA3, "low_freq_factor": 2.0}, DIFFERS),
    ("rope_parameters", {**LLAMA3, "high_freq_factor": 8.0}, DIFFERS),
    ("rope_parameters", {**LLAMA3, "original_max_position_embeddings": 128}, DIFFERS),
    ("rope_parameters", {"rope_theta": LLAMA3["rope_theta"], "rope_type": "default"}, DIFFERS),
]
CHANGES: dict[str, list[tuple[str, Any, str]]] = {
    "llama": [*GATED_CHANGES, ("attention_bias", True, "The checkpoint lacks"), ("mlp_bias", True, "adds b_in after the gate")],
    "llama-mha-tied": [("tie_word_embeddings", False, "lacks 'lm_head.weight'"), ("num_key_value_heads", 2, SHAPE)],
    "llama-biases-wide-heads": [("attention_bias", False, "No rule for")],
    "llama-llama3-rope": SCALED_CHANGES,
    "llama-linear-rope": [("rope_parameters", {**ROPE, "rope_type": "linear", "factor": 3.3}, DIFFERS)],
    "qwen2": GATED_CHANGES,
    "qwen2-windows": [
        ("sliding_window", 6, DIFFERS),
        ("layer_types", ["full_attention", "full_attention", "sliding_attention"], DIFFERS),
        ("layer_types", ["full_attention"] * 3, DIFFERS),
        ("layer_types", ["full_attention", "linear_attention", "full_attention"], "Layer type 'linear_attention'"),
    ],
    "qwen3": [
        *GATED_CHANGES,
        ("attention_bias", True, "The checkpoint lacks"),
        ("layer_types", ["sliding_attention"] * 3, "'sliding_window' gives them no size"),
    ],
    "qwen3-biases-tied": [("attention_bias", False, "No rule for"), ("sliding_window", 5, "nothing")],
    "mistral": [*GATED_CHANGES, ("sliding_window", 5, DIFFERS)],
    "mistral-window": [("sliding_window", 6, DIFFERS), ("sliding_window", None, DIFFERS)],
    "opt": [
        ("hidden_size", 32, SHAPE + "|word_embed_proj_dim"),
        ("num_hidden_layers", 2, "No rule for"),
        ("num_attention_heads", 2, DIFFERS),
        ("ffn_dim", 41, SHAPE),
        ("vocab_size", D_VOCAB + 1, "embedding has"),
        ("max_position_embeddings", 63, SHAPE),
        ("max_position_embeddings", 65, SHAPE),
        ("activation_function", "gelu", DIFFERS),
        ("tie_word_embeddings", False, "lacks 'lm_head.weight'"),
        ("do_layer_norm_before", False, "post-norm blocks"),
        ("_remove_final_layer_norm", True, "always normalises before the unembedding"),
        ("word_embed_proj_dim", 16, "projected embeddings"),
        ("enable_bias", False, "have biases"),
        ("layer_norm_elementwise_affine", False, "have weights"),
    ],
    "opt-untied": [("tie_word_embeddings", True, "should repeat")],
    "gpt_neox": [
        ("hidden_size", 48, SHAPE),
        ("num_hidden_layers", 2, "No rule for"),
        ("num_attention_heads", 2, DIFFERS),
        ("intermediate_size", 41, SHAPE),
        ("vocab_size", D_VOCAB + 1, "embedding has"),
        ("hidden_act", "relu", DIFFERS),
        ("layer_norm_eps", 1e-6, DIFFERS),
        ("use_parallel_residual", False, DIFFERS),
        ("attention_bias", False, "No rule for"),
        ("tie_word_embeddings", True, "should repeat"),
        ("rope_parameters", {**ROPE, "partial_rotary_factor": 0.25}, DIFFERS),
        ("rope_parameters", {**ROPE, "rope_theta": 11_000.0, "partial_rotary_factor": 0.5}, DIFFERS),
        ("rope_parameters", {**ROPE, "rope_type": "linear", "factor": 1.1, "partial_rotary_factor": 0.5}, DIFFERS),
    ],
    "gpt_neox-serial-tied": [
        ("use_parallel_residual", True, DIFFERS),
        ("attention_bias", True, "The checkpoint lacks"),
        ("tie_word_embeddings", False, "lacks 'lm_head.weight'"),
    ],
}
CASES = [(variant, *change) for variant, changes in CHANGES.items() for change in changes if change[2] != "nothing"]

# Keys that are read and may take another value without changing a number, with the reason.
FREE = {
    (architecture, "max_position_embeddings"): "rotary angles do not depend on it; it only says how long a sequence may be"
    for architecture in ("llama", "qwen2", "qwen3", "mistral", "gpt_neox")
}
INERT = [
    ("llama", "max_position_embeddings", 64),
    ("llama-llama3-rope", "max_position_embeddings", 64),
    ("gpt_neox", "max_position_embeddings", 64),
    ("qwen2", "sliding_window", 5),  # use_sliding_window is off: transformers ignores it
    ("qwen3", "sliding_window", 5),
]


def small(raw: Mapping[str, Any]) -> dict[str, Tensor]:
    """Random weights whose embeddings are as small as the root of an epsilon."""
    weights = random_weights({**raw, "vocab_size": D_VOCAB})
    return {name: tensor * 0.01 if "embed" in name and "out" not in name else tensor for name, tensor in weights.items()}


def change(folder: Path, key: str, value: Any) -> None:
    """Change a key of the base config, and the wrapper's copy of it where there is one."""
    config = json.loads((folder / "config.json").read_text())
    config["base_config"][key] = value
    if key in config:
        config[key] = value
    (folder / "config.json").write_text(json.dumps(config))


def distance_after(folder: Path, variant: str, key: str | None = None, value: Any = None) -> float:
    """How far the conversion is from Hugging Face's model of the unchanged config, after one change."""
    raw = {**VARIANTS[variant], "vocab_size": D_VOCAB}
    weights, tokens = small(raw), random_tokens(48, D_VOCAB)
    write_slamkit(folder, raw, weights=weights)
    if key is not None:
        change(folder, key, value)
    return worst(hooked_transformer(load(folder, n_units=N_UNITS).model, tokens), hugging_face(raw, weights, tokens))


@pytest.mark.parametrize("variant", VARIANTS)
def test_unchanged_configs_agree_at_this_size_of_activations(variant: str, tmp_path: Path) -> None:
    assert distance_after(tmp_path, variant) < SAME


@pytest.mark.parametrize(("variant", "key", "value", "outcome"), CASES)
def test_a_changed_key_is_refused_or_breaks_parity(variant: str, key: str, value: Any, outcome: str, tmp_path: Path) -> None:
    if outcome == DIFFERS:
        assert distance_after(tmp_path, variant, key, value) > FAR
    else:
        with pytest.raises(ConversionError, match=outcome):
            distance_after(tmp_path, variant, key, value)


@pytest.mark.parametrize(("variant", "key", "value"), INERT)
def test_a_key_said_to_be_free_changes_nothing(variant: str, key: str, value: Any, tmp_path: Path) -> None:
    assert distance_after(tmp_path, variant, key, value) < SAME


@pytest.mark.parametrize("architecture", architectures())
def test_every_key_that_is_read_has_a_change_here(architecture: str, tmp_path: Path) -> None:
    """A key newly read without a line in CHANGES (or a reason in FREE) fails here."""
    changed, read = defaultdict(set), set()
    for variant, raw in VARIANTS.items():
        changed[raw["model_type"]] |= {key for key, _, _ in CHANGES.get(variant, [])}
        if raw["model_type"] == architecture:
            read |= open_source(write_slamkit(tmp_path / variant, raw)).config.keys_read
    free = {key for name, key in FREE if name == architecture}
    assert read - free == changed[architecture] - free


@pytest.mark.parametrize("kind", ["llama3", "linear", "default"])
def test_every_rope_key_that_is_read_has_a_change_here(kind: str) -> None:
    from slm_interp.convert.decoder import ROTARY

    base = {"llama3": LLAMA3, "linear": {**ROPE, "rope_type": "linear", "factor": 3.0}, "default": ROPE}[kind]
    values = [value for changes in CHANGES.values() for key, value, _ in changes if key == "rope_parameters" and value["rope_type"] == kind]
    varied = {key for value in values for key, one in value.items() if one != base.get(key)}
    assert set(ROTARY[kind].values()) | {"rope_theta"} <= varied | ({"rope_theta"} if kind == "linear" else set())
