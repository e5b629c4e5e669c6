"""Stimuli: eSpeak NG speaks a text and says exactly when each word sounds.

1. A fresh copy of the library is loaded for every call and unloaded after it. eSpeak keeps the phase of its
   oscillators, its noise and its clock in static variables that outlive even `espeak_Terminate`, so a second
   call in one process would give other samples. Fresh statics (about 5 ms) and a fixed noise seed make the
   sound a function of the arguments alone.
2. WORD events carry the sample at which a word starts; a word ends where the next one starts, or at the pause
   phoneme that eSpeak puts before it.
3. eSpeak's dictionary holds pairs such as "of the", which come back as one event. A word joiner (U+2060, silent)
   before the second word keeps them apart. What still does not match the words of the text is refused.

Voices are a language or an identifier of `voices()`, with a variant after a plus sign if wanted: `en-us`,
`en-gb-scotland`, `gmw/en`, `en-us+f3`.
"""

from __future__ import annotations

import ctypes
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from slm_interp.audio import Audio
from slm_interp.errors import SpeechError, missing_extra
from slm_interp.speech.words import TimedWord

RATES = (80, 450)
PITCHES = (0, 99)
NOISE_SEED = 1
WORD_JOINER = "\u2060"

# speak_lib.h
_RETRIEVAL, _PHONEME_EVENTS_AND_DONT_EXIT, _UTF8 = 1, 0x8001, 1
_RATE, _PITCH = 1, 3
_EVENT_WORD, _EVENT_PHONEME = 1, 7
_IPA = 0x02

_SILENT = frozenset(" \t\n\r-–—.,;:!?…'\"()[]“”‘’")  # what may stand alone without being spoken

_one_at_a_time = threading.Lock()


class _Id(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    ]


