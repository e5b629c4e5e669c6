"""The light quantiser of the organisms: mel cepstra at 25 Hz and k-means, with numpy alone once it is fitted.

1. Frames of 25 ms every 10 ms at 16 kHz, Hann window, power spectrum, 40 mel bands, logarithm, cosine transform.
2. The mean of each 40 ms, and its slope over the neighbouring 40 ms on each side: `2 * n_cepstra` numbers.
3. The mean of the utterance subtracted from the cepstra (not the slopes), so that voices come nearer to each other.
   A unit therefore depends on its whole utterance, as HuBERT units do.
4. Scaled by the fitted standard deviations; the nearest centroid names the unit; repeats are merged.

A 40 ms frame is 640 samples, and a sound of `n` samples has `round(n / 640)` of them, so edges end within half a
frame of the sound.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from slm_interp.audio import Audio
from slm_interp.errors import SpeechError, missing_extra
from slm_interp.files import atomic_path, write_text
from slm_interp.speech.audio import require_rate
from slm_interp.speech.units import Units, merged

FLOOR = 1e-8  # power below which a band is silent: the quantisation noise of 16-bit sound


@dataclass(frozen=True)
class AcousticRecipe:
    """Every choice of the quantiser but its centroids.

    Args:
        n_units: clusters.
        n_bands: mel bands.
        n_cepstra: cepstral coefficients kept, the first (loudness) included.
        sample_rate: hertz the sound must have.
        window: samples of an analysis window.
        hop: samples between windows.
        windows_per_frame: windows averaged into a frame of a unit.
        seed: of k-means.
    """

    n_units: int = 256
    n_bands: int = 40
    n_cepstra: int = 13
    sample_rate: int = 16_000
    window: int = 400
    hop: int = 160
    windows_per_frame: int = 4
    seed: int = 0

    @property
    def frame(self) -> int:
        """Samples of a frame."""
        return self.hop * self.windows_per_frame

    @property
    def frame_s(self) -> float:
        """Seconds of a frame: 0.04 for the default, 25 Hz."""
        return self.frame / self.sample_rate


@dataclass(frozen=True, eq=False)
class AcousticQuantiser:
    """Sound to units. Make one with `fit` or `load`.

    Args:
        recipe: the choices.
        centroids: in scaled features.
        scale: standard deviations the features are divided by.
    """

    recipe: AcousticRecipe
    centroids: Float[np.ndarray, "cluster feature"]
    scale: Float[np.ndarray, " feature"]

    def __post_init__(self) -> None:
        wanted = (self.recipe.n_units, 2 * self.recipe.n_cepstra)
        if self.centroids.shape != wanted or self.scale.shape != wanted[1:]:
            raise SpeechError(f"The recipe wants centroids of shape {wanted}; got {self.centroids.shape}, and scales {self.scale.shape}.")
        if not (np.isfinite(self.centroids).all() and np.isfinite(self.scale).all() and (self.scale > 0).all()):
            raise SpeechError("Centroids and scales must be finite, and scales positive. The quantiser file is damaged.")

    @property
    def n_units(self) -> int:
        """Units in the codebook."""
        return self.recipe.n_units

    @property
    def hash(self) -> str:
        """What tells this codebook from another: the first 16 hex digits of SHA-256 over recipe, scales and centroids."""
        digest = hashlib.sha256(json.dumps(asdict(self.recipe), sort_keys=True).encode())
        for array in (self.scale, self.centroids):
            digest.update(np.ascontiguousarray(array, dtype="<f4").tobytes())
        return digest.hexdigest()[:16]

    @staticmethod
    def fit(sounds: Sequence[Audio], recipe: AcousticRecipe | None = None) -> AcousticQuantiser:
        """A quantiser whose centroids are the k-means of these sounds.

        Raises:
            SpeechError: fewer frames than units, or a sound at another rate.
        """
        recipe = recipe or AcousticRecipe()
        return fit_features(np.concatenate([features(sound, recipe) for sound in sounds]), recipe)

    def frames(self, audio: Audio) -> Int[np.ndarray, " frame"]:
        """One unit a frame, repeats not merged."""
        scaled = features(audio, self.recipe) / self.scale
        distance = (self.centroids**2).sum(1) - 2 * scaled @ self.centroids.T
        return distance.argmin(1)

    def encode(self, audio: Audio) -> Units:
        """Units of a sound, repeats merged.

        Raises:
            SpeechError: another sample rate than the recipe's, or less than half a frame of sound.
        """
        return merged(self.frames(audio), self.recipe.frame_s, self.hash)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write `quantiser.safetensors` and `quantiser.json` into a folder."""
        from safetensors.numpy import save_file

        with atomic_path(Path(folder) / "quantiser.safetensors") as path:
            save_file({"centroids": self.centroids, "scale": self.scale}, path)
        described = {"kind": "acoustic", "hash": self.hash, **asdict(self.recipe)}
        write_text(Path(folder) / "quantiser.json", json.dumps(described, indent=2) + "\n")

    @staticmethod
    def load(folder: str | os.PathLike[str]) -> AcousticQuantiser:
        """Read what `save` wrote.

        Raises:
            SpeechError: a missing file, another kind of quantiser, or centroids that do not have the hash written beside them.
        """
        from safetensors.numpy import load_file

        described = Path(folder) / "quantiser.json"
        if not described.is_file():
            raise SpeechError(f"No quantiser.json in {folder}. Give the folder that AcousticQuantiser.save wrote.")
        choices = json.loads(described.read_text(encoding="utf-8"))
        kind, written = choices.pop("kind", None), choices.pop("hash", None)
        if kind != "acoustic":
            raise SpeechError(f"{described} describes a quantiser of kind {kind!r}; this one reads 'acoustic'.")
        tensors = load_file(Path(folder) / "quantiser.safetensors")
        quantiser = AcousticQuantiser(AcousticRecipe(**choices), tensors["centroids"], tensors["scale"])
        if quantiser.hash != written:
            raise SpeechError(
                f"{described} promises the codebook {written}; its centroids make {quantiser.hash}. The files do not belong together."
            )
        return quantiser


