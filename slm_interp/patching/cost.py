"""What a sweep costs, in multiply-adds: by plain hooks, and resumed from the patched layer and position.

With `L` blocks, prompts of `T` positions, `H` heads of `D`, `b` weights in a block and ids `V` in the vocabulary,

    plain    = cells * (L * T * (b + 2 * H * D * T) + T * d_model * V)
    resumed  = sum over cells of (L - l) * (T - s) * (b + 2 * H * D * T) + d_model * ids  +  two runs of the prompts

for an outcome of one position that reads `ids` ids, a cell at block `l`, and a span that begins at `s`. The quotient is the ceiling: what is gained
if every multiply-add takes as long as in a plain run. It is a product of three: resuming at the layer saves about a half (`L - l` of `L` blocks),
the prefix another (`T - s` of `T` positions, spans spread evenly), and the unembedding all but `ids / (T * V)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def block(config: Any, length: int) -> int:
    """Multiply-adds of one block at one position that attends to `length`."""
    heads, groups = config.n_heads, config.n_key_value_heads or config.n_heads
    attention = 2 * config.d_model * config.d_head * (heads + groups)
    mlp = (3 if config.gated_mlp else 2) * config.d_model * (config.d_mlp or 0)
    return attention + mlp + 2 * heads * config.d_head * length


def forward(config: Any, length: int) -> int:
    """Multiply-adds of a whole forward of one row, unembedding included."""
    return length * (config.n_layers * block(config, length) + config.d_model * config.d_vocab)


def plain(config: Any, cells: int, length: int) -> int:
    """A sweep by plain hooks: one whole forward for every cell."""
    return cells * forward(config, length)


def resumed(config: Any, layers: Sequence[int], starts: Sequence[int], length: int, ids: int) -> int:
    """A sweep that resumes, of residuals, with an outcome of one position.

    Args:
        layers: blocks before each layer that is patched.
        starts: where each span begins.
        ids: that are read.
    """
    own = block(config, length)
    blocks = sum((config.n_layers - layer) * (length - start) for layer in layers for start in starts) * own
    read = len(layers) * len(starts) * config.d_model * ids
    return blocks + read + 2 * length * config.n_layers * own


def ceiling(config: Any, layers: Sequence[int], starts: Sequence[int], length: int, ids: int) -> float:
    """How many times less a sweep that resumes costs than one by plain hooks."""
    return plain(config, len(layers) * len(starts), length) / resumed(config, layers, starts, length, ids)
