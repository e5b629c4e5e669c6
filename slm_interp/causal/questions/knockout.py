"""C9, read-out knockout: later positions may not look at the cells where the word is best decoded. Is the word's effect on the speech gone?

    cells = peak_cells(slm, development, basis, count=3)       # cells are (places from the end of the word, layers), chosen on some cases
    found = knockout(slm, report, cells)                       # and knocked out on others
    found.shares()                                             # how much of the difference between the prompts is lost, by arm

1. Cells are chosen on some cases (`decoded_cells.py`) and knocked out on others.
2. A knockout takes, from the positions after the word (the continuation's too), all heads' attention to the cells in those blocks. Scores become minus
   infinity before the softmax, so that the rest sums to 1 again (`cut_attention`), or weights become 0 after it and nothing takes their place
   (`zeroed_attention`).
3. Both prompts are run so. `kept` is the difference of their outcomes that is left, and `lost` what is gone of `source - base`. What a knockout
   damages in both alike is in neither.

| arm | cells |
|---|---|
| `peak` | those that were chosen |
| `rest` | all other cells of the word at blocks that read |
| `span` | all of the word: the ceiling of what direct reading carries |
| `matched` | as many others in the same blocks, off the word, with the most like attention; `mass` says how like |

`mass` is the attention that is taken, summed over heads and cells and averaged over positions that look, in the run of the clean prompt. Position 0, on
which attention rests, is never `matched`.

A knockout says *where* the word is read, not *in what form*: everything at a cell is cut, text and whatever else stands there. In a planted shadow, whose
speech comes from a secret code, cutting the best-decoded cells takes the whole effect away. Only beside C1 does it speak about text. And information
that moved on within the word before it is read is not cut.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from slm_interp import hooked
from slm_interp.causal.cases import Case, checked_cases
from slm_interp.causal.questions import results
from slm_interp.causal.questions.decoded_cells import SIDES, Cells
from slm_interp.causal.questions.running import Bench
from slm_interp.errors import PatchingError
from slm_interp.model import SpeechTextModel
from slm_interp.patching import outcomes
from slm_interp.patching.interventions.attention import Heads, cut_attention
from slm_interp.patching.interventions.stream import Hook
from slm_interp.patching.outcomes import Outcome
from slm_interp.patching.spans import Side
from slm_interp.statistics import Interval

How: TypeAlias = Literal["renormalised", "zeroed"]
Places: TypeAlias = Mapping[int, Sequence[int]]
"""Positions by block."""
ARMS = ("peak", "rest", "span", "matched")
NEEDED = ("case", "prompt", "word", "arm", "base", "source", "ceiling", "kept", "lost", "mass", "cells")


def zeroed_attention(sources: Sequence[int], destinations: Sequence[int], heads: Heads) -> list[Hook]:
    """Attention weights of destinations to sources are 0 and nothing takes their place: what heads write shrinks.

    Args:
        heads: by block.
    """

    def zero(own: Sequence[int]) -> Callable[[Tensor, Any], Tensor]:
        def hook(pattern: Float[Tensor, "batch head dest source"], hook: Any) -> Float[Tensor, "batch head dest source"]:
            pattern = pattern.clone()
            index = torch.meshgrid(*(torch.tensor(list(one), device=pattern.device) for one in (own, destinations, sources)), indexing="ij")
            pattern[:, index[0], index[1], index[2]] = 0
            return pattern

        return hook

    return [(hooked.hook_at("pattern", layer), zero(own)) for layer, own in heads.items()]


def knocked(slm: SpeechTextModel, places: Places, destinations: Sequence[int], how: How, heads: Heads | None = None) -> list[Hook]:
    """Hooks by which no destination looks at these positions in these blocks; none where there is nothing to cut.

    Args:
        places: positions by block.
        heads: by block, of those that are cut; None is all.

    Raises:
        PatchingError: another way of cutting, a destination that would be left with nothing to look at.
    """
    if how not in ("renormalised", "zeroed"):
        raise PatchingError(f"Attention is 'renormalised' after a cut, or 'zeroed'; got {how!r}.")
    hooks: list[Hook] = []
    for block, own in places.items():
        cut = {block: list(range(slm.model.cfg.n_heads)) if heads is None else list(heads.get(block, []))}
        if not own or not cut[block] or not destinations:
            continue
        hooks += cut_attention(slm.model, own, destinations, cut) if how == "renormalised" else zeroed_attention(own, destinations, cut)
    return hooks


@dataclass(frozen=True)
class Knockout:
    """What is lost when later positions cannot look at some cells.

    Args:
        table: one row a case and arm: `case prompt word arm base source ceiling clean corrupted kept lost mass cells`. `clean` and `corrupted` are outcomes of
            the knocked-out runs, `kept` their difference, `lost = ceiling - kept`.
        outcome, unit: what was measured.
        how: attention was cut.
    """

    table: pd.DataFrame
    outcome: str
    unit: str
    how: str

    def shares(self, level: float = 0.95, seed: int = 0) -> pd.DataFrame:
        """One row an arm: the share of the ceiling that is lost, with a clustered interval, and the mean attention that was cut.

        Raises:
            StatisticsError: too few clusters, a ceiling that is not told from 0.
        """
        rows = []
        for arm in self.table["arm"].unique():
            own = results.chosen(self.table, arm=arm)
            one: Interval = results.shares(own, ["lost"], "ceiling", level, seed)["lost"]
            rows.append(
                {
                    "arm": arm,
                    "lost": float(one.estimate),
                    "low": float(one.low),
                    "high": float(one.high),
                    "mass": float(own["mass"].mean()),
                    "cells": float(own["cells"].mean()),
                    "cases": len(own),
                }
            )
        return pd.DataFrame(rows)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a Parquet file, whole or not at all."""
        results.save_table(self.table.assign(outcome=self.outcome, unit=self.unit, how=self.how), path)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Knockout:
        """Read a file that `save` wrote; errors as `results.load_table`."""
        table = results.load_table(path, (*NEEDED, "how"))
        return Knockout(table.drop(columns=["outcome", "unit", "how"]), *(str(table[name].iloc[0]) for name in ("outcome", "unit", "how")))

    def __repr__(self) -> str:
        return f"Knockout({self.table['case'].nunique()} cases, {self.how}; {self.outcome} in {self.unit})"

    def _repr_html_(self) -> str:
        mean = self.table.groupby("arm", sort=False)[["ceiling", "kept", "lost", "mass", "cells"]].mean().reset_index()
        return results.html_of(
            "Read-out knockout",
            mean,
            f"Means over {self.table['case'].nunique()} cases, {self.outcome}, {self.unit}; attention {self.how}.",
        )


