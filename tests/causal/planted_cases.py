"""Cases and spoken sentences of planted models, as many as a test needs: the same pairs of words with other carriers around them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch

from slm_interp.causal import Case, Words
from slm_interp.causal.planted import Planted, plant
from slm_interp.causal.planted.prompts import contrasts_of
from slm_interp.patching.spans import SpanPair
from slm_interp.utterance import Contrast, Span, Utterance, Word

PAIRS = 18  # of nine words, those whose followers share no unit


@cache
def planted(kind: str) -> Planted:
    return plant(kind, seed=0, d_model=64, n_words=9, n_contrasts=PAIRS)


def contrasts(model: Planted, times: int, seed: int = 100) -> list[Contrast]:
    generators = (torch.Generator().manual_seed(seed + n) for n in range(times))
    return [one for generator in generators for one in contrasts_of(model.slm, model.lexicon, PAIRS, generator)]


def cases(model: Planted, times: int = 1, seed: int = 100) -> list[Case]:
    found = []
    for number, one in enumerate(contrasts(model, times, seed)):
        clean, corrupted = one.clean.words[0], one.corrupted.words[0]
        found.append(Case(str(number), one, Words(clean.text, corrupted.text), SpanPair("word", clean.span, corrupted.span)))
    return found


def spoken(model: Planted, count: int, seed: int = 100) -> list[Utterance]:
    """Prompts gone on with what follows: two words each."""
    found = []
    for one in contrasts(model, 1, seed):
        for prompt, units in ((one.clean, one.answer), (one.corrupted, one.distractor)):
            heard, length = prompt.words[0], len(prompt)
            edges = torch.cat([prompt.edges, prompt.edges[-1] + 0.04 * torch.arange(1, 3)])
            following = model.lexicon.words[model.lexicon.following[model.lexicon.words.index(heard.text)]]
            said = Word(following, Span(length, length + 2), float(edges[length]), float(edges[length + 2]))
            found.append(replace(prompt, tokens=torch.cat([prompt.tokens, units]), edges=edges, words=(heard, said), labels=()))
    return found[:count]
