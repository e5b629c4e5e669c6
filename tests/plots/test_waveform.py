"""The waveform keeps peaks and marks the words that are heard."""

from __future__ import annotations

import numpy as np

from slm_interp.audio import Audio
from slm_interp.plots import envelope, waveform
from slm_interp.utterance import Span, Word


def test_a_single_loud_sample_survives_the_thinning():
    samples = np.zeros(160_000, dtype=np.float32)
    samples[12_345] = 0.9
    low, high = envelope(samples)
    assert len(high) == 1200
    assert high.max() == np.float32(0.9)
    assert low.max() == 0


def test_a_sound_shorter_than_the_picture_is_drawn_sample_by_sample():
    samples = np.array([0.1, -0.2, 0.3], dtype=np.float32)
    low, high = envelope(samples)
    assert low.tolist() == high.tolist() == samples.tolist()


def test_words_shade_their_seconds_and_words_that_take_no_time_are_left_out():
    audio = Audio(np.zeros(8000, dtype=np.float32), 8000)
    figure = waveform(audio, (Word("read", Span(0, 1), 0.1, 0.1), Word("a<b", Span(1, 2), 0.25, 0.5)))
    assert [(shape.x0, shape.x1) for shape in figure.layout.shapes] == [(0.25, 0.5)]
    assert [note.text for note in figure.layout.annotations] == ["a&lt;b"]
    assert tuple(figure.layout.xaxis.range) == (0, 1.0)
