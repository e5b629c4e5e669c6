"""Which words can be exchanged, and which can stand for another."""

from __future__ import annotations

import pytest

import slm_interp as si
from slm_interp.causal.building.filling import matched, why_not
from slm_interp.model import SpeechTextModel


@pytest.fixture(scope="module")
def slm() -> SpeechTextModel:
    return si.load("tiny-overlapped")


@pytest.fixture(scope="module")
def alike(slm: SpeechTextModel) -> tuple[str, str, str]:
    """Three words of two pieces, of which the first two begin with the same one."""
    from slm_interp.organisms.world import World

    two = [word for word in World(seed=0).lexicon if len(slm.word_ids(word)) == 2]
    one, other = next((a, b) for a in two for b in two if a < b and slm.word_ids(a)[0] == slm.word_ids(b)[0])
    return one, other, next(word for word in two if slm.word_ids(word)[0] != slm.word_ids(one)[0])


def test_words_that_begin_with_the_same_piece_are_not_exchanged(slm: SpeechTextModel, alike: tuple[str, str, str]) -> None:
    assert "begin with the same piece" in str(why_not(slm, *alike[:2]))
    assert why_not(slm, alike[0], alike[2]) is None


def test_a_matched_word_has_as_many_pieces_and_a_first_one_of_its_own(slm: SpeechTextModel, alike: tuple[str, str, str]) -> None:
    one, other, apart = alike
    pool = [(other, 1.0), (apart, 1.0), ("boston", 1.0)]
    assert len(slm.word_ids("boston")) != 2
    assert matched(slm, one, "anna", pool, (), 1.0, "case") == [apart]
    assert matched(slm, one, "anna", pool, (apart,), 1.0, "case") == []


def test_the_nearest_in_frequency_comes_first_then_the_nearest_in_letters(slm: SpeechTextModel) -> None:
    pool = [("karen", 8.0), ("victor", 2.0), ("boris", 2.0), ("anna", 1.0)]
    assert matched(slm, "frank", "kevin", pool, (), 2.0, "case") == ["boris", "victor", "anna", "karen"]


def test_ties_are_broken_by_the_case(slm: SpeechTextModel) -> None:
    pool = [(name, 1.0) for name in ("boris", "karen", "clara", "simon", "laura")]
    firsts = {matched(slm, "frank", "kevin", pool, (), 1.0, f"case {n}")[0] for n in range(12)}
    assert len(firsts) > 2
