"""What is worked out on a block of logits while it is in the cache: one pass of a few rows at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from slm_interp.readout.columns import PANEL, Group

TILE = 2**20  # logits worked on at once; smaller tiles cost calls, larger ones leave the cache
FEW_TARGETS = 12  # up to here a target costs two comparing passes, above it one sort serves them all


@dataclass(frozen=True)
class Statistics:
    """Of every row and group: the maximum of each panel, log-sum-exp, entropy within the group; counts for targets."""

    target: Float[Tensor, "row target"]
    panel_max: Float[Tensor, "row panel"]
    log_sum_exp: Float[Tensor, "row group"]
    entropy: Float[Tensor, "row group"]
    above: Int[Tensor, "group row target"]
    equal: Int[Tensor, "group row target"]


def statistics(logits: Float[Tensor, "row column"], layout: tuple[Group, ...], columns: Int[Tensor, "row target"]) -> Statistics:
    """Step 2 of the algorithm at the top of this package.

    Args:
        columns: where each row's targets stand.
    """
    work = torch.promote_types(logits.dtype, torch.float32)
    floor = torch.finfo(logits.dtype).min
    n_rows, width = logits.shape
    tile = max(1, min(n_rows, TILE // width))
    scratch = torch.empty(3, tile * width, dtype=work, device=logits.device)
    target = logits.gather(1, columns).to(work)
    maxima = torch.empty(n_rows, width // PANEL, dtype=work, device=logits.device)
    log_sum_exp, entropy = torch.empty(2, n_rows, len(layout), dtype=work, device=logits.device)
    counts = torch.empty(2, len(layout), *columns.shape, dtype=torch.long, device=logits.device)
    for start in range(0, n_rows, tile):
        rows = slice(start, min(start + tile, n_rows))
        for index, group in enumerate(layout):
            part = logits[rows, group.start : group.stop]
            one, two, three = (flat[: part.numel()].view(part.shape) for flat in scratch)
            part = part if part.dtype == work else one.copy_(part)
            panels = maxima[rows, group.start // PANEL : group.stop // PANEL]
            torch.amax(part.unflatten(-1, (-1, PANEL)), -1, out=panels)
            top = panels.amax(-1, keepdim=True)
            weight = torch.exp(torch.sub(part, top, out=two), out=three)
            total = weight.sum(-1)
            entropy[rows, index] = total.log() - two.mul_(weight).sum(-1) / total
            log_sum_exp[rows, index] = torch.where(top[:, 0] == floor, -torch.inf, top[:, 0] + total.log())
            if columns.numel():
                counts[:, index, rows] = _above_and_equal(part, target[rows], two)
    return Statistics(target, maxima, log_sum_exp, entropy, *counts)


def _above_and_equal(
    part: Float[Tensor, "row column"], target: Float[Tensor, "row target"], scratch: Tensor
) -> Int[Tensor, "2 row target"]:
    """How many logits are greater than each target, and how many equal it."""
    width, n_targets = part.shape[1], target.shape[1]
    if part.device.type == "cpu" and n_targets <= FEW_TARGETS:
        return _by_comparing(part.numpy(), target.numpy(), scratch)
    scratch.copy_(part)
    if part.device.type == "cpu":
        scratch.numpy().sort(axis=-1)  # numpy's sort and comparisons are vectorised on one core, torch's are not
    else:
        scratch = scratch.sort(-1).values
    above = width - torch.searchsorted(scratch, target, right=True)
    reached = width - torch.searchsorted(scratch, target)
    return torch.stack([above, reached - above])


def _by_comparing(part: np.ndarray, target: np.ndarray, scratch: Tensor) -> Int[Tensor, "2 row target"]:
    flags = scratch.flatten().view(torch.bool)[: part.shape[1]].numpy()
    counts = np.empty((2, *target.shape), dtype=np.int64)
    for index, row in np.ndindex(target.shape[::-1]):
        for kind, compare in enumerate((np.greater, np.equal)):
            counts[kind, row, index] = np.count_nonzero(compare(part[row], target[row, index], out=flags))
    return torch.from_numpy(counts)
