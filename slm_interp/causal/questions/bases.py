"""What a question asks of a basis: directions of words at a layer, the pairs of two words, and how much of each word is read in a residual.

Anything with a `name` and `directions(layer, words)` will do, such as a lens. Where it has `pairs` or `score` of its own, those are used: a word may be
spelled in several ways, and then be more than one direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from slm_interp import hooked
from slm_interp.errors import PatchingError
from slm_interp.model import SpeechTextModel
from slm_interp.patching.interventions.directions import Subspace


@runtime_checkable
class Directed(Protocol):
    """A lens, a probe or a basis of words."""

    @property
    def name(self) -> str:
        """What results call it."""
        ...

    def directions(self, layer: int, words: Sequence[str]) -> Float[Tensor, "direction d_model"]:
        """Directions of words at a layer of `resid_post`, in blocks run."""
        ...


def pairs_of(basis: Directed, layer: int, first: str, second: str) -> tuple[Float[Tensor, "pair d_model"], Float[Tensor, "pair d_model"]]:
    """Directions of two words, matched one with one.

    Raises:
        PatchingError: words whose directions depend on each other, such as words of one first piece.
    """
    own = getattr(basis, "pairs", None)
    if own is not None:
        found: tuple[Tensor, Tensor] = own(layer, first, second)
        return found
    both = basis.directions(layer, [first, second])
    if len(both) != 2 or Subspace(both).rank < 2:
        raise PatchingError(
            f"{basis.name!r} has no two directions for {first!r} and {second!r} at layer {layer}: do they share their first piece? Leave the case out."
        )
    return both[:1], both[1:]


def span_of(basis: Directed, layer: int, words: Sequence[str]) -> Float[Tensor, "direction d_model"]:
    """All directions of some words; they may depend on each other."""
    return basis.directions(layer, list(words))


def scores_of(
    slm: SpeechTextModel, basis: Directed, resid: Float[Tensor, "*batch d_model"], layer: int, words: Sequence[str]
) -> Float[Tensor, "*batch word"]:
    """How much of each word is read: the basis's own score, else its reading over what the final norm divides by, a logit but for a constant.

    Raises:
        PatchingError: a basis without scores that has not one direction a word.
    """
    own = getattr(basis, "score", None)
    if own is not None:
        return torch.as_tensor(own(resid, layer, list(words)))
    rows = basis.directions(layer, list(words))
    if len(rows) != len(words):
        raise PatchingError(
            f"{basis.name!r} has {len(rows)} directions for {len(words)} words and no score(resid, layer, words) to join them."
        )
    return Subspace(rows).readings(resid) / hooked.norm_formula(slm.model).scale(resid)[..., None]
