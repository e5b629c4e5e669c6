"""Stimuli: eSpeak NG speaks a text and says exactly when each word sounds.

1. WORD events carry the sample at which a word starts; a word ends where the next one starts, or at the pause
   phoneme that eSpeak puts before it.
2. eSpeak's dictionary holds pairs such as "of the", which come back as one event. A word joiner (U+2060, silent)
   before the second word keeps them apart. What still does not match the words of the text is refused.

The library itself, and why the same arguments give the same samples, is in `espeak.py`.
Voices are a language or an identifier of `voices()`, with a variant after a plus sign if wanted: `en-us`,
`en-gb-scotland`, `gmw/en`, `en-us+f3`.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

from slm_interp.audio import Audio
from slm_interp.errors import SpeechError
from slm_interp.speech import espeak
from slm_interp.speech.espeak import voices
from slm_interp.speech.words import TimedWord

__all__ = ["Synthesis", "phones", "pronounce", "synthesise", "voices"]

RATES = (80, 450)
PITCHES = (0, 99)
WORD_JOINER = "\u2060"

_SILENT = frozenset(" \t\n\r-–—.,;:!?…'\"()[]“”‘’")  # what may stand alone without being spoken


@dataclass(frozen=True, eq=False)
class Synthesis:
    """A spoken text.

    Args:
        audio: what was said, at eSpeak's own rate (22,050 Hz).
        words: the words of the text, in order, with their seconds.
    """

    audio: Audio
    words: tuple[TimedWord, ...]


@dataclass(frozen=True)
class _Token:
    """A stretch of text between blanks: the word in it and where it starts and stops, in characters."""

    word: str
    start: int
    stop: int


def synthesise(text: str, voice: str = "en-us", rate: int = 175, pitch: int = 50) -> Synthesis:
    """Speak a text. The same arguments give the same samples, in any order and any process.

    Args:
        text: words between blanks; punctuation makes pauses. Numbers are one word however long they take to say.
        voice: see `voices`; a variant follows a plus sign.
        rate: words a minute, 80 to 450.
        pitch: 0 to 99, 50 is the voice's own.

    Raises:
        SpeechError: no words, control characters, an unknown voice, a rate or pitch out of range, or a text
            whose words eSpeak does not report one by one.
    """
    for name, value, (low, high) in (("rate", rate, RATES), ("pitch", pitch, PITCHES)):
        if not low <= value <= high:
            raise SpeechError(f"eSpeak's {name} lies in {low}..{high}; got {value}.")
    tokens, spoken = _tokens(text), espeak.speak(text, voice, rate, pitch)
    first = _first_samples(text, tokens, spoken.starts)
    if len(first) < len(tokens):
        joined = {token.start for index, token in enumerate(tokens) if index not in first}
        text = "".join(WORD_JOINER + letter if position in joined else letter for position, letter in enumerate(text))
        tokens, spoken = _tokens(text), espeak.speak(text, voice, rate, pitch)
        first = _first_samples(text, tokens, spoken.starts)
    return Synthesis(Audio(spoken.samples, spoken.rate), _timed(tokens, first, spoken))


def pronounce(text: str, voice: str = "en-us") -> str:
    """How eSpeak would say a text, in IPA, words between blanks: `pronounce("paris") == "pˈæɹɪs"`."""
    _tokens(text)
    return " ".join(espeak.phonemes(text, voice, espeak.IPA_MODE))


def phones(text: str, voice: str = "en-us") -> tuple[str, ...]:
    """How eSpeak would say a text, as its ASCII mnemonics with stress marks: `phones("bower") == ("b", "'aU", "3")`."""
    _tokens(text)
    clauses = espeak.phonemes(text, voice, espeak.MNEMONIC_MODE)
    return tuple(phone for clause in clauses for phone in re.split(r"[_ ]+", clause) if phone)


def _tokens(text: str) -> list[_Token]:
    """The words of a text, bare of the punctuation around them."""
    control = next((letter for letter in text if ord(letter) < 32 and not letter.isspace()), None)
    if control is not None:
        raise SpeechError(f"The text holds the control character {control!r}, which eSpeak would take for a command. Remove it.")
    found = []
    for match in re.finditer(r"\S+", text):
        inside = re.search(r"\w(?:.*\w)?", match.group())
        if inside:
            found.append(_Token(inside.group(), match.start(), match.end()))
    if not found:
        raise SpeechError(f"There is no word to speak in {text!r}.")
    return found


def _first_samples(text: str, tokens: list[_Token], starts: list[tuple[int, int]]) -> dict[int, int]:
    """The first event of each token. A position on a blank (eSpeak counts so after a full stop) means the next token."""
    first: dict[int, int] = {}
    for character, sample in starts:
        owner = next((index for index, token in enumerate(tokens) if character < token.stop), None)
        if owner is None or set(text[character : tokens[owner].start]) - _SILENT:
            raise SpeechError(f"eSpeak speaks {text[character:].split()[0]!r} in {text!r}, which is no word. Write signs as words.")
        first.setdefault(owner, sample)
    return first


def _timed(tokens: list[_Token], first: dict[int, int], spoken: espeak.Spoken) -> tuple[TimedWord, ...]:
    silent = [token.word for index, token in enumerate(tokens) if index not in first]
    begins = [first.get(index, 0) for index in range(len(tokens))]
    if silent or any(after <= before for before, after in itertools.pairwise(begins)):
        raise SpeechError(
            f"eSpeak did not report the words {[token.word for token in tokens]} one by one (missing: {silent}). "
            "Write numbers and signs as words, and abbreviations without inner full stops."
        )
    words = []
    for token, begin, limit in zip(tokens, begins, [*begins[1:], len(spoken.samples)], strict=True):
        end = limit
        for sample, pause in reversed([one for one in spoken.phonemes if begin < one[0] < limit]):
            if not pause:
                break
            end = sample
        words.append(TimedWord(token.word, begin / spoken.rate, end / spoken.rate))
    return tuple(words)
