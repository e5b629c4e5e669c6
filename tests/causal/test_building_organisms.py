"""Cases of an organism: what differs between their prompts, and what their controls are matched for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import slm_interp as si
from slm_interp.causal.building.cases_built import Built
from slm_interp.causal.building.filling import last
from slm_interp.causal.building.organisms import heard_word, spoken_word
from slm_interp.causal.building.world_words import FIXED, like
from slm_interp.errors import PatchingError
from slm_interp.model import SpeechTextModel
from slm_interp.organisms.grammar import FACTS, PHRASINGS
from slm_interp.organisms.lexicon import CATEGORIES, FACT_CATEGORIES, HOMOPHONES, NAMES
from slm_interp.organisms.phonetic import bare_phonemes
from slm_interp.organisms.world import World

WORLD = World(seed=0)
COUNT = 6


@pytest.fixture(scope="module")
def slm() -> SpeechTextModel:
    return si.load("tiny-overlapped", dtype=torch.float32)


@pytest.fixture(scope="module")
def built(slm: SpeechTextModel) -> dict[str, Built]:
    of: dict[str, tuple[Callable[..., Built], str]] = {
        "names": (heard_word, "names"),
        "neighbours": (heard_word, "neighbours"),
        "homophones": (heard_word, "homophones"),
        "next": (spoken_word, "names"),
        "foreseen": (spoken_word, "foreseen"),
    }
    return {name: build(slm, WORLD, kind, COUNT, sides=("read",)) for name, (build, kind) in of.items()}


def firsts(slm: SpeechTextModel, words: tuple[str | None, ...]) -> list[int]:
    return [slm.word_ids(word)[0] for word in words if word is not None]


def test_names_are_all_that_differs_between_their_prompts(built: dict[str, Built]) -> None:
    for case in (*built["names"], *built["neighbours"]):
        clean, corrupted = case.span.clean, case.span.corrupted
        assert case.source.tokens[: clean.start].tolist() == case.base.tokens[: corrupted.start].tolist()
        assert case.source.tokens[clean.stop :].tolist() == case.base.tokens[corrupted.stop :].tolist()
        assert case.source.word(case.words.clean).span == clean
        assert case.base.word(case.words.corrupted).span == corrupted


def test_homophones_have_one_sound_in_two_contexts(built: dict[str, Built]) -> None:
    for case in built["homophones"]:
        clean, corrupted = case.span.clean, case.span.corrupted
        assert case.source.tokens[clean.start : clean.stop].tolist() == case.base.tokens[corrupted.start : corrupted.stop].tolist()
        assert case.source.tokens[: clean.start].tolist() != case.base.tokens[: corrupted.start].tolist()
        assert tuple(sorted((case.words.clean, case.words.corrupted))) in {tuple(sorted(pair)) for pair in HOMOPHONES}
        assert bare_phonemes(case.words.clean) == bare_phonemes(case.words.corrupted)
        assert case.base.word(case.words.corrupted).span == corrupted  # it is still called what its sentence says


def test_what_is_to_be_said_is_asked_at_the_last_position(built: dict[str, Built]) -> None:
    for case, heard in zip(built["next"], built["names"], strict=True):
        assert case.span.clean.stop == len(case.source) == case.span.clean.start + 1
        assert case.span.corrupted.stop == len(case.base) == case.span.corrupted.start + 1
        assert like(case.words.clean).category in FACT_CATEGORIES
        assert {case.words.clean, case.words.corrupted} <= set(CATEGORIES[like(case.words.clean).category])
        assert case.contrast.answer.tolist() == heard.contrast.answer.tolist()


def test_what_is_foreseen_is_asked_where_both_prompts_have_one_unit_and_two_contexts(slm: SpeechTextModel, built: dict[str, Built]) -> None:
    for case in built["foreseen"]:
        clean, corrupted = case.source.words[-1].span, case.base.words[-1].span
        assert case.source.tokens[clean.start :].tolist() == case.base.tokens[corrupted.start :].tolist()
        assert case.source.tokens[: clean.start].tolist() != case.base.tokens[: corrupted.start].tolist()
        assert (case.span.clean, case.span.corrupted) == (last(case.contrast).clean, last(case.contrast).corrupted)
        assert case.prompt == case.word  # couples share no phrasing: one way of clustering
        assert case.words.third in {word for phrasing in PHRASINGS for word in phrasing.split()}


def test_a_third_word_is_matched_and_has_nothing_to_do_with_the_case(slm: SpeechTextModel, built: dict[str, Built]) -> None:
    for kind, cases in built.items():
        elsewhere = set(cases.left_out[cases.left_out["what"] == "third of its category"]["name"])
        for case in cases:
            words = case.words
            assert words.third is not None
            assert len(slm.word_ids(words.third)) == len(slm.word_ids(words.clean))
            said = {word.text for prompt in (case.source, case.base) for word in prompt.words}
            assert not {words.third, words.phonetic, words.semantic} & said
            assert len(set(firsts(slm, (words.clean, words.corrupted, words.third)))) == 3
            if case.name not in elsewhere:
                category = {"names": "name", "neighbours": "name", "foreseen": FIXED}.get(kind)
                assert words.third in like(words.clean, category)


def test_nothing_that_is_told_of_a_third_name_is_an_answer(built: dict[str, Built]) -> None:
    for case in built["names"]:
        category = next(one for one, phrasings in FACTS.items() if case.prompt in phrasings)
        told = {name: WORLD.facts[name, category].value for name in NAMES}
        assert case.words.third in told
        assert told[case.words.third] not in (told[case.words.clean], told[case.words.corrupted])


def test_elsewhere_is_speech_off_the_word_and_off_the_end(slm: SpeechTextModel, built: dict[str, Built]) -> None:
    speech = slm.vocabulary.mask("speech")
    for cases in built.values():
        listed = set(cases.left_out[cases.left_out["what"] == "elsewhere"]["name"])
        for case in cases:
            assert (case.elsewhere is None) == (case.name in listed)
            if case.elsewhere is not None:
                assert len(case.elsewhere) == len(case.span.corrupted)
                assert case.elsewhere.stop < len(case.base)
                assert speech[case.base.tokens[case.elsewhere.start : case.elsewhere.stop]].all()


def test_another_voice_says_the_corrupted_words(built: dict[str, Built]) -> None:
    for cases in built.values():
        for case in cases:
            assert case.other_voice is not None
            other = case.other_voice.prompt
            assert other.words[-1].text == case.base.words[-1].text
            assert other.tokens.tolist() != case.base.tokens.tolist()
            if case.span.name == "word":
                assert other.word(case.words.corrupted).span == case.other_voice.span
            else:
                assert case.other_voice.span.stop == len(other)


def test_the_same_prompts_are_written_and_go_on_in_speech(slm: SpeechTextModel, built: dict[str, Built]) -> None:
    for cases in built.values():
        for case in cases:
            written = case.as_text()
            assert written is not None
            for prompt, span, word in (
                (written.source, written.span.clean, case.words.clean),
                (written.base, written.span.corrupted, case.words.corrupted),
            ):
                assert slm.label(int(prompt.tokens[0])) == "<text>"
                assert slm.label(int(prompt.tokens[-1])) == "<speech>"
                if case.span.name == "word":
                    assert tuple(prompt.tokens[span.start : span.stop].tolist()) == slm.word_ids(word)
                else:
                    assert span.stop == len(prompt)


def test_pairs_that_cannot_be_used_are_listed(slm: SpeechTextModel, built: dict[str, Built]) -> None:
    for cases in built.values():
        lost = cases.left_out[cases.left_out["what"] == "case"]
        assert len(cases) + len(lost) == COUNT
        assert lost["why"].str.len().gt(10).all()


def test_cases_of_other_kinds_are_refused(slm: SpeechTextModel) -> None:
    with pytest.raises(PatchingError, match="names, neighbours, homophones; got 'facts'"):
        heard_word(slm, WORLD, "facts", 2)
    with pytest.raises(PatchingError, match="kind names, neighbours, foreseen; got 'homophones'"):
        spoken_word(slm, WORLD, "homophones", 2)
