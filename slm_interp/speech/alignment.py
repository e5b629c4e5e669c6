"""Which second each word of a transcript sounds at: forced alignment.

1. The transcript is cut at blanks and dashes; punctuation around words is taken off, digits are refused.
2. Words outside the pronouncing dictionary are pronounced by eSpeak and added (`phones`).
3. A first pass of `pocketsphinx` finds the words, their variants and the silences between them in the sound; a second
   pass aligns the states of their phones, which gives the times (every 10 ms) and how well each frame fits.
4. What does not fit is refused: an alignment is always found for *some* text, so a poor fit means another text.

The acoustic model is the US English one that comes inside the `pocketsphinx` wheel.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import Int16

from slm_interp.audio import Audio
from slm_interp.errors import SpeechError, missing_extra
from slm_interp.speech import phones as phone_table
from slm_interp.speech import synthesis
from slm_interp.speech.audio import resample
from slm_interp.speech.words import TimedWord

SAMPLE_RATE: Final = 16_000
FRAME_S: Final = 0.01
STATES_PER_PHONE: Final = 3
PEAK: Final = 0.5

WORST_FIT: Final = -35.0
"""Mean acoustic score a frame below which sound and transcript do not belong together (measured: see the tests)."""

_DASHES = re.compile(r"\s+|--+|[\u2012-\u2015]")


@dataclass(frozen=True)
class AlignedWord:
    """A word with its times and its fit.

    Args:
        word: text and seconds.
        score: mean acoustic score of its frames, 0 at best; about -15 where text and sound agree.
    """

    word: TimedWord
    score: float


def align(audio: Audio, transcript: str, pronunciations: Mapping[str, str] | None = None) -> tuple[TimedWord, ...]:
    """The words of a transcript with the seconds at which they sound.

    Args:
        audio: speech at any rate; it is resampled to 16 kHz.
        transcript: what is said, all of it and in order, in Latin letters. Numbers are written out.
        pronunciations: ARPABET phones for words that neither the dictionary nor eSpeak says as the speaker does.

    Raises:
        SpeechError: a silent sound, a transcript without words or with digits, more phones than the sound has time
            for, or a transcript that is not what is said.
    """
    return tuple(aligned.word for aligned in align_with_scores(audio, transcript, pronunciations))


def align_with_scores(audio: Audio, transcript: str, pronunciations: Mapping[str, str] | None = None) -> tuple[AlignedWord, ...]:
    """`align`, with how well each word fits its frames: a low score marks the word that was not said.

    Raises:
        SpeechError: as `align`.
    """
    decoder = _decoder()
    words = transcript_words(transcript, known=lambda key: decoder.lookup_word(key) is not None)
    keys = [word.lower() for word in words]
    phones = _teach(decoder, keys, {word.lower(): said for word, said in (pronunciations or {}).items()})
    sound = _sixteen_bit(audio)
    _refuse_haste(phones, audio.seconds)
    entries = _entries(decoder, sound, keys)
    aligned = [
        AlignedWord(
            TimedWord(word, entry.start * FRAME_S, min((entry.start + entry.duration) * FRAME_S, audio.seconds)),
            entry.score / entry.duration,
        )
        for word, entry in zip(words, entries, strict=True)
    ]
    fit = sum(entry.score for entry in entries) / sum(entry.duration for entry in entries)
    if fit < WORST_FIT:
        raise _mismatch(f"the mean acoustic score of its words is {fit:.1f} a frame, below {WORST_FIT:.0f}")
    return tuple(aligned)
