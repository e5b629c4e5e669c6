"""Word times that others made: Praat TextGrid, CTM, slamkit's `aligned_text`, Whisper's word timestamps.

Every reader gives the words in order of time and nothing else: silences are left out, and whatever contradicts
itself (times that run backwards, words without times) is refused with the place where it stands.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from slm_interp.errors import SpeechError
from slm_interp.speech.words import TimedWord

SILENCES: Final = frozenset({"", "sil", "SIL", "<sil>", "sp", "<eps>", "<p:>"})
"""What aligners write where nobody speaks: Praat, the Montreal and Prosodylab aligners, Kaldi, WebMAUS."""

_TOKEN = re.compile(r'"(?P<text>(?:[^"]|"")*)"|(?P<flag><\w+>)|(?P<skip>\[[^\]\n]*\]|![^\n]*)|(?P<bare>[^\s"\[]+)')
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")


def read_words(path: str | os.PathLike[str], tier: str = "words") -> tuple[TimedWord, ...]:
    """Word times from a file that says by its name and fields what it is: `.TextGrid`, `.ctm`, slamkit's or Whisper's `.json`.

    Args:
        path: the file.
        tier: which one of a TextGrid.

    Raises:
        SpeechError: another kind of file, or what its own reader refuses.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".textgrid":
        return read_textgrid(path, tier)
    if suffix == ".ctm":
        return read_ctm(path)
    if suffix != ".json":
        raise SpeechError(f"Word times are read from .TextGrid, .ctm and .json files; got {path}.")
    record = _json(path)
    return read_slamkit_alignment(path) if isinstance(record, dict) and "aligned_text" in record else read_whisper_json(path)


def read_textgrid(path: str | os.PathLike[str], tier: str, silences: Collection[str] = SILENCES) -> tuple[TimedWord, ...]:
    """The words of one interval tier of a Praat TextGrid, in its long or its short text format.

    Args:
        path: the file, in UTF-8 or UTF-16.
        tier: name of the tier.
        silences: labels that stand for no word.

    Raises:
        SpeechError: not a TextGrid, a damaged one, no such tier or several, a tier of points.
    """
    text = _text(path)
    if text.startswith("ooBinaryFile"):
        raise SpeechError(f"{path} is a binary TextGrid. Save it as a text file in Praat.")
    tiers = _TextGrid(os.fspath(path), text).tiers()
    named = [one for one in tiers if one.name == tier]
    if len(named) != 1:
        raise SpeechError(f"{path} has {len(named)} tiers named {tier!r}; its tiers: {[one.name for one in tiers]}.")
    if named[0].intervals is None:
        raise SpeechError(f"Tier {tier!r} of {path} holds points, not intervals. Choose a tier of words.")
    words = [_word(label, start, end, where) for start, end, label, where in named[0].intervals if label.strip() not in silences]
    return _in_order(words, f"{path}, tier {tier!r}")


def read_ctm(path: str | os.PathLike[str], recording: str | None = None, silences: Collection[str] = SILENCES) -> tuple[TimedWord, ...]:
    """The words of one recording of a CTM file: `recording channel start duration word [confidence]` a line.

    Args:
        path: the file. Lines that start with `;;` are comments.
        recording: which one, in a file with several.
        silences: labels that stand for no word.

    Raises:
        SpeechError: a damaged line, alternatives, no such recording, several and none chosen, several channels.
    """
    found: dict[str, list[TimedWord]] = {}
    channels: dict[str, str] = {}
    for number, line in enumerate(_text(path).split("\n"), start=1):
        fields, where = line.split(), f"{path}, line {number}"
        if not fields or line.startswith(";;"):
            continue
        if len(fields) not in (5, 6):
            raise SpeechError(f"{where} must read 'recording channel start duration word [confidence]'; got {line.strip()[:60]!r}.")
        name, channel, start, duration, label = fields[:5]
        if label.startswith("<ALT"):
            raise SpeechError(f"{where}: alternatives ({label}) are not one transcript. Keep one of them.")
        if channels.setdefault(name, channel) != channel:
            raise SpeechError(f"{where}: recording {name!r} has words on channels {channels[name]!r} and {channel!r}. Keep one of them.")
        words = found.setdefault(name, [])
        start_s, duration_s = _seconds(start, where, "start"), _seconds(duration, where, "duration")
        if label not in silences:
            words.append(_word(label, start_s, round(start_s + duration_s, 9), where))
    if recording is None and len(found) == 1:
        recording = next(iter(found))
    if recording not in found:
        raise SpeechError(f"{path} holds the recordings {sorted(found)}; choose one by name, got {recording!r}.")
    return _in_order(found[recording], f"{path}, recording {recording!r}")


