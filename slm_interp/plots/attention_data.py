"""Attention as pictures need it: checked, cut to positions, grouped by word, and packed into one byte a number.

Packing: each row (destination) is divided by its largest value and rounded to a whole number of 255ths, so a value is wrong by at most
1/510 of its row's largest; under a causal mask only sources up to the destination are written. Rows one after the other, head after head;
before them the largest value of every row as little-endian float32; gzip over all. `unpack` reads what `pack` wrote, and so does the page.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from slm_interp.errors import ReadoutError
from slm_interp.plots.theme import unit, visible
from slm_interp.utterance import Span, Word

Pattern = Float[np.ndarray, "head dest src"]
LEVELS = 255
ROUNDING = 0.02  # how far above 1 a row may sum: bf16 patterns do


@dataclass(frozen=True)
class Group:
    """Neighbouring positions under one name: a word, or what stands between words."""

    text: str
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class Attention:
    """A checked pattern with what stands at its positions.

    Args:
        pattern: rows are destinations and sum to 1 (less, once cut).
        labels: tokens or units as they are printed.
        groups: words and the stretches between them, in order, without gaps.
        names: of the heads.
    """

    pattern: Pattern
    labels: tuple[str, ...]
    groups: tuple[Group, ...]
    names: tuple[str, ...]

    @property
    def causal(self) -> bool:
        """Whether no head looks ahead."""
        return not np.triu(self.pattern, 1).any()


def attention_of(pattern: Any, labels: Sequence[str], words: Sequence[Word] = (), names: Sequence[str] | None = None) -> Attention:
    """A pattern `[head, dest, src]` (array, DataArray or tensor) with its labels and words.

    Raises:
        ReadoutError: no square pattern, values that are no attention (NaN, below 0, rows that sum to more than 1, as the rows of a transposed
            pattern do), another number of labels or names, words that overlap or end past the last position.
    """
    values = np.asarray(pattern.detach().float().cpu() if hasattr(pattern, "detach") else pattern, dtype=np.float32)
    if values.ndim != 3 or values.shape[1] != values.shape[2] or not values.size:
        raise ReadoutError(f"Attention is [head, dest, src] with as many destinations as sources; got shape {values.shape}.")
    if not np.isfinite(values).all() or values.min() < 0:
        raise ReadoutError("Attention is finite and not below 0; this pattern is not. Differences of patterns are no attention.")
    above, below = np.triu(values, 1).any(), np.tril(values, -1).any()
    most = float(values.sum(-1).max())
    if most > 1 + ROUNDING or (above and not below):
        raise ReadoutError(
            f"The rows of a pattern are destinations and sum to 1; here one sums to {most:.3g}"
            + (" and every destination looks only ahead" if above and not below else "")
            + ". If its rows are sources, give its transpose."
        )
    heads, count = values.shape[:2]
    names = [str(head) for head in range(heads)] if names is None else [str(name) for name in names]
    if len(labels) != count or len(names) != heads:
        raise ReadoutError(f"{heads} heads x {count} positions need as many names and labels; got {len(names)} and {len(labels)}.")
    shown = tuple(unit(visible(str(label))) for label in labels)
    return Attention(values, shown, _groups(words, shown), tuple(names))


def _groups(words: Sequence[Word], labels: Sequence[str]) -> tuple[Group, ...]:
    found: list[Group] = []
    at = 0
    for word in [*sorted(words, key=lambda one: one.span), None]:
        start, stop = (word.span.start, word.span.stop) if word is not None else (len(labels), len(labels))
        if start < at or stop > len(labels):
            raise ReadoutError(f"Words follow each other within {len(labels)} positions; {word.text if word else ''!r} has {start}:{stop}.")
        if start > at:
            found.append(Group(labels[at] if start - at == 1 else "·", at, start))
        if word is not None:
            found.append(Group(word.text, start, stop))
        at = stop
    return tuple(found)


def cut(attention: Attention, spans: Sequence[Span]) -> Attention:
    """Only some positions, in their order; what falls on the others is left out, so rows sum to less than 1.

    Raises:
        ReadoutError: no spans, or one that ends past the last position.
    """
    count = len(attention.labels)
    if not spans or max(span.stop for span in spans) > count:
        raise ReadoutError(f"Attention is cut to spans within its {count} positions; got {list(spans)}.")
    kept = np.array(sorted({position for span in spans for position in span}))
    places, groups = {int(position): index for index, position in enumerate(kept)}, []
    for group in attention.groups:
        inside = [places[position] for position in range(group.start, group.stop) if position in places]
        if inside:
            groups.append(Group(group.text, inside[0], inside[-1] + 1))
    labels = tuple(attention.labels[position] for position in kept)
    return Attention(attention.pattern[:, kept][:, :, kept], labels, tuple(groups), attention.names)


def by_word(attention: Attention) -> Attention:
    """Word to word: summed over the sources of a word, averaged over its destinations; whole rows still sum to 1."""
    starts = np.array([group.start for group in attention.groups])
    lengths = np.array([group.stop - group.start for group in attention.groups])
    summed = np.add.reduceat(attention.pattern, starts, axis=2)
    mean = np.add.reduceat(summed, starts, axis=1) / lengths[None, :, None]
    labels = tuple(group.text for group in attention.groups)
    return Attention(mean, labels, tuple(Group(text, n, n + 1) for n, text in enumerate(labels)), attention.names)


def grouped_labels(attention: Attention) -> list[str]:
    """Labels that name the word where it begins: `capital: Un12`, then `Un13` bare."""
    found = list(attention.labels)
    for group in attention.groups:
        if group.text not in ("·", found[group.start]):
            found[group.start] = f"{group.text}: {found[group.start]}"
    return found


def pack(pattern: Pattern) -> bytes:
    """One byte a number, see the top of this file."""
    largest = pattern.max(-1)
    shares = pattern / np.where(largest > 0, largest, 1)[..., None]
    levels = np.round(LEVELS * shares).astype(np.uint8)
    written = levels[:, _lower(pattern.shape[1])] if not np.triu(pattern, 1).any() else levels
    return gzip.compress(largest.astype("<f4").tobytes() + written.tobytes(), 6, mtime=0)


def unpack(packed: bytes, heads: int, count: int, causal: bool) -> Pattern:
    """What `pack` wrote, as float32."""
    raw = gzip.decompress(packed)
    largest = np.frombuffer(raw, "<f4", heads * count).reshape(heads, count)
    levels = np.frombuffer(raw, np.uint8, offset=4 * heads * count)
    if causal:
        full = np.zeros((heads, count, count), np.uint8)
        full[:, _lower(count)] = levels.reshape(heads, -1)
    else:
        full = levels.reshape(heads, count, count)
    return (full.astype(np.float32) * largest[..., None] / LEVELS).astype(np.float32)


def _lower(count: int) -> np.ndarray:
    return np.tri(count, dtype=bool)


def error_of(pattern: Pattern) -> float:
    """The largest error that packing can make here: half a step of the row with the largest value."""
    return float(pattern.max()) / (2 * LEVELS)
