"""Where the nodes of a circuit stand: layers upward, spans from left to right, the heads of a layer beside each other.

1. A row for the inputs, for each layer with nodes one for its key-value heads, one for its heads and one for its MLP, and one for the logits; from below.
2. A column for each span, as wide as its fullest cell; more than `ABREAST` nodes of one cell go on above, in a second line of the row.
3. An edge leaves the middle of its source's upper side and enters the lower side of its target: q left, k in the middle, v right.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from slm_interp.plots.circuit_tables import Edge, Node, Tables, rank

NODE_W, NODE_H = 42, 20
BESIDE, LINE = 6, 5  # pixels between nodes of a cell: beside, and above each other
COLUMN_GAP = 34
ABREAST = 8
LEFT, RIGHT, TOP, FOOT = 64, 24, 14, 34
NARROWEST_COLUMN = 84
LETTER = 7.2  # pixels of a letter in the names of the spans
SLOT_AT = {"q": -0.3, "k": 0.0, "v": 0.3, "in": 0.0}


@dataclass(frozen=True)
class Row:
    """A stretch of the picture from `top` down to `bottom`."""

    label: str
    top: float
    bottom: float


@dataclass(frozen=True)
class Column:
    """A span from `left` to `right`; the label is what is printed."""

    name: str
    label: str
    left: float
    right: float


@dataclass(frozen=True)
class Layout:
    """Middles of the nodes, one row for each layer (its heads and MLP together), columns, and the size, in pixels from the upper left."""

    places: tuple[tuple[float, float], ...]
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    width: float
    height: float


def layout(tables: Tables) -> Layout:
    """Places for all nodes; the same tables give the same places."""
    cells: dict[tuple[tuple[int, int], str], list[int]] = defaultdict(list)
    for number, node in enumerate(tables.nodes):
        cells[rank(node), node.span].append(number)
    for members in cells.values():
        members.sort(key=lambda number: (tables.nodes[number].head, tables.nodes[number].name))
    columns = _columns(cells, tables)
    bands = sorted({band for band, _ in cells})
    lines = {band: max(-(-len(members) // ABREAST) for (own, _), members in cells.items() if own == band) for band in bands}
    gap = 40 if len(bands) <= 14 else 26
    height = float(TOP + FOOT) + sum(lines[band] * (NODE_H + LINE) - LINE for band in bands) + gap * (len(bands) - 1)
    places: dict[int, tuple[float, float]] = {}
    edges: dict[int, list[float]] = {}
    floor = height - FOOT
    for band in bands:
        tall = lines[band] * (NODE_H + LINE) - LINE
        for column in columns:
            for index, number in enumerate(cells.get((band, column.name), [])):
                line, along = divmod(index, ABREAST)
                abreast = min(ABREAST, len(cells[band, column.name]) - line * ABREAST)
                x = (column.left + column.right) / 2 + (along - (abreast - 1) / 2) * (NODE_W + BESIDE)
                places[number] = (x, floor - NODE_H / 2 - line * (NODE_H + LINE))
        edges.setdefault(band[0], [floor - tall, floor])[0] = floor - tall
        floor -= tall + gap
    rows = tuple(Row(_row_label(layer), top - gap / 2 + 2, bottom + gap / 2 - 2) for layer, (top, bottom) in edges.items())
    return Layout(tuple(places[number] for number in range(len(tables.nodes))), rows, columns, columns[-1].right + RIGHT, height)


def _columns(cells: dict[tuple[tuple[int, int], str], list[int]], tables: Tables) -> tuple[Column, ...]:
    found, left = [], float(LEFT)
    for span, label in zip(tables.spans, tables.labels, strict=True):
        most = min(ABREAST, max((len(members) for (_, own), members in cells.items() if own == span), default=1))
        width = max(NARROWEST_COLUMN, most * (NODE_W + BESIDE) - BESIDE + 12, LETTER * len(label) + 8)
        found.append(Column(span, label, left, left + width))
        left += width + COLUMN_GAP
    return tuple(found)


def _row_label(layer: int) -> str:
    return {-1: "input", 10**9: "logits"}.get(layer, str(layer))


def path_of(edge: Edge, nodes: Sequence[Node], places: Sequence[tuple[float, float]]) -> str:
    """The curve of an edge as SVG; between nodes above each other it bows out, so that it can be seen beside what stands between them."""
    (sx, sy), (tx, ty) = places[edge.source], places[edge.target]
    sy, ty = sy - NODE_H / 2, ty + NODE_H / 2
    tx += SLOT_AT[edge.slot] * NODE_W
    reach = max(14.0, 0.42 * (sy - ty))
    bow = 0.0
    if abs(sx - tx) < NODE_W and sy - ty > 60:
        bow = min(16 + 0.12 * (sy - ty), 60) * (1 if (edge.source + edge.target) % 2 else -1)
    return f"M{sx:.1f} {sy:.1f}C{sx + bow:.1f} {sy - reach:.1f} {tx + bow:.1f} {ty + reach:.1f} {tx:.1f} {ty:.1f}"
