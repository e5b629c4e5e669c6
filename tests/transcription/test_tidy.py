"""Rows that are read block by block are what `observe` gives at once."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from slm_interp import LogitLens
from slm_interp.errors import ReadoutError
from slm_interp.transcription import Question, observe, recall
from slm_interp.transcription.tidy import asked_of, attrs_of, observations_of, rows_of

BLOCKS = ([0, 1], [2], [3, 4, 5])


def rows(slm, corpus, question, window="span"):
    lens, asked = LogitLens(slm), asked_of(slm, corpus, question, window)
    frame = pd.concat([rows_of(slm, corpus, lens, asked, question, window, block) for block in BLOCKS], ignore_index=True)
    return frame, attrs_of(slm, corpus, lens, asked, question, window)


@pytest.mark.parametrize("target", ["current", "next"])
def test_blocks_make_the_observations_of_the_whole(tiny_slm, corpus, target):
    question = Question(target, draws=3, jitter=1)
    found = observations_of(*rows(tiny_slm, corpus, question)).dataset
    whole = observe(tiny_slm, corpus, target=target, draws=3, jitter=1).dataset
    assert found.attrs == whole.attrs
    assert set(found.variables) == set(whole.variables)
    for name, values in whole.variables.items():
        assert found[name].dims == values.dims
        if values.dtype.kind == "f":
            np.testing.assert_allclose(found[name].values, values.values, rtol=1e-4, atol=1e-5)
        else:
            np.testing.assert_array_equal(found[name].values, values.values)
    pd.testing.assert_frame_equal(
        recall(observations_of(*rows(tiny_slm, corpus, question))), recall(observe(tiny_slm, corpus, target=target, draws=3, jitter=1))
    )


def test_a_row_is_one_candidate_of_one_word_in_one_layer(tiny_slm, corpus):
    frame, _ = rows(tiny_slm, corpus, Question(nulls=("shuffled", "elsewhere"), draws=2))
    assert len(frame) == 6 * 6 * (1 + 2 * 2) * (tiny_slm.model.cfg.n_layers + 1)
    own = frame[frame["null"] == ""]
    assert (own["candidate"] == own["word_type"]).all() and (own["draw"] == -1).all()
    null = frame[frame["null"] != ""]
    assert (null["candidate"] != null["word_type"]).all() and set(null["draw"]) == {0, 1}
    assert (frame["span_length"] == frame["stop"] - frame["start"]).all()


def test_an_order_of_rows_that_parquet_does_not_keep_does_not_matter(tiny_slm, corpus):
    frame, attrs = rows(tiny_slm, corpus, Question(draws=2))
    mixed = frame.sample(frac=1, random_state=0)
    np.testing.assert_array_equal(
        observations_of(mixed, attrs).dataset.sel(null="elsewhere")["null_rank"],
        observations_of(frame, attrs).dataset.sel(null="elsewhere")["null_rank"],
    )


def test_rows_that_are_missing_or_repeat_are_refused(tiny_slm, corpus):
    frame, attrs = rows(tiny_slm, corpus, Question(draws=2))
    with pytest.raises(ReadoutError, match=re.escape("36 words, 3 nulls of 2 draws and 4 layers make 1008 rows; got 1007.")):
        observations_of(frame.iloc[1:], attrs)
    with pytest.raises(ReadoutError, match="make 1008 rows; got 1009"):
        observations_of(pd.concat([frame, frame.iloc[:1]]), attrs)


def test_a_block_without_places_has_no_rows_and_the_same_columns(tiny_slm, corpus):
    question = Question(draws=2)
    asked = asked_of(tiny_slm, corpus, question)
    empty = rows_of(tiny_slm, corpus, LogitLens(tiny_slm), asked, question, "span", [99])
    assert len(empty) == 0 and list(empty) == list(rows(tiny_slm, corpus, question)[0])
