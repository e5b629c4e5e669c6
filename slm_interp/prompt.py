"""How a family lays out a prompt: what opens it, what marks a change of modality, what closes it.

A family declares its forms by name; nothing is guessed from the data. `lay_out` turns segments of speech
and text into one row of ids with its edges and words.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from slm_interp.errors import UtteranceError
from slm_interp.utterance import Word

Modality = Literal["speech", "text"]


@dataclass(frozen=True)
class PromptForm:
    """One way to lay out a prompt.

    Args:
        name: what the user asks for.
        opening: ids before everything else (BOS).
        marked: write the family's markers where the modality changes; see `PromptFormat`.
        closed: a marked prompt ends with the closer of its last segment, where there is one.
        between: ids between two stretches, of a marked prompt.
        closing: ids after everything else.
        note: when the source project uses it.
    """

    name: str
    opening: tuple[int, ...] = ()
    marked: bool = False
    closed: bool = False
    between: tuple[int, ...] = ()
    closing: tuple[int, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class PromptFormat:
    """The forms of a family.

    Args:
        forms: the first is the form of its training sequences, and the default.
        markers: id before each stretch of a modality, the first included; a modality may have none.
        closers: id after each stretch of a modality that has ended.
        repeated: to be asked to go on in the modality it is in, the model gets that marker once more.
        alternation: ids of text, then of speech, that the model was trained to alternate; see `alternated`.

    Raises:
        UtteranceError: no form, two of one name, or a marked form without a marker.
    """

    forms: tuple[PromptForm, ...]
    markers: Mapping[str, int] = field(default_factory=dict)
    closers: Mapping[str, int] = field(default_factory=dict)
    repeated: bool = False
    alternation: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if len({form.name for form in self.forms}) != max(1, len(self.forms)):
            raise UtteranceError(
                f"A family has at least one prompt form, each with a name of its own; got {[form.name for form in self.forms]}."
            )
        strange = [name for name in (*self.markers, *self.closers) if name not in ("speech", "text")]
        if strange:
            raise UtteranceError(f"Markers belong to speech or text; got {strange[0]!r}.")
        if any((form.marked or form.closed) and not (self.markers or self.closers or form.between) for form in self.forms):
            raise UtteranceError("A marked form needs a marker for speech, for text, or one between them.")

    def change(self, form: PromptForm, before: Modality | None, after: Modality) -> tuple[int, ...]:
        """Ids where a stretch of one modality gives way to another; `before` is None at the start of a prompt."""
        left = () if before is None else (*self._one(self.closers, before), *form.between)
        return (*left, *self._one(self.markers, after))

    @staticmethod
    def _one(ids: Mapping[str, int], modality: Modality) -> tuple[int, ...]:
        return (ids[modality],) if modality in ids else ()

    def going_on(self, form: PromptForm, before: Modality, after: Modality) -> tuple[int, ...]:
        """Ids that ask a model to go on in a modality; none where it is in it already, unless the family repeats its marker.

        Raises:
            UtteranceError: a family that does not mark the change.
        """
        if before == after:
            return self._one(self.markers, after) if self.repeated else ()
        ids = self.change(form, before, after)
        if not ids:
            raise UtteranceError(
                f"This family has no marker that turns {before} into {after}; it has markers {dict(self.markers) or 'none'}, "
                f"closers {dict(self.closers) or 'none'}, between {list(form.between) or 'none'}."
            )
        return ids

    def form(self, name: str | None) -> PromptForm:
        """A form by name; None is the form of the training sequences."""
        if name is None:
            return self.forms[0]
        for form in self.forms:
            if form.name == name:
                return form
        raise UtteranceError(f"No prompt form {name!r}; there are {', '.join(f'{form.name} ({form.note})' for form in self.forms)}.")


@dataclass(frozen=True, eq=False)
class Segment:
    """A stretch of one modality.

    Args:
        modality: `speech` or `text`.
        ids: of the joint vocabulary.
        edges: seconds, one more than ids, on the clock of the clip; None for text, which takes no time.
        words: with spans that count from the first id of this segment.

    Raises:
        UtteranceError: no ids, or edges that do not fit the modality or the ids.
    """

    modality: Modality
    ids: Int[Tensor, " pos"]
    edges: Float[Tensor, " pos_and_one"] | None = None
    words: tuple[Word, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.ids):
            raise UtteranceError(f"A segment of {self.modality} has at least one id; got none. Leave it out.")
        if (self.edges is not None) != (self.modality == "speech"):
            raise UtteranceError("Speech segments have edges in seconds, text segments have none.")
        if self.edges is not None and self.edges.shape != (len(self.ids) + 1,):
            raise UtteranceError(f"{len(self.ids)} units need {len(self.ids) + 1} edges; got {tuple(self.edges.shape)}.")


@dataclass(frozen=True, eq=False)
class Layout:
    """A prompt laid out."""

    ids: Int[Tensor, " pos"]
    edges: Float[Tensor, " pos_and_one"]
    words: tuple[Word, ...]


def lay_out(format: PromptFormat, form: PromptForm, segments: Sequence[Segment], then: Modality | None = None) -> Layout:
    """One row of ids from segments.

    Markers and text take no time. Where speech was cut out of the clip and text stands in its place, the
    text's positions share that time evenly; where nothing stands in its place, the position before lasts
    until the speech goes on. A word of text keeps the instant at which its positions begin.

    Args:
        format: of the family.
        form: one of its forms.
        segments: in order; neighbours of one modality join without a marker.
        then: append the marker of the modality the model should go on in.

    Raises:
        UtteranceError: no segments, speech that starts before the speech before it ends, or a marker
            asked of a family without one.
    """
    if not segments:
        raise UtteranceError("A prompt needs at least one segment.")
    if then is not None and form.closed:
        raise UtteranceError(f"The form {form.name!r} closes its prompts; to go on in {then!r} takes an open one.")
    ids: list[int] = list(form.opening)
    first = next((segment.edges[0].item() for segment in segments if segment.edges is not None), 0.0)
    edges: list[float] = [first] * (len(ids) + 1)
    words: list[tuple[Modality, Word]] = []
    waiting: list[int] = []  # text positions since the last speech
    previous: Modality | None = None
    for segment in segments:
        if form.marked and segment.modality != previous:
            marks = format.change(form, previous, segment.modality)
            ids += marks
            edges += [edges[-1]] * len(marks)
        offset, previous = len(ids), segment.modality
        words += [(segment.modality, replace(word, span=word.span.checked(len(segment.ids)).shifted(offset))) for word in segment.words]
        ids += segment.ids.tolist()
        if segment.edges is None:
            waiting += range(offset, len(ids))
            edges += [edges[-1]] * len(segment.ids)
            continue
        start = segment.edges[0].item()
        if start < edges[-1] - 1e-6:
            raise UtteranceError(f"Speech must run forwards: a segment starts at {start:.3f} s, before {edges[-1]:.3f} s.")
        _spread(edges, waiting, max(start, edges[-1]))
        waiting = []
        edges += segment.edges[1:].tolist()
    last = segments[-1].modality
    tail = list(format.going_on(form, last, then)) if then is not None else []
    if form.closed and last in format.closers:
        tail.append(format.closers[last])
    tail += form.closing
    ids += tail
    edges += [edges[-1]] * len(tail)
    timed = tuple(word if modality == "speech" else _read_at(word, edges[word.span.start]) for modality, word in words)
    return Layout(torch.tensor(ids), torch.tensor(edges, dtype=torch.float64), timed)


def alternated(text: Segment, speech: Segment, counts: tuple[int, int]) -> list[Segment]:
    """Text and speech in turns of fixed lengths, as streaming models are trained: 13 ids of text, 26 of speech, and so on.

    Whichever lasts longer goes on alone. Words that a cut divides are left out of both sides.

    Args:
        text, speech: the two, whole.
        counts: ids of a turn of each.
    """
    turns: list[Segment] = []
    places, sides = [0, 0], (text, speech)
    while any(place < len(side.ids) for place, side in zip(places, sides, strict=True)):
        for which, side in enumerate(sides):
            start = places[which]
            places[which] = stop = min(start + counts[which], len(side.ids))
            if start < stop:
                turns.append(part_of(side, start, stop))
    return turns


def part_of(segment: Segment, start: int, stop: int) -> Segment:
    """Ids `start` to `stop` of a segment, with the words that lie wholly inside."""
    inside = tuple(
        replace(word, span=word.span.shifted(-start)) for word in segment.words if start <= word.span.start and word.span.stop <= stop
    )
    edges = None if segment.edges is None else segment.edges[start : stop + 1]
    return Segment(segment.modality, segment.ids[start:stop], edges, inside)


def _read_at(word: Word, instant: float) -> Word:
    """A word that is read and not heard takes no time."""
    return replace(word, start_s=instant, end_s=instant)


def _spread(edges: list[float], waiting: list[int], until: float) -> None:
    """Let the waiting text positions share the time up to `until`; without any, the last edge moves there."""
    begin, gap = edges[-1], until - edges[-1]
    if waiting:
        for position in range(waiting[0], len(edges) - 1):
            edges[position + 1] = begin + gap * bisect_right(waiting, position) / len(waiting)
    edges[-1] = until
