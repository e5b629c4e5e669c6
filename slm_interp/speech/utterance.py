"""The door for sound: a recording and its words become an utterance of a model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from slm_interp.audio import Audio
from slm_interp.errors import SpeechError
from slm_interp.model import SpeechTextModel
from slm_interp.speech.alignment import align
from slm_interp.speech.audio import read_audio, resample
from slm_interp.speech.quantiser import Quantiser
from slm_interp.speech.spans import words_to_spans
from slm_interp.speech.words import TimedWord
from slm_interp.utterance import Utterance


def utterance(
    slm: SpeechTextModel,
    audio: Audio | str | os.PathLike[str],
    transcript: str | None = None,
    words: Sequence[TimedWord] | None = None,
    quantiser: Quantiser | None = None,
    form: str | None = None,
    name: str = "",
) -> Utterance:
    """Units, words and seconds of a recording, as a model reads them.

    Args:
        slm: the model.
        audio: a mono recording or the file of one, at any rate; it is resampled to what the quantiser needs.
        transcript: what is said; its words are aligned by force (`align`). Or
        words: its words with their seconds. Without either the utterance has no words.
        quantiser: what makes the model's units; None is the one that the checkpoint carries.
        form: prompt form; None is that of the training sequences.
        name: for titles; the file's name when empty.

    Raises:
        SpeechError: transcript and words at once, no quantiser, a transcript that does not fit, words without units.
        VocabularyError: a quantiser that is not the model's.
    """
    if transcript is not None and words is not None:
        raise SpeechError("Give a transcript, to be aligned, or words with their seconds; not both.")
    quantiser = quantiser if quantiser is not None else slm.quantiser
    if quantiser is None:
        raise SpeechError(
            "This checkpoint carries no quantiser, so its units cannot be made from sound. Pass quantiser=load_quantiser(folder), and "
            "declare it to the model: load(..., quantiser=quantiser.hash). Units that exist already go to slm.speech_prompt."
        )
    if not isinstance(audio, Audio):
        name = name or Path(audio).name
        audio = read_audio(audio)
    units = quantiser.encode(resample(audio, quantiser.recipe.sample_rate))
    if transcript is not None:
        words = align(audio, transcript)
    return slm.speech_prompt(
        torch.from_numpy(units.units).long(),
        torch.from_numpy(units.edges()).float(),
        words_to_spans(words or (), units),
        audio=audio,
        quantiser=units.quantiser,
        form=form,
        name=name,
    )
