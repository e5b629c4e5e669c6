"""Which cells of a layer are run together: as few positions as possible, in as few batches as that is worth.

A batch begins at the earliest position that any of its cells changes. Cells that begin late pay for those that begin early, and every batch
costs a little whatever its size, so cells are sorted by where they begin and cut where the sum is least (exact, by dynamic programming over
the different beginnings).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

OVERHEAD = 64  # positions that a batch costs beside its own: calls, and weights that are laid out anew


def batches(starts: Sequence[int], stop: int, fits: Callable[[int], int], overhead: int = OVERHEAD) -> list[list[int]]:
    """Numbers of the cells, in batches.

    Args:
        starts: the first position that each cell changes.
        stop: where all of them end.
        fits: how many cells may run together that begin at a position; one always may.
        overhead: positions that a batch is worth.
    """
    order = sorted(range(len(starts)), key=lambda cell: starts[cell])
    groups = [list(own) for _, own in groupby(order, key=lambda cell: starts[cell])]
    best: list[tuple[float, int]] = [(0, 0)]  # least cost of the first groups, and where their last batch begins
    for end in range(1, len(groups) + 1):
        cells, found = 0, []
        for begin in range(end - 1, -1, -1):
            cells += len(groups[begin])
            first = starts[groups[begin][0]]
            runs = -(-cells // max(1, fits(first)))
            found.append((best[begin][0] + runs * overhead + cells * (stop - first), begin))
        best.append(min(found))
    cut, end = [], len(groups)
    while end:
        begin = best[end][1]
        together = [cell for group in groups[begin:end] for cell in group]
        most = max(1, fits(starts[together[0]]))
        cut += [together[at : at + most] for at in range(0, len(together), most)]
        end = begin
    return cut
