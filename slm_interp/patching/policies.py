"""Spans of unequal length: which source positions go into which base positions, and with what weights.

A policy is a function of two stretches, source and base, that returns a `Pairing`: the value written at base position `i` is
`sum_j weights[i, j] * source[j]`. Nothing is chosen silently: a sweep over spans of unequal length without a policy is refused, and the name
of the policy is part of every result.

| policy | writes | takes |
|---|---|---|
| `same` | every position | the one of the same place; equal lengths only |
| `start_aligned` | the first min(n, m) positions | those of the same place from the start |
| `end_aligned` | the last min(n, m) positions | those of the same place from the end |
| `last_unit` | the last position | the last one |
| `pooled` | every position | the mean of all |
| `warped` | every position | the two nearest in relative place, linearly |
| `warped_in_time` | every position | the two nearest in relative time, linearly: units of merged repeats last unequally long |
| `word_by_word(inner)` | the positions of every word inside the span | by `inner`, word by word; words must be as many |
| `norm_matched(inner)` | as `inner` | as `inner`, each vector scaled to the norm of what it replaces: for text into speech |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from slm_interp.errors import PatchingError
from slm_interp.utterance import Span, Utterance


@dataclass(frozen=True, eq=False)
class Stretch:
    """A span of an utterance, with the times and words inside it."""

    utterance: Utterance
    span: Span

    @property
    def positions(self) -> Int[Tensor, " pos"]:
        """The positions of the span."""
        return torch.arange(self.span.start, self.span.stop)


@dataclass(frozen=True, eq=False)
class Pairing:
    """What goes where.

    Args:
        base: positions that are written, ascending, each once.
        source: positions that are read.
        weights: of each source position in each base position; rows sum to 1.
        match_norms: scale every vector to the norm of the one it replaces.
    """

    base: Int[Tensor, " base"]
    source: Int[Tensor, " source"]
    weights: Float[Tensor, "base source"]
    match_norms: bool = False

    def __post_init__(self) -> None:
        if self.weights.shape != (len(self.base), len(self.source)) or not len(self.base) or not len(self.source):
            raise PatchingError(
                f"A pairing has one weight for each of {len(self.base)} base and {len(self.source)} source positions, one position or more of "
                f"each; got weights of shape {tuple(self.weights.shape)}."
            )
        if not self.weights.isfinite().all() or (self.weights.sum(1) - 1).abs().max() > 1e-4:
            raise PatchingError("The weights of a pairing are finite, and those into each base position sum to 1.")
        if (self.base.diff() <= 0).any():
            raise PatchingError(f"Base positions are ascending, each once; got {self.base.tolist()}.")

    @property
    def one_to_one(self) -> bool:
        """Whether every base position takes exactly one source position as it is."""
        return bool(((self.weights == 0) | (self.weights == 1)).all())

    def values(
        self, source: Float[Tensor, "*batch source_pos d"], base: Float[Tensor, "*batch base_pos d"]
    ) -> Float[Tensor, "*batch base d"]:
        """What is written at `self.base`.

        Args:
            source: what stands at every position of the source prompt.
            base: what stands at every position of the base prompt; read for its norms alone.
        """
        taken = source[..., self.source.to(source.device), :]
        made = einsum(self.weights.to(taken), taken, "base source, ... source d -> ... base d")
        if not self.match_norms:
            return made
        there = base[..., self.base.to(base.device), :]
        return made * (there.norm(dim=-1, keepdim=True) / made.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(made.dtype).tiny))


Policy: TypeAlias = Callable[[Stretch, Stretch], Pairing]


def name_of(policy: Policy) -> str:
    """What a result calls a policy."""
    return str(getattr(policy, "__name__", repr(policy)))


def same(source: Stretch, base: Stretch) -> Pairing:
    """Position by position.

    Raises:
        PatchingError: spans of two lengths, for which a policy has to be chosen.
    """
    if len(source.span) != len(base.span):
        raise PatchingError(
            f"The spans have {len(source.span)} and {len(base.span)} positions. Say how they meet: policy= one of "
            f"{', '.join(repr(name) for name in POLICIES if name != 'same')}, or a function of two stretches."
        )
    return Pairing(base.positions, source.positions, torch.eye(len(base.span)))


def start_aligned(source: Stretch, base: Stretch) -> Pairing:
    """As many positions as both have, counted from the start."""
    shared = min(len(source.span), len(base.span))
    return Pairing(base.positions[:shared], source.positions[:shared], torch.eye(shared))


def end_aligned(source: Stretch, base: Stretch) -> Pairing:
    """As many positions as both have, counted from the end."""
    shared = min(len(source.span), len(base.span))
    return Pairing(base.positions[-shared:], source.positions[-shared:], torch.eye(shared))


def last_unit(source: Stretch, base: Stretch) -> Pairing:
    """The last position into the last position, and nothing else."""
    return Pairing(base.positions[-1:], source.positions[-1:], torch.eye(1))


def pooled(source: Stretch, base: Stretch) -> Pairing:
    """The mean of the source span into every base position."""
    return Pairing(base.positions, source.positions, torch.full((len(base.span), len(source.span)), 1 / len(source.span)))


def warped(source: Stretch, base: Stretch) -> Pairing:
    """The base span stretched over the source span, first to first and last to last, linear between neighbours.

    A single base position meets the middle of the source span.
    """
    return _interpolated(source, base, _relative(len(source.span)), _relative(len(base.span)))


def warped_in_time(source: Stretch, base: Stretch) -> Pairing:
    """As `warped`, but by when each position sounds: its middle in seconds, relative to the span.

    Raises:
        PatchingError: spans that take no time, such as text.
    """
    return _interpolated(source, base, _middles(source), _middles(base))


def word_by_word(inner: Policy) -> Policy:
    """A policy for a span of several words: every word by `inner`; what is no word stays as it is.

    Raises, when used:
        PatchingError: another number of words in the two spans, or none.
    """

    def policy(source: Stretch, base: Stretch) -> Pairing:
        own, other = _words_in(source), _words_in(base)
        if not own or len(own) != len(other):
            raise PatchingError(f"Words meet by their number; the spans hold {len(own)} and {len(other)} words.")
        parts = [inner(Stretch(source.utterance, one), Stretch(base.utterance, two)) for one, two in zip(own, other, strict=True)]
        made = Pairing(
            torch.cat([part.base for part in parts]),
            torch.cat([part.source for part in parts]),
            torch.block_diag(*(part.weights for part in parts)),
        )
        return replace(made, match_norms=any(part.match_norms for part in parts))

    policy.__name__ = f"word_by_word({name_of(inner)})"
    return policy


def norm_matched(inner: Policy) -> Policy:
    """As `inner`, with every vector scaled to the norm of the one it replaces: residuals of text and of speech differ in size."""

    def policy(source: Stretch, base: Stretch) -> Pairing:
        return replace(inner(source, base), match_norms=True)

    policy.__name__ = f"norm_matched({name_of(inner)})"
    return policy


POLICIES: dict[str, Policy] = {
    "same": same,
    "start_aligned": start_aligned,
    "end_aligned": end_aligned,
    "last_unit": last_unit,
    "pooled": pooled,
    "warped": warped,
    "warped_in_time": warped_in_time,
    "word_by_word": word_by_word(warped),
}


def policy_of(policy: str | Policy | None) -> Policy:
    """A policy by name, or the function itself; None is `same`, which refuses spans of unequal length.

    Raises:
        PatchingError: no such name.
    """
    if policy is None:
        return same
    if isinstance(policy, str):
        if policy not in POLICIES:
            raise PatchingError(f"Policies are {', '.join(POLICIES)}, or a function of two stretches; got {policy!r}.")
        return POLICIES[policy]
    return policy


def _interpolated(source: Stretch, base: Stretch, there: Tensor, here: Tensor) -> Pairing:
    """Linear between the two source places around each base place; places run upward, those outside take the nearest."""
    weights = torch.zeros(len(here), len(there))
    after = torch.searchsorted(there, here).clamp(1, max(1, len(there) - 1))
    if len(there) == 1:
        weights[:, 0] = 1
        return Pairing(base.positions, source.positions, weights)
    left, right = there[after - 1], there[after]
    share = ((here - left) / (right - left)).clamp(0, 1).float()
    rows = torch.arange(len(here))
    weights[rows, after - 1] = 1 - share
    weights[rows, after] = share
    return Pairing(base.positions, source.positions, weights)


def _relative(length: int) -> Tensor:
    return torch.linspace(0, 1, length, dtype=torch.float64) if length > 1 else torch.tensor([0.5], dtype=torch.float64)


def _middles(stretch: Stretch) -> Tensor:
    """Middles of the positions, 0 at the start of the span and 1 at its end."""
    edges = stretch.utterance.edges.double()[stretch.span.start : stretch.span.stop + 1]
    if (edges.diff() <= 0).any():
        raise PatchingError(
            f"Positions {stretch.span.start}:{stretch.span.stop} do not all take time, so they have no place in it. Use 'warped' instead."
        )
    return ((edges[:-1] + edges[1:]) / 2 - edges[0]) / (edges[-1] - edges[0])


def _words_in(stretch: Stretch) -> list[Span]:
    """The words that lie wholly inside the span."""
    return [one for one in stretch.utterance.spans if stretch.span.start <= one.start and one.stop <= stretch.span.stop]
