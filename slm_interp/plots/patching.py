"""A sweep as heat maps: layers upward, spans or heads to the right, red below zero and blue above it.

1. Every contrast is scored by itself: `recovered` is (patched - corrupted) / (clean - corrupted), `effect` is the patched outcome less that of
   the run that was patched into; any other variable of the dataset is taken as it is.
2. Contrasts are averaged cell by cell. Spans that a contrast lacks do not count there; for `recovered`, neither do contrasts that the model
   does not tell apart. Both numbers are printed.
3. One panel for each site; with heads, one for each site and span. All panels share one scale, which is the same on both sides of zero.

Columns are keyed by their number, never by their word: the same word twice is two columns.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from jaxtyping import Float
from plotly.subplots import make_subplots

from slm_interp.errors import PatchingError
from slm_interp.plots.theme import dressed, markup, visible

SCALE = "RdBu"  # red, white, blue
WIDEST_PX = 1180  # panels that do not fit beside each other go below
LEFT_PX, RIGHT_PX, GAP_PX, TITLE_PX, PANEL_TITLE_PX = 118, 104, 26, 36, 26
NARROWEST_PX = 620
TITLES = {"recovered": "recovered fraction", "effect": "effect", "outcome": "patched outcome"}
WORDS_IN_HOVER = 6


@dataclass(frozen=True, eq=False)
class _Panel:
    """One heat map: mean and number of contrasts of every cell, and what each column is."""

    title: str
    mean: Float[np.ndarray, "layer column"]
    count: Float[np.ndarray, "layer column"]
    ticks: list[str]
    said: list[str]


def heat_map(dataset: xr.Dataset, value: str = "recovered", contrast: Hashable | None = None, title: str | None = None) -> go.Figure:
    """Layer x span, or with heads head x layer for every span; several sites beside each other.

    Args:
        dataset: of a sweep: `outcome[contrast, layer, span]`, or also by `site` (first) and `head_index` (last), with `clean[contrast]` and
            `corrupted[contrast]`; `label[contrast, span]` the words; `told_apart[contrast]` where the sweep flagged small ceilings (otherwise
            only equal baselines count as not told apart); attrs `site`, `direction`, `policy`, `outcome`, `unit`.
        value: `recovered`, `effect`, or any variable by layer.
        contrast: one of the dataset's contrasts, of which only the spans it has are shown; None averages over all.
        title: replaces the default.

    Raises:
        PatchingError: another value, a contrast that is not there, missing dimensions, or contrasts none of which are told apart.
    """
    data = _checked(dataset, value, contrast)
    scores = _scores(data, value)
    if contrast is not None:
        has = np.flatnonzero(scores.notnull().any([one for one in scores.dims if one != "span"]).values)
        data, scores = (data.isel(span=has), scores.isel(span=has)) if len(has) else (data, scores)
    panels = _panels(data, scores)
    shape = [len(panels[0].ticks), data.sizes["layer"]]
    cell = _cell(shape[0], "head_index" in scores.dims)
    panel_px = shape[0] * cell
    across = max(1, min(len(panels), (WIDEST_PX + GAP_PX) // (panel_px + GAP_PX)))
    down = -(-len(panels) // across)
    plot_px = across * panel_px + (across - 1) * GAP_PX
    row_px = 24 if shape[1] <= 16 else 16
    foot_px = _foot(panels, cell, "head_index" in scores.dims)
    between_px = foot_px + PANEL_TITLE_PX + 14
    height_px = down * row_px * shape[1] + (down - 1) * between_px
    figure = make_subplots(
        down,
        across,
        subplot_titles=[markup(panel.title) for panel in panels],
        horizontal_spacing=GAP_PX / plot_px if across > 1 else 0,
        vertical_spacing=between_px / height_px if down > 1 else 0,
    )
    layers = _layer_labels(data)
    for number, panel in enumerate(panels):
        place = {"row": number // across + 1, "col": number % across + 1}
        for trace in _traces(panel, layers, TITLES.get(value, value), contrast is None):
            figure.add_trace(trace, **place)
        _axes(figure, panel, layers, place, cell, "head" if "head_index" in scores.dims else "")
    width = max(NARROWEST_PX, LEFT_PX + plot_px + RIGHT_PX)
    note = [markup(line) for line in wrap(_note(data, value), int((width - 30) / 6.4))]
    top = TITLE_PX + 16 * len(note) + (PANEL_TITLE_PX if any(panel.title for panel in panels) else 8)
    for mark in figure.layout.annotations:
        mark.update(font={"size": 13}, yshift=2)
    figure.add_annotation(
        x=0, y=1, xref="paper", yref="paper", xanchor="left", yanchor="bottom", xshift=12 - LEFT_PX,
        yshift=top - TITLE_PX - 16 * len(note), align="left",
        text="<br>".join(note), showarrow=False, name="note", font={"size": 12},
    )  # fmt: skip
    _colour(figure, panels, value, data)
    dressed(figure, title=title if title is not None else _title(data, value), height=height_px + top + foot_px, meta=_meta(panels))
    margin = {"l": LEFT_PX, "r": width - LEFT_PX - plot_px, "t": top, "b": foot_px, "pad": 0}
    figure.update_layout(title={"yref": "container", "y": 1, "yanchor": "top", "pad": {"t": 10}, "xref": "container", "x": 12 / width})
    return figure.update_layout(width=width, margin=margin, dragmode=False, showlegend=False)


# ---- numbers


def _checked(dataset: xr.Dataset, value: str, contrast: Hashable | None) -> xr.Dataset:
    computed = ["recovered", "effect"] if {"outcome", "clean", "corrupted"} <= set(dataset.variables) else []
    given = [str(name) for name, one in dataset.data_vars.items() if {"contrast", "layer"} <= set(one.dims)]
    if value not in (*computed, *given):
        raise PatchingError(f"A heat map shows one of {', '.join(dict.fromkeys([*computed, *given])) or 'nothing here'}; got {value!r}.")
    dims = set(dataset[value if value in given else "outcome"].dims)
    if not {"contrast", "layer", "span"} <= dims or dims - {"site", "contrast", "layer", "span", "head_index"}:
        raise PatchingError(
            f"A heat map takes contrast x layer x span, by site and head_index where there are any; got {sorted(map(str, dims))}."
        )
    if contrast is not None:
        there = dataset["contrast"].values.tolist()
        if contrast not in there:
            raise PatchingError(f"No contrast {contrast!r}; there are {there[:8]}{' ...' if len(there) > 8 else ''}.")
        dataset = dataset.isel(contrast=[there.index(contrast)])
    return dataset.sortby("layer")


def told_apart(dataset: xr.Dataset) -> xr.DataArray:
    """Which contrasts have a ceiling `clean - corrupted` to divide by: the sweep's own flag, or a ceiling that is not zero."""
    if "told_apart" in dataset.variables:
        return dataset["told_apart"].astype(bool)
    return dataset["clean"] != dataset["corrupted"]


