"""How a Jacobian lens converges with the number of prompts."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from slm_interp.errors import ReadoutError
from slm_interp.plots.recall import COLOURS
from slm_interp.plots.theme import RULE, dressed

TITLES = {
    "relative_frobenius": "relative Frobenius distance to the other half",
    "cosine": "cosine with the other half",
    "kl": "KL from the other half's reading (nats)",
    "top1": "same first id as the other half's reading",
}


def convergence_by_prompts(
    table: pd.DataFrame, quantity: str, layers: Sequence[int], against: str = "half", title: str | None = None
) -> go.Figure:
    """One line a layer over the number of prompts, doubling; 0 prompts is the logit lens.

    Args:
        table: of `lenses.convergence` or `lenses.readout_convergence`.
        quantity: `"relative_frobenius"`, `"cosine"`, `"kl"` or `"top1"`, whichever the table has.
        layers: up to five of its layers.
        against: which comparison, where the table has several.
        title: replaces the default.

    Raises:
        ReadoutError: a quantity, layers or comparison that are not there.
    """
    there = [name for name in TITLES if name in table.columns]
    rows = table[table["against"] == against] if "against" in table.columns else table
    absent = sorted(set(layers) - set(rows["layer"]))
    if quantity not in there or absent or not 0 < len(layers) <= len(COLOURS):
        raise ReadoutError(
            f"Convergence is drawn of one of {there} at 1 to {len(COLOURS)} layers of the table; "
            f"got {quantity!r}, against {against!r}, at {list(layers)}."
        )
    figure = go.Figure()
    for colour, layer in zip(COLOURS, layers, strict=False):
        at = rows[rows["layer"] == layer].sort_values("prompts")
        bars = None
        if f"{quantity}_low" in at.columns:
            up, down = at[f"{quantity}_high"] - at[quantity], at[quantity] - at[f"{quantity}_low"]
            bars = {"type": "data", "array": up, "arrayminus": down, "color": colour, "thickness": 1, "width": 3}
        figure.add_scatter(
            x=[str(count) for count in at["prompts"]],
            y=at[quantity],
            error_y=bars,
            mode="lines+markers",
            name=f"layer {layer}",
            line={"color": colour},
            hovertemplate=f"%{{x}} prompts<br>layer {layer}: %{{y:.3g}}<extra></extra>",
        )
    counts = sorted(set(rows["prompts"]))
    figure.update_xaxes(
        type="category", categoryorder="array", categoryarray=[str(one) for one in counts], title="prompts (0: the logit lens)"
    )
    figure.update_yaxes(rangemode="tozero", title=TITLES[quantity], gridcolor=RULE, zeroline=False)
    dressed(figure, title=title or "Jacobian lens by prompts", height=380, meta={"role": "curves", "head_px": 34})
    return figure.update_layout(margin={"l": 60, "r": 20, "t": 50, "b": 60})
