"""A subspace of as many dimensions as the text's, in which the stream varies as much: is it text that matters, or any coordinates of that size?

Random directions are an easy null, as a stream hardly varies along most of them. This one is hard:

1. The variance of natural residuals (`natural.py`) within the text subspace: the sum of their variances along an orthonormal basis of it.
2. Principal components of the same residuals, in order of variance. Of all runs of consecutive ones, as many as the text subspace has dimensions, the one whose
   variance is nearest (by ratio).
3. Coordinates in that subspace are copied from the clean run (`CopyCoordinates`) as those in the text subspace are, and the effects compared.

Principal components may themselves lean on text directions: `overlap` says how far, 0 (orthogonal) to 1 (the same subspace); chance is rank / d_model.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from slm_interp.causal.controls.natural import Natural
from slm_interp.errors import PatchingError
from slm_interp.patching.interventions.directions import Subspace, same_width

LEAST = 1e-12  # of the whole variance; what is below is none


@dataclass(frozen=True, eq=False)
class EqualVariance:
    """A subspace in which the stream varies as it does in another.

    Args:
        directions: orthonormal rows, in float64.
        first: number of the first principal component taken, 0 is the one of largest variance.
        variance: of natural residuals within it.
        wanted: of natural residuals within the text subspace.
        whole: of natural residuals in all directions.
        overlap: mean squared cosine of the angles between both subspaces.
    """

    directions: Float[Tensor, "rank d_model"]
    first: int
    variance: float
    wanted: float
    whole: float
    overlap: float

    def __str__(self) -> str:
        return (
            f"principal components {self.first} to {self.first + len(self.directions) - 1}: {self.variance / self.whole:.2%} of the variance, text "
            f"{self.wanted / self.whole:.2%}; overlap {self.overlap:.2f}"
        )


def equal_variance(natural: Natural, directions: Float[Tensor, "direction d_model"]) -> EqualVariance:
    """Consecutive principal components, as many as the directions have dimensions, with the variance nearest to theirs.

    Args:
        natural: residuals of the layer.
        directions: of the words; they may depend on each other.

    Raises:
        PatchingError: directions that are none, of another width or of more dimensions than there are components; residuals that do not vary.
    """
    same_width(natural.resid, directions)
    text, own = Subspace(directions), natural.principal
    whole, rank = float(own.variances.sum()), text.rank
    if whole <= 0 or rank > len(own.components):
        raise PatchingError(
            f"A subspace of equal variance has {rank} of {len(own.components)} principal components, and a variance; theirs is {whole:.3g} in "
            f"{len(natural)} states. Give residuals of more prompts."
        )
    wanted = float((own.components @ text.basis.T).square().sum(1) @ own.variances)
    runs = own.variances.unfold(0, rank, 1).sum(-1)
    floor = LEAST * whole
    first = int(((runs + floor).log() - torch.tensor(wanted + floor).log()).abs().argmin())
    chosen = own.components[first : first + rank]
    overlap = float((chosen @ text.basis.T).square().sum()) / rank
    return EqualVariance(chosen, first, float(runs[first]), wanted, whole, overlap)
