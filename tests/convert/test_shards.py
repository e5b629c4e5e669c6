"""`pytorch_model.bin`: the same numbers as from safetensors, mapped and never copied; nothing in it runs, and what is not plain is refused."""

from __future__ import annotations

import json
import os
import pathlib
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from slm_interp import hooked
from slm_interp.convert import inspect, load, verify
from slm_interp.convert.checkpoint import Checkpoint
from slm_interp.convert.declaration import Declaration, Form, Recognised, UnitRange
from slm_interp.convert.shards import TorchFile
from slm_interp.errors import CheckpointError, ConversionError
from slm_interp.model import SpeechTextModel
from tests.convert.reference import hooked_transformer, random_tokens
from tests.convert.refusal import refused
from tests.family_replicas import GLM_RAW, chatglm
from tests.replicas import N_UNITS, VARIANTS, random_weights, write_slamkit

SINGLE, BINARY, INDEX = "model.safetensors", "pytorch_model.bin", "pytorch_model.bin.index.json"
UP = "lm.model.layers.0.mlp.up_proj.weight"
TOKENS = random_tokens(12, N_UNITS + 2)


def logits(slm: SpeechTextModel) -> Tensor:
    return hooked_transformer(slm.model, TOKENS).logits


def as_binary(folder: Path, change: Callable[[dict[str, Tensor]], Any] = lambda state: state, **options: Any) -> Path:
    """The folder with its weights in `pytorch_model.bin`."""
    torch.save(change(load_file(folder / SINGLE)), folder / BINARY, **options)
    (folder / SINGLE).unlink()
    return folder


def as_sharded_binary(folder: Path, shards: int = 3) -> Path:
    """The folder with its weights in several files and an index."""
    state = load_file(folder / SINGLE)
    weight_map = {name: f"pytorch_model-{i % shards + 1:05d}-of-{shards:05d}.bin" for i, name in enumerate(sorted(state))}
    for shard in set(weight_map.values()):
        torch.save({name: state[name] for name in state if weight_map[name] == shard}, folder / shard)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / SINGLE).unlink()
    return folder