def read_slamkit_alignment(path: str | os.PathLike[str]) -> tuple[TimedWord, ...]:
    """slamkit's alignment file of one sound: `{"text": " he was", "aligned_text": [[" he", 0.12, 0.30], ...]}`.

    Raises:
        SpeechError: not that, a word without its leading space, or a `text` that is not the words in a row.
    """
    record = _json(path)
    entries = _list(record.get("aligned_text") if isinstance(record, dict) else None, path, "aligned_text")
    words = []
    for index, entry in enumerate(entries):
        where = f"{path}, aligned_text[{index}]"
        if not isinstance(entry, list) or len(entry) != 3 or not isinstance(entry[0], str):
            raise SpeechError(f"{where} must be [word, start, end]; got {entry!r:.60}.")
        if index and not entry[0].startswith(" "):
            raise SpeechError(f"{where}: {entry[0]!r} has no leading space. Join it to the word before it.")
        words.append(_word(entry[0], _seconds(entry[1], where, "start"), _seconds(entry[2], where, "end"), where))
    spelled = "".join(entry[0] for entry in entries)
    if isinstance(record, dict) and record.get("text", spelled) != spelled:
        raise SpeechError(f"{path}: 'text' is {record['text']!r:.60} and its aligned words spell {spelled[:60]!r}.")
    return _in_order(words, str(path))


def read_whisper_json(path: str | os.PathLike[str]) -> tuple[TimedWord, ...]:
    """Word timestamps of Whisper: `segments[].words[]` with word, start, end; or the flat `chunks` of transformers.

    Raises:
        SpeechError: neither of the two, no word timestamps in it, or a word without its times.
    """
    record = _json(path)
    if not isinstance(record, dict) or not ("segments" in record or "chunks" in record):
        raise SpeechError(f"{path} must be a JSON object with 'segments' or 'chunks'.")
    words = []
    if "segments" in record:
        for index, segment in enumerate(_list(record["segments"], path, "segments")):
            if not isinstance(segment, dict) or "words" not in segment:
                raise SpeechError(f"{path}, segments[{index}] has no 'words'. Transcribe with word timestamps.")
            for place, entry in enumerate(_list(segment["words"], path, f"segments[{index}].words")):
                where = f"{path}, segments[{index}].words[{place}]"
                words.append(_from_fields(entry, "word", "start", "end", where))
    else:
        for index, chunk in enumerate(_list(record["chunks"], path, "chunks")):
            where = f"{path}, chunks[{index}]"
            times = chunk.get("timestamp") if isinstance(chunk, dict) else None
            if not isinstance(times, list) or len(times) != 2:
                raise SpeechError(
                    f"{where} must have 'timestamp': [start, end]; got {times!r:.60}. Transcribe with return_timestamps='word'."
                )
            words.append(_from_fields({**chunk, "start": times[0], "end": times[1]}, "text", "start", "end", where))
    return _in_order(words, str(path))


@dataclass(frozen=True)
class _Tier:
    """A tier: its name, and start, end, label and place of its intervals, None where it holds points."""

    name: str
    intervals: list[tuple[float, float, str, str]] | None


@dataclass(frozen=True)
class _Token:
    kind: str
    value: str
    line: int


