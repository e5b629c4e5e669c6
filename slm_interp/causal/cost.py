"""What a causal test costs, before it is run.

1. Cells are arms x doses x bases x layers of every case; by plain hooks each is a whole forward.
2. Multiply-adds are those of `patching.cost.resumed`, at the layers and from the first position that is written; continuations of the outcome are run
   for every cell too.
3. Seconds are multiply-adds over the speed of one forward of the first base prompt, timed here after one that warms up. Small models spend more on
   calls than on numbers, so that this is a lower bound for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from slm_interp import hooked
from slm_interp.causal.cases import Case
from slm_interp.model import SpeechTextModel
from slm_interp.patching import cost
from slm_interp.patching.outcomes import Outcome


@dataclass(frozen=True)
class Cost:
    """What a plan takes.

    Args:
        cases, cells: how many.
        forwards: of whole prompts.
        multiply_adds: of all runs.
        plain: multiply-adds of the same by plain hooks, one forward a cell.
        seconds: at the speed of one forward.
    """

    cases: int
    cells: int
    forwards: int
    multiply_adds: float
    plain: float
    seconds: float

    @property
    def minutes(self) -> float:
        """At the speed of one forward."""
        return self.seconds / 60

    def __str__(self) -> str:
        took = f"{self.minutes:.1f} min" if self.seconds >= 60 else f"{self.seconds:.1f} s"
        return (
            f"{self.cells} cells of {self.cases} cases, {self.forwards} forwards of prompts, {self.multiply_adds:.2g} multiply-adds (plain hooks: "
            f"{self.plain:.2g}), about {took}"
        )


def cost_of(slm: SpeechTextModel, cells: Sequence[tuple[Case, int]], layers: Sequence[int], outcome: Outcome) -> Cost:
    """The cost of cases with so many cells each, over all layers, with one forward timed.

    Args:
        outcome: that all outcomes are read from.
    """
    config, ids = slm.model.cfg, len(outcome.ids(slm.vocabulary))
    forwards, adds, plain = 0, 0.0, 0.0
    for case, own in cells:
        length = len(case.base)
        appended = sum(len(one) - 1 for one in outcome.targets(case.contrast).values())
        forwards += 2 + (case.other_voice is not None) + 2 * (case.written is not None)
        places = [(layer, case.span.corrupted.start) for layer in layers for _ in range(own // len(layers))]
        adds += _resumed(config, places, length, ids) + sum(config.n_layers - layer for layer, _ in places) * appended * cost.block(
            config, length
        )
        plain += float(cost.plain(config, own, length + appended))
    return Cost(len(cells), sum(own for _, own in cells), forwards, adds, plain, adds / _speed(slm, cells[0][0]))


def _resumed(config: Any, places: list[tuple[int, int]], length: int, ids: int) -> float:
    """Layers after the last block run nothing but the unembedding."""
    inside = [one for one in places if one[0] < config.n_layers]
    return float(cost.resumed(config, inside, length, ids) + (len(places) - len(inside)) * config.d_model * ids)


def _speed(slm: SpeechTextModel, case: Case) -> float:
    """Multiply-adds a second of one forward."""
    tokens = slm.check(case.base).tokens
    hooked.logits(slm.model, tokens[None])
    start = perf_counter()
    hooked.logits(slm.model, tokens[None])
    return cost.forward(slm.model.cfg, len(tokens)) / max(perf_counter() - start, 1e-9)
