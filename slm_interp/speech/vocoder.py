"""A crude unit vocoder: what units sound like, from the mean spectrum of each, so that generated units can be heard and checked.

1. Fitting: the mean log power spectrum of the windows in each unit's frames (25 ms every 10 ms at 16 kHz with 40 ms frames), measured
   from sound and not inverted from centroids, and how many frames the unit lasts on average once repeats are merged.
2. Speaking: the spectra of a row of units, each for its duration, and a sound whose spectrogram comes near to them: alternating
   projections from random phases (Griffin & Lim 1984, "Signal estimation from modified short-time Fourier transform", with momentum
   after Perraudin, Balazs & Søndergaard 2013, "A fast Griffin-Lim algorithm").

It has no pitch and no speaker: it whispers. Words are in it as far as units hold them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from einops import rearrange
from jaxtyping import Complex, Float, Float16, Int

from slm_interp.audio import Audio
from slm_interp.errors import SpeechError
from slm_interp.files import atomic_path, write_text
from slm_interp.speech.quantiser import Quantiser
from slm_interp.speech.units import Units

HOPS_PER_FRAME = 4
FLOOR = 1e-8  # power below which a bin is silent: the quantisation noise of 16-bit sound


@dataclass(frozen=True, eq=False)
class UnitVocoder:
    """What each unit of a codebook sounds like. Make one with `fit` or `load`.

    Args:
        log_power: mean natural log power of each unit's windows; rows of units that were never heard are 0.
        durations: mean frames a unit lasts; 0 where it was never heard.
        quantiser: hash of the codebook.
        frame: samples of a frame.
        sample_rate: hertz.
    """

    log_power: Float16[np.ndarray, "unit bin"]
    durations: Float16[np.ndarray, " unit"]
    quantiser: str
    frame: int
    sample_rate: int

    def __post_init__(self) -> None:
        hop = self.frame // HOPS_PER_FRAME
        if self.frame % HOPS_PER_FRAME or hop % 2 or self.log_power.shape[1] != window_of(hop) // 2 + 1:
            raise SpeechError(
                f"A frame is {HOPS_PER_FRAME} even hops, and a spectrum has half the window's samples and one; "
                f"got frames of {self.frame} samples and spectra of {self.log_power.shape[1]} bins."
            )
        if not (np.isfinite(self.log_power).all() and np.isfinite(self.durations).all() and (self.durations >= 0).all()):
            raise SpeechError("Spectra and durations must be finite, and durations not negative. The vocoder file is damaged.")

    @property
    def hop(self) -> int:
        """Samples between windows."""
        return self.frame // HOPS_PER_FRAME

    @property
    def unheard(self) -> tuple[int, ...]:
        """Units that fitting never met."""
        return tuple(np.flatnonzero(self.durations == 0).tolist())

    @property
    def hash(self) -> str:
        """What tells this vocoder from another: the first 16 hex digits of SHA-256 over its numbers and its codebook."""
        digest = hashlib.sha256(json.dumps([self.quantiser, self.frame, self.sample_rate]).encode())
        for array in (self.log_power, self.durations):
            digest.update(np.ascontiguousarray(array, dtype="<f2").tobytes())
        return digest.hexdigest()[:16]

    @staticmethod
    def fit(sounds: Sequence[Audio], quantiser: Quantiser, n_units: int) -> UnitVocoder:
        """Mean spectra and durations of the units of these sounds.

        Args:
            sounds: at the quantiser's rate.
            quantiser: with a hash.
            n_units: units in its codebook.

        Raises:
            SpeechError: no sounds, a quantiser without a hash or with frames that are no whole number of hops, units outside the codebook.
        """
        if not sounds:
            raise SpeechError("A vocoder is fitted on sounds; got none.")
        rate = quantiser.recipe.sample_rate
        spectra, frames, runs = None, np.zeros(n_units), np.zeros(n_units)
        for sound in sounds:
            units = quantiser.encode(sound)
            frame = _frame(units, rate)
            if units.units.max() >= n_units:
                raise SpeechError(f"The quantiser made unit {units.units.max()}; its codebook was said to have {n_units} units.")
            log_power = log_spectrogram(_lasting(sound.samples, units.frames * frame), frame // HOPS_PER_FRAME)
            each = rearrange(log_power, "(frame hop) bin -> frame hop bin", hop=HOPS_PER_FRAME).mean(1)
            spectra = np.zeros((n_units, each.shape[1])) if spectra is None else spectra
            np.add.at(spectra, np.repeat(units.units, units.durations), each)
            np.add.at(frames, units.units, units.durations)
            np.add.at(runs, units.merged().units, 1)
        heard = np.maximum(frames, 1)
        durations = frames / np.maximum(runs, 1)
        return UnitVocoder((spectra / heard[:, None]).astype(np.float16), durations.astype(np.float16), str(units.quantiser), frame, rate)

    def timed(self, units: Int[np.ndarray, " unit"]) -> Units:
        """Units without durations, each lasting as long as it does on average, to the nearest frame and at least one.

        Raises:
            SpeechError: units that were never heard, or that the codebook does not have.
        """
        self._check(units)
        return Units(units, np.maximum(np.rint(self.durations[units]), 1).astype(np.int64), self.frame / self.sample_rate, self.quantiser)

    def audio(self, units: Units, iterations: int = 60, momentum: float = 0.99, seed: int = 0) -> Audio:
        """What units sound like: `units.frames * frame` samples. Units that a model generated get their durations from `timed`.

        Args:
            units: of this codebook, with durations.
            iterations: projections after the first.
            momentum: 0 is Griffin & Lim's algorithm, whose distance never grows; 0.99 is quicker.
            seed: of the first phases.

        Raises:
            SpeechError: units of another quantiser, units that were never heard, other frames, fewer than 0 iterations, momentum outside 0..1.
        """
        if units.quantiser != self.quantiser or round(units.frame_s * self.sample_rate) != self.frame:
            raise SpeechError(
                f"This vocoder speaks units of quantiser {self.quantiser} with frames of {self.frame / self.sample_rate} s; these are of "
                f"{units.quantiser or 'an undeclared one'}, {units.frame_s} s. Fit one for them."
            )
        self._check(units.units)
        frames = np.repeat(self.log_power[units.units], units.durations, axis=0).astype(np.float64)
        magnitude = np.exp(np.repeat(frames, HOPS_PER_FRAME, axis=0) / 2)
        return Audio(griffin_lim(magnitude, self.hop, iterations, momentum, seed).astype(np.float32), self.sample_rate)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write `vocoder.safetensors` and `vocoder.json` into a folder: 0.1 MB for 256 units."""
        from safetensors.numpy import save_file

        with atomic_path(Path(folder) / "vocoder.safetensors") as path:
            save_file({"log_power": self.log_power, "durations": self.durations}, path)
        described = {"hash": self.hash, "quantiser": self.quantiser, "frame": self.frame, "sample_rate": self.sample_rate}
        write_text(Path(folder) / "vocoder.json", json.dumps(described, indent=2) + "\n")

    @staticmethod
    def load(folder: str | os.PathLike[str]) -> UnitVocoder:
        """Read what `save` wrote.

        Raises:
            SpeechError: no such file, or files that do not belong together.
        """
        from safetensors.numpy import load_file

        path = Path(folder) / "vocoder.json"
        if not path.is_file():
            raise SpeechError(f"No vocoder.json in {folder}. Give the folder that UnitVocoder.save wrote.")
        described = json.loads(path.read_text(encoding="utf-8"))
        tensors, written = load_file(Path(folder) / "vocoder.safetensors"), described.pop("hash")
        vocoder = UnitVocoder(tensors["log_power"], tensors["durations"], **described)
        if vocoder.hash != written:
            raise SpeechError(f"{path} promises the vocoder {written}; its numbers make {vocoder.hash}. The files do not belong together.")
        return vocoder

    def _check(self, units: Int[np.ndarray, " unit"]) -> None:
        known = len(self.durations)
        if len(units) and (units.min() < 0 or units.max() >= known):
            raise SpeechError(f"Units lie in 0..{known - 1}; got {units.min()} to {units.max()}. Are they of another quantiser?")
        strange = sorted(set(units.tolist()) & set(self.unheard))
        if strange:
            raise SpeechError(f"Units {strange[:5]} were never heard when this vocoder was fitted. Fit it on more sound.")

    def __repr__(self) -> str:
        known = len(self.durations)
        return f"UnitVocoder({known - len(self.unheard)} of {known} units heard, {self.sample_rate} Hz, quantiser {self.quantiser})"


