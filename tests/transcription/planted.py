"""A model whose residual stream says exactly what a unit stands for: every block adds nothing, every unit is a word or silence.

Unit `i` writes the direction that `W_U` reads as word `i` of the tokenizer; the other units write nothing, and where
nothing is written all ids tie.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from slm_interp import LogitLens, SpeechTextModel, Utterance, hooked
from slm_interp.utterance import Span, Word
from tests.replicas import WORDS

SILENCE = len(WORDS)


def planted(slm: SpeechTextModel) -> SpeechTextModel:
    """The tiny model with these weights; word `i` of the tokenizer is id `i + 1`."""
    model = copy.deepcopy(slm.model)
    with torch.no_grad():
        for name, parameter in hooked.parameters(model).items():
            parameter.copy_(torch.ones_like(parameter) if name.endswith("ln_final.w") else torch.zeros_like(parameter))
        for index, word in enumerate(WORDS):
            (identifier,) = slm.word_ids(word)
            model.unembed.W_U[index, identifier] = 1.0
            model.embed.W_E[int(slm.vocabulary.unit_to_id(torch.tensor(index))), index] = 1.0
    return replace(slm, model=model)


@dataclass(frozen=True)
class AtLayers:
    """A lens that sees some layers and is blind in all others."""

    slm: SpeechTextModel
    layers: tuple[int, ...]
    name: str = "at layers"

    @property
    def settings(self) -> dict[str, str]:
        return {"lens": self.name}

    def scores(self, resid: Tensor, layer: int) -> Tensor:
        return LogitLens(self.slm).scores(resid, layer) * (layer in self.layers)


def utterance(slm: SpeechTextModel, words: Sequence[str], units: Sequence[Sequence[int]], tail: int = 0, name: str = "") -> Utterance:
    """Words with the units of each, and some silence after the last."""
    flat = [one for some in units for one in some] + [SILENCE] * tail
    stops = np.cumsum([len(some) for some in units]).tolist()
    edges = torch.arange(len(flat) + 1) * 0.04
    spans = [Span(stop - len(some), stop) for stop, some in zip(stops, units, strict=True)]
    placed = [Word(word, span, float(edges[span.start]), float(edges[span.stop])) for word, span in zip(words, spans, strict=True)]
    return slm.speech_prompt(torch.tensor(flat), edges, placed, quantiser="tiny", name=name)


def sentences(count: int, length: int = 5, seed: int = 0) -> list[list[str]]:
    """Different words in random order."""
    rng = np.random.default_rng(seed)
    return [[str(word) for word in rng.permutation(WORDS)[:length]] for _ in range(count)]


def heard(slm: SpeechTextModel, count: int = 12, length: int = 5, seed: int = 0) -> list[Utterance]:
    """Every word is shown by its own last unit."""
    return [
        utterance(slm, words, [[SILENCE, SILENCE, SILENCE, WORDS.index(word)] for word in words], 4, f"clip {number}")
        for number, words in enumerate(sentences(count, length, seed))
    ]


def guessed(slm: SpeechTextModel, count: int = 12, length: int = 5, seed: int = 0) -> list[Utterance]:
    """Every word is shown by the unit before its onset, and by none of its own."""
    found = []
    for number, words in enumerate(sentences(count, length, seed)):
        following = [*(WORDS.index(word) for word in words[1:]), SILENCE]
        found.append(utterance(slm, words, [[SILENCE, SILENCE, SILENCE, unit] for unit in following], 4, f"clip {number}"))
    return found
