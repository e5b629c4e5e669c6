"""Two contrasts for the tiny model: prompts of one length, and prompts whose words differ in length."""

from __future__ import annotations

import pytest
import torch

from slm_interp.model import SpeechTextModel
from slm_interp.utterance import Contrast, Span, Utterance, Word


def prompt_of(slm: SpeechTextModel, words: dict[str, list[int]], name: str) -> Utterance:
    """Words by their units, each unit a little longer than the one before."""
    units = torch.tensor([unit for own in words.values() for unit in own])
    edges = torch.cat([torch.zeros(1), (0.04 * torch.arange(1, len(units) + 1)).cumsum(0)])
    placed, start = [], 0
    for text, own in words.items():
        stop = start + len(own)
        placed.append(Word(text, Span(start, stop), float(edges[start]), float(edges[stop])))
        start = stop
    return slm.speech_prompt(units, edges, placed, quantiser="tiny", name=name)


def contrast_of(slm: SpeechTextModel, clean: Utterance, corrupted: Utterance) -> Contrast:
    """Answers of three and of two units."""
    answer, distractor = (slm.vocabulary.unit_to_id(torch.tensor(units)) for units in ([4, 9, 2], [6, 13]))
    return Contrast(clean, corrupted, answer, distractor)


@pytest.fixture
def equal(tiny_slm: SpeechTextModel) -> Contrast:
    """Two prompts of seven units in words of two, three and two."""
    return contrast_of(
        tiny_slm,
        prompt_of(tiny_slm, {"the": [3, 7], "capital": [11, 7, 5], "of": [0, 1]}, "clean"),
        prompt_of(tiny_slm, {"the": [3, 8], "france": [2, 14, 5], "of": [0, 1]}, "corrupted"),
    )


@pytest.fixture
def unequal(tiny_slm: SpeechTextModel) -> Contrast:
    """As `equal`, with a middle word of five units in the corrupted prompt."""
    return contrast_of(
        tiny_slm,
        prompt_of(tiny_slm, {"the": [3, 7], "capital": [11, 7, 5], "of": [0, 1]}, "clean"),
        prompt_of(tiny_slm, {"the": [3, 8], "france": [2, 14, 5, 9, 10], "of": [0, 1]}, "corrupted"),
    )
