"""eSpeak NG through ctypes: the library inside `espeakng-loader`, its voices, its events.

A fresh copy of the library is loaded for every call and unloaded after it. eSpeak keeps the phase of its oscillators,
its noise and its clock in static variables that outlive even `espeak_Terminate`, so a second call in one process would
give other samples. Fresh statics (about 5 ms) and fixed noise seeds make the sound a function of the arguments alone.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from slm_interp.errors import SpeechError, missing_extra

NOISE_SEED = 1

# speak_lib.h
_RETRIEVAL, _PHONEME_EVENTS_AND_DONT_EXIT, _UTF8 = 1, 0x8001, 1
_RATE, _PITCH = 1, 3
_EVENT_WORD, _EVENT_PHONEME = 1, 7
IPA_MODE = 0x02
MNEMONIC_MODE = ord("_") << 8  # phones with underscores between them

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


@dataclass(frozen=True)
class VoiceInfo:
    """A voice of eSpeak NG: its identifier (`gmw/en-US`), language (`en-us`) and name."""

    identifier: str
    language: str
    name: str


@dataclass(frozen=True, eq=False)
class Spoken:
    """What one call of the library gave: samples, (character, sample) of word events, (sample, is a pause) of phonemes."""

    samples: Float[np.ndarray, " time"]
    rate: int
    starts: list[tuple[int, int]]
    phonemes: list[tuple[int, bool]]


@lru_cache(maxsize=1)
def voices() -> tuple[VoiceInfo, ...]:
    """Every voice that comes with eSpeak NG, sorted by identifier."""
    with _library() as (lib, _):
        lib.espeak_ListVoices.restype = ctypes.POINTER(ctypes.POINTER(_Voice))
        listed = lib.espeak_ListVoices(None)
        found: list[VoiceInfo] = []
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


def _held_by_others(path: str) -> bool:
    """Whether another package of this process has the library loaded, so that unloading it would not reset its statics."""
    if not hasattr(os, "RTLD_NOLOAD"):
        return False
    import _ctypes

    try:
        handle = _ctypes.dlopen(path, os.RTLD_NOLOAD | os.RTLD_LAZY)
    except OSError:
        return False
    _ctypes.dlclose(handle)
    return True


@lru_cache(maxsize=1)
def _private_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="espeak-")


def _private_copy(path: str) -> str:
    """The same library under a name of this process's own, which the loader takes for another one."""
    copy = Path(_private_folder().name) / Path(path).name
    if not copy.is_file():
        shutil.copyfile(path, copy)
    return str(copy)


@contextmanager
def _library() -> Iterator[tuple[Any, int]]:
    """A freshly loaded library, initialised, and its sample rate; unloaded afterwards."""
    import _ctypes

    loader = _loader()
    with _one_at_a_time:
        path = loader.get_library_path()
        lib = ctypes.CDLL(_private_copy(path) if _held_by_others(path) else path)
        try:
            rate = lib.espeak_Initialize(2, 0, loader.get_data_path().encode(), _PHONEME_EVENTS_AND_DONT_EXIT)
            if rate < 1:
                raise SpeechError(f"eSpeak NG would not start (code {rate}). Reinstall espeakng-loader: its voices come inside it.")
            lib.espeak_ng_SetRandSeed(ctypes.c_long(NOISE_SEED))
            _c_library().srand(NOISE_SEED)  # two variants breathe with C's own rand
            yield lib, rate
        finally:
            lib.espeak_Terminate()
            handle = lib._handle
            del lib
            getattr(_ctypes, "FreeLibrary" if sys.platform == "win32" else "dlclose")(handle)


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


def speak(text: str, voice: str, rate: int, pitch: int) -> Spoken:
    """Say a text.

    Raises:
        SpeechError: an unknown voice, or a text that eSpeak does not speak.
    """
    identifier = _identifier(voice)
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
    return Spoken(np.concatenate(chunks).astype(np.float32) / np.float32(32768), sample_rate, starts, phonemes)


def phonemes(text: str, voice: str, mode: int) -> list[str]:
    """eSpeak's phonemes of a text, one string a clause."""
    identifier, found = _identifier(voice), []
    with _library() as (lib, _):
        _select(lib, identifier)
        lib.espeak_TextToPhonemes.restype = ctypes.c_char_p
        rest = ctypes.c_void_p(ctypes.cast(ctypes.c_char_p(data := text.encode("utf-8")), ctypes.c_void_p).value)
        while rest.value:
            found.append(lib.espeak_TextToPhonemes(ctypes.byref(rest), _UTF8, mode).decode("utf-8"))
        del data
    return [clause for clause in found if clause]
