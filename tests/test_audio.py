from __future__ import annotations

import base64
import io
import re
import wave

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_interp.audio import Audio
from slm_interp.errors import SpeechError


def sound(samples: list[float], rate: int = 1000) -> Audio:
    return Audio(np.array(samples, dtype=np.float32), rate)


def decoded(wav: bytes) -> tuple[int, int, np.ndarray]:
    with wave.open(io.BytesIO(wav)) as file:
        assert file.getsampwidth() == 2
        return file.getnchannels(), file.getframerate(), np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=50), st.integers(1, 96_000))
def test_a_wav_file_gives_the_samples_back_to_16_bits(samples, rate):
    channels, came_rate, came = decoded(sound(samples, rate).wav_bytes())
    assert (channels, came_rate) == (1, rate)
    assert np.abs(came / 32767 - np.array(samples)).max() <= 0.5001 / 32767


def test_values_beyond_full_scale_are_clipped_and_do_not_wrap():
    assert decoded(sound([1.5, -1.5, 1.0, -1.0]).wav_bytes())[2].tolist() == [32767, -32767, 32767, -32767]


def test_the_data_address_is_the_wav_file():
    one = sound([0.0, 0.5])
    head, body = one.data_uri().split(",")
    assert head == "data:audio/wav;base64"
    assert base64.b64decode(body) == one.wav_bytes()


def test_a_slice_is_the_samples_between_two_seconds():
    one = sound([i / 10 for i in range(10)], rate=10)
    assert one.seconds == 1.0
    assert one.slice(0.2, 0.5).samples.tolist() == one.samples[2:5].tolist()
    assert one.slice(0.0, one.seconds).samples.tolist() == one.samples.tolist()


def test_a_terminal_shows_seconds_and_rate_and_a_notebook_a_player():
    one = sound([0.0] * 250)
    assert repr(one) == "Audio(0.25 s at 1000 Hz)"
    assert one._repr_html_().startswith('<audio controls preload="metadata" src="data:audio/wav;base64,')


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: sound([0.0], 0), "A sample rate is a positive number of hertz; got 0."),
        (lambda: sound([]), "The audio is empty (0 samples)."),
        (lambda: sound([0.0, float("nan")]), "The audio has samples that are NaN or infinite."),
        (lambda: sound([float("inf")]), "The audio has samples that are NaN or infinite."),
        (
            lambda: Audio(np.zeros((10, 2), dtype=np.float32), 1000),
            "Audio is mono, shape (time,); got shape (10, 2). Read files with speech.read_audio",
        ),
        (
            lambda: Audio(np.array([1000, -1000], dtype=np.int16), 1000),
            "Samples are floats in [-1, 1]; got int16. Divide 16-bit integers by 32768.",
        ),
        (lambda: sound([0.0] * 10).slice(0.005, 0.011), "A slice must lie in 0..0.010 s and not be empty; got 0.005 to 0.011."),
        (lambda: sound([0.0] * 10).slice(0.005, 0.005), "A slice must lie in 0..0.010 s and not be empty; got 0.005 to 0.005."),
        (lambda: sound([0.0] * 10).slice(-0.005, 0.005), "got -0.005 to 0.005"),
    ],
)
def test_what_is_no_sound_is_refused_in_a_sentence(make, sentence):
    with pytest.raises(SpeechError, match=re.escape(sentence)):
        make()
