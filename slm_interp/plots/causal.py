"""What a causal experiment found, by layer, arm and dose.

| picture | of what |
|---|---|
| `effects_by_layer` | over the layers: whole patch, text swap, the one without the other, and two controls; below it how many cases the lens hears |
| `controls` | every arm at one layer, in groups, with what counts as nothing shaded |
| `doses` | the outcome at every dose of the text swap, beside a straight line |

Every mark has its interval, over clusters of prompts and of words. Lines differ in dash and mark, not in colour alone.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr
from jaxtyping import Float
from plotly.subplots import make_subplots

from slm_interp.errors import PatchingError
from slm_interp.plots.causal_data import ARMS, HIGH, LOW, Half, Unit, at_layer, draws_of, interval, rows_of, summary, with_specific
from slm_interp.plots.theme import RULE, dressed, markup

# Middle tones, which hold on white and on a dark page; on each, the dash and the mark tell lines apart without colour.
LOOKS = {
    "whole": {"colour": "#7a8793", "dash": "solid", "symbol": "square", "width": 3.5},
    "text": {"colour": "#2f74b5", "dash": "solid", "symbol": "circle", "width": 2.5},
    "complement": {"colour": "#d97b29", "dash": "dash", "symbol": "diamond", "width": 2.5},
    "third": {"colour": "#8a63b8", "dash": "dot", "symbol": "x", "width": 2},
    "elsewhere": {"colour": "#2f9463", "dash": "dashdot", "symbol": "triangle-up", "width": 2},
}
BAND = "rgba(128,128,128,0.28)"
NOTHING = "rgba(47,148,99,0.20)"
UNITS = {"share": "share of what tells the prompts apart", "nats": "effect (nats)"}
ROW_PX = 25
META = {"role": "curves", "head_px": 34}


def effects_by_layer(
    table: pd.DataFrame,
    random: xr.DataArray | None,
    reading: pd.DataFrame,
    basis: str,
    layer: int | None = None,
    outcome: str | None = None,
    half: Half = "report",
    unit: Unit = "share",
    title: str | None = None,
) -> go.Figure:
    """Layers to the right: effects above, with the middle 95% of random directions as a ribbon, and the share of cases heard below.

    Shares are of `source - base`, the same for every layer, so that the whole patch is seen to fade where later positions have read the word.

    Args:
        table, random, reading: of a causal experiment (`Effect`); `random` is None where no directions were drawn.
        basis: whose directions.
        layer: the chosen one, which is marked.
        outcome: None where there is one only.
        unit: "nats" where the prompts are not told apart.

    Raises:
        PatchingError: a table of another form; a basis, outcome, half, unit or layer that is not there.
    """
    if unit not in UNITS:
        raise PatchingError(f"Effects are drawn as one of {', '.join(UNITS)}; got {unit!r}.")
    rows = rows_of(table, basis, outcome, half)
    layers = sorted(set(rows["layer"].tolist()))
    figure = make_subplots(2, 1, shared_xaxes=True, row_heights=[0.74, 0.26], vertical_spacing=0.06)
    if random is not None:
        _ribbon(figure, rows, random, basis, layers, unit)
    found = summary(rows, list(LOOKS), "apart" if unit == "share" else None)
    for arm, look in LOOKS.items():
        own = found[(found["arm"] == arm) & (found["dose"] == 1)].sort_values("layer")
        if len(own):
            _line(figure, own, ARMS[arm].label, look, "nats" if unit == "nats" else "of what tells the prompts apart")
    _heard(figure, rows, reading, basis, layers)
    for level in (0.0, 1.0) if unit == "share" else (0.0,):
        figure.add_hline(y=level, line={"color": RULE, "width": 1.2}, row=1, col=1)
    if layer is not None:
        at_layer(rows, layer)
        figure.add_vline(x=layer, line={"color": "#d6336c", "width": 1.5, "dash": "dash"}, layer="below", row="all", col=1)
    names = [f"<b>{one}</b><br>chosen" if one == layer else str(one) for one in layers]
    figure.update_xaxes(
        showgrid=False, zeroline=False, tickmode="array", tickvals=layers, ticktext=names, range=[layers[0] - 0.4, layers[-1] + 0.4]
    )
    figure.update_xaxes(title="layer of resid_post (blocks run)", row=2, col=1)
    figure.update_yaxes(gridcolor=RULE, zeroline=False)
    figure.update_yaxes(title=UNITS[unit], row=1, col=1)
    figure.update_yaxes(title="heard", tickformat=".0%", range=[-0.04, 1.04], tickvals=[0, 0.5, 1], row=2, col=1)
    cases = rows["case"].nunique()
    dressed(figure, title=title or f"{basis}: effects by layer · {_of(half)}, {cases} cases", height=580, meta=META)
    return placed(figure, {"l": 66, "r": 20, "t": 104, "b": 62}, listed=True)


@runtime_checkable
class Found(Protocol):
    """What a causal experiment keeps (`causal.Effect`)."""

    table: pd.DataFrame
    reading: pd.DataFrame

    def random_of(self, outcome: str | None = None) -> xr.DataArray | None:
        """Effects of random directions on this outcome, where some were drawn."""

    def chosen_layer(self, basis: str, outcome: str | None = None) -> int:
        """The layer at which the verdict is asked."""
        ...


def profile(effect: Found, basis: str | None = None, outcome: str | None = None, **options: Any) -> go.Figure:
    """`effects_by_layer` of a whole experiment, its chosen layer marked.

    Args:
        basis, outcome: the first ones where none is named.
        options: further ones of `effects_by_layer`.

    Raises:
        PatchingError: as there; cases that are too few for two halves.
    """
    basis = basis or next(str(one) for one in effect.reading["basis"])
    outcome = outcome or str(effect.table["outcome"].iloc[0])
    if "layer" not in options:
        options["layer"] = effect.chosen_layer(basis, outcome)
    return effects_by_layer(effect.table, effect.random_of(outcome), effect.reading, basis, outcome=outcome, **options)


def controls(
    table: pd.DataFrame,
    random: xr.DataArray | None,
    basis: str,
    layer: int,
    outcome: str | None = None,
    half: Half = "report",
    unit: Unit = "share",
    nothing: float = 0.1,
    title: str | None = None,
) -> go.Figure:
    """Every arm at one layer as a dot with its interval, in groups; the middle 95% of random directions as a bar.

    Args:
        random: None where no directions were drawn.
        unit: "share" of the whole patch at this layer; "nats" where there is none to share.
        nothing: the share that counts as nothing, shaded on both sides of 0.

    Raises:
        PatchingError: as `effects_by_layer`.
    """
    if unit not in UNITS:
        raise PatchingError(f"Effects are drawn as one of {', '.join(UNITS)}; got {unit!r}.")
    rows = with_specific(at_layer(rows_of(table, basis, outcome, half), layer))
    found = summary(rows, list(ARMS), "ceiling" if unit == "share" else None)
    found = found[found["dose"] == 1].set_index("arm")
    ceiling = float(rows[rows["arm"] == "whole"]["effect"].mean()) if unit == "share" else 1.0
    ticks, figure = _rows_of_controls(found, random is not None), go.Figure()
    place = {key: len(ticks) - 1 - number for number, (key, _) in enumerate(ticks)}
    if random is not None:
        _bar(figure, draws_of(random, rows, basis)[place_of(random, layer)] / ceiling, place["random"])
    for arm, own in found.iterrows():
        _dot(figure, own, str(arm), place[str(arm)], unit)
    if unit == "share":
        figure.add_vrect(x0=-nothing, x1=nothing, fillcolor=NOTHING, line={"width": 0}, layer="below")
        figure.add_annotation(x=0, y=1, yref="paper", yanchor="bottom", text=f"nothing: ±{nothing:g}", showarrow=False, font={"size": 11})
        figure.add_vline(x=1, line={"color": RULE, "width": 1.2, "dash": "dash"})
    figure.add_vline(x=0, line={"color": RULE, "width": 1.2})
    figure.update_yaxes(
        tickmode="array", tickvals=[len(ticks) - 1 - number for number in range(len(ticks))], ticktext=[text for _, text in ticks],
        range=[-0.7, len(ticks) - 0.3], showgrid=False, zeroline=False, ticklabelstandoff=8,
    )  # fmt: skip
    figure.update_xaxes(
        title=f"share of the whole patch ({ceiling:.3g} nats)" if unit == "share" else UNITS["nats"], gridcolor=RULE, zeroline=False
    )
    shown = title or f"{basis}: every control at layer {layer} · {_of(half)}, {rows['case'].nunique()} cases"
    dressed(figure, title=shown, height=ROW_PX * len(ticks) + 120, meta=META)
    return placed(figure, {"l": 186, "r": 20, "t": 66, "b": 54})


def doses(
    table: pd.DataFrame, basis: str, layer: int, outcome: str | None = None, half: Half = "report", title: str | None = None
) -> go.Figure:
    """The mean outcome at every dose of the text swap, the line through dose 0 and dose 1, and the outcomes of both prompts as they are.

    Raises:
        PatchingError: as `effects_by_layer`; no text swap of dose 1.
    """
    rows = at_layer(rows_of(table, basis, outcome, half), layer)
    found = summary(rows, ["text"], None).sort_values("dose")
    if not (found["dose"] == 1).any():
        raise PatchingError(
            f"A line of doses goes through dose 1, which layer {layer} of {basis!r} lacks; it has {found['dose'].tolist()}."
        )
    whole, figure = rows.drop_duplicates("case"), go.Figure()
    base, source = float(whole["base"].mean()), float(whole["source"].mean())
    none = pd.DataFrame([{"dose": 0.0, "estimate": 0.0, "low": 0.0, "high": 0.0, "cases": len(whole)}])
    found = pd.concat([found, none], ignore_index=True).sort_values("dose")
    one = float(found.loc[found["dose"] == 1, "estimate"].iloc[0])
    ends = np.array([found["dose"].min(), found["dose"].max()])
    figure.add_scatter(
        x=ends, y=base + one * ends, mode="lines", name="in proportion to dose 1", line={"color": "#7a8793", "dash": "dash", "width": 2}, hoverinfo="skip"
    )  # fmt: skip
    look = LOOKS["text"]
    figure.add_scatter(
        x=found["dose"], y=base + found["estimate"], mode="lines+markers", name="text swap", line={"color": look["colour"], "width": 2.5},
        marker={"size": 9, "symbol": look["symbol"]}, error_y=_bars(found, str(look["colour"])), customdata=found[["estimate", "low", "high"]],
        hovertemplate="dose %{x}: %{y:.3g} nats<br>effect %{customdata[0]:.3g} [%{customdata[1]:.3g}, %{customdata[2]:.3g}]<extra></extra>",
    )  # fmt: skip
    for level, said in ((base, "corrupted prompt as it is"), (source, "clean prompt as it is")):
        figure.add_hline(y=level, line={"color": RULE, "width": 1.5})
        figure.add_annotation(
            x=0.005, xref="paper", y=level, text=said, showarrow=False, xanchor="left", yanchor="bottom", font={"size": 11}
        )  # fmt: skip
    figure.update_xaxes(
        title="dose of the text swap (1: exchanged)", tickmode="array", tickvals=found["dose"], showgrid=False, zeroline=False
    )
    figure.update_yaxes(title="log p(answer) − log p(distractor), nats", gridcolor=RULE, zeroline=False)
    shown = title or f"{basis}: dose and response at layer {layer} · {_of(half)}, {len(whole)} cases"
    dressed(figure, title=shown, height=400, meta=META)
    return placed(figure, {"l": 66, "r": 20, "t": 78, "b": 54}, listed=True)


# ---- parts


def _of(half: Half) -> str:
    return "both halves" if half == "both" else f"{half} half"


def placed(figure: go.Figure, margin: dict[str, int], listed: bool = False) -> go.Figure:
    """The title at the very top, where a page takes it over; what the lines are between it and the picture."""
    legend = {"orientation": "h", "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom", "font": {"size": 12}, "traceorder": "normal"}
    place = {"yref": "container", "y": 1, "yanchor": "top", "pad": {"t": 10}}
    figure.update_xaxes(exponentformat="e").update_yaxes(exponentformat="e")
    return figure.update_layout(margin=margin, showlegend=listed, legend=legend, title=place)


def place_of(random: xr.DataArray, layer: int) -> int:
    """Where a layer is among the draws, which `draws_of` gives in order.

    Raises:
        PatchingError: the draws lack it.
    """
    there = sorted(random["layer"].values.tolist())
    if layer not in there:
        raise PatchingError(f"No random draws at layer {layer}; there are {there}.")
    return int(there.index(layer))


def _bars(found: pd.DataFrame, colour: str) -> dict[str, object]:
    red, green, blue = (int(colour[digit : digit + 2], 16) for digit in (1, 3, 5))
    up, down = found["high"] - found["estimate"], found["estimate"] - found["low"]
    return {"type": "data", "array": up, "arrayminus": down, "color": f"rgba({red},{green},{blue},0.6)", "thickness": 1.3, "width": 3}


def _line(figure: go.Figure, own: pd.DataFrame, name: str, look: dict[str, object], said: str) -> None:
    colour = str(look["colour"])
    figure.add_scatter(
        x=own["layer"], y=own["estimate"], error_y=_bars(own, colour), mode="lines+markers", name=name,
        line={"color": colour, "dash": look["dash"], "width": look["width"]}, marker={"symbol": look["symbol"], "size": 8},
        customdata=own[["low", "high", "cases"]], row=1, col=1,
        hovertemplate=f"<b>{markup(name)}</b>, layer %{{x}}<br>%{{y:.3f}} [%{{customdata[0]:.3f}}, %{{customdata[1]:.3f}}] {said}"
        "<br>%{customdata[2]} cases<extra></extra>",
    )  # fmt: skip


def _ribbon(figure: go.Figure, rows: pd.DataFrame, random: xr.DataArray, basis: str, layers: list[int], unit: Unit) -> None:
    """The middle 95% of the draws by layer."""
    draws = draws_of(random, rows, basis)[[place_of(random, layer) for layer in layers]]
    cases = rows.drop_duplicates("case")
    low, high = np.percentile(draws, [LOW, HIGH], axis=1) / (float((cases["source"] - cases["base"]).mean()) if unit == "share" else 1.0)
    none = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    figure.add_scatter(x=layers, y=low, showlegend=False, row=1, col=1, **none)
    figure.add_scatter(
        x=layers, y=high, fill="tonexty", fillcolor=BAND, name=f"random directions, middle 95% of {draws.shape[1]:,}", row=1, col=1, **none
    )  # fmt: skip


def _heard(figure: go.Figure, rows: pd.DataFrame, reading: pd.DataFrame, basis: str, layers: list[int]) -> None:
    """The share of cases in which the lens ranks the clean word first in the clean run."""
    labels = rows.drop_duplicates("case")[["case", "prompt", "word"]]
    own = reading[reading["basis"] == basis].drop(columns=["prompt", "word"], errors="ignore").merge(labels, on="case")
    found = []
    for layer in layers:
        part = own[own["layer"] == layer]
        if len(part):
            found.append((layer, *interval(part, part["heard"].to_numpy(dtype=np.float64)), float(part["margin"].mean()), len(part)))
    shown = pd.DataFrame(found, columns=["layer", "estimate", "low", "high", "margin", "cases"])
    figure.add_scatter(
        x=shown["layer"], y=shown["estimate"], error_y=_bars(shown, "#2f74b5"), mode="lines+markers", showlegend=False, row=2, col=1, name="heard",
        line={"color": "#2f74b5", "width": 2}, marker={"size": 7}, customdata=shown[["low", "high", "margin", "cases"]],
        hovertemplate="layer %{x}: the lens hears the word in %{y:.0%} [%{customdata[0]:.0%}, %{customdata[1]:.0%}] of %{customdata[3]} cases"
        "<br>mean margin %{customdata[2]:.3g}<extra></extra>",
    )  # fmt: skip


def _bar(figure: go.Figure, draws: Float[np.ndarray, " draw"], y: int) -> None:
    """The middle 95% of the draws, and their mean."""
    low, high = np.percentile(draws, [LOW, HIGH])
    figure.add_shape(type="rect", x0=float(low), x1=float(high), y0=y - 0.3, y1=y + 0.3, fillcolor=BAND, line={"width": 0})
    figure.add_scatter(
        x=[float(np.mean(draws))], y=[y], mode="markers", marker={"symbol": "line-ns-open", "size": 13, "color": "#7a8793"}, name="random",
        hovertemplate=f"<b>random directions</b> of the same length<br>{len(draws):,} draws: 95% from {low:.3g} to {high:.3g}<extra></extra>",
    )  # fmt: skip


def _rows_of_controls(found: pd.DataFrame, random: bool) -> list[tuple[str, str]]:
    """Key and label of every row from the top, groups under their names."""
    ticks: list[tuple[str, str]] = []
    for group in dict.fromkeys(arm.group for arm in ARMS.values()):
        own = [(name, arm.label) for name, arm in ARMS.items() if arm.group == group and name in found.index]
        own += [("random", "random directions")] if random and group == "directions" else []
        ticks += [(f"group {group}", f"<b>{group}</b>"), *own] if own else []
    return ticks


def _dot(figure: go.Figure, own: pd.Series, arm: str, y: int, unit: Unit) -> None:
    look = LOOKS.get(arm, {"colour": "#5f7d95", "symbol": "circle-open"})
    mark = {
        "color": look["colour"],
        "symbol": look["symbol"],
        "size": 10,
        "line": {"width": 0 if arm in LOOKS else 2, "color": look["colour"]},
    }
    bars = {"type": "data", "array": [own["high"] - own["estimate"]], "arrayminus": [own["estimate"] - own["low"]]}
    said = f"of the {ARMS[ARMS[arm].of].label}" if unit == "share" else "nats"
    figure.add_scatter(
        x=[own["estimate"]], y=[y], mode="markers", marker=mark, error_x={**bars, "color": look["colour"], "thickness": 1.6, "width": 4}, name=arm,
        hovertemplate=f"<b>{markup(ARMS[arm].label)}</b>: %{{x:.3f}} [{own['low']:.3f}, {own['high']:.3f}] {markup(said)}"
        f"<br>{markup(ARMS[arm].said)}<br>{int(own['cases'])} cases<extra></extra>",
    )  # fmt: skip
