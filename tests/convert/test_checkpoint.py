"""Damaged, incomplete, unsafe or mismatched checkpoint folders: one clear error each, and nothing from the network."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from slm_interp.convert import inspect, load, verify
from slm_interp.convert.checkpoint import WHOLE_BELOW_BYTES, Checkpoint, sampled_blocks
from slm_interp.errors import CheckpointError, ConversionError, SlmInterpError
from tests.replicas import N_UNITS, VARIANTS, random_weights, text_tokenizer, write_slamkit

RAW = VARIANTS["llama"]
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
EMBEDDING = "lm.model.embed_tokens.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_slamkit(tmp_path / "single", RAW)


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return write_slamkit(tmp_path / "sharded", RAW, shards=3)


def refused(folder: Path | str, sentence: str, error: type[SlmInterpError] = CheckpointError, **options: object) -> None:
    with pytest.raises(error, match=sentence):
        load(folder, **{"n_units": N_UNITS, **options})


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


@pytest.mark.parametrize("junk", [b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", b"\x80\x02}q\x00.", struct.pack("<Q", 2**60) + b"{}"])
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


@pytest.mark.parametrize("place", ["../outside.safetensors", "/tmp/outside.safetensors", "sub/shard.safetensors", "..", ".", ""])
def test_an_index_that_points_out_of_its_folder_is_refused(sharded: Path, place: str) -> None:
    save_file({"a": torch.ones(1)}, sharded.parent / "outside.safetensors")
    edit_index(sharded, lambda weight_map: weight_map.update({EMBEDDING: place}))
    refused(sharded, re.escape(f"{INDEX} points out of its folder: {place!r}. Shards lie beside the index."))


def test_a_tensor_in_two_shards_is_refused(sharded: Path) -> None:
    first, second = (sharded / f"model-0000{i}-of-00003.safetensors" for i in (1, 2))
    name = next(iter(load_file(first)))
    save_file({**load_file(second), name: load_file(first)[name]}, second)
    refused(sharded, f"^Tensor {re.escape(repr(name))} is in two shards, 'model-00001-of-00003.safetensors' and 'model-00002-of-00003.safetensors'")


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
    [{"base_config": None}, {"base_config": []}, {"vocab_size": None}, {"vocab_size": "22"}, {"base_config": {}}, {"base_config": {"model_type": 3}}, {"vocab_size": True}],
)
def test_a_wrapper_without_base_or_size_is_refused(folder: Path, change: dict) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    refused(folder, "base_config|vocab_size|model_type|ids; the embedding has", ConversionError)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, r"^config\.json is missing from ")


def test_a_folder_without_weights_says_so(folder: Path) -> None:
    (folder / SINGLE).unlink()
    refused(folder, f"^Wanted {SINGLE} or {INDEX} in .*\\. It has no weights\\.$")


def test_pickled_weights_are_not_read_and_the_way_out_is_named(folder: Path) -> None:
    (folder / SINGLE).unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02}q\x00.")
    refused(folder, r"It has \['pytorch_model\.bin'\]: save the model again with save_pretrained\(\.\.\., safe_serialization=True\)\.$")


# -- weights ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_named_and_a_switch_goes_on(folder: Path, value: float) -> None:
    """Attention hides them: TransformerLens zeroes NaN patterns, so logits may look healthy."""
    state = load_file(folder / SINGLE)
    state["lm.model.layers.1.self_attn.q_proj.weight"][3, 4] = value
    save_file(state, folder / SINGLE)
    refused(folder, r"^1 tensors hold NaN or infinite values: lm\.model\.layers\.1\.self_attn\.q_proj\.weight\. To load them all the same, pass allow_nan=True\.$")
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


# -- tokenizer and units ----------------------------------------------------------------------------------


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    write_slamkit(tmp_path, RAW, vocab_size=11 + N_UNITS + 2)
    refused(
        tmp_path,
        r"^The embedding has 33 rows; this tokenizer's 4 ids, 20 units and 2 markers make 26\. Is it another model's tokenizer, or another number of units",
        ConversionError,
        text_tokenizer=text_tokenizer(["a", "b", "c"]),
    )


def test_an_interleaved_checkpoint_without_its_tokenizer_says_what_to_pass(tmp_path: Path) -> None:
    write_slamkit(tmp_path, RAW, vocab_size=11 + N_UNITS + 2)
    refused(tmp_path, r"The embedding has 33 rows; a speech-only vocabulary of 20 units has 22\. If the checkpoint is interleaved, pass text_tokenizer=", ConversionError)


@pytest.mark.parametrize("n_units", [19, 21, 500, None])
def test_another_number_of_units_is_refused(folder: Path, n_units: int | None) -> None:
    refused(folder, "The embedding has 22 rows; a speech-only vocabulary of", ConversionError, n_units=n_units)


def test_a_tokenizer_that_is_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    write_slamkit(tmp_path / "model", RAW, vocab_size=11 + N_UNITS + 2)
    refused(tmp_path / "model", "^No tokenizer could be loaded from ", ConversionError, text_tokenizer=str(tmp_path / "nothing"))


# -- names ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["no-such-folder", "a/b/c", "./missing", "/missing", "../missing", "owner/name/", "", "owner/na me"])
def test_a_name_that_is_neither_folder_nor_organism_nor_hub_id_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError):
        load(name if name else "''")


def test_a_hub_id_that_cannot_be_had_says_so_without_a_network() -> None:
    refused("nobody-at-all/no-such-model", r"^'nobody-at-all/no-such-model' is no local folder, and the hub did not give it: ")


def test_a_file_is_no_folder(folder: Path) -> None:
    refused(folder / SINGLE, "is no folder, no packaged organism")
    with pytest.raises(CheckpointError, match="^Wanted a checkpoint folder; "):
        Checkpoint(folder / SINGLE)


def test_a_hub_id_is_fetched_by_name_and_only_the_files_that_are_read(sharded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, list[str]]] = []

    def snapshot_download(name: str, *, allow_patterns: list[str], **options: object) -> str:
        asked.append((name, allow_patterns))
        return str(sharded)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert load("slprl/some-model", n_units=N_UNITS).model.cfg.n_layers == RAW["num_hidden_layers"]
    ((name, patterns),) = asked
    assert name == "slprl/some-model"
    assert "*.safetensors" in patterns and not any(pattern.endswith((".bin", ".py", ".pt", "*")) for pattern in patterns)


# -- nothing but our errors -------------------------------------------------------------------------------


HARSH = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 40) | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def only_our_errors(folder: Path) -> None:
    """Whatever is in the folder, `inspect` and `load` end well or with an error of this package."""
    for function in (inspect, load):
        try:
            function(folder, n_units=N_UNITS)
        except SlmInterpError as error:
            assert str(error)


@HARSH
@given(data=st.binary(max_size=200), file=st.sampled_from(["config.json", SINGLE]))
def test_garbage_bytes_end_in_an_error_of_ours(folder: Path, data: bytes, file: str) -> None:
    kept = (folder / file).read_bytes()
    try:
        (folder / file).write_bytes(data)
        only_our_errors(folder)
    finally:
        (folder / file).write_bytes(kept)


@HARSH
@given(value=st.binary(max_size=100) | JSON | st.dictionaries(st.just("weight_map"), st.dictionaries(st.text(max_size=8), JSON, max_size=3)))
def test_garbage_indexes_end_in_an_error_of_ours(folder: Path, value: object) -> None:
    (folder / INDEX).write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
    try:
        only_our_errors(folder)
    finally:
        (folder / INDEX).unlink()


@HARSH
@given(position=st.integers(0, 3_000), byte=st.integers(0, 255))
def test_one_wrong_byte_in_a_shard_ends_in_an_error_of_ours_or_loads(folder: Path, position: int, byte: int) -> None:
    kept = (folder / SINGLE).read_bytes()
    damaged = bytearray(kept)
    damaged[position] = byte
    try:
        (folder / SINGLE).write_bytes(bytes(damaged))
        only_our_errors(folder)
    finally:
        (folder / SINGLE).write_bytes(kept)


@HARSH
@given(
    key=st.sampled_from([*RAW, "vocab_size", "head_dim", "hidden_act", "attention_bias", "mlp_bias", "something_new"]),
    value=JSON,
)
def test_any_value_of_any_config_key_ends_in_an_error_of_ours_or_loads(folder: Path, key: str, value: object) -> None:
    kept = (folder / "config.json").read_text()
    config = json.loads(kept)
    config["base_config"][key] = value
    try:
        (folder / "config.json").write_text(json.dumps(config))
        only_our_errors(folder)
    finally:
        (folder / "config.json").write_text(kept)
