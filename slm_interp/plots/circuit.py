"""A circuit as a picture: layers upward, spans from left to right, width for the size of an effect and colour for its sign.

One SVG drawing serves three ends: the file, the picture made of it, and a page on which a slider sets the threshold, the pointer reads
numbers and a click on a node shows its own edges. The same tables give the same bytes.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go

from slm_interp.errors import PatchingError
from slm_interp.files import write_text
from slm_interp.plots.circuit_drawing import FILE_STYLE, PAGE_STYLE, drawing
from slm_interp.plots.circuit_layout import Layout, layout
from slm_interp.plots.circuit_tables import Tables, checked
from slm_interp.plots.document import document, framed
from slm_interp.plots.static import write_png

OPENING = 200  # edges; more at once cannot be told apart
LEAD = (
    "Layers run upward, spans from left to right. A box is a component at a span, tinted by its own score: layer.head, m for an MLP, kv for keys "
    "and values that heads above them share. An edge is as wide as its effect is large; blue raises the outcome, red lowers it. Into a head, "
    "edges enter at the left for its query, in the middle for its key and at the right for its value."
)
HINT = "Point at an edge or a node to read its numbers; click a node to see all of its edges, and again to let it go."
_PAGE_STYLE = """
.circuit .node { cursor: pointer; }
.circuit .node:focus-visible { outline: none; }
.circuit .node.chosen .body, .circuit .node:focus-visible .body { stroke: var(--accent); stroke-width: 2.5; }
.circuit .edge.hot { stroke-opacity: 1; filter: brightness(1.25); }
.circuit svg, svg.circuit { display: block; flex: none; }
:root { --above: #2166ac; --below: #b2182b; }
@media screen and (prefers-color-scheme: dark) { :root { --above: #6fb1ea; --below: #f08a78; } }
body.picture .readout { max-height: 16em; overflow-y: auto; }
"""


@dataclass(frozen=True, eq=False)
class CircuitPicture:
    """A circuit that can be looked at in a notebook, and written as a page, as SVG and as PNG.

    Args:
        tables: nodes and edges, checked.
        places: where the nodes stand.
        shown: how many of the strongest kept edges the page opens with and the files draw.
        title: heading.
    """

    tables: Tables
    places: Layout
    shown: int
    title: str

    def page(self, path: str | os.PathLike[str]) -> Path:
        """Write the interactive page, one file that asks nothing of a network."""
        write_text(path, self.html())
        return Path(path)

    def svg(self, path: str | os.PathLike[str]) -> Path:
        """Write the drawing; needs nothing but this package."""
        write_text(path, self.drawn())
        return Path(path)

    def png(self, path: str | os.PathLike[str], scale: float = 2.0) -> Path:
        """Write the drawing as a picture. Errors as in `plots.write_png`, which makes it."""
        drawn = self.drawn()
        width, height = (float(drawn.split(f'{side}="', 2)[1].split('"', 1)[0]) for side in ("width", "height"))
        source = "data:image/svg+xml;base64," + base64.b64encode(drawn.encode()).decode()
        place = {"xref": "paper", "yref": "paper", "x": 0, "y": 1, "sizex": 1, "sizey": 1, "sizing": "stretch"}
        figure = go.Figure(layout={"width": width, "height": height, "margin": dict.fromkeys("lrtb", 0), "template": "none"})
        figure.add_layout_image(source=source, **place)
        figure.update_xaxes(visible=False).update_yaxes(visible=False)
        return write_png(figure, path, scale)

    def drawn(self) -> str:
        """The SVG with its title and what of the circuit it draws."""
        return drawing(self.tables, self.places, self._strongest()[: self.shown], FILE_STYLE, (self.title, self._note()))

    def html(self) -> str:
        """The interactive page."""
        inside = drawing(self.tables, self.places, range(len(self.tables.edges)), PAGE_STYLE)
        nodes = [asdict(node) for node in self.tables.nodes]
        edges = [asdict(edge) for edge in self.tables.edges]
        labels = dict(zip(self.tables.spans, self.tables.labels, strict=True))
        data = json.dumps({"nodes": nodes, "edges": edges, "labels": labels, "start": self.shown}, allow_nan=False, separators=(",", ":"))
        kept = len(self._strongest())
        rest = "" if kept == len(edges) else '<label><input type="checkbox" id="rest"> also edges that were not kept</label>'
        bar = (
            f'<div class="bar"><label>edges <input type="range" id="strength" min="0" max="{kept}" step="1" value="{self.shown}" '
            f'aria-label="How many of the strongest edges are drawn"></label><output id="strength-said" for="strength"></output>{rest}</div>'
        )
        body = f'{bar}<div class="strip">{inside}</div><div class="readout empty" aria-live="polite">{HINT}</div><div class="tip" hidden></div>'
        return document(self.title, LEAD, body, "circuit.js", data, _PAGE_STYLE)

    def _repr_html_(self) -> str:
        return framed(self.html(), int(self.places.height) + 330)

    def __repr__(self) -> str:
        return f"CircuitPicture({len(self.tables.nodes)} nodes, {self._note()})"

    def _strongest(self) -> list[int]:
        """Numbers of the kept edges, the strongest first."""
        kept = [number for number, edge in enumerate(self.tables.edges) if edge.kept]
        return sorted(kept, key=lambda number: (-abs(self.tables.edges[number].score), number))

    def _note(self) -> str:
        order, every = self._strongest(), len(self.tables.edges)
        unkept = f"; {every - len(order):,} not kept" if every > len(order) else ""
        if self.shown == len(order):
            return f"{len(order):,} edges{unkept}"
        least = abs(self.tables.edges[order[self.shown - 1]].score) if self.shown else float("inf")
        return f"the {self.shown:,} strongest of {len(order):,} edges (|effect| ≥ {least:.4g}){unkept}"


def circuit(
    nodes: pd.DataFrame,
    edges: pd.DataFrame,
    title: str = "Circuit",
    spans: Sequence[str] | Mapping[str, str] | None = None,
    threshold: float | None = None,
) -> CircuitPicture:
    """A picture of a circuit.

    Args:
        nodes: one row each: `name`, `kind` (input, head, mlp, logits), `layer`, `head`, `span`, `score`; `span` may be missing where a circuit has none.
        edges: one row each: `source`, `target`, `slot` (q, k, v, in), `source_span`, `target_span`, `score`, `kept`.
        title: heading.
        spans: names from left to right, or names with the words to print for them; None takes them as they come in the nodes.
        threshold: smallest size of an effect to open with; None opens with all kept edges, or the 200 strongest of more.

    Raises:
        PatchingError: tables that do not fit together (see `circuit_tables.checked`), no nodes, or a threshold that is no size.
    """
    if not len(nodes):
        raise PatchingError("A circuit has nodes; got none. Keep more edges, or look at the heat map instead.")
    if threshold is not None and not threshold >= 0:
        raise PatchingError(f"A threshold is a size of an effect, 0 or more; got {threshold!r}.")
    tables = checked(nodes, edges, spans)
    sizes = [abs(edge.score) for edge in tables.edges if edge.kept]
    shown = min(len(sizes), OPENING) if threshold is None else sum(size >= threshold for size in sizes)
    return CircuitPicture(tables, layout(tables), shown, title)
