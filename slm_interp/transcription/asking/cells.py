"""Cells: what a lens says about some ids at some positions of an utterance, in every layer; and pooling them.

A word and its nulls are entries of one list that goes through `pool` once: there is no second way to pool a null. Nulls of
other words are read from the same residuals; the null of random residuals is the same word, read from another source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from slm_interp import hooked
from slm_interp.errors import ReadoutError
from slm_interp.lenses import Lens
from slm_interp.model import SpeechTextModel
from slm_interp.readout import modality_groups, read_out
from slm_interp.transcription.asking.pooling import COMBINE
from slm_interp.transcription.asking.random_residuals import Noise
from slm_interp.transcription.asking.targets import Spelling

COSTS = ("rank", "rank_in_text", "surprise")
ROWS_AT_ONCE = 1024


@dataclass(frozen=True, eq=False)
class Cells:
    """Costs of ids, smaller is better: joint mid-rank, mid-rank among text ids, minus the joint log-probability (nats).

    Args:
        positions, ids: what these axes of `costs` are, ascending.
        costs: source 0 is the model's residuals, every further one a draw of random residuals.
    """

    positions: tuple[int, ...]
    ids: tuple[int, ...]
    costs: Float[np.ndarray, "cost layer pos source id"]


@dataclass(frozen=True)
class Candidate:
    """What is asked for in a window: the ids of a word, and the source they are read from."""

    ids: tuple[int, ...]
    source: int = 0


def read_cells(
    slm: SpeechTextModel,
    lens: Lens,
    residuals: Float[Tensor, "layer pos d_model"],
    positions: Sequence[int],
    ids: Sequence[int],
    noise: Sequence[Noise] = (),
) -> Cells:
    """Read text ids at positions of an utterance, in every layer from the embedding on; `[layer, pos, d_vocab]` never exists.

    Args:
        residuals: of the whole utterance.
        noise: one draw for each further source of random residuals.

    Raises:
        ReadoutError: residuals that are not finite, ids that are not read.
    """
    chosen, asked = sorted(set(positions)), sorted(set(ids))
    sources = 1 + len(noise)
    step = max(1, ROWS_AT_ONCE // (len(chosen) * sources))
    parts = []
    for start in range(0, len(residuals), step):
        layers = enumerate(residuals[start : start + step], start)
        ready = torch.cat([lens.scores(torch.cat([one[chosen], *(draw(one)[chosen] for draw in noise)]), layer) for layer, one in layers])
        parts.append(costs_of(slm, ready, asked))
    costs = rearrange(torch.cat(parts, 1), "cost (layer source pos) id -> cost layer pos source id", source=sources, pos=len(chosen))
    return Cells(tuple(chosen), tuple(asked), costs.float().cpu().numpy())


def costs_of(slm: SpeechTextModel, ready: Float[Tensor, "row d_model"], ids: Sequence[int]) -> Float[Tensor, "cost row id"]:
    """Costs of ids in vectors that are ready for `W_U`."""
    found = read_out(ready, hooked.unembedding(slm.model), modality_groups(slm.vocabulary), 1, torch.tensor(ids))
    return torch.stack([found.target_rank, found.target_rank_in_modality, -found.target_log_prob])


def pool(
    cells: Cells, window: range, candidates: Sequence[Candidate], spelling: Spelling = "first_piece"
) -> Float[np.ndarray, "cost candidate layer"]:
    """The cost of each candidate over the positions of a window, by the rule of its spelling (see `pooling`).

    Raises:
        ReadoutError: candidates of unequally many ids, whose chances would be unequal.
    """
    lengths = {len(one.ids) for one in candidates}
    if len(lengths) != 1:
        raise ReadoutError(f"Words that are pooled together have equally many ids; got {sorted(lengths)}. A null must have the word's.")
    rows = np.searchsorted(cells.positions, window)
    columns = np.searchsorted(cells.ids, [one.ids for one in candidates])
    sources = np.array([one.source for one in candidates])
    by_candidate = cells.costs[:, :, rows][:, :, :, sources[:, None], columns]
    return rearrange(COMBINE[spelling](by_candidate), "cost layer candidate -> cost candidate layer")
