"""Batches of cells: every cell once, within the budget, at the least cost."""

from __future__ import annotations

from itertools import combinations

from slm_interp.patching.batching import batches


def cost(cut: list[list[int]], starts: list[int], stop: int, overhead: int) -> int:
    return sum(overhead + len(cells) * (stop - min(starts[cell] for cell in cells)) for cells in cut)


def test_every_cell_comes_once_and_no_batch_is_larger_than_fits() -> None:
    starts = [5, 0, 3, 3, 9, 0, 7, 3]
    for most in (1, 2, 3, 100):
        cut = batches(starts, 10, lambda start, most=most: most)
        assert sorted(cell for cells in cut for cell in cells) == list(range(8)) and max(map(len, cut)) <= most
    assert batches(starts, 10, lambda start: 0) and batches([], 10, lambda start: 4) == []


def test_the_cut_is_the_cheapest_there_is() -> None:
    starts, stop = [0, 1, 2, 5, 8, 9, 9], 12
    for overhead in (0, 3, 8, 100):
        every = [
            [list(range(a, b)) for a, b in zip((0, *where), (*where, 7), strict=True)]
            for count in range(7)
            for where in combinations(range(1, 7), count)
        ]
        best = min(cost(cut, starts, stop, overhead) for cut in every)
        assert cost(batches(starts, stop, lambda start: 100, overhead), starts, stop, overhead) == best
