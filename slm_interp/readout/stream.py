"""Reading residual vectors out, block by block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from slm_interp.errors import ReadoutError
from slm_interp.readout.block import TILE, Statistics, statistics
from slm_interp.readout.columns import GEMM_WORKSPACE, PANEL, Group, Unembedding, layout_of, leave_out, product


@dataclass(frozen=True)
class Readout:
    """What was read out of each row. Log-probabilities (natural) are of the softmax over all ids that were read.

    Lists shorter than k are filled with id -1 and NaN. A target that is excluded in a row has NaN, NaN and -1 there.
    """

    modalities: tuple[str, ...]
    top_id: Int[Tensor, "row k"]
    top_log_prob: Float[Tensor, "row k"]
    top_id_by_modality: Int[Tensor, "row modality k"]
    top_log_prob_by_modality: Float[Tensor, "row modality k"]
    log_sum_exp: Float[Tensor, "row modality"]
    entropy: Float[Tensor, " row"]
    target_log_prob: Float[Tensor, "row target"]
    target_rank: Float[Tensor, "row target"]
    target_ties: Int[Tensor, "row target"]
    target_rank_in_modality: Float[Tensor, "row target"]

    @property
    def log_mass(self) -> Float[Tensor, "row modality"]:
        """Log of the probability on each modality; `exp` of it sums to 1."""
        return self.log_sum_exp - self.log_sum_exp.logsumexp(-1, keepdim=True)

    @staticmethod
    def cat(parts: Sequence[Readout]) -> Readout:
        """Readouts of the same groups, one under the other."""
        names = [field.name for field in fields(Readout) if field.name != "modalities"]
        return Readout(parts[0].modalities, *(torch.cat([getattr(part, name) for part in parts]) for name in names))


def _check(resid: Tensor, unembedding: Unembedding, groups: Mapping[str, Tensor], k: int) -> None:
    W_U = unembedding.W_U
    if resid.dtype != W_U.dtype or resid.device != W_U.device or resid.shape[1] != W_U.shape[0]:
        raise ReadoutError(
            f"Residuals must match W_U (d_model {W_U.shape[0]}, {W_U.dtype}, {W_U.device}); "
            f"got d_model {resid.shape[1]}, {resid.dtype}, {resid.device}. Convert them with .to(...)."
        )
    for name, mask in groups.items():
        if len(mask) != W_U.shape[1]:
            raise ReadoutError(f"The mask of {name!r} has {len(mask)} entries; W_U has {W_U.shape[1]} ids.")
    if k < 1:
        raise ReadoutError(f"k is how many ids to list, at least 1; got {k}.")


def _targets_by_row(targets: Tensor | None, rows: int, column_of: Tensor) -> Int[Tensor, "row target"]:
    if targets is None:
        return torch.zeros(rows, 0, dtype=torch.long, device=column_of.device)
    targets = targets.to(column_of.device, torch.long)
    outside = targets[(targets < 0) | (targets >= len(column_of))]
    if outside.numel():
        raise ReadoutError(f"Targets are ids in 0..{len(column_of) - 1}; got {int(outside.flatten()[0])}.")
    unread = targets[column_of[targets] < 0]
    if unread.numel():
        raise ReadoutError(f"Target {int(unread.flatten()[0])} is not among the ids that are read: it is dead, or its kind was left out.")
    if targets.ndim == 2 and len(targets) != rows:
        raise ReadoutError(f"Targets by row need one row of ids for each of the {rows} residuals; got {len(targets)}.")
    return targets.expand(rows, -1)


def rows_in_budget(width: int, itemsize: int, k: int, max_rows: int, memory: int) -> int:
    """How many rows a block may have: buffer and candidates by row, tiles and the product's workspace once."""
    work = max(4, itemsize)
    fixed = GEMM_WORKSPACE * 2 + 4 * work * max(TILE, width)
    by_row = width * itemsize + 4 * PANEL * k * (work + 8)
    if fixed + by_row > memory:
        raise ReadoutError(
            f"{memory / 2**20:.0f} MiB are too little: one row of {width} logits takes "
            f"{(fixed + by_row) / 2**20:.0f} MiB in all. Raise memory."
        )
    return max(1, min(max_rows, (memory - fixed) // by_row))


@torch.no_grad()
def read_out(
    resid: Float[Tensor, "row d_model"],
    unembedding: Unembedding,
    groups: Mapping[str, Bool[Tensor, " d_vocab"]],
    k: int = 10,
    targets: Int[Tensor, "row target"] | Int[Tensor, " target"] | None = None,
    exclude: Int[Tensor, " row"] | None = None,
    max_rows: int = 256,
    memory: int = 256 * 2**20,
) -> Readout:
    """Top-k, modality mass, entropy and targets' ranks of residual vectors that are ready for `W_U`.

    Args:
        resid: after the final norm or a lens's own translation, in the dtype of `W_U`.
        groups: ids to read, by modality (`modality_groups`); ids in none of them are in no softmax, list or rank.
        k: ids to list, jointly and for each modality.
        targets: ids to rank, the same for all rows or by row.
        exclude: one id a row that is left out of that row's softmax, lists and ranks.
        max_rows: rows in one product; 256 was the quickest blocking measured that fits the default memory.
        memory: bytes to take beyond the arguments and the result.

    Raises:
        ReadoutError: values that are not finite, targets that are not read, dtypes that differ, too little memory.
    """
    _check(resid, unembedding, groups, k)
    W_U = unembedding.W_U
    layout = layout_of(groups, W_U)
    column_of = torch.full((W_U.shape[1],), -1, device=resid.device)
    for group in layout:
        column_of[group.ids] = torch.arange(group.start, group.start + len(group.ids), device=resid.device)
    wanted = _targets_by_row(targets, len(resid), column_of)
    limit = rows_in_budget(layout[-1].stop, W_U.element_size(), k, max_rows, memory)
    blocks = -(-len(resid) // limit) or 1
    size = -(-len(resid) // blocks)
    buffer = torch.empty(size, layout[-1].stop, dtype=W_U.dtype, device=resid.device)
    for group in layout:
        buffer[:, group.start + len(group.ids) : group.stop] = torch.finfo(W_U.dtype).min
    bias = unembedding.b_U if unembedding.b_U is not None and unembedding.b_U.any() else None
    parts = []
    for start in range(0, max(1, len(resid)), max(1, size)):
        rows = slice(start, start + size)
        logits = product(resid[rows], W_U, bias, layout, buffer)
        if exclude is not None:
            leave_out(logits, column_of[exclude[rows]])
        columns = column_of[wanted[rows]]
        parts.append(_assemble(logits, layout, columns, statistics(logits, layout, columns), k))
        bad = ~parts[-1].log_sum_exp.logsumexp(-1).isfinite()
        if bad.any():
            row = start + int(bad.nonzero()[0])
            cause = "residual is" if not resid[row].isfinite().all() else "residual is finite, its logits are"
            raise ReadoutError(
                f"Row {row} cannot be read: its {cause} not finite ({int(bad.sum())} such rows in this block). Scan the weights for NaN."
            )
    return Readout.cat(parts)


def _list(
    values: Float[Tensor, "row column"], group: Group, panels: Float[Tensor, "row panel"], k: int
) -> tuple[Float[Tensor, "row k"], Int[Tensor, "row k"]]:
    """The k best of a group, smaller ids first among equals.

    The panels are ordered in the same way by their maxima. A logit in a panel after the first k has the k maxima
    before it, so it is not listed.
    """
    best = _first(panels, k).sort(-1).values
    within = torch.arange(PANEL, device=values.device)
    columns = (best[:, :, None] * PANEL + within).flatten(1)
    candidates = values.gather(1, columns).to(panels.dtype)
    places = _first(candidates, k)
    top, columns = candidates.gather(1, places), columns.gather(1, places)
    ids = torch.where(columns < len(group.ids), group.ids[columns.clamp(max=len(group.ids) - 1)], -1)
    ids[top == torch.finfo(values.dtype).min] = -1
    missing = max(0, k - columns.shape[1])
    return torch.nn.functional.pad(top, (0, missing)), torch.nn.functional.pad(ids, (0, missing), value=-1)


def _first(values: Float[Tensor, "row column"], k: int) -> Int[Tensor, "row first"]:
    """Places of the k greatest values in order, earlier places first among equals."""
    k = min(k, values.shape[1])
    if values.dtype != torch.float32:
        return values.sort(dim=-1, descending=True, stable=True).indices[:, :k]
    bits = (values + 0.0).view(torch.int32).long()  # adding zero makes minus zero zero
    ordered = bits ^ ((bits >> 63) & 0x7FFFFFFF)  # whole numbers in the order of the floats; with its place each is unique
    return ((ordered << 32) - torch.arange(values.shape[1], device=values.device)).topk(k, dim=-1).indices


def _joint(values: Float[Tensor, "row modality k"], ids: Int[Tensor, "row modality k"], k: int) -> tuple[Tensor, Tensor]:
    """The k best of all modalities' lists: by logit, then by id."""
    order = ids.flatten(1).sort(-1)
    ids = order.values
    values = torch.where(ids < 0, -torch.inf, values.flatten(1).gather(1, order.indices))
    best = values.sort(dim=-1, descending=True, stable=True)
    return best.values[:, :k], ids.gather(1, best.indices[:, :k])


def _assemble(
    logits: Float[Tensor, "row column"], layout: tuple[Group, ...], columns: Int[Tensor, "row target"], found: Statistics, k: int
) -> Readout:
    whole = found.log_sum_exp.logsumexp(-1, keepdim=True)
    mass = (found.log_sum_exp - whole).exp()
    lists = [_list(logits[:, one.start : one.stop], one, found.panel_max[:, one.start // PANEL : one.stop // PANEL], k) for one in layout]
    values, ids = (torch.stack(part, 1) for part in zip(*lists, strict=True))
    top_value, top_id = _joint(values, ids, k)
    starts = torch.tensor([group.start for group in layout], device=columns.device)
    own = torch.searchsorted(starts, columns, right=True)[None] - 1
    ties = found.equal.sum(0) - 1
    left_out = found.target == torch.finfo(logits.dtype).min
    nan = torch.nan
    return Readout(
        modalities=tuple(group.name for group in layout),
        top_id=top_id,
        top_log_prob=(top_value - whole).masked_fill(top_id < 0, nan),
        top_id_by_modality=ids,
        top_log_prob_by_modality=(values - whole[:, None]).masked_fill(ids < 0, nan),
        log_sum_exp=found.log_sum_exp,
        entropy=(mass * found.entropy + torch.special.entr(mass)).sum(-1),
        target_log_prob=(found.target - whole).masked_fill(left_out, nan),
        target_rank=(found.above.sum(0) + ties / 2).masked_fill(left_out, nan),
        target_ties=ties.masked_fill(left_out, -1),
        target_rank_in_modality=(found.above.gather(0, own)[0] + (found.equal.gather(0, own)[0] - 1) / 2).masked_fill(left_out, nan),
    )
