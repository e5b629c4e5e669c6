"""Directions that need be neither orthogonal nor of one length, and what of a residual lies in their span.

With the directions as the rows of `D`, and `G = D D^T` their products with each other:

1. A **reading** is a dot product, `r = D x`: what a lens sees.
2. **Coordinates** are the weights of the least-squares expansion of `x` in the directions, `c = G^-1 r`: how much of each direction `x` is made of. The rows of
   `G^-1 D` are the dual basis (the pseudo-inverse of `D`, transposed). Readings are coordinates only where the directions are orthonormal.
3. The **part in the span** is `D^T c`, the same for every basis of the span, and computed in an orthonormal one, so dependent directions do no harm to it.

Rank is counted of the directions at length 1: what is less than 1e-6 of the largest singular value is the rounding of float32. Directions are constants;
gradients pass through the residuals. They are worked out once in float64 and used in float32, or in float64 where the stream is.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from slm_interp.errors import PatchingError

SMALLEST = 1e-6  # singular value that is still a direction, as a share of the largest


@dataclass(frozen=True, eq=False)
class Subspace:
    """The span of some directions.

    Raises:
        PatchingError: no directions, or one that is zero or not finite.
    """

    directions: Float[Tensor, "direction d_model"]

    def __post_init__(self) -> None:
        whole = self.directions.isfinite().all(-1)
        zero = ~self.directions.any(-1)
        if not len(whole) or not whole.all() or zero.any():
            raise PatchingError(
                f"A subspace is given by one direction or more, each finite and not zero; got {len(whole)}, of which {int((~whole).sum())} "
                f"are not finite and {int(zero.sum())} zero."
            )

    @cached_property
    def basis(self) -> Float[Tensor, "rank d_model"]:
        """Orthonormal rows with the same span."""
        return orthonormal(self.directions)

    @property
    def rank(self) -> int:
        """How many of the directions are independent."""
        return len(self.basis)

    @cached_property
    def dual(self) -> Float[Tensor, "direction d_model"]:
        """Vectors in the span whose dot products with a residual are its coordinates.

        Raises:
            PatchingError: directions that depend on each other, so that coordinates are not one set of numbers.
        """
        if self.rank < len(self.directions):
            raise PatchingError(
                f"Coordinates need independent directions; these {len(self.directions)} have rank {self.rank}. Leave out words that share a "
                f"first piece, or take fewer."
            )
        return torch.linalg.pinv(exact(self.directions), rtol=0.0).T

    def readings(self, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch direction"]:
        """Dot products with the directions."""
        return along(resid, exact(self.directions))

    def coordinates(self, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch direction"]:
        """Weights of the least-squares expansion in the directions; errors as in `dual`."""
        return along(resid, self.dual)

    def within(self, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """The part that lies in the span."""
        return combined(along(resid, self.basis), self.basis)


def exact(directions: Float[Tensor, "direction d_model"]) -> Float[Tensor, "direction d_model"]:
    """In float64, and on the processor, as not every accelerator has float64."""
    return directions.detach().cpu().double()


def orthonormal(directions: Float[Tensor, "direction d_model"]) -> Float[Tensor, "rank d_model"]:
    """Orthonormal rows with the span of some directions, in float64; rows of zeros count for nothing."""
    kept = exact(directions)
    kept = kept[kept.any(-1)]
    _, sizes, rows = torch.linalg.svd(kept / kept.norm(dim=-1, keepdim=True), full_matrices=False)
    return rows[sizes > sizes[0] * SMALLEST]


def along(resid: Float[Tensor, "*batch size"], rows: Float[Tensor, "row d_model"]) -> Float[Tensor, "*batch row"]:
    """Dot products with some vectors, in float32 at least; errors as `same_width`."""
    same_width(resid, rows)
    own = wide(resid)
    return einsum(own, rows.to(own.device, own.dtype), "... size, row size -> ... row")


def combined(shares: Float[Tensor, "*batch row"], rows: Float[Tensor, "row d_model"]) -> Float[Tensor, "*batch d_model"]:
    """The sum of some vectors, each times its share."""
    return einsum(shares, rows.to(shares.device, shares.dtype), "... row, row d_model -> ... d_model")


def same_width(resid: Tensor, directions: Tensor) -> None:
    """Refuse directions of another stream.

    Raises:
        PatchingError: vectors of two lengths.
    """
    if resid.shape[-1] != directions.shape[-1]:
        raise PatchingError(
            f"Directions have as many numbers as the stream, {resid.shape[-1]}; got {directions.shape[-1]}. Are they of this model?"
        )


def wide(resid: Tensor) -> Tensor:
    """In float32 at least."""
    return resid.to(torch.promote_types(resid.dtype, torch.float32))
