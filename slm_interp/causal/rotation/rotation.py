"""A learned subspace of one layer, as what it is: orthonormal rows, how they came about, and the interventions they make."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from slm_interp.errors import PatchingError
from slm_interp.files import atomic_path, write_text
from slm_interp.lenses.probe.states import fingerprint_of
from slm_interp.model import SpeechTextModel
from slm_interp.patching.interventions import ComplementOnly, CopyCoordinates

NUMBERS, ABOUT, HISTORY = "rotation.safetensors", "rotation.json", "history.csv"


@dataclass(frozen=True, eq=False)
class Rotation:
    """A subspace that was learned; make one with `train`, or `load` it.

    Args:
        directions: orthonormal rows.
        layer: blocks run.
        trained: recipe, policy, words and the model's fingerprint.
        history: step, price, objective on a batch and on the kept cases.
    """

    directions: Float[Tensor, "rank d_model"]
    layer: int
    trained: Mapping[str, Any] = field(default_factory=dict)
    history: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def rank(self) -> int:
        """Dimensions."""
        return len(self.directions)

    @property
    def hash(self) -> str:
        """What tells this rotation from another: the first 16 hex digits of SHA-256 over its numbers, its layer and how it came about."""
        digest = hashlib.sha256(json.dumps([self.layer, dict(self.trained)], sort_keys=True).encode())
        digest.update(np.ascontiguousarray(self.directions.detach().cpu().double().numpy(), dtype="<f8").tobytes())
        return digest.hexdigest()[:16]

    def intervention(self, source: Float[Tensor, "*pos d_model"]) -> CopyCoordinates:
        """Coordinates in the subspace taken from the source."""
        return CopyCoordinates(self.directions, source)

    def complement(self, source: Float[Tensor, "*pos d_model"]) -> ComplementOnly:
        """Everything but those."""
        return ComplementOnly(self.directions, source)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write `rotation.safetensors`, `rotation.json` and `history.csv` into a folder."""
        from safetensors.torch import save_file

        folder = Path(folder)
        write_text(folder / HISTORY, self.history.to_csv(index=False))
        with atomic_path(folder / NUMBERS) as path:
            save_file({"directions": self.directions.detach().cpu().contiguous()}, path)
        write_text(folder / ABOUT, json.dumps({"hash": self.hash, "layer": self.layer, "trained": dict(self.trained)}, indent=1) + "\n")

    @staticmethod
    def load(folder: str | os.PathLike[str], slm: SpeechTextModel) -> Rotation:
        """Read what `save` wrote, for the model it was trained on.

        Raises:
            PatchingError: no such files, files that do not belong together, another model.
        """
        from safetensors.torch import load_file

        about, numbers = Path(folder) / ABOUT, Path(folder) / NUMBERS
        if not (about.is_file() and numbers.is_file()):
            raise PatchingError(f"No {ABOUT} and {NUMBERS} in {folder}. Give the folder that Rotation.save wrote.")
        described = json.loads(about.read_text(encoding="utf-8"))
        trained, wanted = described["trained"], fingerprint_of(slm)
        if trained.get("fingerprint", "") != wanted:
            raise PatchingError(
                f"This rotation was trained on the model {trained.get('fingerprint') or 'undeclared'}; this is {wanted or 'undeclared'}. Train one for it."
            )
        history = Path(folder) / HISTORY
        text = history.read_text(encoding="utf-8") if history.is_file() else ""
        table = pd.read_csv(StringIO(text)) if text.strip() else pd.DataFrame()
        found = Rotation(load_file(numbers)["directions"], described["layer"], trained, table)
        if found.hash != described["hash"]:
            raise PatchingError(
                f"{about} promises the rotation {described['hash']}; its numbers make {found.hash}. The files do not belong together."
            )
        return found

    def __repr__(self) -> str:
        cases, words = self.trained.get("cases", "?"), len(self.trained.get("words", ()))
        return (
            f"Rotation(rank {self.rank} of {self.directions.shape[-1]} at layer {self.layer}, learned from {cases} cases of {words} words)"
        )

    def _repr_html_(self) -> str:
        last = self.history.tail(1).to_html(index=False) if len(self.history) else ""
        return f"<div><b>{escape(repr(self))}</b><p>rotation {self.hash}, objective {escape(str(self.trained.get('objective', '?')))}</p>{last}</div>"


def random_rotation(rank: int, d_model: int, layer: int, seed: int = 0) -> Rotation:
    """A subspace that knows nothing."""
    from slm_interp.causal.angles import random_subspace

    return Rotation(random_subspace(rank, d_model, torch.Generator().manual_seed(seed)), layer, {"objective": "none", "seed": seed})
