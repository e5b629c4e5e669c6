"""Cells of a word, position by layer, and those where a basis reads the word best: what C9 keeps later positions from looking at.

1. A *cell* is a position of the word, counted from its end, and a layer `l` of `resid_post` in blocks run. What attention reads of it is read by block
   `l`. A cell is *decoded* by the basis's margin: how much more it reads the clean word than the corrupted one there in the clean run, less the same in
   the corrupted run.
2. `peak_cells` takes the cells with the greatest mean margin over cases; `development_half` halves cases by their clusters, so that what was chosen on
   one half is reported on the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from slm_interp import hooked
from slm_interp.causal.bases import Basis, basis_of
from slm_interp.causal.cases import Case, checked_cases
from slm_interp.causal.questions import results
from slm_interp.errors import PatchingError
from slm_interp.lenses.lens import DirectedLens
from slm_interp.model import SpeechTextModel
from slm_interp.patching.spans import Side
from slm_interp.patching.summaries import half
from slm_interp.utterance import Span

SIDES: tuple[Side, ...] = ("clean", "corrupted")


@dataclass(frozen=True)
class Cells:
    """Cells of a word.

    Args:
        table: one row a cell: `place` (-1 is the last position of the word), `layer`, `margin` (mean over cases), `cases` (that have it), `chosen`.
        basis: by which words were read.
    """

    table: pd.DataFrame
    basis: str

    @property
    def chosen(self) -> list[tuple[int, int]]:
        """Place and layer of each cell."""
        own = self.table[self.table["chosen"]]
        return list(zip(own["place"].tolist(), own["layer"].tolist(), strict=True))

    def within(self, span: Span) -> dict[int, list[int]]:
        """Positions by block in a word that stands there; places that a short word does not have are left out."""
        found: dict[int, list[int]] = {}
        for place, layer in self.chosen:
            if -place <= len(span):
                found.setdefault(layer, []).append(span.stop + place)
        return found

    def __repr__(self) -> str:
        return f"Cells({len(self.chosen)} of {len(self.table)}, by {self.basis}: {', '.join(f'{place} at layer {layer}' for place, layer in self.chosen[:6])})"

    def _repr_html_(self) -> str:
        return results.html_of("Decoded cells", self.table.pivot(index="layer", columns="place", values="margin").reset_index(), repr(self))


def development_half(cases: Sequence[Case], seed: int = 0) -> tuple[list[Case], list[Case]]:
    """Cases to choose on and cases to report: words halved, whole clusters together.

    Raises:
        StatisticsError: fewer than four clusters.
    """
    first = half(np.array([case.word for case in cases], dtype=object), seed)
    pairs = list(zip(cases, first, strict=True))
    return [case for case, own in pairs if own], [case for case, own in pairs if not own]


def peak_cells(
    slm: SpeechTextModel, cases: Sequence[Case], basis: Basis | DirectedLens, count: int, layers: Sequence[int] | None = None
) -> Cells:
    """The cells where a basis reads the word best.

    Args:
        count: of cells.
        layers: that may be chosen, 0 to n_layers - 1, as no block reads the last; None is all.

    Raises:
        PatchingError: layers that are not there or that no block reads, more cells than there are.
    """
    blocks, basis = slm.model.cfg.n_layers, basis_of(basis, slm)
    among = list(range(blocks)) if layers is None else sorted(set(layers))
    if not among or among[0] < 0 or among[-1] >= blocks:
        raise PatchingError(f"Cells stand at layers 0 to {blocks - 1}, which a block reads; got {list(layers or [])}.")
    margins: dict[tuple[int, int], list[float]] = {}
    for case in tqdm(checked_cases(cases), desc="decoded cells", unit="case", disable=None):
        read = [_read(slm, case, side, basis, among) for side in SIDES]
        shared = min(len(one) for one in read)
        for place in range(-shared, 0):
            for number, layer in enumerate(among):
                margins.setdefault((place, layer), []).append(float(read[0][place, number] - read[1][place, number]))
    if not 1 <= count <= len(margins):
        raise PatchingError(f"The words of these cases have {len(margins)} cells at these layers; got count={count}.")
    rows = [{"place": place, "layer": layer, "margin": float(np.mean(own)), "cases": len(own)} for (place, layer), own in margins.items()]
    table = pd.DataFrame(rows).sort_values("margin", ascending=False, kind="stable").reset_index(drop=True)
    return Cells(table.assign(chosen=table.index < count), basis.name)


def _read(slm: SpeechTextModel, case: Case, side: Side, basis: Basis, layers: Sequence[int]) -> Float[Tensor, "place layer"]:
    """Score of the clean word less that of the corrupted one, over the span of a prompt."""
    prompt, span = getattr(case.contrast, side), case.span.of(side)
    stream = hooked.residuals(slm.model, slm.check(prompt).tokens)[:, span.start : span.stop]
    words = [case.words.clean, case.words.corrupted]
    scores = torch.stack([basis.score(stream[layer], layer, words) for layer in layers], 1)
    return scores[..., 0] - scores[..., 1]
