from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_interp.errors import SpeechError
from slm_interp.organisms.interleave import Codes, Run, interleaved, joined, overlap, runs, spoken, written
from slm_interp.speech.units import Units
from slm_interp.speech.words import TimedWord

CODES = Codes({"a": (1,), "b": (2, 3), "c": (4,)}, period=9, first_unit=100, markers={"speech": 200, "text": 201})
UNITS = Units(np.array([7, 8, 9, 7]), np.array([1, 2, 1, 3]), 0.04)  # ends at 0.04, 0.12, 0.16, 0.28 s
WORDS = (TimedWord("a", 0.0, 0.05), TimedWord("b", 0.05, 0.13), TimedWord("c", 0.13, 0.28))
TURNS = (Run("speech", 0, 1), Run("text", 1, 2), Run("speech", 2, 3))


# -- one sentence ------------------------------------------------------------------------------------


def test_a_marker_opens_each_run_and_words_are_units_or_text() -> None:
    assert interleaved(WORDS, UNITS, TURNS, CODES) == [200, 107, 201, 2, 3, 200, 109, 107]


def test_a_period_ends_a_sentence_that_ends_in_text_and_no_other() -> None:
    assert interleaved(WORDS, UNITS, (Run("speech", 0, 2), Run("text", 2, 3)), CODES) == [200, 107, 108, 201, 4, 9]
    assert 9 not in interleaved(WORDS, UNITS, (Run("text", 0, 2), Run("speech", 2, 3)), CODES)
    assert written([(1,), (2, 3)], CODES) == [201, 1, 2, 3, 9]
    assert spoken(UNITS, CODES) == [200, 107, 108, 109, 107]


def test_a_heard_run_spans_from_its_first_word_to_the_end_of_its_last() -> None:
    """slamkit's bisection: the unit that sounds across the start belongs, the one across the end does not."""
    assert interleaved(WORDS, UNITS, (Run("speech", 0, 2),), CODES) == [200, 107, 108]
    assert interleaved(WORDS, UNITS, (Run("speech", 1, 3),), CODES) == [200, 108, 109, 107]
    assert interleaved(WORDS, UNITS, (Run("speech", 0, 3),), CODES) == spoken(UNITS, CODES)


def test_a_word_inside_one_unit_leaves_its_marker_alone() -> None:
    words = (TimedWord("a", 0.0, 0.05), TimedWord("b", 0.05, 0.06), TimedWord("c", 0.06, 0.28))
    assert interleaved(words, UNITS, (Run("text", 0, 1), Run("speech", 1, 2), Run("text", 2, 3)), CODES) == [201, 1, 200, 201, 4, 9]


def test_a_late_boundary_gives_the_run_before_what_the_run_after_loses() -> None:
    halves = (Run("speech", 0, 2), Run("text", 2, 3)), (Run("text", 0, 2), Run("speech", 2, 3))
    exact = [interleaved(WORDS, UNITS, cut, CODES, [0.0, 0.0]) for cut in halves]
    late = [interleaved(WORDS, UNITS, cut, CODES, [5.0, 0.04]) for cut in halves]
    early = [interleaved(WORDS, UNITS, cut, CODES, [5.0, -0.02]) for cut in halves]
    assert exact == [interleaved(WORDS, UNITS, cut, CODES) for cut in halves]
    assert [late[0], late[1]] == [[200, 107, 108, 109, 201, 4, 9], [201, 1, 2, 3, 200, 107]]
    assert [early[0], early[1]] == [[200, 107, 201, 4, 9], [201, 1, 2, 3, 200, 108, 109, 107]]


def test_a_boundary_that_is_later_than_the_end_leaves_nothing_to_hear() -> None:
    assert interleaved(WORDS, UNITS, TURNS, CODES, [0.0, -9.0, 9.0]) == [200, 201, 2, 3, 200]


