"""Interventions on the residual stream, on what is added to it, and on single heads, as plain TransformerLens hooks.

    hook = stream.zero("resid_post", 3, span)
    slm.model.run_with_hooks(tokens, fwd_hooks=[hook])

Every function gives the name of a hook and a function for it, which changes some positions of every row of a batch. Layers are those of the site: `resid_post`
counts blocks run. Positions are a span, numbers, or None for all. For a whole grid of replacements `patching.activation` has the same numbers sooner.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from slm_interp import hooked
from slm_interp.errors import PatchingError
from slm_interp.patching.interventions.directions import along, combined, orthonormal
from slm_interp.patching.means import Means
from slm_interp.patching.places import SITES, hooked_site
from slm_interp.utterance import Span

Hook: TypeAlias = "tuple[str, Callable[[Tensor, Any], Tensor]]"
Positions: TypeAlias = "Span | Sequence[int] | None"


def replace(site: str, layer: int, positions: Positions, values: Float[Tensor, "*pos size"], head: int | None = None) -> Hook:
    """Other values in place of what stands there: one for each position, or one for all."""
    return _hook(site, layer, positions, head, lambda there: values.to(there).expand_as(there))


def add(
    site: str, layer: int, positions: Positions, vector: Float[Tensor, "*pos size"], scale: float = 1.0, head: int | None = None
) -> Hook:
    """A vector added at each position, as steering does; a negative scale takes it away."""
    return _hook(site, layer, positions, head, lambda there: there + scale * vector.to(there))


def zero(site: str, layer: int, positions: Positions, head: int | None = None) -> Hook:
    """Zeros."""
    return _hook(site, layer, positions, head, torch.zeros_like)


def mean(site: str, layer: int, positions: Span | Sequence[int], means: Means, kinds: Sequence[str], head: int | None = None) -> Hook:
    """The mean of each position's kind; `kinds` has one for each position, as `means.kinds_of` says.

    Raises:
        PatchingError: means of another site, or without this kind.
    """
    values = means.at(site, [layer], None if head is None else [head], kinds)[0, 0]
    return replace(site, layer, positions, values, head)


def project_out(site: str, layer: int, positions: Positions, directions: Float[Tensor, "direction size"], head: int | None = None) -> Hook:
    """Without its part in the span of some directions, which need not be orthogonal.

    Raises:
        PatchingError: directions that are not finite, or none.
    """
    basis = _basis(directions)
    return _hook(site, layer, positions, head, lambda there: there - _within(there, basis))


def project_onto(site: str, layer: int, positions: Positions, directions: Float[Tensor, "direction size"], head: int | None = None) -> Hook:
    """Nothing but its part in the span of some directions: what `project_out` takes away.

    Raises:
        PatchingError: directions that are not finite, or none.
    """
    basis = _basis(directions)
    return _hook(site, layer, positions, head, lambda there: _within(there, basis))


def _basis(directions: Float[Tensor, "direction size"]) -> Float[Tensor, "rank size"]:
    """Orthonormal rows with the span of some directions."""
    if not len(directions) or not directions.isfinite().all() or not directions.any():
        raise PatchingError("A projection needs one direction or more, finite and not all zero.")
    return orthonormal(directions)


def _within(there: Float[Tensor, "*batch size"], basis: Float[Tensor, "direction size"]) -> Float[Tensor, "*batch size"]:
    return combined(along(there, basis), basis).to(there.dtype)


def _hook(site: str, layer: int, positions: Positions, head: int | None, made: Callable[[Tensor], Tensor]) -> Hook:
    if site not in SITES or site == "pattern":
        raise PatchingError(f"Vectors stand at {', '.join(one for one in SITES if one != 'pattern')}; got {site!r}.")
    if head is not None and site in hooked.SITES:
        raise PatchingError(f"{site} has no heads; got head={head}.")
    hooked.whole(site)
    return hooked.hook_at(hooked_site(site), layer), lambda activation, hook: changed_at(activation, positions, made, head)


def changed_at(
    activation: Float[Tensor, "batch pos *size"], positions: Positions, made: Callable[[Tensor], Tensor], head: int | None = None
) -> Float[Tensor, "batch pos *size"]:
    """A copy with other values at some positions of every row; nothing else changes by a bit.

    Raises:
        PatchingError: no positions, or one outside.
    """
    length = activation.shape[1]
    chosen = list(range(length)) if positions is None else list(positions)
    if not chosen or min(chosen) < 0 or max(chosen) >= length:
        raise PatchingError(f"An intervention takes one position or more in 0..{length - 1}; got {chosen}.")
    changed = activation.clone()
    if head is None:
        changed[:, chosen] = made(activation[:, chosen])
    else:
        changed[:, chosen, head] = made(activation[:, chosen, head])
    return changed
