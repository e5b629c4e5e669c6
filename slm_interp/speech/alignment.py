"""Which second each word of a transcript sounds at: forced alignment.

1. The transcript is cut at blanks and dashes, punctuation around words is taken off, digits are refused.
2. Words outside the pronouncing dictionary are pronounced by eSpeak and added to it (`phones`).
3. A first pass of `pocketsphinx` finds the words, their variants and the silences between them; a second pass aligns
   the states of their phones, which gives times (every 10 ms) and a score of every frame. The lattice search between
   the passes is off and the beams are wide: with the defaults last words get lost and poor fits fail without a score.
4. *Some* alignment exists for any transcript, so a poor fit is what gives a wrong transcript away: `Limits`.

The acoustic model is the US English one inside the `pocketsphinx` wheel, trained on people; synthetic voices fit less well.
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
from slm_interp.speech import synthesis
from slm_interp.speech.audio import resample
from slm_interp.speech.phones import ARPABET, arpabet
from slm_interp.speech.words import TimedWord

SAMPLE_RATE: Final = 16_000
FRAME_S: Final = 0.01
STATES_PER_PHONE: Final = 3
BEAM: Final = 1e-120
PEAK: Final = 0.5
"""What the loudest sample is scaled to, so that a faint recording survives 16 bits."""
MARGIN_S: Final = 0.2
MARGIN_NOISE: Final = 10 / 32768
"""A fifth of a second of faint noise on both sides: without it the first and last word have no silence to start from."""


@dataclass(frozen=True)
class Limits:
    """Mean acoustic scores per frame below which a transcript is refused. 0 is the best score there is.

    Set on two clips of read speech and 32 sentences of eSpeak. With the right transcript the worst were -33 for a sound (people
    -17), -73 for a word (people -57) and -28 for a silence; with the transcript of another sound every sound was refused. Small
    faults can pass: of 20 each in the two clips, a word put in was refused 20 times, a word replaced 15, three
    words left out 17, one word left out 10. To accept what is refused, pass lower limits; `float("-inf")` accepts everything.

    Args:
        sound: mean of all frames, silences included.
        word: mean of the frames of any one word.
        silence: mean of any silence between words of at least `silence_s` seconds.
        silence_s: silences shorter than this are breaths and closures.
    """

    sound: float = -37.0
    word: float = -95.0
    silence: float = -35.0
    silence_s: float = 0.2


@dataclass(frozen=True)
class AlignedWord:
    """A word with its times, and the mean acoustic score of its frames: 0 at best, about -15 where sound and word agree."""

    word: TimedWord
    score: float


@dataclass(frozen=True)
class _Entry:
    """A word or silence of the second pass: frames and the sum of their scores."""

    name: str
    start: int
    frames: int
    score: int

    @property
    def fit(self) -> float:
        return self.score / self.frames

    @property
    def is_silence(self) -> bool:
        return self.name.startswith(("<", "["))


def align(
    audio: Audio, transcript: str, pronunciations: Mapping[str, str] | None = None, limits: Limits = Limits()
) -> tuple[TimedWord, ...]:
    """The words of a transcript with the seconds at which they sound.

    Args:
        audio: speech at any rate; it is resampled to 16 kHz.
        transcript: what is said, all of it and in order, in Latin letters. Numbers are written out.
        pronunciations: ARPABET phones of words that neither the dictionary nor eSpeak says as the speaker does,
            `{"lynde": "L IH N D"}`.
        limits: how poor a fit may be.

    Raises:
        SpeechError: a silent sound, a transcript without words or with digits, more phones than the sound has time
            for, or a transcript that is not what is said.
    """
    return tuple(aligned.word for aligned in align_with_scores(audio, transcript, pronunciations, limits))


def align_with_scores(
    audio: Audio, transcript: str, pronunciations: Mapping[str, str] | None = None, limits: Limits = Limits()
) -> tuple[AlignedWord, ...]:
    """`align`, and how well each word fits its frames.

    Raises:
        SpeechError: as `align`.
    """
    decoder = _decoder()
    words = _words(transcript, decoder)
    keys, phones = _teach(decoder, words, {word.lower(): said for word, said in (pronunciations or {}).items()})
    if STATES_PER_PHONE * FRAME_S * phones > audio.seconds:
        raise SpeechError(
            f"The transcript has {len(words)} words of at least {phones} phones and the sound lasts {audio.seconds:.2f} s; "
            f"a phone takes {STATES_PER_PHONE * FRAME_S:.2f} s or more. Is it the transcript of this sound?"
        )
    entries = _two_passes(decoder, _sixteen_bit(audio), keys)
    spoken = [entry for entry in entries if not entry.is_silence]
    if len(spoken) != len(words):
        raise _mismatch(f"{len(spoken)} of its {len(words)} words were found")
    _refuse_misfit(entries, words, limits)
    return tuple(
        AlignedWord(TimedWord(word, _seconds(entry.start, audio), _seconds(entry.start + entry.frames, audio)), entry.fit)
        for word, entry in zip(words, spoken, strict=True)
    )


def _words(transcript: str, decoder: Any) -> list[str]:
    """The words of a transcript, bare of punctuation, in their own case.

    An apostrophe at the edge stays where the dictionary knows the word by it ("'tis") and is a quotation mark elsewhere.
    """
    text = unicodedata.normalize("NFKC", transcript).replace("\u2019", "'").replace("\u2018", "'")
    words = []
    for piece in re.split(r"\s+|--+|[\u2012-\u2015]", text):
        word = re.sub(r"^[^\w']+|[^\w']+$", "", piece)
        if not word.strip("'_"):
            continue
        if decoder.lookup_word(word.lower()) is None:
            word = word.strip("'_")
        odd = next((letter for letter in word if not (letter in "'-." or unicodedata.name(letter, "").startswith("LATIN"))), None)
        if odd is not None and odd.isdigit():
            raise SpeechError(f"Digits are read in several ways: write {piece!r} out as it is said.")
        if odd is not None:
            raise SpeechError(f"The word {piece!r} holds {odd!r}. Write the transcript in Latin letters, with blanks between words.")
        words.append(word)
    if not words:
        raise SpeechError(f"There are no words in the transcript {transcript[:60]!r}.")
    return words


def _teach(decoder: Any, words: Sequence[str], pronunciations: Mapping[str, str]) -> tuple[list[str], int]:
    """The name of each word in the dictionary, once it is there, and the fewest phones all of them can be said with.

    A word that the caller pronounces gets a name of its own, so that the dictionary's variants do not compete.
    """
    keys, count = [], 0
    for word in words:
        key = word.lower()
        if key in pronunciations:
            phones = tuple(pronunciations[key].split())
            if not phones or not ARPABET.issuperset(phones):
                raise SpeechError(
                    f"The pronunciation of {word!r} must be made of {' '.join(sorted(ARPABET))}; got {pronunciations[key]!r}."
                )
            key = f"{key}@"
            if decoder.lookup_word(key) is None:
                decoder.add_word(key, " ".join(phones), True)
        elif decoder.lookup_word(key) is None:
            decoder.add_word(key, " ".join(arpabet(synthesis.phones(key), word)), True)
        keys.append(key)
        count += min(len(said.split()) for said in _variants(decoder, key))
    return keys, count


def _variants(decoder: Any, key: str) -> list[str]:
    """Every pronunciation of a word, in the dictionary's notation `the`, `the(2)`."""
    found = [decoder.lookup_word(key)]
    while (said := decoder.lookup_word(f"{key}({len(found) + 1})")) is not None:
        found.append(said)
    return found


