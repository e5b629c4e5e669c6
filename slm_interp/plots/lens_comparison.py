"""Lenses one above the other on the same cells, and below them what each has more or less than the first."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from jaxtyping import Float
from plotly.subplots import make_subplots

from slm_interp.errors import ReadoutError
from slm_interp.plots.lens_grid import word_runs
from slm_interp.plots.quantities import QUANTITIES, colour_bar, opening_quantity, quantity
from slm_interp.plots.theme import BOUNDARY, ORANGES, dressed, markup, unit, visible

Grid = Float[np.ndarray, "layer pos"]

KL = "kl_from_output"
GAP_PX, ROW_PX, TOP_PX, FOOT_PX = 40, 16, 84, 128
_BAR = {
    "orientation": "h",
    "thickness": 10,
    "len": 0.42,
    "lenmode": "fraction",
    "xanchor": "left",
    "xpad": 0,
    "yref": "container",
    "y": 0,
    "yanchor": "bottom",
    "ypad": 8,
    "outlinewidth": 0,
}
ALL_TICKS = 60  # positions; beyond this not every column has room for its token


def lens_differences(dataset: xr.Dataset, colour: str | None = None, target: int = 0, title: str | None = None) -> go.Figure:
    """Small multiples: layer x position for each lens on one colour scale, then each lens less the first, on RdBu about 0.

    Args:
        dataset: of a `Comparison`.
        colour: `text_mass`, `speech_mass`, `top_probability`, `entropy`, `rank` (log10, so a difference of 1 is a factor of ten) or
            `kl_from_output`. None is `text_mass`, or `top_probability` of a model without text.
        target: which target `rank` is about.
        title: replaces the default.

    Raises:
        ReadoutError: another colour, or a target that was not ranked.
    """
    colour = colour or opening_quantity(dataset)
    if colour not in (*QUANTITIES, KL):
        raise ReadoutError(f"Lenses are compared by one of {', '.join((*QUANTITIES, KL))}; got {colour!r}.")
    names = [str(name) for name in dataset["lens"].values]
    grids = [_values(dataset.sel(lens=name), colour, target) for name in names]
    changes = [grid - grids[0] for grid in grids[1:]]
    titles = [f"{name} lens" for name in names] + [f"{name} less {names[0]}" for name in names[1:]]
    rows, layers = len(titles), dataset.sizes["layer"]
    height = ROW_PX * layers * rows + GAP_PX * (rows - 1) + TOP_PX + FOOT_PX
    figure = make_subplots(
        rows, 1, shared_xaxes=True, subplot_titles=[markup(one) for one in titles], vertical_spacing=GAP_PX / (height - TOP_PX - FOOT_PX)
    )
    shown, bar = _dress(dataset.sel(lens=names[0]), colour, target, grids)
    reach = max((float(np.nanmax(np.abs(change), initial=0)) for change in changes), default=0) or 1.0
    figure.update_layout(
        coloraxis={**shown, "colorbar": {**bar, **_BAR, "x": 0.0}},
        coloraxis2={
            "colorscale": "RdBu",
            "cmid": 0,
            "cmin": -reach,
            "cmax": reach,
            "colorbar": {
                "title": f"{'log10 of rank' if colour == 'rank' else 'difference'}: blue is more than {names[0]}",
                **_BAR,
                "x": 0.55,
            },
        },
    )
    for axis in (figure.layout.coloraxis, figure.layout.coloraxis2):
        axis.colorbar.title.side = "top"
    for row, grid in enumerate([*grids, *changes], start=1):
        figure.add_trace(_heat(dataset, grid, titles[row - 1], "coloraxis" if row <= len(names) else "coloraxis2"), row=row, col=1)
    _axes(figure, dataset, rows)
    name = str(dataset.attrs.get("utterance", ""))
    heading = title if title is not None else f"Lenses: {', '.join(names)}" + (f" · {name}" if name else "")
    dressed(figure, title=heading, height=height, meta={"role": "comparison", "head_px": 34})
    return figure.update_layout(margin={"l": 110, "r": 20, "t": TOP_PX, "b": FOOT_PX})


def _values(dataset: xr.Dataset, colour: str, target: int) -> Grid:
    return dataset[KL].values.astype(np.float64) if colour == KL else quantity(colour).values(dataset, target)


def _dress(dataset: xr.Dataset, colour: str, target: int, grids: list[Grid]) -> tuple[dict, dict]:
    """The shared colour axis of the lenses, and its bar."""
    if colour == KL:
        top = max(float(np.nanmax(grid)) for grid in grids) or 1.0
        return {"colorscale": ORANGES, "cmin": 0.0, "cmax": top}, {"title": {"text": "KL from the model's output (nats)"}}
    dress = colour_bar(dataset, colour, target)
    return {"colorscale": dress["colorscale"], "cmin": dress["zmin"], "cmax": dress["zmax"]}, dress["colorbar"]


def _heat(dataset: xr.Dataset, grid: Grid, name: str, axis: str) -> go.Heatmap:
    return go.Heatmap(
        x=np.arange(dataset.sizes["pos"]),
        z=np.round(grid, 4),
        coloraxis=axis,
        name=name,
        customdata=np.broadcast_to(np.array([markup(visible(str(label))) for label in dataset["label"].values], dtype=object), grid.shape),
        hovertemplate="%{customdata} · position %{x}<br>layer %{y}<br>%{z:.4g}<extra>" + markup(name) + "</extra>",
    )


def _axes(figure: go.Figure, dataset: xr.Dataset, rows: int) -> None:
    """Layers upward by name, tokens below the last panel, words and their boundaries."""
    n, layers = dataset.sizes["pos"], dataset.sizes["layer"]
    labels = [markup(str(label)) for label in dataset["layer_label"].values]
    every = max(1, -(-layers // 12))
    figure.update_yaxes(
        tickmode="array", tickvals=list(range(0, layers, every)), ticktext=labels[::every], ticks="", showgrid=False, zeroline=False
    )
    step = 1 if n <= ALL_TICKS else -(-n // 32)
    places = list(range(0, n, step))
    tokens = [markup(unit(visible(str(dataset["label"].values[place])))) for place in places]
    figure.update_xaxes(tickmode="array", tickvals=places, ticktext=tokens, tickangle=-90, ticks="", showgrid=False, zeroline=False)
    for run in word_runs(dataset):
        for row in range(1, rows + 1):
            figure.add_vline(x=run.start - 0.5, line={"color": BOUNDARY, "width": 0.7}, row=row, col=1)
        figure.add_annotation(
            x=(run.start + run.stop - 1) / 2,
            y=layers - 0.5,
            xref="x",
            yref="y",
            text=markup(run.text),
            showarrow=False,
            yanchor="bottom",
            name="word",
        )
    for note in figure.layout.annotations[:rows]:
        note.update(x=0, xanchor="left", yshift=16, font={"size": 13})
