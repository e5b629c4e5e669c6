"""Rows of tokens to train on. A row is a function of the recipe's seed, the phase and the step, so training can stop and go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from slm_interp.organisms.corpus import Spoken
from slm_interp.organisms.interleave import Codes, interleaved, runs, spoken
from slm_interp.organisms.recipe import Phase
from slm_interp.organisms.tokens import Speller
from slm_interp.prompt import Modality
from slm_interp.vocabulary import JointVocabulary


@dataclass(frozen=True, eq=False)
class Material:
    """Spoken sentences and what their words and units are called.

    Args:
        sentences: to draw from.
        speller: whole words and letters.
        vocabulary: the joint one.
    """

    sentences: Sequence[Spoken]
    speller: Speller
    vocabulary: JointVocabulary

    @property
    def codes(self) -> Codes:
        """Words whole."""
        first_unit = int(self.vocabulary.unit_to_id(torch.tensor(0)))
        markers: dict[Modality, int] = {"speech": self.vocabulary.marker("<speech>"), "text": self.vocabulary.marker("<text>")}
        return Codes(self.speller.whole, first_unit, markers)

    def text_only_batch(self, phase: Phase, step: int, seed: tuple[int, ...]) -> Int[Tensor, "row pos"]:
        """Rows for the text model: lines of words, no markers, no units."""

        def line(rng: np.random.Generator) -> list[int]:
            words = self._spelled(self._draw(rng), phase.spelled, rng)
            return [*(identifier for word in words for identifier in word), self.speller.line_break]

        return self._rows(line, phase, (*seed, step))

    def joint_batch(self, phase: Phase, step: int, seed: tuple[int, ...]) -> Int[Tensor, "row pos"]:
        """Rows of text, interleaved and speech sentences in the shares of `phase.mix`."""
        codes = self.codes

        def sequence(rng: np.random.Generator) -> list[int]:
            one, kind = self._draw(rng), rng.choice(3, p=phase.mix)
            if kind == 0:
                return [codes.markers["text"], *(identifier for word in self._spelled(one, phase.spelled, rng) for identifier in word)]
            if kind == 1:
                return interleaved(one.words, one.units, runs(len(one.words), phase.runs, rng), codes)
            return spoken(one.units, codes)

        return self._rows(sequence, phase, (*seed, step))

    def _draw(self, rng: np.random.Generator) -> Spoken:
        return self.sentences[int(rng.integers(len(self.sentences)))]

    def _spelled(self, one: Spoken, chance: float, rng: np.random.Generator) -> list[tuple[int, ...]]:
        return [(self.speller.letters if rng.random() < chance else self.speller.whole)[word.text] for word in one.words]

    @staticmethod
    def _rows(draw: Callable[[np.random.Generator], list[int]], phase: Phase, seed: tuple[int, ...]) -> Int[Tensor, "row pos"]:
        rows = []
        for row in range(phase.rows):
            rng = np.random.default_rng([*seed, row])
            ids: list[int] = []
            while len(ids) < phase.length:
                ids += draw(rng)
            rows.append(ids[: phase.length])
        return torch.tensor(rows)
