"""Malformed declarations, unit strings, indexes, configs, tokenizers and pickles: an error of ours or none, soon, and nothing outside the folder."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from slm_interp.convert import inspect, load
from slm_interp.convert.declaration import Declaration, Form, Recognised, UnitRange, parse_declaration
from slm_interp.convert.families import FOLDER
from slm_interp.convert.text_tokenizer import LONGEST_TOKEN, text_tokenizer_of
from slm_interp.errors import CheckpointError, ConversionError, SlmInterpError, SpeechError, VocabularyError
from slm_interp.speech.slamkit_files import parse_unit_string
from slm_interp.strings import pieces, spelled
from slm_interp.vocabulary import IdRange, JointVocabulary, tiled
from tests.convert.test_garbage import JSON
from tests.family_replicas import GLM_RAW, chatglm, llama2, sentencepiece_model, tiktoken_model
from tests.replicas import N_UNITS, VARIANTS, random_weights, write_slamkit

SINGLE, BINARY = "model.safetensors", "pytorch_model.bin"


def examples(count: int) -> settings:
    return settings(max_examples=count, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


# -- nothing outside the folder ---------------------------------------------------------------------------

HOME = tuple(
    os.path.realpath(place)
    for place in (*sysconfig.get_paths().values(), sys.base_prefix, sys.prefix, Path(__file__).parents[2] / "slm_interp", "/proc", "/dev")
)
CHANGING = ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.truncate", "shutil.rmtree")
STARTING = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect", "socket.getaddrinfo")
watched: list[tuple[str, list[str]]] = []  # the folder that may be touched, and what else was


def look(event: str, arguments: tuple[Any, ...]) -> None:
    """Note what is opened, changed or started; a hook of this kind stays for good, and looks only while somebody watches."""
    if not watched or not (event == "open" or event in CHANGING or event in STARTING):
        return
    folder, seen = watched[-1]
    if event in STARTING:
        seen.append(f"{event} {arguments}")
    elif isinstance(arguments[0], str | bytes | os.PathLike):
        path = os.path.realpath(os.fsdecode(arguments[0]))
        writes = event in CHANGING or any(letter in str(arguments[1] or "") for letter in "wax+")
        if not path.startswith(folder if writes else (folder, *HOME)):
            seen.append(f"{event} {path}")


sys.addaudithook(look)


@contextlib.contextmanager
def only_inside(folder: Path) -> Iterator[None]:
    """Whatever happens, nothing but this folder is read or written, and nothing is started."""
    seen: list[str] = []
    watched.append((os.path.realpath(folder), seen))
    try:
        with contextlib.suppress(SlmInterpError):
            yield
    finally:
        watched.pop()
    assert seen == []


def test_the_watch_sees_what_leaves_the_folder(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.write_text("x")
    with only_inside(inside):
        (inside / "a").write_text("x")
    for act in (outside.read_text, outside.unlink, lambda: (inside / ".." / "b").write_text("x"), lambda: os.system("true")):
        with pytest.raises(AssertionError, match="outside|/b|os.system"), only_inside(inside):
            act()


# -- declarations -----------------------------------------------------------------------------------------

KEYS = st.sampled_from(
    "name licence source recognised units forms markers closers repeated alternation also other ids text template count codebook first start step "
    "merged rate_hz opening closing marked closed between note model_types tokens without keys".split()
)
ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 2**70)
    | st.floats()
    | st.sampled_from(["<{}>", "{}", "{:c}", "speech", "<s>"])
    | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
SOURCES = [file.read_text() for file in sorted(FOLDER.glob("*.toml"))]


def declared(text: str, name: str) -> None:
    with contextlib.suppress(ConversionError):
        parse_declaration(text, name)


@examples(250)
@given(text=st.text(max_size=120) | st.text("[]{}=\"'\n .,:-&*!|>#?<1aé", max_size=120), name=st.sampled_from(["a.toml", "a.yaml"]))
def test_any_text_as_a_declaration(text: str, name: str) -> None:
    declared(text, name)


@examples(100)
@given(values=st.dictionaries(KEYS, ANY, max_size=6))
def test_any_values_as_a_declaration(values: dict[str, Any]) -> None:
    for units in ({}, {"name": "a", "units": [{"template": "<{}>", "count": 2}], "forms": [{"name": "a"}]}):
        declared(yaml.safe_dump({**units, **values}, allow_unicode=True), "a.yaml")


@examples(150)
@given(source=st.sampled_from(SOURCES), place=st.floats(0, 1), piece=st.text("[]{}=\"'\n .,019ab", max_size=3), cut=st.integers(0, 5))
def test_a_shipped_declaration_with_a_wrong_piece(source: str, place: float, piece: str, cut: int) -> None:
    at = int(place * len(source))
    declared(source[:at] + piece + source[at + cut :], "a.toml")


# -- unit strings -----------------------------------------------------------------------------------------


def units(template: str, start: int, count: int, book: int = 0, step: int = 1, first: int = 0) -> IdRange:
    return IdRange("speech", start, start + step * (count - 1) + 1, step, book, template, first)


def marker(token: str, start: int) -> IdRange:
    return IdRange("marker", start, start + 1, template=token)


VOCABULARIES: dict[str, JointVocabulary] = {
    "one codebook": tiled([IdRange("text", 0, 20), marker("[Text]", 20), marker("[Speech]", 21), units("[Hu{}]", 22, 501)], 530),
    "three codebooks": tiled([units("[Hu{}]", 3, 501), units("[Pi{}]", 504, 64, 1), units("[St{}]", 568, 100, 2)], 700),
    "in turns": tiled([units(f"<{{}}_{book}>", 5 + book, 300, book, step=4) for book in range(4)] + [marker("<audio>", 0)], 1300),
    "characters": tiled(
        [units("{:c}", 4 + 256 * book, 256, book, first=0xE000 + 256 * book) for book in range(8)] + [marker("<|a|>", 1)], 2100
    ),
    "four digits": tiled([units("<|sound_{:04d}|>", 2, 513), marker("<|sound_start|>", 0), marker("<|sound_end|>", 1)], 520),
    "numbered through": tiled(
        [units("<t_{}>", 30 + 64 * book, 64, book, first=10 + 64 * book) for book in range(7)] + [marker(f"<t_{i}>", i) for i in range(10)],
        500,
    ),
    "markers that begin alike": tiled(
        [marker("<a", 0), marker("<ab", 1), marker("<abc>", 2), units("<{}>", 3, 9), units("<{}", 12, 9, 1), units("<a{}", 21, 9, 2)], 30
    ),
    "numbers first": tiled([units("{}u", 0, 200), marker("m", 200)], 201),
    "a unit without a number": tiled([units("<unit>", 0, 1), marker("<m>", 1)], 3),
}
PARTS = st.sampled_from(
    "[Hu [Pi [St [Text] [Speech] < > | ] _ <a <ab <audio> <|sound_ |> <t_ 0 1 9 007 499 501 99999999999999999999 u m <unit>".split()
)
STRINGS = st.lists(PARTS | st.text(max_size=3) | st.sampled_from([chr(0xE000), chr(0xE7FF), chr(0xE800), "\ud800"]), max_size=12).map(
    "".join
)


@pytest.mark.parametrize("name", VOCABULARIES)
@examples(120)
@given(string=STRINGS)
def test_any_string_is_taken_apart_or_refused(name: str, string: str) -> None:
    vocabulary = VOCABULARIES[name]
    with contextlib.suppress(VocabularyError):
        found = pieces(vocabulary, string)
        assert "".join(one if isinstance(one, str) else str(vocabulary.spelled(one)) for one in found) == string


@pytest.mark.parametrize("name", VOCABULARIES)
@examples(80)
@given(data=st.data())
def test_declared_ids_come_back_from_their_spelling(name: str, data: st.DataObject) -> None:
    vocabulary = VOCABULARIES[name]
    spelling = [one for item in vocabulary.ranges if item.template is not None for one in item.ids]
    ids = data.draw(st.lists(st.sampled_from(spelling), max_size=20))
    assert pieces(vocabulary, spelled(vocabulary, torch.tensor(ids, dtype=torch.long))) == ids


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", VOCABULARIES)
@pytest.mark.parametrize("part", ["1", "[Hu", "[Hu1", "<", "<|sound_"])
def test_a_long_string_is_walked_through_once(name: str, part: str) -> None:
    with contextlib.suppress(VocabularyError):
        pieces(VOCABULARIES[name], part * 200_000)
    with contextlib.suppress(SpeechError):
        parse_unit_string(part * 200_000)


@examples(300)
@given(
    string=st.lists(
        st.sampled_from(["<Un", "<Un3>", "<Un0>", "<Un03>", "<speech>", "<text>", ">", "7", " word", "9" * 30]) | st.text(max_size=3),
        max_size=10,
    ).map("".join)
)
def test_a_unit_string_of_slamkit_comes_back_or_is_refused(string: str) -> None:
    with contextlib.suppress(SpeechError):
        assert str(parse_unit_string(string)) == string


def test_a_unit_of_thousands_of_digits_is_refused() -> None:
    with pytest.raises(SpeechError, match=r"^A unit's number has at most 9 digits; the one at character 5 has 5000\.$"):
        parse_unit_string("<Un3><Un" + "9" * 5_000 + ">")


@pytest.mark.parametrize("template", ["{", "}", "{}{}", "{0[a]}", "{.a}", "{!x}", "{:q}", "{a}"])
def test_a_template_that_spells_no_number_is_refused(template: str) -> None:
    with pytest.raises(VocabularyError, match=r"does not spell 5 numbers from 0|needs a place for the number"):
        IdRange("speech", 0, 5, codebook=0, template=template)


def test_characters_past_the_last_are_refused() -> None:
    with pytest.raises(VocabularyError, match=r"'\{:c\}' does not spell 5 numbers from 1114110: "):
        units("{:c}", 0, 5, first=0x10FFFE)


# -- indexes ----------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_slamkit(tmp_path / "inside", VARIANTS["llama"])


def loads_or_is_refused(folder: Path, **options: Any) -> None:
    for function in (inspect, load):
        with only_inside(folder):
            function(folder, **options)


PLACES = st.sampled_from(
    ["../a", "/etc/passwd", "..", "a/../b", "config.json", SINGLE, BINARY, "model.safetensors.index.json", "x" * 300, "a\0b", "\ud800"]
) | st.text(max_size=8)


@examples(80)
@given(
    kind=st.sampled_from([SINGLE, BINARY]),
    value=st.binary(max_size=60)
    | JSON
    | st.fixed_dictionaries({"weight_map": JSON | st.dictionaries(st.sampled_from(["lm.model.norm.weight", "a"]), PLACES, max_size=3)}),
)
def test_any_index_ends_in_an_error_of_ours_and_inside_the_folder(folder: Path, kind: str, value: object) -> None:
    if not (folder / BINARY).exists():
        torch.save(load_file(folder / SINGLE), folder / BINARY)
        (folder / SINGLE).rename(folder / "kept")
    for file in (SINGLE, BINARY):
        (folder / f"{file}.index.json").unlink(missing_ok=True)
    (folder / f"{kind}.index.json").write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
    loads_or_is_refused(folder, n_units=N_UNITS)


# -- configs ----------------------------------------------------------------------------------------------

MINE = Declaration("mine", (UnitRange("<{}>", 16, start=0),), (Form("bare"),), recognised=Recognised(("glm",)))
CONFIGS: dict[str, dict[str, Any]] = {name: {**VARIANTS[name], "vocab_size": 18} for name in ("opt", "gpt_neox", "qwen2-windows", "qwen3")}
CONFIGS["glm"] = {**GLM_RAW, "vocab_size": 18, "pad_token_id": None}
WILD = JSON | st.sampled_from(
    [10**9, 10**30, -1, float("inf"), float("nan"), [[]], {"rope_type": "yarn"}, {"rope_type": [], "factor": "x"}]
)


@pytest.fixture(scope="module")
def decoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each architecture, ChatGLM's own among them."""
    made = {}
    for name, raw in {**CONFIGS, "chatglm": CONFIGS["glm"]}.items():
        made[name] = tmp_path_factory.mktemp(name)
        config, weights = (chatglm if name == "chatglm" else lambda raw, weights: (raw, weights))(raw, random_weights(raw))
        (made[name] / "config.json").write_text(json.dumps(config))
        torch.save(dict(weights), made[name] / BINARY)
    return made


