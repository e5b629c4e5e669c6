"""What is known of one clip of a corpus: what stands beside its sound, and what the cells of a table hold."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Final

import numpy as np
import pandas as pd

from slm_interp.audio import Audio
from slm_interp.errors import SpeechError, missing_extra
from slm_interp.speech.audio import read_audio
from slm_interp.speech.importers import read_words
from slm_interp.speech.slamkit_files import FRAME_S
from slm_interp.speech.units import Units
from slm_interp.speech.words import TimedWord

ALIGNED: Final = (".TextGrid", ".ctm", ".json")


@dataclass(frozen=True, eq=False)
class Clip:
    """One clip before the model has seen it.

    Args:
        name: unique in its corpus.
        where: file, and line or row, for messages.
        units: where they exist already; else they are made from
        audio: the sound, read when it is needed.
        words: with their seconds; else they are aligned from
        text: the transcript.
        answer: what the prompt asks for.
    """

    name: str
    where: str
    units: Units | None = None
    audio: Callable[[], Audio] | None = None
    words: tuple[TimedWord, ...] | None = None
    text: str | None = None
    answer: str | None = None


def transcripts(folder: Path) -> dict[str, tuple[str, str | None]]:
    """Text and answer of clips by their names, from a table in the folder."""
    found: dict[str, tuple[str, str | None]] = {}
    if (path := folder / "transcripts.json").is_file():
        try:
            found = {str(name): (str(text), None) for name, text in json.loads(path.read_text(encoding="utf-8")).items()}
        except (ValueError, AttributeError) as error:
            raise SpeechError(f"{path} must be a JSON object of texts by name: {error}.") from error
    for suffix, separator in ((".csv", ","), (".tsv", "\t")):
        if not (path := folder / f"transcripts{suffix}").is_file():
            continue
        frame = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False)
        if not {"name", "text"} <= set(frame):
            raise SpeechError(f"{path} needs the columns name and text, and may have answer; it has {', '.join(frame.columns)}.")
        for line, row in enumerate(frame.to_dict("records"), start=2):
            name = PurePath(row["name"]).stem
            if name in found:
                raise SpeechError(f"{path}, line {line}: a second transcript of {name!r}. Remove one.")
            found[name] = (row["text"], row.get("answer") or None)
    return found


def beside(
    folder: Path, stem: str, told: Mapping[str, tuple[str, str | None]]
) -> tuple[tuple[TimedWord, ...] | None, str | None, str | None]:
    """Words, transcript and answer that stand beside a clip."""
    text, answer = told.get(stem, (None, None))
    written = folder / f"{stem}.txt"
    if text is None and written.is_file():
        text = written.read_text(encoding="utf-8")
    aligned = next((path for suffix in ALIGNED if (path := folder / f"{stem}{suffix}").is_file()), None)
    return None if aligned is None else read_words(aligned), text, answer


def reader(path: Path) -> Callable[[], Audio]:
    """What reads a sound file when it is asked to."""
    return lambda: read_audio(path)


def sound_of(cell: Any, where: str, folder: Path) -> Callable[[], Audio]:
    """Sound as `datasets` write it, as an array, or as the path of a file."""
    if isinstance(cell, str):
        return reader(folder / cell)
    if isinstance(cell, Mapping) and cell.get("array") is not None:
        return lambda: Audio(np.asarray(cell["array"], dtype=np.float32), int(cell["sampling_rate"]))
    held = cell if isinstance(cell, bytes) else cell.get("bytes") if isinstance(cell, Mapping) else None
    if held is not None:
        return lambda: _decoded(held, where)
    if isinstance(cell, Mapping) and cell.get("path"):
        return reader(folder / cell["path"])
    raise SpeechError(f"{where}: sound is bytes, a path, or an array with its sampling_rate; got {cell!r:.60}.")


def _decoded(held: bytes, where: str) -> Audio:
    try:
        import soundfile
    except ImportError as error:
        raise missing_extra("soundfile", "speech") from error
    try:
        samples, rate = soundfile.read(io.BytesIO(held), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise SpeechError(f"{where}: {len(held)} bytes that are no sound: {error.error_string}") from error
    if samples.shape[1] != 1:
        raise SpeechError(f"{where}: the sound has {samples.shape[1]} channels. Store one.")
    return Audio(np.ascontiguousarray(samples[:, 0]), rate)


def units_of(cell: Mapping[str, Any], where: str) -> Units:
    """The cells `units` and, where there are any, `durations`; without them a unit lasts one frame of slamkit's 40 ms."""
    try:
        units = np.array(cell["units"], dtype=np.int64)  # Parquet gives arrays that cannot be written to
        durations = np.asarray(cell.get("durations", np.ones_like(units)), dtype=np.int64)
        return Units(units, durations, FRAME_S)
    except (TypeError, ValueError) as error:
        raise SpeechError(f"{where}: units and durations are lists of whole numbers, equally many: {error}") from error


def words_of(cell: Any, where: str) -> tuple[TimedWord, ...]:
    """Words with their seconds: `[word, start, end]` each, or objects with those keys (`text` will do), or three lists in one object."""
    if isinstance(cell, Mapping):
        spelled = cell.get("word", cell.get("text"))
        entries = [*zip(spelled, cell["start"], cell["end"], strict=True)] if spelled is not None and {"start", "end"} <= set(cell) else []
    else:
        entries = list(cell) if isinstance(cell, Sequence | np.ndarray) and not isinstance(cell, str) else []
    if not entries:
        raise SpeechError(f"{where} must list words with start and end in seconds; got {cell!r:.60}.")
    return tuple(_word_of(one, f"{where}[{index}]") for index, one in enumerate(entries))


def _word_of(one: Any, where: str) -> TimedWord:
    try:
        text, start, end = (one.get("word", one.get("text")), one["start"], one["end"]) if isinstance(one, Mapping) else one
        return TimedWord(str(text).strip(), float(start), float(end))
    except (SpeechError, KeyError, TypeError, ValueError) as error:
        raise SpeechError(f"{where} must be a word with its start and end in seconds; got {one!r:.60}: {error}") from error


def text_of(cell: Mapping[str, Any], name: str, where: str) -> str | None:
    """A cell of written words, or None where no column is mapped to it."""
    if name not in cell:
        return None
    if not isinstance(cell[name], str) or not cell[name].strip():
        raise SpeechError(f"{where}: {name} must be written words; got {cell[name]!r:.60}.")
    return str(cell[name]).strip()