def griffin_lim(
    magnitude: Float[np.ndarray, "window bin"], hop: int, iterations: int = 60, momentum: float = 0.99, seed: int = 0
) -> Float[np.ndarray, " time"]:
    """A sound of `hop` samples a window whose spectrogram comes near to a magnitude; arguments as in `UnitVocoder.audio`."""
    if iterations < 0 or not 0 <= momentum < 1:
        raise SpeechError(
            f"Griffin-Lim runs 0 or more iterations with a momentum of at least 0 and below 1; got {iterations} and {momentum}."
        )
    spectrum = magnitude * np.exp(2j * np.pi * np.random.default_rng(seed).random(magnitude.shape))
    before = spectrum
    for _ in range(iterations):
        reached = spectrogram(sound_of(spectrum, hop), hop)
        ahead = reached + momentum * (reached - before)
        before = reached
        spectrum = magnitude * np.exp(1j * np.angle(ahead))
    return sound_of(spectrum, hop)


def spectral_convergence(samples: Float[np.ndarray, " time"], magnitude: Float[np.ndarray, "window bin"], hop: int) -> float:
    """How far a sound's spectrogram is from a magnitude: norm of the difference over norm of the magnitude."""
    return float(np.linalg.norm(np.abs(spectrogram(samples, hop)) - magnitude) / np.linalg.norm(magnitude))


