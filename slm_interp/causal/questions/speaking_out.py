"""C3, speaking out: whose next word is said after a swap, and does the effect grow with what the lens reads?

    found = speaking_out(slm, cases, basis, layers=[5, 6, 7])           # cases about the word each prompt goes on with, where it ends
    found.flips(layer=6)                                                # share of cases whose sign turns
    found.slope(layer=6)                                                # nats of effect for each unit of margin

Two things beside the mean effect of `verdict.md`:

1. **Flip rate.** A case *can flip* where the corrupted and the clean prompt have outcomes of two signs: there an exchange of all that differs turns the
   sign. Of these cases, the share in which an arm turns the sign of the corrupted prompt's outcome. Nats are not choices: 2 nats do not flip a case at -8.
2. **Slope on decodability.** The margin of a case is how much more the basis reads the clean prompt's word than the corrupted one's in the clean run, less the
   same in the corrupted run (the most over the span's positions for each word). Least squares of the effect on the margin over cases; whole clusters are
   drawn. If text drives the speech, cases whose text says more have more effect. A swap moves the stream by about the margin, so some slope is expected
   wherever the arm has an effect at all; `slope(of="whole")` beside it tells whether the cases are simply larger in everything.

`flips` and `slope` are of tables with the columns of an `Effect`: they take those of the main experiment (`SpeakingOut(effect.table, effect.reading)`)
as well as those that are made here, from the arms `text`, `third` and `whole` alone.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from slm_interp import statistics
from slm_interp.causal.cases import Case, checked_cases
from slm_interp.causal.questions import results
from slm_interp.causal.questions.bases import Directed, pairs_of, scores_of
from slm_interp.causal.questions.running import checked_layers
from slm_interp.errors import PatchingError, StatisticsError
from slm_interp.hooked import MEMORY
from slm_interp.model import SpeechTextModel
from slm_interp.patching import outcomes
from slm_interp.patching.engine import Grid, Patch, patched, ran, score
from slm_interp.patching.interventions import SwapCoordinates
from slm_interp.patching.outcomes import Outcome
from slm_interp.patching.places import hooks_of, standing
from slm_interp.patching.policies import Policy, Stretch, policy_of
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


def margins(
    slm: SpeechTextModel,
    case: Case,
    basis: Directed,
    layers: Sequence[int],
    streams: tuple[Float[Tensor, "layer clean_pos d_model"], Float[Tensor, "layer corrupted_pos d_model"]],
) -> list[float]:
    """How much more the basis reads the clean word than the corrupted one in the clean run, less the same in the corrupted run, at each layer.

    Args:
        streams: of the clean and of the corrupted prompt, at these layers.
    """
    found = []
    for number, layer in enumerate(layers):
        read = []
        for stream, span in zip(streams, (case.span.clean, case.span.corrupted), strict=True):
            scores = scores_of(slm, basis, stream[number, span.start : span.stop], layer, [case.words.clean, case.words.corrupted])
            best = scores.amax(0)
            read.append(float(best[0] - best[1]))
        found.append(read[0] - read[1])
    return found


def speaking_out(
    slm: SpeechTextModel,
    cases: Sequence[Case],
    basis: Directed,
    layers: Sequence[int] | None = None,
    outcome: Outcome | None = None,
    policy: str | Policy | None = None,
    memory: int = MEMORY,
) -> SpeakingOut:
    """Swap the text of what is said next, and whole residuals, at each layer.

    Args:
        cases: about the words each prompt goes on with; where one has a third word, that is swapped in too.
        layers: of `resid_post`, in blocks run; None is all.
        outcome: None is `outcomes.difference(units=1)`.
        policy: how spans of unequal length meet in the whole patch; None takes spans of one length alone.
        memory: bytes that a batch of runs may take beside the model.

    Raises:
        PatchingError: layers that are not there, spans that do not meet, words whose directions depend on each other, values that are not finite.
    """
    outcome, pairing = outcome or outcomes.difference(units=1), policy_of(policy)
    grid = Grid("resid_post", checked_layers(slm, layers), None, memory)
    rows: list[dict[str, object]] = []
    read: list[dict[str, object]] = []
    for case in tqdm(checked_cases(cases), desc="speaking out", unit="case", disable=None):
        names = hooks_of(grid.site, grid.layers)
        base, source = (ran(slm, prompt, case.contrast, outcome, names) for prompt in (case.base, case.source))
        reference = source.logits if outcome.reference else None
        here, there = (standing(one.kept.at, grid.site, grid.layers, None)[:, 0] for one in (base, source))
        patches = _patches(case, basis, grid.layers, pairing, there, here)
        values = patched(slm, base, list(patches.values()), here[:, None], grid, outcome, reference)[..., 0]
        ends = {"base": score(outcome, base, reference), "source": score(outcome, source, reference)}
        for number, layer in enumerate(grid.layers):
            for place, arm in enumerate(patches):
                value = float(values[number, place])
                said: dict[str, object] = {
                    "basis": "" if arm == "whole" else basis.name,
                    "layer": layer,
                    "arm": arm,
                    "dose": 1.0,
                    "outcome": outcome.name,
                }
                rows.append({**results.labels_of(case), **said, **ends, "value": value, "effect": value - ends["base"]})
        margin = margins(slm, case, basis, grid.layers, (there, here))
        read += [
            {"case": case.name, "basis": basis.name, "layer": layer, "margin": one} for layer, one in zip(grid.layers, margin, strict=True)
        ]
    return SpeakingOut(pd.DataFrame(rows), pd.DataFrame(read))


def _patches(
    case: Case,
    basis: Directed,
    layers: Sequence[int],
    pairing: Policy,
    there: Float[Tensor, "layer source_pos d_model"],
    here: Float[Tensor, "layer base_pos d_model"],
) -> dict[str, Patch]:
    """What each arm writes: `text`, `third` where there is a third word, `whole`."""
    span = case.span.corrupted
    own = here[:, span.start : span.stop]
    positions = torch.arange(span.start, span.stop)
    words = {"text": case.words.clean} | ({} if case.words.third is None else {"third": case.words.third})
    found = {}
    for arm, word in words.items():
        made = [
            SwapCoordinates(*pairs_of(basis, layer, word, case.words.corrupted))(own[n : n + 1], None) for n, layer in enumerate(layers)
        ]
        found[arm] = Patch(positions, torch.stack(made))
    meets = pairing(Stretch(case.source, case.span.clean), Stretch(case.base, span))
    found["whole"] = Patch(meets.base, meets.values(there, here)[:, None])
    return found
