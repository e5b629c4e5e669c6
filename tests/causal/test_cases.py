"""Cases of causal tests: what they refuse, and what they take from their contrast."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slm_interp.causal import Case, Words
from slm_interp.causal.cases import checked_cases
from slm_interp.causal.planted import Planted, plant
from slm_interp.errors import PatchingError, UtteranceError
from slm_interp.patching.spans import SpanPair
from slm_interp.utterance import Span


@pytest.fixture(scope="module")
def planted() -> Planted:
    return plant("partial", 0.5, n_contrasts=2)


def case_of(planted: Planted, **options: object) -> Case:
    contrast = planted.contrasts[0]
    clean, corrupted = contrast.clean.words[0], contrast.corrupted.words[0]
    made = Case("first", contrast, Words(clean.text, corrupted.text), SpanPair("word", clean.span, corrupted.span))
    return replace(made, **options) if options else made


def test_the_corrupted_run_is_changed_and_the_clean_one_gives(planted: Planted) -> None:
    case = case_of(planted)
    assert case.base is planted.contrasts[0].corrupted
    assert case.source is planted.contrasts[0].clean


def test_cases_cluster_by_their_words_and_by_what_is_said_around_them(planted: Planted) -> None:
    case = case_of(planted)
    assert case.word == " | ".join(sorted((case.words.clean, case.words.corrupted)))
    assert case.prompt == "_"
    assert case_of(planted, prompt="told", word="so").prompt == "told"


def test_words_that_are_exchanged_differ() -> None:
    with pytest.raises(PatchingError, match="all different"):
        Words("bo", "bo")
    with pytest.raises(PatchingError, match="all different"):
        Words("bo", "ka", third="ka")
    with pytest.raises(PatchingError, match="another word"):
        Words("bo", "ka", semantic="bo")


def test_spans_lie_in_their_prompts_and_elsewhere_lies_off_the_word(planted: Planted) -> None:
    case = case_of(planted)
    with pytest.raises(UtteranceError):
        case_of(planted, span=SpanPair("word", Span(3, 99), Span(3, 5)))
    with pytest.raises(PatchingError, match="off the word"):
        case_of(planted, elsewhere=Span(case.span.corrupted.start, case.span.corrupted.stop + 1))


def test_text_prompts_come_with_their_span(planted: Planted) -> None:
    case = case_of(planted)
    with pytest.raises(PatchingError, match="one of the two"):
        case_of(planted, written=case.contrast)
    assert case.as_text() is None
    written = case_of(planted, written=case.contrast, written_span=case.span).as_text()
    assert written is not None
    assert written.name == "first, written"
    assert written.as_text() is None


def test_a_repr_names_the_controls_that_are_missing(planted: Planted) -> None:
    assert "without a third word, a phonetic neighbour" in repr(case_of(planted))


def test_cases_have_names_of_their_own(planted: Planted) -> None:
    case = case_of(planted)
    with pytest.raises(PatchingError, match="of its own name"):
        checked_cases([case, case])
    with pytest.raises(PatchingError, match="one case or more"):
        checked_cases([])
    assert checked_cases([case]) == (case,)
