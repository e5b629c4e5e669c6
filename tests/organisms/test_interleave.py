from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_interp.errors import SpeechError
from slm_interp.organisms.interleave import Codes, Run, interleaved, runs, spoken
from slm_interp.organisms.material import Material
from slm_interp.organisms.recipe import Phase
from slm_interp.speech.units import Units
from slm_interp.speech.words import TimedWord

CODES = Codes({"a": (1,), "b": (2, 3), "c": (4,)}, first_unit=100, markers={"speech": 200, "text": 201})
UNITS = Units(np.array([7, 8, 9, 7]), np.array([1, 2, 1, 3]), 0.04)  # ends at 0.04, 0.12, 0.16, 0.28 s
WORDS = (TimedWord("a", 0.0, 0.05), TimedWord("b", 0.05, 0.13), TimedWord("c", 0.13, 0.28))


def test_a_marker_opens_each_run_and_words_are_units_or_text() -> None:
    cut = (Run("speech", 0, 1), Run("text", 1, 2), Run("speech", 2, 3))
    assert interleaved(WORDS, UNITS, cut, CODES) == [200, 107, 201, 2, 3, 200, 109, 107]


def test_a_heard_run_spans_from_its_first_word_to_the_end_of_its_last() -> None:
    """slamkit's bisection: the unit that sounds across the start belongs, the one across the end does not."""
    assert interleaved(WORDS, UNITS, (Run("speech", 0, 2),), CODES) == [200, 107, 108]
    assert interleaved(WORDS, UNITS, (Run("speech", 1, 3),), CODES) == [200, 108, 109, 107]
    assert interleaved(WORDS, UNITS, (Run("speech", 0, 3),), CODES) == spoken(UNITS, CODES)


def test_a_word_inside_one_unit_leaves_its_marker_alone() -> None:
    words = (TimedWord("a", 0.0, 0.05), TimedWord("b", 0.05, 0.06), TimedWord("c", 0.06, 0.28))
    assert interleaved(words, UNITS, (Run("text", 0, 1), Run("speech", 1, 2), Run("text", 2, 3)), CODES) == [201, 1, 200, 201, 4]


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


PHASE = Phase(steps=1, rows=3, length=40, mix=(0.0, 1.0, 0.0))


def test_rows_depend_on_seed_and_step_and_on_nothing_else(material: Material) -> None:
    first = material.joint_batch(PHASE, step=5, seed=(1,))
    np.random.default_rng(0).random(7)
    assert first.shape == (3, 40)
    assert (material.joint_batch(PHASE, 5, (1,)) == first).all()
    assert not (material.joint_batch(PHASE, 6, (1,)) == first).all()
    assert not (material.joint_batch(PHASE, 5, (2,)) == first).all()
    assert not (first[0] == first[1]).all()


@pytest.mark.parametrize(
    ("mix", "kinds"), [((1, 0, 0), {"text", "marker"}), ((0, 1, 0), {"text", "speech", "marker"}), ((0, 0, 1), {"speech", "marker"})]
)
def test_the_mix_decides_what_a_row_holds(material: Material, mix: tuple[int, int, int], kinds: set[str]) -> None:
    phase = Phase(steps=1, rows=4, length=120, mix=(float(mix[0]), float(mix[1]), float(mix[2])))
    ids = material.joint_batch(phase, 0, (0,)).flatten().tolist()
    assert {material.vocabulary.kind_of(identifier) for identifier in ids} == kinds
    markers = {material.vocabulary.marker(spelling) for spelling in ("<speech>", "<text>")}
    assert ids[0] in markers
    assert ids[120] in markers


def test_the_text_model_sees_text_alone_whole_or_in_letters(material: Material) -> None:
    whole, letters = (material.text_only_batch(Phase(steps=1, rows=2, length=60, spelled=chance), 0, (0,)) for chance in (0.0, 1.0))
    assert {material.vocabulary.kind_of(one) for one in [*whole.flatten().tolist(), *letters.flatten().tolist()]} == {"text"}
    single = {ids[0] for ids in material.speller.whole.values() if len(material.speller.tokenizer.decode(ids)) > 3}
    assert single & set(whole.flatten().tolist())
    assert not single & set(letters.flatten().tolist())
    lexicon = set(material.speller.lexicon)
    assert all(set(line.split()) <= lexicon for line in material.speller.tokenizer.decode(letters[0]).split("\n")[:-1])
