"""The training ablation in the form of the paper's table, every number beside its null and with its interval.

| measure | what | its null |
|---|---|---|
| `current`, `next` | the paper's aggregate: Recall@10 over all ids, any layer, any position of the span | other words, pooled likewise |
| `heard`, `heard_top1` | the current word in its span or the two units after, words the text mode does not foresee, one middle layer | the same |
| `rise` | Recall@10 in the last unit and the two after, less that in the three before the onset, at that layer | 0 |
| `heard_text`, `heard_text_top1`, `rise_text` | the same three, ranked among text ids instead of all ids, with a layer of their own | the same |
| `text_mass` | greatest mass on text over the span, mean over words, greatest middle layer | random vectors of the same norms |
| `probe` | a linear probe of the current word at its last unit, greatest middle layer | its control task |
| `spoken_single_heard` ... `read_paired_withheld` | two-way forced choice by way, score and side: `slm_interp.organisms.known` | 0.5 |

The layer of `heard`, `heard_top1` and `rise` (and of the three among text ids) is chosen on half of the sentences and reported on the other half.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from tqdm import tqdm

from slm_interp import transcription
from slm_interp.convert import load
from slm_interp.errors import CheckpointError
from slm_interp.lenses import collect, selectivity, split
from slm_interp.model import SpeechTextModel
from slm_interp.organisms.corpus import prompts
from slm_interp.organisms.grid import RECIPES
from slm_interp.organisms.known import CHANCE, WAYS, known
from slm_interp.organisms.recipe import Recipe
from slm_interp.organisms.samples import Sample
from slm_interp.transcription.heard import numbers_of
from slm_interp.utterance import Utterance

K = 10
NULL = "elsewhere"
Row = dict[str, Any]
Voices = Literal["training", "held_out"]


def heard_sentences(slm: SpeechTextModel, recipe: Recipe, count: int, voices: Voices = "training") -> list[Utterance]:
    """Held-out sentences of a recipe's world, spoken anew: texts that no training document has.

    Args:
        count: the first so many; no more than `recipe.held_out`.
        voices: those of training, or those kept from it.
    """
    world, speaking = recipe.world, recipe.speaking
    said = speaking.voices if voices == "training" else speaking.held_out
    texts = [[one.text] for one in world.held_out_sentences(recipe.held_out, world.seed)][:count]
    number = 1 if voices == "training" else 2
    return [Sample.spoken(prompt).utterance(slm) for (prompt,) in prompts(texts, said, speaking, world.seed + number)]


def of(names: Sequence[str], trained: Path | None = None, count: int = 150, facts: int = 50, voices: Voices = "training") -> pd.DataFrame:
    """All measures of all organisms: one row each, see the top of this file.

    Columns: `organism`, `text_init`, `text_data`, `interleaved` (share of training rows), `supervised`; `measure`, `layer` (-1: all or
    none), `value`, `low`, `high`; `null` and, where the null is paired, `over`, `over_low`, `over_high`; `n`.

    Args:
        names: of recipes.
        trained: a folder with a folder for each; those that ship with the package if not given.
        count: held-out sentences.
        facts: pairs of facts of each side, for the forced choice.
        voices: that say the sentences.

    Raises:
        CheckpointError: a name without a recipe, or without weights.
    """
    unknown = [name for name in names if name not in RECIPES]
    if unknown:
        raise CheckpointError(f"No recipe {unknown[0]!r}; there are: {', '.join(RECIPES)}.")
    rows: list[Row] = []
    for name in tqdm(names, desc="organisms"):
        rows += measured(load(trained / name if trained else name), RECIPES[name], count, facts, voices)
    return pd.DataFrame(rows)


def measured(slm: SpeechTextModel, recipe: Recipe, count: int, facts: int, voices: Voices = "training") -> list[Row]:
    """The rows of one organism."""
    text, interleaved, _ = recipe.joint_phases[-1].mix
    made = {
        "organism": recipe.name,
        "text_init": recipe.text_phase is not None,
        "text_data": text > 0,
        "interleaved": round(interleaved, 3),
        "supervised": any(phase.heard_words > 0 for phase in recipe.joint_phases),
    }
    sentences = heard_sentences(slm, recipe, count, voices)
    found = [
        *_recalls(slm, sentences),
        *_heard(slm, sentences),
        _mass(slm, sentences),
        _probe(slm, sentences),
        *_knowledge(slm, recipe, facts),
    ]
    return [{**made, **row} for row in found]


def paper_form(table: pd.DataFrame) -> pd.DataFrame:
    """One line an organism, one column a measure: `value [low, high] (null)`, in per cent. Without what it knows: `knowledge_form`."""
    index = ["organism", "text_init", "text_data", "interleaved"]
    return _wide(table[~_asks(table)], index, "measure")


def knowledge_form(table: pd.DataFrame) -> pd.DataFrame:
    """One line an organism and side, one column a way and score: `value [low, high]`, in per cent; chance is 50."""
    asked = table[_asks(table)]
    parts = asked["measure"].str.rsplit("_", n=1, expand=True)
    return _wide(asked.assign(measure=parts[0], side=parts[1], null=np.nan), ["organism", "side"], "measure")


def _asks(table: pd.DataFrame) -> pd.Series:
    return table["measure"].str.startswith(tuple(f"{way}_" for way in WAYS))


def _wide(table: pd.DataFrame, index: list[str], column: str) -> pd.DataFrame:
    def cell(row: pd.Series) -> str:
        null = "" if np.isnan(row["null"]) else f" ({100 * row['null']:.1f})"
        return f"{100 * row['value']:.1f} [{100 * row['low']:.0f}, {100 * row['high']:.0f}]{null}"

    wide = table.assign(cell=table.apply(cell, axis=1)).pivot(index=index, columns=column, values="cell")
    order = table.drop_duplicates(index).set_index(index).index
    return wide.loc[order, list(dict.fromkeys(table[column]))].reset_index()


def _recalls(slm: SpeechTextModel, sentences: Sequence[Utterance]) -> list[Row]:
    rows = []
    for target in ("current", "next"):
        seen = transcription.observe(slm, sentences, target=target, nulls=(NULL,))
        table = transcription.recall(seen, k=(K,))
        rows.append({"measure": target, "layer": -1, **numbers_of(table[table["layer"] == "any"].iloc[0], NULL)})
    return rows


def _heard(slm: SpeechTextModel, sentences: Sequence[Utterance]) -> list[Row]:
    found = transcription.heard(slm, sentences, null=NULL)
    found = found[found["measure"] != "earliest"]
    suffix = found["ranks"].map({"joint": "", "text": "_text"})
    stems, ends = found["measure"].str.extract(r"([a-z]+)(_top1)?").fillna("").T.to_numpy()
    return [*found.drop(columns="ranks").assign(measure=stems + suffix + ends).to_dict("records")]


def _mass(slm: SpeechTextModel, sentences: Sequence[Utterance]) -> Row:
    data = transcription.modality_mass(slm, sentences).sel(modality="text", pooling="max")
    layer = int(data["mass"].isel(layer=slice(1, -1)).idxmax("layer"))
    at = data.sel(layer=layer)
    numbers = {name: float(at[name]) for name in ("low", "high")}
    return {
        "measure": "text_mass",
        "layer": layer,
        "value": float(at["mass"]),
        **numbers,
        "null": float(at["random_mass"]),
        "n": len(sentences),
    }


def _probe(slm: SpeechTextModel, sentences: Sequence[Utterance]) -> Row:
    train, test = split(collect(slm, sentences))
    data = selectivity(train, test)
    layer = int(data["accuracy"].isel(layer=slice(1, -1)).idxmax("layer"))
    value = float(data["accuracy"].sel(layer=layer))
    n = int(data["n_words"])
    error = 1.96 * (value * (1 - value) / n) ** 0.5
    null = float(data["control_accuracy"].sel(layer=layer))
    return {"measure": "probe", "layer": layer, "value": value, "low": value - error, "high": value + error, "null": null, "n": n}


def _knowledge(slm: SpeechTextModel, recipe: Recipe, facts: int) -> list[Row]:
    return [
        {
            "measure": f"{found.way}_{found.score}_{found.side}",
            "layer": -1,
            "value": found.accuracy,
            "low": found.low,
            "high": found.high,
            "null": CHANCE,
            "n": int(found.items),
        }
        for found in known(slm, recipe.world, facts).itertuples()
    ]
