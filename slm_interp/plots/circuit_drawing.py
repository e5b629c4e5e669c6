"""A circuit as SVG: the one drawing that the file, the picture and the interactive page share."""

from __future__ import annotations

from collections.abc import Collection
from html import escape

from slm_interp.plots.circuit_layout import NODE_H, NODE_W, Layout, path_of
from slm_interp.plots.circuit_tables import Node, Tables, key_value
from slm_interp.plots.theme import FONT, visible

THINNEST, WIDEST = 0.7, 6.0  # pixels; width is for the size of an effect, colour for its sign
COLOURS = {
    "page": "#ffffff", "panel": "#f5f7f9", "ink": "#1f2933", "soft": "#5b6875", "rule": "#d8dee4", "above": "#2166ac", "below": "#b2182b",
}  # fmt: skip
_STYLE = """
.circuit .paper { fill: %(paper)s; }
.circuit text { font: 11px %(font)s; fill: %(ink)s; }
.circuit .title { font-size: 15px; }
.circuit .note, .circuit .row-label, .circuit .row-kind { fill: %(soft)s; }
.circuit .column-label { font-size: 13px; font-weight: 600; }
.circuit .band { fill: %(panel)s; }
.circuit .column { stroke: %(rule)s; stroke-width: 1; stroke-dasharray: 2 4; }
.circuit .edge { fill: none; stroke-opacity: 0.62; stroke-linecap: round; }
.circuit .above { stroke: %(above)s; }
.circuit .below { stroke: %(below)s; }
.circuit .node .body { fill: %(page)s; stroke: %(soft)s; stroke-width: 1; }
.circuit .node .tint.above { fill: %(above)s; stroke: none; }
.circuit .node .tint.below { fill: %(below)s; stroke: none; }
.circuit .node.pale text, .circuit .node.pale .tint { opacity: 0.4; }
.circuit .node.pale .body { stroke-opacity: 0.4; }
.circuit .node text { text-anchor: middle; pointer-events: none; }
"""
# What prints an SVG need not know custom properties, so a file has plain colours and only a page has the reader's.
FILE_STYLE = _STYLE % {"font": FONT, "paper": COLOURS["page"], **COLOURS}
PAGE_STYLE = _STYLE % {"font": FONT, "paper": "none", **{name: f"var(--{name}, {colour})" for name, colour in COLOURS.items()}}


def width_of(score: float, strongest: float) -> float:
    """Pixels of an edge: by the size of its effect, whatever its sign."""
    return THINNEST + (WIDEST - THINNEST) * abs(score) / strongest if strongest else THINNEST


def sign_of(score: float) -> str:
    """`above` zero, or `below` it."""
    return "below" if score < 0 else "above"


def label_of(node: Node) -> str:
    """What stands in the box: `layer.head` (`layer.kv0` for a key-value head), `m` and the layer, or the kind."""
    head = f"{node.layer}.kv{node.head}" if key_value(node) else f"{node.layer}.{node.head}"
    return {"head": head, "mlp": f"m{node.layer}", "input": "embed"}.get(node.kind, node.kind)


def drawing(tables: Tables, places: Layout, shown: Collection[int], style: str, heading: tuple[str, str] = ("", "")) -> str:
    """The SVG element.

    Args:
        tables: nodes and edges.
        places: of `layout`.
        shown: numbers of the edges to draw; nodes none of them touches are pale.
        style: `FILE_STYLE`, or `PAGE_STYLE` for a page that brings its own colours.
        heading: title and a line below it, inside the picture.
    """
    head = (26 if heading[0] else 0) + (18 if heading[1] else 0)
    width = max(places.width, 7.6 * len(heading[0]) + 24, 6.2 * len(heading[1]) + 24)
    size = f'width="{width:.0f}" height="{places.height + head:.0f}" viewBox="0 {-head} {width:.0f} {places.height + head:.0f}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="circuit" role="img" aria-label="{escape(heading[0] or "circuit")}" {size}>',
        f"<style>{style}</style>",
        f'<rect class="paper" x="0" y="{-head}" width="100%" height="100%"/>',
    ]
    if heading[0]:
        parts.append(f'<text class="title" x="12" y="{18 - head}">{escape(heading[0])}</text>')
    if heading[1]:
        parts.append(f'<text class="note" x="12" y="-6">{escape(heading[1])}</text>')
    parts += _frame(places)
    parts.append('<g class="edges">')
    strongest = max((abs(edge.score) for edge in tables.edges), default=0.0)
    for number in sorted(shown, key=lambda one: (abs(tables.edges[one].score), one)):
        edge = tables.edges[number]
        parts.append(
            f'<path class="edge {sign_of(edge.score)}" data-edge="{number}" d="{path_of(edge, tables.nodes, places.places)}" '
            f'stroke-width="{width_of(edge.score, strongest):.2f}"/>'
        )
    parts.append('</g><g class="nodes">')
    touched = {end for number in shown for end in (tables.edges[number].source, tables.edges[number].target)}
    strongest = max((abs(node.score) for node in tables.nodes if node.score is not None), default=0.0)
    parts += [_node(number, node, places.places[number], strongest, number in touched) for number, node in enumerate(tables.nodes)]
    return "".join([*parts, "</g></svg>"])


def _frame(places: Layout) -> list[str]:
    """Bands of the layers with their names, columns of the spans with theirs."""
    parts, right = [], places.columns[-1].right + 12
    for number, row in enumerate(places.rows):
        if number % 2:
            parts.append(f'<rect class="band" x="0" y="{row.top:.1f}" width="{right:.1f}" height="{row.bottom - row.top:.1f}"/>')
        middle = (row.top + row.bottom) / 2
        parts.append(f'<text class="row-label" x="12" y="{middle + 4:.1f}">{escape(row.label)}</text>')
    lowest = places.rows[0].bottom
    for number, column in enumerate(places.columns):
        if number:
            x = (places.columns[number - 1].right + column.left) / 2
            parts.append(f'<line class="column" x1="{x:.1f}" x2="{x:.1f}" y1="{places.rows[-1].top:.1f}" y2="{lowest:.1f}"/>')
        middle = (column.left + column.right) / 2
        said = escape(visible(column.label))
        parts.append(f'<text class="column-label" x="{middle:.1f}" y="{places.height - 4:.1f}" text-anchor="middle">{said}</text>')
    parts.append(f'<text class="row-kind" x="12" y="{places.height - 4:.1f}">layer ↑</text>')
    return parts


def _node(number: int, node: Node, place: tuple[float, float], strongest: float, touched: bool) -> str:
    x, y = place[0] - NODE_W / 2, place[1] - NODE_H / 2
    box = f'x="{x:.1f}" y="{y:.1f}" width="{NODE_W}" height="{NODE_H}" rx="{4 if node.kind != "mlp" else 0}"'
    tint = ""
    if node.score is not None and strongest:
        tint = f'<rect class="tint {sign_of(node.score)}" {box} fill-opacity="{0.5 * abs(node.score) / strongest:.3f}"/>'
    said = escape(label_of(node))
    pale = "" if touched else " pale"
    return f'<g class="node{pale}" data-node="{number}"><rect class="body" {box}/>{tint}<text x="{place[0]:.1f}" y="{place[1] + 4:.1f}">{said}</text></g>'