@pytest.mark.parametrize("name", [*CONFIGS, "chatglm"])
@examples(20)
@given(data=st.data(), value=WILD)
def test_any_value_of_any_key_of_any_architecture(name: str, data: st.DataObject, value: object, decoders: dict[str, Path]) -> None:
    kept = (decoders[name] / "config.json").read_text()
    config = json.loads(kept)
    key = data.draw(
        st.sampled_from([*config, "head_dim", "layer_types", "rope_theta", "rope_scaling", "hidden_act", "tie_word_embeddings"])
    )
    try:
        (decoders[name] / "config.json").write_text(json.dumps({**config, key: value}))
        loads_or_is_refused(decoders[name], family=MINE)
    finally:
        (decoders[name] / "config.json").write_text(kept)


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("chatglm", {"rope_ratio": "50"}, "has a value of another kind than a 'chatglm' has there"),
        ("chatglm", {"kv_channels": None}, "has a value of another kind than a 'chatglm' has there"),
        ("chatglm", {"auto_map": ["a.B"]}, "has a value of another kind than a 'chatglm' has there"),
        ("opt", {"num_attention_heads": 0}, "has a value of another kind than a 'opt' has there: integer division"),
        ("qwen2-windows", {"head_dim": float("nan")}, "has a value of another kind than a 'qwen2' has there: "),
        ("chatglm", {"ffn_hidden_size": 10**30}, "No HookedTransformer has the sizes of config.json"),
        ("chatglm", {"num_layers": 10**9}, r"config\.json says 1e\+09 layers; the files hold"),
        ("qwen2-windows", {"num_hidden_layers": 10**9}, r"config\.json says 1e\+09 layers; the files hold"),
    ],
)
def test_a_value_of_another_kind_is_refused(
    name: str, change: dict[str, Any], sentence: str, decoders: dict[str, Path], tmp_path: Path
) -> None:
    config = json.loads((decoders[name] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    (tmp_path / BINARY).symlink_to(decoders[name] / BINARY)
    with pytest.raises(ConversionError, match=sentence):
        load(tmp_path, family=MINE)


# -- tokenizers -------------------------------------------------------------------------------------------


def tokenizer_or_refused(folder: Path) -> None:
    with only_inside(folder):
        tokenizer = text_tokenizer_of(folder, None)
        if tokenizer is not None:
            assert isinstance(tokenizer("and they [Hu3]\n")["input_ids"], list)


@examples(80)
@given(data=st.binary(max_size=60), place=st.floats(0, 1), cut=st.integers(0, 60), whole=st.booleans())
def test_any_bytes_of_a_sentencepiece_model(data: bytes, place: float, cut: int, whole: bool, tmp_path: Path) -> None:
    llama2(["[Hu0]", "[Hu1]"], 380)(tmp_path)
    model = sentencepiece_model(380)
    at = int(place * len(model))
    (tmp_path / "tokenizer.model").write_bytes(data if whole else model[:at] + data + model[at + cut :])
    tokenizer_or_refused(tmp_path)


def test_what_is_no_sentencepiece_model_is_left_to_nobody_else(tmp_path: Path) -> None:
    """transformers would try tiktoken, which copies the file into a folder that all users share and reads it from there the next time."""
    llama2([], 380)(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"YQ== 0 1\n")
    with only_inside(tmp_path), pytest.raises(ConversionError, match="tokenizer.model is no sentencepiece model"):
        text_tokenizer_of(tmp_path, None)


TOKENIZER_KEYS = st.sampled_from(
    "tokenizer_class added_tokens_decoder bos_token unk_token add_bos_token model_max_length auto_map chat_template vocab_file tokenizer_file "
    "fast_tokenizer_files extra_special_tokens additional_special_tokens legacy sp_model_kwargs padding_side model_input_names vocab merges".split()
)


@examples(60)
@given(
    key=TOKENIZER_KEYS,
    value=JSON | st.sampled_from(["../outside", "/etc/passwd", ["../outside"], {"0": {"content": "x"}}, {"9" * 9: {"content": "x"}}]),
)
def test_any_value_in_tokenizer_config(key: str, value: object, tmp_path: Path) -> None:
    llama2(["[Hu0]", "[Hu1]"], 380)(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, key: value}))
    tokenizer_or_refused(tmp_path)