def window_of(hop: int) -> int:
    """Samples of a window: two and a half hops, so 25 ms every 10 ms."""
    return 5 * hop // 2


def spectrogram(samples: Float[np.ndarray, " time"], hop: int) -> Complex[np.ndarray, "window bin"]:
    """The short-time Fourier transform, one Hann window centred on each hop, silence around the sound, over the root of the window's length."""
    window = window_of(hop)
    before = (window - hop) // 2
    padded = np.pad(samples, (before, window - hop - before))
    return np.fft.rfft(np.lib.stride_tricks.sliding_window_view(padded, window)[::hop] * np.hanning(window)) / np.sqrt(window)


def log_spectrogram(samples: Float[np.ndarray, " time"], hop: int) -> Float[np.ndarray, "window bin"]:
    """Natural log power, not below the noise of 16-bit sound."""
    return np.log(np.abs(spectrogram(samples, hop)) ** 2 + FLOOR)


def sound_of(spectrum: Complex[np.ndarray, "window bin"], hop: int) -> Float[np.ndarray, " time"]:
    """The sound whose `spectrogram` is nearest to a spectrum: Griffin & Lim's equation 6, exact where there is such a sound."""
    window = window_of(hop)
    hann = np.hanning(window)
    blocks = np.fft.irfft(spectrum * np.sqrt(window), window) * hann
    weights = np.broadcast_to(hann**2, blocks.shape)
    before = (window - hop) // 2
    kept = slice(before, before + len(spectrum) * hop)
    return _added(blocks, hop)[kept] / _added(weights, hop)[kept]


def _added(blocks: Float[np.ndarray, "window sample"], hop: int) -> Float[np.ndarray, " time"]:
    """Windows laid over each other, a hop apart."""
    parts = -(-blocks.shape[1] // hop)
    padded = np.pad(blocks, ((0, 0), (0, parts * hop - blocks.shape[1])))
    laid = np.zeros((len(blocks) + parts - 1, hop))
    for part in range(parts):
        laid[part : part + len(blocks)] += padded[:, part * hop : (part + 1) * hop]
    return laid.reshape(-1)


def _lasting(samples: Float[np.ndarray, " time"], length: int) -> Float[np.ndarray, " length"]:
    """The samples cut, or followed by silence, to a length."""
    return np.pad(samples[:length], (0, max(0, length - len(samples)))).astype(np.float64)


def _frame(units: Units, rate: int) -> int:
    """Samples of a frame, once it is known that they can be cut into hops and that the codebook has a name."""
    frame = round(units.frame_s * rate)
    if units.quantiser is None:
        raise SpeechError("This quantiser has no hash, so its units could not be told from those of another. Give it one.")
    if abs(frame - units.frame_s * rate) > 1e-6 or frame % (2 * HOPS_PER_FRAME):
        raise SpeechError(f"A frame must be {HOPS_PER_FRAME} even hops of whole samples; got {units.frame_s} s at {rate} Hz.")
    return frame