def _scores(data: xr.Dataset, value: str) -> xr.DataArray:
    """The value of every contrast and cell, dims in the order of the picture; NaN where it does not count."""
    if value in data.data_vars:
        found = data[value]
    elif value == "recovered":
        apart = told_apart(data)
        if not bool(apart.any()):
            ceilings = (data["clean"] - data["corrupted"]).values.ravel()[:5].tolist()
            raise PatchingError(
                f"None of these {data.sizes['contrast']} contrasts is told apart (clean less corrupted: {ceilings}), so nothing can be recovered. "
                "Look at value='effect'."
            )
        ceiling = (data["clean"] - data["corrupted"]).where(apart)
        found = (data["outcome"] - data["corrupted"]) / ceiling
    else:
        base = {"denoising": "corrupted", "noising": "clean"}.get(str(data.attrs.get("direction")))
        if base is None:
            raise PatchingError(
                f"An effect is from the run patched into, which attrs['direction'] names; got {data.attrs.get('direction')!r}."
            )
        found = data["outcome"] - data[base]
    broken = int(np.isinf(found.values).sum())
    if broken:
        raise PatchingError(f"{broken} of {found.size} values of {value!r} are infinite. Measure again, or leave those contrasts out.")
    return found.transpose(*(one for one in ("site", "contrast", "layer", "span", "head_index") if one in found.dims)).astype(np.float64)


