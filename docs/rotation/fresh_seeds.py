"""Does a learned subspace tell the planted kinds apart on models that its price was not chosen on? The table of docs/word-directions.md.

    python docs/rotation/fresh_seeds.py

The price was chosen on seed 0, by the figures of that seed. Here are the seeds after it, with that price and without one.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from slm_interp.causal import Case, Words, rotation
from slm_interp.causal.bases import LensBasis
from slm_interp.causal.planted import Planted, plant
from slm_interp.causal.planted.prompts import contrasts_of
from slm_interp.files import write_text
from slm_interp.lenses import LogitLens
from slm_interp.patching.spans import SpanPair

HERE = Path(__file__).parent
SEEDS = range(1, 5)
RANK, STEPS, WORDS, PAIRS = 2, 200, 9, 18


def main() -> None:
    """Every kind, price and seed."""
    rows = [row(kind, price, seed) for seed in SEEDS for kind in ("mediated", "shadow") for price in (20.0, 0.0)]
    table = pd.DataFrame(rows)
    write_text(HERE / "fresh_seeds.csv", table.to_csv(index=False, float_format="%.3f"))
    print(table.to_string(index=False))


def row(kind: str, price: float, seed: int) -> dict[str, object]:
    """One search, on three quarters of the pairs of words, asked of the others."""
    model = plant(kind, seed=seed, d_model=64, n_words=WORDS, n_contrasts=PAIRS)
    learned_from, kept = rotation.split_by_pairs(cases_of(model), 0.25)
    recipe = rotation.Recipe(price=price, steps=STEPS)
    found = rotation.train(model.slm, learned_from, model.layers[-1], RANK, recipe=recipe, progress=False)
    basis = LensBasis(LogitLens(model.slm), model.slm)
    angles = rotation.angles(found, basis, model.lexicon.words)
    effects = rotation.compared(model.slm, found, kept, basis).groupby("arm")["effect"].mean()
    print(kind, price, seed, flush=True)
    own = {f"angle_{number}": angle for number, angle in enumerate(angles["angle"])}
    return {"kind": kind, "price": price, "seed": seed, **own, **angles[["overlap", "chance"]].iloc[0].to_dict(), **effects.to_dict()}


def cases_of(model: Planted) -> list[Case]:
    """Every pair of words in five prompts."""
    drawn = [one for n in range(5) for one in contrasts_of(model.slm, model.lexicon, PAIRS, torch.Generator().manual_seed(100 + n))]
    cases = []
    for number, contrast in enumerate(replace(model, contrasts=tuple(drawn)).contrasts):
        clean, corrupted = contrast.clean.words[0], contrast.corrupted.words[0]
        cases.append(Case(str(number), contrast, Words(clean.text, corrupted.text), SpanPair("word", clean.span, corrupted.span)))
    return cases


if __name__ == "__main__":
    main()
