"""Stretches of a contrast pair by the part they play, so that pairs about different sentences can be patched in one sweep.

| role | is |
|---|---|
| `before` | everything up to the word that matters |
| `word` | the word that matters |
| `after` | what follows it, up to the last position of the prompt |
| `end` | the last position, from which the continuation is predicted |

A role that is empty on one side is left out of that pair; results have no number there. Where the word ends the prompt, its last position is the word's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from slm_interp.errors import SpeechError
from slm_interp.patching.spans import SpanPair
from slm_interp.utterance import Contrast, Span, Utterance, Word

if TYPE_CHECKING:
    from slm_interp.organisms.contrasts import ContrastPair

ROLES = ("before", "word", "after", "end")


def roles(pair: ContrastPair) -> tuple[SpanPair, ...]:
    """The roles of a pair, in the order of the prompt."""
    sides = [_places(pair.contrast.clean, pair.word_clean), _places(pair.contrast.corrupted, pair.word_corrupted)]
    labels = {
        "before": "…",
        "word": " / ".join(dict.fromkeys((pair.word_clean.text, pair.word_corrupted.text))),
        "after": "…",
        "end": "end",
    }
    found = []
    for role in ROLES:
        clean, corrupted = (side[role] for side in sides)
        if clean is not None and corrupted is not None:
            found.append(SpanPair(role, clean, corrupted, labels[role]))
    return tuple(found)


def by_role(pairs: Sequence[ContrastPair]) -> Callable[[Contrast], tuple[SpanPair, ...]]:
    """`roles` as a sweep takes them: a function of the contrast.

    Raises, when used:
        SpeechError: a contrast that is of none of the pairs.
    """
    owners = {id(pair.contrast): pair for pair in pairs}

    def of(contrast: Contrast) -> tuple[SpanPair, ...]:
        if id(contrast) not in owners:
            raise SpeechError("This contrast is of none of the pairs whose roles were asked for. Patch [pair.contrast for pair in pairs].")
        return roles(owners[id(contrast)])

    of.__name__ = "by_role"
    return of


def _places(prompt: Utterance, word: Word) -> dict[str, Span | None]:
    length, start, stop = len(prompt), word.span.start, word.span.stop
    end = max(stop, length - 1)
    return {
        "before": Span(0, start) if start else None,
        "word": word.span,
        "after": Span(stop, end) if stop < end else None,
        "end": Span(end, length) if end < length else None,
    }
