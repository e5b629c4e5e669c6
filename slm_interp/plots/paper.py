"""The pictures of `slm_interp.transcription.paper`: mass by layer for both inputs, and recall by layer of several targets."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from slm_interp.errors import ReadoutError
from slm_interp.plots.recall import recall_by_layer
from slm_interp.plots.theme import MODALITY_COLOURS, RULE, dressed

INPUTS = ("speech", "text")
TITLES = {"current": "the word that is heard", "next": "the word after it", "answer": "the answer"}


def mass_by_input(dataset: xr.Dataset, pooling: str = "max") -> go.Figure:
    """Mass on text and on speech by layer, speech input on the left and text input on the right (`paper.figure_2`).

    Bars are the intervals; dotted is the mass that random vectors of the same norms give, dashed that of text when text and speech
    own equally many ids.

    Raises:
        ReadoutError: a pooling that was not measured.
    """
    if pooling not in dataset["pooling"].values:
        raise ReadoutError(f"Mass was pooled by {', '.join(map(str, dataset['pooling'].values))}; got {pooling!r}.")
    titles = [f"{name} input" for name in INPUTS]
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.06, subplot_titles=titles)
    layers = dataset["layer"].values.tolist()
    for column, given in enumerate(INPUTS, start=1):
        for modality in INPUTS:
            at = dataset.sel(input=given, modality=modality, pooling=pooling)
            colour, place = MODALITY_COLOURS[modality], {"row": 1, "col": column}
            value, low, high = (at[name].values.astype(np.float64) for name in ("mass", "low", "high"))
            bars = {"type": "data", "array": high - value, "arrayminus": value - low, "color": colour, "thickness": 1, "width": 3}
            shown = {"legendgroup": modality, "showlegend": column == 1}
            hover = f"layer %{{x}}<br>{modality} %{{y:.1%}}<extra></extra>"
            line = {"color": colour}
            figure.add_scatter(
                x=layers, y=value, error_y=bars, mode="lines+markers", name=modality, line=line, hovertemplate=hover, **shown, **place
            )
            for name, label, dash in (("random_mass", "random vectors", "dot"), ("size_matched_mass", "equally many ids", "dash")):
                if name == "size_matched_mass" and modality != "text":
                    continue
                null = at[name] if name == "random_mass" else dataset[name].sel(input=given, matched=modality, pooling=pooling)
                style = {"color": colour, "dash": dash, "width": 1.5}
                figure.add_scatter(
                    x=layers, y=null.values, mode="lines", name=f"{modality}, {label}", line=style, hoverinfo="skip", **shown, **place
                )
    figure.update_xaxes(title="layer", zeroline=False, showgrid=False)
    figure.update_yaxes(range=[-0.02, 1.02], tickformat=".0%", gridcolor=RULE, zeroline=False)
    how = {"max": "greatest over each word's span", "mean": "mean over each word's span", "last": "at each word's last position"}[pooling]
    dressed(figure, title=f"Mass by modality, {how}", height=420, meta={"role": "curves", "head_px": 34})
    legend = {"orientation": "h", "y": -0.25, "yanchor": "top", "x": 0}
    return figure.update_layout(margin={"l": 60, "r": 20, "t": 80, "b": 110}, legend=legend)


def recall_of_target(table: pd.DataFrame, target: str, k: int = 10) -> go.Figure:
    """Recall at k of one target by layer, nulls dotted (`paper.figure_3`, `paper.figure_4`).

    Raises:
        ReadoutError: a target or k that the table does not have.
    """
    if target not in set(table["target"]):
        raise ReadoutError(f"The table is of {', '.join(sorted(set(table['target'])))}; got {target!r}.")
    title = f"Decoded among the {k} best: {TITLES.get(target, target)}"
    return recall_by_layer(table[table["target"] == target], k, title)
