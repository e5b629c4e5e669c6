"""Declared families: every key and every wrong value of it, damaged files, and the same vocabulary by whichever door it comes in."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from slm_interp.convert import inspect, load
from slm_interp.convert.declaration import (
    LARGEST_FILE,
    LARGEST_ID,
    Declaration,
    Form,
    Recognised,
    UnitRange,
    checked,
    parse_declaration,
    read_declaration,
)
from slm_interp.convert.families import FOLDER, families, family_named
from slm_interp.convert.families.slamkit import LICENCE
from slm_interp.errors import ConversionError, SlmInterpError
from tests.family_replicas import LLAMA2, SPIRIT, Replica, llama2
from tests.replicas import VARIANTS, random_weights

SHIPPED = sorted(FOLDER.glob("*.toml"))
UNITS: dict[str, Any] = {"template": "<{}>", "count": 16, "start": 2}
FORM: dict[str, Any] = {"name": "bare"}
LEAST: dict[str, Any] = {"name": "mine", "units": [UNITS], "forms": [FORM]}


def parsed(values: object) -> Declaration:
    """A declaration from plain data, by way of YAML, which spells all of it."""
    return parse_declaration(yaml.safe_dump(values), "mine.yaml")


def refused(values: object, sentence: str) -> None:
    with pytest.raises(ConversionError, match=sentence):
        parsed(values)


def toml(values: Mapping[str, Any]) -> str:
    """Plain data as TOML, whose arrays of tables may be inline; JSON's strings and lists are TOML's."""

    def spelled(value: Any) -> str:
        if isinstance(value, Mapping):
            return "{" + ", ".join(f"{json.dumps(key)} = {spelled(one)}" for key, one in value.items()) + "}"
        if isinstance(value, list):
            return "[" + ", ".join(map(spelled, value)) + "]"
        return json.dumps(value, ensure_ascii=False)

    return "\n".join(f"{json.dumps(key)} = {spelled(value)}" for key, value in values.items())


def plain(declaration: Declaration) -> dict[str, Any]:
    """A declaration as the tables of a file; what is None is left out."""

    def bare(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: bare(one) for key, one in value.items() if one is not None}
        return [bare(one) for one in value] if isinstance(value, tuple | list) else value

    return bare(asdict(declaration))


# -- files that ship --------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_a_shipped_file_is_named_after_its_family_and_round_trips(file: Path) -> None:
    declaration = read_declaration(file)
    assert declaration.name == file.stem and declaration.licence != "not stated" and declaration.source
    assert parsed(plain(declaration)) == declaration
    assert parse_declaration(toml(plain(declaration)), "mine.toml") == declaration
    assert checked(declaration) is declaration


def test_every_shipped_file_is_a_family() -> None:
    assert set(families()) == {file.stem for file in SHIPPED} | {"slamkit"} and LICENCE


# -- every key --------------------------------------------------------------------------------------------

# A value of every type; which of them a key takes is said below, and all others are refused.
VALUES: dict[str, Any] = {
    "a string": "x",
    "a number": 3,
    "a negative number": -3,
    "a number no id is": LARGEST_ID,
    "a fraction": 12.5,
    "not a number": float("nan"),
    "infinity": float("inf"),
    "true": True,
    "nothing": None,
    "a list of strings": ["x", "y"],
    "a list of two numbers": [1, 2],
    "a list of two truths": [True, True],
    "a list of three numbers": [1, 2, 3],
    "a list of lists": [["x"]],
    "an empty list": [],
    "a table": {"x": "y"},
    "a table of numbers": {"x": 1},
    "a table of tables": {"x": {"y": "z"}},
    "bytes": b"ab",
}
TAKES: dict[str, set[str]] = {
    "str": {"a string"},
    "int": {"a number"},
    "bool": {"true"},
    "float | None": {"a number", "a fraction"},
    "int | str | None": {"a number", "a string"},
    "str | None": {"a string"},
    "tuple[str, ...]": {"a list of strings", "an empty list"},
    "tuple[int, ...] | None": {"a list of two numbers"},
    "Mapping[str, str]": {"a table"},
    "Mapping[str, int]": {"a table of numbers"},
}
KINDS: dict[str, tuple[type, dict[str, Any]]] = {
    "the file": (Declaration, LEAST),
    "units[0]": (UnitRange, UNITS),
    "forms[0]": (Form, FORM),
    "recognised": (Recognised, {}),
}


def placed(where: str, table: dict[str, Any]) -> dict[str, Any]:
    """The least declaration with one of its tables replaced."""
    return {"the file": table, "units[0]": {**LEAST, "units": [table]}, "forms[0]": {**LEAST, "forms": [table]}}.get(
        where, {**LEAST, "recognised": table}
    )


KEYS = [(where, one.name) for where, (kind, _) in KINDS.items() for one in fields(kind) if one.name not in ("units", "forms", "recognised")]


@pytest.mark.parametrize(("where", "key"), KEYS)
def test_a_key_takes_its_own_type_and_no_other(where: str, key: str) -> None:
    kind, table = KINDS[where]
    written = next(str(one.type) for one in fields(kind) if one.name == key)
    for what, value in VALUES.items():
        values = placed(where, {**table, key: value})
        if what not in TAKES[written]:
            refused(values, rf"^The declaration 'mine\.yaml': '{key}' of {re.escape(where)} must be (a |true or false).*; got .*\.$")
            continue
        if key in ("template", "ids", "markers", "closers", "marked", "closed"):  # of the right type, and yet it does not fit the rest
            refused(values, r"^The declaration 'mine\.yaml': (?!.*must be)")
        else:
            parsed(values)


@pytest.mark.parametrize("key", ["units", "forms"])
@pytest.mark.parametrize("value", ["x", 3, {"name": "x"}, None, True])
def test_units_and_forms_are_lists_of_tables(key: str, value: object) -> None:
    refused({**LEAST, key: value}, rf"'{key}' is a list of tables \(\[\[{key}\]\]\); got ")


@pytest.mark.parametrize(("key", "where"), [("units", "units[0]"), ("forms", "forms[0]"), ("recognised", "recognised")])
@pytest.mark.parametrize("value", ["x", 3, [1], None])
def test_a_table_that_is_none_is_refused(key: str, where: str, value: object) -> None:
    refused({**LEAST, key: value if key == "recognised" else [value]}, rf"{re.escape(where)} must be a table; got ")


@pytest.mark.parametrize("where", KINDS)
@pytest.mark.parametrize("key", ["colour", "", 3, None, True, "template "])
def test_an_unknown_key_is_refused_with_those_there_are(where: str, key: object) -> None:
    kind, table = KINDS[where]
    names = ", ".join(one.name for one in fields(kind))
    refused(
        placed(where, {**table, key: 1}),
        rf"{re.escape(where)} has {re.escape(repr(key))}, which no declaration has; it may have {re.escape(names)}\.$",
    )


@pytest.mark.parametrize("where", ["the file", "units[0]", "forms[0]"])
def test_a_missing_key_is_named(where: str) -> None:
    kind, table = KINDS[where]
    for key in (one.name for one in fields(kind) if one.default is MISSING and one.default_factory is MISSING):
        refused(placed(where, {name: value for name, value in table.items() if name != key}), rf"{re.escape(where)} lacks '{key}'\.$")


# -- files that are none ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("name = ", "mine.toml"),
        ("name = 'a'\nname = 'b'", "mine.toml"),
        ("[units]\n[[units]]", "mine.toml"),
        ("name = " + "[" * 2_000, "mine.toml"),
        ("name = " + "1" * 5_000, "mine.toml"),
        ("\0", "mine.toml"),
        ("name: [", "mine.yaml"),
        ("a: b: c", "mine.yml"),
        ("name: " + "[" * 600, "mine.yaml"),
        ("name: " + "1" * 5_000, "mine.yaml"),
        ("name: *missing", "mine.yaml"),
        ("--- 1\n--- 2", "mine.yaml"),
        ("? [a]\n: b", "mine.yaml"),
        ("\0", "mine.yaml"),
        ("name: 2026-99-99", "mine.yaml"),
        ("<<: 1", "mine.yaml"),
    ],
)
def test_a_damaged_file_is_refused(text: str, name: str) -> None:
    with pytest.raises(ConversionError, match=rf"^The declaration '{re.escape(name)}' is damaged: "):
        parse_declaration(text, name)


@pytest.mark.parametrize(("text", "came"), [("", "NoneType"), ("- a", "list"), ("3", "int"), ("name", "str"), ("!!set {a}", "set")])
def test_a_yaml_file_that_is_no_table_is_refused(text: str, came: str) -> None:
    with pytest.raises(ConversionError, match=rf"^The declaration 'mine\.yaml' must be a table; it is {came}\.$"):
        parse_declaration(text, "mine.yaml")


@pytest.mark.parametrize("data", [b"\xff\xfe", b"name = '\xe9'"])
def test_bytes_that_are_no_text_are_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(data)
    with pytest.raises(ConversionError, match=r"^The declaration 'mine\.toml' cannot be read as UTF-8 text: "):
        read_declaration(tmp_path / "mine.toml")


@pytest.mark.parametrize("name", ["nowhere.toml", "a\0b.toml", "n" * 5_000 + ".yaml"])
def test_a_file_that_is_not_there_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="cannot be read as UTF-8 text"):
        family_named(str(tmp_path / name))


def test_a_folder_is_no_declaration(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").mkdir()
    with pytest.raises(ConversionError, match="cannot be read as UTF-8 text"):
        family_named(tmp_path / "mine.toml")


def test_a_file_larger_than_any_family_is_refused_unread() -> None:
    text = toml(LEAST)
    assert parse_declaration(text + "#" * (LARGEST_FILE - len(text) - 2), "mine.toml") == parsed(LEAST)
    with pytest.raises(ConversionError, match=rf"has {LARGEST_FILE + 1} characters; {LARGEST_FILE} are more than any family needs\.$"):
        parse_declaration("#" * (LARGEST_FILE + 1), "mine.toml")


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("text", "name"),
    [
        # Ten lists of ten of the one before: written out, 10,000,000,000 words.
        ("".join(f"x{i}: &x{i} [{', '.join([f'*x{i - 1}' if i else 'x'] * 10)}]\n" for i in range(10)) + "name: *x9\n", "laughs.yaml"),
        ("&a {name: *a, units: [], forms: []}", "itself.yaml"),
        ("units: &a [*a]", "inside.yaml"),
        ("name: " + "1:" * 12_000 + "1\nunits: []\nforms: []", "sexagesimal.yaml"),
        ("name" + ".a" * 3_000 + " = 1\nunits = []\nforms = []", "deep.toml"),
        ("units" + ".a" * 3_000 + " = 1", "deep.toml"),
        ("recognised" + ".a" * 3_000 + " = 1\nunits = []\nforms = []\nname = ''", "deep.toml"),
    ],
)
def test_what_is_small_in_a_file_and_endless_when_written_out_is_refused_soon(text: str, name: str) -> None:
    text = text.replace("x9\n", "x9\nunits: []\nforms: []\n") if name == "laughs.yaml" else text
    with pytest.raises(ConversionError) as caught:
        parse_declaration(text, name)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:pathlib.Path.touch",
        "!!python/object/new:os.system",
        "!!python/name:os.system",
        "!!python/module:os",
        "!!python/tuple",
        "!mine",
    ],
)
def test_a_tag_makes_nothing_and_runs_nothing(tag: str, tmp_path: Path) -> None:
    marker = tmp_path / "it ran"
    with pytest.raises(ConversionError, match="is damaged: could not determine a constructor"):
        parse_declaration(f"name: {tag} ['{marker}']", "mine.yaml")
    assert not marker.exists()


# -- parts that do not fit each other ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "template", ["", "<unit>", "<{}{}>", "<{", "<}>", "{{}}", "<{0}>", "<{:d}>", "<{:4d}>", "<{!r}>", "<{.a}>", "{:c}{:c}"]
)
def test_a_template_has_one_place_for_its_number(template: str) -> None:
    refused(
        {**LEAST, "units": [{**UNITS, "template": template}]},
        r"needs a count of at least 1 and one place for its number, \{\}, \{:04d\} or",
    )


@pytest.mark.parametrize("template", ["{}", "{:04d}", "5{}", "7u{}"])
def test_a_template_of_which_two_run_into_one_is_refused(template: str) -> None:
    refused({**LEAST, "units": [{**UNITS, "template": template}]}, "begins and ends with a number: of two units in a row")


@pytest.mark.parametrize("template", ["<{}>", "u{}", "{}u", "{:c}", "<|{:04d}|>", "<\U0001f5e3\ufe0f{}>"])
def test_templates_as_families_have_them_are_taken(template: str) -> None:
    assert parsed({**LEAST, "units": [{**UNITS, "template": template}]}).units[0].template == template


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"units": []}, r"A family has at least one \[\[units\]\] and one \[\[forms\]\]\."),
        ({"forms": []}, r"A family has at least one \[\[units\]\] and one \[\[forms\]\]\."),
        ({"units": [UNITS, UNITS]}, r"Each codebook is declared once; got \[0, 0\]\."),
        ({"units": [{**UNITS, "count": 0}]}, "needs a count of at least 1"),
        ({"units": [{**UNITS, "step": 0}]}, "The step between the ids of two units is at least 1"),
        ({"units": [{**UNITS, "template": "{:c}", "first": 0x10FFFF}]}, "runs past the last character there is"),
        ({"alternation": [0, 2]}, r"at least one id of each modality in its turn; got \[0, 2\]"),
        ({"text": [5, 5]}, r"'text' is the first id of text and the one after the last; got \[5, 5\]"),
        ({"markers": {"music": "<m>"}}, "Markers belong to speech or text; got 'music'"),
        ({"closers": {"Speech": "<m>"}}, "Markers belong to speech or text; got 'Speech'"),
        ({"markers": {"speech": ""}}, "A token has at least one character"),
        ({"also": [""]}, "A token has at least one character"),
        ({"ids": {"<m>": 3}}, "'ids' has '<m>', which is no marker, no closer and not in 'also'"),
        ({"forms": [FORM, FORM]}, r"each with a name of its own; got \['bare', 'bare'\]"),
        ({"forms": [{**FORM, "marked": True}]}, "A marked form needs a marker"),
        ({"forms": [{**FORM, "closed": True}]}, "A marked form needs a marker"),
    ],
)
def test_parts_that_do_not_fit_are_refused_at_the_door(change: dict[str, Any], sentence: str, folder: Path) -> None:
    refused({**LEAST, **change}, sentence)
    made = Declaration("mine", (UnitRange(**UNITS),), (Form(**FORM),))
    tables = {"units": UnitRange, "forms": Form}
    given = {
        key: tuple(tables[key](**one) for one in value) if key in tables else tuple(value) if isinstance(value, list) else value
        for key, value in change.items()
    }
    with pytest.raises(ConversionError, match=sentence):  # one that was made in Python goes through the same door
        load(folder, family=replace(made, **given))


# -- loading ----------------------------------------------------------------------------------------------


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A Llama of 40 rows without a tokenizer."""
    raw = {**VARIANTS["llama"], "vocab_size": 40}
    folder = tmp_path / "bare"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(raw))
    save_file(random_weights(raw), folder / "model.safetensors")
    return folder


