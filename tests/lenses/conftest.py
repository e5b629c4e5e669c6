"""An utterance with speech, words and text for the tiny model."""

from __future__ import annotations

import pytest
import torch

from slm_interp.model import SpeechTextModel
from slm_interp.utterance import Span, Utterance, Word


@pytest.fixture
def spoken(tiny_slm: SpeechTextModel) -> Utterance:
    """`the` and `capital` as units, one of them repeated, then the marker for text."""
    edges = torch.tensor([0.0, 0.04, 0.12, 0.2, 0.24, 0.4])
    words = (Word("the", Span(0, 2), 0.0, 0.12), Word("capital", Span(2, 5), 0.12, 0.4))
    return tiny_slm.speech_prompt(torch.tensor([3, 7, 3, 11, 7]), edges, words, quantiser="tiny", then="text", name="spoken")
