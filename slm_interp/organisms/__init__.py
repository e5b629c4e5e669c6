"""Small interleaved SLMs that this project trained itself, and how they were made."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

from slm_interp.errors import CheckpointError
from slm_interp.organisms.grid import RECIPES
from slm_interp.organisms.recipe import Recipe
from slm_interp.organisms.samples import Sample, read_samples
from slm_interp.organisms.training import Running, train_organism

__all__ = ["RECIPES", "Recipe", "Running", "Sample", "names", "path", "samples", "train", "train_organism"]


def _weights() -> Path:
    return Path(str(files("slm_interp.organisms"))) / "weights"


def names() -> tuple[str, ...]:
    """The organisms that ship with the package, in the order of their recipes."""
    return tuple(name for name in RECIPES if (_weights() / name / "manifest.json").is_file())


def path(name: str) -> Path:
    """The folder of an organism that ships with the package, in slamkit layout.

    Raises:
        CheckpointError: there is none of that name.
    """
    if name not in names():
        there = ", ".join(names()) or "none"
        raise CheckpointError(f"No organism {name!r} ships with this package; there are: {there}. Train one with train_organism.")
    return _weights() / name


def samples(name: str) -> tuple[Sample, ...]:
    """Held-out sentences that ship with an organism."""
    return read_samples(path(name))


def train(name: str, out: str | os.PathLike[str], work: str | os.PathLike[str] | None = None, running: Running | None = None) -> Path:
    """Make one of the `RECIPES` from its seed; see `train_organism`.

    Raises:
        CheckpointError: there is no such recipe.
    """
    if name not in RECIPES:
        raise CheckpointError(f"No recipe {name!r}; there are: {', '.join(RECIPES)}.")
    return train_organism(RECIPES[name], out, work, running or Running())
