"""From the cells of every contrast to one labelled dataset; and to a table of one contrast, for a store, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float

from slm_interp.errors import PatchingError
from slm_interp.patching.contrasts import in_order
from slm_interp.patching.engine import Grid
from slm_interp.patching.places import label_of

LEAST = 0.1  # of the outcome's own unit: a ceiling nearer to 0 is flagged


@dataclass(frozen=True, eq=False)
class Cells:
    """The cells of one contrast.

    Args:
        name: of the contrast.
        spans: their names.
        labels: what a picture prints for each.
        patched: the outcome of every cell.
        clean, corrupted: the outcome of the two prompts as they are.
        prompt, word: by which the contrast clusters.
    """

    name: str
    spans: tuple[str, ...]
    labels: tuple[str, ...]
    patched: Float[np.ndarray, "layer span head"]
    clean: float
    corrupted: float
    prompt: str
    word: str

    def frame(self) -> pd.DataFrame:
        """One row for every cell, and everything else repeated."""
        layers, _, heads = self.patched.shape
        rows = list(product(range(layers), range(len(self.spans)), range(heads)))
        return pd.DataFrame(
            {
                "layer": [layer for layer, _, _ in rows],
                "span": [self.spans[span] for _, span, _ in rows],
                "label": [self.labels[span] for _, span, _ in rows],
                "head": [head for _, _, head in rows],
                "patched": self.patched.reshape(-1),
                "clean": self.clean,
                "corrupted": self.corrupted,
                "prompt": self.prompt,
                "word": self.word,
            }
        )

    @staticmethod
    def of(name: str, frame: pd.DataFrame) -> Cells:
        """What `frame` wrote."""
        spans = tuple(dict.fromkeys(frame["span"]))
        labels = tuple(frame["label"].iloc[[int(np.argmax(frame["span"] == span)) for span in spans]])
        values = frame["patched"].to_numpy().reshape(int(frame["layer"].max()) + 1, len(spans), int(frame["head"].max()) + 1)
        first = frame.iloc[0]
        return Cells(name, spans, labels, values, float(first["clean"]), float(first["corrupted"]), first["prompt"], first["word"])


def dataset_of(cells: Sequence[Cells], grid: Grid, attrs: Mapping[str, Any]) -> xr.Dataset:
    """The cells of all contrasts; a span that a contrast lacks is NaN.

    Raises:
        PatchingError: two contrasts of one name.
    """
    names = [one.name for one in cells]
    if len(set(names)) != len(names):
        raise PatchingError(f"Contrasts have different names; got {names}.")
    spans = in_order([one.spans for one in cells])
    n_layers, n_heads = grid.shape
    values = np.full((len(cells), n_layers, len(spans), n_heads), np.nan)
    labels = np.full((len(cells), len(spans)), "", dtype=object)
    for number, one in enumerate(cells):
        places = [spans.index(span) for span in one.spans]
        values[number][:, places] = one.patched
        labels[number, places] = one.labels
    dims: tuple[str, ...] = ("contrast", "layer", "span", "head_index")
    clean, corrupted = (np.array([getattr(one, side) for one in cells]) for side in ("clean", "corrupted"))
    found = xr.Dataset(
        {
            "outcome": (dims if grid.heads is not None else dims[:3], values if grid.heads is not None else values[..., 0]),
            "clean": ("contrast", clean),
            "corrupted": ("contrast", corrupted),
            "label": (("contrast", "span"), labels),
            "told_apart": ("contrast", np.abs(clean - corrupted) >= LEAST),
        },
        {
            "contrast": np.array(names, dtype=object),
            "layer": list(grid.layers),
            "span": np.array(spans, dtype=object),
            "layer_label": ("layer", np.array([label_of(grid.site, layer) for layer in grid.layers], dtype=object)),
            "prompt": ("contrast", np.array([one.prompt for one in cells], dtype=object)),
            "word": ("contrast", np.array([one.word for one in cells], dtype=object)),
        },
        {key: value if isinstance(value, str | int | float) else json.dumps(value, sort_keys=True) for key, value in attrs.items()},
    )
    return found if grid.heads is None else found.assign_coords(head_index=list(grid.heads))
