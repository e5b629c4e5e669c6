"""What is drawn of a causal experiment: for each basis a layer, a half of the cases, and the four pictures of them."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go

from slm_interp.causal.effect import Effect
from slm_interp.errors import PatchingError
from slm_interp.plots.causal import controls, doses, effects_by_layer
from slm_interp.plots.causal_data import Half, Unit, at_layer, rows_of, told_apart
from slm_interp.plots.causal_random import random_directions


@dataclass(frozen=True, eq=False)
class Shown:
    """Where one basis is looked at.

    Args:
        basis, layer, outcome, half: of the table.
        unit: "nats" where shares mean nothing, since the prompts are not told apart or the whole patch moves nothing.
        rows: of the table at this layer.
        said: how the layer came about.
    """

    basis: str
    layer: int
    outcome: str
    half: Half
    unit: Unit
    rows: pd.DataFrame
    said: str


def shown(effect: Effect, outcome: str | None = None) -> list[Shown]:
    """Every basis at its chosen layer, on the half that did not choose; where cases are too few for halves, all of them at the layer of most text."""
    return [_shown(effect, basis, outcome or effect.outcomes[0]) for basis in effect.bases]


def _shown(effect: Effect, basis: str, outcome: str) -> Shown:
    try:
        layer, half = effect.chosen_layer(basis, outcome), "report"
        said = f"Layer {layer} was chosen on the development half: there text does most beyond a third word, among the layers at which the whole patch has half of its largest effect. The report half is shown."  # noqa: E501
    except PatchingError as error:
        layer, half = _most_text(effect, basis, outcome), "both"
        said = f"Nothing was chosen: {error} Layer {layer}, where text does most, is shown on all cases; it looks better than it is."
    rows = rows_of(effect.table, basis, outcome, half)  # type: ignore[arg-type]  # one of the two above
    here = at_layer(rows, layer)
    whole = here[here["arm"] == "whole"]
    unit: Unit = (
        "share"
        if told_apart(rows) and whole["effect"].mean() > 0 and told_apart(whole.assign(source=whole["base"] + whole["effect"]))
        else "nats"
    )
    return Shown(basis, layer, outcome, half, unit, here, said)  # type: ignore[arg-type]  # as above


def _most_text(effect: Effect, basis: str, outcome: str) -> int:
    return int(effect.effects("text", basis, outcome, "both").mean().idxmax())


def figures_of(effect: Effect, one: Shown) -> dict[str, go.Figure]:
    """The pictures of one basis: `by_layer`, `controls`, `doses` where there are some, `random` where directions were drawn."""
    where = {"outcome": one.outcome, "half": one.half}
    random = effect.random_of(one.outcome)
    found = {
        "by_layer": effects_by_layer(effect.table, random, effect.reading, one.basis, one.layer, unit=one.unit, **where),  # type: ignore[arg-type]
        "controls": controls(effect.table, random, one.basis, one.layer, unit=one.unit, **where),  # type: ignore[arg-type]
    }
    if len(one.rows[one.rows["arm"] == "text"]["dose"].unique()) > 1:
        found["doses"] = doses(effect.table, one.basis, one.layer, **where)  # type: ignore[arg-type]
    if random is not None:
        found["random"] = random_directions(effect.table, random, one.basis, one.layer, effect.random_exact, **where)  # type: ignore[arg-type]
    return found