def tiktoken(folder: Path, model: bytes, added: object) -> Path:
    (folder / "tokenizer.model").write_bytes(model)
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": added}))
    return folder


LINES = tiktoken_model(270).splitlines()
ADDED = st.dictionaries(st.integers(-1, 600).map(str) | st.text(max_size=4), st.fixed_dictionaries({"content": JSON}) | JSON, max_size=4)


@examples(60)
@given(
    line=st.integers(0, len(LINES) - 1),
    written=st.binary(max_size=20)
    | st.tuples(st.binary(max_size=6).map(base64.b64encode), st.integers(-3, 2**70)).map(lambda one: b"%s %d" % one),
    added=ADDED,
)
def test_any_line_of_tiktoken_s_ranks(line: int, written: bytes, added: object, tmp_path: Path) -> None:
    tokenizer_or_refused(tiktoken(tmp_path, b"\n".join([*LINES[:line], written, *LINES[line + 1 :]]), added))


@pytest.mark.parametrize(
    ("added", "sentence"),
    [
        ({"300": {"content": "<a>"}, "301": {"content": "<a>"}}, "gives one token two ids, one id two tokens, or a negative id"),
        ({"300": {"content": "<a>"}, "0300": {"content": "<b>"}}, "gives one token two ids, one id two tokens, or a negative id"),
        ({"-1": {"content": "<a>"}}, "gives one token two ids, one id two tokens, or a negative id"),
        ({"300": {"content": None}}, "must map ids to tokens with 'content': .*None is no token"),
        ({"300": {"content": ""}}, "must map ids to tokens with 'content': .*'' is no token"),
        ({"300": {}}, "must map ids to tokens with 'content'"),
        ({"x": {"content": "<a>"}}, "must map ids to tokens with 'content'"),
        ([], "must map ids to tokens with 'content'"),
        ({"3": {"content": "<a>"}}, r"Added token '<a>' \(id 3\) is in tokenizer\.model already"),
    ],
)
def test_added_tokens_that_contradict_each_other_are_refused(added: object, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=sentence):
        text_tokenizer_of(tiktoken(tmp_path, tiktoken_model(270), added), None)


