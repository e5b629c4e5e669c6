"""What slamkit writes: `features.jsonl` (units and run lengths) and `tokens.jsonl` (strings of units, words and markers).

One JSON object a line. An interleaved string reads `<speech><Un3><Un49><text> word word<speech><Un7>`: a marker opens
every stretch, words keep their leading space. Strings of speech alone, and those slamkit makes of a bare sound, carry
no marker at all; `UnitString` keeps that difference, because a model sees it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from slm_interp.errors import SpeechError
from slm_interp.speech.units import Units

FRAME_S: Final = 0.04
SPEECH, TEXT = "<speech>", "<text>"
LONGEST_NUMBER: Final = 9  # digits of a unit
_PIECE = re.compile(r"<speech>|<text>|<Un(?:0|[1-9][0-9]*)>")


@dataclass(frozen=True)
class SpeechSegment:
    """Units spoken in a row; none for a word that no unit carries."""

    units: tuple[int, ...]

    def __str__(self) -> str:
        return "".join(f"<Un{unit}>" for unit in self.units)


@dataclass(frozen=True)
class TextSegment:
    """Written words, with their leading spaces."""

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class UnitString:
    """One string of slamkit, taken apart. `str()` puts it together again, to the letter.

    Args:
        segments: in order.
        opening_marker: whether the first segment has its marker too. Every later one has.
    """

    segments: tuple[SpeechSegment | TextSegment, ...]
    opening_marker: bool

    def __str__(self) -> str:
        marked = [(SPEECH if isinstance(segment, SpeechSegment) else TEXT) + str(segment) for segment in self.segments]
        if self.segments and not self.opening_marker:
            marked[0] = str(self.segments[0])
        return "".join(marked)

    @property
    def units(self) -> tuple[int, ...]:
        """All units, in order, whatever text lies between them."""
        return tuple(unit for segment in self.segments if isinstance(segment, SpeechSegment) for unit in segment.units)


def parse_unit_string(string: str) -> UnitString:
    """Take a string of units, words and markers apart.

    Raises:
        SpeechError: an empty string, units among written words, or words among units, without the marker between.
    """
    if not string:
        raise SpeechError("A unit string has units or words; got an empty one.")
    opening_marker = string.startswith((SPEECH, TEXT))
    segments: list[tuple[str, list[int], str]] = []
    end = 0
    for match in [*_PIECE.finditer(string), None]:
        between = string[end : match.start() if match else len(string)]
        if between:
            if not segments:
                segments.append((TEXT, [], ""))
            kind, units, _ = segments[-1]
            if kind == SPEECH:
                raise SpeechError(f"{between[:40]!r} stands among speech units at character {end}. Words need a {TEXT} before them.")
            segments[-1] = (kind, units, between)
        if match is None:
            break
        end = match.end()
        if match[0] in (SPEECH, TEXT):
            segments.append((match[0], [], ""))
            continue
        if not segments:
            segments.append((SPEECH, [], ""))
        if segments[-1][0] == TEXT:
            raise SpeechError(
                f"Unit {match[0]} stands among written words at character {match.start()}. Units need a {SPEECH} before them."
            )
        number = match[0][3:-1]
        if len(number) > LONGEST_NUMBER:
            raise SpeechError(
                f"A unit's number has at most {LONGEST_NUMBER} digits; the one at character {match.start()} has {len(number)}."
            )
        segments[-1][1].append(int(number))
    return UnitString(
        tuple(SpeechSegment(tuple(units)) if kind == SPEECH else TextSegment(text) for kind, units, text in segments), opening_marker
    )


def read_features(path: str | os.PathLike[str], quantiser: str | None = None, frame_s: float = FRAME_S) -> dict[str, Units]:
    """The units and run lengths of `features.jsonl`, by the `file_name` they were made from.

    Args:
        path: the file.
        quantiser: hash of the codebook the units came from; the file does not say.
        frame_s: seconds of one frame of `duration`; the file does not say either. slamkit's is 40 ms.

    Raises:
        SpeechError: a damaged line, named by its number.
    """
    found: dict[str, Units] = {}
    for where, record in read_records(path):
        name = _new_name(record, where, found)
        units, durations = _whole_numbers(record, "units", 0, where), _whole_numbers(record, "duration", 1, where)
        if len(units) != len(durations):
            raise SpeechError(f"{where}: {len(units)} units need as many durations; got {len(durations)}.")
        try:
            found[name] = Units(
                units=np.array(units, dtype=np.int64), durations=np.array(durations, dtype=np.int64), frame_s=frame_s, quantiser=quantiser
            )
        except SpeechError as error:
            raise SpeechError(f"{where}: {error}") from error
    return found


def read_tokens(path: str | os.PathLike[str]) -> dict[str, UnitString]:
    """The strings of `tokens.jsonl`, taken apart, by the `file_name` they were made from.

    Raises:
        SpeechError: a damaged line, named by its number.
    """
    found: dict[str, UnitString] = {}
    for where, record in read_records(path):
        name = _new_name(record, where, found)
        string = record.get("audio_repr")
        if not isinstance(string, str):
            raise SpeechError(f"{where}: 'audio_repr' must be a string; got {string!r:.60}.")
        try:
            found[name] = parse_unit_string(string)
        except SpeechError as error:
            raise SpeechError(f"{where}: {error}") from error
    return found


def read_records(path: str | os.PathLike[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a JSON Lines file, each with `file, line n` for messages. Blank lines are skipped."""
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SpeechError(f"{path} cannot be read as UTF-8 text: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise SpeechError(f"{where} is not JSON: {error}. Is the file cut short?") from error
        if not isinstance(record, dict):
            raise SpeechError(f"{where} must be a JSON object; got {line.strip()[:60]!r}.")
        yield where, record


def _new_name(record: dict[str, Any], where: str, found: dict[str, Any]) -> str:
    """The file name of a record, once it is known to be there and not a repeat."""
    name = record.get("file_name")
    if not isinstance(name, str) or not name:
        raise SpeechError(f"{where}: 'file_name' must be a string; got {name!r:.60}.")
    if name in found:
        raise SpeechError(f"{where}: a second record for {name!r}. slamkit appends to a file that is already there; remove one.")
    return name


def _whole_numbers(record: dict[str, Any], field: str, least: int, where: str) -> list[int]:
    """A list of whole numbers, none below `least`."""
    values = record.get(field)
    if not isinstance(values, list) or not values:
        raise SpeechError(f"{where}: '{field}' must be a list with at least one number; got {values!r:.60}.")
    for index, value in enumerate(values):
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**31:
            raise SpeechError(f"{where}: '{field}'[{index}] must be a whole number of at least {least}; got {value!r:.60}.")
    return values
