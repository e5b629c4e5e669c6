"""Pooling: from costs of ids at positions to one cost of a word, the best that the word's window offers.

| spelling | its ids are | a word's cost over a window |
|---|---|---|
| `first_piece`, `variants` | alternatives | the least of any of them at any position |
| `all_pieces` | pieces in order | least over starts `p` of the greatest over pieces `j` of the cost of piece `j` at position `p + j` |
| `every_piece` | pieces | the greatest over pieces of the least cost that the piece has at any position |

So a word in pieces is among the k best in order if piece `j` is among the k best at `p + j` for some `p`, all of these positions
within the window; and in any order if each of its pieces is among the k best somewhere in it. A word of one piece costs the
same whichever of them is asked. A word of more ids has other chances than one of fewer, so all that are pooled together,
a word and its nulls, must have equally many.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
from jaxtyping import Float

from slm_interp.transcription.asking.targets import Spelling

Combine: TypeAlias = Callable[[np.ndarray], np.ndarray]


def any_of(costs: Float[np.ndarray, "cost layer pos candidate id"]) -> Float[np.ndarray, "cost layer candidate"]:
    """Alternatives: the best id at the best position."""
    return np.asarray(costs.min((2, 4)))


def in_order(costs: Float[np.ndarray, "cost layer pos candidate id"]) -> Float[np.ndarray, "cost layer candidate"]:
    """Pieces at successive positions: from the best start, the worst of them."""
    pieces = costs.shape[-1]
    starts = costs.shape[2] - pieces + 1
    aligned = [costs[:, :, piece : piece + starts, :, piece] for piece in range(pieces)]
    return np.asarray(np.maximum.reduce(aligned).min(2))


def each_of(costs: Float[np.ndarray, "cost layer pos candidate id"]) -> Float[np.ndarray, "cost layer candidate"]:
    """Pieces in any order: each at its best position, the worst of them."""
    return np.asarray(costs.min(2).max(-1))


COMBINE: Mapping[Spelling, Combine] = {"first_piece": any_of, "variants": any_of, "all_pieces": in_order, "every_piece": each_of}


def positions_needed(spelling: Spelling, ids: int) -> int:
    """How many positions a window must have for a word of so many ids to be found in it at all."""
    return ids if spelling == "all_pieces" else 1
