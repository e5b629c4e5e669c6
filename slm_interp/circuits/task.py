"""What a circuit is asked: contrasts, an outcome, and how the two prompts of each contrast meet.

1. The run is one of the *base* prompt (clean under noising, corrupted under denoising), with the outcome's continuations appended.
2. Spans of the *source* prompt meet those of the base through a policy; the continuation is the same on both sides and meets itself.
3. What a node writes in the source run is thereby a value at every base position that is written; base positions outside all spans, or that a policy
   does not write, have no source value and are never changed. With equal lengths, or with spans that cover both prompts (`between`), there are none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal, TypeAlias

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from slm_interp import hooked
from slm_interp.circuits.nodes import Shape
from slm_interp.errors import PatchingError
from slm_interp.model import SpeechTextModel
from slm_interp.patching.measuring import Laid, baselines, lay, reference_of
from slm_interp.patching.outcomes import Outcome
from slm_interp.patching.policies import Policy, Stretch, name_of, policy_of
from slm_interp.patching.spans import Side, SpanPair, Spans, spans_of
from slm_interp.utterance import Contrast, Utterance

Direction: TypeAlias = Literal["noising", "denoising"]
CONTINUATION = "continuation"
ELSEWHERE = "elsewhere"


@dataclass(frozen=True, eq=False)
class Task:
    """What a circuit is asked.

    Args:
        slm: the model.
        contrasts: clean and corrupted prompts and their continuations, one or more.
        outcome: what is measured, from `slm_interp.patching.outcomes`.
        spans: as in `slm_interp.patching.spans.spans_of`; `between` covers both prompts.
        policy: how spans of unequal length meet; None refuses them.
        direction: `noising` runs the clean prompt and takes values from the corrupted one, `denoising` the reverse.
        told_apart: least `clean - corrupted`, in the outcome's unit, for a pair to count as one that the model tells apart.

    Raises:
        PatchingError: no contrasts, an unknown direction, spans or policies that do not fit, a model without edges.
    """

    slm: SpeechTextModel
    contrasts: Sequence[Contrast]
    outcome: Outcome
    spans: Spans = "between"
    policy: str | Policy | None = None
    direction: Direction = "noising"
    told_apart: float = 0.1

    def __post_init__(self) -> None:
        if not len(self.contrasts):
            raise PatchingError("A circuit is asked of one contrast or more; got none.")
        if self.direction not in ("noising", "denoising"):
            raise PatchingError(
                f"The direction is 'noising' (corrupted into clean) or 'denoising' (clean into corrupted); got {self.direction!r}."
            )
        Shape.of(self.slm.model.cfg)
        policy_of(self.policy)

    @cached_property
    def shape(self) -> Shape:
        """What of the model decides its graph."""
        return Shape.of(self.slm.model.cfg)

    @cached_property
    def weights(self) -> Mapping[str, Tensor]:
        """The model's parameters by their classic names, looked up once."""
        return {name: parameter.detach() for name, parameter in hooked.parameters(self.slm.model).items()}

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        """Every contrast, laid out."""
        return tuple(_paired(self, contrast, self.span_names) for contrast in self.contrasts)

    @cached_property
    def span_names(self) -> tuple[str, ...]:
        """Names of the spans in the order of their positions, where contrasts that lack some agree; then `continuation` and `elsewhere`, where there is any."""
        named = [[pair.name for pair in self._spans(contrast)] for contrast in self.contrasts]
        found = _merged(named)
        if CONTINUATION in found or ELSEWHERE in found:
            raise PatchingError(f"{CONTINUATION!r} and {ELSEWHERE!r} are what is left over; give the spans other names.")
        appended = any(len(ids) > 1 for contrast in self.contrasts for ids in self.outcome.targets(contrast).values())
        left = any(_uncovered(self._base(contrast), self._spans(contrast), self.base_side) for contrast in self.contrasts)
        return (*found, *([CONTINUATION] if appended else []), *([ELSEWHERE] if left else []))

    @cached_property
    def labels(self) -> dict[str, str]:
        """What a picture prints for each span: the words of the first contrast that has it."""
        found: dict[str, str] = {}
        for contrast in reversed(self.contrasts):
            found |= {pair.name: pair.label or pair.name for pair in self._spans(contrast)}
        return {name: found.get(name, name) for name in self.span_names}

    @cached_property
    def baselines(self) -> tuple[list[float], list[float]]:
        """The outcome of every clean and every corrupted prompt, nothing changed."""
        return baselines(self.slm, self.contrasts, self.outcome)

    @property
    def base_side(self) -> Side:
        """The prompt that is run."""
        return "clean" if self.direction == "noising" else "corrupted"

    @property
    def settings(self) -> dict[str, str]:
        """What a result says of how it was made."""
        return {
            "outcome": self.outcome.name,
            "unit": self.outcome.unit,
            "direction": self.direction,
            "policy": name_of(policy_of(self.policy)),
            "spans": self.spans if isinstance(self.spans, str) else "given",
        }

    def _spans(self, contrast: Contrast) -> tuple[SpanPair, ...]:
        return tuple(sorted(spans_of(contrast, self.spans), key=lambda pair: pair.of(self.base_side)))

    def _base(self, contrast: Contrast) -> Utterance:
        return contrast.clean if self.base_side == "clean" else contrast.corrupted


