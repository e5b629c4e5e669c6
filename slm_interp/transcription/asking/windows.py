"""Windows: which positions of an utterance are asked about a word.

The paper's rule (arXiv 2606.22473) is `span`: any position of the word's own span. More positions give more chances
to hit, so a null is always asked over the same window.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from slm_interp.errors import UtteranceError
from slm_interp.utterance import Span, Utterance


@dataclass(frozen=True)
class Window:
    """A named rule from a word's span and the utterance's length to positions, possibly none."""

    name: str
    rule: Callable[[Span], tuple[int, int]]
    whole: bool = False

    def positions(self, span: Span, length: int) -> range:
        """The positions inside the utterance; of a `whole` window all of them or none."""
        start, stop = self.rule(span)
        if self.whole and (start < 0 or stop > length):
            return range(0)
        return range(max(0, start), min(length, stop))


SPAN = Window("span", lambda span: (span.start, span.stop))
FIRST = Window("first", lambda span: (span.start, span.start + 1))
LAST = Window("last", lambda span: (span.stop - 1, span.stop))
WINDOWS: Mapping[str, Window] = {one.name: one for one in (SPAN, FIRST, LAST)}


def span_and_after(n: int) -> Window:
    """The span and the `n` positions after it, as far as the utterance goes."""
    if n < 0:
        raise UtteranceError(f"Positions after a span are counted from 0; got {n}.")
    return Window(f"span_and_after({n})", lambda span: (span.start, span.stop + n))


def offset(n: int) -> Window:
    """The one position `n` after the word's first; before it if negative."""
    return Window(f"offset({n})", lambda span: (span.start + n, span.start + n + 1))


def from_end(n: int) -> Window:
    """The one position `n` after the word's last; before it if negative."""
    return Window(f"from_end({n})", lambda span: (span.stop - 1 + n, span.stop + n))


def before(n: int) -> Window:
    """The `n` positions just before the word, or none if there are fewer."""
    return Window(f"before({n})", lambda span: (span.start - n, span.start), whole=True)


def end_and_after(n: int) -> Window:
    """The word's last position and those after it, `n` in all, or none if there are fewer."""
    return Window(f"end_and_after({n})", lambda span: (span.stop - 1, span.stop - 1 + n), whole=True)


def named(window: Window | str) -> Window:
    """A window, by name if need be.

    Raises:
        UtteranceError: no window of that name.
    """
    if isinstance(window, Window):
        return window
    if window not in WINDOWS:
        raise UtteranceError(
            f"No window {window!r}; there are {', '.join(WINDOWS)}, and the functions span_and_after, offset, from_end, before, end_and_after."
        )
    return WINDOWS[window]


def jittered(utterance: Utterance, by: int, rng: np.random.Generator) -> tuple[Span, ...]:
    """The words' spans with each start and each stop moved by up to `by` positions at random; never empty, never outside."""
    if by < 0:
        raise UtteranceError(f"Boundaries are moved by 0 positions or more; got {by}.")
    spans = []
    for span in utterance.spans:
        moved_start, moved_stop = rng.integers(-by, by, size=2, endpoint=True).tolist()
        start = min(max(0, span.start + moved_start), len(utterance) - 1)
        spans.append(Span(start, min(max(start + 1, span.stop + moved_stop), len(utterance))))
    return tuple(spans)
