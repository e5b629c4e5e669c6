"""The recovered fraction over the number of edges: of a circuit alone, and of everything but the circuit."""

from __future__ import annotations

import plotly.graph_objects as go
import xarray as xr

from slm_interp.plots.theme import MODALITY_COLOURS, RULE, dressed

CURVES = (
    ("with the circuit alone", ("recovered", "low", "high"), MODALITY_COLOURS["text"]),
    ("without the circuit", ("left", "left_low", "left_high"), MODALITY_COLOURS["speech"]),
)


def faithfulness(dataset: xr.Dataset, title: str = "How much of the outcome a circuit carries") -> go.Figure:
    """Two curves with their intervals; 1 is the model, 0 the source prompt.

    Args:
        dataset: of `slm_interp.circuits.Faithfulness`.
        title: heading.
    """
    figure, edges = go.Figure(), dataset["edges"].values
    x = [max(int(one), 1) for one in edges]
    for name, (middle, low, high), colour in CURVES:
        values = dataset[middle].values
        bars = {"type": "data", "array": dataset[high].values - values, "arrayminus": values - dataset[low].values, "thickness": 1}
        told = [f"{name}<br>{int(count)} edges: {value:.2f}" for count, value in zip(edges, values, strict=True)]
        figure.add_scatter(
            x=x, y=values, error_y=bars, name=name, mode="lines+markers", line={"color": colour}, hovertext=told, hoverinfo="text"
        )
    for level in (0, 1):
        figure.add_hline(y=level, line={"color": RULE, "width": 1})
    figure.update_xaxes(type="log", title="edges in the circuit (after pruning; none stands at 1)", showgrid=False, zeroline=False)
    figure.update_yaxes(title="recovered fraction", gridcolor=RULE, zeroline=False)
    figure.update_layout(legend={"x": 0, "y": 1.02, "yanchor": "bottom", "orientation": "h"}, margin={"l": 60, "r": 20, "t": 80, "b": 55})
    return dressed(figure, title=title, height=420, meta={"kind": "faithfulness"})
