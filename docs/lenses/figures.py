"""What each lens finds in each organism that ships: the table and pictures of docs/lenses-on-organisms.md.

    python docs/lenses/figures.py [ORGANISM ...]     all that ship if none is named; about five minutes each on a quiet core

Lenses are trained on rows of the organism's own world; what they are asked is held out: `slm_interp.transcription.heard` of 150 sentences.
Every organism's rows go to a part of `work/` as soon as they are there, so that a run that was cut off goes on.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import torch

import slm_interp as si
from slm_interp import transcription
from slm_interp.files import write_text
from slm_interp.lenses import Aim, JacobianRecipe, Lens, TunedRecipe, fit_jacobian, train_tuned
from slm_interp.organisms import RECIPES, ablation, names
from slm_interp.organisms.recipe import Recipe
from slm_interp.organisms.rows import rows

HERE = Path(__file__).parent
WORK = HERE.parents[1] / "out" / "lenses"
SENTENCES = 150
ROWS = 200
PASSES = 2
PROMPTS = 32  # of the Jacobian lens
AIMS = {
    "tuned, speech positions": Aim("speech"),
    "tuned, text positions": Aim("text"),
    "tuned, all positions": Aim("all"),
    "tuned, speech positions, text ids": Aim("speech", "text"),
}
COLUMNS = ["organism", "lens", "ranks", "measure", "layer", "value", "low", "high", "null", "over", "over_low", "over_high", "n"]


def main() -> None:
    """Everything, organism by organism."""
    asked = sys.argv[1:] or names()
    for name in asked:
        part = WORK / f"{name}.csv"
        if not part.is_file():
            write_text(part, measured(name).to_csv(index=False, float_format="%.4f"))
    table = pd.concat([pd.read_csv(WORK / f"{name}.csv") for name in asked], ignore_index=True)
    if set(asked) == set(names()):
        write_text(HERE / "lenses.csv", table.to_csv(index=False, float_format="%.4f"))
        write_text(HERE / "heard.txt", markdown(wide(table)))
    print(wide(table).to_string(index=False))


def lenses(slm: si.SpeechTextModel, recipe: Recipe) -> dict[str, Lens]:
    """Every lens of an organism, trained now."""
    material = rows(slm, recipe, ROWS)
    found: dict[str, Lens] = {"logit": si.LogitLens(slm)}
    found |= {name: train_tuned(slm, material, aim, TunedRecipe(passes=PASSES)) for name, aim in AIMS.items()}
    return found | {"Jacobian": fit_jacobian(slm, material[:PROMPTS], JacobianRecipe(), dim_batch=32).lens()}


def measured(name: str) -> pd.DataFrame:
    """What every lens shows of the words of an organism that could not be foreseen, by both rankings; and its mass on text."""
    slm, recipe = si.load(name, dtype=torch.float32), RECIPES[name]  # gradients want it, and rows then run in batches
    sentences = ablation.heard_sentences(slm, recipe, SENTENCES)
    parts = []
    for title, lens in lenses(slm, recipe).items():
        parts += [transcription.heard(slm, sentences, lens).assign(lens=title), mass(slm, sentences[:40], lens).assign(lens=title)]
    return pd.concat(parts, ignore_index=True).assign(organism=name)[COLUMNS]


def mass(slm: si.SpeechTextModel, sentences: list[si.Utterance], lens: Lens) -> pd.DataFrame:
    """Mass on text in every layer, the largest over the span, mean over words; its null is random vectors of the same norms."""
    data = transcription.modality_mass(slm, sentences, lens, draws=1).sel(modality="text", pooling="max")
    table = data[["mass", "low", "high", "random_mass"]].to_dataframe().reset_index()
    table = table.rename(columns={"mass": "value", "random_mass": "null"}).assign(ranks="joint", measure="text_mass", n=len(sentences))
    return table.reindex(columns=[one for one in COLUMNS if one not in ("organism", "lens")])


def wide(table: pd.DataFrame) -> pd.DataFrame:
    """One line an organism and lens: the earliest layer above its null and the difference in the chosen layer, by both rankings, and the rise."""
    lines = []
    for (organism, lens), part in table.groupby(["organism", "lens"], sort=False):
        found = part[part["measure"] != "text_mass"].set_index(["ranks", "measure"])
        line = {"organism": organism, "lens": lens}
        for ranks in ("joint", "text"):
            first = int(found.loc[(ranks, "earliest"), "layer"])
            heard, rise = found.loc[(ranks, "heard")], found.loc[(ranks, "rise")]
            line[f"earliest, {ranks}"] = "none" if first < 0 else str(first)
            line[f"over null, {ranks}"] = (
                f"{100 * heard['over']:+.1f} [{100 * heard['over_low']:.0f}, {100 * heard['over_high']:.0f}] at {int(heard['layer'])}"
            )
            line[f"rise, {ranks}"] = f"{100 * rise['value']:+.0f} [{100 * rise['low']:.0f}, {100 * rise['high']:.0f}]"
        masses = part[part["measure"] == "text_mass"].set_index("layer")["value"].iloc[1:-1]
        line["most text"] = f"{100 * masses.max():.0f}% at {int(masses.idxmax())}"
        lines.append(line)
    return pd.DataFrame(lines)


def markdown(table: pd.DataFrame) -> str:
    """A table for the page."""
    lines = [list(table.columns), ["---"] * len(table.columns), *table.astype(str).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


if __name__ == "__main__":
    main()
