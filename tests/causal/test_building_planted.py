"""Cases of planted models: what their controls do is known by construction."""

from __future__ import annotations

import pytest
import torch

from slm_interp.causal.building.planted import planted_cases
from slm_interp.causal.cases import Case, checked_cases
from slm_interp.causal.planted import Planted, plant
from slm_interp.utterance import Utterance


@pytest.fixture(scope="module")
def planted() -> Planted:
    return plant("partial", 0.3)


@pytest.fixture(scope="module")
def cases(planted: Planted) -> tuple[Case, ...]:
    return planted_cases(planted)


def difference(planted: Planted, case: Case, prompt: Utterance) -> float:
    """Logit of the answer's onset minus that of the distractor's, after a prompt."""
    last = planted.slm.logits(prompt)[-1]
    return float(last[case.contrast.answer[0]] - last[case.contrast.distractor[0]])


def test_every_contrast_is_a_case_of_its_own(planted: Planted, cases: tuple[Case, ...]) -> None:
    assert [case.contrast for case in checked_cases(cases)] == list(planted.contrasts)
    assert len({case.prompt for case in cases}) == len({case.word for case in cases}) == len(cases)
    assert all((case.words.clean, case.words.corrupted) == (case.source.words[0].text, case.base.words[0].text) for case in cases)


def test_the_follower_of_a_third_word_begins_with_another_unit_than_answer_and_distractor(
    planted: Planted, cases: tuple[Case, ...]
) -> None:
    lexicon, ids = planted.lexicon, planted.slm.vocabulary.unit_to_id
    for case in cases:
        assert case.words.third is not None
        third = lexicon.words.index(case.words.third)
        onset = int(ids(torch.tensor([lexicon.unit_of[lexicon.spelled(lexicon.following[third])[0]]])))
        assert onset not in (int(case.contrast.answer[0]), int(case.contrast.distractor[0]))
        followers = {lexicon.words[lexicon.following[lexicon.words.index(word)]] for word in (case.words.clean, case.words.corrupted)}
        assert not {case.words.third, case.words.phonetic} & followers


def test_where_no_such_word_is_there_is_no_third_and_the_case_says_so() -> None:
    (case,) = planted_cases(plant("mediated", n_words=6, n_contrasts=1))
    assert case.words.third is None
    assert "without a third word" in repr(case)


def test_a_phonetic_neighbour_shares_a_unit_with_the_clean_word(planted: Planted, cases: tuple[Case, ...]) -> None:
    lexicon = planted.lexicon
    for case in cases:
        assert case.words.phonetic is not None
        near, clean = (set(lexicon.spelled(lexicon.words.index(word))) for word in (case.words.phonetic, case.words.clean))
        assert len(near & clean) == 1


def test_elsewhere_has_carriers_and_neither_word(planted: Planted, cases: tuple[Case, ...]) -> None:
    carriers = {int(planted.slm.vocabulary.unit_to_id(torch.tensor([planted.lexicon.unit_of[n]]))) for n in planted.lexicon.carriers}
    for case in cases:
        assert case.elsewhere is not None
        assert set(case.base.tokens[case.elsewhere.start : case.elsewhere.stop].tolist()) <= carriers
        assert len(case.elsewhere) == len(case.span.corrupted)


def test_the_corrupted_word_among_other_carriers_is_followed_by_the_same_units(planted: Planted, cases: tuple[Case, ...]) -> None:
    for case in cases:
        assert case.other_voice is not None
        assert not torch.equal(case.other_voice.prompt.tokens, case.base.tokens)
        assert difference(planted, case, case.other_voice.prompt) == pytest.approx(difference(planted, case, case.base), abs=5e-3)


def test_a_word_that_is_read_is_followed_by_what_follows_it_when_it_is_heard(planted: Planted, cases: tuple[Case, ...]) -> None:
    for case in cases:
        written = case.as_text()
        assert written is not None
        for heard, read in ((case.source, written.source), (case.base, written.base)):
            assert difference(planted, case, read) == pytest.approx(difference(planted, case, heard), abs=5e-3)
        span = written.span.clean
        assert tuple(written.source.tokens[span.start : span.stop].tolist()) == planted.slm.word_ids(case.words.clean)
