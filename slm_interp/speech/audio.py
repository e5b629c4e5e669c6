"""Sound files in and out of `Audio`: read, downmix, resample, and refuse the wrong rate.

Nothing here is done behind a caller's back: a stereo file is refused until a channel is chosen or both
are averaged, and a quantiser refuses a rate that is not its own until the caller resamples.
"""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path

import numpy as np
from jaxtyping import Float

from slm_interp.audio import Audio
from slm_interp.errors import SpeechError, missing_extra


def read_audio(path: str | os.PathLike[str], channel: int | None = None) -> Audio:
    """The sound in a file, at its own rate: WAV, FLAC, OGG, MP3, whatever libsndfile reads.

    Args:
        path: the file.
        channel: which channel of a file with several, from 0. Mono files need none.

    Raises:
        SpeechError: no such file, not audio, cut short, empty, several channels and none chosen.
    """
    samples, rate = _read_channels(path)
    channels = samples.shape[1]
    if channel is None:
        if channels > 1:
            raise SpeechError(
                f"{path} has {channels} channels. Choose one with channel=0 to {channels - 1}, or average them with downmix(path)."
            )
        channel = 0
    if not 0 <= channel < channels:
        raise SpeechError(f"{path} has {channels} channel(s), numbered from 0; got channel={channel}.")
    return Audio(np.ascontiguousarray(samples[:, channel]), rate)


def downmix(path: str | os.PathLike[str]) -> Audio:
    """The mean of all channels of a file, at its own rate. A mono file is read as it is.

    Raises:
        SpeechError: what `read_audio` refuses, several channels apart.
    """
    samples, rate = _read_channels(path)
    return Audio(np.ascontiguousarray(samples.mean(axis=1, dtype=np.float32)), rate)


def resample(audio: Audio, rate: int) -> Audio:
    """The same sound at `rate` samples per second, by polyphase filtering with a low-pass at the lower Nyquist rate.

    An audio already at `rate` is returned as it is.

    Raises:
        SpeechError: a rate below 1, or a sound too short to keep a sample.
    """
    if rate < 1:
        raise SpeechError(f"A sample rate is a positive number of hertz; got {rate}.")
    if rate == audio.sample_rate:
        return audio
    try:
        from scipy.signal import resample_poly
    except ImportError as error:
        raise missing_extra("scipy", "speech") from error
    shared = math.gcd(rate, audio.sample_rate)
    samples = resample_poly(audio.samples.astype(np.float64), rate // shared, audio.sample_rate // shared)
    return Audio(samples.astype(np.float32), rate)


def require_rate(audio: Audio, rate: int) -> Audio:
    """The audio itself, once it is known to have `rate` samples per second.

    Raises:
        SpeechError: another rate.
    """
    if audio.sample_rate != rate:
        raise SpeechError(f"This needs {rate} Hz audio; got {audio.sample_rate} Hz. Convert it with resample(audio, {rate}).")
    return audio


def _read_channels(path: str | os.PathLike[str]) -> tuple[Float[np.ndarray, "time channel"], int]:
    """All samples of a file and its rate."""
    try:
        import soundfile
    except ImportError as error:
        raise missing_extra("soundfile", "speech") from error
    if not Path(path).is_file():
        raise SpeechError(f"There is no audio file at {path}.")
    if Path(path).stat().st_size == 0:
        raise SpeechError(f"{path} is empty (0 bytes).")
    _refuse_short_wav(path)
    try:
        with soundfile.SoundFile(path) as file:
            announced, rate = file.frames, file.samplerate
            samples = file.read(dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise SpeechError(f"{path} is not an audio file that can be read, or it is damaged: {error.error_string}") from error
    if len(samples) == 0:
        raise SpeechError(f"{path} holds no samples.")
    if len(samples) < announced:
        raise SpeechError(f"{path} is cut short: its header announces {announced} samples and {len(samples)} could be read.")
    return samples, rate


def _refuse_short_wav(path: str | os.PathLike[str]) -> None:
    """Refuse a RIFF WAVE file that ends before its data chunk does: libsndfile reads such a file without a word.

    A data chunk of 2**32 - 1 bytes is how writers to a pipe say that they do not know the length.
    """
    size = Path(path).stat().st_size
    with open(path, "rb") as file:
        head = file.read(12)
        if head[:4] != b"RIFF" or head[8:] != b"WAVE":
            return
        while len(head := file.read(8)) == 8:
            name, length = head[:4], struct.unpack("<I", head[4:])[0]
            if name == b"data":
                held = size - file.tell()
                if held < length < 2**32 - 1:
                    raise SpeechError(f"{path} is cut short: its header announces {length} bytes of samples and {held} are there.")
                return
            file.seek(length + length % 2, os.SEEK_CUR)
    raise SpeechError(f"{path} is cut short: it ends before its samples begin.")
