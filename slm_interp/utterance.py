"""What a model reads, with its words and its seconds: `Span`, `Word`, `Utterance`, `Contrast`.

An utterance is a row of token ids with one time edge more than it has tokens. Edges, not a unit rate:
merged repeats make units of unequal length, and interleaved text and markers take no time at all, so
position `i` lasts from `edges[i]` to `edges[i + 1]`, which may be the same instant.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape

import torch
from jaxtyping import Float, Int
from torch import Tensor

from slm_interp.audio import Audio
from slm_interp.errors import UtteranceError


@dataclass(frozen=True, order=True)
class Span:
    """Positions `start` up to but not including `stop`. Never empty.

    Raises:
        UtteranceError: a negative start, or a stop that is not after it.
    """

    start: int
    stop: int

    def __post_init__(self) -> None:
        if self.start < 0 or self.stop <= self.start:
            raise UtteranceError(f"A span is half-open and not empty, 0 <= start < stop; got start={self.start}, stop={self.stop}.")

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.stop))

    def __contains__(self, position: object) -> bool:
        return position in range(self.start, self.stop)

    def shifted(self, by: int) -> Span:
        """The same stretch `by` positions later."""
        return Span(self.start + by, self.stop + by)

    def checked(self, length: int) -> Span:
        """This span, once it is known to end within `length` positions."""
        if self.stop > length:
            raise UtteranceError(f"Span {self.start}:{self.stop} ends past the last of {length} positions.")
        return self


@dataclass(frozen=True)
class Word:
    """A word, the positions that carry it and the seconds it takes.

    `text` is the bare word; leading spaces and case are the business of the vocabulary.
    `start_s == end_s` for a word that is read and not heard.
    """

    text: str
    span: Span
    start_s: float
    end_s: float

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise UtteranceError("A word has letters; got blank text.")
        if not 0 <= self.start_s <= self.end_s < float("inf"):
            raise UtteranceError(
                f"Word {self.text!r} must start at or after 0 s and not end before it starts; got {self.start_s} to {self.end_s}."
            )


@dataclass(frozen=True, eq=False)
class Utterance:
    """Tokens, their times and the words among them.

    Args:
        tokens: ids in the joint vocabulary.
        edges: seconds; position `i` lasts from `edges[i]` to `edges[i + 1]`.
        words: in order of their spans, which do not overlap.
        labels: what to print for each position (`Un12`, ` cat`, `<speech>`); never a key.
        audio: the sound the units came from.
        quantiser: hash of the codebook the units came from; a model refuses units of another one.
        form: name of the prompt form that laid the tokens out.
        name: where it came from, for tables and titles.

    Raises:
        UtteranceError: shapes that do not fit, edges that run backwards, words out of order or range.
    """

    tokens: Int[Tensor, " pos"]
    edges: Float[Tensor, " pos_and_one"]
    words: tuple[Word, ...] = ()
    labels: tuple[str, ...] = ()
    audio: Audio | None = None
    quantiser: str | None = None
    form: str = ""
    name: str = ""

    def __post_init__(self) -> None:
        if self.tokens.ndim != 1:
            raise UtteranceError(
                f"An utterance is one row of tokens, shape (pos,); got shape {tuple(self.tokens.shape)}. Take one row of the batch."
            )
        length = len(self)
        if length == 0:
            raise UtteranceError("An utterance has at least one token; got none.")
        if self.edges.shape != (length + 1,):
            raise UtteranceError(f"{length} tokens need {length + 1} edges; got shape {tuple(self.edges.shape)}.")
        if not torch.isfinite(self.edges).all() or self.edges[0] < 0 or (self.edges.diff() < 0).any():
            raise UtteranceError("Edges are seconds that start at or after 0 and never run backwards.")
        if self.labels and len(self.labels) != length:
            raise UtteranceError(f"{length} tokens need {length} labels or none; got {len(self.labels)}.")
        end = 0
        for word in self.words:
            word.span.checked(length)
            if word.span.start < end:
                raise UtteranceError(f"Words must be in order and not overlap; {word.text!r} starts at {word.span.start}, before {end}.")
            end = word.span.stop

    def __len__(self) -> int:
        return self.tokens.shape[0]

    @property
    def spans(self) -> tuple[Span, ...]:
        """The spans of the words."""
        return tuple(word.span for word in self.words)

    @property
    def seconds(self) -> float:
        """Where the last position ends."""
        return float(self.edges[-1])

    def position_at(self, second: float) -> int:
        """The position that sounds at `second`: `edges[i] <= second < edges[i + 1]`.

        Positions that take no time never sound. The very end belongs to the last one that does. Seconds are
        compared as whole microseconds: 1.4 is the edge `35 * 0.04`, which is one rounding error more.

        Raises:
            UtteranceError: before the first edge, after the last, or nothing sounds here at all.
        """
        edges = (self.edges.double() * 1e6).round()
        sounding = edges.diff().nonzero().flatten()
        if not len(sounding):
            raise UtteranceError("No position of this utterance takes time: it is text and markers alone.")
        instant = torch.tensor(second * 1e6, dtype=torch.float64).round()
        if not edges[0] <= instant <= edges[-1]:
            raise UtteranceError(
                f"{second} s is outside this utterance, which sounds from {float(self.edges[0]):.3f} to {self.seconds:.3f} s."
            )
        return int(sounding[torch.searchsorted(edges[sounding], instant, right=True) - 1])

    def seconds_of(self, span: Span) -> tuple[float, float]:
        """Start and end of a span in seconds."""
        span.checked(len(self))
        return float(self.edges[span.start]), float(self.edges[span.stop])

    def word(self, text: str) -> Word:
        """The one word spelled `text`.

        Raises:
            UtteranceError: no such word, or several (pick one from `words`).
        """
        found = [word for word in self.words if word.text == text]
        if len(found) != 1:
            there = [word.text for word in self.words]
            raise UtteranceError(f"Wanted exactly one word {text!r}; found {len(found)} among {there}. Pick it from .words by index.")
        return found[0]

    def with_words(self, words: Sequence[Word]) -> Utterance:
        """The same tokens with other words."""
        return replace(self, words=tuple(words))

    def __repr__(self) -> str:
        words = " ".join(word.text for word in self.words) or "no words"
        return (
            f"Utterance({self.name + ': ' if self.name else ''}{words!r}, {len(self)} positions, {self.seconds:.2f} s, "
            f"form {self.form or 'undeclared'}, quantiser {self.quantiser or 'undeclared'}{', with audio' if self.audio else ''})"
        )

    def _repr_html_(self) -> str:
        return utterance_html(self)


def utterance_html(utterance: Utterance) -> str:
    """Words over units over time, with a play button when there is sound. No scripts, no network."""
    owner = {position: word for word in utterance.words for position in word.span}
    labels = utterance.labels or tuple(str(int(token)) for token in utterance.tokens)
    word_cells, position = [], 0
    while position < len(utterance):
        word = owner.get(position)
        width = len(word.span) if word else 1
        shade = "background:#dbe9f6;color:#111;" if word else ""
        word_cells.append(
            f'<td colspan="{width}" style="{shade}text-align:center;border-right:1px solid #fff">{escape(word.text) if word else ""}</td>'
        )
        position += width
    units = "".join(
        f'<td title="id {int(token)}" style="font-family:monospace;font-size:75%;padding:0 3px">{escape(label)}</td>'
        for token, label in zip(utterance.tokens, labels, strict=True)
    )
    times = "".join(f'<td style="font-size:65%;color:#666;padding:0 3px">{float(edge):.2f}</td>' for edge in utterance.edges[:-1])
    player = utterance.audio._repr_html_() if utterance.audio else ""
    return (
        f"<div><div><b>{escape(utterance.name or 'utterance')}</b> &middot; {len(utterance)} positions &middot; {utterance.seconds:.2f} s "
        f"&middot; form {escape(utterance.form or 'undeclared')}</div>{player}"
        f'<div style="overflow-x:auto"><table style="border-collapse:collapse;white-space:nowrap">'
        f"<tr>{''.join(word_cells)}</tr><tr>{units}</tr><tr>{times}</tr></table></div></div>"
    )


@dataclass(frozen=True, eq=False)
class Contrast:
    """Two prompts and the two continuations they should tell apart.

    `answer` continues `clean`, `distractor` continues `corrupted`; both are speech units as ids of the
    joint vocabulary. Prompts may differ in length: a pairing policy says which spans meet.
    """

    clean: Utterance
    corrupted: Utterance
    answer: Int[Tensor, " answer_pos"]
    distractor: Int[Tensor, " distractor_pos"]

    def __post_init__(self) -> None:
        if self.clean.quantiser != self.corrupted.quantiser:
            raise UtteranceError(
                f"Clean and corrupted must come from one quantiser; got {self.clean.quantiser!r} and {self.corrupted.quantiser!r}."
            )
        if not len(self.answer) or not len(self.distractor):
            raise UtteranceError("A contrast needs at least one unit of answer and of distractor.")