def knockout(
    slm: SpeechTextModel, cases: Sequence[Case], cells: Cells, how: How = "renormalised", outcome: Outcome | None = None
) -> Knockout:
    """Cut the chosen cells of each case, and the controls, in both prompts.

    Args:
        cases: others than those that the cells were chosen on.
        outcome: None is `outcomes.difference(units=1)`.

    Raises:
        PatchingError: a case whose word is the end of its prompt, so that nobody looks back at it; values that are not finite.
    """
    outcome = outcome or outcomes.difference(units=1)
    rows = []
    for case in tqdm(checked_cases(cases), desc="knockout", unit="case", disable=None):
        sides = {side: _Side(slm, case, side, cells, outcome) for side in SIDES}
        ends = {"base": sides["corrupted"].bench.own.value, "source": sides["clean"].bench.own.value}
        ceiling = ends["source"] - ends["base"]
        for arm in ARMS:
            places = {side: one.places(arm) for side, one in sides.items()}
            if not any(places["clean"].values()):
                continue  # every cell of the word was chosen, or nothing else is there to match
            values = {side: one.bench.value(knocked(slm, places[side], one.later, how)) for side, one in sides.items()}
            kept = values["clean"] - values["corrupted"]
            lost: dict[str, float] = {
                "ceiling": ceiling,
                "clean": values["clean"],
                "corrupted": values["corrupted"],
                "kept": kept,
                "lost": ceiling - kept,
            }
            size = {"mass": sides["clean"].mass(places["clean"]), "cells": sum(map(len, places["clean"].values()))}
            rows.append({**results.labels_of(case), "arm": arm, **ends, **lost, **size})
    return Knockout(pd.DataFrame(rows), outcome.name, outcome.unit, how)


