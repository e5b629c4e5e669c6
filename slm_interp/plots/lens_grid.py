"""A lens reading as a grid: layers upward, positions (or seconds) to the right, one token a cell.

Columns are keyed by their position, never by their label: speech units repeat constantly, and an axis
of names would merge them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from slm_interp.errors import ReadoutError
from slm_interp.plots.hover import hover
from slm_interp.plots.menus import cells, colour_menu, token_menu
from slm_interp.plots.quantities import colour_bar, opening_quantity, quantity
from slm_interp.plots.theme import BOUNDARY, WORD_COLOUR, dressed, markup, unit, visible

COLUMN_PX = 44  # room for a six-letter token at a size one can read
WIDE_LIMIT = 160  # positions; beyond this the grid fits the page, and cell text appears when zoomed in
FIT_PX = 700  # a page gives a fitted figure at least this much
TITLE_PX, MENU_PX = 36, 36
LEFT_PX, RIGHT_PX, FOOT_PX = 130, 24, 56


@dataclass(frozen=True)
class WordRun:
    """Neighbouring columns `start` up to `stop` that carry one word."""

    text: str
    start: int
    stop: int


def word_runs(dataset: xr.Dataset) -> list[WordRun]:
    """The words of a reading, from `word_index`: the same word said twice is two runs."""
    index, text = dataset["word_index"].values, dataset["word"].values
    edges = [0, *(np.flatnonzero(np.diff(index)) + 1).tolist(), len(index)]
    return [WordRun(str(text[start]), start, stop) for start, stop in pairwise(edges) if stop > start and index[start] >= 0]


def lens_grid(dataset: xr.Dataset, colour: str | None = None, shown: str = "any", target: int = 0, title: str | None = None) -> go.Figure:
    """Layer x position: cell text is the best token, colour a chosen quantity, words above.

    Up to 160 positions every column has room for its token and the figure grows sideways; longer readings
    fit the page and carry their tokens in the hover (and, on a page of this package, in the cells once zoomed in).

    Args:
        dataset: `Reading.dataset`: dims `layer pos k modality target`.
        colour: what the figure opens with: `text_mass`, `speech_mass`, `top_probability`, `entropy` or `rank`; a menu switches. None is
            `text_mass`, or `top_probability` of a model without text.
        shown: whose best token the cells print: `any`, or a modality such as `text`; a menu switches.
        target: which target `rank` is about.
        title: replaces the lens and utterance names.

    Raises:
        ReadoutError: an unknown colour or modality, or a target that was not ranked.
    """
    n = dataset.sizes["pos"]
    wide = n <= WIDE_LIMIT
    figure = _grid(dataset, np.arange(n), colour or opening_quantity(dataset), shown, target, title, wide)
    _mark_words(figure, dataset, np.arange(n + 1) - 0.5, float(COLUMN_PX) if wide else FIT_PX / n)
    labels = [unit(visible(str(label))) for label in dataset["label"].values]
    every = 1 if wide else max(1, round(n / 32))
    places = list(range(0, n, every))
    figure.update_xaxes(
        tickmode="array",
        tickvals=places,
        ticktext=[markup(f"{labels[place]} · {place}") if wide else str(place) for place in places],
        tickangle=-90 if wide else 0,
        range=[-0.5, n - 0.5],
    )
    figure.layout.meta["slm"] |= {"axis": "position", "columns": list(range(n)), **_seconds(dataset)}
    foot = 26 + (7 * max(len(label) + len(str(n)) + 2 for label in labels) if wide else 12)
    _axis_note(figure, "input token · position" if wide else "position", foot)
    return _sized(figure, dataset, foot=foot, width=LEFT_PX + RIGHT_PX + COLUMN_PX * n if wide else None)


def lens_grid_over_time(
    dataset: xr.Dataset, colour: str | None = None, shown: str = "any", target: int = 0, title: str | None = None
) -> go.Figure:
    """The same grid over seconds: a column is as wide as it sounds. Positions that take no time are not drawn.

    Args and errors as in `lens_grid`; also refuses a reading in which no position takes time.
    """
    start, end = dataset["start_s"].values, dataset["end_s"].values
    heard = np.flatnonzero(end > start)
    if not len(heard):
        raise ReadoutError("No position of this reading takes time, so there is no time axis. Use lens_grid for text.")
    data = dataset.isel(pos=heard)
    edges = np.concatenate([start[heard], end[heard[-1:]]])
    figure = _grid(data, edges, colour or opening_quantity(dataset), shown, target, title, False)
    _mark_words(figure, data, edges, FIT_PX / len(heard))
    figure.update_xaxes(range=[float(edges[0]), float(edges[-1])])
    _axis_note(figure, "seconds (positions that take no time are not drawn)", 38)
    figure.layout.meta["slm"] |= {"axis": "seconds", "columns": heard.tolist(), **_seconds(dataset)}
    return _sized(figure, data, foot=38, width=None)


def _grid(dataset: xr.Dataset, x: np.ndarray, colour: str, shown: str, target: int, title: str | None, readable: bool) -> go.Figure:
    """The heat map with its hover, its menus and its layer axis."""
    choice = quantity(colour)
    tokens = ["any", *(str(name) for name in dataset["modality"].values)]
    if shown not in tokens:
        raise ReadoutError(f"Cells show the best token of {', '.join(tokens)}; got {shown!r}.")
    customdata, template = hover(dataset)
    figure = go.Figure(
        go.Heatmap(
            x=x,
            z=np.round(choice.values(dataset, target), 4),
            text=cells(dataset, shown),
            texttemplate="%{text}" if readable else None,
            customdata=customdata,
            hovertemplate=template,
            xgap=1 if readable else 0,
            ygap=1,
            name="lens",
            **colour_bar(dataset, colour, target),
        )
    )
    labels = [str(label) for label in dataset["layer_label"].values]
    labels[-1] += " = output" if int(dataset["layer"].values[-1]) == int(dataset.attrs["n_layers"]) else ""
    figure.update_yaxes(
        tickmode="array",
        tickvals=list(range(len(labels))),
        ticktext=[markup(label) for label in labels],
        range=[-0.5, len(labels) + 0.05],
        title={"text": "layer (top = model output)" if "output" in labels[-1] else "layer (upward)", "standoff": 4},
    )
    figure.update_xaxes(showgrid=False, zeroline=False, ticks="")
    figure.update_yaxes(showgrid=False, zeroline=False, ticks="")
    figure.layout.updatemenus = [colour_menu(dataset, colour, target), token_menu(dataset, tokens, shown)]
    lens = str(dataset.attrs.get("lens", "")) or "a"
    site = str(dataset.attrs.get("site", "resid_post"))
    name = str(dataset.attrs.get("utterance", ""))
    meta = {"role": "grid", "head_px": TITLE_PX + MENU_PX}
    return dressed(
        figure,
        title=title
        if title is not None
        else f"{lens.capitalize()} lens" + ("" if site == "resid_post" else f" of {site}") + (f" · {name}" if name else ""),
        height=400,
        meta=meta,
    )


def _seconds(dataset: xr.Dataset) -> dict[str, list[float]]:
    """When every position of the whole reading starts and ends, for a page that plays it."""
    return {name: np.round(dataset[name].values.astype(np.float64), 4).tolist() for name in ("start_s", "end_s")}


def _mark_words(figure: go.Figure, dataset: xr.Dataset, edges: np.ndarray, column_px: float) -> None:
    """A bar over each word with its text above, and a line at each boundary."""
    top = dataset.sizes["layer"] - 0.5
    bars_x: list[float | None] = []
    lines_x: list[float | None] = []
    words, notes = [], []
    for run in word_runs(dataset):
        left, right = float(edges[run.start]), float(edges[run.stop])
        inset = 0.04 * (right - left)
        bars_x += [left + inset, right - inset, None]
        lines_x += [left, left, None, right, right, None]
        words.append({"text": run.text, "start": run.start, "stop": run.stop, "x0": left, "x1": right})
        level = column_px * (run.stop - run.start) >= 7 * len(run.text)
        note = {"x": (left + right) / 2, "y": top + 0.5, "text": markup(run.text), "textangle": 0 if level else -90, "name": "word"}
        notes.append(note | {"showarrow": False, "yanchor": "bottom", "xanchor": "center", "captureevents": True, "font": {"size": 12}})
    figure.layout.annotations = notes
    if words:
        lines_y = [-0.5, top + 0.42, None] * (2 * len(words))
        figure.add_scatter(
            x=lines_x,
            y=lines_y,
            mode="lines",
            line={"color": BOUNDARY, "width": 1.5 if column_px >= 20 else 0.7},
            hoverinfo="skip",
            showlegend=False,
            name="word boundaries",
        )
        bars_y = [top + 0.3, top + 0.3, None] * len(words)
        figure.add_scatter(
            x=bars_x, y=bars_y, mode="lines", line={"color": WORD_COLOUR, "width": 4}, hoverinfo="skip", showlegend=False, name="words"
        )
    figure.layout.meta["slm"] |= {"words": words}


def _axis_note(figure: go.Figure, text: str, foot: int) -> None:
    """The name of the x axis at its left end: in a wide grid the middle is far out of sight."""
    figure.add_annotation(
        x=0,
        y=0,
        xref="paper",
        yref="paper",
        xanchor="left",
        yanchor="top",
        yshift=20 - foot,
        text=text,
        showarrow=False,
        name="axis",
        font={"size": 12},
    )


def _sized(figure: go.Figure, dataset: xr.Dataset, *, foot: int, width: int | None) -> go.Figure:
    """Heights and margins in pixels: rows one can read, words, menus and the colour bar each with their own strip."""
    layers = dataset.sizes["layer"]
    row = 28 if layers <= 16 else 22
    upright = any(note.textangle for note in figure.layout.annotations)
    words = 8 + (7 * max(len(run.text) for run in word_runs(dataset)) if upright else 18)
    plot = row * layers + 16
    margin = {"l": LEFT_PX, "r": RIGHT_PX, "t": TITLE_PX + MENU_PX + words, "b": foot + FOOT_PX + 16, "pad": 0}
    for menu, x_px in zip(figure.layout.updatemenus, (0, 230), strict=True):
        menu.y = 1 + (words + 6) / plot
        menu.x = x_px / max((width or 1200) - LEFT_PX - RIGHT_PX, 1)
    figure.update_layout(
        height=plot + margin["t"] + margin["b"],
        width=width,
        margin=margin,
        title={"yref": "container", "y": 1, "yanchor": "top", "pad": {"t": 10}},
    )
    figure.update_layout(dragmode="zoom" if width is None else False, hovermode="closest", showlegend=False)
    return figure
