"""What is fuzzed: functions of bytes that end well or with an error of this package, and let everything else through."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load_file

from slm_interp.convert import inspect, load
from slm_interp.convert.declaration import Declaration, Form, UnitRange, parse_declaration
from slm_interp.convert.families import FOLDER
from slm_interp.convert.text_tokenizer import _added_tokens, _ranks
from slm_interp.errors import SlmInterpError
from slm_interp.speech.slamkit_files import parse_unit_string
from slm_interp.strings import pieces
from slm_interp.vocabulary import IdRange, JointVocabulary, tiled
from tests.replicas import N_UNITS, VARIANTS, write_slamkit

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
FAMILY = Declaration("mine", (UnitRange("<{}>", 16, start=0),), (Form("bare"),))


def declaration(data: bytes) -> None:
    """A declaration; the first byte says whether it is TOML or YAML."""
    with contextlib.suppress(SlmInterpError):
        parse_declaration(data[1:].decode("utf-8", "replace"), "a.yaml" if data[:1] < b"\x80" else "a.toml")


def unit_string(data: bytes) -> None:
    """A string of units, by slamkit's grammar and by those of several vocabularies."""
    string = data.decode("utf-8", "surrogatepass") if _is_text(data) else data.decode("latin-1")
    with contextlib.suppress(SlmInterpError):
        assert str(parse_unit_string(string)) == string
    for vocabulary in vocabularies():
        with contextlib.suppress(SlmInterpError):
            found = pieces(vocabulary, string)
            assert "".join(one if isinstance(one, str) else str(vocabulary.spelled(one)) for one in found) == string


def _is_text(data: bytes) -> bool:
    with contextlib.suppress(UnicodeDecodeError):
        data.decode("utf-8", "surrogatepass")
        return True
    return False


@lru_cache
def vocabularies() -> tuple[JointVocabulary, ...]:
    """With a number, with four digits, with characters, and with markers that begin alike."""
    return (
        tiled([IdRange("speech", 5, 506, 1, 0, "[Hu{}]"), IdRange("speech", 506, 570, 1, 1, "[Pi{}]")], 600),
        tiled([IdRange("speech", 1, 514, 1, 0, "<|sound_{:04d}|>"), IdRange("marker", 0, 1, template="<|sound_start|>")], 520),
        tiled([IdRange("speech", 0, 2048, 1, 0, "{:c}", 0xE000)], 2048),
        tiled(
            [IdRange("marker", place, place + 1, template="<" + "a" * place) for place in range(4)]
            + [IdRange("speech", 4, 20, 1, 0, "{}u")],
            20,
        ),
    )


def folder_files(data: bytes) -> None:
    """Config and index of a folder: the first byte says which index, up to a zero byte come changes to the config, then the index."""
    folder = spoiled()
    changes, _, index = data[1:].partition(b"\0")
    with contextlib.suppress(ValueError, RecursionError):
        given, config = json.loads(changes), json.loads((folder / "kept.json").read_text())
        if isinstance(given, dict):
            config["base_config"].update(given)
        else:
            config["vocab_size"] = given
        (folder / "config.json").write_text(json.dumps(config))
    for name in INDEXES:
        (folder / name).unlink(missing_ok=True)
    if index:
        (folder / INDEXES[data[0] % 2]).write_bytes(index)
    for function in (inspect, load):
        for family in (None, FAMILY):
            with contextlib.suppress(SlmInterpError):
                function(folder, n_units=N_UNITS, family=family)


@lru_cache
def spoiled() -> Path:
    """A folder of one's own to spoil."""
    folder = write_slamkit(Path(tempfile.mkdtemp(prefix="slm-interp-fuzz-")), VARIANTS["llama"])
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "kept.json").write_bytes((folder / "config.json").read_bytes())
    return folder


def ranks(data: bytes) -> None:
    """Ranks of tiktoken and added tokens, a zero byte between them."""
    lines, _, added = data.partition(b"\0")
    file = spoiled() / "ranks"
    file.write_bytes(lines)
    with contextlib.suppress(SlmInterpError):
        _ranks(file)
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(added)
        with contextlib.suppress(SlmInterpError):
            _added_tokens({"added_tokens_decoder": value})


TARGETS: dict[str, Callable[[bytes], None]] = {
    "declaration": declaration,
    "unit_string": unit_string,
    "folder_files": folder_files,
    "ranks": ranks,
}


def seeds(target: str) -> list[bytes]:
    """Inputs to begin with."""
    return {
        "declaration": [b"\xff" + file.read_bytes() for file in sorted(FOLDER.glob("*.toml"))]
        + [b"\0name: a\nunits: [{template: '<{}>', count: 3, start: 0}]\nforms: [{name: a, opening: [b]}]\nrecognised: {keys: [a]}\n"],
        "unit_string": [
            b"<speech><Un3><Un49><text> word",
            b"[Hu3][Pi7]",
            b"<|sound_0003|><|sound_start|>",
            "\ue000\ue7ff".encode(),
            b"<aaa<a7u12u",
        ],
        "folder_files": [
            b'\x00{"rope_parameters": {"rope_type": "linear", "factor": 2.0}}\0{"weight_map": {"lm.lm_head.weight": "model.safetensors"}}',
            b'\x01{"num_hidden_layers": 2, "layer_types": []}\0{"weight_map": {"lm.lm_head.weight": "pytorch_model.bin"}}',
            b"\xff22",
        ],
        "ranks": [b'AA== 0\nAQ== 1\n\0{"300": {"content": "<a>"}}'],
    }[target]
