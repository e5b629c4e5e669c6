"""`inspect` says what a checkpoint is and what will become of it, from headers alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from slm_interp.convert import inspect
from slm_interp.errors import CheckpointError
from tests.replicas import N_UNITS, VARIANTS, WORDS, text_tokenizer, write_slamkit


@pytest.mark.parametrize("variant", VARIANTS)
def test_sizes_storage_and_head_are_named(variant: str, tmp_path: Path) -> None:
    raw = VARIANTS[variant]
    facts = inspect(write_slamkit(tmp_path, raw, dtype=torch.bfloat16, shards=2), n_units=N_UNITS).facts
    stored = sum(tensor.numel() for path in tmp_path.glob("*.safetensors") for tensor in load_file(path).values())
    assert facts["architecture"] == raw["model_type"] and facts["family"] == "slamkit"
    assert (facts["n_layers"], facts["d_model"], facts["n_heads"], facts["d_vocab"]) == (3, raw["hidden_size"], 4, N_UNITS + 2)
    assert facts["parameters"] == f"{stored:,}" and facts["stored as"] == "torch.bfloat16" and facts["size"].endswith("in 2 file(s)")
    assert facts["head"] == ("tied to the embedding" if raw.get("tie_word_embeddings") else "its own matrix")
    assert "MIT" in facts["licence"]


def test_no_weight_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_slamkit(tmp_path, VARIANTS["llama"])
    monkeypatch.setattr("slm_interp.convert.checkpoint.Checkpoint.tensor", lambda *arguments, **options: pytest.fail("a weight was read"))
    assert inspect(tmp_path, n_units=N_UNITS).vocabulary is not None


def test_the_vocabulary_is_shown_or_why_it_is_unknown(tmp_path: Path) -> None:
    write_slamkit(tmp_path, VARIANTS["llama"], vocab_size=len(WORDS) + 1 + N_UNITS + 2)
    known = inspect(tmp_path, text_tokenizer(), n_units=N_UNITS)
    assert known.vocabulary is not None and "<speech>" in str(known) and "marked" in str(known)
    unknown = inspect(tmp_path, n_units=N_UNITS)
    assert unknown.vocabulary is None and any("pass text_tokenizer=" in note for note in unknown.notes)
    assert "vocabulary" in str(unknown) and "<ul>" in unknown._repr_html_()


def test_what_is_dropped_and_what_has_no_rule_is_named(tmp_path: Path) -> None:
    write_slamkit(tmp_path, VARIANTS["llama-mha-tied"])
    state = load_file(tmp_path / "model.safetensors")
    state["lm.lm_head.weight"] = state["lm.model.embed_tokens.weight"].clone()
    state["lm.model.layers.0.self_attn.q_norm.weight"] = torch.ones(6)
    save_file(state, tmp_path / "model.safetensors")
    notes = inspect(tmp_path, n_units=N_UNITS).notes
    assert any(note.startswith("dropped: lm_head.weight (") for note in notes)
    assert "no rule for model.layers.0.self_attn.q_norm.weight (6,): loading will be refused" in notes


def test_what_cannot_be_expressed_is_said_instead_of_raised(tmp_path: Path) -> None:
    config = json.loads((write_slamkit(tmp_path, VARIANTS["llama"]) / "config.json").read_text())
    config["base_config"]["rope_parameters"] = {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = inspect(tmp_path, n_units=N_UNITS)
    assert found.notes == ("cannot be loaded: Rotary scaling 'yarn' cannot be expressed; default, linear, llama3 can.",)
    assert "cannot be loaded" in str(found) and found.facts["architecture"] == "llama"


def test_quantised_weights_are_shown_as_they_are(tmp_path: Path) -> None:
    write_slamkit(tmp_path, VARIANTS["llama"])
    state = load_file(tmp_path / "model.safetensors")
    save_file({name: tensor.to(torch.int8) for name, tensor in state.items()}, tmp_path / "model.safetensors")
    assert inspect(tmp_path, n_units=N_UNITS).facts["stored as"] == "I8"


def test_a_damaged_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        inspect(tmp_path)
