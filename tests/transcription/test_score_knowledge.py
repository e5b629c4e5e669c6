"""Decodability and knowledge joined by name, and a planted relation between them."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from slm_interp.errors import ReadoutError
from slm_interp.transcription import accuracy, by_item, by_model, correlate, observe, recall
from tests.transcription import planted
from tests.transcription.planted import SILENCE, WORDS


def half_heard(slm, count: int = 16, seed: int = 0):
    """Utterances of which the first few words are shown by their last units: more of them in some utterances."""
    rng = np.random.default_rng(seed)
    shown = rng.integers(0, 6, count)
    utterances = []
    for number, (words, many) in enumerate(zip(planted.sentences(count, 5, seed), shown, strict=True)):
        units = [[SILENCE, WORDS.index(word) if index < many else SILENCE] for index, word in enumerate(words)]
        utterances.append(planted.utterance(slm, words, units, 2, f"item {number}"))
    return utterances, shown


def knowledge(names, margins) -> pd.DataFrame:
    margins = np.asarray(margins, dtype=np.float64)
    return pd.DataFrame({"name": names, "cluster": names, "margin": margins, "correct": (margins > 0).astype(float)})


@pytest.fixture(scope="module")
def observed(planted_slm):
    utterances, shown = half_heard(planted_slm)
    return observe(planted_slm, utterances, nulls=["shuffled"]), [one.name for one in utterances], shown


def test_an_item_is_as_decodable_as_its_words(observed):
    seen, names, shown = observed
    table = by_item(seen, knowledge(names[::-1], shown[::-1]), k=1).set_index("name")
    for name, many in zip(names, shown, strict=True):
        assert table.loc[name, "recall"] == pytest.approx(min(many, 5) / 5)
        assert table.loc[name, "margin"] == many  # joined by name, though the order was another
        assert table.loc[name, "words"] == 5 and table.loc[name, "null_recall"] == 0
    assert table["decodability"].corr(table["recall"]) > 0.99
    assert {"null_decodability", "span_length"} <= set(table.columns)


def test_a_planted_relation_is_found_and_none_is_not(observed):
    seen, names, shown = observed
    rng = np.random.default_rng(0)
    linked = correlate(by_item(seen, knowledge(names, shown - 2.5 + 0.3 * rng.normal(size=16)), k=1), draws=300)
    assert linked["rho"].item() > 0.8 and linked["low"].item() > 0.5 and linked["p"].item() < 0.02
    chance = correlate(
        by_item(seen, knowledge(names, np.random.default_rng(3).normal(size=16)), k=1), covariates=["null_decodability"], draws=300
    )
    assert chance["p"].item() > 0.05 and chance["low"].item() < 0 < chance["high"].item()
    assert chance["fieller_low"].item() < chance["rho"].item() < chance["fieller_high"].item()
    assert (chance["n"].item(), chance["covariates"].item()) == (16, "null_decodability")


def test_items_paired_by_position_lose_the_relation(observed):
    """The planted fault: names moved by one, as when a file too many shifts every pair."""
    seen, names, shown = observed
    right = correlate(by_item(seen, knowledge(names, shown), k=1), x="recall", draws=200)
    shifted = correlate(by_item(seen, knowledge([*names[1:], names[0]], shown), k=1), x="recall", draws=200)
    assert right["rho"].item() == pytest.approx(1) and shifted["rho"].item() < 0.7


def test_items_on_one_side_only_are_counted(observed):
    seen, names, _ = observed
    table = by_item(seen, knowledge([*names[:10], "another"], range(11)), k=1)
    assert (len(table), table.attrs["only_observed"], table.attrs["only_asked"]) == (10, 6, 1)


def test_a_layer_may_be_chosen_and_null_words_take_the_same(tiny_slm, corpus):
    seen = observe(tiny_slm, corpus)
    names = [one.name for one in corpus]
    single, best = by_item(seen, knowledge(names, range(6)), layer=2), by_item(seen, knowledge(names, range(6)))
    assert (best["recall"] >= single["recall"]).all() and (best["null_recall"] >= single["null_recall"]).all()
    assert (best["decodability"] >= single["decodability"]).all()
    np.testing.assert_allclose(
        single["recall"].mean(), recall(seen, k=(10,)).set_index("layer").loc["2", "recall"]
    )  # as many words in each utterance


def test_models_are_rows(observed, tiny_slm, corpus):
    seen, names, shown = observed
    recalls = {"one": recall(seen, k=(1, 10)), "two": recall(observe(tiny_slm, corpus, nulls=["shuffled"]), k=(1, 10))}
    accuracies = {name: accuracy(knowledge(names, shown - 2.5)) for name in recalls}
    table = by_model(recalls, accuracies, k=1)
    assert table["model"].tolist() == ["one", "two"]
    assert list(table.columns) == ["model", "recall", "null_shuffled", "over_shuffled", "accuracy"]
    assert table["recall"].iloc[0] == pytest.approx(np.minimum(shown, 5).mean() / 5)
    with pytest.raises(ReadoutError, match=re.escape("these have only one: ['two'].")):
        by_model(recalls, {"one": accuracies["one"]})
    with pytest.raises(ReadoutError, match=re.escape("Model 'one' needs one row with k=5, layer 'any' and one accuracy; got 0, 1.")):
        by_model(recalls, accuracies, k=5)


@pytest.mark.usefixtures("as_users_run_it")
def test_what_cannot_be_joined_is_refused(observed, tiny_slm, corpus):
    seen, names, shown = observed
    with pytest.raises(ReadoutError, match="No item was both observed and asked: observed are .'item 0'"):
        by_item(seen, knowledge(["x", "y"], [1, 2]))
    with pytest.raises(ReadoutError, match="every utterance and every choice needs a name of its own."):
        by_item(seen, knowledge(["item 0", "item 0"], [1, 2]))
    with pytest.raises(ReadoutError, match="There is no layer 9"):
        by_item(seen, knowledge(names, shown), layer=9)
    with pytest.raises(ReadoutError, match="got k=0, ranks='joint'"):
        by_item(seen, knowledge(names, shown), k=0)
    with pytest.raises(ReadoutError, match="No column 'surprise' to correlate; there are name, cluster"):
        correlate(by_item(seen, knowledge(names, shown)), covariates=["surprise"])
