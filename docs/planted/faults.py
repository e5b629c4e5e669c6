"""Write `faults.txt`: what the confusion table says when a swap, or what it is compared with, is wrong on purpose.

    python docs/planted/faults.py

Run from the repository's root.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from slm_interp.causal import arms
from slm_interp.causal.cases import Case
from slm_interp.causal.planted import confusion
from slm_interp.causal.planted.confusion import LENSES, Size
from slm_interp.patching.interventions.directions import along, combined, exact
from slm_interp.patching.interventions.intervention import Intervention
from slm_interp.patching.spans import SpanPair
from slm_interp.utterance import Contrast

HERE = Path(__file__).parent
KINDS = ("shadow", 0.5, "mediated", "dead")


@dataclass(frozen=True, eq=False)
class DotProducts(Intervention):
    """Readings along two directions of length 1 exchanged, as if these were orthogonal."""

    rows: Float[Tensor, "word d_model"]

    def _made(self, there: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        rows = exact(self.rows)
        rows = rows / rows.norm(dim=-1, keepdim=True)
        read = along(there, rows)
        return there + combined(read.flip(-1) - read, rows)


def _arm(name: str, **fields: object) -> Mapping[str, arms.Arm]:
    return {name: replace(arms.ARMS[name], **fields)}


def _dots(at: arms.AtLayer) -> Intervention:
    assert at.pairs is not None
    return DotProducts(torch.cat(at.pairs))


def _shifted(case: Case) -> Case:
    clean, corrupted = (span.shifted(-1) for span in (case.span.clean, case.span.corrupted))
    return replace(case, span=SpanPair("word", clean, corrupted), elsewhere=None, other_voice=None)


def _exchanged(case: Case) -> Case:
    own = case.contrast
    turned = Contrast(own.corrupted, own.clean, own.distractor, own.answer)
    return replace(case, contrast=turned, span=SpanPair("word", case.span.corrupted, case.span.clean))


AS_THEY_ARE: Callable[[Case], Case] = lambda case: case  # noqa: E731
FAULTS: Mapping[str, tuple[Mapping[str, arms.Arm], Callable[[Case], Case]]] = {
    "none": ({}, AS_THEY_ARE),
    "dot products in place of coordinates": (_arm("text", make=_dots), AS_THEY_ARE),
    "one position too early": ({}, _shifted),
    "complement and copied coordinates exchanged": (_arm("complement", make=arms.ARMS["copied"].make), AS_THEY_ARE),
    "clean and corrupted prompt exchanged, words not": ({}, _exchanged),
    "the third word is the clean one": (_arm("third", first="clean"), AS_THEY_ARE),
}


@contextmanager
def planted(changed: Mapping[str, arms.Arm], cases: Callable[[Case], Case]) -> Iterator[None]:
    """The package with a fault, and without it again afterwards."""
    kept, built = dict(arms.ARMS), confusion.planted_cases
    arms.ARMS.update(changed)  # type: ignore[attr-defined]
    confusion.planted_cases = lambda model: tuple(cases(case) for case in built(model))  # type: ignore[assignment]
    try:
        yield
    finally:
        arms.ARMS.update(kept)  # type: ignore[attr-defined]
        confusion.planted_cases = built


def main() -> None:
    """Run every fault and write the file."""
    logging.getLogger().setLevel(logging.ERROR)
    rows = []
    for name, (changed, cases) in FAULTS.items():
        with planted(changed, cases):
            table = confusion.confusion([0], KINDS, {"logit": LENSES["logit"]}, Size(24, 12, 80, noise=0.0))
        said = {f"{row.kind} {row.share:g}".replace(" nan", ""): f"{row.verdict} ({row.text:.2f})" for row in table.itertuples()}
        wrong = int((table["verdict"] != table["right"]).sum())
        rows.append({"fault": name, **said, "wrong": wrong})
    head = "Verdict and share of text on one model of each kind, without noise. The row without a fault is what is right.\n\n"
    (HERE / "faults.txt").write_text(head + pd.DataFrame(rows).to_string(index=False) + "\n")
    print((HERE / "faults.txt").read_text())


if __name__ == "__main__":
    main()
