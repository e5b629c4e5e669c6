"""Recordings of the user as a speaker: sentences of an aligned corpus, found by what they say.

1. A folder of sounds with word times or transcripts beside them, slamkit's JSON Lines, or a Parquet file: whatever `speech.corpus` reads. Units that are in
   it are taken, so that models whose own tokenizer is not read here (Spirit LM, GLM-4-Voice) have sentences too; else they are made from the sound.
2. A sentence is found whatever its case and punctuation: "The capital of Peru is Lima." is a recording of `the capital of peru is lima`.
3. Its words are called what the asker calls them, so that the spelling that the tokenizer is asked for is that of the word list.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from slm_interp.causal.building.speakers import Sentence, Speaker, sentence_of
from slm_interp.errors import SpeechError
from slm_interp.model import SpeechTextModel
from slm_interp.speech.alignment import align
from slm_interp.speech.audio import resample
from slm_interp.speech.clip import Clip
from slm_interp.speech.corpora import clips_of, refuse_rate
from slm_interp.speech.quantiser import NO_QUANTISER, Quantiser


def recorded_in(
    slm: SpeechTextModel,
    source: str | os.PathLike[str],
    quantiser: Quantiser | None = None,
    form: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> Speaker:
    """The sentences of a corpus, each under what it says.

    Args:
        slm: whose units are made.
        source: a folder of sounds, a `.jsonl` of slamkit or a `.parquet`, as `speech.corpus` reads them.
        quantiser: makes units of sounds; None is the one that the checkpoint carries. Not needed where the source holds units.
        form: prompt form.
        columns: of a `.parquet`.

    Raises:
        SpeechError: a source of no known kind, a clip whose words are not told, two clips that say the same, sounds without a quantiser, units of
            another rate. When used: a text that no clip says.
    """
    chosen, found = quantiser if quantiser is not None else slm.quantiser, dict[str, Clip]()
    for clip in clips_of(Path(source), slm, columns):
        key = _key(_says(clip))
        if key in found:
            raise SpeechError(f"{found[key].where} and {clip.where} both say {key!r}. Keep the one that is to be used.")
        if clip.units is None and chosen is None:
            raise SpeechError(f"{clip.where}: its units are made from sound, and {NO_QUANTISER}")
        if clip.units is not None:
            refuse_rate(slm, clip.units, clip.where)
        found[key] = clip

    def say(text: str) -> Sentence:
        clip = found.get(_key(text))
        if clip is None:
            raise SpeechError(f"There is no recording of {text!r} in {source}")
        return _sentence(slm, text, clip, chosen, form)

    return say


def _sentence(slm: SpeechTextModel, text: str, clip: Clip, quantiser: Quantiser | None, form: str | None) -> Sentence:
    audio = clip.audio() if clip.audio is not None else None
    units, words = clip.units, clip.words
    if units is None:
        assert audio is not None and quantiser is not None  # as `recorded_in` saw
        units = quantiser.encode(resample(audio, quantiser.recipe.sample_rate))
    if words is None:
        if audio is None:
            raise SpeechError(f"{clip.where} has a transcript and no sound to align it to; give its words with their seconds")
        words = align(audio, text)
    own = text.split()
    if len(words) == len(own):
        words = tuple(replace(word, text=said) for word, said in zip(words, own, strict=True))
    return sentence_of(slm, text, words, units, audio, form)


def _says(clip: Clip) -> str:
    if clip.words is not None:
        return " ".join(word.text for word in clip.words)
    if clip.text is None:
        raise SpeechError(
            f"{clip.where} does not say what it says. Put {clip.name}.TextGrid, .ctm or .json beside it, or its transcript as {clip.name}.txt."
        )
    return clip.text


def _key(text: str) -> str:
    """What is said, without case and punctuation around words."""
    return " ".join(filter(None, (re.sub(r"^\W+|\W+$", "", word) for word in text.casefold().split())))
