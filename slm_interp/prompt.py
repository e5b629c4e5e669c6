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
        marked: put the modality's marker before each segment that changes modality, the first included.
        closing: ids after everything else.
        note: when the source project uses it.
    """

    name: str
    opening: tuple[int, ...] = ()
    marked: bool = False
    closing: tuple[int, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class PromptFormat:
    """The forms of a family.

    Args:
        forms: the first is the form of its training sequences, and the default.
        markers: id of the marker of each modality; empty where there are none.

    Raises:
        UtteranceError: no form, two of one name, or a marked form without both markers.
    """

    forms: tuple[PromptForm, ...]
    markers: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len({form.name for form in self.forms}) != max(1, len(self.forms)):
            raise UtteranceError(
                f"A family has at least one prompt form, each with a name of its own; got {[form.name for form in self.forms]}."
            )
        if any(form.marked for form in self.forms) and set(self.markers) != {"speech", "text"}:
            raise UtteranceError("A marked form needs a marker for speech and one for text.")

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
    if then is not None and then not in format.markers:
        raise UtteranceError(f"This family has no marker for {then!r}; it has {dict(format.markers) or 'none'}.")
    ids: list[int] = list(form.opening)
    first = next((segment.edges[0].item() for segment in segments if segment.edges is not None), 0.0)
    edges: list[float] = [first] * (len(ids) + 1)
    words: list[tuple[Modality, Word]] = []
    waiting: list[int] = []  # text positions since the last speech
    previous: str | None = None
    for segment in segments:
        if form.marked and segment.modality != previous:
            ids.append(format.markers[segment.modality])
            edges.append(edges[-1])
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
    if then is not None:
        ids.append(format.markers[then])
        edges.append(edges[-1])
    ids += form.closing
    edges += [edges[-1]] * len(form.closing)
    timed = tuple(word if modality == "speech" else _read_at(word, edges[word.span.start]) for modality, word in words)
    return Layout(torch.tensor(ids), torch.tensor(edges, dtype=torch.float64), timed)


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
