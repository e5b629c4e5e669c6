"""Random residuals: vectors of the same norms and no meaning, for nulls that change what is read and not what is asked.

A word asked of them through the same lens and the same pooling tells how often it is found where nothing was ever heard: a
word whose column of `W_U` is long, or that the final norm's weights favour, is found more often.

| null | a vector has |
|---|---|
| `random_residuals` | the norm of the residual, and a direction drawn evenly from the sphere |
| `mixed_residuals` | the norm of the residual, and a direction drawn with the covariance of the utterance's residuals in that layer |

Residual streams fill few of their directions. The first null leaves them; the second stays in them, and with it goes some of
what was heard, since each residual has its part in the covariance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

RANDOM_RESIDUALS, MIXED_RESIDUALS = "random_residuals", "mixed_residuals"


def like(resid: Float[Tensor, "*batch d_model"], generator: torch.Generator) -> Float[Tensor, "*batch d_model"]:
    """Directions drawn evenly from the sphere, with the norms, the dtype and the device of the residuals."""
    return _with_norms(torch.randn(resid.shape, generator=generator), resid)


def mixed(resid: Float[Tensor, "*batch pos d_model"], generator: torch.Generator) -> Float[Tensor, "*batch pos d_model"]:
    """Directions drawn from the normal distribution with the residuals' covariance over positions, with their norms, dtype and device.

    They are random sums of the centred residuals; where all residuals are the same there are none to draw, and they are 0.
    """
    wide = resid.float().cpu()
    weights = torch.randn(*resid.shape[:-1], resid.shape[-2], generator=generator)
    return _with_norms(weights @ (wide - wide.mean(-2, keepdim=True)), resid)


def _with_norms(noise: Tensor, resid: Tensor) -> Tensor:
    norms = resid.float().norm(dim=-1, keepdim=True).cpu()
    return (torch.nn.functional.normalize(noise, dim=-1) * norms).to(resid)


RANDOM: Mapping[str, Callable[[Tensor, torch.Generator], Tensor]] = {RANDOM_RESIDUALS: like, MIXED_RESIDUALS: mixed}


@dataclass(frozen=True)
class Noise:
    """One draw of random residuals in an utterance, layer by layer."""

    kind: str
    generator: torch.Generator

    def __call__(self, resid: Float[Tensor, "*batch pos d_model"]) -> Float[Tensor, "*batch pos d_model"]:
        """Vectors for every position."""
        return RANDOM[self.kind](resid, self.generator)


def noises(nulls: Sequence[str], draws: int, seed: int, utterance: int) -> list[Noise]:
    """Every draw of every null of random residuals, in their order: what is drawn depends on no other null and no other utterance."""
    found = []
    for kind in nulls:
        if kind in RANDOM:
            states = np.random.SeedSequence([seed, utterance, list(RANDOM).index(kind)]).generate_state(draws, np.uint64)
            found += [Noise(kind, torch.Generator().manual_seed(int(state) >> 1)) for state in states]
    return found
