"""What residuals of a layer are like when nobody edits them: many positions of many prompts, and the directions in which they vary.

Kept out: position 0, and positions whose residual is longer than 5 times the median (`most`). Attention sinks stand there, with a few massive activations
(Xiao et al. 2024, arXiv 2309.17453; Sun et al. 2024, arXiv 2402.17762); one such residual can have more variance than a thousand others, in a direction
that says nothing of words. The median is over all positions but 0 of all prompts. What is kept is centred before anything is computed of it.

Every state knows the group it comes from, a prompt or a cluster of prompts, so that an edit can be compared with states of *other* prompts: `without`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from slm_interp.errors import PatchingError
from slm_interp.lenses.many import residuals_of_each
from slm_interp.model import SpeechTextModel
from slm_interp.patching.interventions.directions import exact, wide
from slm_interp.utterance import Utterance

MOST = 5.0  # medians of length


@dataclass(frozen=True, eq=False)
class Natural:
    """Residuals of one layer. Make it with `natural` or `collect`.

    Args:
        resid: on the processor, in float32 at least.
        group: what each comes from.
        limit: length above which a residual is no ordinary one.
        left_out: positions that were kept out.
    """

    resid: Float[Tensor, "state d_model"]
    group: np.ndarray
    limit: float
    left_out: int

    def __len__(self) -> int:
        return len(self.resid)

    def without(self, groups: Collection[str]) -> Natural:
        """States of other groups alone.

        Raises:
            PatchingError: fewer than two are left.
        """
        kept = ~np.isin(self.group, list(groups))
        if kept.sum() < 2:
            raise PatchingError(
                f"Without {len(groups)} of its groups {int(kept.sum())} of {len(self)} natural states are left. Give residuals of more prompts."
            )
        return replace(self, resid=self.resid[torch.from_numpy(kept)], group=self.group[kept])

    def ordinary(self, resid: Float[Tensor, "at d_model"], positions: Sequence[int]) -> Bool[Tensor, " at"]:
        """Which residuals stand at positions that would be kept here."""
        return (wide(resid).norm(dim=-1).cpu() <= self.limit) & (torch.tensor(list(positions)) > 0)

    @cached_property
    def principal(self) -> Principal:
        """The directions in which they vary."""
        return principal(self)

    def __repr__(self) -> str:
        return f"Natural({len(self)} states of {len(set(self.group))} groups, d_model {self.resid.shape[1]}, {self.left_out} positions left out)"


@dataclass(frozen=True, eq=False)
class Principal:
    """Principal components, in float64.

    Args:
        mean: of the states.
        components: orthonormal, the one of largest variance first; as many as states or d_model, whichever are fewer.
        variances: along them.
        states: how many were seen.
    """

    mean: Float[Tensor, " d_model"]
    components: Float[Tensor, "component d_model"]
    variances: Float[Tensor, " component"]
    states: int


def natural(streams: Sequence[Float[Tensor, "_ d_model"]], groups: Sequence[str], most: float = MOST) -> Natural:
    """Ordinary residuals of one layer.

    Args:
        streams: of each prompt, from its position 0 on.
        groups: of each prompt.
        most: medians of length above which a position is left out.

    Raises:
        PatchingError: as many groups as prompts are not there, residuals that are not finite, fewer than two that are ordinary.
    """
    if len(streams) != len(groups) or not streams:
        raise PatchingError(f"Natural residuals are of one prompt or more, each of a group; got {len(streams)} and {len(groups)} groups.")
    whole = torch.cat([wide(one[1:]).cpu() for one in streams])
    group = np.array([name for name, one in zip(groups, streams, strict=True) for _ in range(len(one) - 1)], dtype=object)
    lengths = whole.norm(dim=-1)
    if len(whole) < 2 or not lengths.isfinite().all():
        raise PatchingError(f"Natural residuals are two or more, finite; got {len(whole)}. Give more prompts, or scan the weights.")
    limit = most * float(lengths.median())
    kept = lengths <= limit
    if int(kept.sum()) < 2:
        raise PatchingError(f"Of {len(whole)} residuals {int(kept.sum())} are at most {most:g} medians long. Give a larger `most`.")
    return Natural(whole[kept], group[kept.numpy()], limit, len(whole) + len(streams) - int(kept.sum()))


def collect(
    slm: SpeechTextModel, prompts: Sequence[Utterance], groups: Sequence[str], layers: Sequence[int], most: float = MOST
) -> dict[int, Natural]:
    """Ordinary residuals of some layers (blocks run), from one run of each prompt.

    All of them are held: prompts x positions x layers x d_model numbers.

    Raises:
        PatchingError: as `natural`, and layers that are not there.
        UtteranceError, VocabularyError: a prompt this model cannot read.
    """
    outside = [layer for layer in layers if not 0 <= layer <= slm.model.cfg.n_layers]
    if outside or not prompts:
        raise PatchingError(
            f"Layers count blocks run, 0 to {slm.model.cfg.n_layers}, of one prompt or more; got {list(layers)}, {len(prompts)} prompts."
        )
    found: dict[int, Tensor] = {}
    for number, stream in residuals_of_each(slm, [slm.check(one) for one in prompts]):
        found[number] = stream[list(layers)].cpu()
    streams = [found[number] for number in range(len(prompts))]
    return {layer: natural([one[place] for one in streams], groups, most) for place, layer in enumerate(layers)}


def principal(states: Natural) -> Principal:
    """Principal components of natural states around their mean."""
    own = exact(states.resid)
    mean = own.mean(0)
    centred = own - mean
    if len(own) < own.shape[1]:
        _, sizes, rows = torch.linalg.svd(centred, full_matrices=False)
        return Principal(mean, rows, sizes.square() / len(own), len(own))
    variances, columns = torch.linalg.eigh(centred.T @ centred / len(own))
    return Principal(mean, columns.T.flip(0), variances.flip(0).clamp(min=0), len(own))
