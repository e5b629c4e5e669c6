"""Splicing: a stretch of one recording in the place of a stretch of another, so that two prompts differ in that word and in nothing else.

1. Ids, durations and labels of the stretch are cut out of the donor and put in the place of the stretch of the prompt; sound likewise, cut where the
   units are.
2. Words before the stretch stay as they are, the word at the stretch becomes the donor's, words after it move.
3. A splice in which an id follows itself where the parts meet is none, unless ids follow themselves in what was said: where repeats are merged, no
   model was trained on such a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from slm_interp.audio import Audio
from slm_interp.errors import SpeechError
from slm_interp.streams import repeats
from slm_interp.utterance import Contrast, Span, Utterance, Word

Cut: TypeAlias = tuple[Utterance, int, int]


def replaced(prompt: Utterance, span: Span, donor: Utterance, donor_span: Span, text: str) -> Utterance | None:
    """A prompt with a stretch of another in the place of its own; None where an id would follow itself at a joint.

    Args:
        prompt: gives everything around.
        span: of one of its words.
        donor: gives the stretch.
        donor_span: what is taken from it, of any length.
        text: what the word at the stretch is called afterwards.

    Raises:
        UtteranceError: a span past an end.
        SpeechError: units of two quantisers, or a span that is no word of the prompt.
    """
    own, other = span.checked(len(prompt)), donor_span.checked(len(donor))
    if prompt.quantiser != donor.quantiser:
        raise SpeechError(f"A splice takes units of one quantiser; got {prompt.quantiser!r} and {donor.quantiser!r}.")
    if own not in prompt.spans:
        raise SpeechError(f"A splice replaces a word; {own} is none of {[(word.text, word.span) for word in prompt.words]}.")
    cuts = [(prompt, 0, own.start), (donor, other.start, other.stop), (prompt, own.stop, len(prompt))]
    tokens = torch.cat([one.tokens[start:stop] for one, start, stop in cuts])
    if repeats(tokens) and not (repeats(prompt.tokens) or repeats(donor.tokens)):
        return None
    edges = _edges(cuts)
    placed, by = Span(own.start, own.start + len(other)), len(other) - len(own)
    return Utterance(
        tokens,
        edges,
        tuple(_word(text, placed, edges) if word.span == own else _moved(word, own, by, edges) for word in prompt.words),
        tuple(label for one, start, stop in cuts for label in one.labels[start:stop]) if prompt.labels and donor.labels else (),
        _sound(cuts),
        prompt.quantiser,
        prompt.form,
        f"{prompt.name}, spliced",
    )


def spliced_contrast(contrast: Contrast, clean: Span, corrupted: Span) -> Contrast | None:
    """A contrast whose corrupted prompt is the clean one with the corrupted word in it; continuations stay. None as of `replaced`.

    Args:
        clean, corrupted: spans of the words that meet.
    """
    text = next((word.text for word in contrast.corrupted.words if word.span == corrupted), None)
    if text is None:
        raise SpeechError(f"{corrupted} is no word of the corrupted prompt; its words: {[word.text for word in contrast.corrupted.words]}.")
    made = replaced(contrast.clean, clean, contrast.corrupted, corrupted, text)
    return None if made is None else Contrast(contrast.clean, made, contrast.answer, contrast.distractor)


def _edges(cuts: Sequence[Cut]) -> Float[Tensor, " pos_and_one"]:
    """Every part lasts as long as it did."""
    first = cuts[0][0].edges
    lasting = torch.cat([one.edges.double().diff()[start:stop] for one, start, stop in cuts])
    return torch.cat([first[:1].double(), first[0] + lasting.cumsum(0)]).to(first)


def _moved(word: Word, old: Span, by: int, edges: Tensor) -> Word:
    return word if word.span.start < old.start else _word(word.text, word.span.shifted(by), edges)


def _word(text: str, span: Span, edges: Tensor) -> Word:
    return Word(text, span, float(edges[span.start]), float(edges[span.stop]))


def _sound(cuts: Sequence[Cut]) -> Audio | None:
    """The pieces of sound of the parts, cut where their units are; none if a part has no sound, or another rate."""
    sounds = [one.audio for one, _, _ in cuts]
    rates = {None if sound is None else sound.sample_rate for sound in sounds}
    rate = rates.pop()
    if rate is None or rates:
        return None
    pieces = []
    for (one, start, stop), sound in zip(cuts, sounds, strict=True):
        first, last = (round(float(one.edges[at]) * rate) for at in (start, stop))
        if sound is not None:
            pieces.append(sound.samples[first:last])
    return Audio(np.concatenate(pieces), rate)