def test_a_marker_may_be_left_out_but_the_first_stays() -> None:
    assert interleaved(WORDS, UNITS, TURNS, CODES, unmarked=[True, True, False]) == [200, 107, 2, 3, 200, 109, 107]
    assert interleaved(WORDS, UNITS, TURNS, CODES, unmarked=[True, True, True]) == [200, 107, 2, 3, 109, 107]


def test_an_overlapped_change_comes_in_the_second_half_of_the_word_that_is_then_read() -> None:
    length = WORDS[1].end_s - WORDS[1].start_s
    late = np.array([overlap(WORDS, TURNS, 1.0, np.random.default_rng(seed)) for seed in range(200)])
    assert (late[:, [0, 2]] == 0).all()  # heard runs start where they start
    assert (0.5 * length <= late[:, 1]).all() and (late[:, 1] <= length).all()
    assert late[:, 1].min() < 0.55 * length and late[:, 1].max() > 0.95 * length
    assert interleaved(WORDS, UNITS, TURNS, CODES, [0.0, length, 0.0]) == [200, 107, 108, 201, 2, 3, 200, 109, 107]  # b is heard and read


def test_a_share_of_the_changes_is_overlapped() -> None:
    falls = [overlap(WORDS, TURNS, 0.7, np.random.default_rng(seed))[1] > 0 for seed in range(1000)]
    assert np.mean(falls) == pytest.approx(0.7, abs=0.05)


# -- several sentences -------------------------------------------------------------------------------


def said(ids: list[int]) -> list[tuple[int, int]]:
    """What is not a marker, each with the marker in force."""
    found, now = [], -1
    for identifier in ids:
        if identifier in (200, 201):
            now = identifier
        else:
            found.append((identifier, now))
    return found


runs_of_ids = st.lists(st.tuples(st.sampled_from([200, 201]), st.lists(st.integers(1, 9), max_size=3)), min_size=1, max_size=4)


@given(st.lists(runs_of_ids, min_size=1, max_size=4))
def test_joining_drops_a_marker_between_sentences_where_it_changes_nothing_and_nothing_else(
    some: list[list[tuple[int, list[int]]]],
) -> None:
    sentences = [[identifier for marker, content in sentence for identifier in (marker, *content)] for sentence in some]
    ids = joined(sentences, CODES)
    assert said(ids) == [one for sentence in sentences for one in said(sentence)]
    redundant = sum(before[-1][0] == after[0][0] for before, after in pairwise(some))
    assert len(ids) == sum(map(len, sentences)) - redundant
    assert ids[0] in (200, 201)


def test_sentences_are_joined_by_the_marker_they_ask_for() -> None:
    assert joined([[200, 107, 201, 1, 9], [201, 4, 9], [200, 108]], CODES) == [200, 107, 201, 1, 9, 4, 9, 200, 108]


# -- runs --------------------------------------------------------------------------------------------


@given(st.integers(1, 30), st.integers(1, 4), st.integers(0, 4), st.integers(0, 99))
def test_runs_tile_the_words_alternate_and_keep_their_lengths(n_words: int, shortest: int, more: int, seed: int) -> None:
    cut = runs(n_words, (shortest, shortest + more), np.random.default_rng(seed))
    assert [position for run in cut for position in range(run.start, run.stop)] == list(range(n_words))
    assert all(before.modality != after.modality for before, after in pairwise(cut))
    assert all(shortest <= run.stop - run.start <= shortest + more for run in cut[:-1])
    assert 1 <= cut[-1].stop - cut[-1].start <= shortest + more


def test_either_modality_comes_first() -> None:
    assert {runs(3, (1, 3), np.random.default_rng(seed))[0].modality for seed in range(20)} == {"speech", "text"}


@pytest.mark.parametrize(("n_words", "lengths"), [(0, (1, 2)), (3, (0, 2)), (3, (3, 2))])
def test_runs_that_cannot_be_are_refused(n_words: int, lengths: tuple[int, int]) -> None:
    with pytest.raises(SpeechError, match="1 <= shortest <= longest"):
        runs(n_words, lengths, np.random.default_rng(0))
