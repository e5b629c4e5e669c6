"""C12: the same test asked of several models, such as one that was interleaved and controls in which nothing should be found.

    found = across({"interleaved": effect, "speech only": control})
    found.table                                             # verdicts and shares, a line for each model and basis
    found.difference("interleaved", "speech only", "logit", "specific", "nats")
    found.plot()

1. Each model gives its own verdict by the rule, at its own layer, chosen on its own development half.
2. Two verdicts in different words are no difference between models: one may just have missed a bound. `difference` is the interval of the difference itself.
3. Where both models were asked the same cases, the same clusters are drawn for both, so that what cases have in common cancels; else each is drawn by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
import pandas as pd
from jaxtyping import Float

from slm_interp.causal import effect_shares
from slm_interp.causal.effect import Effect
from slm_interp.causal.verdict import Measured, decide
from slm_interp.errors import PatchingError, StatisticsError
from slm_interp.statistics import Interval, resampled

if TYPE_CHECKING:
    import plotly.graph_objects as go

Unit: TypeAlias = Literal["share", "nats"]
ALL = "all"  # the basis of lines about the lenses together
SHARES = ("text", "complement", "specific", "here")


@dataclass(frozen=True, eq=False)
class Across:
    """One test in several models.

    Args:
        table: one row for each model and basis, and one for its lenses together (basis "all"): `model basis layer verdict line cases reason`, `ceiling` and
            `margin` (nats, logits), shares of the ceiling `text complement specific here`, each with `_low` and `_high`, and the
            `percentile` of text among random draws. Where the arm `direct` was run, `direct` and `later` (text less direct) are the shares that text has
            by its overlap with the rows of `W_U`, all later blocks frozen, and by way of these blocks.
        measured: what the rule was asked of, by model and basis.
        outcome: what was measured.
    """

    table: pd.DataFrame
    measured: Mapping[tuple[str, str], Measured]
    outcome: str

    @property
    def models(self) -> tuple[str, ...]:
        """Their names, in order."""
        return tuple(dict.fromkeys(self.table["model"]))

    def difference(
        self,
        one: str,
        other: str,
        basis: str,
        what: str = "text",
        unit: Unit = "share",
        level: float = 0.95,
        draws: int = 2000,
        seed: int = 0,
    ) -> Interval:
        """What a column is in one model less what it is in another: of its report half, at its own layer.

        Args:
            what: `whole`, `text`, `complement`, `third`, `elsewhere`, `specific` (text less third) or `here` (text less elsewhere).
            unit: "share" of each model's own ceiling, or "nats".

        Raises:
            PatchingError: a model, basis, column or unit that is not there.
            StatisticsError: shares of a model whose ceiling is not told from 0.
        """
        if unit not in get_args(Unit):
            raise PatchingError(f"Differences are in {' or '.join(map(repr, get_args(Unit)))}; got {unit!r}.")
        pair = [self._of(name, basis) for name in (one, other)]
        values = []
        for name, measured in zip((one, other), pair, strict=True):
            columns = measured.columns
            if what not in columns:
                raise PatchingError(f"{name!r} was measured by {', '.join(columns)}; got {what!r}.")
            values.append(np.stack([columns[what], columns["whole"]], 1))
        drawn = self._drawn(pair, values, draws, seed)
        if unit == "share":
            low = [float(np.quantile(means[:, 1], (1 - level) / 2)) for means in drawn]
            if min(low) <= 0:
                raise StatisticsError(
                    f"The whole patch is not told from 0 in {(one, other)[int(np.argmin(low))]!r}, so nothing can be a share of it. Take unit='nats'."
                )
        first, second = (means[:, 0] / means[:, 1] if unit == "share" else means[:, 0] for means in drawn)
        estimates = [own[:, 0].mean() / own[:, 1].mean() if unit == "share" else own[:, 0].mean() for own in values]
        ends = np.quantile(first - second, [(1 - level) / 2, (1 + level) / 2])
        clusters = {
            f"{way} of {name}": len(set(labels)) for name, own in zip((one, other), pair, strict=True) for way, labels in own.ways.items()
        }
        return Interval(np.asarray(estimates[0] - estimates[1]), np.asarray(ends[0]), np.asarray(ends[1]), level, clusters)

    def plot(self, **options: Any) -> go.Figure:
        """Shares of text and complement, a line for each model and basis; options as in `slm_interp.plots.causal_models`."""
        return import_module("slm_interp.plots.causal_models").forest(self.table, **options)

    def _of(self, model: str, basis: str) -> Measured:
        if (model, basis) not in self.measured:
            known = ", ".join(f"{name} by {own}" for name, own in self.measured)
            raise PatchingError(f"There are {known}; got {model!r} by {basis!r}.")
        return self.measured[model, basis]

    @staticmethod
    def _drawn(pair: list[Measured], values: list[Float[np.ndarray, "case 2"]], draws: int, seed: int) -> list[Float[np.ndarray, "draw 2"]]:
        """Means under draws of clusters, the same for both models where they have the same labels."""
        labels = [{way: list(own) for way, own in measured.ways.items()} for measured in pair]
        if labels[0] == labels[1]:
            together = resampled(np.concatenate(values, 1), pair[0].ways, draws=draws, seed=seed)
            return [together[:, :2], together[:, 2:]]
        return [
            resampled(own, measured.ways, draws=draws, seed=seed + number)
            for number, (own, measured) in enumerate(zip(values, pair, strict=True))
        ]

    def __repr__(self) -> str:
        together = self.table[self.table["basis"] == ALL]
        said = ", ".join(f"{model}: {verdict}" for model, verdict in zip(together["model"], together["verdict"], strict=True))
        return f"Across({self.outcome}; {said})"

    def _repr_html_(self) -> str:
        shown = self.table.drop(columns="reason").to_html(index=False, float_format="{:.2f}".format)
        return f"<div><b>{escape(repr(self))}</b>{shown}</div>"


def across(effects: Mapping[str, Effect], outcome: str | None = None) -> Across:
    """Verdicts of several models side by side.

    Args:
        effects: of the same test, by the name of the model.
        outcome: the first one of the first effect where none is named; all effects have it.

    Raises:
        PatchingError: no effect, or as `Effect.measured`.
        StatisticsError: as `verdict.decide`.
    """
    if not effects:
        raise PatchingError("Models are compared by the effects of one test or more, by name; got none.")
    outcome = outcome or next(iter(effects.values())).outcomes[0]
    rows: list[dict[str, Any]] = []
    measured: dict[tuple[str, str], Measured] = {}
    for model, effect in effects.items():
        together = effect.verdict(None, outcome)
        rows.append({"model": model, "basis": ALL, "verdict": together.word, "reason": together.reason})
        for basis in effect.bases:
            layer = effect.chosen_layer(basis, outcome)
            measured[model, basis] = effect.measured(basis, outcome, layer)
            rows.append(
                {"model": model, "basis": basis, "layer": layer, **_line(measured[model, basis]), **_by_way(effect, basis, outcome, layer)}
            )
    columns = ["model", "basis", "layer", "verdict", "line", "cases"]
    table = pd.DataFrame(rows)
    rest = [name for name in table.columns if name not in (*columns, "reason")]
    return Across(table[[*columns, *rest, "reason"]].astype(dict.fromkeys(("layer", "line", "cases"), "Int64")), measured, outcome)


def _line(measured: Measured) -> dict[str, Any]:
    """What the rule says of one basis, and the numbers beside it."""
    verdict = decide(measured)
    row: dict[str, Any] = {"verdict": verdict.word, "line": verdict.line, "cases": verdict.cases, "percentile": verdict.percentile}
    found = {"ceiling": verdict.ceiling, "margin": verdict.evidence.means["margin"], **{name: verdict.shares.get(name) for name in SHARES}}
    for name, one in found.items():
        ends = (one.estimate, one.low, one.high) if one is not None else (np.nan,) * 3
        row |= dict(zip((name, f"{name}_low", f"{name}_high"), map(float, ends), strict=True))
    return row | {"reason": verdict.reason}


def _by_way(effect: Effect, basis: str, outcome: str, layer: int) -> dict[str, float]:
    """The parts of the share of text that reach the logits directly, and by way of later blocks, of the cases that the verdict is about."""
    if "direct" not in effect.arms:
        return {}
    reported = effect.reported(basis, outcome, layer)
    direct = effect.effects("direct", basis, outcome, "report")[layer].loc[reported.index]
    row: dict[str, float] = {}
    for name, own in (("direct", direct), ("later", reported["text"] - direct)):
        found = effect_shares.at_a_layer(own.to_numpy(), reported["whole"].to_numpy(), effect.clusters(list(own.index)))
        row |= {name: found["share"], f"{name}_low": found["low"], f"{name}_high": found["high"]}
    return row
