"""Contrast pairs in which the word that matters is all that differs: the corrupted word spliced into the clean prompt.

Two sentences said whole differ in more than their words. The sound before the answer already leans towards it (eSpeak runs sounds together, and a frame's
slopes look ahead), so the last unit of a prompt may give away what no word did: patched alone, at the embedding, it can move the outcome as far as
the word. Compare the ceilings of pairs as they were said with those of spliced ones before the word is given credit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from slm_interp.audio import Audio
from slm_interp.organisms.contrasts import ContrastPair
from slm_interp.utterance import Contrast, Span, Utterance, Word


def spliced(pairs: Sequence[ContrastPair]) -> list[ContrastPair]:
    """The pairs with the corrupted word in the clean prompt; answer and distractor stay as they were said.

    A pair is left out if a unit would follow itself where the parts meet: repeats are merged, so no model was trained on such a row.
    """
    return [made for made in (_spliced(pair) for pair in pairs) if made is not None]


def _spliced(pair: ContrastPair) -> ContrastPair | None:
    clean, corrupted = pair.contrast.clean, pair.contrast.corrupted
    own, other = pair.word_clean.span, pair.word_corrupted.span
    cuts = [(clean, 0, own.start), (corrupted, other.start, other.stop), (clean, own.stop, len(clean))]
    parts = [prompt.tokens[start:stop] for prompt, start, stop in cuts]
    tokens = torch.cat(parts)
    if (tokens[1:] == tokens[:-1]).any():
        return None
    lasting = torch.cat([prompt.edges.double().diff()[start:stop] for prompt, start, stop in cuts])
    edges = torch.cat([clean.edges[:1].double(), clean.edges[0] + lasting.cumsum(0)]).to(clean.edges)
    word = _word(pair.word_corrupted, Span(own.start, own.start + len(other)), edges)
    prompt = Utterance(
        tokens,
        edges,
        tuple(_moved(one, pair.word_clean, word, len(other) - len(own), edges) for one in clean.words),
        tuple(label for prompt, start, stop in cuts for label in prompt.labels[start:stop]),
        _sound(cuts),
        clean.quantiser,
        clean.form,
        f"{clean.name}, spliced",
    )
    contrast = Contrast(clean, prompt, pair.contrast.answer, pair.contrast.distractor)
    return replace(pair, contrast=contrast, name=f"{pair.name}-spliced", word_corrupted=word)


def _moved(one: Word, old: Word, new: Word, by: int, edges: torch.Tensor) -> Word:
    """A word of the clean prompt as it stands after the splice."""
    if one.span == old.span:
        return new
    return one if one.span.start < old.span.start else _word(one, one.span.shifted(by), edges)


def _word(one: Word, span: Span, edges: torch.Tensor) -> Word:
    return Word(one.text, span, float(edges[span.start]), float(edges[span.stop]))


def _sound(cuts: Sequence[tuple[Utterance, int, int]]) -> Audio | None:
    """The pieces of sound of the parts, cut where their units are."""
    pieces, rate = [], 0
    for prompt, start, stop in cuts:
        if prompt.audio is None:
            return None
        rate = prompt.audio.sample_rate
        first, last = (round(float(prompt.edges[at]) * rate) for at in (start, stop))
        pieces.append(prompt.audio.samples[first:last])
    return Audio(np.concatenate(pieces), rate)
