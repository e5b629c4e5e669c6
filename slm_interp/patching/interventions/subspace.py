"""Interventions on subspaces of the residual stream: what of a residual is exchanged, taken from elsewhere, or erased.

    a, b = LogitLens(slm).directions(5, ["paris", "berlin"])               # of any lens or probe
    slm.model.run_with_hooks(tokens, fwd_hooks=[SwapCoordinates(a, b).hook("resid_post", 5, span)])

| intervention | writes at the positions, for what stands there, `x` |
|---|---|
| `SwapCoordinates(first, second)` | `x` with its coordinates along two directions exchanged |
| `SwapReadings(first, second)` | `x` with its dot products with two directions exchanged |
| `CopyCoordinates(directions, source)` | `x` with its coordinates in a span taken from the source |
| `ComplementOnly(directions, source)` | the source with its coordinates in a span taken from `x` |
| `Erase(directions)` | `x` without its part in a span |

Directions are rows; coordinates and readings are those of `directions.py`. With `D` the directions, `G` their products with each other, `S`
what exchanges the two of a pair, `r = D x` and `c = G^-1 r`:

1. `SwapCoordinates` adds `D^T (S - 1) c`. Afterwards readings are `G S G^-1 r`: of one pair, `r_b + (|a|^2 - |b|^2) c_b` along `a` and
   `r_a + (|b|^2 - |a|^2) c_a` along `b`. They are exchanged, `S r`, for every `x` just where `S` leaves `G` as it is (`exchanges_readings`; of one
   pair: `a` and `b` are equally long). Then the swap is a reflection: the length of `x` stays, and so does what the final norm divides by (the mean
   over d_model too, as directions of a LayerNorm have none). A logit lens then has the scores of the two words exchanged exactly, but for the
   constants that biases add.
2. `SwapReadings` adds `D^T G^-1 (S - 1) r`, the smallest change that exchanges the readings, whatever the directions. The length of `x` may change, and
   with it what the norm divides *all* scores by. Where 1. exchanges readings, both are the same.
3. Both leave what is orthogonal to the span as it is, and done twice they are nothing.
4. The change of `CopyCoordinates` and that of `ComplementOnly` are orthogonal, and their sum is that of `Interchange`.

All of this holds to the rounding of the stream's dtype: in bfloat16 an erased reading is 0 to the rounding of the residual.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import isfinite

import torch
from jaxtyping import Float
from torch import Tensor

from slm_interp.errors import PatchingError
from slm_interp.patching.interventions.directions import Subspace, along, combined, exact, wide
from slm_interp.patching.interventions.intervention import Intervention, finite_values, fitted


@dataclass(frozen=True, eq=False)
class SwapCoordinates(Intervention):
    """Coordinates along two directions exchanged, or along those of several pairs; see 1. above.

    Raises:
        PatchingError: directions that are not finite, are zero or depend on each other; pairs that do not match.
    """

    first: Float[Tensor, "*pair size"]
    second: Float[Tensor, "*other other_size"]

    def __post_init__(self) -> None:
        _ = self.subspace.dual

    @cached_property
    def subspace(self) -> Subspace:
        """The span: the first of every pair, then the second of every pair."""
        return _of_pairs(self.first, self.second)

    @property
    def exchanges_readings(self) -> bool:
        """Whether readings are exchanged too, to the rounding of float32: the exchange leaves all products of the directions as they are."""
        directions = exact(self.subspace.directions)
        products = directions @ directions.T
        return bool((_exchanged(_exchanged(products).T) - products).abs().max() <= 1e-6 * products.diagonal().max())

    def _made(self, there: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        own = along(there, self.subspace.dual)
        return there + combined(_exchanged(own) - own, exact(self.subspace.directions))


@dataclass(frozen=True, eq=False)
class SwapReadings(Intervention):
    """Dot products with two directions exchanged, or with those of several pairs, by the smallest change that does so; see 2. above.

    Raises:
        PatchingError: as `SwapCoordinates`.
    """

    first: Float[Tensor, "*pair size"]
    second: Float[Tensor, "*other other_size"]

    def __post_init__(self) -> None:
        _ = self.subspace.dual

    @cached_property
    def subspace(self) -> Subspace:
        """The span: the first of every pair, then the second of every pair."""
        return _of_pairs(self.first, self.second)

    def _made(self, there: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        own = self.subspace.readings(there)
        return there + combined(_exchanged(own) - own, self.subspace.dual)


@dataclass(frozen=True, eq=False)
class CopyCoordinates(Intervention):
    """Coordinates in a span taken from the source, all else left (a text-only patch, for directions of words).

    Args:
        directions: they may depend on each other.
        source: residuals, in shapes as in `Interchange`.

    Raises:
        PatchingError: directions that are not finite or zero, a source that is not finite.
    """

    directions: Float[Tensor, "direction d_model"]
    source: Float[Tensor, "*pos d_model"]

    def __post_init__(self) -> None:
        _ = self.subspace
        finite_values(self.source)

    @cached_property
    def subspace(self) -> Subspace:
        """The span."""
        return Subspace(self.directions)

    def _made(self, there: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        return there + self.subspace.within(fitted(self.source, there) - there)


@dataclass(frozen=True, eq=False)
class ComplementOnly(Intervention):
    """Everything but the coordinates in a span taken from the source; arguments and errors as in `CopyCoordinates`."""

    directions: Float[Tensor, "direction d_model"]
    source: Float[Tensor, "*pos d_model"]

    def __post_init__(self) -> None:
        _ = self.subspace
        finite_values(self.source)

    @cached_property
    def subspace(self) -> Subspace:
        """The span."""
        return Subspace(self.directions)

    def _made(self, there: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        source = fitted(self.source, there)
        return source - self.subspace.within(source - there)


@dataclass(frozen=True, eq=False)
class Erase(Intervention):
    """The part in a span taken out, so that every reading along it is 0. Directions may depend on each other.

    A declared set may have any rank short of d_model; its `rank` and `variance_removed` belong beside every result. A thousand words span a small stream
    whole: `top` takes few.

    Raises:
        PatchingError: directions that are not finite or zero, or that span the whole stream.
    """

    directions: Float[Tensor, "direction d_model"]

    def __post_init__(self) -> None:
        d_model = self.directions.shape[-1]
        if self.rank == d_model:
            raise PatchingError(
                f"These {len(self.directions)} directions have rank {self.rank}, all of d_model: nothing would be left. Use Erase.top(directions, r)."
            )

    @classmethod
    def top(cls, directions: Float[Tensor, "direction d_model"], r: int) -> Erase:
        """The `r` orthonormal directions along which the given ones, at their own lengths, are largest (by singular value).

        Raises:
            PatchingError: `r` below 1, above d_model / 8 or above the rank of the directions.
        """
        own, d_model = Subspace(directions), directions.shape[-1]
        most = min(d_model // 8, own.rank)
        if not 1 <= r <= most:
            raise PatchingError(
                f"The top directions are 1 to {most} (an eighth of d_model {d_model} at most, and no more than the rank {own.rank}); got r={r}."
            )
        return cls(torch.linalg.svd(exact(directions), full_matrices=False)[2][:r])

    @cached_property
    def subspace(self) -> Subspace:
        """The span."""
        return Subspace(self.directions)

    @property
    def rank(self) -> int:
        """Dimensions taken out."""
        return self.subspace.rank

    def variance_removed(self, resid: Float[Tensor, "*batch d_model"]) -> float:
        """The share of the variance of some residuals (around their mean, over all d_model) that lies in the span.

        Raises:
            PatchingError: residuals that are not finite or do not vary.
        """
        own = wide(resid).flatten(0, -2)
        spread = own - own.mean(0)
        whole = float(spread.square().sum())
        if not isfinite(whole) or len(own) < 2 or whole == 0:
            raise PatchingError(f"A share of variance needs two residuals or more that are finite and differ; got {len(own)}.")
        return float(self.subspace.within(spread).square().sum()) / whole

    def _made(self, there: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        return there - self.subspace.within(there)


def _of_pairs(first: Float[Tensor, "*pair size"], second: Float[Tensor, "*other other_size"]) -> Subspace:
    if first.shape != second.shape or first.ndim not in (1, 2):
        raise PatchingError(f"Pairs are two vectors, or two lists of as many; got shapes {tuple(first.shape)} and {tuple(second.shape)}.")
    return Subspace(torch.cat([torch.atleast_2d(first), torch.atleast_2d(second)]))


def _exchanged(numbers: Float[Tensor, "*batch number"]) -> Float[Tensor, "*batch number"]:
    """The first half of the numbers after the second."""
    return numbers.roll(numbers.shape[-1] // 2, -1)