BY_IDS = """
name = "mine"
text = [0, 20]
[[units]]
template = "<u{}>"
count = 8
start = 20
[[units]]
template = "<v{:02d}>"
count = 4
start = 29
step = 2
codebook = 1
[markers]
speech = "<s>"
[ids]
"<s>" = 39
[[forms]]
name = "marked"
marked = true
"""


def test_ids_alone_load_a_checkpoint_without_a_tokenizer(bare: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(BY_IDS)
    slm = load(bare, family=tmp_path / "mine.toml")
    assert slm.tokenizer is None and slm.vocabulary.kinds == ("text", "speech", "marker", "dead")
    assert slm.vocabulary.unit_to_id(torch.tensor([0, 7])).tolist() == [20, 27]
    assert slm.vocabulary.unit_to_id(torch.tensor([0, 3]), 1).tolist() == [29, 35]
    assert slm.ids_of("<s><u7><v03>").tolist() == [39, 27, 35]
    prompt = slm.speech_prompt(torch.tensor([3]), torch.tensor([0.0, 0.1]))
    assert prompt.tokens.tolist() == [39, 23]
    assert inspect(bare, family=tmp_path / "mine.toml").vocabulary == slm.vocabulary


def test_where_the_first_unit_stands_may_be_a_key_of_the_config(bare: Path) -> None:
    declared = Declaration("mine", (UnitRange("<u{}>", 8, start="offset"),), (Form("bare"),), recognised=Recognised(keys=("offset",)))
    config = json.loads((bare / "config.json").read_text())
    (bare / "config.json").write_text(json.dumps({**config, "offset": 30}))
    assert load(bare, family=declared).vocabulary.unit_to_id(torch.tensor([0])).tolist() == [30]
    for value in (None, "x", -1, True, 1.5, [3], 10**30):
        (bare / "config.json").write_text(json.dumps({**config, "offset": value}))
        with pytest.raises(ConversionError, match=r"reads the first unit's id from config key 'offset'; it is|the embedding has 40 rows"):
            load(bare, family=declared)


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "units", [{"count": LARGEST_ID - 1}, {"step": LARGEST_ID - 1}, {"start": LARGEST_ID - 1}, {"first": LARGEST_ID - 1}]
)
def test_numbers_beyond_the_embedding_are_refused_before_anything_is_counted_out(units: dict[str, int], bare: Path) -> None:
    declared = Declaration("mine", (UnitRange(**{**UNITS, **units}),), (Form("bare"),))
    if "first" in units:
        assert load(bare, family=declared).vocabulary.spelled(2) == f"<{LARGEST_ID - 1}>"
        return
    with pytest.raises(ConversionError, match="the embedding has 40 rows"):
        load(bare, family=declared)


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    ("n_units", "sentence"),
    [
        (0, "needs a count of at least 1"),
        (-3, "needs a count of at least 1"),
        (10**9, r"has 1000000000 units in codebook 0; the embedding has 40"),
    ],
)
def test_a_number_of_units_that_cannot_be_is_refused(n_units: int, sentence: str, bare: Path) -> None:
    with pytest.raises(ConversionError, match=sentence):
        load(bare, family=parsed(LEAST), n_units=n_units)


