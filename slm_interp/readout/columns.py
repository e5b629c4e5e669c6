"""Which ids are read and where their logits stand: groups of ids as columns of one buffer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from slm_interp.errors import ReadoutError
from slm_interp.vocabulary import JointVocabulary, Kind

PANEL = 128  # columns that share one maximum; every group of the buffer is padded to whole panels
COLUMNS_AT_ONCE = 4096  # of one product: with 256 rows the quickest measured, against 10% more for the whole vocabulary at once
GEMM_WORKSPACE = 2**24  # bytes the matrix product may take for itself, and scattered weights that are copied together


@dataclass(frozen=True)
class Unembedding:
    """`W_U` as the view the model holds, and its bias where there is one."""

    W_U: Float[Tensor, "d_model d_vocab"]
    b_U: Float[Tensor, " d_vocab"] | None = None


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
    groups: dict[str, Tensor] = {kind: vocabulary.mask(kind) & chosen for kind in (live if kinds is None else dict.fromkeys(kinds))}
    groups = {kind: mask for kind, mask in groups.items() if mask.any()}
    if not groups:
        raise ReadoutError(f"Nothing left to read: none of the ids asked for is of kind {', '.join(kinds or live)}.")
    return groups


@dataclass(frozen=True)
class Group:
    """Columns `start..stop` of the buffer: `ids` ascending, then padding."""

    name: str
    start: int
    ids: Int[Tensor, " id"]
    pieces: tuple[slice | Tensor, ...]

    @property
    def stop(self) -> int:
        """One past the last column."""
        return self.start + -(-len(self.ids) // PANEL) * PANEL


def _pieces(ids: Int[Tensor, " id"], gather_rows: int) -> tuple[slice | Tensor, ...]:
    """Ids as slices, which are views of `W_U`; ids scattered over more than 64 runs as index tensors, which are copied."""
    steps = ids.diff()
    if len(ids) > 1 and (steps == steps[0]).all():
        return (slice(int(ids[0]), int(ids[-1]) + 1, int(steps[0])),)
    starts = [0, *((steps != 1).nonzero().flatten() + 1).tolist(), len(ids)]
    if len(starts) - 1 > 64:
        return tuple(ids.split(gather_rows))
    return tuple(slice(int(ids[a]), int(ids[b - 1]) + 1, 1) for a, b in pairwise(starts))


def layout_of(groups: Mapping[str, Bool[Tensor, " d_vocab"]], W_U: Float[Tensor, "d_model d_vocab"]) -> tuple[Group, ...]:
    """Columns for the ids of every group, side by side."""
    gather_rows = max(1, GEMM_WORKSPACE // (W_U.shape[0] * W_U.element_size()))
    laid: list[Group] = []
    for name, mask in groups.items():
        ids = mask.nonzero().flatten()
        if not len(ids):
            raise ReadoutError(f"Group {name!r} has no ids; leave it out.")
        laid.append(Group(name, laid[-1].stop if laid else 0, ids.to(W_U.device), _pieces(ids, gather_rows)))
    if not laid or int(torch.stack([mask.int() for mask in groups.values()]).sum(0).max()) > 1:
        raise ReadoutError(f"Groups must be at least one and share no id; got {list(groups)}.")
    return tuple(laid)


def product(x: Tensor, W_U: Tensor, bias: Tensor | None, layout: tuple[Group, ...], buffer: Tensor) -> Float[Tensor, "row column"]:
    """Logits of the ids that are read, written into the buffer; columns of padding keep its lowest value."""
    logits = buffer[: len(x)]
    for group in layout:
        column = group.start
        for piece in group.pieces:
            whole = W_U[:, piece] if isinstance(piece, slice) else W_U.T[piece].T
            for start in range(0, whole.shape[1], COLUMNS_AT_ONCE):
                weight = whole[:, start : start + COLUMNS_AT_ONCE]
                out = logits[:, column : column + weight.shape[1]]
                if bias is None:
                    torch.mm(x, weight, out=out)
                else:
                    torch.addmm(bias[piece][start : start + COLUMNS_AT_ONCE], x, weight, out=out)
                column += weight.shape[1]
    return logits


def leave_out(logits: Float[Tensor, "row column"], columns: Int[Tensor, " row"]) -> None:
    """Give one column a row the lowest value, which is in no softmax, list or rank; -1 is no column."""
    rows = (columns >= 0).nonzero().flatten()
    logits[rows, columns[rows]] = torch.finfo(logits.dtype).min
