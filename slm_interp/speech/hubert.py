"""Units as slamkit makes them: HuBERT, one layer, the nearest k-means centroid, repeats merged.

1. The sound, 16 kHz and mono, goes in as it is: slamkit does not normalise it.
2. 40 zeros are put on either side. Layers of convolutions with kernels 10 3 3 3 3 2 2 2 and strides 5 2 2 2 2 2 2 2 see 720
   samples and step by 640; with the padding, frame `k` is centred on the sound from `0.04 k` to `0.04 (k + 1)` seconds,
   and a sound of `n` samples has `n // 640` frames.
3. The centroid nearest to `hidden_states[layer]` names the unit (slamkit and textless-lib: layer 11, 500 centroids).

slamkit extracts in batches, padded with zeros and without a mask, so that the normalisation over time in the first
convolution sees the padding. A sound alone in its batch has the units given here; in a batch of unequal
sounds slamkit's own units can differ a little.

Centroids are read from `.npy` or safetensors. The published ones are a pickle, which is never opened here: open it once where you
trust it, with the library that wrote it (joblib), and `numpy.save("centroids.npy", kmeans.cluster_centers_)`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from slm_interp.audio import Audio
from slm_interp.errors import SpeechError
from slm_interp.speech.audio import require_rate
from slm_interp.speech.units import Units, merged

UNUSED = frozenset({"masked_spec_embed"})
"""Weights that only training uses; a folder may lack them."""


@dataclass(frozen=True)
class HubertRecipe:
    """Every choice of the quantiser but its weights. The defaults are slamkit's for mHuBERT at 25 Hz.

    Args:
        layer: index into `hidden_states`: 0 is what enters the first transformer layer.
        n_units: centroids.
        sample_rate: hertz the sound must have.
        padding: zeros put on either side, in samples.
        frame_s: seconds of a frame; the model's strides must make it.
    """

    layer: int = 11
    n_units: int = 500
    sample_rate: int = 16_000
    padding: int = 40
    frame_s: float = 0.04


class HubertQuantiser:
    """Sound to units. Make one with `load`, or from a model and centroids in memory.

    Args:
        model: a `transformers.HubertModel`; it is put in evaluation mode.
        centroids: in the space of `hidden_states[recipe.layer]`.
        recipe: the choices.

    Raises:
        SpeechError: centroids, layer or strides that are not those of the recipe.
    """

    def __init__(self, model: Any, centroids: Float[np.ndarray, "unit d_model"], recipe: HubertRecipe = HubertRecipe()) -> None:
        config, wanted = model.config, (recipe.n_units, model.config.hidden_size)
        if centroids.shape != wanted:
            raise SpeechError(f"The recipe and the model want centroids of shape {wanted} (units, d_model); got {centroids.shape}.")
        if not np.isfinite(centroids).all():
            raise SpeechError("The centroids have values that are NaN or infinite.")
        if not 0 <= recipe.layer <= config.num_hidden_layers:
            raise SpeechError(f"The recipe reads layer {recipe.layer}; the model has hidden states 0 to {config.num_hidden_layers}.")
        stride = math.prod(config.conv_stride)
        if stride != round(recipe.frame_s * recipe.sample_rate):
            raise SpeechError(
                f"The model steps by {stride} samples, {stride / recipe.sample_rate:g} s at {recipe.sample_rate} Hz; the recipe wants "
                f"frames of {recipe.frame_s:g} s. mHuBERT at 25 Hz has strides 5 2 2 2 2 2 2 2; is this a 50 Hz model?"
            )
        self.model, self.recipe = model.eval(), recipe
        self.centroids = torch.tensor(centroids, dtype=torch.float64)
        self.hash = _hash(model, centroids, recipe)

    @staticmethod
    def load(folder: str | os.PathLike[str], centroids: str | os.PathLike[str], recipe: HubertRecipe = HubertRecipe()) -> HubertQuantiser:
        """A quantiser from a local folder with a HuBERT model and a file with its centroids. Never looks on a network.

        Raises:
            SpeechError: no such folder or file, a damaged one, weights that the folder lacks, or what the class refuses.
        """
        return HubertQuantiser(_model(folder), read_centroids(centroids), recipe)

    @property
    def n_units(self) -> int:
        """Units in the codebook."""
        return self.recipe.n_units

    @property
    def sample_rate(self) -> int:
        """Hertz that sounds must have."""
        return self.recipe.sample_rate

    def features(self, audio: Audio) -> Float[torch.Tensor, "frame d_model"]:
        """The hidden states that are clustered.

        Raises:
            SpeechError: another sample rate, or less sound than one frame needs.
        """
        require_rate(audio, self.recipe.sample_rate)
        wave = torch.nn.functional.pad(torch.from_numpy(audio.samples)[None], (self.recipe.padding, self.recipe.padding))
        if (least := _receptive_field(self.model.config)) > wave.shape[1]:
            raise SpeechError(f"One frame takes {least - 2 * self.recipe.padding} samples of sound; got {len(audio.samples)}.")
        with torch.inference_mode():
            states = self.model(wave.to(self.model.device, self.model.dtype), output_hidden_states=True).hidden_states
        return states[self.recipe.layer][0]

    def frames(self, audio: Audio) -> Int[np.ndarray, " frame"]:
        """One unit a frame, repeats not merged.

        Raises:
            SpeechError: as `features`.
        """
        features = self.features(audio).to(self.centroids)
        distance = self.centroids.square().sum(1) - 2 * features @ self.centroids.T
        return distance.argmin(1).numpy()

    def encode(self, audio: Audio) -> Units:
        """Units of a sound, repeats merged, as slamkit stores them.

        Raises:
            SpeechError: as `features`.
        """
        return merged(self.frames(audio), self.recipe.frame_s, self.hash)

    def __repr__(self) -> str:
        return f"HubertQuantiser({self.n_units} units, layer {self.recipe.layer}, frame {self.recipe.frame_s} s, {self.hash})"


def read_centroids(path: str | os.PathLike[str]) -> Float[np.ndarray, "unit d_model"]:
    """k-means centroids from a `.npy` file or a safetensors file with one tensor in it.

    Raises:
        SpeechError: no such file, a pickle, a damaged file, or no matrix of numbers.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not Path(path).is_file():
        raise SpeechError(f"There is no file of centroids at {path}.")
    try:
        if Path(path).suffix == ".npy":
            array = np.load(path, allow_pickle=False)
        elif Path(path).suffix == ".safetensors":
            tensors = load_file(path)
            if len(tensors) != 1:
                raise SpeechError(f"{path} must hold one tensor, the centroids; it holds {sorted(tensors)}.")
            array = next(iter(tensors.values()))
        else:
            raise SpeechError(
                f"Centroids are read from .npy or .safetensors; got {path}. A pickle is not opened here: open it where you trust it "
                'and numpy.save("centroids.npy", kmeans.cluster_centers_).'
            )
    except (ValueError, OSError, EOFError, SafetensorError) as error:
        if isinstance(error, SpeechError):
            raise
        raise SpeechError(f"{path} cannot be read as an array: {error}") from error
    if array.ndim != 2 or array.dtype.kind != "f":
        raise SpeechError(f"Centroids are a matrix of floats (units, d_model); {path} holds {array.dtype} of shape {array.shape}.")
    return array