def test_two_ranges_on_one_id_are_refused(bare: Path) -> None:
    with pytest.raises(SlmInterpError, match="id 2 is in 2 ranges"):
        load(bare, family=parsed({**LEAST, "text": [0, 3]}))


SMALL = Replica("spiritlm", LLAMA2, 904, llama2(SPIRIT, 400), (402,), (902,))


@pytest.fixture(scope="module")
def spirit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Spirit LM with a small text vocabulary."""
    folder = tmp_path_factory.mktemp("spirit")
    SMALL.tokenizer(folder)
    (folder / "config.json").write_text(json.dumps(SMALL.config))
    save_file(random_weights(SMALL.config), folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("door", ["name", "path of TOML", "string of TOML", "YAML", "declaration"])
def test_a_family_is_the_same_by_whichever_door_it_comes_in(door: str, spirit: Path, tmp_path: Path) -> None:
    built_in = FOLDER / "spiritlm.toml"
    declaration = read_declaration(built_in)
    (tmp_path / "mine.toml").write_bytes(built_in.read_bytes())
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(plain(declaration)))
    family = {
        "name": "spiritlm",
        "path of TOML": tmp_path / "mine.toml",
        "string of TOML": str(tmp_path / "mine.toml"),
        "YAML": tmp_path / "mine.yaml",
        "declaration": declaration,
    }[door]
    slm, wanted = load(spirit, family=family), load(spirit)
    assert slm.vocabulary == wanted.vocabulary and slm.prompts == wanted.prompts
    assert slm.provenance == wanted.provenance
    assert wanted.vocabulary.unit_to_id(torch.tensor([0, 500])).tolist() == [402, 902]


def test_a_declaration_is_not_recognised_unless_it_is_named(spirit: Path, tmp_path: Path) -> None:
    text = (FOLDER / "spiritlm.toml").read_text().replace('"spiritlm"', '"mine"')
    (tmp_path / "mine.toml").write_text(text)
    assert load(spirit, family=tmp_path / "mine.toml").provenance["family"] == "mine"
    assert load(spirit).provenance["family"] == "spiritlm" and "mine" not in families()
