"""Which stretches of a contrast meet: spans of the clean and of the corrupted prompt under one name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias

from slm_interp.errors import PatchingError
from slm_interp.utterance import Contrast, Span, Utterance

Side: TypeAlias = Literal["clean", "corrupted"]


@dataclass(frozen=True)
class SpanPair:
    """A stretch of the clean prompt and the one that meets it in the corrupted prompt.

    Args:
        name: what a result calls it; the same in every contrast of a sweep.
        clean, corrupted: half-open positions, of any two lengths.
        label: what a picture prints, such as the word of each; the name where there is none.
    """

    name: str
    clean: Span
    corrupted: Span
    label: str = ""

    def of(self, side: Side) -> Span:
        """The span on one side."""
        return self.clean if side == "clean" else self.corrupted

    def checked(self, contrast: Contrast) -> SpanPair:
        """This pair, once both spans are known to lie within their prompts.

        Raises:
            UtteranceError: a span that ends past its prompt.
        """
        self.clean.checked(len(contrast.clean))
        self.corrupted.checked(len(contrast.corrupted))
        return self


Spans: TypeAlias = "str | Sequence[SpanPair] | Callable[[Contrast], Sequence[SpanPair]]"


def words(contrast: Contrast) -> tuple[SpanPair, ...]:
    """The words of both prompts, first with first: `word 0`, `word 1`, ..., labelled by what they are.

    Raises:
        PatchingError: prompts without words, or with another number of them, so that words would meet the wrong ones.
    """
    clean, corrupted = contrast.clean.words, contrast.corrupted.words
    if not clean or len(clean) != len(corrupted):
        raise PatchingError(
            f"Words meet by their number, so both prompts need as many; got {len(clean)} and {len(corrupted)}. Name the spans yourself: "
            "spans=[SpanPair('name', clean=..., corrupted=...)]."
        )
    pairs = zip(clean, corrupted, strict=True)
    return tuple(SpanPair(f"word {n}", one.span, other.span, _label(one.text, other.text)) for n, (one, other) in enumerate(pairs))


def positions(contrast: Contrast) -> tuple[SpanPair, ...]:
    """Every position with the one of the same number: `0`, `1`, ..., labelled by their tokens.

    Raises:
        PatchingError: prompts of two lengths.
    """
    lengths = len(contrast.clean), len(contrast.corrupted)
    if lengths[0] != lengths[1]:
        raise PatchingError(
            f"Single positions meet only where both prompts have as many; got {lengths[0]} and {lengths[1]}. Patch words, whose lengths may "
            "differ under a policy, or name the spans yourself."
        )
    shown = [_tokens(one) for one in (contrast.clean, contrast.corrupted)]
    return tuple(SpanPair(str(n), Span(n, n + 1), Span(n, n + 1), _label(shown[0][n], shown[1][n])) for n in range(lengths[0]))


def whole(contrast: Contrast) -> tuple[SpanPair, ...]:
    """Both prompts from end to end, as one span."""
    return (SpanPair("everything", Span(0, len(contrast.clean)), Span(0, len(contrast.corrupted))),)


def between(contrast: Contrast) -> tuple[SpanPair, ...]:
    """Words and what stands before, between and after them, so that the pairs cover both prompts: `before word 0`, `word 0`, ..., `end`.

    Raises:
        PatchingError: as `words`; or a stretch that is empty on one side alone.
    """
    found, edges = list(words(contrast)), []
    for side in ("clean", "corrupted"):
        length = len(contrast.clean if side == "clean" else contrast.corrupted)
        ends = [(0, 0), *((pair.of(side).start, pair.of(side).stop) for pair in found), (length, length)]
        edges.append([(before[1], after[0]) for before, after in pairwise(ends)])
    for number, (own, other) in enumerate(zip(*edges, strict=True)):
        name = "end" if number == len(edges[0]) - 1 else f"before word {number}"
        if (own[0] == own[1]) != (other[0] == other[1]):
            raise PatchingError(
                f"{name!r} is empty on one side alone: {own[1] - own[0]} and {other[1] - other[0]} positions. Name the spans."
            )
        if own[0] < own[1]:
            found.append(SpanPair(name, Span(*own), Span(*other), "·"))
    return tuple(sorted(found, key=lambda pair: pair.clean))


NAMED: dict[str, Callable[[Contrast], tuple[SpanPair, ...]]] = {
    "words": words,
    "positions": positions,
    "everything": whole,
    "between": between,
}


def spans_of(contrast: Contrast, spans: Spans) -> tuple[SpanPair, ...]:
    """The pairs asked for, each once and inside its prompts.

    Args:
        spans: a name in `NAMED`, pairs, or a function of the contrast that gives pairs.

    Raises:
        PatchingError: another name, no pairs, two of one name.
        UtteranceError: a span that ends past its prompt.
    """
    if isinstance(spans, str):
        if spans not in NAMED:
            raise PatchingError(f"Spans are called {', '.join(NAMED)}, or are given as SpanPairs; got {spans!r}.")
        found: Sequence[SpanPair] = NAMED[spans](contrast)
    else:
        found = spans(contrast) if callable(spans) else spans
    names = [pair.name for pair in found]
    if not found or len(set(names)) != len(names):
        raise PatchingError(f"Spans are one pair or more, each of its own name; got {names}.")
    return tuple(pair.checked(contrast) for pair in found)


def _label(clean: str, corrupted: str) -> str:
    return clean if clean == corrupted else f"{clean} / {corrupted}"


def _tokens(utterance: Utterance) -> tuple[str, ...]:
    return utterance.labels or tuple(str(int(token)) for token in utterance.tokens)