def fit_features(points: Float[np.ndarray, "frame feature"], recipe: AcousticRecipe) -> AcousticQuantiser:
    """A quantiser from frames that are features already."""
    try:
        from sklearn.cluster import MiniBatchKMeans
    except ImportError as error:
        raise missing_extra("scikit-learn", "speech") from error
    if len(points) < recipe.n_units:
        raise SpeechError(f"{recipe.n_units} units need at least as many frames; got {len(points)}. Give more sound or fewer units.")
    scale = np.maximum(points.std(0), 1e-4).astype(np.float32)
    means = MiniBatchKMeans(recipe.n_units, random_state=recipe.seed, batch_size=4096, n_init=1, max_iter=60, reassignment_ratio=0.001)
    means.fit((points / scale).astype(np.float32))
    return AcousticQuantiser(recipe, means.cluster_centers_.astype(np.float32), scale)


def features(audio: Audio, recipe: AcousticRecipe) -> Float[np.ndarray, "frame feature"]:
    """Cepstra of each frame, without the utterance's mean, and their slopes."""
    require_rate(audio, recipe.sample_rate)
    n_frames = round(len(audio.samples) / recipe.frame)
    if n_frames < 1:
        raise SpeechError(f"{audio.seconds:.3f} s of sound is less than half a frame of {recipe.frame_s} s.")
    cepstra = _cepstra(audio.samples, n_frames * recipe.windows_per_frame, recipe)
    static = cepstra.reshape(n_frames, recipe.windows_per_frame, -1).mean(1)
    padded = np.concatenate([static[:1], static, static[-1:]])
    slopes = (padded[2:] - padded[:-2]) / 2
    return np.concatenate([static - static.mean(0), slopes], axis=1).astype(np.float32)


def _cepstra(samples: Float[np.ndarray, " time"], n_windows: int, recipe: AcousticRecipe) -> Float[np.ndarray, "window cepstrum"]:
    """Mel cepstra of windows centred on each hop; silence is put around the sound."""
    before = (recipe.window - recipe.hop) // 2
    length = (n_windows - 1) * recipe.hop + recipe.window
    padded = np.zeros(length, dtype=np.float32)
    kept = samples[: length - before]
    padded[before : before + len(kept)] = kept
    windows = np.lib.stride_tricks.sliding_window_view(padded, recipe.window)[:: recipe.hop]
    hann, mel, cosine = _tables(recipe)
    power = np.abs(np.fft.rfft(windows * hann, n=512)) ** 2 / recipe.window
    return np.log(power.astype(np.float32) @ mel + FLOOR) @ cosine


@lru_cache(maxsize=4)
def _tables(recipe: AcousticRecipe) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The window, triangular mel bands [bin band] (HTK scale, 60 Hz to Nyquist), and an orthonormal cosine transform [band cepstrum]."""
    hertz = np.linspace(0, recipe.sample_rate / 2, 257)
    corners = np.linspace(1127 * np.log1p(60 / 700), 1127 * np.log1p(recipe.sample_rate / 1400), recipe.n_bands + 2)
    corners = 700 * np.expm1(corners / 1127)
    up = (hertz[:, None] - corners[:-2]) / (corners[1:-1] - corners[:-2])
    down = (corners[2:] - hertz[:, None]) / (corners[2:] - corners[1:-1])
    mel = np.clip(np.minimum(up, down), 0, None)
    band, order = np.arange(recipe.n_bands), np.arange(recipe.n_cepstra)
    cosine = np.cos(np.pi * (band[:, None] + 0.5) * order / recipe.n_bands) * np.sqrt(2 / recipe.n_bands)
    cosine[:, 0] /= np.sqrt(2)
    return np.hanning(recipe.window).astype(np.float32), mel.astype(np.float32), cosine.astype(np.float32)
