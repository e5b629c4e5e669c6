"""The ablation table: every measure beside its null, of the right words, with the layer chosen elsewhere."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from slm_interp import load
from slm_interp.errors import CheckpointError
from slm_interp.organisms import RECIPES, ablation
from slm_interp.organisms.ablation import heard_sentences, measured, paper_form

MEASURES = ("current", "next", "heard", "heard_top1", "rise", "text_mass", "probe", "knows_heard", "knows_read", "knows_withheld")


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return pd.DataFrame(measured(load("tiny"), RECIPES["tiny"], count=14, facts=4))


def test_every_measure_has_its_interval_and_its_null(table: pd.DataFrame) -> None:
    assert tuple(table["measure"]) == MEASURES
    numbers = table[["value", "low", "high", "null"]]
    assert numbers.notna().all().all()
    assert (table["low"] <= table["value"] + 1e-9).all() and (table["value"] <= table["high"] + 1e-9).all()
    paired = table[table["over"].notna()]
    assert list(paired["measure"]) == ["current", "next", "heard", "heard_top1"]
    assert all(math.isclose(row.over, row.value - row.null, abs_tol=1e-9) for row in paired.itertuples())


def test_chosen_layers_are_neither_the_embedding_nor_the_output(table: pd.DataFrame) -> None:
    chosen = table[table["layer"] >= 0]["layer"]
    assert len(chosen) == 5
    assert chosen.between(1, RECIPES["tiny"].shape.n_layers - 1).all()


def test_the_sentences_are_those_that_training_held_out() -> None:
    slm, recipe = load("tiny"), RECIPES["tiny"]
    sentences = heard_sentences(slm, recipe, 6)
    assert [one.name for one in sentences] == [one.text for one in recipe.world.held_out_sentences(recipe.held_out, recipe.world.seed)][:6]
    assert all(recipe.world.is_held_out(one.name) for one in sentences)
    other = heard_sentences(slm, recipe, 6, "held_out")
    assert [one.name for one in other] == [one.name for one in sentences]
    assert any(len(here) != len(there) for here, there in zip(sentences, other, strict=True))


def test_the_paper_s_form_has_one_line_an_organism(table: pd.DataFrame) -> None:
    wide = paper_form(pd.concat([table, table.assign(organism="another", interleaved=0.0)]))
    assert list(wide["organism"]) == ["tiny", "another"]
    assert list(wide.columns[4:]) == list(MEASURES)
    row = table.set_index("measure").loc["current"]
    assert wide.loc[0, "current"].startswith(f"{100 * row['value']:.1f} [")


def test_a_name_without_a_recipe_is_refused() -> None:
    with pytest.raises(CheckpointError, match="No recipe 'huge'"):
        ablation.of(["huge"])
