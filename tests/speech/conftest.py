from __future__ import annotations

from functools import lru_cache

import pytest

from slm_interp.speech.alignment import align_with_scores
from tests.speech import real


@lru_cache
def scored(clip):
    return align_with_scores(real.sound(clip), real.transcript(clip))


@pytest.fixture(scope="session")
def aligned():
    """Words of a recorded clip with their seconds, aligned once a session."""
    return lambda clip: tuple(one.word for one in scored(clip))


@pytest.fixture(scope="session")
def aligned_with_scores():
    return scored
