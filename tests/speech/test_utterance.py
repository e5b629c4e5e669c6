from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import soundfile
import torch

from slm_interp.audio import Audio
from slm_interp.errors import SpeechError
from slm_interp.speech.alignment import align
from slm_interp.speech.audio import resample
from slm_interp.speech.spans import words_to_spans
from slm_interp.speech.synthesis import synthesise
from slm_interp.speech.units import Units
from slm_interp.speech.utterance import utterance
from slm_interp.speech.words import TimedWord
from slm_interp.utterance import Span, Utterance
from tests.speech import real


@dataclass
class Recipe:
    sample_rate: int = 16_000


class EveryFrame:
    """A quantiser with one unit a frame of 40 ms, and a memory of what it heard."""

    recipe = Recipe()
    hash = "every-frame"

    def encode(self, audio: Audio) -> Units:
        self.heard = audio
        frames = len(audio.samples) // 640
        return Units(np.arange(frames) % 7, np.ones(frames, dtype=np.int64), 0.04, self.hash)


class Model:
    """As much of a model as the door needs: one marker opens the prompt."""

    def __init__(self, quantiser=None):
        self.quantiser = quantiser

    def speech_prompt(self, units, edges, words=(), audio=None, quantiser=None, form=None, then=None, name=""):
        assert units.dtype == torch.int64 and edges.shape == (len(units) + 1,)
        moved = [type(word)(word.text, word.span.shifted(1), word.start_s, word.end_s) for word in words]
        ids = torch.cat([torch.tensor([99]), units])
        return Utterance(ids, torch.cat([edges[:1], edges]), tuple(moved), (), audio, quantiser, form or "marked", name)


@pytest.fixture
def unchecked():
    """The door without the check of types, for a model that is none."""
    return getattr(utterance, "__wrapped__", utterance)


def test_a_synthesised_clip_carries_its_words_on_the_positions_where_they_sound(unchecked):
    text = "the capital of france is paris"
    spoken = synthesise(text)
    heard = unchecked(Model(EveryFrame()), spoken.audio, transcript=text, name="one")
    assert [word.text for word in heard.words] == text.split()
    assert heard.quantiser == "every-frame" and heard.name == "one" and heard.audio is spoken.audio
    for word, known in zip(heard.words, spoken.words, strict=True):
        start, end = heard.seconds_of(word.span)
        assert abs(start - known.start_s) < 0.04 + 0.1
        assert abs(end - known.end_s) < 0.04 + 0.1
    assert heard.words[0].span.start >= 1


def test_sound_is_resampled_for_the_quantiser_and_kept_as_it_came(unchecked, tmp_path):
    spoken = synthesise("hello there")
    soundfile.write(tmp_path / "clip.wav", spoken.audio.samples, spoken.audio.sample_rate, subtype="FLOAT")
    quantiser = EveryFrame()
    heard = unchecked(Model(), tmp_path / "clip.wav", words=spoken.words, quantiser=quantiser)
    assert quantiser.heard.sample_rate == 16_000
    assert heard.audio.sample_rate == spoken.audio.sample_rate == 22_050
    assert heard.name == "clip.wav"
    units = quantiser.encode(resample(spoken.audio, 16_000))
    assert heard.spans == tuple(word.span for word in words_to_spans(spoken.words, units, offset=1))


def test_without_words_and_transcript_there_are_units_alone(unchecked):
    heard = unchecked(Model(EveryFrame()), real.sound("audio1").slice(0.0, 1.0))
    assert heard.words == () and len(heard) == 26


def test_given_words_are_taken_and_an_aligned_transcript_gives_the_same(unchecked):
    text = "a quiet brook"
    audio = synthesise(text).audio
    model = Model(EveryFrame())
    assert unchecked(model, audio, words=align(audio, text)).words == unchecked(model, audio, transcript=text).words


def test_what_cannot_be_an_utterance_is_refused(unchecked):
    audio, model = real.sound("audio1").slice(0.0, 1.0), Model(EveryFrame())
    with pytest.raises(SpeechError, match="Give a transcript, to be aligned, or words with their seconds; not both"):
        unchecked(model, audio, transcript="a", words=())
    with pytest.raises(SpeechError, match=r"carries no quantiser.*Pass quantiser=load_quantiser\(folder\)"):
        unchecked(Model(), audio)
    with pytest.raises(SpeechError, match=r"No unit belongs to 1 of 1 words: 'a'"):
        unchecked(model, audio, words=[TimedWord("a", 0.41, 0.43)])
    with pytest.raises(SpeechError, match="Are both from the same sound"):
        unchecked(model, audio, words=[TimedWord("a", 0.0, 3.0)])
    assert unchecked(model, audio, words=[TimedWord("a", 0.01, 0.1)]).spans == (Span(1, 3),)
