"""Where a sweep puts values in: the layers and heads of a site, and what stands there, under one shape for all sites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from slm_interp import hooked
from slm_interp.errors import PatchingError

RESIDUAL = ("resid_pre", "resid_post")  # where a run can begin with another value, without a hook
RESULT = "result"
SITES = (*hooked.SITES, *hooked.HEADS, RESULT)


def hooked_site(site: str) -> str:
    """The site whose hook is used: patching the `result` of a head is patching its `z`, as one is the other times `W_O`."""
    return "z" if site == RESULT else site


def check_site(model: hooked.HookedTransformer, site: str) -> None:
    """Refuse a site that there is not.

    Raises:
        PatchingError: an unknown site.
        ReadoutError: one that this model does not have, such as `resid_mid` of parallel blocks.
    """
    if site not in SITES:
        raise PatchingError(f"Sites are {', '.join(SITES)}; got {site!r}.")
    if site in hooked.SITES:
        hooked.layers_at(model, site)


def layers_of(model: hooked.HookedTransformer, site: str, layers: Sequence[int] | None) -> list[int]:
    """The layers asked for, each once, ascending; None is all of the site.

    Raises:
        PatchingError: no layers, or one that is not there.
    """
    there = list(hooked.layers_at(model, site) if site in hooked.SITES else range(model.cfg.n_layers))
    return there if layers is None else _chosen(layers, there, f"Layers of {site}")


def heads_of(model: hooked.HookedTransformer, site: str, heads: Sequence[int] | None) -> list[int] | None:
    """The heads asked for; None where the site has none.

    Raises:
        PatchingError: heads of a site without heads, none of them, or one that is not there.
    """
    if site in hooked.SITES:
        if heads is not None:
            raise PatchingError(f"{site} has no heads. Heads stand at {', '.join((*hooked.HEADS, RESULT))}.")
        return None
    there = list(hooked.heads_at(model, hooked_site(site)))
    return there if heads is None else _chosen(heads, there, f"Heads of {site}")


def label_of(site: str, layer: int) -> str:
    """What a picture calls a layer of a site."""
    return f"{layer}_{RESULT}" if site == RESULT else hooked.label_at(site, layer)


def hooks_of(site: str, layers: Sequence[int]) -> list[str]:
    """The names of the hooks of some layers of a site."""
    return [hooked.hook_at(hooked_site(site), layer) for layer in layers]


def standing(
    at: Mapping[str, Tensor], site: str, layers: Sequence[int], heads: Sequence[int] | None
) -> Float[Tensor, "layer head pos size"]:
    """What stood at a site, from its hooks; sites without heads have one, and of a pattern destinations are the positions, sources the size."""
    found = torch.stack([at[name] for name in hooks_of(site, layers)])
    if heads is None:
        return rearrange(found, "layer pos size -> layer 1 pos size")
    found = found if site == "pattern" else rearrange(found, "layer pos head size -> layer head pos size")
    return found[:, list(heads)]


def _chosen(asked: Sequence[int], there: Sequence[int], what: str) -> list[int]:
    outside = [one for one in asked if one not in there]
    if outside or not asked or len(set(asked)) != len(asked):
        raise PatchingError(f"{what} are {there[0]} to {there[-1]}, one or more, each once; got {list(asked)}.")
    return sorted(asked)
