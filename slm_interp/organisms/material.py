"""Rows of tokens to train on. A row is a function of the recipe's seed, the phase and the step, so training can stop and go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from slm_interp.organisms.corpus import Document
from slm_interp.organisms.interleave import Codes, interleaved, joined, overlap, runs, spoken, written
from slm_interp.organisms.recipe import Phase
from slm_interp.organisms.tokens import Speller
from slm_interp.organisms.world import World
from slm_interp.prompt import Modality
from slm_interp.vocabulary import JointVocabulary


@dataclass(frozen=True, eq=False)
class Material:
    """What can be read and heard, and what its words and units are called.

    Args:
        world: tells documents to read, without end.
        documents: spoken ones.
        speller: the ways to write a word.
        vocabulary: the joint one.
    """

    world: World
    documents: Sequence[Document]
    speller: Speller
    vocabulary: JointVocabulary

    @cached_property
    def codes(self) -> Codes:
        """Ids of words, period, units and markers."""
        first_unit = int(self.vocabulary.unit_to_id(torch.tensor(0)))
        markers: dict[Modality, int] = {"speech": self.vocabulary.marker("<speech>"), "text": self.vocabulary.marker("<text>")}
        return Codes(self.speller.whole, self.speller.period, first_unit, markers)

    def text_only_batch(self, phase: Phase, step: int, seed: tuple[int, ...]) -> Int[Tensor, "row pos"]:
        """Rows for the text model: documents on lines, no markers, no units."""

        def line(rng: np.random.Generator) -> list[int]:
            ids: list[int] = []
            for sentence in self.world.document(rng, aloud=False):
                ids += [one for word in self._spelled(sentence.words, phase.spelled, rng) for one in word] + [self.speller.period]
            return [*ids, self.speller.line_break]

        return self._rows(lambda rng: line, phase, (*seed, step))

    def joint_batch(self, phase: Phase, step: int, seed: tuple[int, ...]) -> Int[Tensor, "row pos"]:
        """Rows of text, interleaved and speech documents in the shares of `phase.mix`."""
        codes = self.codes

        def text(rng: np.random.Generator) -> list[int]:
            sentences = self.world.document(rng, aloud=False)
            return joined([written(self._spelled(one.words, phase.spelled, rng), codes) for one in sentences], codes)

        def mixed(rng: np.random.Generator) -> list[int]:
            sentences = []
            for one in self._draw(rng):
                cut = runs(len(one.words), phase.runs, rng)
                late, unmarked = rng.normal(0.0, phase.misaligned_s, len(cut)), rng.random(len(cut)) < phase.unmarked
                if phase.overlapped > 0:
                    late += overlap(one.words, cut, phase.overlapped, rng)
                sentences.append(interleaved(one.words, one.units, cut, codes, late.tolist(), unmarked.tolist()))
            return joined(sentences, codes)

        def speech(rng: np.random.Generator) -> list[int]:
            return joined([spoken(one.units, codes) for one in self._draw(rng)], codes)

        kinds = (text, mixed, speech)
        return self._rows(lambda rng: kinds[int(rng.choice(3, p=phase.mix))], phase, (*seed, step))

    def _draw(self, rng: np.random.Generator) -> Document:
        return self.documents[int(rng.integers(len(self.documents)))]

    def _spelled(self, words: Sequence[str], chance: float, rng: np.random.Generator) -> list[tuple[int, ...]]:
        chosen = []
        for word in words:
            variants = self.speller.variants[word]
            chosen.append(variants[int(rng.integers(len(variants)))] if rng.random() < chance else self.speller.whole[word])
        return chosen

    @staticmethod
    def _rows(
        kind: Callable[[np.random.Generator], Callable[[np.random.Generator], list[int]]], phase: Phase, seed: tuple[int, ...]
    ) -> Int[Tensor, "row pos"]:
        rows = []
        for row in range(phase.rows):
            rng = np.random.default_rng([*seed, row])
            draw, ids = kind(rng), list[int]()
            while len(ids) < phase.length:
                ids += draw(rng)
            rows.append(ids[: phase.length])
        return torch.tensor(rows)
