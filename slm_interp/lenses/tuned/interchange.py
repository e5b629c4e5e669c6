"""Lenses in the format of the `tuned-lens` package (0.2.0): `config.json` beside `params.pt`, read and written without that package.

`params.pt` holds `0.weight`, `0.bias`, `1.weight` ... in that order of layers: translator `i` reads the output of `i` blocks, as here. The
config names the model and a hash of its unembedding. That hash is weak, of 36 corner numbers to one decimal; a lens of a model with the
same shapes and the same corners passes. Nothing is unpickled: `torch.load(weights_only=True)`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slm_interp import hooked
from slm_interp.errors import ReadoutError
from slm_interp.files import atomic_path, write_text
from slm_interp.lenses.tuned.lens import TunedLens
from slm_interp.model import SpeechTextModel

CONFIG, PARAMETERS = "config.json", "params.pt"
LINEAR = "linear_tuned_lens"
KEYS = ("base_model_name_or_path", "d_model", "num_hidden_layers", "bias", "base_model_revision", "unembed_hash", "lens_type")


def import_tuned(folder: str | os.PathLike[str], slm: SpeechTextModel) -> TunedLens:
    """A lens that `tuned-lens` trained, for the model it was trained on. What it was trained on, its files do not say.

    Raises:
        ReadoutError: files that are missing, unsafe, of another kind of lens or of another model.
    """
    folder = Path(folder)
    config = _config(folder, slm)
    n_layers, d_model = slm.model.cfg.n_layers, slm.model.cfg.d_model
    try:
        state = torch.load(folder / PARAMETERS, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch makes of a damaged or unsafe file
        raise ReadoutError(f"{folder / PARAMETERS} cannot be read as plain tensors: {str(error).splitlines()[0]}") from error
    parts = ("weight", "bias") if config.get("bias", True) else ("weight",)
    wanted = {f"{layer}.{part}" for layer in range(n_layers) for part in parts}
    if not isinstance(state, Mapping) or set(state) != wanted:
        came = sorted(map(str, state))[:4] if isinstance(state, Mapping) else type(state).__name__
        raise ReadoutError(f"{PARAMETERS} must hold {', '.join(parts)} of translators 0 to {n_layers - 1}; got {came} ...")
    weight = _stacked(state, "weight", n_layers)
    bias = _stacked(state, "bias", n_layers) if "bias" in parts else torch.zeros(n_layers, d_model)
    said = {"from": "imported", "format": "tuned-lens", "base_model": str(config["base_model_name_or_path"])}
    return TunedLens(slm, tuple(range(n_layers)), weight, bias, None, said)


def export_tuned(lens: TunedLens, folder: str | os.PathLike[str], base_model: str) -> None:
    """Write a lens as `tuned-lens` reads it. What it was trained on has no place there.

    Args:
        lens: with a translator at every layer.
        folder: where.
        base_model: name or path of the model, as that package loads it.

    Raises:
        ReadoutError: a lens that lacks layers.
    """
    config, folder = lens.slm.model.cfg, Path(folder)
    if lens.layers != tuple(range(config.n_layers)):
        raise ReadoutError(f"tuned-lens has a translator at each of {config.n_layers} layers; this lens has {list(lens.layers)}.")
    state: dict[str, torch.Tensor] = {}
    for layer in lens.layers:
        state |= {f"{layer}.weight": lens.weight[layer].detach().cpu().clone(), f"{layer}.bias": lens.bias[layer].detach().cpu().clone()}
    values = (base_model, config.d_model, config.n_layers, True, None, unembedding_hash(lens.slm), LINEAR)
    with atomic_path(folder / PARAMETERS) as path:
        torch.save(state, path)
    write_text(folder / CONFIG, json.dumps(dict(zip(KEYS, values, strict=True))))


def unembedding_hash(slm: SpeechTextModel) -> str:
    """`tuned-lens`'s hash of an unembedding: SHA-256 of numpy's short print of `[d_vocab, d_model]` in float32, to one decimal."""
    rows = hooked.unembedding(slm.model).W_U.T.float().cpu().numpy()
    with np.printoptions(
        edgeitems=3, threshold=1000, linewidth=75, suppress=False, nanstr="nan", infstr="inf", sign="-", floatmode="maxprec"
    ):
        return hashlib.sha256(np.array_str(rows, precision=1).encode()).hexdigest()


def _config(folder: Path, slm: SpeechTextModel) -> dict[str, Any]:
    for name in (CONFIG, PARAMETERS):
        if not (folder / name).is_file():
            raise ReadoutError(f"No {name} in {folder}. A lens of tuned-lens is {CONFIG} and {PARAMETERS}; TunedLens.load reads our own.")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ReadoutError(f"{folder / CONFIG} is not JSON: {error}") from error
    if not isinstance(config, dict) or not {"base_model_name_or_path", "d_model", "num_hidden_layers"} <= set(config):
        raise ReadoutError(f"{folder / CONFIG} is no config of tuned-lens: it must name the model, d_model and num_hidden_layers.")
    unread = sorted(set(config) - set(KEYS))
    if unread:
        raise ReadoutError(f"{folder / CONFIG} has the key {unread[0]!r}, which tuned-lens 0.2.0 does not have; it may change the numbers.")
    if config.get("lens_type", LINEAR) != LINEAR:
        raise ReadoutError(f"A tuned lens is a {LINEAR}; got {config['lens_type']!r}.")
    here = {"d_model": slm.model.cfg.d_model, "num_hidden_layers": slm.model.cfg.n_layers, "unembed_hash": unembedding_hash(slm)}
    for key, value in here.items():
        if config.get(key) != value:
            raise ReadoutError(
                f"This lens was trained on another model, {config['base_model_name_or_path']!r}: its {key} is {config.get(key)}, this model's "
                f"{value}. Folding norms into the unembedding changes its hash; load the model without."
            )
    return config


def _stacked(state: Mapping[str, Tensor], part: str, n_layers: int) -> Tensor:
    tensors = [state[f"{layer}.{part}"] for layer in range(n_layers)]
    if any(one.shape != tensors[0].shape for one in tensors):
        raise ReadoutError(f"Translators differ in the shape of their {part}; got {[tuple(one.shape) for one in tensors][:3]} ...")
    return torch.stack(tensors).to(torch.float32)
