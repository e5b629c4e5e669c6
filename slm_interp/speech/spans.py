"""From seconds to positions: which units carry a word, by the rule slamkit trained its models with.

Let `T[k]` be the second at which unit `k` ends (the running sum of the durations). slamkit gives a stretch of
speech from `start` to `end` the units `bisect_left(T, start)` up to but not including `bisect_right(T, end)`: from the
first unit that *ends at or after* `start` to the last unit that *ends at or before* `end`
(`InterleavingTokeniser` of slamkit). What follows from it:

- The unit that sounds across `start` belongs to the word, the unit that sounds across `end` does not: words sit up to
  one unit early. Two words that touch at a second inside a unit leave no gap: that unit goes to the later word.
- Where a word starts exactly on an edge, the unit that ends there is counted too, although none of it sounds in the
  word. Two words that touch exactly on an edge therefore share one unit. Spans of an utterance do not overlap, so
  the shared unit goes to the earlier word, in which it sounds. This is the only departure from slamkit.
- A word that begins and ends inside one unit (short words, long merged repeats) has no unit.

Seconds are compared as whole microseconds. slamkit compares floats, where `35 * 0.04 > 1.4`: at 263 of the first 2,000
multiples of 40 ms its edge lies one rounding error late, so that a time exactly on that edge counts as before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Int

from slm_interp.errors import SpeechError
from slm_interp.speech.units import Units
from slm_interp.speech.words import TimedWord
from slm_interp.utterance import Span, Word


@dataclass(frozen=True)
class HeardWords:
    """Timed words, told apart by whether any unit carries them.

    Args:
        words: those with at least one unit of their own, in order.
        without_units: the others, in order.
    """

    words: tuple[TimedWord, ...]
    without_units: tuple[TimedWord, ...]


def words_to_spans(words: Sequence[TimedWord], units: Units, offset: int = 0) -> tuple[Word, ...]:
    """Each word with the positions of its units: spans in order that do not overlap, ready for an `Utterance`.

    Args:
        words: in order of time.
        units: what the sound was turned into.
        offset: position of the first unit, that is, the number of tokens before it.

    Raises:
        SpeechError: words that run backwards or overlap in time, that end after the units do, or that no unit
            carries (named; `heard_words` tells them apart, for callers who leave them out on purpose).
    """
    if offset < 0:
        raise SpeechError(f"An offset is the number of tokens before the first unit, 0 or more; got {offset}.")
    slices = _own_slices(words, units)
    silent = [word for word, own in zip(words, slices, strict=True) if own.stop <= own.start]
    if silent:
        named = ", ".join(f"{word.text!r} ({word.start_s:.2f} to {word.end_s:.2f} s)" for word in silent)
        raise SpeechError(
            f"No unit belongs to {len(silent)} of {len(words)} words: {named}. They lie inside one unit. "
            "To leave them out, pass heard_words(words, units).words."
        )
    return tuple(
        Word(word.text, Span(own.start, own.stop).shifted(offset), word.start_s, word.end_s)
        for word, own in zip(words, slices, strict=True)
    )


def heard_words(words: Sequence[TimedWord], units: Units) -> HeardWords:
    """The words that have units, and those that have none. Leaving the latter out changes nobody else's units.

    Raises:
        SpeechError: words that run backwards or overlap in time, or that end after the units do.
    """
    slices = _own_slices(words, units)
    pairs = list(zip(words, slices, strict=True))
    return HeardWords(
        words=tuple(word for word, own in pairs if own.stop > own.start),
        without_units=tuple(word for word, own in pairs if own.stop <= own.start),
    )


def unit_slice(units: Units, start_s: float, end_s: float) -> slice:
    """slamkit's rule as it stands: units of the sound from `start_s` to `end_s` (seconds). Neighbours may share one.

    The slice is empty (`stop <= start`) where no unit ends inside the stretch.

    Raises:
        SpeechError: times that are negative or run backwards.
    """
    if not 0 <= start_s <= end_s < float("inf"):
        raise SpeechError(f"A stretch of sound starts at or after 0 s and does not end before it starts; got {start_s} to {end_s}.")
    return _slice(_ends(units), start_s, end_s)


def _own_slices(words: Sequence[TimedWord], units: Units) -> list[slice]:
    """Per word, slamkit's slice less the unit that the word before already has."""
    ends = _ends(units)
    _refuse_disorder(words, float(ends[-1]) / 1e6, units.frame_s)
    slices, taken = [], 0
    for word in words:
        own = _slice(ends, word.start_s, word.end_s)
        own = slice(max(own.start, taken), own.stop)
        taken = max(taken, own.stop)
        slices.append(own)
    return slices


def _slice(ends: Int[np.ndarray, " unit"], start_s: float, end_s: float) -> slice:
    return slice(
        int(np.searchsorted(ends, _microseconds(start_s), side="left")),
        int(np.searchsorted(ends, _microseconds(end_s), side="right")),
    )


def _ends(units: Units) -> Int[np.ndarray, " unit"]:
    """Where each unit ends, in whole microseconds."""
    frames = np.cumsum(np.asarray(units.durations, dtype=np.int64))
    return np.round(frames * (units.frame_s * 1e6)).astype(np.int64)


def _microseconds(seconds: float) -> int:
    return round(seconds * 1e6)


def _refuse_disorder(words: Sequence[TimedWord], seconds: float, frame_s: float) -> None:
    """Words must follow one another and belong to the sound that the units came from."""
    for before, after in pairwise(words):
        if _microseconds(after.start_s) < _microseconds(before.end_s):
            raise SpeechError(
                f"Words must follow one another; {after.text!r} starts at {after.start_s} s, "
                f"before {before.text!r} ends at {before.end_s} s."
            )
    if words and words[-1].end_s > seconds + 2 * frame_s:
        raise SpeechError(
            f"The units last {seconds:.2f} s and the word {words[-1].text!r} ends at {words[-1].end_s:.2f} s. Are both from the same sound?"
        )
