"""What the controls of all cases have in common: natural residuals of the prompts, what later blocks read, and the spread that a distance is told by.

1. Every prompt of every case, each once, is run; its residuals at the layers asked are the natural ones (`controls.natural`).
2. A distance is told by residuals of *other* prompts. Cases, in the order of their names, are dealt into four folds, a prompt goes with the first case that
   has it, and the spread of a case leaves out the folds of its two prompts. With one case there are no others, and distances are NaN.
3. What later blocks read is a matter of weights. Columns of the unembedding count among the readers where the last position is written.

All of it is made when it is first asked for, and kept for the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from slm_interp.causal.cases import Case
from slm_interp.causal.controls.distance import Spread, distance, spread
from slm_interp.causal.controls.natural import Natural, collect
from slm_interp.causal.controls.readers import Split, what_is_read
from slm_interp.model import SpeechTextModel
from slm_interp.utterance import Utterance

FOLDS = 4


@dataclass(frozen=True, eq=False)
class Background:
    """What controls are told of the model and the prompts of all cases.

    Args:
        layers: blocks run.
        ids: whose columns of the unembedding the outcome reads.
    """

    slm: SpeechTextModel
    cases: Sequence[Case]
    layers: Sequence[int]
    ids: Sequence[int]
    _made: dict[Any, Any] = field(default_factory=dict)

    @cached_property
    def folds(self) -> dict[str, str]:
        """The fold of every prompt, by its ids."""
        found: dict[str, str] = {}
        for number, case in enumerate(sorted(self.cases, key=lambda case: case.name)):
            for prompt in (case.source, case.base):
                found.setdefault(_key(prompt), f"fold {number % FOLDS}")
        return found

    @property
    def hash(self) -> str:
        """Of all prompts, for settings."""
        return sha256("\n".join(sorted(self.folds)).encode()).hexdigest()[:16]

    @cached_property
    def natural(self) -> dict[int, Natural]:
        """Residuals of all prompts, by layer."""
        prompts = {_key(prompt): prompt for case in self.cases for prompt in (case.source, case.base)}
        keys = sorted(prompts)
        return collect(self.slm, [prompts[key] for key in keys], [self.folds[key] for key in keys], list(self.layers))

    def read(self, layer: int, last: bool) -> Split:
        """What later blocks read; `last`: and the unembedding, for the ids of the outcome."""
        key = ("read", last)
        if key not in self._made:
            self._made[key] = what_is_read(self.slm, list(self.layers), list(self.ids) if last else ())
        return self._made[key][layer]

    def distances(
        self, case: Case, layer: int, pos: Sequence[int], there: Float[Tensor, "at d_model"], edited: Float[Tensor, "at d_model"]
    ) -> float:
        """How much further from natural residuals of other prompts the edited ones are than those that stood there; NaN without other prompts."""
        around = self._spread(
            layer, frozenset(self.folds[_key(prompt)] for prompt in (case.base, case.source) if _key(prompt) in self.folds)
        )
        return float("nan") if around is None else distance(edited, there, around, pos).mahalanobis

    def _spread(self, layer: int, without: frozenset[str]) -> Spread | None:
        key = ("spread", layer, without)
        if key not in self._made:
            others = set(self.folds.values()) - without
            self._made[key] = spread(self.natural[layer].without(sorted(without))) if others else None
        return self._made[key]


def _key(prompt: Utterance) -> str:
    return " ".join(map(str, torch.as_tensor(prompt.tokens).tolist()))
