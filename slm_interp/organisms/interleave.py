"""Interleaving by words, as slamkit does it: `<speech>` units `<text>` words `<speech>` ...

A sentence is cut into runs of words that are alternately heard and read. A marker stands before every run, the first
included. A heard run has the units between the start of its first word and the end of its last
(`slm_interp.speech.spans.unit_slice`, slamkit's rule); a read run has its words with their leading spaces, and a period
where the sentence ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from slm_interp.errors import SpeechError
from slm_interp.prompt import Modality
from slm_interp.speech.spans import unit_slice
from slm_interp.speech.units import Units
from slm_interp.speech.words import TimedWord


@dataclass(frozen=True)
class Codes:
    """What a joint vocabulary calls things.

    Args:
        words: ids of each word.
        first_unit: id of unit 0.
        markers: id of each modality's marker.
    """

    words: Mapping[str, tuple[int, ...]]
    period: int
    first_unit: int
    markers: Mapping[Modality, int]


@dataclass(frozen=True)
class Run:
    """Words `start` up to but not including `stop` in one modality."""

    modality: Modality
    start: int
    stop: int


def runs(n_words: int, lengths: tuple[int, int], rng: np.random.Generator) -> tuple[Run, ...]:
    """Cut `n_words` into runs of `lengths[0]` to `lengths[1]` words; a coin decides which modality comes first.

    The last run may be shorter than the shortest.

    Raises:
        SpeechError: no words, or lengths that are not 1 <= shortest <= longest.
    """
    shortest, longest = lengths
    if n_words < 1 or not 1 <= shortest <= longest:
        raise SpeechError(
            f"Interleaving needs at least one word and 1 <= shortest <= longest run; got {n_words} words, runs of {shortest} to {longest}."
        )
    speech, start, cut = bool(rng.integers(2)), 0, []
    while start < n_words:
        stop = min(n_words, start + int(rng.integers(shortest, longest + 1)))
        cut.append(Run("speech" if speech else "text", start, stop))
        speech, start = not speech, stop
    return tuple(cut)


def overlap(words: Sequence[TimedWord], cut: Sequence[Run], chance: float, rng: np.random.Generator) -> Float[np.ndarray, " run"]:
    """By how many seconds each run's start comes late where its first word is still heard, for the second half of it or a part of that.

    0 for runs that are heard, and for one read run in `1 - chance`.
    """
    late = np.zeros(len(cut))
    for number, run in enumerate(cut):
        share, falls = rng.uniform(0.5, 1.0), rng.random() < chance
        if run.modality == "text" and falls:
            late[number] = share * (words[run.start].end_s - words[run.start].start_s)
    return late


def interleaved(
    words: Sequence[TimedWord], units: Units, cut: Sequence[Run], codes: Codes, late: Sequence[float] = (), unmarked: Sequence[bool] = ()
) -> list[int]:
    """Ids of a sentence whose runs are heard and read in turn. A heard run without a unit of its own keeps its marker only.

    Args:
        late: by how many seconds the boundary before each run was put too late by whoever aligned the words (before the
            first run it is not used); none if not given.
        unmarked: whether the marker of a run is left out; never, if not given. The first run keeps its own.
    """
    late, unmarked = late or [0.0] * len(cut), unmarked or [False] * len(cut)
    ids: list[int] = []
    for number, run in enumerate(cut):
        if number == 0 or not unmarked[number]:
            ids.append(codes.markers[run.modality])
        if run.modality == "speech":
            start_s = words[run.start].start_s + (late[number] if number else 0.0)
            end_s = words[run.stop - 1].end_s + (late[number + 1] if number + 1 < len(cut) else 0.0)
            heard = units.units[unit_slice(units, max(0.0, start_s), max(0.0, start_s, end_s))]
            ids += [codes.first_unit + int(unit) for unit in heard]
        else:
            ids += [identifier for word in words[run.start : run.stop] for identifier in codes.words[word.text]]
    if cut[-1].modality == "text":
        ids.append(codes.period)
    return ids


def joined(sentences: Sequence[Sequence[int]], codes: Codes) -> list[int]:
    """Sentences that open with a marker, one after the other; a marker that would change nothing is left out."""
    ids: list[int] = []
    markers = set(codes.markers.values())
    now = None
    for sentence in sentences:
        ids += sentence[1:] if sentence[0] == now else sentence
        now = next((one for one in reversed(sentence) if one in markers), now)
    return ids


def written(words: Sequence[tuple[int, ...]], codes: Codes) -> list[int]:
    """Ids of a sentence that is read throughout."""
    return [codes.markers["text"], *(identifier for word in words for identifier in word), codes.period]


def spoken(units: Units, codes: Codes) -> list[int]:
    """Ids of a sentence that is heard throughout, silence at its ends included."""
    return [codes.markers["speech"], *(codes.first_unit + int(unit) for unit in units.units)]
