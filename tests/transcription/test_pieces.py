"""Words in several pieces: in order, in any order, and beside nulls that have as many."""

from __future__ import annotations

import re

import numpy as np
import pytest

from slm_interp import LogitLens
from slm_interp.errors import ReadoutError
from slm_interp.transcription import Question, by_position, observe, offset, recall
from slm_interp.transcription.asking import targets
from slm_interp.transcription.asking.cells import Candidate, Cells, pool
from tests.transcription import planted
from tests.transcription.planted import SILENCE, WORDS, AtLayers

PIECES = {"paris": ("see", "sea"), "france": ("is", "of"), "capital": ("rome", "a", "the"), "rome": ("rome",), "is": ("is",)}


@pytest.fixture
def in_pieces(planted_slm, monkeypatch):
    """The planted model, whose tokenizer is made to spell some words in pieces that other words are written with."""

    def ids(slm, word):
        return tuple(one for piece in PIECES.get(word, (word,)) for one in slm.word_ids(piece))

    for spelling in ("all_pieces", "every_piece"):
        monkeypatch.setitem(targets.SPELLINGS, spelling, ids)
    return planted_slm


def shown(slm, *units: str | None, word: str = "paris", other: str = "france") -> list:
    """A word heard in these units (silence for None), and another utterance that asks about a word of as many pieces."""
    numbers = [SILENCE if one is None else WORDS.index(one) for one in units]
    return [planted.utterance(slm, [word], [numbers]), planted.utterance(slm, [other], [[SILENCE] * 4])]


def rank(slm, utterances, spelling, window="span") -> float:
    data = observe(slm, utterances, AtLayers(slm, (1,)), window=window, spelling=spelling, nulls=["elsewhere"]).dataset
    return float(data["rank"].sel(layer=1, word=0))


def cells(*rows: tuple[float, ...]) -> Cells:
    """Costs of as many ids as a row is long, at one position a row, in one layer."""
    costs = np.array(rows, dtype=np.float32)[None, None, :, None]
    return Cells(tuple(range(len(rows))), tuple(range(len(rows[0]))), costs)


def test_pieces_in_order_cost_what_the_worst_of_them_does_from_the_best_start():
    table = cells((0, 9, 9), (7, 3, 9), (1, 8, 5), (2, 2, 9))
    asked = Candidate((0, 1))
    assert pool(table, range(4), [asked], "all_pieces").item() == 2  # 1 at position 2, then 2 at position 3
    assert pool(table, range(3), [asked], "all_pieces").item() == 3  # 0, then 3
    assert pool(table, range(4), [Candidate((0, 1, 2))], "all_pieces").item() == 5  # 0, 3, 5 from the first position
    assert pool(table, range(4), [Candidate((1, 0))], "all_pieces").item() == 3  # the other way round
    assert pool(table, range(4), [asked], "every_piece").item() == 2
    assert pool(table, range(2), [Candidate((2, 0))], "every_piece").item() == 9


def test_a_word_of_one_piece_costs_the_same_whatever_is_asked(tiny_slm, corpus):
    first, *others = (observe(tiny_slm, corpus, spelling=one).dataset for one in ("first_piece", "all_pieces", "every_piece"))
    for other in others:
        assert first.equals(other)


def test_pieces_one_after_another_are_found_in_order_and_the_wrong_way_round_they_are_not(in_pieces):
    for units, in_order, any_order in (
        (("see", "sea"), True, True),
        ((None, "see", "sea", None), True, True),
        (("sea", "see"), False, True),
        (("see", None, "sea"), False, True),
        (("see", None, None), False, False),
    ):
        heard = shown(in_pieces, *units)
        assert (rank(in_pieces, heard, "all_pieces") == 0) == in_order
        assert (rank(in_pieces, heard, "every_piece") == 0) == any_order


