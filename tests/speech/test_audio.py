from __future__ import annotations

import struct

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slm_interp.audio import Audio
from slm_interp.errors import SpeechError
from slm_interp.speech.audio import downmix, read_audio, require_rate, resample
from tests.speech import real


def tone(hertz, rate, seconds=0.5):
    return Audio((0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)).astype(np.float32), rate)


def loudest_hertz(audio):
    spectrum = np.abs(np.fft.rfft(audio.samples * np.hanning(len(audio.samples))))
    return spectrum.argmax() * audio.sample_rate / len(audio.samples)


@pytest.fixture
def stereo(tmp_path):
    samples = np.stack([np.full(100, 0.25), np.full(100, -0.75)], axis=1).astype(np.float32)
    soundfile.write(tmp_path / "stereo.wav", samples, 16000, subtype="FLOAT")
    return tmp_path / "stereo.wav"


def test_a_mono_file_comes_back_sample_by_sample(tmp_path):
    samples = np.linspace(-0.9, 0.9, 1000, dtype=np.float32)
    soundfile.write(tmp_path / "mono.wav", samples, 22050, subtype="FLOAT")
    audio = read_audio(tmp_path / "mono.wav")
    assert audio.sample_rate == 22050
    assert np.array_equal(audio.samples, samples)


def test_stereo_is_refused_until_a_channel_is_chosen_or_both_are_averaged(stereo):
    with pytest.raises(SpeechError, match=r"has 2 channels\. Choose one with channel=0 to 1, or average them with downmix"):
        read_audio(stereo)
    assert np.allclose(read_audio(stereo, channel=0).samples, 0.25)
    assert np.allclose(read_audio(stereo, channel=1).samples, -0.75)
    assert np.allclose(downmix(stereo).samples, -0.25)
    with pytest.raises(SpeechError, match="numbered from 0; got channel=2"):
        read_audio(stereo, channel=2)


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "is empty"), (b"words, not sound\n" * 30, "not an audio file"), (b"RIFF", "not an audio file")]
)
def test_a_file_that_is_no_sound_is_refused(tmp_path, content, said):
    (tmp_path / "clip.wav").write_bytes(content)
    with pytest.raises(SpeechError, match=said):
        read_audio(tmp_path / "clip.wav")


def test_a_missing_file_a_folder_and_a_file_without_samples_are_refused(tmp_path):
    with pytest.raises(SpeechError, match="no audio file at"):
        read_audio(tmp_path / "nowhere.wav")
    with pytest.raises(SpeechError, match="no audio file at"):
        read_audio(tmp_path)
    soundfile.write(tmp_path / "none.wav", np.zeros(0, dtype=np.float32), 16000)
    with pytest.raises(SpeechError, match="holds no samples"):
        read_audio(tmp_path / "none.wav")


def test_samples_that_are_not_numbers_are_refused(tmp_path):
    soundfile.write(tmp_path / "nan.wav", np.array([0.1, np.nan], dtype=np.float32), 16000, subtype="FLOAT")
    with pytest.raises(SpeechError, match="NaN or infinite"):
        read_audio(tmp_path / "nan.wav")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kept=st.floats(0, 0.999))
@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_a_file_cut_anywhere_is_refused(tmp_path, kind, kept):
    if kind == "flac":
        whole = (real.FOLDER / "audio1.flac").read_bytes()
    else:
        soundfile.write(tmp_path / "whole.wav", tone(440, 16000).samples, 16000)
        whole = (tmp_path / "whole.wav").read_bytes()
    (tmp_path / f"cut.{kind}").write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(SpeechError):
        read_audio(tmp_path / f"cut.{kind}")


def test_a_wav_written_to_a_pipe_with_an_unknown_length_is_read(tmp_path):
    soundfile.write(tmp_path / "whole.wav", tone(440, 16000).samples, 16000)
    data = bytearray((tmp_path / "whole.wav").read_bytes())
    data[40:44] = struct.pack("<I", 2**32 - 1)
    (tmp_path / "piped.wav").write_bytes(data)
    assert np.array_equal(read_audio(tmp_path / "piped.wav").samples, read_audio(tmp_path / "whole.wav").samples)


@pytest.mark.parametrize("rate", [8000, 16000, 24000, 44100])
def test_resampling_keeps_length_and_pitch(rate):
    heard = resample(tone(440, 22050), rate)
    assert heard.sample_rate == rate
    assert heard.samples.dtype == np.float32
    assert abs(heard.seconds - 0.5) <= 1 / rate
    assert abs(loudest_hertz(heard) - 440) < 3


def test_resampling_removes_what_the_new_rate_cannot_carry():
    assert np.abs(resample(tone(9000, 44100), 16000).samples[200:-200]).max() < 0.02


def test_resampling_to_the_own_rate_changes_nothing():
    audio = tone(440, 16000)
    assert resample(audio, 16000) is audio
    with pytest.raises(SpeechError, match="positive number of hertz"):
        resample(audio, 0)


def test_a_wrong_rate_is_refused_with_the_way_out():
    with pytest.raises(SpeechError, match=r"needs 16000 Hz audio; got 22050 Hz\. Convert it with resample\(audio, 16000\)"):
        require_rate(tone(440, 22050), 16000)
    audio = tone(440, 16000)
    assert require_rate(audio, 16000) is audio
