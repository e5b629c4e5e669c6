"""A word that is heard and one that is guessed, told apart by when they show."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from slm_interp.errors import ReadoutError
from slm_interp.transcription import Question, by_position, observe, offset, onset, recall, rise
from tests.transcription import planted
from tests.transcription.planted import AtLayers


def test_a_word_that_is_heard_shows_at_its_last_unit_alone(planted_slm):
    found = by_position(planted_slm, planted.heard(planted_slm), AtLayers(planted_slm, (2,)), range(-4, 4), "end", k=1)
    expected = np.zeros((4, 8))
    expected[2, 4] = 1
    np.testing.assert_array_equal(found["recall"], expected)
    assert (found["null_recall"] == 0).all()
    np.testing.assert_array_equal(found["over"].sel(null="shuffled"), expected)


def test_a_word_that_is_guessed_shows_before_its_onset_alone(planted_slm):
    found = by_position(planted_slm, planted.guessed(planted_slm), None, range(-4, 4), k=1)
    shown = found["recall"].sel(layer=2)
    assert (shown.sel(offset=-1) == 48 / 60).all()  # the first word of each clip has nothing before it that says so
    assert (shown.drop_sel(offset=-1) == 0).all()


def test_each_offset_counts_the_words_that_reach_it(planted_slm):
    found = by_position(planted_slm, planted.heard(planted_slm), None, [-6, -1, 0, 7, 8], k=1)
    assert found["words"].values.tolist() == [36, 60, 60, 60, 48]  # a marker before, four silent units after


def test_recall_at_an_offset_is_that_of_the_same_window(tiny_slm, corpus):
    found = by_position(tiny_slm, corpus, None, [-1, 1], k=5)
    for one in (-1, 1):
        table = recall(observe(tiny_slm, corpus, window=offset(one)), k=(5,)).set_index("layer").drop("any")
        here = found.sel(offset=one)
        np.testing.assert_allclose(here["recall"], table["recall"])
        np.testing.assert_allclose(here["low"], table["low"])
        np.testing.assert_allclose(here["null_recall"].sel(null="elsewhere"), table["null_elsewhere"])
        np.testing.assert_allclose(here["over_high"].sel(null="frequency"), table["over_frequency_high"])


def test_what_is_heard_is_all_of_a_transcriber_and_less_than_nothing_of_a_guesser(planted_slm):
    transcriber = rise(planted_slm, planted.heard(planted_slm), AtLayers(planted_slm, (1, 3)), k=1).set_index("layer")
    assert transcriber["heard"].tolist() == [0, 1, 0, 1] and transcriber["last"].tolist() == [0, 1, 0, 1]
    assert (transcriber.loc[[1, 3], "p"] < 0.01).all()
    guesser = rise(planted_slm, planted.guessed(planted_slm), k=1).set_index("layer")
    assert (guesser["heard"] < -0.9).all() and (guesser["high"] <= 0).all() and (guesser["p"] > 0.9).all()
    assert (guesser["before"] == 1).all() and (guesser["last"] == 0).all()
    assert (guesser["heard_null"] == 0).all() and (transcriber["heard_null"] == 0).all()


def test_the_next_word_is_asked_by_the_same_clock(planted_slm):
    """What a guesser shows in the last unit of a word is the next word."""
    found = by_position(planted_slm, planted.guessed(planted_slm), None, [-1, 0], "end", k=1, question=Question("next", ("shuffled",)))
    assert found["recall"].sel(layer=0).values.tolist() == [0, 1]


def test_words_without_room_on_both_sides_are_left_out_and_counted(planted_slm):
    table = rise(planted_slm, planted.heard(planted_slm), width=3, k=1)
    assert json.loads(table.attrs["left_out_json"]) == {"positions missing before or after": 12}
    assert (table["words"] == 48).all()


def test_both_rankings_of_the_rise_come_from_one_run_and_are_what_each_is_alone(tiny_slm, corpus, monkeypatch):
    runs, costs = [], onset.costs
    monkeypatch.setattr(onset, "costs", lambda *arguments: runs.append(arguments) or costs(*arguments))
    both = onset.rises(tiny_slm, corpus, width=1, k=5)
    assert len(runs) == 1
    for ranks, table in both.items():
        alone = rise(tiny_slm, corpus, width=1, k=5, ranks=ranks)
        assert table.equals(alone) and table.attrs == alone.attrs and table.attrs["ranks"] == ranks
    assert not both["joint"].equals(both["text"])


@pytest.mark.usefixtures("as_users_run_it")
def test_impossible_positions_are_refused_in_a_sentence(planted_slm):
    heard = planted.heard(planted_slm, 2)
    with pytest.raises(ReadoutError, match=re.escape("No word of this corpus has a position -99 from its onset. Ask for nearer offsets.")):
        by_position(planted_slm, heard, offsets=[-99])
    with pytest.raises(ReadoutError, match="Positions are counted from onset or end; got 'middle'."):
        by_position(planted_slm, heard, relative_to="middle")
    with pytest.raises(ReadoutError, match="No word has 50 positions before its onset and 49 after its end."):
        rise(planted_slm, heard, width=50)
    with pytest.raises(ReadoutError, match="got k=0"):
        rise(planted_slm, heard, k=0)