def _panels(data: xr.Dataset, scores: xr.DataArray) -> list[_Panel]:
    counted = scores.notnull()
    count = counted.sum("contrast")
    mean = scores.fillna(0.0).sum("contrast") / count.where(count > 0)
    names, words = _words(data)
    sites = [str(site) for site in data["site"].values] if "site" in scores.dims else [""]
    found = []
    for place, site in enumerate(sites):
        cells, counts = (one.isel(site=place) if site else one for one in (mean, count))
        if "head_index" not in scores.dims:
            found.append(_Panel(site, cells.values, counts.values.astype(np.float64), names, words))
            continue
        heads = [str(head) for head in data["head_index"].values]
        for span, (name, said) in enumerate(zip(names, words, strict=True)):
            heading = " · ".join(one for one in (site, name) if one)
            grid, number = cells.isel(span=span).values, counts.isel(span=span).values.astype(np.float64)
            found.append(_Panel(heading, grid, number, heads, [f"{said} · head {head}" for head in heads]))
    return found


def _words(data: xr.Dataset) -> tuple[list[str], list[str]]:
    """What stands under each span, and what its hover says: the word, or the span's name where contrasts have different words."""
    names = [str(name) for name in data["span"].values] if "span" in data.coords else [str(n) for n in range(data.sizes["span"])]
    if "label" not in data.variables:
        return names, names
    shown, said = [], []
    labels = data["label"].transpose("contrast", "span").values
    for column, name in enumerate(names):
        words = list(dict.fromkeys(visible(str(one)) for one in labels[:, column] if one is not None and str(one) not in ("", "nan")))
        shown.append(words[0] if len(words) == 1 else name)
        listed = ", ".join(words[:WORDS_IN_HOVER]) + (f" and {len(words) - WORDS_IN_HOVER} more" if len(words) > WORDS_IN_HOVER else "")
        said.append(f"{name}: {listed}" if listed and listed != name else name)
    return shown, said


# ---- words


def _layer_labels(data: xr.Dataset) -> list[str]:
    source = "layer_label" if "layer_label" in data.variables else "layer"
    return [str(label) for label in data[source].values]


def _title(data: xr.Dataset, value: str) -> str:
    site = "" if "site" in data.dims else str(data.attrs.get("site", ""))
    ahead = ", ".join(one for one in (site, str(data.attrs.get("direction", ""))) if one)
    what = f"{ahead}: {TITLES.get(value, value)}" if ahead else TITLES.get(value, value)
    number = data.sizes["contrast"]
    which = f"contrast {data['contrast'].values[0]}" if number == 1 and "contrast" in data.coords else f"{number} contrasts"
    if not {"clean", "corrupted"} <= set(data.variables):
        return f"{what} · {which}"
    apart = int(told_apart(data).sum())
    return f"{what} · {which}, {apart if number > 1 else ('not ' if not apart else '')}{' ' if number > 1 else ''}told apart"


def _note(data: xr.Dataset, value: str) -> str:
    """What was averaged, the two baselines, and what was measured how."""
    parts, several = [], data.sizes["contrast"] > 1
    if several:
        parts.append("mean over those told apart" if value == "recovered" else "mean over all")
    outcome = str(data.attrs.get("outcome", "")) or "outcome"
    if {"clean", "corrupted"} <= set(data.variables):
        clean, corrupted = (float(data[side].mean()) for side in ("clean", "corrupted"))
        outcome += f": clean {clean:.4g}, corrupted {corrupted:.4g}" + (" on average" if several else "")
    parts.append(outcome)
    if str(data.attrs.get("policy", "")):
        parts.append(f"policy: {data.attrs['policy']}")
    return " · ".join(parts)


def _meta(panels: list[_Panel]) -> dict[str, Any]:
    return {"role": "heat", "head_px": TITLE_PX, "columns": list(range(len(panels[0].ticks)))}


# ---- drawing


