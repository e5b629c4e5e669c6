"""The same causal test in several models: shares of text and of its complement, a row for each model and basis.

Rows whose model has no ceiling to share are there without marks: that is what was found. Marks differ in shape, not in colour alone.
"""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from slm_interp.errors import PatchingError
from slm_interp.plots.causal import LOOKS, META, NOTHING, placed
from slm_interp.plots.causal_data import ARMS
from slm_interp.plots.theme import RULE, dressed, markup

NEEDED = (
    "model",
    "basis",
    "layer",
    "verdict",
    "ceiling",
    "text",
    "text_low",
    "text_high",
    "complement",
    "complement_low",
    "complement_high",
)
HOVER = "%{customdata[0]} · %{customdata[1]}<br>%{x:.3f} [%{customdata[3]:.3f}, %{customdata[4]:.3f}] of %{customdata[2]:.3g} nats<extra></extra>"
ROW_PX, LETTER_PX = 34, 6
APART = 0.16  # of a row: text above, complement below


def forest(table: pd.DataFrame, nothing: float = 0.1, title: str | None = None) -> go.Figure:
    """Shares with their intervals, and at the right the verdict of every row.

    Args:
        table: of `causal.across`; rows about several lenses together (no layer) have no shares, and are left out.
        nothing: the share that counts as nothing, shaded on both sides of 0.

    Raises:
        PatchingError: a table without the columns `NEEDED`, or without rows of a single basis.
    """
    missing = [name for name in NEEDED if name not in table.columns]
    rows = table if missing else table[table["layer"].notna()].reset_index(drop=True)
    if missing or rows.empty:
        raise PatchingError(
            f"A forest is drawn of the table of causal.across; this one lacks {', '.join(missing) or 'rows of a single basis'}."
        )
    figure = go.Figure()
    figure.add_vrect(x0=-nothing, x1=nothing, fillcolor=NOTHING, line={"width": 0}, layer="below")
    for level, dash in ((0.0, "solid"), (1.0, "dash")):
        figure.add_vline(x=level, line={"color": RULE, "width": 1.2, "dash": dash})
    heights = [len(rows) - 1 - number for number in range(len(rows))]
    for arm, shift in (("text", APART), ("complement", -APART)):
        figure.add_trace(_marks(rows, arm, [height + shift for height in heights]))
    for height, row in zip(heights, rows.itertuples(), strict=True):
        figure.add_annotation(x=1.01, xref="paper", xanchor="left", y=height, text=str(row.verdict), showarrow=False, font={"size": 11})
    names = [f"{markup(str(row.model))} · {markup(str(row.basis).partition('[')[0])}, layer {row.layer}" for row in rows.itertuples()]
    figure.update_yaxes(tickmode="array", tickvals=heights, ticktext=names, range=[-0.7, len(rows) - 0.3], showgrid=False, zeroline=False)
    figure.update_xaxes(title="share of the whole patch, at each model's own layer", gridcolor=RULE, zeroline=False)
    dressed(figure, title=title or "text and its complement, model by model", height=ROW_PX * len(rows) + 150, meta=META)
    return placed(figure, {"l": 20 + LETTER_PX * max(map(len, names)), "r": 110, "t": 84, "b": 54}, listed=True)


def _marks(rows: pd.DataFrame, arm: str, heights: list[float]) -> go.Scatter:
    look, found = LOOKS[arm], rows[arm].astype(float)
    return go.Scatter(
        x=found,
        y=heights,
        mode="markers",
        name=ARMS[arm].label,
        marker={"color": look["colour"], "symbol": look["symbol"], "size": 9},
        error_x={
            "type": "data", "symmetric": False, "array": rows[f"{arm}_high"] - found, "arrayminus": found - rows[f"{arm}_low"],
            "color": look["colour"], "thickness": 1.6, "width": 0,
        },
        customdata=rows[["model", "basis", "ceiling", f"{arm}_low", f"{arm}_high"]].to_numpy(),
        hovertemplate=HOVER,
    )  # fmt: skip
