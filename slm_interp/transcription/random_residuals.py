"""Random residuals: vectors of the same norms and no meaning, for a null that changes what is read and not what is asked.

A word asked of them through the same lens and the same pooling tells how often it is found where nothing was ever heard: a
word whose column of `W_U` is long, or that the final norm's weights favour, is found more often.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def like(resid: Float[Tensor, "*batch d_model"], generator: torch.Generator) -> Float[Tensor, "*batch d_model"]:
    """Directions drawn evenly from the sphere, with the norms, the dtype and the device of the residuals."""
    noise = torch.randn(resid.shape, generator=generator)
    norms = resid.float().norm(dim=-1, keepdim=True).cpu()
    return (noise / noise.norm(dim=-1, keepdim=True) * norms).to(resid)


def generators(seed: int, utterance: int, draws: int) -> list[torch.Generator]:
    """One for each draw in an utterance: what is drawn there does not depend on which utterances were read before."""
    states: np.ndarray = np.random.SeedSequence([seed, utterance]).generate_state(draws, np.uint64)
    return [torch.Generator().manual_seed(int(state) >> 1) for state in states]
