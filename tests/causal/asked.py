"""Planted models asked as the questions ask: cases about the heard word and about the word said next, and bases that know the compiler's codes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from slm_interp.causal import Case, Words
from slm_interp.causal.planted import Planted, plant
from slm_interp.causal.planted.codes import Codes, codes_of
from slm_interp.causal.planted.lexicon import lexicon_of
from slm_interp.hooked.installed import MAJOR
from slm_interp.lenses.logit import LogitLens
from slm_interp.model import SpeechTextModel
from slm_interp.patching.interventions.directions import along
from slm_interp.patching.outcomes import Outcome
from slm_interp.patching.spans import SpanPair
from slm_interp.utterance import Contrast, Span, Utterance

EXACT = 1e-4 if MAJOR == 3 else 2e-2  # nats; effects are about 16

planted = lru_cache(maxsize=None)(plant)


def heard(model: Planted, count: int = 4) -> list[Case]:
    """Cases about the word that is heard."""
    found = []
    for number, contrast in enumerate(model.contrasts[:count]):
        clean, corrupted = contrast.clean.words[0], contrast.corrupted.words[0]
        found.append(Case(f"heard {number}", contrast, Words(clean.text, corrupted.text), SpanPair("word", clean.span, corrupted.span)))
    return found


def said(model: Planted, count: int = 4) -> list[Case]:
    """Cases about the word that each prompt goes on with, at the last position."""
    found, lexicon = [], model.lexicon
    for number, contrast in enumerate(model.contrasts[:count]):
        words = [
            lexicon.words[lexicon.following[lexicon.words.index(prompt.words[0].text)]] for prompt in (contrast.clean, contrast.corrupted)
        ]
        ends = [Span(len(prompt) - 1, len(prompt)) for prompt in (contrast.clean, contrast.corrupted)]
        found.append(Case(f"said {number}", contrast, Words(*words), SpanPair("end", *ends)))
    return found


@lru_cache(maxsize=8)
def codes(model: Planted) -> Codes:
    """What the compiler drew."""
    generator = torch.Generator().manual_seed(model.seed)
    lexicon_of(len(model.lexicon.words), generator)
    return codes_of(model.lexicon, model.slm.model.cfg.d_model, generator)


class OneEach(ABC):
    """A basis of one direction a word, whose scores are dot products."""

    name: str

    @property
    def settings(self) -> dict[str, str]:
        return {"basis": self.name}

    @abstractmethod
    def directions(self, layer: int, words: Sequence[str]) -> Tensor:
        """A row for each word."""

    def pairs(self, layer: int, first: str, second: str) -> tuple[Tensor, Tensor]:
        both = self.directions(layer, [first, second])
        return both[:1], both[1:]

    def score(self, resid: Tensor, layer: int, words: Sequence[str]) -> Tensor:
        return along(resid, self.directions(layer, words))


@dataclass(frozen=True, eq=False)
class Coded(OneEach):
    """A basis of one code of a planted model: `text`, `secret`, or `following`, in which no lens reads a word."""

    model: Planted
    code: str
    name: str = "coded"

    def directions(self, layer: int, words: Sequence[str]) -> Tensor:
        own = codes(self.model)
        rows = own.text if self.code == "text" else own.basis[self.code]
        return rows[[self.model.lexicon.words.index(word) for word in words]]


@dataclass(frozen=True, eq=False)
class TextThenFollowing(OneEach):
    """The lens's directions before the layer where the next word stands, and that word's code from there on."""

    model: Planted
    name: str = "text, then following"

    def directions(self, layer: int, words: Sequence[str]) -> Tensor:
        return LogitLens(self.model.slm).directions(layer, words) if layer < 4 else Coded(self.model, "following").directions(layer, words)


def plain(slm: SpeechTextModel, prompt: Utterance, contrast: Contrast, outcome: Outcome, hooks: list[tuple[str, Any]]) -> float:
    """The outcome by whole forwards of TransformerLens, one row for each continuation."""
    from tests.patching.plain import score

    return score(slm, prompt, contrast, outcome, hooks)


def with_text(model: Planted, case: Case) -> Case:
    """The same case with its prompts written: a filler and the word."""
    prompts = [model.slm.text_prompt(f" the {word}") for word in (case.words.clean, case.words.corrupted)]
    spans = [prompt.words[1].span for prompt in prompts]
    return replace(case, written=Contrast(*prompts, case.contrast.answer, case.contrast.distractor), written_span=SpanPair("word", *spans))
