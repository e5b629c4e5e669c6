"""The streamed unembedding: what every lens and every outcome reads out of residual vectors.

`[layer, pos, d_vocab]` never exists. The algorithm, for a block of rows (residual vectors):

1. One product of the block with the columns of `W_U` that are read, group by group (a group is a modality), into
   one reused buffer. `W_U` stays the view it is; ids that are in no group cost nothing.
2. A few rows at a time, while they sit in the cache and group by group: the maximum of every 128 columns; the
   log-sum-exp; the sum of `p * logit`; how many logits are above, and how many equal to, each target's.
3. Top-k: the k best of those maxima name `128 k` candidate columns, which hold the k best logits, ties included.

Targets' logits are taken from the buffer that they are ranked in, so equal logits are found equal.

*Declared rules.* Ranks start at 0 and are mid-ranks: ids with a greater logit plus half of the other ids with an
equal logit. That favours no id for its place in the vocabulary and gives a row of equal logits the chance level; in
bfloat16 at 152,000 ids equal logits are the normal case, so their number is reported as `target_ties` (rank -/+
ties / 2 are the optimistic and pessimistic ranks). Lists put greater logits first and, among equals, smaller ids.
Logits have the dtype of the model, as the model computes them; everything after is float32 (float64 for float64).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from slm_interp.errors import ReadoutError
from slm_interp.vocabulary import JointVocabulary, Kind

PANEL = 128  # columns that share one maximum; every group of the buffer is padded to whole panels
TILE = 2**19  # logits worked on at once: two float32 tiles fit the second-level cache of a core
FEW_TARGETS = 16  # up to here a target costs two comparing passes, above it one sort serves them all
GEMM_WORKSPACE = 2**24  # bytes the matrix product may take for itself


@dataclass(frozen=True)
class Unembedding:
    """`W_U` as the view the model holds, and its bias where there is one."""

    W_U: Float[Tensor, "d_model d_vocab"]
    b_U: Float[Tensor, " d_vocab"] | None = None


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


def modality_groups(
    vocabulary: JointVocabulary, kinds: Sequence[Kind] | None = None, ids: Iterable[int] | None = None
) -> dict[str, Bool[Tensor, " d_vocab"]]:
    """The ids to read, by modality: every live kind, or those asked for, or of those only the given ids.

    Dead rows are never read unless `"dead"` is asked for by name.

    Raises:
        ReadoutError: a kind that the vocabulary lacks, or nothing left to read.
    """
    live = tuple(kind for kind in vocabulary.kinds if kind != "dead")
    absent = [kind for kind in kinds or () if kind not in vocabulary.kinds]
    if absent:
        raise ReadoutError(f"This vocabulary has {', '.join(vocabulary.kinds)}; there is no {absent[0]!r} to read.")
    chosen = torch.ones(vocabulary.size, dtype=torch.bool)
    if ids is not None:
        wanted = torch.as_tensor(list(ids), dtype=torch.long)
        vocabulary.check_ids(wanted)
        chosen = torch.zeros(vocabulary.size, dtype=torch.bool).index_fill_(0, wanted, True)
    groups = {kind: vocabulary.mask(kind) & chosen for kind in (live if kinds is None else dict.fromkeys(kinds))}
    groups = {kind: mask for kind, mask in groups.items() if mask.any()}
    if not groups:
        raise ReadoutError(f"Nothing left to read: none of the ids asked for is of kind {', '.join(kinds or live)}.")
    return groups


@dataclass(frozen=True)
class _Group:
    """Columns `start..stop` of the buffer: `ids` ascending, then padding."""

    name: str
    start: int
    ids: Int[Tensor, " id"]
    pieces: tuple[slice | Tensor, ...]

    @property
    def stop(self) -> int:
        return self.start + -(-len(self.ids) // PANEL) * PANEL


def _pieces(ids: Int[Tensor, " id"], gather_rows: int) -> tuple[slice | Tensor, ...]:
    """Ids as slices, which are views of `W_U`; ids scattered over more than 64 runs as index tensors, which are copied."""
    steps = ids.diff()
    if len(ids) > 1 and (steps == steps[0]).all():
        return (slice(int(ids[0]), int(ids[-1]) + 1, int(steps[0])),)
    starts = [0, *((steps != 1).nonzero().flatten() + 1).tolist(), len(ids)]
    if len(starts) - 1 > 64:
        return tuple(ids.split(gather_rows))
    return tuple(slice(int(ids[a]), int(ids[b - 1]) + 1, 1) for a, b in zip(starts, starts[1:], strict=False))


def _layout(groups: Mapping[str, Bool[Tensor, " d_vocab"]], gather_rows: int, device: torch.device) -> tuple[_Group, ...]:
    laid: list[_Group] = []
    for name, mask in groups.items():
        ids = mask.nonzero().flatten()
        if not len(ids):
            raise ReadoutError(f"Group {name!r} has no ids; leave it out.")
        laid.append(_Group(name, laid[-1].stop if laid else 0, ids.to(device), _pieces(ids, gather_rows)))
    if not laid or int(torch.stack([mask.int() for mask in groups.values()]).sum(0).max()) > 1:
        raise ReadoutError(f"Groups must be at least one and share no id; got {list(groups)}.")
    return tuple(laid)


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
    fixed = GEMM_WORKSPACE * 2 + 3 * work * max(TILE, width)
    by_row = width * itemsize + 4 * PANEL * k * (work + 8)
    if fixed + by_row > memory:
        raise ReadoutError(f"{memory / 2**20:.0f} MiB are too little: one row of {width} logits takes {(fixed + by_row) / 2**20:.0f} MiB in all. Raise memory.")
    return max(1, min(max_rows, (memory - fixed) // by_row))


@torch.no_grad()
def read_out(
    resid: Float[Tensor, "row d_model"],
    unembedding: Unembedding,
    groups: Mapping[str, Bool[Tensor, " d_vocab"]],
    k: int = 10,
    targets: Int[Tensor, "row target"] | Int[Tensor, " target"] | None = None,
    exclude: Int[Tensor, " row"] | None = None,
    max_rows: int = 128,
    memory: int = 256 * 2**20,
) -> Readout:
    """Top-k, modality mass, entropy and targets' ranks of residual vectors that are ready for `W_U`.

    Args:
        resid: after the final norm or a lens's own translation, in the dtype of `W_U`.
        groups: ids to read, by modality (`modality_groups`); ids in none of them are in no softmax, list or rank.
        k: ids to list, jointly and for each modality.
        targets: ids to rank, the same for all rows or by row.
        exclude: one id a row that is left out of that row's softmax, lists and ranks.
        max_rows: rows in one product; 128 was the quickest blocking measured.
        memory: bytes to take beyond the arguments and the result.

    Raises:
        ReadoutError: values that are not finite, targets that are not read, dtypes that differ, too little memory.
    """
    _check(resid, unembedding, groups, k)
    W_U = unembedding.W_U
    layout = _layout(groups, max(1, GEMM_WORKSPACE // (W_U.shape[0] * W_U.element_size())), resid.device)
    column_of = torch.full((W_U.shape[1],), -1, device=resid.device)
    for group in layout:
        column_of[group.ids] = torch.arange(group.start, group.start + len(group.ids), device=resid.device)
    wanted = _targets_by_row(targets, len(resid), column_of)
    limit = rows_in_budget(layout[-1].stop, W_U.element_size(), k, max_rows, memory)
    blocks = -(-len(resid) // limit) or 1
    size = -(-len(resid) // blocks)
    buffer = torch.full((size, layout[-1].stop), torch.finfo(W_U.dtype).min, dtype=W_U.dtype, device=resid.device)
    parts = []
    for start in range(0, max(1, len(resid)), max(1, size)):
        rows = slice(start, start + size)
        logits = _product(resid[rows], unembedding, layout, buffer)
        if exclude is not None:
            _leave_out(logits, column_of[exclude[rows]])
        parts.append(_read_block(logits, layout, column_of[wanted[rows]], k))
        bad = ~parts[-1].log_sum_exp.logsumexp(-1).isfinite()
        if bad.any():
            row = start + int(bad.nonzero()[0])
            cause = "residual is" if not resid[row].isfinite().all() else "residual is finite, its logits are"
            raise ReadoutError(f"Row {row} cannot be read: its {cause} not finite ({int(bad.sum())} such rows in this block). Scan the weights for NaN.")
    return Readout.cat(parts)


def _product(x: Tensor, unembedding: Unembedding, layout: tuple[_Group, ...], buffer: Tensor) -> Float[Tensor, "row column"]:
    """Logits of the ids that are read, written into the buffer; columns of padding keep its lowest value."""
    logits, bias = buffer[: len(x)], unembedding.b_U
    for group in layout:
        column = group.start
        for piece in group.pieces:
            weight = unembedding.W_U[:, piece] if isinstance(piece, slice) else unembedding.W_U.T[piece].T
            out = logits[:, column : column + weight.shape[1]]
            if bias is None:
                torch.mm(x, weight, out=out)
            else:
                torch.addmm(bias[piece], x, weight, out=out)
            column += weight.shape[1]
    return logits


def _leave_out(logits: Float[Tensor, "row column"], columns: Int[Tensor, " row"]) -> None:
    rows = (columns >= 0).nonzero().flatten()
    logits[rows, columns[rows]] = torch.finfo(logits.dtype).min


def _read_block(logits: Float[Tensor, "row column"], layout: tuple[_Group, ...], columns: Int[Tensor, "row target"], k: int) -> Readout:
    work = torch.promote_types(logits.dtype, torch.float32)
    floor = torch.finfo(logits.dtype).min
    n_rows, width = logits.shape
    tile = max(1, min(n_rows, TILE // width))
    scratch = torch.empty(2, tile * width, dtype=work, device=logits.device)
    target = logits.gather(1, columns).to(work)
    maxima = torch.empty(n_rows, width // PANEL, dtype=work, device=logits.device)
    log_sum_exp, mean_logit = torch.empty(2, n_rows, len(layout), dtype=work, device=logits.device)
    counts = torch.empty(2, len(layout), *columns.shape, dtype=torch.long, device=logits.device)
    for start in range(0, n_rows, tile):
        rows = slice(start, min(start + tile, n_rows))
        for index, group in enumerate(layout):
            part = logits[rows, group.start : group.stop]
            one, two = (flat[: part.numel()].view(part.shape) for flat in scratch)
            part = part if part.dtype == work else one.copy_(part)
            panels = maxima[rows, group.start // PANEL : group.stop // PANEL]
            torch.amax(part.unflatten(-1, (-1, PANEL)), -1, out=panels)
            top = panels.amax(-1, keepdim=True)
            torch.sub(part, top, out=two).exp_()
            total = two.sum(-1)
            mean_logit[rows, index] = two.mul_(part).sum(-1) / total
            log_sum_exp[rows, index] = torch.where(top[:, 0] == floor, -torch.inf, top[:, 0] + total.log())
            if columns.numel():
                counts[:, index, rows] = _above_and_equal(part, target[rows], two)
    return _assemble(logits, layout, columns, k, target, maxima, log_sum_exp, mean_logit, counts)


def _above_and_equal(part: Float[Tensor, "row column"], target: Float[Tensor, "row target"], scratch: Tensor) -> Int[Tensor, "2 row target"]:
    """How many logits are greater than each target, and how many equal it."""
    width, n_targets = part.shape[1], target.shape[1]
    if part.numel() * n_targets <= TILE:
        above = (part[:, None] > target[:, :, None]).sum(-1)
        reached = (part[:, None] >= target[:, :, None]).sum(-1)
    elif n_targets <= FEW_TARGETS:
        above = torch.stack([torch.gt(part, one[:, None], out=scratch).sum(-1) for one in target.T], -1)
        reached = torch.stack([torch.ge(part, one[:, None], out=scratch).sum(-1) for one in target.T], -1)
    else:
        scratch.copy_(part)
        if scratch.device.type == "cpu":
            scratch.numpy().sort(axis=-1)  # vectorised, unlike torch.sort
        else:
            scratch = scratch.sort(-1).values
        above = width - torch.searchsorted(scratch, target, right=True)
        reached = width - torch.searchsorted(scratch, target)
    return torch.stack([above, reached - above]).long()


def _list(
    values: Float[Tensor, "row column"], group: _Group, panels: Float[Tensor, "row panel"], k: int
) -> tuple[Float[Tensor, "row k"], Int[Tensor, "row k"]]:
    """The k best of a group, smaller ids first among equals. Whatever precedes a panel's maximum in that order lies in a panel that precedes it."""
    best = panels.sort(dim=-1, descending=True, stable=True).indices[:, :k].sort(-1).values
    within = torch.arange(PANEL, device=values.device)
    columns = (best[:, :, None] * PANEL + within).flatten(1)
    top = values.gather(1, columns).to(panels.dtype).sort(dim=-1, descending=True, stable=True)
    columns = columns.gather(1, top.indices[:, :k])
    ids = torch.where(columns < len(group.ids), group.ids[columns.clamp(max=len(group.ids) - 1)], -1)
    ids[top.values[:, :k] == torch.finfo(values.dtype).min] = -1
    missing = max(0, k - columns.shape[1])
    return torch.nn.functional.pad(top.values[:, :k], (0, missing)), torch.nn.functional.pad(ids, (0, missing), value=-1)


