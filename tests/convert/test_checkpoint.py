"""Damaged, incomplete, unsafe or mismatched checkpoint folders: one clear error each, and nothing from the network."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from slm_interp.convert import load, verify
from slm_interp.convert.checkpoint import WHOLE_BELOW_BYTES, sampled_blocks
from slm_interp.errors import CheckpointError, ConversionError, SlmInterpError
from tests.convert.refusal import refused
from tests.replicas import N_UNITS, VARIANTS, random_weights, write_slamkit

RAW = VARIANTS["llama"]
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
EMBEDDING = "lm.model.embed_tokens.weight"


def edit_index(folder: Path, change: Callable[[dict[str, str]], object]) -> None:
    """Change the weight map of a sharded folder."""
    index = json.loads((folder / INDEX).read_text())
    change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


# -- shards -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 4, 8, 200, -1])
def test_a_truncated_shard_is_refused(folder: Path, keep: int) -> None:
    data = (folder / SINGLE).read_bytes()
    (folder / SINGLE).write_bytes(data[:keep])
    refused(folder, r"^'model\.safetensors' is truncated or no safetensors file \(.*\)\. Fetch it again\.$")


@pytest.mark.parametrize(
    "junk", [b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", b"\x80\x02}q\x00.", struct.pack("<Q", 2**60) + b"{}"]
)
def test_bytes_that_are_no_safetensors_file_are_refused(folder: Path, junk: bytes) -> None:
    (folder / SINGLE).write_bytes(junk)
    refused(folder, "is truncated or no safetensors file")


def test_a_folder_in_place_of_a_shard_is_refused(folder: Path) -> None:
    (folder / SINGLE).unlink()
    (folder / SINGLE).mkdir()
    refused(folder, "is truncated or no safetensors file")


def test_a_missing_shard_is_named(sharded: Path) -> None:
    (sharded / "model-00002-of-00003.safetensors").unlink()
    refused(sharded, r"^Shard 'model-00002-of-00003\.safetensors' is missing from ")


@pytest.mark.parametrize("place", ["../outside.safetensors", "/outside.safetensors", "sub/shard.safetensors", "..", ".", ""])
def test_an_index_that_points_out_of_its_folder_is_refused(sharded: Path, place: str) -> None:
    save_file({"a": torch.ones(1)}, sharded.parent / "outside.safetensors")
    edit_index(sharded, lambda weight_map: weight_map.update({EMBEDDING: place}))
    refused(sharded, re.escape(f"{INDEX} points out of its folder: {place!r}. Shards lie beside the index."))


def test_a_tensor_in_two_shards_is_refused(sharded: Path) -> None:
    first, second = (sharded / f"model-0000{i}-of-00003.safetensors" for i in (1, 2))
    name = next(iter(load_file(first)))
    save_file({**load_file(second), name: load_file(first)[name]}, second)
    refused(
        sharded,
        f"^Tensor {re.escape(repr(name))} is in two shards, 'model-00001-of-00003.safetensors' and 'model-00002-of-00003.safetensors'",
    )


def test_an_index_with_a_tensor_that_no_shard_has_is_refused(sharded: Path) -> None:
    edit_index(sharded, lambda weight_map: weight_map.update({"lm.ghost": "model-00001-of-00003.safetensors"}))
    refused(sharded, f"{INDEX} and the shards disagree on tensor 'lm.ghost'")


def test_an_index_that_swaps_shards_is_refused(sharded: Path) -> None:
    edit_index(sharded, lambda weight_map: weight_map.update({EMBEDDING: "model-00003-of-00003.safetensors"}))
    refused(sharded, f"{INDEX} and the shards disagree on tensor '{EMBEDDING}'")


def test_a_shard_with_a_tensor_that_the_index_lacks_is_refused(sharded: Path) -> None:
    edit_index(sharded, lambda weight_map: weight_map.pop(EMBEDDING))
    refused(sharded, f"{INDEX} and the shards disagree on tensor '{EMBEDDING}'")


@pytest.mark.parametrize("text", ["{}", '{"weight_map": []}', '{"weight_map": {}}', '{"weight_map": {"a": 1}}'])
def test_an_index_without_a_weight_map_is_refused(sharded: Path, text: str) -> None:
    (sharded / INDEX).write_text(text)
    refused(sharded, f"^{INDEX} needs a 'weight_map' from tensor names to file names\\.$")


def test_a_name_too_long_for_the_file_system_is_refused(sharded: Path) -> None:
    edit_index(sharded, lambda weight_map: weight_map.update({EMBEDDING: "a" * 5_000}))
    refused(sharded, "aaaa")


def test_links_inside_the_folder_are_followed(folder: Path, tmp_path: Path) -> None:
    """The hub's cache is made of them."""
    other = tmp_path / "linked"
    other.mkdir()
    for name in ("config.json", SINGLE):
        (other / name).symlink_to(folder / name)
    assert load(other, n_units=N_UNITS).model.cfg.n_layers == RAW["num_hidden_layers"]


