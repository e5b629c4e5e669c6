"""A family's vocabulary and prompt forms, declared in a TOML or YAML file.

    name = "spiritlm"
    licence = "FAIR Noncommercial Research"

    [recognised]                 # how a checkpoint of it is told; all must hold
    model_types = ["llama"]
    tokens = ["[Hu0]", "[Text]"]

    [[units]]                    # one table a codebook
    template = "[Hu{}]"
    count = 501

    [markers]                    # before each stretch of a modality
    speech = "[Speech]"
    text = "[Text]"

    [[forms]]
    name = "marked"
    opening = ["<s>"]
    marked = true

Ids are found by asking the checkpoint's tokenizer, so a declaration holds none; where no tokenizer knows them it gives `start` and `[ids]`.
A key that is not in the tables below is refused.
"""

from __future__ import annotations

import os
import re
import reprlib
import sys
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from slm_interp.errors import ConversionError, UtteranceError
from slm_interp.prompt import PromptForm, PromptFormat

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LARGEST_ID = 2**24  # no embedding is higher
LARGEST_FILE = 2**15  # characters; parsers of TOML take the square of a line's length


@dataclass(frozen=True)
class Recognised:
    """How a checkpoint of the family is told from others; everything named must hold.

    Args:
        model_types: of config.json; any of them.
        tokens: the tokenizer has all of these.
        without: and none of these.
        keys: config.json has all of these. They are the family's own, and the architecture need not know them.
    """

    model_types: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class UnitRange:
    """The units of a codebook.

    Args:
        template: their spelling, `{}` for the number (`{:04d}`: in four digits; `{:c}`: the character of that code).
        count: how many.
        codebook: which quantiser they belong to.
        first: the number that unit 0 is spelled with.
        start: id of unit 0, where no tokenizer says; a number, or the name of a config key that holds it.
        step: distance of ids, where no tokenizer says.
        merged: repeats are merged.
        rate_hz: units a second before merging.
    """

    template: str
    count: int
    codebook: int = 0
    first: int = 0
    start: int | str | None = None
    step: int = 1
    merged: bool = False
    rate_hz: float | None = None


@dataclass(frozen=True)
class Form:
    """A prompt form; see `slm_interp.prompt.PromptForm`.

    Args:
        opening: tokens, or text that the tokenizer cuts into tokens.
        closing: likewise.
        between: likewise.
    """

    name: str
    opening: tuple[str, ...] = ()
    closing: tuple[str, ...] = ()
    marked: bool = False
    closed: bool = False
    between: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Declaration:
    """A family, declared.

    Args:
        name: of the family.
        licence: of its checkpoints.
        units: one a codebook.
        forms: the first is that of the training sequences.
        recognised: how its checkpoints are told.
        source: where the facts come from.
        markers, closers, repeated, alternation: see `slm_interp.prompt.PromptFormat`; tokens by their spelling.
        also: further tokens that frame a sequence and are neither text nor speech, where the tokenizer has them.
        other: beginnings of the spellings of tokens of other modalities (images, music): alive, and neither text nor speech.
        ids: ids of markers, where no tokenizer says.
        text: first id of text and the one after the last, where no tokenizer says.
    """

    name: str
    units: tuple[UnitRange, ...]
    forms: tuple[Form, ...]
    licence: str = "not stated"
    source: str = ""
    recognised: Recognised = Recognised()
    markers: Mapping[str, str] = field(default_factory=dict)
    closers: Mapping[str, str] = field(default_factory=dict)
    repeated: bool = False
    alternation: tuple[int, ...] | None = None
    also: tuple[str, ...] = ()
    other: tuple[str, ...] = ()
    ids: Mapping[str, int] = field(default_factory=dict)
    text: tuple[int, ...] | None = None

    @property
    def frames(self) -> tuple[str, ...]:
        """Every token that is needed as a marker, once."""
        return tuple(dict.fromkeys([*self.markers.values(), *self.closers.values()]))