def test_the_first_piece_is_found_where_the_word_is_not(in_pieces, monkeypatch):
    ids = targets.SPELLINGS["all_pieces"]
    monkeypatch.setitem(targets.SPELLINGS, "first_piece", lambda slm, word: ids(slm, word)[:1])
    heard = shown(in_pieces, "see", None, None)
    assert rank(in_pieces, heard, "first_piece") == 0 < rank(in_pieces, heard, "all_pieces")


def test_all_pieces_lie_inside_the_window(in_pieces):
    """Its second piece stands at the first position of the word after it."""
    heard = [
        planted.utterance(in_pieces, ["paris", "a"], [[SILENCE, WORDS.index("see")], [WORDS.index("sea")]]),
        planted.utterance(in_pieces, ["france"], [[SILENCE] * 4]),
    ]
    assert rank(in_pieces, heard, "all_pieces") > 0
    found = observe(in_pieces, heard, window=offset(0), spelling="every_piece", nulls=["elsewhere"])
    assert found.left_out == {"no other word of as many ids for the null 'elsewhere'": 1}
    with pytest.raises(ReadoutError, match=re.escape("The window offset(0) has no position at any word of this corpus.")):
        observe(in_pieces, heard, window=offset(0), spelling="all_pieces", nulls=["elsewhere"])


def test_a_window_shorter_than_the_pieces_leaves_a_word_out_and_counts_it(in_pieces):
    heard = [*shown(in_pieces, "see"), planted.utterance(in_pieces, ["paris", "rome"], [[SILENCE] * 2, [SILENCE]])]
    found = observe(in_pieces, heard, spelling="all_pieces", nulls=["random_residuals"])
    assert found.left_out == {"window shorter than the pieces": 1}
    assert found.dataset["word_type"].values.tolist() == ["france", "paris", "rome"]
    at = by_position(in_pieces, heard, None, [0], question=Question(spelling="every_piece", nulls=("random_residuals",)))
    assert at["words"].item() == 4


def test_a_null_has_as_many_pieces_as_the_word(in_pieces):
    texts = ["paris", "rome", "the", "france", "a", "capital"]
    heard = [planted.utterance(in_pieces, some, [[SILENCE] * 4] * 6, name=str(index)) for index, some in enumerate([texts, texts[::-1]])]
    spell = targets.SPELLINGS["all_pieces"]
    found = observe(in_pieces, heard, spelling="all_pieces", nulls=["frequency"], draws=20)
    data = found.dataset
    assert {len(spell(in_pieces, one)) for one in data["word_type"].values} == {1, 2}
    for asked, drawn in zip(data["word_type"].values, data["null_word"].values[0].T, strict=True):
        assert {len(spell(in_pieces, one)) for one in drawn} == {len(spell(in_pieces, asked))}
    assert found.left_out["no other word of as many ids for the null 'frequency'"] >= 2  # no other word has three


@pytest.mark.usefixtures("as_users_run_it")
def test_words_of_unequally_many_ids_cannot_be_pooled_together():
    with pytest.raises(ReadoutError, match=re.escape("pooled together have equally many ids; got [1, 2]. A null must have the word's.")):
        pool(cells((0, 1), (1, 0)), range(2), [Candidate((0, 1)), Candidate((0,))], "all_pieces")


def test_a_null_of_fewer_pieces_would_be_found_more_easily(tiny_slm, corpus):
    """Why their number is matched: on random weights one piece alone is nearer than two."""
    read = LogitLens(tiny_slm).read(corpus[0], targets=["paris", "rome"])
    table = Cells(tuple(range(len(corpus[0]))), (0, 1), read.rank_of(["paris", "rome"]).values[None, :, :, None])
    span = range(corpus[0].words[2].span.start, corpus[0].words[2].span.stop)
    one, two = (pool(table, span, [Candidate(ids)], "every_piece") for ids in ((0,), (0, 1)))
    assert (one <= two).all() and (one < two).any()


def test_recall_can_be_told_apart_by_the_number_of_pieces(in_pieces):
    heard = planted.heard(in_pieces)
    table = recall(observe(in_pieces, heard, window="last"), k=(1,), by="pieces")
    assert table["pieces"].unique().tolist() == [1]