def _model(folder: str | os.PathLike[str]) -> Any:
    """The HuBERT model of a local folder, in fp32 as slamkit runs it."""
    from transformers import HubertModel

    if not (Path(folder) / "config.json").is_file():
        raise SpeechError(f"No HuBERT model in {folder}: there is no config.json. Give the local folder of the model.")
    try:
        kind = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8")).get("model_type")
        if kind != "hubert":
            raise SpeechError(f"The model in {folder} is of type {kind!r}; this needs 'hubert'.")
        loaded: Any = HubertModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32, output_loading_info=True)
        model, report = loaded
    except SpeechError:
        raise
    except Exception as error:  # transformers raises what its readers raise, of many kinds
        raise SpeechError(f"The HuBERT model in {folder} cannot be loaded: {error}") from error
    missing = sorted(set(report["missing_keys"]) - UNUSED)
    if missing or report["mismatched_keys"]:
        raise SpeechError(
            f"The HuBERT model in {folder} lacks {len(missing)} weights ({', '.join(missing[:3])}) and misfits "
            f"{len(report['mismatched_keys'])}; they would be random. Is the file complete?"
        )
    return model


def _receptive_field(config: Any) -> int:
    """Samples that one frame sees."""
    seen, step = 1, 1
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        seen, step = seen + (kernel - 1) * step, step * stride
    return seen


def _hash(model: Any, centroids: Float[np.ndarray, "unit d_model"], recipe: HubertRecipe) -> str:
    """The first 16 hex digits of SHA-256 over recipe, centroids and every weight that the layer can depend on."""
    digest = hashlib.sha256(json.dumps(asdict(recipe), sort_keys=True).encode())
    digest.update(np.ascontiguousarray(centroids, dtype="<f8").tobytes())
    for name, tensor in sorted(model.state_dict().items()):
        if name not in UNUSED:
            digest.update(name.encode())
            digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