def by_head(
    slm: SpeechTextModel, cases: Sequence[Case], cells: Cells, how: How = "renormalised", outcome: Outcome | None = None
) -> pd.DataFrame:
    """What is lost when single heads cannot look at the chosen cells, exactly: two runs for every head of a block that reads a cell.

    Returns:
        one row a case, block and head: `case prompt word block head mass ceiling lost`. A head alone may lose nothing where another does its work.
    """
    outcome = outcome or outcomes.difference(units=1)
    rows = []
    for case in tqdm(checked_cases(cases), desc="knockout by head", unit="case", disable=None):
        sides = {side: _Side(slm, case, side, cells, outcome) for side in SIDES}
        ceiling = sides["clean"].bench.own.value - sides["corrupted"].bench.own.value
        for block in sides["clean"].places("peak"):
            for head in range(slm.model.cfg.n_heads):
                one = {side: own.places("peak") for side, own in sides.items()}
                values = [sides[side].bench.value(knocked(slm, one[side], sides[side].later, how, {block: [head]})) for side in SIDES]
                mass = sides["clean"].mass({block: one["clean"][block]}, head)
                rows.append(
                    {
                        **results.labels_of(case),
                        "block": block,
                        "head": head,
                        "mass": mass,
                        "ceiling": ceiling,
                        "lost": ceiling - (values[0] - values[1]),
                    }
                )
    return pd.DataFrame(rows)


class _Side:
    """One prompt of a case: its run, who looks back, and the cells of each arm."""

    def __init__(self, slm: SpeechTextModel, case: Case, side: Side, cells: Cells, outcome: Outcome) -> None:
        prompt: Any = getattr(case.contrast, side)
        self.slm, self.span, self.cells = slm, case.span.of(side), cells
        self.bench = Bench(slm, prompt, case.contrast, outcome)
        self.later = list(range(self.span.stop, self.bench.length))
        if self.span.stop >= len(prompt):
            raise PatchingError(f"The word of {case.name!r} ends its {side} prompt: no later position looks back at it before the answer.")
        names = [hooked.hook_at("pattern", block) for block in range(slm.model.cfg.n_layers)]
        found = hooked.captured(slm.model, prompt.tokens, names)
        self.pattern = torch.stack([found[name] for name in names])[:, :, self.span.stop :]

    def mass(self, places: Places, head: int | None = None) -> float:
        """Attention to some cells, summed over heads and cells, mean over the later positions of the prompt."""
        heads = slice(None) if head is None else slice(head, head + 1)
        return sum(float(self.pattern[block, heads][..., list(own)].sum((0, 2)).mean()) for block, own in places.items() if own)

    def places(self, arm: str) -> dict[int, list[int]]:
        """Positions by block of an arm."""
        peak = self.cells.within(self.span)
        if arm == "peak":
            return peak
        blocks = range(self.slm.model.cfg.n_layers)
        if arm == "span":
            return {block: list(self.span) for block in blocks}
        if arm == "rest":
            return {block: [at for at in self.span if at not in peak.get(block, [])] for block in blocks}
        return {block: self._matched(block, own) for block, own in peak.items()}

    def _matched(self, block: int, own: Sequence[int]) -> list[int]:
        """As many positions off the word, each the most like in attention to one of the cells that is not taken yet."""
        free = [at for at in range(1, self.pattern.shape[-1]) if at not in self.span]
        found: list[int] = []
        for at in own:
            left = [one for one in free if one not in found]
            if not left:
                break
            wanted = self.mass({block: [at]})
            found.append(min(left, key=lambda one: abs(self.mass({block: [one]}) - wanted)))
        return found