def _cell(columns: int, heads: bool) -> int:
    """Width of a column in pixels."""
    most = 26 if heads else 52
    return max(8, min(most, WIDEST_PX // columns))


def _foot(panels: list[_Panel], cell: int, heads: bool) -> int:
    longest = max(len(tick) for panel in panels for tick in panel.ticks)
    return (30 if heads else 14) + (int(6.6 * longest) if _upright(panels[0].ticks, cell) else 12)


def _upright(ticks: list[str], cell: int) -> bool:
    return any(7 * len(tick) > cell - 4 for tick in ticks)


def _traces(panel: _Panel, layers: list[str], name: str, averaged: bool) -> list[go.Heatmap]:
    """The heat map, and below it grey where no contrast has the cell."""
    hovers = np.empty((*panel.mean.shape, 3), dtype=object)
    hovers[..., 0] = np.array([markup(one) for one in panel.said], dtype=object)[None, :]
    hovers[..., 1] = np.array([markup(one) for one in layers], dtype=object)[:, None]
    hovers[..., 2] = panel.count.astype(int)
    number = "<br>mean of %{customdata[2]} contrasts" if averaged else ""
    shared = {"x": np.arange(len(panel.ticks)), "y": np.arange(len(layers)), "customdata": hovers, "xgap": 1, "ygap": 1}
    place = "<b>%{customdata[0]}</b><br>layer %{customdata[1]}<br>"
    shown = go.Heatmap(
        z=panel.mean, coloraxis="coloraxis", name=panel.title or name,
        hovertemplate=f"{place}{markup(name)} %{{z:.4g}}{number}<extra>{markup(panel.title)}</extra>", **shared,
    )  # fmt: skip
    empty = np.isnan(panel.mean)
    if not empty.any():
        return [shown]
    grey = [[0.0, "rgba(128,128,128,0.28)"], [1.0, "rgba(128,128,128,0.28)"]]
    lacking = go.Heatmap(
        z=np.where(empty, 1.0, np.nan), colorscale=grey, showscale=False, name="lacking",
        hovertemplate=f"{place}no contrast that counts has this cell<extra></extra>", **shared,
    )  # fmt: skip
    return [shown, lacking]


def _axes(figure: go.Figure, panel: _Panel, layers: list[str], place: dict[str, int], cell: int, title: str) -> None:
    columns, bare = len(panel.ticks), {"showgrid": False, "zeroline": False, "ticks": "", "showline": False}
    every = max(1, -(-14 // cell))
    shown = list(range(0, columns, every))
    figure.update_xaxes(
        tickmode="array", tickvals=shown, ticktext=[markup(panel.ticks[one]) for one in shown], range=[-0.5, columns - 0.5],
        tickangle=-90 if _upright(panel.ticks, cell) else 0, title={"text": title, "standoff": 4}, **bare, **place,
    )  # fmt: skip
    first = place["col"] == 1
    step = 1 if len(layers) <= 32 else 2
    figure.update_yaxes(
        tickmode="array", tickvals=list(range(0, len(layers), step)), ticktext=[markup(one) for one in layers[::step]],
        range=[-0.5, len(layers) - 0.5], showticklabels=first, title={"text": "layer (upward)" if first else "", "standoff": 6}, **bare, **place,
    )  # fmt: skip


def _colour(figure: go.Figure, panels: list[_Panel], value: str, data: xr.Dataset) -> None:
    """One scale, the same on both sides of zero."""
    reach = max((float(np.nanmax(np.abs(panel.mean), initial=0.0)) for panel in panels), default=0.0) or 1.0
    unit = str(data.attrs.get("unit", "")) if value != "recovered" else ""
    name = TITLES.get(value, value) + (f" ({unit})" if unit else "")
    bar = {"title": {"text": markup(name), "side": "right"}, "thickness": 12, "lenmode": "fraction", "len": 1.0, "x": 1.0, "xpad": 14}
    figure.update_layout(coloraxis={"colorscale": SCALE, "cmid": 0, "cmin": -reach, "cmax": reach, "colorbar": {**bar, "outlinewidth": 0}})
