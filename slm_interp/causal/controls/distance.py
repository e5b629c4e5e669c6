"""How far edited residuals are from natural ones: their length, and their Mahalanobis distance.

1. The distribution is that of natural residuals of the layer (`natural.py`) from *other* prompts, `natural.without(groups)`: a covariance of few states
   bends towards each of them, so unedited residuals that are in it would lie nearer than they should, and every edit would look further.
2. The covariance is shrunk towards a multiple of the identity by the rule of Ledoit & Wolf 2004 (Journal of Multivariate Analysis 88), so that it can be
   inverted with fewer states than dimensions. The rule takes states to be independent; those of one prompt are not, so it shrinks a little too little.
3. The distance of an edited residual over that of the one that stood there, position by position, then the mean: 1 is as natural as before. The whole patch,
   whose residuals are natural ones of another prompt, says what an edit can be expected to do; twice that is a warning.

Positions that are kept out of natural residuals are kept out here; a ratio of none is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from slm_interp.causal.controls.natural import Natural
from slm_interp.errors import PatchingError
from slm_interp.patching.interventions.directions import exact, same_width


@dataclass(frozen=True, eq=False)
class Spread:
    """Mean and shrunk covariance of natural residuals, in float64. Make it with `spread`.

    Args:
        natural: the residuals.
        mean: of them.
        factor: lower triangular, the Cholesky factor of the covariance.
        shrinkage: share of the identity in it.
    """

    natural: Natural
    mean: Float[Tensor, " d_model"]
    factor: Float[Tensor, "d_model d_model"]
    shrinkage: float

    def distances(self, resid: Float[Tensor, "at d_model"]) -> Float[Tensor, " at"]:
        """Mahalanobis distances from the mean.

        Raises:
            PatchingError: residuals of another width.
        """
        same_width(resid, self.factor)
        away = (exact(resid) - self.mean).T
        return torch.linalg.solve_triangular(self.factor, away, upper=False).norm(dim=0)


@dataclass(frozen=True)
class Distance:
    """How much further from natural residuals edited ones are than those that stood there; means over positions.

    Args:
        mahalanobis: ratio of distances.
        length: ratio of lengths.
        positions: that counted.
    """

    mahalanobis: float
    length: float
    positions: int


def spread(natural: Natural) -> Spread:
    """Mean and shrunk covariance.

    Raises:
        PatchingError: residuals that do not vary.
    """
    own = exact(natural.resid)
    mean = own.mean(0)
    centred = own - mean
    covariance = centred.T @ centred / len(own)
    d_model, size = len(mean), covariance.diagonal().mean()
    if not size > 0:
        raise PatchingError(f"A distance from natural residuals needs some that vary; these {len(own)} do not. Give other prompts.")
    shrinkage = _shrinkage(centred, covariance)
    shrunk = (1 - shrinkage) * covariance + shrinkage * size * torch.eye(d_model, dtype=torch.float64)
    factor, broken = torch.linalg.cholesky_ex(shrunk)
    if int(broken):
        raise PatchingError(
            f"The covariance of {len(own)} natural residuals cannot be inverted in {d_model} dimensions. Give more prompts."
        )
    return Spread(natural, mean, factor, shrinkage)


def distance(edited: Float[Tensor, "at d_model"], stood: Float[Tensor, "at d_model"], around: Spread, positions: Sequence[int]) -> Distance:
    """Edited residuals beside those that stood there.

    Args:
        stood: the base run's residuals at the positions.
        around: natural residuals of other prompts.
        positions: where, for the rule that leaves out sinks; it is asked of what stood there.

    Raises:
        PatchingError: edited residuals that are not finite.
    """
    if not edited.isfinite().all():
        raise PatchingError("Edited residuals are finite; some of these are not. Scan the weights: slm-interp verify.")
    kept = around.natural.ordinary(stood, positions)
    if not kept.any():
        return Distance(float("nan"), float("nan"), 0)
    new, old = exact(edited)[kept], exact(stood)[kept]
    ratio = around.distances(new) / around.distances(old)
    return Distance(float(ratio.mean()), float((new.norm(dim=-1) / old.norm(dim=-1)).mean()), int(kept.sum()))


def _shrinkage(centred: Float[Tensor, "state d_model"], covariance: Float[Tensor, "d_model d_model"]) -> float:
    """Ledoit & Wolf's share of the identity: how uncertain the covariance is, over how far it is from the identity."""
    states, d_model = centred.shape
    size = covariance.diagonal().mean()
    far = (covariance - size * torch.eye(d_model, dtype=torch.float64)).square().sum() / d_model
    each = centred.square().sum(1).square().sum() / states
    uncertain = torch.minimum((each - covariance.square().sum()) / (states * d_model), far)
    return float(uncertain / far) if far > 0 else 1.0
