"""C3, speaking out: whose next word is said after a swap, and does the effect grow with what the lens reads?

    effect = causal.run(slm, cases, lens, layers=[5, 6, 7])             # cases about the word each prompt goes on with, where it ends
    found = speaking_out(effect)
    found.flips(layer=6)                                                # share of cases whose sign turns
    found.slope(layer=6)                                                # nats of effect for each unit of margin

Two things beside the mean effect of `verdict.md`:

1. **Flip rate.** A case *can flip* where the corrupted and the clean prompt have outcomes of two signs: there an exchange of all that differs turns the
   sign. Of these cases, the share in which an arm turns the sign of the corrupted prompt's outcome. Nats are not choices: 2 nats do not flip a case at -8.
2. **Slope on decodability.** The margin of a case is how much more the basis reads the clean prompt's word than the corrupted one's in the clean run, less the
   same in the corrupted run (the most over the span's positions for each word). Least squares of the effect on the margin over cases; whole clusters are
   drawn. If text drives the speech, cases whose text says more have more effect. A swap moves the stream by about the margin, so some slope is expected
   wherever the arm has an effect at all; `slope(of="whole")` beside it tells whether the cases are simply larger in everything.

Nothing is run here: the effects and margins are those of the main experiment.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from slm_interp import statistics
from slm_interp.causal.effect import Effect
from slm_interp.causal.questions import results
from slm_interp.errors import PatchingError, StatisticsError
from slm_interp.statistics import Interval

NEEDED = ("case", "prompt", "word", "basis", "layer", "arm", "dose", "outcome", "base", "source", "value", "effect")


@dataclass(frozen=True)
class SpeakingOut:
    """Effects with what the basis reads, case by case.

    Args:
        table: one row a case, layer and arm, with the columns `NEEDED`; arms of no basis have the basis "".
        reading: `case basis layer margin`.
    """

    table: pd.DataFrame
    reading: pd.DataFrame

    def __post_init__(self) -> None:
        missing = [name for name in NEEDED if name not in self.table.columns]
        missing += [name for name in ("case", "basis", "layer", "margin") if name not in self.reading.columns]
        if missing or self.table.empty or self.reading.empty:
            raise PatchingError(f"Speaking out needs rows of effects and of what is read; there are no {', '.join(missing) or 'rows'}.")

    def rows(self, arm: str = "text", layer: int | None = None, basis: str | None = None, outcome: str | None = None) -> pd.DataFrame:
        """The rows of one arm at dose 1, layer, basis and outcome, with the margin of each case at that layer.

        Raises:
            PatchingError: no such rows, or several to choose from.
        """
        which = {"arm": arm, "dose": 1.0} | {name: value for name, value in (("layer", layer), ("outcome", outcome)) if value is not None}
        own = results.chosen(self.table, **which)
        read = self.reading if basis is None else results.chosen(self.reading, basis=basis)
        own = own[own["basis"].isin([*read["basis"].unique(), ""])]
        if (own["basis"] != "").any():  # the band is of a basis, and of none where it is of whole residuals
            own = own[own["basis"] != ""]
        for name, there in (("layer", own["layer"]), ("outcome", own["outcome"]), ("basis", read["basis"])):
            if there.nunique() > 1:
                raise PatchingError(
                    f"There is more than one {name}: {', '.join(map(str, sorted(there.unique())))}. Choose one with {name}=."
                )
        return own.merge(read[["case", "layer", "margin"]], on=["case", "layer"], how="left", validate="one_to_one")

    def flips(
        self, layer: int | None = None, basis: str | None = None, outcome: str | None = None, level: float = 0.95, seed: int = 0
    ) -> pd.DataFrame:
        """One row an arm: the share of cases whose sign it turns, with a clustered interval, and how many cases could.

        Raises:
            PatchingError: as `rows`; no case in which the prompts have outcomes of two signs.
            StatisticsError: too few clusters.
        """
        found = []
        there = results.chosen(self.table, dose=1.0) if layer is None else results.chosen(self.table, dose=1.0, layer=layer)
        for arm in there["arm"].unique():
            rows = self.rows(arm, layer, basis, outcome)
            able = rows[np.sign(rows["base"]) * np.sign(rows["source"]) < 0]
            if able.empty:
                raise PatchingError(
                    f"None of {len(rows)} cases has prompts with outcomes of two signs, so no sign can turn. Whole words of unequal length "
                    "lean one way: choose units=1."
                )
            turned = able.assign(turned=(np.sign(able["value"]) * np.sign(able["base"]) < 0).astype(float))
            one = results.means(turned, ["turned"], level, seed)["turned"]
            found.append(
                {
                    "arm": arm,
                    "flips": float(one.estimate),
                    "low": float(one.low),
                    "high": float(one.high),
                    "cases": len(able),
                    "of": len(rows),
                }
            )
        return pd.DataFrame(found)

    def slope(
        self,
        layer: int | None = None,
        basis: str | None = None,
        outcome: str | None = None,
        of: str = "text",
        level: float = 0.95,
        seed: int = 0,
    ) -> Interval:
        """The least-squares slope of an arm's effect on the margin, over cases, with whole clusters drawn.

        Args:
            of: the arm.

        Raises:
            PatchingError: as `rows`.
            StatisticsError: too few clusters; margins that do not vary, in the cases or in a draw of them.
        """
        rows = self.rows(of, layer, basis, outcome)
        values = rows[["margin", "effect"]].to_numpy(float)
        if np.isfinite(values).all() and np.ptp(values[:, 0]) == 0:
            raise StatisticsError(f"All {len(values)} cases have the same margin, {values[0, 0]:.3g}; there is no slope.")
        found = statistics.bootstrap(values, results.clusters_of(rows), slope_of, level=level, seed=seed)
        if not np.isfinite([found.low, found.high]).all():
            raise StatisticsError("In some draws of clusters all margins are the same, so that there is no slope. Give more clusters.")
        return found

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write two Parquet files into a folder, each whole or not at all."""
        results.save_table(self.table, os.path.join(folder, "effects.parquet"))
        results.save_table(self.reading, os.path.join(folder, "reading.parquet"))

    @staticmethod
    def load(folder: str | os.PathLike[str]) -> SpeakingOut:
        """Read what `save` wrote; errors as `results.load_table`."""
        table = results.load_table(os.path.join(folder, "effects.parquet"), NEEDED)
        return SpeakingOut(table, results.load_table(os.path.join(folder, "reading.parquet"), ("margin",)))

    def __repr__(self) -> str:
        own = self.table
        return f"SpeakingOut({own['case'].nunique()} cases, layers {sorted(own['layer'].unique())}, arms {', '.join(own['arm'].unique())})"

    def _repr_html_(self) -> str:
        able = self.table[np.sign(self.table["base"]) * np.sign(self.table["source"]) < 0]
        turned = able.assign(flips=np.sign(able["value"]) * np.sign(able["base"]) < 0)
        shown = turned.groupby(["basis", "layer", "arm", "outcome"], sort=False).agg(
            cases=("case", "nunique"), effect=("effect", "mean"), flips=("flips", "mean")
        )
        return results.html_of(
            "Speaking out", shown.reset_index(), "Cases whose prompts have outcomes of two signs; flips is the share whose sign is turned."
        )


def slope_of(values: Float[np.ndarray, " item column"], weights: Float[np.ndarray, "draw item"]) -> Float[np.ndarray, " draw"]:
    """Weighted least-squares slope of the second column on the first, a `statistic` of `bootstrap`; NaN where the first does not vary."""
    x, y = values.T
    centre = (weights @ x / weights.sum(1))[:, None]
    apart = x[None] - centre
    spread = (weights * apart**2).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(spread > 1e-12 * (weights @ x**2), (weights * apart) @ y / spread, np.nan)


def speaking_out(effect: Effect) -> SpeakingOut:
    """Flips and slopes of a causal test about the word that is said next: `causal.run` of such cases, with the arms that are wanted."""
    return SpeakingOut(effect.table, effect.reading)