def _decoder() -> Any:
    try:
        from pocketsphinx import Decoder
    except ImportError as error:
        raise missing_extra("pocketsphinx", "speech") from error
    return Decoder(loglevel="FATAL", lm=None, samprate=SAMPLE_RATE, bestpath=False, beam=BEAM, pbeam=BEAM, wbeam=BEAM)


def _sixteen_bit(audio: Audio) -> Int16[np.ndarray, " time"]:
    """The sound as the acoustic model wants it, between two margins of faint noise. The same sound gives the same samples."""
    samples = resample(audio, SAMPLE_RATE).samples.astype(np.float64)
    loudest = np.abs(samples).max()
    if loudest == 0:
        raise SpeechError("The sound is silent: all its samples are 0.")
    padded = np.pad(samples * (PEAK / loudest), round(MARGIN_S * SAMPLE_RATE))
    padded += np.random.default_rng(0).normal(0.0, MARGIN_NOISE, len(padded))
    return np.round(padded * 32767).astype(np.int16)


def _two_passes(decoder: Any, sound: Int16[np.ndarray, " time"], keys: Sequence[str]) -> list[_Entry]:
    """Words and silences in order, from the alignment of states."""
    try:
        decoder.set_align_text(" ".join(keys))
        _decode(decoder, sound)
        if decoder.hyp() is None:
            raise _mismatch("no path through its words fits")
        decoder.set_alignment()
        _decode(decoder, sound)
        alignment = decoder.get_alignment()
    except RuntimeError as error:
        raise _mismatch(str(error)) from error
    return [_Entry(entry.name, entry.start, entry.duration, entry.score) for entry in alignment]


def _decode(decoder: Any, sound: Int16[np.ndarray, " time"]) -> None:
    decoder.start_utt()
    decoder.process_raw(sound.astype("<i2").tobytes(), full_utt=True)
    decoder.end_utt()


def _refuse_misfit(entries: Sequence[_Entry], words: Sequence[str], limits: Limits) -> None:
    """Refuse a transcript of something else, one with a word that was not said, one that leaves speech out."""
    fit = sum(entry.score for entry in entries) / sum(entry.frames for entry in entries)
    if fit < limits.sound:
        raise _mismatch(f"the mean score of the sound is {fit:.0f} a frame, below {limits.sound:.0f}")
    worst, word = min(zip((entry for entry in entries if not entry.is_silence), words, strict=True), key=lambda pair: pair[0].fit)
    if worst.fit < limits.word:
        raise _mismatch(
            f"{word!r} is not what sounds near {worst.start * FRAME_S - MARGIN_S:.2f} s "
            f"(score {worst.fit:.0f} a frame, below {limits.word:.0f})"
        )
    for entry in entries:
        if entry.is_silence and entry.frames * FRAME_S >= limits.silence_s and entry.fit < limits.silence:
            start_s = max(0.0, entry.start * FRAME_S - MARGIN_S)
            raise _mismatch(
                f"nothing in it belongs to the sound from {start_s:.2f} s on, for {entry.frames * FRAME_S:.2f} s, which is not silence "
                f"(score {entry.fit:.0f} a frame, below {limits.silence:.0f})"
            )


def _mismatch(reason: str) -> SpeechError:
    return SpeechError(
        f"The transcript does not fit the sound: {reason}. Check that it is all of what is said and nothing else; "
        "for a name said in an unusual way give its phones in pronunciations; for a noisy recording pass lower limits."
    )


def _seconds(frame: int, audio: Audio) -> float:
    """A frame of the padded sound as a second of the sound itself."""
    return min(max(0.0, round(frame * FRAME_S - MARGIN_S, 3)), audio.seconds)
