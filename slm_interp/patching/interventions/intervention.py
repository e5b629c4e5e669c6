"""Interventions on the residual stream: what an intervention is, one after another, and those that see the whole residual.

    changed = Interchange(values)(resid, span)                             # every row of a batch
    slm.model.run_with_hooks(tokens, fwd_hooks=[Steer(direction, 0.1, "residual_norm").hook("resid_post", 5, span)])
    one.then(another)                                                      # at the same positions

| intervention | writes at the positions, for what stands there, `x` |
|---|---|
| `Interchange(values)` | the values: the whole residual of another run, `pairing.values(source, base)` at its base positions |
| `Freeze(values)` | the values: what a later layer held in a run of its own, so that nothing comes by way of it |
| `Steer(direction, dose, unit)` | `x` and a vector along a direction |
| `Dosed(inner, dose)` | `x` and a multiple of what another intervention changes |

`subspace.py` has those of subspaces. All of them compute in float32, or in float64 where the stream is, and round to the stream's dtype once, at
the end of a chain. No position that is not named changes by a bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from typing import Any, Literal, TypeAlias, get_args

from jaxtyping import Float
from torch import Tensor

from slm_interp import hooked
from slm_interp.errors import PatchingError
from slm_interp.patching.interventions.directions import Subspace, exact, same_width, wide
from slm_interp.patching.interventions.stream import Hook, Positions, changed_at

Unit: TypeAlias = Literal["residual_norm", "absolute"]
"""What a dose of steering counts in: lengths of the residual that stands there, or the stream's own units."""


class Intervention(ABC):
    """A change of residuals, given by what it makes of those that stand at the positions."""

    @abstractmethod
    def _made(self, there: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        """What is written in place of what stands there, both in float32 at least."""

    def __call__(self, resid: Float[Tensor, "batch pos d_model"], where: Positions) -> Float[Tensor, "batch pos d_model"]:
        """The stream with these positions changed in every row.

        Args:
            where: a span, positions (each once), or None for all.

        Raises:
            PatchingError: positions outside, or one twice; vectors that do not fit the stream.
        """
        if where is not None and len(set(where)) < len(where):
            raise PatchingError(f"An intervention takes each position once; got {list(where)}.")
        return changed_at(resid, where, lambda there: self._made(wide(there)).to(there.dtype))

    def hook(self, site: str, layer: int, positions: Positions) -> Hook:
        """The same as a plain TransformerLens hook.

        Args:
            site: where the stream, or what is added to it, has d_model numbers; layers are those of the site.

        Raises:
            PatchingError: another site.
        """
        if site not in hooked.SITES:
            raise PatchingError(f"Interventions on the stream stand at {', '.join(hooked.SITES)}; got {site!r}.")

        def put(activation: Tensor, hook: Any) -> Tensor:
            return self(activation, positions)

        return hooked.hook_at(hooked.whole(site), layer), put

    def then(self, *later: Intervention) -> Chain:
        """This one, and others after it at the same positions."""
        return Chain((self, *later))

    def size(self, resid: Float[Tensor, "batch pos d_model"], where: Positions) -> Float[Tensor, "batch pos"]:
        """The length of the change at every position: 0 where nothing is changed."""
        return (wide(self(resid, where)) - wide(resid)).norm(dim=-1)


@dataclass(frozen=True, eq=False)
class Chain(Intervention):
    """Interventions one after the other, rounded once."""

    steps: tuple[Intervention, ...]

    def __post_init__(self) -> None:
        if not self.steps:
            raise PatchingError("A chain has one intervention or more; got none.")

    def _made(self, there: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        for step in self.steps:
            there = step._made(there)
        return there


@dataclass(frozen=True, eq=False)
class Interchange(Intervention):
    """Whole residuals in place of what stands there: one for all positions, one for each, or one for each row and position.

    Raises:
        PatchingError: values that are not finite.
    """

    values: Float[Tensor, "*pos d_model"]

    def __post_init__(self) -> None:
        finite_values(self.values)

    def _made(self, there: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        return fitted(self.values, there)


@dataclass(frozen=True, eq=False)
class Freeze(Intervention):
    """Residuals of a later layer, held; shapes and errors as in `Interchange`.

    What is changed in earlier layers then reaches the rest of the run by other positions alone.
    """

    values: Float[Tensor, "*pos d_model"]

    def __post_init__(self) -> None:
        finite_values(self.values)

    def _made(self, there: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        return fitted(self.values, there)


@dataclass(frozen=True, eq=False)
class Steer(Intervention):
    """A vector added along a direction.

    Args:
        direction: its length counts for nothing.
        dose: length of what is added; negative doses go the other way, 0 changes nothing.
        unit: what the dose counts in: `"residual_norm"`, the length of what stands at each position, or `"absolute"`.

    Raises:
        PatchingError: a direction that is zero or not finite, a dose that is not finite, another unit.
    """

    direction: Float[Tensor, " d_model"]
    dose: float
    unit: Unit

    def __post_init__(self) -> None:
        _ = self.along
        if not isfinite(self.dose):
            raise PatchingError(f"A dose is a finite number; got {self.dose}.")
        if self.unit not in get_args(Unit):
            raise PatchingError(f"A dose counts in {' or '.join(map(repr, get_args(Unit)))}; got {self.unit!r}.")

    @cached_property
    def along(self) -> Float[Tensor, " d_model"]:
        """The direction at length 1."""
        own = exact(Subspace(self.direction[None]).directions)[0]
        return own / own.norm()

    def _made(self, there: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        same_width(there, self.along)
        length = there.norm(dim=-1, keepdim=True) if self.unit == "residual_norm" else 1.0
        return there + self.dose * length * self.along.to(there.device, there.dtype)


@dataclass(frozen=True, eq=False)
class Dosed(Intervention):
    """A multiple of what an intervention changes: 0 is nothing, 1 the intervention itself, below 0 goes the other way.

    Raises:
        PatchingError: a dose that is not finite.
    """

    inner: Intervention
    dose: float

    def __post_init__(self) -> None:
        if not isfinite(self.dose):
            raise PatchingError(f"A dose is a finite number; got {self.dose}.")

    def _made(self, there: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        return there + self.dose * (self.inner._made(there) - there)


def fitted(values: Float[Tensor, "*pos size"], there: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
    """Values in the shape of what stands at the positions.

    Raises:
        PatchingError: values of another shape.
    """
    if not 1 <= values.ndim <= 3 or values.shape != there.shape[3 - values.ndim :]:
        raise PatchingError(
            f"Values have the shape of what stands at the positions, {tuple(there.shape)}, without the first or the "
            f"first two if all rows or positions get the same; got {tuple(values.shape)}."
        )
    return values.to(there).expand_as(there)


def finite_values(values: Float[Tensor, "*pos d_model"]) -> None:
    """Refuse values that are no numbers.

    Raises:
        PatchingError: NaN or infinity among them.
    """
    broken = int((~values.isfinite()).sum())
    if broken:
        raise PatchingError(
            f"Values that are put in are finite; {broken} of {values.numel()} are not. Scan the weights: slm-interp verify."
        )
