"""How well words can be told from their units alone, on the toy organism's sounds."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from slm_interp.organisms import sounds as module
from slm_interp.organisms.lexicon import HOMOPHONES
from slm_interp.organisms.recipe import Recipe
from slm_interp.organisms.sounds import sounds
from slm_interp.speech.acoustic import AcousticQuantiser


def test_each_side_is_asked_the_same_sentences_in_its_own_voices(recipe: Recipe, quantiser: AcousticQuantiser) -> None:
    found = sounds(recipe, quantiser, documents=40, processes=1).set_index("side")
    here, there = found.loc["voices of training"], found.loc["other voices"]
    assert here["sentences"] == there["sentences"] == recipe.held_out
    assert here["words"] + here["not_trained"] == there["words"] + there["not_trained"]
    assert (here["voices"], there["voices"]) == (len(recipe.speaking.voices), len(recipe.speaking.held_out))
    assert here["units_per_word"] != there["units_per_word"]
    assert 1 / here["lexicon"] < here["top_1"] <= here["top_5"] <= 1


def test_homophones_count_as_one_word(recipe: Recipe, quantiser: AcousticQuantiser, monkeypatch: pytest.MonkeyPatch) -> None:
    merged = sounds(recipe, quantiser, documents=40, processes=1)
    assert all(first != second for first, second in HOMOPHONES)
    monkeypatch.setattr(module, "MERGED", {})
    apart = sounds(recipe, quantiser, documents=40, processes=1)
    assert (apart["lexicon"] > merged["lexicon"]).all()


def test_words_that_are_units_of_their_own_are_all_told(
    recipe: Recipe, quantiser: AcousticQuantiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every word spelled in its own units: nothing is missed, whoever speaks."""
    numbers: dict[str, int] = {}

    def spelled(documents: list) -> tuple[list[str], list[np.ndarray]]:
        words = [word.text for document in documents for one in document for word in one.words]
        codes = [numbers.setdefault(module.MERGED.get(word, word), len(numbers)) for word in words]
        return words, [np.array([code // quantiser.n_units, code % quantiser.n_units]) for code in codes]

    monkeypatch.setattr(module, "_strings", spelled)
    found = sounds(replace(recipe, held_out=5), quantiser, documents=20, processes=1)
    assert all(math.isclose(value, 1.0) for value in found["top_1"])
    assert (found["units_per_word"] == 2).all()
