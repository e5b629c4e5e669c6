"""Recall and its nulls where the truth is planted."""

from __future__ import annotations

import re

import numpy as np
import pytest

from slm_interp.errors import ReadoutError, StatisticsError
from slm_interp.transcription import observe, recall
from tests.transcription import planted
from tests.transcription.planted import AtLayers


@pytest.fixture(scope="module")
def observed(planted_slm):
    return observe(planted_slm, planted.heard(planted_slm), AtLayers(planted_slm, (1, 2)), window="last")


def test_a_table_says_where_it_comes_from(observed):
    attrs = recall(observed, k=(1,)).attrs
    assert {
        "corpus": observed.dataset.attrs["corpus"],
        "window": "last",
        "target": "current",
        "ranks": "joint",
        "level": 0.95,
    }.items() <= attrs.items()
    assert "provenance_json" in attrs


@pytest.mark.parametrize("ranks", ["joint", "text"])
def test_recall_is_1_at_the_planted_layers_0_elsewhere_and_0_for_every_null(observed, ranks):
    table = recall(observed, k=(1, 5), ranks=ranks)
    shown = table["layer"].isin(["1", "2", "any"])
    assert set(table["layer"]) == {"0", "1", "2", "3", "any"}
    for column in ("recall", "low", "high", "over_shuffled", "over_frequency_low"):
        assert (table.loc[shown, column] == 1).all()
        assert (table.loc[~shown, column] == 0).all()
    assert (table[["null_shuffled", "null_elsewhere", "null_frequency"]] == 0).all(axis=None)
    assert (table.loc[shown, "p_elsewhere"] < 0.01).all() and (table.loc[~shown, "p_elsewhere"] == 1).all()


def test_a_null_gains_from_any_layer_as_the_word_does(tiny_slm, corpus):
    found = observe(tiny_slm, corpus)
    table = recall(found, k=(5,)).set_index("layer")
    data = found.dataset
    for name in found.nulls:
        best = data["null_rank"].sel(null=name).min("layer")
        assert table.loc["any", f"null_{name}"] == pytest.approx(float((best < 5).mean()))
        assert table.loc["any", f"null_{name}"] > table.loc[["0", "1", "2", "3"], f"null_{name}"].max()
        assert table.loc["any", f"over_{name}"] == pytest.approx(table.loc["any", "recall"] - table.loc["any", f"null_{name}"])


def test_on_random_weights_recall_is_that_of_its_nulls_whatever_is_pooled(tiny_slm):
    rng = np.random.default_rng(0)
    utterances = [
        planted.utterance(tiny_slm, words, [rng.integers(0, 20, 4).tolist() for _ in words]) for words in planted.sentences(60, 6, seed=2)
    ]
    table = recall(observe(tiny_slm, utterances), k=(1, 5, 10)).set_index(["layer", "k"])
    assert table.loc[("any", 10), "recall"] > 0.5  # pooling alone finds most words
    assert (table[["over_shuffled", "over_elsewhere", "over_frequency"]].abs() < 0.12).all(axis=None)


def test_rank_k_minus_1_is_found_at_k_and_not_at_k_minus_1(observed):
    moved = type(observed)(observed.dataset.assign(rank=observed.dataset["rank"] * 0 + 9))
    table = recall(moved, k=(9, 10)).set_index(["layer", "k"])["recall"]
    assert (table.xs(9, level="k") == 0).all() and (table.xs(10, level="k") == 1).all()


def test_words_are_counted_with_their_clusters_and_k_as_a_share_of_what_was_ranked(observed):
    table = recall(observed, k=(1,), ranks="text")
    assert (table["words"] == 60).all() and (table["utterances"] == 12).all() and (table["word_types"] == 10).all()
    assert table["k_share"].unique() == pytest.approx([1 / 11])
    assert recall(observed, k=(1,))["k_share"].unique() == pytest.approx([1 / 33])


def test_groups_partition_the_words(observed):
    half = observed.dataset.assign_coords(half=("word", observed.dataset["word_index"].values // 3))
    table = recall(type(observed)(half), k=(1,), by="half")
    assert table.groupby("half")["words"].first().tolist() == [36, 24]


def test_adjusted_p_are_the_layers_p_times_no_more_than_the_number_of_layers(tiny_slm, corpus):
    table = recall(observe(tiny_slm, corpus), k=(1, 5))
    layers = table[table["layer"] != "any"]
    assert (layers["holm_shuffled"] >= layers["p_shuffled"]).all()
    assert (layers["holm_shuffled"] <= np.minimum(1, 4 * layers["p_shuffled"].groupby(layers["k"]).transform("max"))).all()
    for _, part in layers.groupby("k"):
        smallest = part["p_shuffled"].idxmin()
        assert part.loc[smallest, "holm_shuffled"] == pytest.approx(min(1, 4 * part.loc[smallest, "p_shuffled"]))
    aggregate = table[table["layer"] == "any"]
    assert (aggregate["holm_shuffled"] == aggregate["p_shuffled"]).all()


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"k": (0,)}, "Recall needs one or more k from 1 up and ranks joint or text; got k=(0,), ranks='joint'."),
        ({"ranks": "speech"}, "ranks='speech'"),
        ({"by": "predictability"}, "No coordinate 'predictability' along words; there are "),
        ({"by": "start_s"}, "No coordinate 'start_s' along words"),
    ],
)
def test_unknown_options_are_refused_in_a_sentence(observed, options, sentence):
    with pytest.raises(ReadoutError, match=re.escape(sentence)):
        recall(observed, **options)


def test_a_coordinate_with_many_values_is_no_grouping(observed):
    many = observed.dataset.assign_coords(many=("word", np.arange(60.0)))
    with pytest.raises(ReadoutError, match="20 values at most; 'many' has 60. Cut it into classes."):
        recall(type(observed)(many), by="many")


def test_words_of_one_utterance_have_no_interval(planted_slm):
    alone = observe(planted_slm, planted.heard(planted_slm, 1), nulls=["shuffled"])
    with pytest.raises(StatisticsError, match="All 5 items are of one utterance"):
        recall(alone)
