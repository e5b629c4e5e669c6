"""How far training is, kept in a file that is whole or not there: weights, optimiser moments, curve."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from slm_interp.files import atomic_path, write_text
from slm_interp.organisms.optimiser import Optimiser

MOMENTS = ("exp_avg", "exp_avg_sq", "momentum_buffer")  # AdamW's two, Muon's one


@dataclass
class Progress:
    """The phase, its next step, and `(phase, step, loss)` of every step so far."""

    phase: int = 0
    step: int = 0
    curve: list[tuple[int, int, float]] = field(default_factory=list)


def write_checkpoint(path: Path, model: Any, optimiser: Optimiser, progress: Progress) -> None:
    """Weights, moments and curve in one safetensors file."""
    from safetensors.torch import save_file

    tensors, moments = {}, optimiser.state
    for name, weight in model.named_parameters():
        tensors[f"weight.{name}"] = weight.detach().contiguous()
        for moment in MOMENTS:
            if moment in moments.get(weight, {}):
                tensors[f"{moment}.{name}"] = moments[weight][moment].contiguous()
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"progress": json.dumps(vars(progress))})


def read_progress(path: Path) -> Progress:
    """How far the checkpoint is; the very beginning where there is none."""
    from safetensors import safe_open

    if not path.is_file():
        return Progress()
    with safe_open(path, "pt") as file:
        written = json.loads(file.metadata()["progress"])
    return Progress(written["phase"], written["step"], [(int(phase), int(step), float(loss)) for phase, step, loss in written["curve"]])


def read_weights(path: Path, model: Any) -> None:
    """Put the weights of a checkpoint into the model."""
    from safetensors.torch import load_file

    tensors = load_file(path)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(tensors[f"weight.{name}"])


def read_moments(path: Path, model: Any, optimiser: Optimiser, step: int) -> None:
    """Put the moments of a checkpoint into the optimiser."""
    from safetensors.torch import load_file

    tensors = load_file(path)
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            found = {moment: tensors[f"{moment}.{name}"].to(weight.device) for moment in MOMENTS if f"{moment}.{name}" in tensors}
            optimiser.restore(weight, found if "momentum_buffer" in found else {"step": torch.tensor(float(step)), **found})


def phase_name(number: int) -> str:
    """`text`, `joint 1`, `joint 2`, ..."""
    return f"joint {number}" if number else "text"


def write_curve(progress: Progress, path: Path) -> None:
    """The loss of every step, as CSV."""
    rows = [f"{phase_name(phase)},{step},{loss:.5f}" for phase, step, loss in progress.curve]
    write_text(path, "\n".join(["phase,step,loss", *rows]) + "\n")