@pytest.mark.timeout(20)
def test_a_token_longer_than_any_is_refused_before_it_is_cut_everywhere(tmp_path: Path) -> None:
    long = base64.b64encode(b"a" * 3_000_000) + b" 270\n"
    with pytest.raises(CheckpointError, match=rf"line 401: a token has 1 to {LONGEST_TOKEN} bytes; this one has 3000000"):
        text_tokenizer_of(tiktoken(tmp_path, tiktoken_model(270) + long, {}), None)


def test_a_limit_that_is_no_number_is_refused(tmp_path: Path) -> None:
    """Such a tokenizer is made, and fails when it is first used."""
    llama2([], 380)(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "model_max_length": "long"}))
    with pytest.raises(ConversionError, match="No tokenizer could be loaded from"):
        text_tokenizer_of(tmp_path, None)


# -- pickles ----------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@examples(120)
@given(place=st.floats(0, 1), data=st.binary(min_size=1, max_size=6), cut=st.integers(0, 6), whole=st.booleans())
def test_any_bytes_of_a_pickled_file(folder: Path, place: float, data: bytes, cut: int, whole: bool) -> None:
    kept = folder / "kept"
    if not kept.exists():
        torch.save({"a": torch.ones(3), "b": torch.arange(6.0).reshape(2, 3)}, kept)
        (folder / SINGLE).unlink()
    good = kept.read_bytes()
    at = int(place * len(good))
    (folder / BINARY).write_bytes(data if whole else good[:at] + data + good[at + cut :])
    loads_or_is_refused(folder, n_units=N_UNITS)
