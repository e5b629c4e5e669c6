"""The planted model, and speech for the random one."""

from __future__ import annotations

import numpy as np
import pytest

from slm_interp.model import SpeechTextModel
from slm_interp.utterance import Utterance
from tests.replicas import N_UNITS
from tests.transcription import planted


@pytest.fixture(scope="session")
def planted_slm(tiny_slm: SpeechTextModel) -> SpeechTextModel:
    return planted.planted(tiny_slm)


@pytest.fixture(scope="session")
def corpus(tiny_slm: SpeechTextModel) -> list[Utterance]:
    """Six utterances of random words and random units for the model with random weights."""
    rng = np.random.default_rng(0)
    return [
        planted.utterance(tiny_slm, words, [rng.integers(0, N_UNITS, rng.integers(2, 5)).tolist() for _ in words], 2, f"clip {number}")
        for number, words in enumerate(planted.sentences(6, 6, seed=1))
    ]
