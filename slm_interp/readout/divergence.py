"""How far the distributions of several lenses are from one another, row by row, without holding `[row, d_vocab]` of more than a block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from slm_interp.errors import ReadoutError
from slm_interp.readout.block import TILE
from slm_interp.readout.columns import GEMM_WORKSPACE, Group, Unembedding, layout_of, leave_out, product

ROWS_AT_ONCE = 256


@torch.no_grad()
def divergence(
    ready: Sequence[Float[Tensor, "row d_model"]],
    unembedding: Unembedding,
    groups: Mapping[str, Bool[Tensor, " d_vocab"]],
    exclude: Int[Tensor, " row"] | None = None,
    memory: int = 256 * 2**20,
) -> Float[Tensor, "lens other row"]:
    """`KL(lens || other)` in nats between softmaxes over the ids that are read, in every row. Below zero by rounding is written as 0.

    Args:
        ready: of each lens, vectors that are ready for `W_U`, in its dtype; the same rows in all.
        unembedding, groups: as in `read_out`.
        exclude: one id a row that is in no softmax of that row.
        memory: bytes to take beyond the arguments and the result.

    Raises:
        ReadoutError: logits that are not finite, rows that differ in number, too little memory.
    """
    if len({len(one) for one in ready}) != 1:
        raise ReadoutError(f"Lenses are compared row by row; got {[len(one) for one in ready]} rows.")
    W_U, layout = unembedding.W_U, layout_of(groups, unembedding.W_U)
    width, n_rows = layout[-1].stop, len(ready[0])
    rows = _rows_in_budget(width, W_U.element_size(), len(ready), memory)
    column_of = torch.full((W_U.shape[1],), -1, device=W_U.device)
    for group in layout:
        column_of[group.ids] = torch.arange(group.start, group.start + len(group.ids), device=W_U.device)
    bias = unembedding.b_U if unembedding.b_U is not None and unembedding.b_U.any() else None
    buffers = [_buffer(min(rows, n_rows), layout, W_U) for _ in ready]
    parts = []
    for start in range(0, n_rows, rows):
        here = slice(start, start + rows)
        logits = [product(one[here], W_U, bias, layout, buffer) for one, buffer in zip(ready, buffers, strict=True)]
        if exclude is not None:
            for one in logits:
                leave_out(one, column_of[exclude[here].to(W_U.device)])
        parts.append(_pairs(logits))
    return torch.cat(parts, -1)


def _buffer(rows: int, layout: tuple[Group, ...], W_U: Tensor) -> Tensor:
    buffer = torch.empty(rows, layout[-1].stop, dtype=W_U.dtype, device=W_U.device)
    for group in layout:
        buffer[:, group.start + len(group.ids) : group.stop] = torch.finfo(W_U.dtype).min
    return buffer


def _rows_in_budget(width: int, itemsize: int, lenses: int, memory: int) -> int:
    work = max(4, itemsize)
    fixed = GEMM_WORKSPACE * 2 + (lenses + 3) * work * max(TILE, width)
    by_row = lenses * width * itemsize
    if fixed + by_row > memory:
        raise ReadoutError(
            f"{memory / 2**20:.0f} MiB are too little: one row of {width} logits of {lenses} lenses takes "
            f"{(fixed + by_row) / 2**20:.0f} MiB in all. Raise memory, or compare fewer."
        )
    return max(1, min(ROWS_AT_ONCE, (memory - fixed) // by_row))


def _pairs(logits: list[Float[Tensor, "row column"]]) -> Float[Tensor, "lens other row"]:
    """A few rows at a time, while they are in the cache, in scratch that is used again: tensors made anew would leave holes in the heap."""
    work = torch.promote_types(logits[0].dtype, torch.float32)
    n_rows, width = logits[0].shape
    tile = max(1, min(n_rows, TILE // width))
    scratch = torch.empty(len(logits) + 2, tile, width, dtype=work, device=logits[0].device)
    found = torch.zeros(len(logits), len(logits), n_rows, dtype=work, device=logits[0].device)
    for start in range(0, n_rows, tile):
        rows = slice(start, min(start + tile, n_rows))
        *log_probs, probs, terms = scratch[:, : rows.stop - start]
        for out, one in zip(log_probs, logits, strict=True):
            out.copy_(one[rows])
            out.sub_(out.amax(-1, keepdim=True))
            out.sub_(torch.exp(out, out=probs).sum(-1, keepdim=True).log())
        for index, one in enumerate(log_probs):
            torch.exp(one, out=probs)
            for other, another in enumerate(log_probs):
                if other != index:
                    found[index, other, rows] = torch.sub(one, another, out=terms).mul_(probs).sum(-1)
    if not found.isfinite().all():
        raise ReadoutError(
            "Logits of a lens are not finite, so their distributions cannot be compared. Scan the weights: slm-interp verify."
        )
    return found.clamp_min(0)
