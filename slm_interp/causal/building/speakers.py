"""Who says a sentence: eSpeak, or recordings of the user. A speaker is a function from a text to a `Sentence`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

from slm_interp.audio import Audio
from slm_interp.errors import SpeechError
from slm_interp.model import SpeechTextModel
from slm_interp.speech.alignment import align
from slm_interp.speech.audio import read_audio, resample
from slm_interp.speech.quantiser import NO_QUANTISER, Quantiser
from slm_interp.speech.spans import heard_words, words_to_spans
from slm_interp.speech.synthesis import synthesise
from slm_interp.speech.units import Units
from slm_interp.speech.words import TimedWord
from slm_interp.utterance import Utterance


@dataclass(frozen=True, eq=False)
class Sentence:
    """A sentence as a model hears it.

    Args:
        utterance: with the words that have units of their own.
        numbers: for each word of the text its number in `utterance.words`, or None for one inside a single unit.
    """

    utterance: Utterance
    numbers: tuple[int | None, ...]


Speaker: TypeAlias = Callable[[str], Sentence]
Recording: TypeAlias = "tuple[Audio | str | os.PathLike[str], Sequence[TimedWord] | None]"


def espeak(
    slm: SpeechTextModel,
    quantiser: Quantiser | None = None,
    voice: str = "en-us",
    rate: int = 175,
    pitch: int = 50,
    form: str | None = None,
) -> Speaker:
    """eSpeak NG in one of its voices.

    Args:
        slm: whose units are made.
        quantiser: makes them, such as `speech.load_quantiser(folder)` of mHuBERT and its centroids; None is the one that the checkpoint carries.
        voice, rate, pitch: as of `speech.synthesise`.
        form: prompt form.

    Raises:
        SpeechError: no quantiser.
    """
    chosen = _quantiser(slm, quantiser)

    def say(text: str) -> Sentence:
        said = synthesise(text, voice, rate, pitch)
        return _sentence(slm, text, said.audio, said.words, chosen, form)

    return say


def recorded(
    slm: SpeechTextModel, recordings: Mapping[str, Recording], quantiser: Quantiser | None = None, form: str | None = None
) -> Speaker:
    """Recordings of whole sentences.

    Args:
        slm: whose units are made.
        recordings: for each text its sound, or the file of it, and its words with their seconds; None has them aligned by force.
        quantiser, form: as of `espeak`.

    Raises:
        SpeechError: no quantiser; when used: a text without a recording, or words that are not those of the text.
    """
    chosen = _quantiser(slm, quantiser)

    def say(text: str) -> Sentence:
        if text not in recordings:
            raise SpeechError(f"There is no recording of {text!r}")
        sound, words = recordings[text]
        audio = sound if isinstance(sound, Audio) else read_audio(sound)
        return _sentence(slm, text, audio, align(audio, text) if words is None else tuple(words), chosen, form)

    return say


def _quantiser(slm: SpeechTextModel, quantiser: Quantiser | None) -> Quantiser:
    chosen = quantiser if quantiser is not None else slm.quantiser
    if chosen is None:
        raise SpeechError(f"Units are made from sound, and {NO_QUANTISER}")
    return chosen


def _sentence(
    slm: SpeechTextModel, text: str, audio: Audio, words: Sequence[TimedWord], quantiser: Quantiser, form: str | None
) -> Sentence:
    return sentence_of(slm, text, words, quantiser.encode(resample(audio, quantiser.recipe.sample_rate)), audio, form)


def sentence_of(
    slm: SpeechTextModel, text: str, words: Sequence[TimedWord], units: Units, audio: Audio | None = None, form: str | None = None
) -> Sentence:
    """A sentence whose units are there.

    Raises:
        SpeechError: not one timed word for each word of the text.
        VocabularyError: units of another quantiser, or that the model does not have.
    """
    if len(words) != len(text.split()):
        raise SpeechError(f"{text!r} has {len(text.split())} words; {len(words)} have seconds: {[word.text for word in words]}")
    heard = heard_words(words, units).words
    utterance = slm.speech_prompt(
        torch.from_numpy(units.units).long(),
        torch.from_numpy(units.edges()).float(),
        words_to_spans(heard, units),
        audio=audio,
        quantiser=units.quantiser or slm.vocabulary.quantiser,
        form=form,
        name=text,
    )
    place = {id(word): number for number, word in enumerate(heard)}
    return Sentence(utterance, tuple(place.get(id(word)) for word in words))
