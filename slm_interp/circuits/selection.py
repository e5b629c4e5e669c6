"""Which edges make the circuit: the strongest ones, or greedily from the logits down, and only those on a way from the input to the logits.

A way goes through nodes *in a span*: a head in a span is reached if its queries, keys or values are, and writes there. An edge that no kept edge
leads to carries source values whatever it is, and one that leads nowhere changes nothing, so both are pruned. Fewer edges than asked for may be left.
"""

from __future__ import annotations

import heapq

import numpy as np
from jaxtyping import Bool

from slm_interp.circuits.graph import Graph
from slm_interp.circuits.nodes import targets
from slm_interp.errors import PatchingError


def top_n(graph: Graph, n: int) -> Graph:
    """The `n` edges of greatest absolute score, then pruned.

    Raises:
        PatchingError: more edges than there are, or fewer than none.
    """
    _check(graph, n)
    strength = np.where(graph.real, np.abs(graph.scores), -1.0).ravel()
    chosen = np.zeros(strength.size, dtype=bool)
    chosen[np.argsort(-strength, kind="stable")[:n]] = True
    return pruned(graph.keeping(chosen.reshape(graph.real.shape)))


def greedy(graph: Graph, n: int) -> Graph:
    """From the logits down, `n` times the strongest edge into what is reached already, then pruned.

    Raises:
        PatchingError: more edges than there are, or fewer than none.
    """
    _check(graph, n)
    scores, real, read = np.abs(graph.scores), graph.real, targets(graph.shape)
    readers: dict[int, list[int]] = {}
    for number, target in enumerate(read):
        for writer in target.feeds:
            readers.setdefault(writer, []).append(number)
    waiting: list[tuple[float, int, int, int, int]] = []
    opened: set[tuple[int, int]] = set()

    def open_target(target: int, span: int) -> None:
        if (target, span) not in opened:
            opened.add((target, span))
            for source, source_span in zip(*np.nonzero(real[:, target, :, span]), strict=True):
                edge = (int(source), target, int(source_span), span)
                heapq.heappush(waiting, (-float(scores[edge]), *edge))

    for span in range(real.shape[-1]):
        open_target(len(read) - 1, span)
    chosen = np.zeros_like(real)
    for _ in range(n):
        if not waiting:
            break
        _, source, into, source_span, span = heapq.heappop(waiting)
        chosen[source, into, source_span, span] = True
        for reader in readers.get(source, ()):
            open_target(reader, source_span)
    return pruned(graph.keeping(chosen))


def pruned(graph: Graph) -> Graph:
    """Only the kept edges that lie on a way of kept edges from the input to the logits."""
    kept = graph.kept
    return graph.keeping(kept & _from_input(graph)[:, None, :, None] & _to_logits(graph)[None, :, None, :])


def _from_input(graph: Graph) -> Bool[np.ndarray, "source span"]:
    """Writers in spans that a way from the input leads to."""
    kept = graph.kept
    reached = np.zeros((kept.shape[0], kept.shape[-1]), dtype=bool)
    reached[0] = True
    for number, target in enumerate(targets(graph.shape)):
        fed = (kept[:, number] & reached[:, :, None]).any((0, 1))
        for writer in target.feeds:
            reached[writer] |= fed
    return reached


def _to_logits(graph: Graph) -> Bool[np.ndarray, "target span"]:
    """Targets in spans from which a way leads to the logits."""
    kept, read = graph.kept, targets(graph.shape)
    writes = np.zeros((kept.shape[0], kept.shape[-1]), dtype=bool)  # writers in spans from which a way leads on
    leads = np.zeros((kept.shape[1], kept.shape[-1]), dtype=bool)
    for number in reversed(range(len(read))):
        feeds = read[number].feeds
        leads[number] = writes[list(feeds)].any(0) if feeds else True
        writes |= (kept[:, number] & leads[number]).any(-1)
    return leads


def _check(graph: Graph, n: int) -> None:
    if not 0 <= n <= int(graph.real.sum()):
        raise PatchingError(f"A circuit has 0 to {int(graph.real.sum())} edges of this graph; got {n}.")
