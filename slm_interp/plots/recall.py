"""Recall with its interval and its null: by layer, and by position relative to a word's onset or end."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr
from jaxtyping import Float

from slm_interp.errors import ReadoutError
from slm_interp.plots.theme import BOUNDARY, MODALITY_COLOURS, RULE, dressed

DASHES = ("dot", "dashdot", "dash")
COLOURS = (MODALITY_COLOURS["text"], MODALITY_COLOURS["speech"], MODALITY_COLOURS["marker"], "#2f9463", "#5c6773")


def recall_by_layer(table: pd.DataFrame, k: int = 10, title: str | None = None) -> go.Figure:
    """Recall at k by layer; bars are its interval, dotted the nulls. `any`, the best layer of each word, stands apart on the right.

    Args:
        table: of `transcription.recall`; where it has groups, one of them.
        k: one of the table's.
        title: replaces the default.

    Raises:
        ReadoutError: the table has no such k, or several rows a layer.
    """
    rows = table[table["k"] == k]
    if rows.empty or rows["layer"].duplicated().any():
        raise ReadoutError(
            f"A curve has one row a layer at one k; got {len(rows)} rows at k={k} of {sorted(set(table['k']))}. Choose k, or one group."
        )
    layers = [str(layer) for layer in rows["layer"]]
    nulls = {name.removeprefix("null_"): rows[name].to_numpy(dtype=np.float64) for name in rows.columns if name.startswith("null_")}
    figure = go.Figure()
    inner = np.flatnonzero([layer != "any" for layer in layers])
    apart = np.flatnonzero([layer == "any" for layer in layers])
    for part in (inner, apart):
        if len(part):
            x = [layers[index] for index in part]
            interval = rows[["low", "recall", "high"]].to_numpy(dtype=np.float64).T[:, part]
            _curve(figure, f"recall at {k}", x, interval, {name: null[part] for name, null in nulls.items()}, COLOURS[0], part is inner)
    figure.update_xaxes(type="category", title="layer (any: the best of each word)")
    return _dressed(figure, title or f"Decoded among the {k} best, by layer")


def recall_by_position(dataset: xr.Dataset, layers: Sequence[int], title: str | None = None) -> go.Figure:
    """Recall at single positions of some layers; the line marks the onset (or the end), before which nothing of the word has sounded.

    Args:
        dataset: of `transcription.by_position`.
        layers: up to five of its layers.
        title: replaces the default.

    Raises:
        ReadoutError: layers that are not there, none, or more than there are colours.
    """
    absent = sorted(set(layers) - set(dataset["layer"].values.tolist()))
    if absent or not 0 < len(layers) <= len(COLOURS):
        raise ReadoutError(
            f"Positions are shown for 1 to {len(COLOURS)} of the layers {dataset['layer'].values.tolist()}; got {list(layers)}."
        )
    figure, x = go.Figure(), dataset["offset"].values.tolist()
    for colour, layer in zip(COLOURS, layers, strict=False):
        at = dataset.sel(layer=layer)
        interval = np.stack([at[name].values for name in ("low", "recall", "high")]).astype(np.float64)
        nulls = {str(name): at["null_recall"].sel(null=name).values.astype(np.float64) for name in dataset["null"].values}
        _curve(figure, f"layer {layer}", x, interval, nulls, colour, True)
    anchor = str(dataset.attrs["relative_to"])
    figure.add_vline(x=0 if anchor == "onset" else 0.5, line={"color": BOUNDARY, "width": 1.5, "dash": "dash"})
    figure.update_xaxes(title=f"position from the word's {anchor}", zeroline=False)
    return _dressed(figure, title or f"Decoded among the {dataset.attrs['k']} best, by position from the word's {anchor}")


def _curve(
    figure: go.Figure,
    name: str,
    x: Sequence[int] | Sequence[str],
    interval: Float[np.ndarray, "3 point"],
    nulls: dict[str, Float[np.ndarray, " point"]],
    colour: str,
    listed: bool,
) -> None:
    """A curve with its interval, and its nulls dotted."""
    low, value, high = interval
    red, green, blue = (int(colour[digit : digit + 2], 16) for digit in (1, 3, 5))
    up, down = high - value, value - low
    bars = {"type": "data", "array": up, "arrayminus": down, "color": f"rgba({red},{green},{blue},0.45)", "thickness": 1, "width": 3}
    hover = f"%{{x}}<br>{name} %{{y:.1%}} [%{{customdata[0]:.1%}}, %{{customdata[1]:.1%}}]<extra></extra>"
    figure.add_scatter(
        x=list(x),
        y=value,
        error_y=bars,
        mode="lines+markers",
        name=name,
        line={"color": colour},
        customdata=np.stack([low, high], -1),
        hovertemplate=hover,
        showlegend=listed,
    )
    for (null, points), dash in zip(nulls.items(), cycle(DASHES), strict=False):
        dotted = {"color": colour, "dash": dash, "width": 1.5}
        figure.add_scatter(
            x=list(x),
            y=points,
            mode="lines" if len(x) > 1 else "markers",
            name=f"{name}, {null}",
            line=dotted,
            marker={"symbol": "line-ew-open", "size": 12, "color": colour},
            hovertemplate=f"%{{x}}<br>{null} null %{{y:.1%}}<extra></extra>",
            showlegend=listed,
        )


def _dressed(figure: go.Figure, title: str) -> go.Figure:
    figure.update_yaxes(rangemode="tozero", tickformat=".0%", title="recall", gridcolor=RULE, zeroline=False)
    dressed(figure, title=title, height=380, meta={"role": "curves", "head_px": 34})
    return figure.update_layout(margin={"l": 60, "r": 20, "t": 50, "b": 60})
