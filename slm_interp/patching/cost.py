"""What a sweep of residuals costs, in multiply-adds: by plain hooks, and resumed from the patched layer and position.

With `L` blocks, prompts of `T` positions, `H` heads of `D`, `b` weights in a block of which `kv` make keys and values, and `V` ids,

    plain    = cells * (L * T * B + T * d_model * V)                                   with B = b + 2 * H * D * T
    resumed  = sum over cells of [(L - 1 - l) * (T - s) * B + (T - s) * kv + B + d_model * ids]  +  two runs of the prompts

for an outcome of one position that reads `ids` ids, and a cell at block `l` that changes nothing before position `s`. The quotient is the ceiling: what
is gained if every multiply-add takes as long as in a plain run. It is a product of four: resuming at the layer saves about a half (`L - l` of `L`
blocks), the prefix another (`T - s` of `T` positions), the last block all but keys, values and one position, and the unembedding all but
`ids / (T * V)`. A cell that changes nothing costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def block(config: Any, length: int) -> int:
    """Multiply-adds of one block at one position that attends to `length`."""
    attention = 2 * config.d_model * config.d_head * config.n_heads + keys_and_values(config)
    mlp = (3 if config.gated_mlp else 2) * config.d_model * (config.d_mlp or 0)
    return attention + mlp + 2 * config.n_heads * config.d_head * length


def keys_and_values(config: Any) -> int:
    """Multiply-adds of the keys and values of one position."""
    return 2 * config.d_model * config.d_head * (config.n_key_value_heads or config.n_heads)


def forward(config: Any, length: int) -> int:
    """Multiply-adds of a whole forward of one row, unembedding included."""
    return length * (config.n_layers * block(config, length) + config.d_model * config.d_vocab)


def plain(config: Any, cells: int, length: int) -> int:
    """A sweep by plain hooks: one whole forward for every cell."""
    return cells * forward(config, length)


def resumed(config: Any, cells: Sequence[tuple[int, int]], length: int, ids: int) -> int:
    """A sweep that resumes.

    Args:
        cells: block and first changed position of every cell that changes something.
        ids: that the outcome reads, at one position.
    """
    own, past = block(config, length), keys_and_values(config)
    found = 2 * length * config.n_layers * own
    for layer, start in cells:
        here = length - start
        found += (config.n_layers - 1 - layer) * here * own + here * past + own + config.d_model * ids
    return found


def ceiling(config: Any, cells: Sequence[tuple[int, int]], swept: int, length: int, ids: int) -> float:
    """How many times less a sweep that resumes costs than one by plain hooks, which runs all `swept` cells."""
    return plain(config, swept, length) / resumed(config, cells, length, ids)
