"""The paper's numbers are what they are told to be, and ours stand beside them under the same rule."""

from __future__ import annotations

import re

import numpy as np
import pytest

from slm_interp.errors import ReadoutError, VocabularyError
from slm_interp.plots import mass_by_input, recall_of_target
from slm_interp.transcription import observe, recall
from slm_interp.transcription.paper import (
    ANSWERS,
    TABLE_1,
    WORDS,
    figure_2,
    figure_3,
    figure_4,
    nearest_row,
    paper_table,
    read_instead,
    released_row,
    table_1,
)


def test_every_percentage_is_a_share_of_640_words_or_125_answers():
    """What the denominators were worked out from; a mistyped digit would not be one."""
    for row in TABLE_1:
        for value, count in ((row.current, WORDS), (row.next, WORDS), (row.answer, ANSWERS)):
            nearest = round(value / 100 * count)
            assert abs(100 * nearest / count - value) <= 0.0051, (row.model, value)
    assert list(paper_table()["current"]) == [row.current for row in TABLE_1]


def test_the_released_model_is_known_by_its_name_alone():
    for name in ("slprl/SIMS-Llama3.2-3B", "sims-llama3.2-3b", "/models/SIMS-Llama3.2-3B/"):
        assert released_row({"checkpoint": name}) is TABLE_1[0]
    for name in ("slprl/SIMS-7B", "SIMS-Llama3.2-3B-copy", ""):
        assert released_row({"checkpoint": name}) is None
    assert released_row({}) is None


@pytest.mark.parametrize(
    ("trained", "current"),
    [
        ((True, True, 0.3), 48.75),
        ((True, True, 0.55), 49.06),
        ((True, True, 0.9), 2.66),
        ((True, True, 0.0), 3.75),
        ((True, False, 0.0), 0.16),
        ((False, True, 0.5), 2.19),
        ((False, True, 0.0), 5.78),
        ((False, False, 0.0), None),
    ],
)
def test_an_organism_stands_beside_the_line_that_was_trained_most_alike(trained, current):
    row = nearest_row(*trained)
    assert (None if row is None else row.current) == current


def test_the_table_is_the_recall_of_any_layer_with_the_papers_share_beside_it(tiny_slm, corpus):
    observed = {target: observe(tiny_slm, corpus, target=target) for target in ("current", "next")}
    table = table_1(observed, beside=TABLE_1[1])
    for (_, row), target in zip(table.iterrows(), observed, strict=True):
        wanted = recall(observed[target], k=(10,)).set_index("layer").loc["any"]
        assert row["target"] == target and row["paper"] == pytest.approx(getattr(TABLE_1[1], target) / 100)
        assert all(row[name] == wanted[name] for name in ("recall", "low", "high", "null_elsewhere", "over_elsewhere"))
    assert np.isnan(table_1(observed)["paper"]).all()
    assert np.isnan(table_1(observed, k=5, beside=TABLE_1[1])["paper"]).all(), "the paper's numbers are at 10"


def test_what_is_not_the_papers_question_is_refused(tiny_slm, corpus):
    current = observe(tiny_slm, corpus)
    with pytest.raises(
        ReadoutError, match=re.escape("The table is of 'current' over whole spans; these observations are of 'current' over 'last'.")
    ):
        table_1({"current": observe(tiny_slm, corpus, window="last")})
    with pytest.raises(ReadoutError, match="This curve is of the next word; the observations are of the current word"):
        figure_3(current, current)
    with pytest.raises(ReadoutError, match="This curve is of the answer word"):
        figure_4(current)


def test_a_curve_is_the_recall_of_its_target(tiny_slm, corpus):
    following = observe(tiny_slm, corpus, target="next")
    curves = figure_3(observe(tiny_slm, corpus), following, k=(1, 5))
    found = curves[curves["target"] == "next"].reset_index(drop=True)
    assert found[["layer", "k", "recall"]].equals(recall(following, k=(1, 5))[["layer", "k", "recall"]])
    drawn = recall_of_target(curves, "next", 5)
    np.testing.assert_allclose(drawn.data[0].y, found[found["k"] == 5]["recall"][:-1])
    assert {trace.name for trace in drawn.data} >= {"recall at 5", "recall at 5, elsewhere"}
    with pytest.raises(ReadoutError, match="The table is of current, next; got 'answer'"):
        recall_of_target(curves, "answer", 5)


def test_mass_is_drawn_for_both_inputs_with_its_nulls(tiny_slm, corpus):
    found = figure_2(tiny_slm, corpus, draws=2)
    figure = mass_by_input(found, "mean")
    curves = {(trace.xaxis, trace.name): trace for trace in figure.data}
    assert len(curves) == 2 * 5
    for axis, given in (("x", "speech"), ("x2", "text")):
        at = found.sel(input=given, pooling="mean")
        np.testing.assert_allclose(curves[axis, "text"].y, at["mass"].sel(modality="text"))
        np.testing.assert_allclose(curves[axis, "speech, random vectors"].y, at["random_mass"].sel(modality="speech"))
        np.testing.assert_allclose(curves[axis, "text, equally many ids"].y, at["size_matched_mass"].sel(matched="text"))
    with pytest.raises(ReadoutError, match="Mass was pooled by max, mean, last; got 'first'"):
        mass_by_input(found, "first")


def test_utterances_that_cannot_be_spelled_are_counted_out_of_the_text_input(tiny_slm, corpus):
    from dataclasses import replace

    foreign = corpus[0].with_words([replace(word, text="zebra") for word in corpus[0].words])
    read, left_out = read_instead(tiny_slm, [foreign, *corpus[1:]])
    assert left_out == 1 and [one.name for one in read] == [one.name for one in corpus[1:]]
    with pytest.raises(VocabularyError, match="can spell none of 1 utterances"):
        read_instead(tiny_slm, [foreign])
