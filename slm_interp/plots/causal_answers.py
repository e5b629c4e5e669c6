"""What tests concluded: verdicts on models whose answer is known, and the order of two phases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from slm_interp.errors import PatchingError
from slm_interp.plots.causal import META, placed
from slm_interp.plots.theme import BLUES, RULE, dressed, markup
from slm_interp.statistics import Interval

VERDICTS = ("text-mediated", "partly", "epiphenomenal", "uninformative")
PATTERNS = ("", "/", "x", ".", "-")
COLOURS = ("#2f74b5", "#d97b29", "#2f9463", "#8a63b8", "#7a8793")


def confusion(table: pd.DataFrame, title: str = "Verdicts on models whose answer is known") -> go.Figure:
    """Kinds of models downward, verdicts to the right, one panel for each way to judge; a cell says in how many models, right ones are framed.

    Args:
        table: one row for every model and judge: `judge kind truth verdict`; `kind` is what stands on the axis, `truth` the right verdict.

    Raises:
        PatchingError: missing columns, no rows, a verdict that is none of the four, a kind of two truths.
    """
    _columns(table, ("judge", "kind", "truth", "verdict"))
    unknown = sorted({*table["verdict"], *table["truth"]} - set(VERDICTS))
    truths = table.groupby("kind", sort=False)["truth"].unique()
    if table.empty or unknown or (truths.map(len) > 1).any():
        raise PatchingError(
            f"Verdicts are of {', '.join(VERDICTS)}, and a kind of model has one true one; got {len(table)} rows, {unknown}, {truths.to_dict()}."
        )
    kinds, judges = list(dict.fromkeys(table["kind"])), list(dict.fromkeys(table["judge"]))
    figure = make_subplots(1, len(judges), subplot_titles=[markup(str(one)) for one in judges], shared_yaxes=True, horizontal_spacing=0.04)
    for column, judge in enumerate(judges, 1):
        own = table[table["judge"] == judge]
        count = pd.crosstab(own["kind"], own["verdict"]).reindex(index=kinds, columns=list(VERDICTS), fill_value=0)
        share = count.div(count.sum(axis=1).clip(lower=1), axis=0)
        figure.add_heatmap(
            z=share.to_numpy(), x=list(range(len(VERDICTS))), y=list(range(len(kinds))), text=count.to_numpy(), texttemplate="%{text}", zmin=0, zmax=1.6,
            colorscale=BLUES, showscale=False, xgap=2, ygap=2, textfont={"size": 13, "color": "#1d2630"}, customdata=_said(kinds, count), row=1, col=column,
            hovertemplate="%{customdata}<extra></extra>",
        )  # fmt: skip
        for row, kind in enumerate(kinds):
            at = VERDICTS.index(str(truths[kind][0]))
            figure.add_shape(
                type="rect", x0=at - 0.47, x1=at + 0.47, y0=row - 0.45, y1=row + 0.45, line={"color": "#d6336c", "width": 2}, row=1, col=column
            )  # fmt: skip
    shown = [one.replace("-", "-<br>") if len(judges) < 3 else one for one in VERDICTS]
    figure.update_xaxes(
        tickmode="array",
        tickvals=list(range(len(VERDICTS))),
        ticktext=shown,
        tickangle=0 if len(judges) < 3 else -50,
        ticks="",
        showgrid=False,
        zeroline=False,
    )
    figure.update_yaxes(
        tickmode="array", tickvals=list(range(len(kinds))), ticktext=[markup(str(one)) for one in kinds], autorange="reversed", ticks="", showgrid=False,
        zeroline=False,
    )  # fmt: skip
    longest = max(len(str(one)) for one in kinds)
    dressed(figure, title=title, height=34 * len(kinds) + (150 if len(judges) < 3 else 180), meta=META)
    return placed(figure, {"l": 24 + 7 * longest, "r": 20, "t": 76, "b": 56 if len(judges) < 3 else 86})


def judges_of(table: pd.DataFrame, basis: str) -> pd.DataFrame:
    """The table that `confusion` draws, from that of a suite of planted models (`planted.confusion`): the rule, and each naive test beside it.

    Args:
        table: one row for every model and basis: `kind share basis right verdict`, and a column `naive: ...` for each naive test.
        basis: one of the table's for which a verdict is right.

    Raises:
        PatchingError: missing columns, a basis that is not there or has no right verdict.
    """
    _columns(table, ("kind", "share", "basis", "right", "verdict"))
    own = table[(table["basis"] == basis) & (table["right"] != "")]
    if own.empty:
        raise PatchingError(f"Right verdicts are known for {list(dict.fromkeys(table.loc[table['right'] != '', 'basis']))}; got {basis!r}.")
    names = [f"{kind} {share:g}" if kind == "partial" else str(kind) for kind, share in zip(own["kind"], own["share"], strict=True)]
    judges = {"the rule": "verdict", **{f"naive: {one[7:]}": one for one in map(str, own) if one.startswith("naive: ")}}
    parts = [
        pd.DataFrame({"judge": judge, "kind": names, "truth": own["right"].tolist(), "verdict": own[column].tolist()})
        for judge, column in judges.items()
    ]
    return pd.concat(parts, ignore_index=True)


def shares_table(shares: Mapping[str, Mapping[str, Interval]]) -> pd.DataFrame:
    """The table that `serial_order` draws, from intervals by group and by arm, such as `{order: found.shares(order) for order in ORDERS}`."""
    rows = [
        (group, arm, float(one.estimate), float(one.low), float(one.high)) for group, arms in shares.items() for arm, one in arms.items()
    ]
    return pd.DataFrame(rows, columns=["group", "arm", "estimate", "low", "high"])


def serial_order(table: pd.DataFrame, title: str = "Which phase does the effect run through?") -> go.Figure:
    """Bars of shares with their intervals: groups along the axis, one bar for each arm of a group.

    Args:
        table: one row a bar: `group arm estimate low high`.

    Raises:
        PatchingError: missing columns, no rows.
    """
    _columns(table, ("group", "arm", "estimate", "low", "high"))
    if table.empty:
        raise PatchingError("Bars need one row each; got none.")
    figure, groups = go.Figure(), list(dict.fromkeys(table["group"]))
    for number, arm in enumerate(dict.fromkeys(table["arm"])):
        own = table[table["arm"] == arm].set_index("group").reindex(groups)
        figure.add_bar(
            x=[markup(str(one)) for one in groups], y=own["estimate"], name=markup(str(arm)),
            marker={"color": COLOURS[number % len(COLOURS)], "pattern": {"shape": PATTERNS[number % len(PATTERNS)], "solidity": 0.3}},
            error_y={"type": "data", "array": own["high"] - own["estimate"], "arrayminus": own["estimate"] - own["low"], "color": "#7a8793", "width": 5},
            customdata=own[["low", "high"]],
            hovertemplate=f"%{{x}}<br>{markup(str(arm))}: %{{y:.3f}} [%{{customdata[0]:.3f}}, %{{customdata[1]:.3f}}]<extra></extra>",
        )  # fmt: skip
    for level in (0, 1):
        figure.add_hline(y=level, line={"color": RULE, "width": 1.3})
    figure.update_xaxes(showgrid=False, zeroline=False)
    figure.update_yaxes(title="share", gridcolor=RULE, zeroline=False)
    figure.update_layout(barmode="group", bargap=0.3)
    dressed(figure, title=title, height=400, meta=META)
    return placed(figure, {"l": 66, "r": 20, "t": 84, "b": 54}, listed=True)


def _columns(table: pd.DataFrame, wanted: Sequence[str]) -> None:
    absent = [name for name in wanted if name not in table.columns]
    if absent:
        raise PatchingError(f"This table has the columns {', '.join(wanted)}; got {', '.join(map(str, table.columns))}.")


def _said(kinds: Sequence[str], count: pd.DataFrame) -> list[list[str]]:
    return [
        [markup(f"{kind}: {verdict} in {count.loc[kind, verdict]} of {count.loc[kind].sum()}") for verdict in VERDICTS] for kind in kinds
    ]