def _joint(values: Float[Tensor, "row modality k"], ids: Int[Tensor, "row modality k"], k: int) -> tuple[Tensor, Tensor]:
    """The k best of all modalities' lists: by logit, then by id."""
    order = ids.flatten(1).sort(-1)
    ids = order.values
    values = torch.where(ids < 0, -torch.inf, values.flatten(1).gather(1, order.indices))
    best = values.sort(dim=-1, descending=True, stable=True)
    return best.values[:, :k], ids.gather(1, best.indices[:, :k])


def _assemble(
    logits: Tensor, layout: tuple[_Group, ...], columns: Tensor, k: int, target: Tensor, maxima: Tensor, log_sum_exp: Tensor, mean_logit: Tensor, counts: Tensor
) -> Readout:
    whole = log_sum_exp.logsumexp(-1, keepdim=True)
    mass = (log_sum_exp - whole).exp()
    lists = [_list(logits[:, group.start : group.stop], group, maxima[:, group.start // PANEL : group.stop // PANEL], k) for group in layout]
    values, ids = (torch.stack(part, 1) for part in zip(*lists, strict=True))
    top_value, top_id = _joint(values, ids, k)
    starts = torch.tensor([group.start for group in layout], device=columns.device)
    own = torch.searchsorted(starts, columns.contiguous(), right=True) - 1
    above, equal = counts
    ties = equal.sum(0) - 1
    own_above, own_equal = (count.gather(0, own[None])[0] for count in counts)
    left_out = target == torch.finfo(logits.dtype).min
    nan = torch.nan
    return Readout(
        modalities=tuple(group.name for group in layout),
        top_id=top_id,
        top_log_prob=(top_value - whole).masked_fill(top_id < 0, nan),
        top_id_by_modality=ids,
        top_log_prob_by_modality=(values - whole[:, None]).masked_fill(ids < 0, nan),
        log_sum_exp=log_sum_exp,
        entropy=whole[:, 0] - (mass * mean_logit.masked_fill(mass == 0, 0)).sum(-1),
        target_log_prob=(target - whole).masked_fill(left_out, nan),
        target_rank=(above.sum(0) + ties / 2).masked_fill(left_out, nan),
        target_ties=ties.masked_fill(left_out, -1),
        target_rank_in_modality=(own_above + (own_equal - 1) / 2).masked_fill(left_out, nan),
    )
