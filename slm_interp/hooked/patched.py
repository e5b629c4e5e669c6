"""Running a model with single residual vectors replaced, alike on every TransformerLens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from slm_interp.errors import ReadoutError
from slm_interp.hooked.installed import HookedTransformer, run_blocks
from slm_interp.hooked.sites import stream_names


@dataclass(frozen=True, eq=False)
class Patches:
    """One vector for each sequence of a batch, and where it goes.

    Args:
        layer: blocks run, as in `residuals`: 0 is what the embedding wrote, n_layers what the final norm reads.
        pos: position whose residual is replaced.
        vector: what replaces it.
    """

    layer: Int[Tensor, " batch"]
    pos: Int[Tensor, " batch"]
    vector: Float[Tensor, "batch d_model"]


def last_residuals(
    model: HookedTransformer, tokens: Int[Tensor, "batch pos"], patches: Patches | None = None
) -> Float[Tensor, "batch pos d_model"]:
    """The residual stream after the last block, without gradients, with each sequence's patch in place.

    Raises:
        ReadoutError: layers or positions that are not there, or another number of patches than sequences.
    """
    names = stream_names(model)
    if patches is not None:
        _check(model, tokens, patches)
    kept: list[Tensor] = []

    def put(resid: Tensor, hook: Any, layer: int) -> Tensor:
        if patches is None:
            return resid
        rows = (patches.layer == layer).nonzero().flatten().to(resid.device)
        if not len(rows):
            return resid
        changed = resid.clone()
        changed[rows, patches.pos.to(resid.device)[rows]] = patches.vector.to(resid)[rows]
        return changed

    def keep(resid: Tensor, hook: Any) -> None:
        kept.append(resid)

    hooks: list[tuple[str, Any]] = [(name, lambda resid, hook, layer=layer: put(resid, hook, layer)) for layer, name in enumerate(names)]
    with torch.no_grad():
        run_blocks(model, tokens, [*hooks, (names[-1], keep)])
    return kept[0]


def _check(model: HookedTransformer, tokens: Tensor, patches: Patches) -> None:
    if not len(patches.layer) == len(patches.pos) == len(patches.vector) == len(tokens):
        raise ReadoutError(
            f"{len(tokens)} sequences take one patch each; got {len(patches.layer)} layers, {len(patches.pos)} positions and "
            f"{len(patches.vector)} vectors."
        )
    layers, length = model.cfg.n_layers, tokens.shape[1]
    if ((patches.layer < 0) | (patches.layer > layers)).any() or ((patches.pos < 0) | (patches.pos >= length)).any():
        raise ReadoutError(
            f"A patch goes to a layer in 0..{layers} and a position in 0..{length - 1}; got layers "
            f"{patches.layer.tolist()}, positions {patches.pos.tolist()}."
        )
    if length > model.cfg.n_ctx:
        raise ReadoutError(f"The model reads at most {model.cfg.n_ctx} positions; this prompt has {length}.")
