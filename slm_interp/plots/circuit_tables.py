"""The two tables a circuit is drawn from, checked once: nodes of a name and span, edges between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from slm_interp.errors import PatchingError

KINDS = ("input", "head", "mlp", "logits")
SLOTS = ("q", "k", "v", "in")
MOST_EDGES = 20_000  # what a page can still hold


@dataclass(frozen=True)
class Node:
    """One component at one span; `score` is None where nothing was measured of it, `span` is "" where a circuit has no spans."""

    name: str
    kind: str
    layer: int
    head: int
    span: str
    score: float | None


@dataclass(frozen=True)
class Edge:
    """From node number `source` to node number `target`, into its `slot`."""

    source: int
    target: int
    slot: str
    score: float
    kept: bool


@dataclass(frozen=True)
class Tables:
    """Checked nodes and edges, the spans from left to right, and what is printed for each."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    spans: tuple[str, ...]
    labels: tuple[str, ...]


def checked(nodes: pd.DataFrame, edges: pd.DataFrame, spans: Sequence[str] | Mapping[str, str] | None) -> Tables:
    """The tables as nodes and edges that refer to each other by number.

    Raises:
        PatchingError: missing columns, unknown kinds or slots, two nodes of one name and span, edges between nodes that are not there, that do
            not go upward, or of a score that is no finite number; more edges than a page can hold; spans that are not all named.
    """
    _columns(nodes, ("name", "kind", "layer", "score"), "nodes")
    _columns(edges, ("source", "target", "score"), "edges")
    if len(edges) > MOST_EDGES:
        raise PatchingError(f"A picture holds at most {MOST_EDGES:,} edges; got {len(edges):,}. Give the strongest, or a pruned view.")
    made = tuple(_node(row) for row in nodes.to_dict("records"))
    place: dict[tuple[str, str], int] = {}
    for number, node in enumerate(made):
        if (node.name, node.span) in place:
            raise PatchingError(f"Nodes are one of each name and span; {_called(node.name, node.span)} is there twice.")
        place[node.name, node.span] = number
    joined = tuple(_edge(row, made, place) for row in edges.to_dict("records"))
    there = list(dict.fromkeys(node.span for node in made))
    order = there if spans is None else [str(one) for one in spans]
    absent = [one for one in there if one and one not in order]
    if absent or len(set(order)) != len(order):
        raise PatchingError(f"Spans name every span of the nodes once, from left to right; got {order}, and the nodes have {there}.")
    names = tuple([one for one in order if one] + [""] * ("" in there))
    return Tables(made, joined, names, tuple(str(spans.get(one, one)) if isinstance(spans, Mapping) else one for one in names))


def rank(node: Node) -> tuple[int, int]:
    """Where a node stands in the order of computation: edges go to a higher one."""
    if node.kind == "input":
        return (-1, 0)
    if node.kind == "logits":
        return (10**9, 0)
    return (node.layer, 2 if node.kind == "mlp" else 0 if key_value(node) else 1)


def key_value(node: Node) -> bool:
    """Whether this is a key-value head that several heads share, named as in `a3.kv0`: it stands below the heads of its layer."""
    return node.kind == "head" and ".kv" in node.name


def _columns(table: pd.DataFrame, wanted: Sequence[str], what: str) -> None:
    absent = [name for name in wanted if name not in table.columns]
    if absent:
        raise PatchingError(f"The table of {what} lacks {', '.join(absent)}; it has {', '.join(map(str, table.columns))}.")


def _text(value: Any) -> str:
    """A span as text; nothing for None and NaN."""
    return "" if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)) else str(value)


def _number(value: Any, what: str) -> int:
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise PatchingError(f"{what} is a whole number; got {value!r}.") from error


def _node(row: dict[str, Any]) -> Node:
    name, kind, score = str(row["name"]), str(row["kind"]), row["score"]
    if kind not in KINDS:
        raise PatchingError(f"A node is one of {', '.join(KINDS)}; {name!r} is {kind!r}.")
    layer = _number(row["layer"], f"The layer of {name!r}") if kind in ("head", "mlp") else -1
    head = _number(row.get("head"), f"The head of {name!r}") if kind == "head" else -1
    measured = None if score is None or score is pd.NA or np.isnan(score) else float(score)
    if measured is not None and not np.isfinite(measured):
        raise PatchingError(f"The score of {name!r} is a finite number, or missing; got {score!r}.")
    return Node(name, kind, layer, head, _text(row.get("span")), measured)


def _edge(row: dict[str, Any], nodes: Sequence[Node], place: dict[tuple[str, str], int]) -> Edge:
    ends = [_end(str(row[side]), _text(row.get(f"{side}_span")), nodes, place) for side in ("source", "target")]
    slot = _text(row.get("slot", "in")) or "in"
    what = f"The edge {_called(nodes[ends[0]].name, nodes[ends[0]].span)} -> {_called(nodes[ends[1]].name, nodes[ends[1]].span)}"
    if slot not in SLOTS:
        raise PatchingError(f"{what} goes into one of {', '.join(SLOTS)}; got {slot!r}.")
    if not np.isfinite(row["score"]):
        raise PatchingError(f"{what} has a score that is not a finite number: {row['score']!r}.")
    if rank(nodes[ends[0]]) >= rank(nodes[ends[1]]):
        raise PatchingError(f"{what} does not go upward. Edges lead from what is computed first to what reads it.")
    return Edge(ends[0], ends[1], slot, float(row["score"]), bool(row.get("kept", True)))


def _end(name: str, span: str, nodes: Sequence[Node], place: dict[tuple[str, str], int]) -> int:
    """The node an edge means: of this name and span, or the only one of this name where one of the two tells no span."""
    if (name, span) in place:
        return place[name, span]
    if span and (name, "") in place:
        return place[name, ""]
    same = [number for (one, _), number in place.items() if one == name]
    if not span and len(same) == 1:
        return same[0]
    raise PatchingError(f"An edge names {_called(name, span)}, which is no node. Nodes of that name: {[nodes[one].span for one in same]}.")


def _called(name: str, span: str) -> str:
    return f"{name!r} at {span!r}" if span else repr(name)
