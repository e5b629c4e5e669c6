"""Contrasts for planted models: carriers, a word, carriers, the cue; then the units of the word that follows.

The two prompts differ in the word and in carriers before and after it, so that the noise at the word differs as well. The two carriers before the cue
are the same: noise goes two positions far, so the last position differs in what came from the word and in nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from slm_interp.causal.planted.lexicon import Lexicon
from slm_interp.errors import PatchingError
from slm_interp.model import SpeechTextModel
from slm_interp.utterance import Contrast, Span, Utterance, Word

BEFORE, AFTER, SHARED = 3, 1, 2  # carriers before the word, after it, and after these alike in both prompts
UNIT_S = 0.04


def contrasts_of(slm: SpeechTextModel, lexicon: Lexicon, count: int, generator: torch.Generator) -> tuple[Contrast, ...]:
    """Pairs of words whose followers share no unit, in random order; no pair of words twice, in either order.

    Raises:
        PatchingError: fewer such pairs than asked for.
    """
    words = range(len(lexicon.words))
    pairs = [(a, b) for a in words for b in words if a < b and _told_apart(lexicon, a, b)]
    if not 1 <= count <= len(pairs):
        raise PatchingError(f"{len(words)} words make {len(pairs)} pairs whose followers share no unit; got n_contrasts={count}.")
    chosen = [pairs[n] for n in torch.randperm(len(pairs), generator=generator).tolist()[:count]]
    return tuple(_contrast(slm, lexicon, pair, generator) for pair in chosen)


def _told_apart(lexicon: Lexicon, a: int, b: int) -> bool:
    return not set(lexicon.spelled(lexicon.following[a])) & set(lexicon.spelled(lexicon.following[b]))


def _contrast(slm: SpeechTextModel, lexicon: Lexicon, pair: tuple[int, int], generator: torch.Generator) -> Contrast:
    clean, corrupted = pair if torch.rand((), generator=generator) < 0.5 else pair[::-1]
    carriers = [lexicon.carriers[n] for n in torch.randperm(len(lexicon.carriers), generator=generator).tolist()]
    shared, others = carriers[:SHARED], carriers[SHARED:]
    shifted = others[-2:] + others[:-2]
    says = [_prompt(slm, lexicon, word, around, shared) for word, around in ((clean, others), (corrupted, shifted))]
    follows = [_ids(slm, lexicon, lexicon.spelled(lexicon.following[word])) for word in (clean, corrupted)]
    return Contrast(says[0], says[1], follows[0], follows[1])


def _prompt(slm: SpeechTextModel, lexicon: Lexicon, word: int, around: Sequence[int], shared: Sequence[int]) -> Utterance:
    before, after = around[:BEFORE], around[BEFORE : BEFORE + AFTER]
    symbols = [*before, *lexicon.spelled(word), *after, *shared, lexicon.cue]
    edges = UNIT_S * torch.arange(len(symbols) + 1, dtype=torch.float32)
    span = Span(BEFORE, BEFORE + 2)
    heard = Word(lexicon.words[word], span, float(edges[span.start]), float(edges[span.stop]))
    units = torch.tensor([lexicon.unit_of[symbol] for symbol in symbols])
    return slm.check(slm.speech_prompt(units, edges, [heard], quantiser=slm.vocabulary.quantiser, name=f"{heard.text}, planted"))


def _ids(slm: SpeechTextModel, lexicon: Lexicon, symbols: Sequence[int]) -> Int[Tensor, " unit"]:
    return slm.vocabulary.unit_to_id(torch.tensor([lexicon.unit_of[symbol] for symbol in symbols]))
