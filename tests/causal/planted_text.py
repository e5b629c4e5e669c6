"""Text of planted models, along directions that are taken from the model's unembedding and not from the compiler."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from slm_interp.causal.planted import Planted
from slm_interp.lenses import directions_of


def directions(model: Planted, words: tuple[str, ...] | None = None) -> Float[Tensor, "word d_model"]:
    """Of words, all by default: columns of `W_U` pulled back through the final norm."""
    return directions_of(model.slm, [model.slm.word_ids(word)[0] for word in words or model.lexicon.words])


def coordinates(resid: Tensor, rows: Tensor) -> Tensor:
    """Oblique: what `rows` are multiplied with to give the part of `resid` in their span."""
    return resid @ torch.linalg.pinv(rows)


def text_part(model: Planted, resid: Tensor) -> Tensor:
    rows = directions(model)
    return coordinates(resid, rows) @ rows
