"""Jacobian lenses of other packages: the `.pt` files of TransformerLens and of the reference implementation, both ways.

| key | what |
|---|---|
| `J` | layer to `[d_model, d_model]`; layer l is the *output of block* l, which here is layer l + 1 |
| `n_prompts`, `source_layers`, `d_model` | as named |
| `metadata` | where there is any: plain numbers, strings, lists and dictionaries |

Checkpoints of an unfinished fit (`jacobian_sum`, `n_done`) are read too. Files are read with `weights_only=True`, which runs no code.
Their format has no layer 0 (the embedding), so an export leaves it out. A file seldom says which weights it was fitted on: one that was
exported here is refused on another model; of any other, only width and layers can be checked.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import torch

from slm_interp.errors import ReadoutError
from slm_interp.files import atomic_path
from slm_interp.lenses.jacobian.lens import JacobianLens, check_model
from slm_interp.lenses.probe.states import fingerprint_of
from slm_interp.model import SpeechTextModel

OURS = "slm_interp"


def export_transformer_lens(lens: JacobianLens, path: str | os.PathLike[str], dtype: torch.dtype = torch.float32) -> None:
    """Write a file that TransformerLens's `JacobianLens.load` and the reference implementation read.

    Args:
        dtype: of the matrices; published files have `torch.float16`.

    Raises:
        ReadoutError: a lens of layer 0 alone, or numbers that the dtype cannot hold.
    """
    layers = [layer for layer in lens.layers if layer > 0]
    if not layers:
        raise ReadoutError("The file format counts outputs of blocks and has no place for layer 0, the embedding; this lens has no other.")
    matrices = {layer - 1: lens.jacobian(layer).detach().cpu().to(dtype) for layer in layers}
    lost = [layer + 1 for layer, one in matrices.items() if not one.isfinite().all()]
    if lost:
        raise ReadoutError(f"{dtype} cannot hold the Jacobians of layers {lost}. Export them as torch.float32.")
    payload = {
        "J": {layer: one.clone() for layer, one in matrices.items()},
        "n_prompts": int(lens.fitted["n_prompts"]),
        "source_layers": sorted(matrices),
        "d_model": int(lens.slm.model.cfg.d_model),
        "metadata": {
            "estimator": _estimator(lens.fitted),
            "hook_convention": "blocks.{layer}.hook_out",
            "target_layer": int(lens.slm.model.cfg.n_layers) - 1,
            "corpus": str(lens.fitted.get("corpus", "")),
            OURS: {"version": version("slm-interp"), "hash": lens.hash, **lens.fitted},
        },
    }
    with atomic_path(path) as temporary:
        torch.save(payload, temporary)


def import_transformer_lens(path: str | os.PathLike[str], slm: SpeechTextModel) -> JacobianLens:
    """Read a lens of TransformerLens or of the reference implementation for a model with the checkpoint's own (unfolded) weights.

    Raises:
        ReadoutError: no such file, another format, another model, width or number of layers, another target layer.
    """
    payload = _read(path)
    said: Mapping[str, Any] = payload.get("metadata") or {}
    config, ours = slm.model.cfg, said.get(OURS)
    if "J" in payload:
        matrices, count = payload["J"], int(payload.get("n_prompts", 0))
    elif payload.get("jacobian_sum") and int(payload.get("n_done", 0)) > 0:
        count = int(payload["n_done"])
        matrices = {layer: one.float() / count for layer, one in payload["jacobian_sum"].items()}
    else:
        raise ReadoutError(f"{os.fspath(path)!r} has neither 'J' nor 'jacobian_sum' with 'n_done'; it has {sorted(payload)}.")
    target = int(payload.get("target_layer", said.get("target_layer", config.n_layers - 1)))
    layers = tuple(sorted(int(layer) + 1 for layer in matrices))
    if target != config.n_layers - 1 or not layers or layers[0] < 1 or layers[-1] >= config.n_layers:
        raise ReadoutError(
            f"This lens leads from the outputs of blocks {[layer - 1 for layer in layers]} to that of block {target}; for this model of "
            f"{config.n_layers} blocks it must lead from 0 .. {config.n_layers - 2} to {config.n_layers - 1}."
        )
    if ours is not None:
        check_model(slm, ours.get("fingerprint", ""))
    wide = torch.promote_types(next(iter(matrices.values())).dtype, torch.float32)
    stacked = torch.stack([matrices[layer - 1].to(wide) for layer in layers])
    return JacobianLens(slm, layers, stacked, {**_fitted(payload, said, slm), "n_prompts": count})


def _read(path: str | os.PathLike[str]) -> dict[str, Any]:
    if not os.path.isfile(path):
        raise ReadoutError(f"No file {os.fspath(path)!r}. Give the .pt file of a Jacobian lens.")
    try:
        payload = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ReadoutError(f"{os.fspath(path)!r} is no file of tensors that can be read without running code: {error}") from error
    if not isinstance(payload, dict):
        raise ReadoutError(f"{os.fspath(path)!r} should hold a dictionary; it holds a {type(payload).__name__}.")
    return payload


def _estimator(fitted: Mapping[str, Any]) -> str:
    """The name TransformerLens gives the published estimator, so that it merges none with a lens of chosen positions."""
    sources, targets = fitted.get("sources", "all"), fitted.get("targets", "all")
    return "jacobian_lens" if (sources, targets) == ("all", "all") else f"jacobian_lens {sources} to {targets}"


def _fitted(payload: Mapping[str, Any], said: Mapping[str, Any], slm: SpeechTextModel) -> dict[str, Any]:
    if OURS in said:
        return {key: value for key, value in said[OURS].items() if key not in ("version", "hash")}
    found = {key: said[key] for key in ("corpus", "max_seq_len", "fit_dtype", "model_name", "model_revision") if key in said}
    skip = payload.get("skip_first", said.get("skip_first_positions"))
    found |= {} if skip is None else {"skip_first_positions": int(skip)}
    return {"sources": "all", "targets": "all", **found, "checked": "width and layers alone", "fingerprint": fingerprint_of(slm)}
