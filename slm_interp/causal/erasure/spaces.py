"""What is erased at a layer: text, as much variance in the largest components, chance, and what LEACE takes.

Every one is a map `x -> x - L^T R (x - m)` with the mean `m` of the training positions (of LEACE: where words end), so that what is erased stands at
its mean afterwards, not at 0: a part of the stream that is always there is not missed. Orthogonal projections have `L = R`, orthonormal rows.

| arm | rows |
|---|---|
| `text` | the top `r` directions of a declared set of words (`Erase.top`), or the span of the whole set |
| `variance` | principal components of the training positions, as many, and turned so that exactly as much variance lies in them |
| `random` | random subspaces of the same rank |
| `leace` | what LEACE takes of which of the declared words is heard, fitted where words end: rank one less than there are words |

*Equal variance.* With the components' variances in falling order, the windows of `r` neighbours hold less and less. Text falls between two
neighbouring windows; the component that the first has alone is turned towards the one that the second has alone, by the angle at which the variances
are equal. Text with less variance than the smallest window, or more than the largest, gets that window, and `variance` says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from slm_interp.causal.angles import random_subspace
from slm_interp.causal.bases import Basis
from slm_interp.patching.interventions import Erase
from slm_interp.patching.interventions.directions import exact
from slm_interp.patching.interventions.leace import Leace


@dataclass(frozen=True, eq=False)
class Space:
    """One thing that is erased at one layer.

    Args:
        arm, draw: as in the table above.
        asked: the rank that was asked for; 0 for the whole set, and for LEACE.
        left, right: rows; see the top of this file.
        mean: around which it is erased.
        variance: share of the training positions' variance that is gone.
    """

    arm: str
    draw: int
    asked: int
    left: Float[Tensor, "rank d_model"]
    right: Float[Tensor, "rank d_model"]
    mean: Float[Tensor, " d_model"]
    variance: float


@dataclass(frozen=True, eq=False)
class Cloud:
    """Residuals of the training positions at one layer, in float64."""

    mean: Float[Tensor, " d_model"]
    centred: Float[Tensor, "position d_model"]
    components: Float[Tensor, "component d_model"]
    variances: Float[Tensor, " component"]

    @classmethod
    def of(cls, resid: Float[Tensor, "position d_model"]) -> Cloud:
        """Mean, components and their shares of the variance."""
        own = exact(resid)
        centred = own - own.mean(0)
        variances, axes = torch.linalg.eigh(centred.T @ centred)
        variances = variances.clamp_min(0).flip(0)
        return cls(own.mean(0), centred, axes.T.flip(0), variances / variances.sum())

    def share(self, left: Float[Tensor, "rank d_model"], right: Float[Tensor, "rank d_model"]) -> float:
        """How much of the variance is gone without a part."""
        after = self.centred - (self.centred @ right.T) @ left
        return 1 - float(after.square().sum() / self.centred.square().sum())

    def as_large(self, rank: int, share: float) -> Float[Tensor, "rank d_model"]:
        """As many orthonormal rows with as much variance; see the top of this file."""
        held = self.variances.unfold(0, rank, 1).sum(-1)
        first = int((held >= share).sum()) - 1
        if first < 0 or first == len(held) - 1:
            return self.components[max(first, 0) : max(first, 0) + rank]
        gone, come = self.variances[first], self.variances[first + rank]
        part = ((held[first] - share) / (gone - come)).clamp(0, 1) if gone > come else torch.zeros((), dtype=torch.float64)
        turned = (1 - part).sqrt() * self.components[first] + part.sqrt() * self.components[first + rank]
        return torch.cat([turned[None], self.components[first + 1 : first + rank]])


def spaces_of(
    cloud: Cloud, directions: Float[Tensor, "direction d_model"], ranks: Sequence[int], draws: int, generator: torch.Generator
) -> list[Space]:
    """Text of every rank with its controls; rank 0 is the span of all directions.

    Raises:
        PatchingError: ranks above d_model / 8 or above that of the directions, directions that span the whole stream.
    """
    found, d_model = [], directions.shape[1]
    for asked in ranks:
        erased = Erase(directions) if asked == 0 else Erase.top(directions, asked)
        rows = erased.subspace.basis
        share = cloud.share(rows, rows)
        own = [("text", 0, rows), ("variance", 0, cloud.as_large(len(rows), share))]
        own += [("random", draw, random_subspace(len(rows), d_model, generator)) for draw in range(draws)]
        found += [Space(arm, draw, asked, one, one, cloud.mean, cloud.share(one, one)) for arm, draw, one in own]
    return found


def leace_of(cloud: Cloud, resid: Float[Tensor, "word d_model"], labels: Sequence[str]) -> Space:
    """What LEACE takes of the words that end at some positions; errors as in `Leace.fit`."""
    fitted = Leace.fit(resid, labels)
    return Space("leace", 0, 0, fitted.left, fitted.right, fitted.mean, cloud.share(fitted.left, fitted.right))


def directions_of(basis: Basis, layer: int, words: Sequence[str]) -> Float[Tensor, "direction d_model"]:
    """Of a declared set of words, in float64."""
    return exact(basis.directions(layer, list(words)))
