"""Cells: what a lens says about some ids at some positions of an utterance, in every layer; and pooling them.

A word and its nulls are entries of one list that goes through `pool` once: there is no second way to pool a null.
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
from slm_interp.lenses import Lens
from slm_interp.model import SpeechTextModel
from slm_interp.readout import modality_groups, read_out

COSTS = ("rank", "rank_in_text", "surprise")
ROWS_AT_ONCE = 1024


@dataclass(frozen=True, eq=False)
class Cells:
    """Costs of ids, smaller is better: joint mid-rank, mid-rank among text ids, minus the joint log-probability (nats).

    Args:
        positions, ids: what the last two axes of `costs` are, ascending.
    """

    positions: tuple[int, ...]
    ids: tuple[int, ...]
    costs: Float[np.ndarray, "cost layer pos id"]


def read_cells(
    slm: SpeechTextModel, lens: Lens, residuals: Float[Tensor, "layer pos d_model"], positions: Sequence[int], ids: Sequence[int]
) -> Cells:
    """Read text ids at positions of an utterance, in every layer from the embedding on; `[layer, pos, d_vocab]` never exists.

    Args:
        residuals: of the whole utterance.

    Raises:
        ReadoutError: residuals that are not finite, ids that are not read.
    """
    chosen, asked = sorted(set(positions)), sorted(set(ids))
    resid = residuals[:, chosen]
    groups, targets, unembedding = modality_groups(slm.vocabulary), torch.tensor(asked), hooked.unembedding(slm.model)
    step = max(1, ROWS_AT_ONCE // len(chosen))
    parts = []
    for start in range(0, len(resid), step):
        ready = torch.cat([lens.scores(one, start + index) for index, one in enumerate(resid[start : start + step])])
        found = read_out(ready, unembedding, groups, 1, targets)
        parts.append(torch.stack([found.target_rank, found.target_rank_in_modality, -found.target_log_prob]))
    costs = rearrange(torch.cat(parts, 1), "cost (layer pos) id -> cost layer pos id", pos=len(chosen))
    return Cells(tuple(chosen), tuple(asked), costs.float().cpu().numpy())


def pool(cells: Cells, window: range, candidates: Sequence[tuple[int, ...]]) -> Float[np.ndarray, "cost candidate layer"]:
    """The best cost of each candidate over the positions of a window and over the ids that count as it."""
    rows = np.searchsorted(cells.positions, window)
    by_id = cells.costs[:, :, rows].min(2)
    columns = np.searchsorted(cells.ids, [one for ids in candidates for one in ids])
    starts = np.cumsum([0, *(len(ids) for ids in candidates)])[:-1]
    return rearrange(np.minimum.reduceat(by_id[:, :, columns], starts, axis=2), "cost layer candidate -> cost candidate layer")
