"""The ablation table: every measure beside its null, of the right words, with the layer chosen elsewhere."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from slm_interp import load
from slm_interp.errors import CheckpointError
from slm_interp.organisms import RECIPES, ablation
from slm_interp.organisms.ablation import heard_sentences, knowledge_form, measured, paper_form
from slm_interp.organisms.contrasts import SIDES
from slm_interp.organisms.known import WAYS

SEEN = ("current", "next", "heard", "heard_top1", "rise", "heard_text", "heard_text_top1", "rise_text", "text_mass", "probe")
KNOWN = tuple(f"{way}_{score}_{side}" for side in SIDES for way in WAYS for score in ("single", "paired"))


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return pd.DataFrame(measured(load("tiny"), RECIPES["tiny"], count=14, facts=4))


def test_every_measure_has_its_interval_and_its_null(table: pd.DataFrame) -> None:
    assert tuple(table["measure"]) == (*SEEN, *KNOWN)
    numbers = table[["value", "low", "high", "null"]]
    assert numbers.notna().all().all()
    assert (table["low"] <= table["value"] + 1e-9).all() and (table["value"] <= table["high"] + 1e-9).all()
    paired = table[table["over"].notna()]
    assert list(paired["measure"]) == ["current", "next", "heard", "heard_top1", "heard_text", "heard_text_top1"]
    assert all(math.isclose(row.over, row.value - row.null, abs_tol=1e-9) for row in paired.itertuples())


def test_chosen_layers_are_neither_the_embedding_nor_the_output(table: pd.DataFrame) -> None:
    chosen = table[table["layer"] >= 0]["layer"]
    assert len(chosen) == 8
    assert chosen.between(1, RECIPES["tiny"].shape.n_layers - 1).all()


def test_measures_among_text_ids_are_ranked_among_text_ids() -> None:
    """Where most of the mass is on speech, a heard word is far better placed among text ids than among all: in each of the three measures."""
    slm, recipe = load("tiny-overlapped"), RECIPES["tiny-overlapped"]
    rows = ablation._heard(slm, heard_sentences(slm, recipe, 30))
    value = {row["measure"]: row["value"] for row in rows}
    assert value["heard_text"] > value["heard"] + 0.3
    assert value["heard_text_top1"] > value["heard_top1"] + 0.2
    assert value["rise_text"] != value["rise"]


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
    assert list(wide.columns[4:]) == list(SEEN)
    row = table.set_index("measure").loc["current"]
    assert wide.loc[0, "current"].startswith(f"{100 * row['value']:.1f} [")


def test_what_is_known_has_one_line_an_organism_and_side(table: pd.DataFrame) -> None:
    wide = knowledge_form(pd.concat([table, table.assign(organism="another")]))
    assert list(zip(wide["organism"], wide["side"], strict=True)) == [(name, side) for name in ("tiny", "another") for side in SIDES]
    assert list(wide.columns[2:]) == [f"{way}_{score}" for way in WAYS for score in ("single", "paired")]
    row = table.set_index("measure").loc["read_paired_read"]
    assert wide.set_index(["organism", "side"]).loc[("tiny", "read"), "read_paired"] == (
        f"{100 * row['value']:.1f} [{100 * row['low']:.0f}, {100 * row['high']:.0f}]"
    )


def test_a_name_without_a_recipe_is_refused() -> None:
    with pytest.raises(CheckpointError, match="No recipe 'huge'"):
        ablation.of(["huge"])
