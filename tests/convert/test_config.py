"""Config keys that nobody reads are refused; older spellings of those that are read give the same model."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from slm_interp.convert import load
from slm_interp.convert.config import HARMLESS, ConfigReader
from slm_interp.errors import ConversionError
from tests.convert.reference import hooked_transformer, hugging_face, random_tokens, worst
from tests.convert.test_config_keys import D_VOCAB, SAME, change, small
from tests.replicas import GATED, LLAMA3, N_UNITS, ROPE, VARIANTS, write_slamkit


def test_an_unread_key_is_refused_with_its_value_and_what_to_do(tmp_path: Path) -> None:
    change(write_slamkit(tmp_path, VARIANTS["llama"]), "attn_logit_softcapping", 50.0)
    sentence = (
        "Config key 'attn_logit_softcapping' = 50.0 is not read and may change the numbers. If it is known to change nothing, "
        "list it in HARMLESS in slm_interp/convert/config.py with the reason; if it matters, its architecture must read it."
    )
    with pytest.raises(ConversionError, match=f"^{re.escape(sentence)}$"):
        load(tmp_path, n_units=N_UNITS)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("quantization_config", {"quant_method": "gptq", "bits": 4}, "Config key 'quantization_config' = "),
        ("is_encoder_decoder", True, "Config key 'is_encoder_decoder' = True"),
        ("add_cross_attention", True, "Config key 'add_cross_attention' = True"),
        ("num_nextn_predict_layers", 10, "Config key 'num_nextn_predict_layers' = 10"),
        ("partial_rotary_factor", 0.5, "partial_rotary_factor"),
        ("rope_parameters", {**ROPE, "mscale": 1.0}, "Config key 'rope_parameters.mscale' = 1.0 is not read"),
        (
            "rope_parameters",
            {**ROPE, "rope_type": "linear", "factor": 2.0, "attention_factor": 1.5},
            "'rope_parameters.attention_factor' = 1.5 is not read",
        ),
        (
            "rope_parameters",
            {**ROPE, "rope_type": "yarn", "factor": 2.0},
            "Rotary scaling 'yarn' cannot be expressed; default, linear, llama3 can.",
        ),
        ("rope_parameters", {**ROPE, "rope_type": "dynamic", "factor": 2.0}, "Rotary scaling 'dynamic' cannot be expressed"),
        ("rope_parameters", {**ROPE, "rope_type": "nonsense"}, "nonsense"),
        ("rope_parameters", {"rope_type": "linear", "rope_theta": 1e4}, "factor"),
        ("rope_parameters", {**LLAMA3, "factor": None}, "NTK_by_parts_factor must be a positive number; config.json makes it None."),
        ("rope_parameters", "none", "llama"),
        ("rope_scaling", {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32}, "yarn"),
        ("hidden_act", "quick_gelu", "Config key 'hidden_act' is 'quick_gelu'; HookedTransformer expresses silu, swish, gelu"),
        ("num_attention_heads", 0, "transformers refuses this 'llama' config"),
        ("num_attention_heads", 5, "not a multiple of the number of attention heads"),
        ("hidden_size", "wide", "hidden_size"),
        ("hidden_size", None, "hidden_size"),
        ("num_hidden_layers", -1, "n_layers must be a positive number; config.json makes it -1."),
        ("rms_norm_eps", float("nan"), "eps must be a positive number; config.json makes it nan."),
    ],
)
def test_what_llama_cannot_express_is_refused(key: str, value: Any, sentence: str, tmp_path: Path) -> None:
    folder = write_slamkit(tmp_path, VARIANTS["llama"])
    if key == "rope_scaling":
        config = json.loads((folder / "config.json").read_text())
        del config["base_config"]["rope_parameters"]
        (folder / "config.json").write_text(json.dumps(config))
    change(folder, key, value)
    with pytest.raises(ConversionError, match=sentence):
        load(folder, n_units=N_UNITS)


def test_opt_350m_is_refused_because_it_normalises_after_each_sublayer(tmp_path: Path) -> None:
    raw = {**VARIANTS["opt"], "do_layer_norm_before": False, "word_embed_proj_dim": 16}
    with pytest.raises(
        ConversionError, match=r"^Config key 'do_layer_norm_before' is False; only True can be expressed: post-norm blocks \(OPT-350M\)"
    ):
        load(write_slamkit(tmp_path, raw), n_units=N_UNITS)


def test_an_unknown_architecture_is_refused_with_those_there_are(tmp_path: Path) -> None:
    change(write_slamkit(tmp_path, VARIANTS["llama"]), "model_type", "gpt2")
    with pytest.raises(ConversionError, match="gpt2"):
        load(tmp_path, n_units=N_UNITS)


@pytest.mark.parametrize("key", ["tie_word_embeddings", "max_position_embeddings"])
def test_a_wrapper_that_contradicts_its_base_is_refused(key: str, tmp_path: Path) -> None:
    config = json.loads((write_slamkit(tmp_path, VARIANTS["llama"]) / "config.json").read_text())
    config[key] = not config[key]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConversionError, match=f"The wrapper says {key} = "):
        load(tmp_path, n_units=N_UNITS)


def test_an_unread_wrapper_key_is_refused(tmp_path: Path) -> None:
    config = json.loads((write_slamkit(tmp_path, VARIANTS["llama"]) / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "speech_adapter": "conv"}))
    with pytest.raises(ConversionError, match="Config key 'speech_adapter' = 'conv' is not read"):
        load(tmp_path, n_units=N_UNITS)


# -- older spellings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "old"),
    [
        ("llama", {"rope_theta": 10_000.0, "rope_scaling": None}),
        (
            "llama-llama3-rope",
            {"rope_theta": 500_000.0, "rope_scaling": {key: value for key, value in LLAMA3.items() if key != "rope_theta"}},
        ),
        ("llama-linear-rope", {"rope_theta": 10_000.0, "rope_scaling": {"type": "linear", "factor": 3.0}}),
        ("gpt_neox", {"rotary_emb_base": 10_000, "rotary_pct": 0.5}),
    ],
)
def test_the_spellings_of_older_transformers_give_the_same_model(variant: str, old: dict[str, Any], tmp_path: Path) -> None:
    raw = {**VARIANTS[variant], "vocab_size": D_VOCAB}
    weights, tokens = small(raw), random_tokens(48, D_VOCAB)
    config = json.loads((write_slamkit(tmp_path, raw, weights=weights) / "config.json").read_text())
    del config["base_config"]["rope_parameters"]
    config["base_config"] |= {**old, "torch_dtype": "float32"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert worst(hooked_transformer(load(tmp_path, n_units=N_UNITS).model, tokens), hugging_face(raw, weights, tokens)) < SAME


@pytest.mark.parametrize("key", ["rope_theta", "rotary_emb_base", "rotary_pct", "use_sliding_window", "max_window_layers"])
def test_keys_that_transformers_resolves_are_harmless_here_only_because_it_resolved_them(key: str) -> None:
    """Each is listed as harmless; what it stands for must arrive in a key that is read."""
    assert HARMLESS[key].startswith("resolved by transformers into ")
    model_type = "qwen2" if "window" in key else "gpt_neox" if "rotary" in key else "llama"
    raw = {name: value for name, value in VARIANTS["qwen2-windows" if "window" in key else model_type].items() if name != "rope_parameters"}
    values = {
        "rope_theta": (1e4, 2e4),
        "rotary_emb_base": (1e4, 2e4),
        "rotary_pct": (0.25, 0.5),
        "use_sliding_window": (True, False),
        "max_window_layers": (1, 2),
    }
    read = [
        {
            name: ConfigReader({**raw, key: value, "vocab_size": D_VOCAB}).get(name, None)
            for name in ("rope_parameters", "layer_types", "sliding_window")
        }
        for value in values[key]
    ]
    assert read[0] != read[1]


def test_numbers_come_out_of_the_reader_as_they_went_in() -> None:
    reader = ConfigReader({"model_type": "llama", **GATED, "vocab_size": D_VOCAB})
    assert reader["rms_norm_eps"] == 1e-6
    assert reader["rope_parameters"]["rope_theta"] == 10_000.0


@pytest.mark.parametrize(("key", "value"), [("auto_map", {"AutoModelForCausalLM": "modeling_x.X"}), ("trust_remote_code", True)])
def test_a_checkpoint_that_brings_its_own_code_is_refused(tmp_path, key, value):
    folder = write_slamkit(tmp_path, VARIANTS["llama"])
    config = json.loads((folder / "config.json").read_text())
    for place in (config, config["base_config"]):
        changed = {**place, key: value}
        (folder / "config.json").write_text(json.dumps(changed if place is config else {**config, "base_config": changed}))
        with pytest.raises(ConversionError, match=f"^Config key '{key}' = .* is not read and may change the numbers"):
            load(folder, n_units=N_UNITS)
