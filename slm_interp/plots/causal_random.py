"""Random directions beside the text swap: how the draws spread, where text lies among them, and whether the cheap draws are right."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr
from jaxtyping import Float
from plotly.subplots import make_subplots

from slm_interp.errors import PatchingError
from slm_interp.plots.causal import BAND, LOOKS, META, place_of, placed
from slm_interp.plots.causal_data import HIGH, LOW, Half, at_layer, draws_of, rows_of
from slm_interp.plots.theme import RULE, dressed

BINS = 40


def random_directions(
    table: pd.DataFrame,
    random: xr.DataArray,
    basis: str,
    layer: int,
    exact: xr.DataArray | None = None,
    outcome: str | None = None,
    half: Half = "report",
    title: str | None = None,
) -> go.Figure:
    """The mean effect of every random direction as a histogram, the text swap as a line with its percentile; exact draws against linear ones beside it.

    Args:
        random: linearised effects, `case basis layer draw`.
        exact: those of the first draws, by runs; None leaves their panel out.

    Raises:
        PatchingError: as `plots.causal.effects_by_layer`; more exact draws than there are draws.
    """
    rows = at_layer(rows_of(table, basis, outcome, half), layer)
    text = float(rows[(rows["arm"] == "text") & (rows["dose"] == 1)]["effect"].mean())
    draws = draws_of(random, rows, basis)[place_of(random, layer)]
    figure = make_subplots(1, 2, column_widths=[0.66, 0.34], horizontal_spacing=0.12) if exact is not None else make_subplots(1, 1)
    _histogram(figure, draws, text)
    if exact is not None:
        _agreement(figure, draws, draws_of(exact, rows, basis)[place_of(exact, layer)])
    share = percentile(draws, text)
    shown = title or f"{basis}: text against {len(draws):,} random directions at layer {layer} · text at the {share:.1f}th percentile"
    dressed(figure, title=shown, height=380, meta=META)
    return placed(figure, {"l": 60, "r": 20, "t": 84, "b": 54})


def percentile(draws: Float[np.ndarray, " draw"], value: float) -> float:
    """The share of draws below a value, in percent; draws as large as it count half."""
    return float(100 * ((draws < value).mean() + 0.5 * (draws == value).mean()))


def _histogram(figure: go.Figure, draws: Float[np.ndarray, " draw"], text: float) -> None:
    """Bars of counts, the middle 95% shaded: the page keeps no single draw."""
    reach = max(float(np.abs(draws).max()), 1e-9)
    count, edges = np.histogram(draws, bins=BINS, range=(-reach, reach))
    low, high = np.percentile(draws, [LOW, HIGH])
    colour = str(LOOKS["text"]["colour"])
    figure.add_bar(
        x=(edges[:-1] + edges[1:]) / 2, y=count, width=np.diff(edges), marker={"color": "#9aa5b0", "line": {"width": 0}}, row=1, col=1,
        customdata=np.stack([edges[:-1], edges[1:]], 1), hovertemplate="%{y} draws from %{customdata[0]:.3g} to %{customdata[1]:.3g} nats<extra></extra>",
    )  # fmt: skip
    figure.add_vrect(x0=float(low), x1=float(high), fillcolor=BAND, line={"width": 0}, layer="below", row=1, col=1)
    figure.add_vline(x=text, line={"color": colour, "width": 3}, row=1, col=1)
    figure.add_annotation(
        x=text, y=1, yref="y domain", text=f"text swap {text:.3g}", showarrow=False, yanchor="bottom", font={"size": 12}, row=1, col=1,
        xanchor="right" if text > 0 else "left",
    )  # fmt: skip
    figure.add_annotation(
        x=float(low),
        y=1,
        yref="y domain",
        text="middle 95%",
        showarrow=False,
        xanchor="left",
        yanchor="top",
        font={"size": 11},
        row=1,
        col=1,
    )  # inside, as the name of the line stands above
    ends = min(float(edges[0]), text), max(float(edges[-1]), text)
    room = 0.03 * (ends[1] - ends[0])
    figure.update_xaxes(title="mean effect (nats)", showgrid=False, zeroline=False, range=[ends[0] - room, ends[1] + room], row=1, col=1)
    figure.update_yaxes(title="draws", gridcolor=RULE, zeroline=False, row=1, col=1)


def _agreement(figure: go.Figure, draws: Float[np.ndarray, " draw"], exact: Float[np.ndarray, " first"]) -> None:
    if len(exact) > len(draws):
        raise PatchingError(f"Exact draws are the first of the {len(draws)} linear ones; got {len(exact)}.")
    linear = draws[: len(exact)]
    ends = np.array([min(linear.min(), exact.min()), max(linear.max(), exact.max())])
    figure.add_scatter(
        x=ends,
        y=ends,
        mode="lines",
        line={"color": "#7a8793", "dash": "dash", "width": 1.5},
        hoverinfo="skip",
        showlegend=False,
        row=1,
        col=2,
    )
    figure.add_scatter(
        x=linear, y=exact, mode="markers", marker={"color": "#2f74b5", "size": 5}, showlegend=False, row=1, col=2,
        hovertemplate="linear %{x:.4g}, exact %{y:.4g} nats<extra></extra>",
    )  # fmt: skip
    spread = float(linear.std() * exact.std())
    said = f"r = {np.mean((linear - linear.mean()) * (exact - exact.mean())) / spread:.3f}" if spread > 0 else "no spread"
    figure.add_annotation(
        x=0, y=1, xref="x2 domain", yref="y2 domain", text=f"{len(exact)} exact draws: {said}", showarrow=False, xanchor="left", yanchor="bottom",
        font={"size": 12},
    )  # fmt: skip
    figure.update_xaxes(title="linear (nats)", gridcolor=RULE, zeroline=False, nticks=4, row=1, col=2)
    figure.update_yaxes(title="exact (nats)", gridcolor=RULE, zeroline=False, row=1, col=2)