class _Voice(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("languages", ctypes.c_void_p),
        ("identifier", ctypes.c_char_p),
        ("gender", ctypes.c_ubyte),
        ("age", ctypes.c_ubyte),
        ("variant", ctypes.c_ubyte),
        ("unused", ctypes.c_ubyte),
        ("score", ctypes.c_int),
        ("spare", ctypes.c_void_p),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


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
class VoiceInfo:
    """A voice of eSpeak NG: its identifier (`gmw/en-US`), language (`en-us`) and name."""

    identifier: str
    language: str
    name: str


@dataclass(frozen=True)
class _Token:
    """A stretch of text between blanks: the word in it and where it starts and stops, in characters."""

    word: str
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class _Spoken:
    """What one call of the library gave: samples, (character, sample) of word events, (sample, is a pause) of phonemes."""

    samples: np.ndarray
    rate: int
    starts: list[tuple[int, int]]
    phonemes: list[tuple[int, bool]]


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
    identifier = _identifier(voice)
    tokens, spoken = _tokens(text), _speak(text, identifier, rate, pitch)
    first = _first_samples(text, tokens, spoken.starts)
    if len(first) < len(tokens):
        joined = {token.start for index, token in enumerate(tokens) if index not in first}
        text = "".join(WORD_JOINER + letter if position in joined else letter for position, letter in enumerate(text))
        tokens, spoken = _tokens(text), _speak(text, identifier, rate, pitch)
        first = _first_samples(text, tokens, spoken.starts)
    return Synthesis(Audio(spoken.samples, spoken.rate), _timed(tokens, first, spoken))


def pronounce(text: str, voice: str = "en-us") -> str:
    """How eSpeak would say a text, in IPA, words between blanks: `pronounce("paris") == "pˈæɹɪs"`."""
    return " ".join(_phonemes(text, voice, _IPA))


def phones(text: str, voice: str = "en-us") -> tuple[str, ...]:
    """How eSpeak would say a text, as its ASCII mnemonics with stress marks: `phones("bower") == ("b", "'aU", "3")`."""
    clauses = _phonemes(text, voice, ord("_") << 8)
    return tuple(phone for clause in clauses for phone in re.split(r"[_ ]+", clause) if phone)


@lru_cache(maxsize=1)
def voices() -> tuple[VoiceInfo, ...]:
    """Every voice that comes with eSpeak NG, sorted by identifier."""
    with _library() as (lib, _):
        lib.espeak_ListVoices.restype = ctypes.POINTER(ctypes.POINTER(_Voice))
        listed, found = lib.espeak_ListVoices(None), []
        while listed[len(found)]:
            one = listed[len(found)].contents
            language = ctypes.string_at(one.languages + 1).decode()  # a priority byte comes first
            found.append(VoiceInfo(one.identifier.decode(), language, one.name.decode()))
    return tuple(sorted(found, key=lambda one: one.identifier))


@lru_cache(maxsize=1)
def variants() -> tuple[str, ...]:
    """What may follow the plus sign of a voice."""
    return tuple(sorted(path.name for path in (Path(_loader().get_data_path()) / "voices" / "!v").iterdir()))


def _loader() -> Any:
    try:
        import espeakng_loader
    except ImportError as error:
        raise missing_extra("espeakng-loader", "speech") from error
    return espeakng_loader


def _c_library() -> Any:
    return ctypes.cdll.msvcrt if sys.platform == "win32" else ctypes.CDLL(None)


@contextmanager
def _library() -> Iterator[tuple[Any, int]]:
    """A freshly loaded library, initialised, and its sample rate; unloaded afterwards."""
    import _ctypes

    loader = _loader()
    with _one_at_a_time:
        lib = ctypes.CDLL(loader.get_library_path())
        try:
            rate = lib.espeak_Initialize(2, 0, loader.get_data_path().encode(), _PHONEME_EVENTS_AND_DONT_EXIT)
            if rate < 1:
                raise SpeechError(f"eSpeak NG would not start (code {rate}). Reinstall espeakng-loader: its voices come inside it.")
            lib.espeak_ng_SetRandSeed(ctypes.c_long(NOISE_SEED))
            _c_library().srand(NOISE_SEED)  # two variants breathe with C's own rand
            yield lib, rate
            lib.espeak_Terminate()
        finally:
            handle = lib._handle
            del lib
            (_ctypes.FreeLibrary if sys.platform == "win32" else _ctypes.dlclose)(handle)


def _identifier(voice: str) -> str:
    """The identifier eSpeak loads, for a language or identifier with or without a variant."""
    base, plus, variant = voice.partition("+")
    known = {one.language: one.identifier for one in reversed(voices())} | {one.identifier: one.identifier for one in voices()}
    for kind, name, choices in (("voice", base, tuple(known)), ("variant", variant, variants())):
        if name not in choices and (plus or kind == "voice"):
            closest = ", ".join(get_close_matches(name, choices, n=4, cutoff=0.3)) or ", ".join(choices[:4])
            raise SpeechError(f"eSpeak has no {kind} {name!r}. Closest: {closest}. See voices() and variants().")
    return known[base] + plus + variant


def _select(lib: Any, identifier: str) -> None:
    if lib.espeak_SetVoiceByName(identifier.encode()) != 0:
        raise SpeechError(f"eSpeak could not load the voice {identifier!r}. See voices().")


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


def _speak(text: str, identifier: str, rate: int, pitch: int) -> _Spoken:
    chunks: list[np.ndarray] = []
    starts: list[tuple[int, int]] = []
    phonemes: list[tuple[int, bool]] = []

    def collect(samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        index = 0
        while events[index].type:
            event = events[index]
            if event.type == _EVENT_WORD:
                starts.append((event.text_position - 1, event.sample))
            elif event.type == _EVENT_PHONEME:
                phonemes.append((event.sample, event.id.string.startswith(b"_")))
            index += 1
        return 0

    with _library() as (lib, sample_rate):
        _select(lib, identifier)
        callback = _Callback(collect)
        lib.espeak_SetSynthCallback(callback)
        lib.espeak_SetParameter(_RATE, rate, 0)
        lib.espeak_SetParameter(_PITCH, pitch, 0)
        data = text.encode("utf-8")
        code = lib.espeak_Synth(data, ctypes.c_size_t(len(data) + 1), 0, 1, 0, _UTF8, None, None)
    if code != 0 or not chunks:
        raise SpeechError(f"eSpeak could not speak {text!r} (code {code}).")
    return _Spoken(np.concatenate(chunks).astype(np.float32) / np.float32(32768), sample_rate, starts, phonemes)


def _first_samples(text: str, tokens: list[_Token], starts: list[tuple[int, int]]) -> dict[int, int]:
    """The first event of each token. A position on a blank (eSpeak counts so after a full stop) means the next token."""
    first: dict[int, int] = {}
    for character, sample in starts:
        owner = next((index for index, token in enumerate(tokens) if character < token.stop), None)
        if owner is None or set(text[character : tokens[owner].start]) - _SILENT:
            raise SpeechError(f"eSpeak speaks {text[character:].split()[0]!r} in {text!r}, which is no word. Write signs as words.")
        first.setdefault(owner, sample)
    return first


def _timed(tokens: list[_Token], first: dict[int, int], spoken: _Spoken) -> tuple[TimedWord, ...]:
    silent = [token.word for index, token in enumerate(tokens) if index not in first]
    begins = [first.get(index, 0) for index in range(len(tokens))]
    if silent or any(after <= before for before, after in zip(begins, begins[1:], strict=False)):
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


def _phonemes(text: str, voice: str, mode: int) -> list[str]:
    """eSpeak's phonemes, one string a clause."""
    _tokens(text)
    identifier, found = _identifier(voice), []
    with _library() as (lib, _):
        _select(lib, identifier)
        lib.espeak_TextToPhonemes.restype = ctypes.c_char_p
        rest = ctypes.c_void_p(ctypes.cast(ctypes.c_char_p(data := text.encode("utf-8")), ctypes.c_void_p).value)
        while rest.value:
            found.append(lib.espeak_TextToPhonemes(ctypes.byref(rest), _UTF8, mode).decode("utf-8"))
        del data
    return [clause for clause in found if clause]
