"""Where a model speaks text and where speech, by layer: mean mass beside the mass a uniform guess would have."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from jaxtyping import Bool, Float
from plotly.subplots import make_subplots

from slm_interp.errors import ReadoutError
from slm_interp.plots.theme import MODALITY_COLOURS, RULE, dressed, markup

GREY = "#5c6773"


def uniform_mass(dataset: xr.Dataset) -> Float[np.ndarray, " modality"]:
    """The mass of each modality under a uniform distribution over the ids that were read: its share of the vocabulary.

    Raises:
        ReadoutError: the reading does not say how many ids each modality has.
    """
    if "modality_size" not in dataset:
        raise ReadoutError(
            "Mass is shown with its null, which needs the number of ids of each modality; this reading has no 'modality_size'."
        )
    sizes = dataset["modality_size"].values.astype(np.float64)
    return sizes / sizes.sum()


def positions_of(dataset: xr.Dataset, kind: str) -> Bool[np.ndarray, " pos"]:
    """True where the input token is of a kind.

    Raises:
        ReadoutError: no position is.
    """
    chosen = dataset["kind"].values == kind
    if not chosen.any():
        raise ReadoutError(f"No position of this reading is {kind}; there are {', '.join(sorted(set(map(str, dataset['kind'].values))))}.")
    return chosen.astype(bool)


def modality_by_layer(dataset: xr.Dataset, kind: str = "speech", title: str | None = None) -> go.Figure:
    """Mean modality mass over the positions of a kind, by layer, with the null of each; entropy beside it.

    Dotted lines are what a uniform distribution over the vocabulary would give: a modality that owns most
    ids owns most mass there, and a curve says something only where it leaves its line. The shaded band
    runs from the 10th to the 90th percentile of the positions.

    Args:
        dataset: `Reading.dataset`, dims `layer pos modality`.
        kind: kind of the input tokens to average over: `speech`, `text` or `marker`.
        title: replaces the default.

    Raises:
        ReadoutError: no such positions, or no `modality_size` to draw the null from.
    """
    chosen = positions_of(dataset, kind)
    mass = np.exp(dataset["modality_log_mass"].values[:, chosen].astype(np.float64))
    null = uniform_mass(dataset)
    ceiling = float(np.log(dataset["modality_size"].values.astype(np.float64).sum()))
    figure = make_subplots(rows=1, cols=2, column_widths=[0.6, 0.4], horizontal_spacing=0.1)
    for index, name in enumerate(map(str, dataset["modality"].values)):
        hover = f"layer %{{x}}<br>{markup(name)} %{{y:.1%}}<br>uniform {null[index]:.1%}<extra></extra>"
        _curve(figure, name, mass[:, :, index], float(null[index]), MODALITY_COLOURS.get(name, GREY), hover, column=1)
    entropy = dataset["entropy"].values[:, chosen].astype(np.float64)
    _curve(figure, "entropy", entropy, ceiling, GREY, f"layer %{{x}}<br>%{{y:.2f}} nats<br>uniform {ceiling:.2f}<extra></extra>", column=2)
    _axes(figure, dataset, ceiling)
    count = int(chosen.sum())
    what = title if title is not None else f"Probability by modality, mean over {count} {kind} position{'s' if count > 1 else ''}"
    dressed(figure, title=what, height=402, meta={"role": "curves", "null": null.tolist(), "head_px": 34})
    legend = {"orientation": "h", "y": -0.4, "yanchor": "top", "x": 0}
    return figure.update_layout(margin={"l": 60, "r": 20, "t": 50, "b": 132}, legend=legend)


def _curve(
    figure: go.Figure, name: str, values: Float[np.ndarray, "layer pos"], null: float, colour: str, hover: str, *, column: int
) -> None:
    """A mean over positions with its percentile band and, dotted, its null."""
    layers, place = list(range(len(values))), {"row": 1, "col": column}
    low, high = np.percentile(values, [10, 90], axis=1)
    red, green, blue = (int(colour[digit : digit + 2], 16) for digit in (1, 3, 5))
    band = {"fill": "toself", "fillcolor": f"rgba({red},{green},{blue},0.14)", "line": {"width": 0}, "mode": "lines", "showlegend": False}
    figure.add_scatter(x=[*layers, *reversed(layers)], y=[*high, *low[::-1]], hoverinfo="skip", **band, **place)
    figure.add_scatter(
        x=layers, y=values.mean(axis=1), mode="lines+markers", name=name, line={"color": colour}, hovertemplate=hover, **place
    )
    dotted = {"color": colour, "dash": "dot", "width": 1.5}
    figure.add_scatter(
        x=[0, len(layers) - 1], y=[null, null], mode="lines", name=f"{name}, uniform", line=dotted, hoverinfo="skip", **place
    )


def _axes(figure: go.Figure, dataset: xr.Dataset, ceiling: float) -> None:
    labels = [markup(str(label)) for label in dataset["layer_label"].values]
    every = max(1, round(len(labels) / 12))
    figure.update_xaxes(
        tickvals=list(range(0, len(labels), every)),
        ticktext=labels[::every],
        tickangle=-45,
        showgrid=False,
        zeroline=False,
        title="layer (right = model output)",
    )
    figure.update_yaxes(gridcolor=RULE, zeroline=False)
    figure.update_yaxes(range=[-0.02, 1.02], tickformat=".0%", title="probability", row=1, col=1)
    figure.update_yaxes(range=[0, 1.05 * ceiling], title="entropy (nats)", row=1, col=2)