# -- config and what is in the folder ---------------------------------------------------------------------


@pytest.mark.parametrize("text", ["{", "", '{"a": 1e', '{"a": ' + "9" * 5_000 + "}", "[" * 100_000])
def test_a_config_that_is_no_json_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    refused(folder, r"^config\.json is not valid JSON \(")


@pytest.mark.parametrize(("text", "came"), [("[]", "list"), ("null", "NoneType"), ('"llama"', "str"), ("3", "int")])
def test_a_config_that_is_no_object_is_refused(folder: Path, text: str, came: str) -> None:
    (folder / "config.json").write_text(text)
    refused(folder, rf"^config\.json must hold a JSON object; it holds {came}\.$")


def test_a_missing_config_is_named(folder: Path) -> None:
    (folder / "config.json").unlink()
    refused(folder, r"^config\.json is missing from ")


@pytest.mark.parametrize("config", [{}, {"model_type": "llama"}, {"model_type": None}, {"model_type": ["llama"]}])
def test_a_checkpoint_of_no_known_family_is_refused(folder: Path, config: dict) -> None:
    (folder / "config.json").write_text(json.dumps(config))
    refused(folder, "^No family recognises this checkpoint", ConversionError)


@pytest.mark.parametrize(
    "change",
    [
        {"base_config": None},
        {"base_config": []},
        {"vocab_size": None},
        {"vocab_size": "22"},
        {"base_config": {}},
        {"base_config": {"model_type": 3}},
        {"vocab_size": True},
    ],
)
def test_a_wrapper_without_base_or_size_is_refused(folder: Path, change: dict) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    refused(folder, "base_config|vocab_size|Architecture '(3|None)' is not supported|ids; the embedding has", ConversionError)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, r"^config\.json is missing from ")


def test_a_folder_without_weights_says_so(folder: Path) -> None:
    (folder / SINGLE).unlink()
    refused(folder, f"^Wanted {SINGLE} or {INDEX} or pytorch_model.bin or pytorch_model.bin.index.json in .*\\. It has no weights\\.$")


# -- weights ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_named_and_a_switch_goes_on(folder: Path, value: float) -> None:
    """Attention hides them: TransformerLens zeroes NaN patterns, so logits may look healthy."""
    state = load_file(folder / SINGLE)
    state["lm.model.layers.1.self_attn.q_proj.weight"][3, 4] = value
    save_file(state, folder / SINGLE)
    refused(
        folder,
        r"^1 tensors hold NaN or infinite values: lm\.model\.layers\.1\.self_attn\.q_proj\.weight\. To load them all the same, pass allow_nan=True\.$",
    )
    with pytest.raises(CheckpointError, match="q_proj"):
        verify(folder, n_units=N_UNITS)
    assert not torch.isfinite(load(folder, n_units=N_UNITS, allow_nan=True).model.blocks[1].attn.W_Q).all()


