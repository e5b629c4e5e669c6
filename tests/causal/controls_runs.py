"""Runs that controls are tested on: replicas of several architectures, and planted models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slm_interp.causal.controls.edits import Run
from slm_interp.causal.planted import Planted
from slm_interp.convert import load
from slm_interp.lenses.directions import directions_of, first_pieces
from slm_interp.model import SpeechTextModel
from slm_interp.patching import outcomes
from slm_interp.patching.engine import ran
from slm_interp.patching.interventions import SwapCoordinates
from slm_interp.patching.outcomes import Outcome
from slm_interp.utterance import Contrast
from tests.patching.conftest import contrast_of, prompt_of
from tests.replicas import N_UNITS, VARIANTS, text_tokenizer, write_slamkit

SPAN = [3, 4, 5]  # of the word that differs
LAST = [7]


def replica(folder: Path, variant: str, dtype: torch.dtype = torch.float64) -> SpeechTextModel:
    tokenizer = text_tokenizer()
    made = write_slamkit(folder / variant, VARIANTS[variant], vocab_size=len(tokenizer) + N_UNITS + 2, scale=0.2)
    return load(made, text_tokenizer=tokenizer, n_units=N_UNITS, quantiser="tiny", dtype=dtype)


def contrast_for(slm: SpeechTextModel) -> Contrast:
    """Two prompts of seven units after a marker; answers of three and of two."""
    clean = prompt_of(slm, {"the": [3, 7], "capital": [11, 7, 5], "of": [0, 1]}, "clean")
    return contrast_of(slm, clean, prompt_of(slm, {"the": [3, 8], "france": [2, 14, 5], "of": [0, 1]}, "corrupted"))


def run_of(slm: SpeechTextModel, contrast: Contrast, outcome: Outcome | None = None) -> Run:
    outcome = outcome or outcomes.difference()
    reference = ran(slm, contrast.clean, contrast, outcome).logits if outcome.reference else None
    return Run(slm, ran(slm, contrast.corrupted, contrast, outcome), outcome, reference)


def random_change(run: Run, at: int, size: float = 1.0, seed: int = 0) -> Tensor:
    """Of another length at each position."""
    generator = torch.Generator().manual_seed(seed)
    stream = run.base.kept.stream
    made = size * torch.randn(at, stream.shape[-1], generator=generator) * torch.linspace(0.5, 1.5, at)[:, None]
    return made.to(torch.promote_types(stream.dtype, torch.float32))


def added(layer_hook: str, positions: list[int], change: Tensor) -> tuple[str, Any]:
    """The change as a plain hook."""

    def put(value: Tensor, hook: Any) -> Tensor:
        value = value.clone()
        value[:, positions] += change.to(value)
        return value

    return layer_hook, put


def planted_run(planted: Planted, number: int = 0, outcome: Outcome | None = None) -> tuple[Run, list[int]]:
    """The run of a corrupted prompt, and where its word is."""
    contrast = planted.contrasts[number]
    return run_of(planted.slm, contrast, outcome or outcomes.difference(units=1)), list(contrast.corrupted.words[0].span)


def swap_of(planted: Planted, run: Run, layer: int, positions: list[int], number: int = 0) -> Tensor:
    """The change that the text swap makes."""
    contrast = planted.contrasts[number]
    pair = directions_of(planted.slm, first_pieces(planted.slm, [contrast.clean.words[0].text, contrast.corrupted.words[0].text]))
    there = run.standing(layer, positions)
    return SwapCoordinates(pair[0], pair[1])(there[None], None)[0] - there
