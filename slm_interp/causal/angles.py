"""How two subspaces of the residual stream lie to each other: principal angles, their overlap, and what chance gives.

With orthonormal bases `Q` and `R` (rows), the singular values of `Q R^T` are the cosines of the principal angles (Björck & Golub 1973). Small angles are taken
from the sines instead, singular values of `R - (R Q^T) Q`, where cosines are flat. The **overlap** is the mean squared cosine, 0 for
orthogonal subspaces and 1 where one holds the other; of a random subspace it is `max(k, r) / d_model` on average, for subspaces of `k` and `r` dimensions.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from slm_interp.patching.interventions.directions import orthonormal, same_width


def principal_angles(first: Float[Tensor, "direction d_model"], second: Float[Tensor, "other width"]) -> Float[Tensor, " angle"]:
    """Angles between the spans of some directions, ascending, in degrees; as many as the smaller span has dimensions.

    Raises:
        PatchingError: directions of two widths.
    """
    same_width(first, second)
    smaller, larger = sorted((orthonormal(first), orthonormal(second)), key=len)
    cosines = torch.linalg.svdvals(smaller @ larger.T).clamp(0, 1)
    sines = torch.linalg.svdvals(smaller - smaller @ larger.T @ larger).clamp(0, 1).flip(0)
    return torch.rad2deg(torch.where(cosines.square() > 0.5, sines.asin(), cosines.acos())).float()


def overlap(first: Float[Tensor, "direction d_model"], second: Float[Tensor, "other width"]) -> float:
    """Mean squared cosine of the principal angles; errors as in `principal_angles`."""
    same_width(first, second)
    smaller, larger = sorted((orthonormal(first), orthonormal(second)), key=len)
    return float((smaller @ larger.T).square().sum() / len(smaller))


def chance_overlap(rank: int, other: int, d_model: int) -> float:
    """The overlap of a random subspace with any other, on average."""
    return max(rank, other) / d_model


def random_subspace(rank: int, d_model: int, generator: torch.Generator) -> Float[Tensor, "rank d_model"]:
    """Orthonormal rows, every subspace as likely as any other."""
    drawn = torch.randn(d_model, rank, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(drawn).Q.T
