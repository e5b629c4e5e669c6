"""A sound: samples and their rate, as every floor passes it around."""

from __future__ import annotations

import base64
import io
import wave
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from slm_interp.errors import SpeechError


@dataclass(frozen=True, eq=False)
class Audio:
    """Mono sound.

    Args:
        samples: amplitudes in [-1, 1], float32.
        sample_rate: samples per second, in hertz.

    Raises:
        SpeechError: no samples, more than one channel, integers, values that are not finite, or a rate below 1.
    """

    samples: Float[np.ndarray, " time"]
    sample_rate: int

    def __post_init__(self) -> None:
        if self.sample_rate < 1:
            raise SpeechError(f"A sample rate is a positive number of hertz; got {self.sample_rate}.")
        if self.samples.ndim != 1:
            raise SpeechError(
                f"Audio is mono, shape (time,); got shape {self.samples.shape}. Read files with speech.read_audio, it can downmix."
            )
        if not np.issubdtype(self.samples.dtype, np.floating):
            raise SpeechError(f"Samples are floats in [-1, 1]; got {self.samples.dtype}. Divide 16-bit integers by 32768.")
        if self.samples.size == 0:
            raise SpeechError("The audio is empty (0 samples).")
        if not np.isfinite(self.samples).all():
            raise SpeechError("The audio has samples that are NaN or infinite.")

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return len(self.samples) / self.sample_rate

    def slice(self, start_s: float, end_s: float) -> Audio:
        """The sound from `start_s` to `end_s` (seconds)."""
        start, stop = round(start_s * self.sample_rate), round(end_s * self.sample_rate)
        if not 0 <= start < stop <= len(self.samples):
            raise SpeechError(f"A slice must lie in 0..{self.seconds:.3f} s and not be empty; got {start_s} to {end_s}.")
        return Audio(self.samples[start:stop], self.sample_rate)

    def wav_bytes(self) -> bytes:
        """The sound as a 16-bit PCM WAV file. Values beyond [-1, 1] are clipped, as players do."""
        pcm = (np.clip(self.samples, -1.0, 1.0) * 32767).round().astype("<i2")
        buffer = io.BytesIO()
        with wave.open(buffer, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(self.sample_rate)
            file.writeframes(pcm.tobytes())
        return buffer.getvalue()

    def data_uri(self) -> str:
        """The WAV file as a `data:` address, for pages that must work without a network."""
        return "data:audio/wav;base64," + base64.b64encode(self.wav_bytes()).decode("ascii")

    def _repr_html_(self) -> str:
        return f'<audio controls preload="metadata" src="{self.data_uri()}"></audio>'

    def __repr__(self) -> str:
        return f"Audio({self.seconds:.2f} s at {self.sample_rate} Hz)"