def read_declaration(path: str | os.PathLike[str]) -> Declaration:
    """A declaration from a `.toml`, `.yaml` or `.yml` file.

    Raises:
        ConversionError: no such file, a damaged one, or one that says what no declaration says.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # ValueError: bytes that are no UTF-8, or a name with a zero byte
        raise ConversionError(f"The declaration {file.name!r} cannot be read as UTF-8 text: {error}") from error
    return parse_declaration(text, file.name)


def parse_declaration(text: str, name: str) -> Declaration:
    """A declaration from the text of a file; its name says whether it is TOML or YAML.

    Raises:
        ConversionError: as `read_declaration`.
    """
    if len(text) > LARGEST_FILE:
        raise ConversionError(f"The declaration {name!r} has {len(text)} characters; {LARGEST_FILE} are more than any family needs.")
    try:
        if name.endswith((".yaml", ".yml")):
            import yaml

            values = yaml.safe_load(text)
        else:
            values = tomllib.loads(text)
    except Exception as error:  # both parsers raise kinds of their own, and a deep file a RecursionError
        raise ConversionError(f"The declaration {name!r} is damaged: {error}") from error
    if not isinstance(values, Mapping):
        raise ConversionError(f"The declaration {name!r} must be a table; it is {type(values).__name__}.")
    try:
        return checked(_declaration(values))
    except ConversionError as error:
        raise ConversionError(f"The declaration {name!r}: {error}") from error


TABLES: dict[str, type] = {"units": UnitRange, "forms": Form}
NUMBER = re.compile(r"\{(:c|:0[1-9]d)?\}")


def _declaration(values: Mapping[str, Any]) -> Declaration:
    given: dict[str, Any] = dict(values)
    for key, kind in TABLES.items():
        if key in given:
            if not isinstance(given[key], list):
                raise ConversionError(f"{key!r} is a list of tables ([[{key}]]); got {_shown(given[key])}.")
            given[key] = tuple(_record(kind, one, f"{key}[{place}]") for place, one in enumerate(given[key]))
    if "recognised" in given:
        given["recognised"] = _record(Recognised, given["recognised"], "recognised")
    made: Declaration = _record(Declaration, given, "the file")
    return made


# What each written type admits, and its name in a sentence.
ADMITTED: dict[str, tuple[str, Any]] = {
    "str": ("a string", lambda value: isinstance(value, str)),
    "int": ("a whole number", lambda value: _whole(value)),
    "bool": ("true or false", lambda value: isinstance(value, bool)),
    "float | None": ("a positive number", lambda value: not isinstance(value, bool) and isinstance(value, int | float) and 0 < value < 1e6),
    "int | str | None": ("a whole number or a config key", lambda value: _whole(value) or isinstance(value, str)),
    "str | None": ("a string", lambda value: isinstance(value, str)),
    "tuple[str, ...]": ("a list of strings", lambda value: _all(value, str)),
    "tuple[int, ...] | None": (
        "a list of two whole numbers",
        lambda value: _all(value, int) and len(value) == 2 and all(map(_whole, value)),
    ),
    "Mapping[str, str]": ("a table of strings", lambda value: isinstance(value, Mapping) and _all([*value, *value.values()], str)),
    "Mapping[str, int]": (
        "a table of whole numbers",
        lambda value: isinstance(value, Mapping) and _all([*value], str) and all(map(_whole, value.values())),
    ),
}


def _record(kind: type, values: Any, where: str) -> Any:
    """A dataclass from a table, every key of it known and of its type."""
    if not isinstance(values, Mapping):
        raise ConversionError(f"{where} must be a table; got {_shown(values)}.")
    known = {one.name: one for one in fields(kind)}
    for key, value in values.items():
        if key not in known:
            raise ConversionError(f"{where} has {_shown(key)}, which no declaration has; it may have {', '.join(known)}.")
        wanted, admits = ADMITTED.get(str(known[key].type), ("", None))
        if admits is not None and not admits(value):
            raise ConversionError(f"{key!r} of {where} must be {wanted}; got {_shown(value)}.")
    for one in known.values():
        if one.name not in values and one.default is MISSING and one.default_factory is MISSING:
            raise ConversionError(f"{where} lacks {one.name!r}.")
    return kind(**{key: _kept(known[key].type, value) for key, value in values.items()})


def _kept(written: Any, value: Any) -> Any:
    """An admitted value as the dataclass has it."""
    if isinstance(value, list):
        return tuple(value)
    return float(value) if written == "float | None" else value


def _shown(value: Any) -> str:
    """A value in a sentence: short, and soon written, however long, deep or entangled it is."""
    try:
        return f"{reprlib.repr(value):.60}"
    except ValueError:  # whole numbers of thousands of digits are not written out
        return f"a {type(value).__name__} of many digits"


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < LARGEST_ID


def _all(value: Any, kind: type) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(one, kind) for one in value)


def checked(declaration: Declaration) -> Declaration:
    """The declaration, once its parts fit each other.

    Raises:
        ConversionError: no units or forms, a repeated codebook, a template without a place for its number, and the like.
    """
    if not declaration.units or not declaration.forms:
        raise ConversionError("A family has at least one [[units]] and one [[forms]].")
    books = [one.codebook for one in declaration.units]
    if len(set(books)) != len(books):
        raise ConversionError(f"Each codebook is declared once; got {books}.")
    for one in declaration.units:
        check_units(one)
    _check_tokens(declaration)
    if declaration.alternation is not None and (len(declaration.alternation) != 2 or min(declaration.alternation) < 1):
        raise ConversionError(f"An alternation has at least one id of each modality in its turn; got {list(declaration.alternation)}.")
    if declaration.text is not None and (len(declaration.text) != 2 or not 0 <= declaration.text[0] < declaration.text[1]):
        raise ConversionError(f"'text' is the first id of text and the one after the last; got {list(declaration.text)}.")
    return declaration


def check_units(units: UnitRange) -> None:
    """Refuse units that their template cannot spell.

    Raises:
        ConversionError: no unit, no place for its number or two, a number too many, ids that do not rise.
    """
    template, count = units.template, units.count
    if count < 1 or len(NUMBER.findall(template)) != 1 or template.count("{") + template.count("}") != 2:
        raise ConversionError(
            f"{template!r} needs a count of at least 1 and one place for its number, {{}}, {{:04d}} or {{:c}}; its count is {count}."
        )
    if "{:c}" in template and units.first + count > sys.maxunicode:
        raise ConversionError(f"{template!r} runs past the last character there is.")
    if "{:c}" not in template and template.endswith("}") and (template[0] == "{" or template[0].isdecimal()):
        raise ConversionError(f"{template!r} begins and ends with a number: of two units in a row nobody can say where the second begins.")
    if units.step < 1:
        raise ConversionError("The step between the ids of two units is at least 1.")


def _check_tokens(declaration: Declaration) -> None:
    """Refuse markers that mark nothing, and forms without the markers they ask for."""
    framing = (*declaration.frames, *declaration.also)
    if "" in framing:
        raise ConversionError("A token has at least one character; a marker, a closer or one of 'also' is empty.")
    idle = next((token for token in declaration.ids if token not in framing), None)
    if idle is not None:
        raise ConversionError(f"'ids' has {idle!r}, which is no marker, no closer and not in 'also'.")
    try:
        PromptFormat(
            tuple(PromptForm(one.name, marked=one.marked, closed=one.closed, between=(0,) * len(one.between)) for one in declaration.forms),
            dict.fromkeys(declaration.markers, 0),
            dict.fromkeys(declaration.closers, 0),
        )
    except UtteranceError as error:
        raise ConversionError(str(error)) from error