def test_a_nan_in_the_middle_of_a_large_tensor_is_found_by_verify_and_may_be_missed_by_load(tmp_path: Path) -> None:
    """`load` samples tensors above 1 MB, first and last block included; `verify` reads every byte."""
    raw = {**RAW, "hidden_size": 256, "intermediate_size": 2_000, "num_hidden_layers": 1, "vocab_size": N_UNITS + 2}
    name = "model.layers.0.mlp.up_proj.weight"
    weights = random_weights(raw, scale=0.02)
    assert weights[name].nbytes > WHOLE_BELOW_BYTES
    weights[name].view(-1)[weights[name].numel() // 2 + 5_000] = torch.nan
    write_slamkit(tmp_path, raw, weights=weights)
    with pytest.raises(CheckpointError, match=re.escape(f"lm.{name}")):
        verify(tmp_path, n_units=N_UNITS)
    assert load(tmp_path, n_units=N_UNITS).model.blocks[0].mlp.W_in.isnan().sum() == 1
    weights[name].view(-1)[-1] = torch.nan
    write_slamkit(tmp_path / "last", raw, weights=weights)
    with pytest.raises(CheckpointError, match=re.escape(f"lm.{name}")):
        load(tmp_path / "last", n_units=N_UNITS)


def test_samples_reach_the_first_and_the_last_number_of_a_very_large_tensor() -> None:
    """Past 2**24 numbers a float32 grid would miss the end."""
    flat = torch.zeros(1).expand(2**28 + 7)
    blocks = sampled_blocks(flat, 64, 4096)
    assert blocks[0].storage_offset() == 0 and all(len(block) == 4096 // 4 for block in blocks)
    last = torch.arange(2**25 + 13, dtype=torch.int32)
    assert sampled_blocks(last, 64, 4096)[-1][-1].item() == 2**25 + 12


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64, torch.bool, torch.float8_e4m3fn])
def test_quantised_weights_are_refused(folder: Path, dtype: torch.dtype) -> None:
    state = load_file(folder / SINGLE)
    name = "lm.model.layers.0.mlp.up_proj.weight"
    state[name] = state[name].to(dtype)
    save_file(state, folder / SINGLE)
    refused(folder, rf"^Tensor '{re.escape(name)}' is stored as \w+; floating point was wanted .*Quantised weights cannot be read\.$")
    assert name in str(load_error(folder))


def load_error(folder: Path) -> SlmInterpError:
    """What `verify` says about a folder that `load` refuses."""
    with pytest.raises(SlmInterpError) as caught:
        verify(folder, n_units=N_UNITS)
    return caught.value


def test_mixed_dtypes_ask_for_a_choice(folder: Path) -> None:
    state = load_file(folder / SINGLE)
    state["lm.model.norm.weight"] = state["lm.model.norm.weight"].bfloat16()
    save_file(state, folder / SINGLE)
    refused(folder, r"^The checkpoint mixes torch\.bfloat16, torch\.float32; choose one with dtype=\.$", ConversionError)
    assert {parameter.dtype for parameter in load(folder, n_units=N_UNITS, dtype=torch.float32).model.parameters()} == {torch.float32}


@pytest.mark.parametrize("shape", [(), (22,), (22, 24, 1)])
def test_an_embedding_that_is_no_matrix_is_refused(folder: Path, shape: tuple[int, ...]) -> None:
    state = load_file(folder / SINGLE)
    save_file({**state, EMBEDDING: torch.ones(shape)}, folder / SINGLE)
    refused(folder, f"^The embedding '{EMBEDDING}' must be a matrix; it has shape ")


def test_a_missing_embedding_is_named(folder: Path) -> None:
    state = load_file(folder / SINGLE)
    del state[EMBEDDING]
    save_file(state, folder / SINGLE)
    refused(folder, f"^The checkpoint has no embedding '{EMBEDDING}'\\.$")
