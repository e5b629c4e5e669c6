"""Where a model speaks text and where speech, by layer: mean mass beside the mass a uniform guess would have."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from jaxtyping import Bool, Float
from plotly.subplots import make_subplots

from slm_interp.errors import ReadoutError
from slm_interp.plots.theme import MODALITY_COLOURS, RULE, dressed, markup


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
    layers = list(range(dataset.sizes["layer"]))
    figure = make_subplots(rows=1, cols=2, column_widths=[0.6, 0.4], horizontal_spacing=0.1)
    for index, name in enumerate(map(str, dataset["modality"].values)):
        colour = MODALITY_COLOURS.get(name, "#7a8793")
        _band(figure, layers, mass[:, :, index], colour, 1)
        hover = f"layer %{{x}}<br>{markup(name)} %{{y:.1%}}<br>uniform {null[index]:.1%}<extra></extra>"
        figure.add_scatter(
            x=layers,
            y=mass[:, :, index].mean(axis=1),
            mode="lines+markers",
            name=name,
            line={"color": colour},
            hovertemplate=hover,
            row=1,
            col=1,
        )
        dotted = {"color": colour, "dash": "dot", "width": 1.5}
        figure.add_scatter(x=layers[:: max(len(layers) - 1, 1)], y=[null[index]] * len(layers[:: max(len(layers) - 1, 1)]), mode="lines", name=f"{name}, uniform", line=dotted, hoverinfo="skip", row=1, col=1)  # fmt: skip
    entropy = dataset["entropy"].values[:, chosen].astype(np.float64)
    _band(figure, layers, entropy, "#5c6773", 2)
    figure.add_scatter(x=layers, y=entropy.mean(axis=1), mode="lines+markers", name="entropy", line={"color": "#5c6773"}, hovertemplate="layer %{x}<br>%{y:.2f} nats<extra></extra>", row=1, col=2)  # fmt: skip
    ceiling = float(np.log(dataset["modality_size"].values.astype(np.float64).sum()))
    figure.add_scatter(x=layers[:: max(len(layers) - 1, 1)], y=[ceiling] * len(layers[:: max(len(layers) - 1, 1)]), mode="lines", name="entropy, uniform", line={"color": "#5c6773", "dash": "dot", "width": 1.5}, hoverinfo="skip", row=1, col=2)  # fmt: skip
    _axes(figure, dataset, ceiling)
    count = int(chosen.sum())
    dressed(
        figure,
        title=title if title is not None else f"Probability by modality, mean over {count} {kind} position{'s' if count > 1 else ''}",
        height=380,
        meta={"role": "curves", "null": null.tolist(), "head_px": 34},
    )
    return figure.update_layout(
        margin={"l": 60, "r": 20, "t": 50, "b": 110}, legend={"orientation": "h", "y": -0.3, "yanchor": "top", "x": 0}
    )


def _band(figure: go.Figure, layers: list[int], values: Float[np.ndarray, "layer pos"], colour: str, column: int) -> None:
    low, high = np.percentile(values, [10, 90], axis=1)
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    figure.add_scatter(
        x=[*layers, *reversed(layers)], y=[*high, *low[::-1]], fill="toself", fillcolor=f"rgba({red},{green},{blue},0.14)", line={"width": 0},
        mode="lines", hoverinfo="skip", showlegend=False, row=1, col=column,
    )  # fmt: skip


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