@dataclass(frozen=True, eq=False)
class Pair:
    """A contrast laid out.

    Args:
        base, source: rows of both prompts, in the same order.
        weights: of each source position in each base position.
        written: 1 at base positions that take source values.
        span: number of the span of each base position, among the task's.
        reference: the clean run's logits, for outcomes that compare with them.
    """

    contrast: Contrast
    base: Laid
    source: Laid
    weights: Float[Tensor, "base_pos source_pos"]
    written: Float[Tensor, " base_pos"]
    span: Int[Tensor, " base_pos"]
    reference: dict[str, Tensor] | None

    def changed(
        self, source: Float[Tensor, "row source_pos *what"], base: Float[Tensor, "row base_pos *what"]
    ) -> Float[Tensor, "row base_pos *what"]:
        """What source values are at base positions, less what stands there; 0 where nothing is written."""
        taken = einsum(self.weights.to(source), source, "base_pos source_pos, row source_pos ... -> row base_pos ...")
        written = self.written.to(base).view(1, -1, *[1] * (base.ndim - 2))
        return taken - written * base


def _paired(task: Task, contrast: Contrast, names: tuple[str, ...]) -> Pair:
    sides: dict[Side, Utterance] = {"clean": contrast.clean, "corrupted": contrast.corrupted}
    own: Side = task.base_side
    other: Side = "corrupted" if own == "clean" else "clean"
    base, source = (lay(task.slm, sides[side], contrast, task.outcome) for side in (own, other))
    weights = torch.zeros(base.tokens.shape[1], source.tokens.shape[1])
    span = torch.full((base.tokens.shape[1],), names.index(ELSEWHERE) if ELSEWHERE in names else -1)
    for pair in task._spans(contrast):
        if (span[list(pair.of(own))] != (names.index(ELSEWHERE) if ELSEWHERE in names else -1)).any():
            raise PatchingError(f"Spans of a circuit do not overlap, or an edge would be two; {pair.name!r} does.")
        made = policy_of(task.policy)(Stretch(sides[other], pair.of(other)), Stretch(sides[own], pair.of(own)))
        if made.match_norms:
            raise PatchingError(
                "A norm-matched policy scales every node by itself, and their sum is no residual any more; choose it for whole sites."
            )
        weights[made.base[:, None], made.source[None]] = made.weights
        span[list(pair.of(own))] = names.index(pair.name)
    appended = base.tokens.shape[1] - base.prompt
    if appended:
        weights[base.prompt :, source.prompt :] = torch.eye(appended)
        span[base.prompt :] = names.index(CONTINUATION)
    device = base.tokens.device
    written = (weights.sum(1) > 0.5).float()
    reference = reference_of(task.slm, contrast, task.outcome)
    return Pair(contrast, base, source, weights.to(device), written.to(device), span.to(device), reference)


def _uncovered(prompt: Utterance, spans: Sequence[SpanPair], side: Side) -> bool:
    return len({position for pair in spans for position in pair.of(side)}) < len(prompt)


def _merged(orders: Sequence[Sequence[str]]) -> list[str]:
    """One order of all names that agrees with each.

    Raises:
        PatchingError: orders that contradict each other.
    """
    after: dict[str, set[str]] = {name: set() for order in orders for name in order}
    for order in orders:
        for earlier, later in pairwise(order):
            after[later].add(earlier)
    found: list[str] = []
    while len(found) < len(after):
        free = [name for name in after if name not in found and after[name] <= set(found)]
        if not free:
            raise PatchingError(f"Spans follow one another in another order in different contrasts: {sorted(set(after) - set(found))}.")
        found.append(free[0])
    return found