class _TextGrid:
    """A TextGrid as Praat reads it: free-standing numbers, quoted texts and flags, in a fixed order.

    Everything else is there for people, which is why the long and the short format are one.
    """

    def __init__(self, path: str, text: str) -> None:
        self.path, self.tokens, self.next = path, _tokens(text, path), 0

    def tiers(self) -> list[_Tier]:
        if [self.take("text", "a file type").value, self.take("text", "an object class").value] != ["ooTextFile", "TextGrid"]:
            raise SpeechError(f'{self.path} is not a TextGrid: it must begin with "ooTextFile" and "TextGrid".')
        self.number("the start of the grid")
        self.number("the end of the grid")
        if self.take("flag", "<exists>").value != "<exists>":
            return []
        return [self.tier() for _ in range(self.count("tiers"))]

    def tier(self) -> _Tier:
        kind = self.take("text", "the class of a tier")
        name = self.take("text", "the name of a tier").value
        self.number("the start of a tier")
        self.number("the end of a tier")
        size = self.count(f"intervals of tier {name!r}")
        if kind.value == "IntervalTier":
            return _Tier(name, [self.interval() for _ in range(size)])
        if kind.value != "TextTier":
            raise SpeechError(f"{self.path}, line {kind.line}: a tier is an IntervalTier or a TextTier; got {kind.value!r}.")
        for _ in range(size):
            self.number("the time of a point")
            self.take("text", "the mark of a point")
        return _Tier(name, None)

    def interval(self) -> tuple[float, float, str, str]:
        start, end = self.number("the start of an interval"), self.number("the end of an interval")
        label = self.take("text", "the label of an interval")
        return start, end, label.value, f"{self.path}, line {label.line}"

    def count(self, what: str) -> int:
        token = self.take("number", f"the number of {what}")
        if not re.fullmatch(r"[0-9]{1,9}", token.value) or int(token.value) > len(self.tokens):
            raise SpeechError(f"{self.path}, line {token.line}: the number of {what} cannot be {token.value[:20]}. Is the file cut short?")
        return int(token.value)

    def number(self, what: str) -> float:
        token = self.take("number", what)
        return _seconds(token.value, f"{self.path}, line {token.line}", what)

    def take(self, kind: str, what: str) -> _Token:
        if self.next >= len(self.tokens):
            raise SpeechError(f"{self.path} ends where {what} should come. Is it cut short?")
        token = self.tokens[self.next]
        self.next += 1
        if token.kind != kind:
            raise SpeechError(f"{self.path}, line {token.line}: {what} should come here; got {token.value[:40]!r}.")
        return token


def _tokens(text: str, path: str) -> list[_Token]:
    """The texts, flags and free-standing numbers of a TextGrid, with their lines."""
    found, line, end = [], 1, 0
    for match in _TOKEN.finditer(text):
        line += text.count("\n", end, match.start())
        if match["text"] is not None:
            found.append(_Token("text", match["text"].replace('""', '"'), line))
        elif match["flag"] is not None:
            found.append(_Token("flag", match["flag"], line))
        elif match["bare"] is not None and _NUMBER.fullmatch(match["bare"]):
            found.append(_Token("number", match["bare"], line))
        line += text.count("\n", match.start(), match.end())
        end = match.end()
    if text.count('"') % 2:
        raise SpeechError(f"{path} has a text without its closing quotation mark. Is it cut short?")
    return found


def _text(path: str | os.PathLike[str]) -> str:
    """The text of a file, in UTF-8 or in UTF-16 with its mark, with lines that end in a line feed."""
    try:
        data = Path(path).read_bytes()
        encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        return data.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SpeechError(f"{path} cannot be read as text: {error}") from error


def _json(path: str | os.PathLike[str]) -> Any:
    try:
        return json.loads(_text(path))
    except SpeechError:
        raise
    except (ValueError, RecursionError) as error:
        raise SpeechError(f"{path} is not JSON: {error}. Is the file cut short?") from error


def _list(value: Any, path: str | os.PathLike[str], field: str) -> list[Any]:
    if not isinstance(value, list):
        raise SpeechError(f"{path}: '{field}' must be a list; got {value!r:.60}.")
    return value


def _from_fields(entry: Any, text: str, start: str, end: str, where: str) -> TimedWord:
    if not isinstance(entry, dict) or not isinstance(entry.get(text), str):
        raise SpeechError(f"{where} must be an object with a '{text}'; got {entry!r:.60}.")
    return _word(entry[text], _seconds(entry.get(start), where, start), _seconds(entry.get(end), where, end), where)


def _seconds(value: Any, where: str, field: str) -> float:
    """A number of seconds out of JSON or text. Whether it makes sense as a time is for the word to say."""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SpeechError(f"{where}: {field} must be a number of seconds; got {value!r:.60}.")
    try:
        return float(value)
    except OverflowError as error:
        raise SpeechError(f"{where}: {field} is too large to be a number of seconds.") from error


def _word(text: str, start_s: float, end_s: float, where: str) -> TimedWord:
    try:
        return TimedWord(text.strip(), start_s, end_s)
    except SpeechError as error:
        raise SpeechError(f"{where}: {error}") from error


def _in_order(words: Sequence[TimedWord], where: str) -> tuple[TimedWord, ...]:
    """The words, once there are some and none starts before the one in front of it."""
    if not words:
        raise SpeechError(f"{where} holds no words.")
    for before, after in pairwise(words):
        if after.start_s < before.start_s:
            raise SpeechError(
                f"{where}: {after.text!r} starts at {after.start_s} s, before {before.text!r} at {before.start_s} s. Sort the words."
            )
    return tuple(words)