def rewritten(file: Path, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> None:
    """The archive again, record by record."""
    with zipfile.ZipFile(file) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in records.items():
            archive.writestr(name, change(name, data))


# -- the same numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["llama", "llama-mha-tied", "opt"])
@pytest.mark.parametrize("spread", [as_binary, as_sharded_binary])
def test_the_model_is_the_one_of_the_safetensors_folder(variant: str, spread: Callable[[Path], Path], tmp_path: Path) -> None:
    folder = write_slamkit(tmp_path, VARIANTS[variant])
    wanted = logits(load(folder, n_units=N_UNITS))
    assert torch.equal(logits(load(spread(folder), n_units=N_UNITS)), wanted)


def test_verify_and_inspect_read_it_too(folder: Path) -> None:
    as_sharded_binary(folder)
    assert verify(folder, n_units=N_UNITS, length=8).check().passed
    assert inspect(folder, n_units=N_UNITS).facts["size"].endswith("in 3 file(s)")


def test_safetensors_are_preferred_where_both_lie(folder: Path) -> None:
    wanted = logits(load(folder, n_units=N_UNITS))
    torch.save({UP: torch.zeros(3)}, folder / BINARY)
    (folder / INDEX).write_text("damaged")
    assert torch.equal(logits(load(folder, n_units=N_UNITS)), wanted)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_are_kept(dtype: torch.dtype, tmp_path: Path) -> None:
    folder = as_binary(write_slamkit(tmp_path, VARIANTS["llama"], dtype=dtype))
    assert {parameter.dtype for parameter in load(folder, n_units=N_UNITS).model.parameters()} == {dtype}
    assert inspect(folder, n_units=N_UNITS).facts["stored as"] == str(dtype)


def test_a_tensor_that_is_not_contiguous_is_read_right(folder: Path) -> None:
    wanted = logits(load(folder, n_units=N_UNITS))
    as_binary(folder, lambda state: {name: one.T.contiguous().T if one.ndim == 2 else one for name, one in state.items()})
    assert not Checkpoint(folder).tensor(UP).is_contiguous()
    assert torch.equal(logits(load(folder, n_units=N_UNITS)), wanted)


def test_views_of_one_storage_are_read_right(folder: Path) -> None:
    wanted = logits(load(folder, n_units=N_UNITS))

    def laid_together(state: dict[str, Tensor]) -> dict[str, Tensor]:
        row = torch.cat([one.flatten() for one in state.values()])
        parts = row.split([one.numel() for one in state.values()])
        return {name: part.view(one.shape) for (name, one), part in zip(state.items(), parts, strict=True)}

    as_binary(folder, laid_together)
    assert torch.equal(logits(load(folder, n_units=N_UNITS)), wanted)


def test_parameters_of_a_module_are_read_as_tensors(folder: Path) -> None:
    wanted = logits(load(folder, n_units=N_UNITS))
    as_binary(folder, lambda state: {name: torch.nn.Parameter(one) for name, one in state.items()})
    assert torch.equal(logits(load(folder, n_units=N_UNITS)), wanted)


def test_numbers_of_the_other_byte_order_are_turned(folder: Path) -> None:
    wanted = logits(load(folder, n_units=N_UNITS))
    as_binary(folder)

    def turned(name: str, data: bytes) -> bytes:
        if name.endswith("byteorder"):
            return b"big"
        return torch.frombuffer(bytearray(data), dtype=torch.uint8).view(-1, 4).flip(1).numpy().tobytes() if "/data/" in name else data

    rewritten(folder / BINARY, turned)
    assert torch.equal(logits(load(folder, n_units=N_UNITS)), wanted)


# -- memory -----------------------------------------------------------------------------------------------


def test_parameters_are_views_of_the_mapped_file(folder: Path) -> None:
    """The mapping of the file holds the address of every weight that is not zero by definition."""
    as_binary(folder)
    slm = load(folder, n_units=N_UNITS)
    lines = Path("/proc/self/maps").read_text().splitlines()
    ends = [line.split()[0].split("-") for line in lines if line.endswith(str((folder / BINARY).resolve()))]
    mapped = [range(int(start, 16), int(stop, 16)) for start, stop in ends]
    assert mapped, "the file is mapped"
    copied = [
        name
        for name, one in slm.model.named_parameters()
        if bool(one.count_nonzero()) and not any(one.data_ptr() in part for part in mapped)
    ]
    assert copied == []


@pytest.mark.parametrize("variant", ["llama", "llama-mha-tied"])
def test_what_is_written_into_a_parameter_never_reaches_the_file(variant: str, tmp_path: Path) -> None:
    folder = as_binary(write_slamkit(tmp_path, VARIANTS[variant]))
    before = (folder / BINARY).read_bytes()
    slm = load(folder, n_units=N_UNITS)
    wanted = logits(slm)
    with torch.no_grad():
        for parameter in slm.model.parameters():
            parameter.add_(1)
    assert (folder / BINARY).read_bytes() == before
    assert torch.equal(logits(load(folder, n_units=N_UNITS)), wanted)


def test_a_tied_matrix_is_read_twice_and_shares_no_memory(tmp_path: Path) -> None:
    slm = load(as_binary(write_slamkit(tmp_path, VARIANTS["llama-mha-tied"])), n_units=N_UNITS)
    embedding = slm.model.W_E.clone()
    with torch.no_grad():
        slm.model.unembed.W_U.zero_()
    assert torch.equal(slm.model.W_E, embedding)


def test_two_names_of_one_memory_become_two_parameters(folder: Path) -> None:
    """`torch.save` keeps them together: an untied checkpoint whose head was set to its embedding."""
    as_binary(folder, lambda state: {**state, "lm.lm_head.weight": state["lm.model.embed_tokens.weight"]})
    file = TorchFile(folder / BINARY)
    assert file.tensor("lm.lm_head.weight").data_ptr() == file.tensor("lm.model.embed_tokens.weight").data_ptr()
    slm = load(folder, n_units=N_UNITS)
    embedding = slm.model.W_E.clone()
    assert torch.equal(slm.model.W_U, embedding.T)
    with torch.no_grad():
        slm.model.unembed.W_U.zero_()
    assert torch.equal(slm.model.W_E, embedding)


# -- nothing in it runs -----------------------------------------------------------------------------------


class Running:
    """Runs when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._reduced = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._reduced


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "it ran"


def runners(marker: Path) -> dict[str, Running]:
    return {
        "posix.system": Running(os.system, f"touch '{marker}'"),
        "pathlib.Path.touch": Running(pathlib.Path.touch, marker),
        "builtins.exec": Running(exec, f"open({str(marker)!r}, 'w').close()"),
    }


@pytest.mark.parametrize("kind", ["posix.system", "pathlib.Path.touch", "builtins.exec"])
@pytest.mark.parametrize("place", ["whole", "beside tensors", "in place of a tensor", "as a name"])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(kind: str, place: str, folder: Path, marker: Path) -> None:
    planted = runners(marker)[kind]
    pickle.loads(pickle.dumps(planted))
    assert marker.exists(), "the plant works where somebody unpickles it"
    marker.unlink()
    as_binary(
        folder,
        lambda state: {
            "whole": planted,
            "beside tensors": {**state, "extra": planted},
            "in place of a tensor": {**state, UP: planted},
            "as a name": {**state, planted: state[UP]},
        }[place],
    )
    sentence = (
        r"^'pytorch_model\.bin' holds more than tensors, .*, and nothing else is unpickled\. Save the model again with save_pretrained\.$"
    )
    refused(folder, sentence)
    for function in (inspect, verify):
        with pytest.raises(CheckpointError, match=sentence):
            function(folder, n_units=N_UNITS)
    assert not marker.exists()


def test_a_bare_pickle_under_the_name_is_refused_and_does_not_run(folder: Path, marker: Path) -> None:
    (folder / SINGLE).unlink()
    (folder / BINARY).write_bytes(pickle.dumps(runners(marker)["posix.system"]))
    refused(folder, "is truncated, or older than torch 1.6")
    assert not marker.exists()


def test_the_refusal_names_what_is_held_and_not_how_to_run_it(folder: Path) -> None:
    as_binary(folder, lambda state: torch.nn.Linear(2, 2))
    with pytest.raises(CheckpointError, match="'torch.nn.modules.linear.Linear'") as caught:
        load(folder, n_units=N_UNITS)
    assert "weights_only" not in str(caught.value)


# -- what is no plain state -------------------------------------------------------------------------------


def test_a_file_from_before_torch_1_6_is_refused(folder: Path) -> None:
    as_binary(folder, _use_new_zipfile_serialization=False)
    refused(
        folder,
        r"^'pytorch_model\.bin' is truncated, or older than torch 1\.6 and cannot be memory-mapped\. Fetch it again, or save it again with torch\.save\.$",
    )


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, -1])
def test_a_truncated_archive_is_refused(keep: float, folder: Path) -> None:
    data = (as_binary(folder) / BINARY).read_bytes()
    (folder / BINARY).write_bytes(data[: int(len(data) * keep) if isinstance(keep, float) else keep])
    refused(folder, r"^'pytorch_model\.bin' is (truncated, or older|damaged)")


@pytest.mark.parametrize("junk", [b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", b"PK\x05\x06" + bytes(18)])
def test_bytes_that_are_no_archive_of_torch_are_refused(junk: bytes, folder: Path) -> None:
    (folder / SINGLE).unlink()
    (folder / BINARY).write_bytes(junk)
    refused(folder, r"^'pytorch_model\.bin' is (truncated, or older|damaged)")


def test_a_folder_in_place_of_the_file_is_refused(folder: Path) -> None:
    (folder / SINGLE).unlink()
    (folder / BINARY).mkdir()
    refused(folder, "is truncated, or older than torch 1.6")


def test_a_record_cut_short_is_refused_and_its_neighbour_not_read_in_its_place(folder: Path) -> None:
    """Mapped memory goes on after the record: what comes there would pass for weights."""
    as_binary(folder)
    rewritten(folder / BINARY, lambda name, data: data[:8] if name.endswith("/data/1") else data)
    refused(folder, r"^'pytorch_model\.bin' is damaged: its tensors and the records they lie in have different sizes\. Fetch it again\.$")


def test_a_packed_archive_is_refused(folder: Path) -> None:
    as_binary(folder)
    rewritten(folder / BINARY, lambda name, data: data, zipfile.ZIP_DEFLATED)
    refused(folder, r"^'pytorch_model\.bin' is a packed archive and cannot be memory-mapped\. Save it again with torch\.save\.$")


def test_an_archive_without_its_pickle_is_refused(folder: Path) -> None:
    as_binary(folder)
    with zipfile.ZipFile(folder / BINARY) as archive:
        records = {name: archive.read(name) for name in archive.namelist() if not name.endswith("data.pkl")}
    with zipfile.ZipFile(folder / BINARY, "w") as archive:
        for name, data in records.items():
            archive.writestr(name, data)
    refused(folder, r"^'pytorch_model\.bin' is damaged ")


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_program_is_refused(folder: Path) -> None:
    (folder / SINGLE).unlink()
    torch.jit.script(torch.nn.Linear(2, 2)).save(folder / BINARY)
    refused(folder, r"^'pytorch_model\.bin' is a program \(TorchScript\); tensors by name were wanted\.")


@pytest.mark.parametrize(
    ("change", "came"),
    [
        (lambda state: list(state.values()), "list"),
        (lambda state: state[UP], "Tensor"),
        (lambda state: None, "NoneType"),
        (lambda state: {"model": state}, "dict"),
        (lambda state: {**state, "epoch": 3}, "dict"),
        (lambda state: {**state, 3: state[UP]}, "dict"),
    ],
)
def test_what_is_no_table_of_tensors_is_refused(change: Callable[[dict[str, Tensor]], Any], came: str, folder: Path) -> None:
    as_binary(folder, change)
    refused(folder, rf"^'pytorch_model\.bin' must hold tensors by name; it holds {came}\.$")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "change",
    [
        lambda one: one.to_sparse(),
        lambda one: one.to_sparse_csr(),
        lambda one: torch.quantize_per_tensor(one, 0.1, 0, torch.qint8),
        lambda one: one.to("meta"),
        lambda one: torch.nested.nested_tensor([one, one]),
    ],
    ids=["sparse", "sparse rows", "quantised", "meta", "nested"],
)
def test_tensors_that_are_not_plain_are_refused(change: Callable[[Tensor], Tensor], folder: Path) -> None:
    as_binary(folder, lambda state: {**state, UP: change(state[UP])})
    refused(folder, r"^'pytorch_model\.bin' holds sparse, nested, quantised or empty tensors; plain ones were wanted\.$")


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.float8_e4m3fn, torch.complex64])
def test_tensors_that_are_no_floating_point_are_refused(dtype: torch.dtype, folder: Path) -> None:
    as_binary(folder, lambda state: {**state, UP: state[UP].to(dtype)})
    refused(folder, rf"^Tensor '{re.escape(UP)}' is stored as {dtype}; floating point was wanted .*Quantised weights cannot be read\.$")


def test_a_file_without_tensors_is_refused(folder: Path) -> None:
    as_binary(folder, lambda state: {})
    with pytest.raises(ConversionError, match="3 layers; the files hold 0 tensors"):
        load(folder, n_units=N_UNITS)


def test_weights_that_are_no_numbers_are_named(folder: Path) -> None:
    as_binary(folder, lambda state: {**state, UP: state[UP].index_fill(0, torch.tensor([3]), torch.nan)})
    refused(folder, f"^1 tensors hold NaN or infinite values: {re.escape(UP)}")


# -- the index --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["../outside.bin", "/outside.bin", "sub/shard.bin", "..", ".", "", "a\0b.bin"])
def test_an_index_that_points_out_of_its_folder_is_refused(place: str, folder: Path, marker: Path) -> None:
    as_sharded_binary(folder)
    torch.save({UP: runners(marker)["posix.system"]}, folder.parent / "outside.bin")
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"][UP] = place
    (folder / INDEX).write_text(json.dumps(index))
    refused(folder, re.escape(f"{INDEX} points out of its folder: {place!r}. Shards lie beside the index."))
    assert not marker.exists()


def test_a_missing_shard_is_named(folder: Path) -> None:
    as_sharded_binary(folder)
    (folder / "pytorch_model-00002-of-00003.bin").unlink()
    refused(folder, r"^Shard 'pytorch_model-00002-of-00003\.bin' is missing from ")


def test_an_index_and_shards_that_disagree_are_refused(folder: Path) -> None:
    as_sharded_binary(folder)
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["lm.ghost"] = "pytorch_model-00001-of-00003.bin"
    (folder / INDEX).write_text(json.dumps(index))
    refused(folder, f"{re.escape(INDEX)} and the shards disagree on tensor 'lm.ghost'")


def test_a_shard_of_the_other_kind_is_refused(folder: Path) -> None:
    kept = (folder / SINGLE).read_bytes()
    as_sharded_binary(folder)
    (folder / "pytorch_model-00001-of-00003.bin").write_bytes(kept)
    refused(folder, r"^'pytorch_model-00001-of-00003\.bin' is truncated, or older than torch 1\.6")


def test_a_folder_of_an_adapter_says_what_to_do(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")
    refused(folder, r"holds an adapter \(LoRA\) and no model\. Merge it into its base model \(peft: merge_and_unload\) and save that\.$")


def test_more_layers_than_tensors_are_refused_at_once(folder: Path) -> None:
    """A thousand million layers would be laid out in memory before the first missing tensor is named."""
    config = json.loads((folder / "config.json").read_text())
    config["base_config"]["num_hidden_layers"] = 10**9
    (folder / "config.json").write_text(json.dumps(config))
    refused(folder, r"^config\.json says 1e\+09 layers; the files hold \d+ tensors\.$")


# -- fused matrices ---------------------------------------------------------------------------------------


def test_queries_keys_and_values_of_one_matrix_share_no_memory(tmp_path: Path) -> None:
    raw = {**GLM_RAW, "vocab_size": 20, "pad_token_id": None}
    config, state = chatglm(raw, random_weights(raw))
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.save(state, tmp_path / BINARY)
    family = Declaration("mine", (UnitRange("<{}>", 20, start=0),), (Form("bare"),), recognised=Recognised(("chatglm",)))
    slm = load(tmp_path, family=family)
    held = hooked.parameters(slm.model)
    keys, values = (held[f"blocks.0.attn._W_{letter}"].clone() for letter in "KV")
    with torch.no_grad():
        held["blocks.0.attn.W_Q"].zero_()
        held["blocks.0.mlp.W_gate"].zero_()
    again = hooked.parameters(slm.model)
    assert not again["blocks.0.attn.W_Q"].any()
    assert torch.equal(again["blocks.0.attn._W_K"], keys) and torch.equal(again["blocks.0.attn._W_V"], values)
    assert bool(again["blocks.0.mlp.W_in"].count_nonzero())
