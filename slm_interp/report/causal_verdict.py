"""The verdict of a whole experiment, or why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slm_interp.causal.effect import Effect
from slm_interp.causal.verdict import Combined, Rule, Verdict, combined, decide
from slm_interp.errors import PatchingError, StatisticsError

NONE = "no verdict"


@dataclass(frozen=True, eq=False)
class Judged:
    """What was decided.

    Args:
        word: one of the four, or "no verdict" where the rule cannot be asked.
        reason: in a sentence.
        verdicts: of each basis; none where the rule cannot be asked.
        layers: at which each basis was asked.
        warnings: of any basis.
        whole: the verdict, or that of all bases together.
    """

    word: str
    reason: str
    verdicts: Mapping[str, Verdict]
    layers: Mapping[str, int]
    warnings: tuple[str, ...]
    whole: Verdict | Combined | None

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists, ready for JSON."""
        said = {"verdict": self.word, "reason": self.reason} if self.whole is None else self.whole.to_dict()
        return {**said, "layers": dict(self.layers)}

    def __str__(self) -> str:
        return f"{self.word}: {self.reason}" if self.whole is None else str(self.whole)


def judged(effect: Effect, outcome: str | None = None, rule: Rule | None = None) -> Judged:
    """The verdict of one basis, or of several together; where cases are too few for the rule to be asked, the reason for it."""
    try:
        layers = {basis: effect.chosen_layer(basis, outcome) for basis in effect.bases}
        measured = {basis: effect.measured(basis, outcome, layers[basis]) for basis in effect.bases}
        if len(measured) == 1:
            ((basis, own),) = measured.items()
            one = decide(own, rule)
            return Judged(one.word, f"Line {one.line} of the rule. {one.reason}", {basis: one}, layers, one.warnings, one)
        many = combined(measured, rule, effect.lenses)
    except (PatchingError, StatisticsError) as error:
        return Judged(NONE, str(error), {}, {}, (), None)
    return Judged(many.word, many.reason, many.verdicts, layers, many.warnings, many)
