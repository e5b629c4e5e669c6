"""Contrasts for circuits, in models of several architectures, with weights large enough that nothing is nearly linear."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest
import torch

from slm_interp.convert import load
from slm_interp.model import SpeechTextModel
from slm_interp.utterance import Contrast
from tests.patching.conftest import contrast_of, prompt_of
from tests.replicas import N_UNITS, VARIANTS, text_tokenizer, write_slamkit

ARCHITECTURES = ("llama", "llama-mha-tied", "qwen3-biases-tied", "opt", "gpt_neox")
PROMPTS = {
    "clean": {"the": [3, 7], "capital": [11, 7, 5], "of": [0, 1]},
    "equal": {"the": [3, 8], "france": [2, 14, 5], "of": [0, 1]},
    "longer": {"the": [3, 8], "france": [2, 14, 5, 9, 10], "of": [0, 1]},
}


@lru_cache
def model_of(variant: str, scale: float = 2.0, dtype: torch.dtype = torch.float32) -> SpeechTextModel:
    """A random model with text and units."""
    tokenizer = text_tokenizer()
    with tempfile.TemporaryDirectory() as folder:
        path = write_slamkit(Path(folder), VARIANTS[variant], vocab_size=len(tokenizer) + N_UNITS + 2)
        slm = load(path, text_tokenizer=tokenizer, n_units=N_UNITS, quantiser="tiny", dtype=dtype)
        with torch.no_grad():
            for name, parameter in slm.model.named_parameters():
                if ".attn." in name or ".mlp." in name:
                    parameter.set_(parameter.clone() * scale)
    return slm


@pytest.fixture(scope="session")
def contrast() -> Callable[[SpeechTextModel, str], Contrast]:
    """The clean prompt against the one named, of equal or of unequal length."""

    def made(slm: SpeechTextModel, other: str = "equal") -> Contrast:
        return contrast_of(slm, prompt_of(slm, PROMPTS["clean"], "clean"), prompt_of(slm, PROMPTS[other], other))

    return made


@pytest.fixture(params=ARCHITECTURES)
def slm(request: pytest.FixtureRequest) -> SpeechTextModel:
    """A model of each architecture."""
    return model_of(request.param)


@pytest.fixture(scope="session")
def grouped() -> SpeechTextModel:
    """Two query heads to a key-value head."""
    return model_of("llama")
