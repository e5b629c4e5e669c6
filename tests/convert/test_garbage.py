"""Whatever bytes lie in a folder, nothing but an error of this package comes out."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slm_interp.convert import inspect, load
from slm_interp.errors import SlmInterpError
from tests.replicas import N_UNITS, VARIANTS, write_slamkit

RAW = VARIANTS["llama"]
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_slamkit(tmp_path, RAW)


HARSH = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 40) | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def only_our_errors(folder: Path) -> None:
    """Whatever is in the folder, `inspect` and `load` end well or with an error of this package."""
    for function in (inspect, load):
        with contextlib.suppress(SlmInterpError):
            function(folder, n_units=N_UNITS)


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
@given(
    value=st.binary(max_size=100) | JSON | st.dictionaries(st.just("weight_map"), st.dictionaries(st.text(max_size=8), JSON, max_size=3))
)
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
