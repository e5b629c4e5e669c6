"""Heard or guessed at every layer: the rise under each lens in the organism that hears, and in the same architecture untrained.

    python docs/lenses/rises.py

Writes `rises.csv` and `rises.txt` (the table of docs/lenses-on-organisms.md). The untrained model has the shapes of `tiny-overlapped` and weights
drawn anew: every matrix from a normal distribution of its own standard deviation, norms and biases kept.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch
from figures import ROWS, SENTENCES, lenses, markdown

import slm_interp as si
from slm_interp import hooked, transcription
from slm_interp.files import write_text
from slm_interp.lenses import JacobianRecipe, fit_jacobian
from slm_interp.organisms import RECIPES, ablation
from slm_interp.organisms.rows import rows
from slm_interp.transcription.onset import rises

HERE = Path(__file__).parent
NAME = "tiny-overlapped"
SHOWN = ("logit", "tuned, speech positions", "tuned, text positions", "tuned, all positions", "Jacobian")


def main() -> None:
    """Both models, every lens, one table."""
    slm, recipe = si.load(NAME, dtype=torch.float32), RECIPES[NAME]
    sentences = ablation.heard_sentences(slm, recipe, SENTENCES)[1::2]
    found = {lens: rises(slm, sentences, one, ranks=("text",))["text"] for lens, one in lenses(slm, recipe).items() if lens in SHOWN}
    blank = untrained(slm)
    jacobian = fit_jacobian(blank, rows(blank, recipe, ROWS)[:32], JacobianRecipe(), dim_batch=32).lens()
    for lens, one in (("logit, untrained", si.LogitLens(blank)), ("Jacobian, untrained", jacobian)):
        found[lens] = rises(blank, sentences, one, ranks=("text",))["text"]
        print(lens, transcription.heard(blank, sentences, one).to_string(index=False), sep="\n")
    table = pd.concat([one.assign(lens=lens) for lens, one in found.items()], ignore_index=True)
    write_text(HERE / "rises.csv", table.to_csv(index=False, float_format="%.4f"))
    shown = pd.DataFrame({lens: [_cell(row) for row in one.itertuples()] for lens, one in found.items()})
    shown.insert(0, "layer", range(len(shown)))
    write_text(HERE / "rises.txt", markdown(shown))
    print(shown.to_string(index=False))


def untrained(slm: si.SpeechTextModel) -> si.SpeechTextModel:
    """The same model with every matrix drawn anew; its own copy."""
    blank, generator = si.load(NAME, dtype=torch.float32), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in hooked.parameters(blank.model).items():
            if ".W_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter.std())
    return blank


def _cell(row: object) -> str:
    return f"{100 * row.heard:+.0f} [{100 * row.low:.0f}, {100 * row.high:.0f}]"  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
