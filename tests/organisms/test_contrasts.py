from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch

import slm_interp as si
from slm_interp.errors import SpeechError
from slm_interp.model import SpeechTextModel
from slm_interp.organisms import grammar
from slm_interp.organisms.contrast_plans import CLOSEST, Cut, _near_facts, _sentence_with
from slm_interp.organisms.contrast_spans import ROLES, by_role, roles
from slm_interp.organisms.contrasts import KINDS, SIDES, ContrastPair, contrasts, table
from slm_interp.organisms.corpus import Prompt
from slm_interp.organisms.foreseen import couples
from slm_interp.organisms.gaps import could_stand, fillers, following
from slm_interp.organisms.lexicon import CATEGORIES, FACT_CATEGORIES, FACT_VALUES, HOMOPHONES, NAMES
from slm_interp.organisms.phonetic import nearest_pairs, sounds_in_sentences
from slm_interp.organisms.splicing import spliced
from slm_interp.organisms.world import World
from slm_interp.speech.acoustic import AcousticQuantiser
from slm_interp.speech.audio import resample
from slm_interp.speech.spans import unit_slice
from slm_interp.speech.synthesis import synthesise
from slm_interp.speech.units import Units
from slm_interp.speech.words import TimedWord

WORLD = World(seed=0)
COUNT = 6
ABOUT_FACTS = ("names", "facts", "neighbours", "voices")


@pytest.fixture(scope="module")
def slm() -> SpeechTextModel:
    return si.load("tiny")


@pytest.fixture(scope="module")
def made(slm: SpeechTextModel) -> dict[str, list[ContrastPair]]:
    return {kind: contrasts(slm, WORLD, kind, COUNT) for kind in KINDS}


@pytest.fixture(scope="module")
def every(made: dict[str, list[ContrastPair]]) -> list[ContrastPair]:
    return [pair for pairs in made.values() for pair in pairs]


# -- every kind --------------------------------------------------------------------------------------


def said_again(slm: SpeechTextModel, cut: Cut) -> tuple[torch.Tensor, slice, tuple[TimedWord, ...]]:
    """A sentence's ids, the units of the word it is cut at, its timed words: made anew, the long way round."""
    words, units = _spoken(slm.quantiser, cut.prompt)
    ids = slm.vocabulary.unit_to_id(torch.from_numpy(units.units).long())
    return ids, unit_slice(units, words[cut.at].start_s, words[cut.at].end_s), words


@lru_cache(maxsize=256)
def _spoken(quantiser: AcousticQuantiser, prompt: Prompt) -> tuple[tuple[TimedWord, ...], Units]:
    spoken = synthesise(prompt.text, prompt.voice, prompt.rate, prompt.pitch)
    return spoken.words, quantiser.encode(resample(spoken.audio, 16_000))


def test_prompts_end_where_the_continuation_starts_and_continuations_are_the_units_of_its_word(
    slm: SpeechTextModel, every: list[ContrastPair]
) -> None:
    for pair in every:
        for prompt, cut in ((pair.contrast.clean, pair.plan.clean), (pair.contrast.corrupted, pair.plan.corrupted)):
            ids, own, words = said_again(slm, cut)
            assert prompt.tokens.tolist() == [slm.vocabulary.marker("<speech>"), *ids[: own.start].tolist()]
            assert abs(prompt.seconds - words[cut.at].start_s) < 0.25  # the unit that sounds across the start is the word's own
            assert prompt.seconds <= words[cut.at].start_s + 1e-6
            assert prompt.audio is not None and prompt.audio.seconds == pytest.approx(prompt.seconds, abs=0.021)
        for continuation, cut in ((pair.contrast.answer, pair.plan.answer), (pair.contrast.distractor, pair.plan.distractor)):
            ids, own, _ = said_again(slm, cut)
            assert continuation.tolist() == ids[own].tolist()


def test_the_words_that_matter_carry_their_own_units_times_and_text(slm: SpeechTextModel, every: list[ContrastPair]) -> None:
    for pair in every:
        for word, prompt, cut, place in (
            (pair.word_clean, pair.contrast.clean, pair.plan.clean, pair.plan.words[0]),
            (pair.word_corrupted, pair.contrast.corrupted, pair.plan.corrupted, pair.plan.words[1]),
        ):
            timed = said_again(slm, cut)[2][place]
            assert word in prompt.words
            assert (word.text, word.start_s, word.end_s) == (timed.text, timed.start_s, timed.end_s)
            start, end = prompt.seconds_of(word.span)
            assert start <= word.start_s + 1e-6 and end <= word.end_s + 1e-6
        assert pair.same_length == (len(pair.word_clean.span) == len(pair.word_corrupted.span))
    assert {pair.same_length for pair in every} == {True, False}


def test_a_pair_fits_the_model_and_no_unit_is_said_twice_in_a_row(slm: SpeechTextModel, every: list[ContrastPair]) -> None:
    for pair in every:
        contrast = pair.contrast
        for prompt in (contrast.clean, contrast.corrupted):
            slm.check(prompt)
            for continuation in (contrast.answer, contrast.distractor):
                assert slm.vocabulary.mask("speech")[continuation].all()
                assert (torch.cat([prompt.tokens, continuation]).diff() != 0).all()
        assert contrast.answer.tolist() != contrast.distractor.tolist()


def test_no_prompt_is_cut_before_one_of_its_continuations(every: list[ContrastPair]) -> None:
    """What a prompt sounds like must not tell which word comes next; so it is cut before a third one, the same for both."""
    for pair in every:
        carriers = {cut.prompt.text.split()[cut.at] for cut in (pair.plan.clean, pair.plan.corrupted)}
        assert len(carriers) == 1
        assert not carriers & {pair.answer, pair.distractor}


def test_pairs_depend_on_the_seed_alone_and_fewer_are_the_first_of_more(slm: SpeechTextModel, made: dict[str, list[ContrastPair]]) -> None:
    np.random.default_rng(5).random(3)
    for kind, pairs in made.items():
        again = contrasts(slm, WORLD, kind, 2)
        assert [(one.name, one.plan) for one in again] == [(one.name, one.plan) for one in pairs[:2]]
        assert [one.contrast.answer.tolist() for one in again] == [one.contrast.answer.tolist() for one in pairs[:2]]
        other = contrasts(slm, WORLD, kind, 2, seed=1)
        assert not {one.plan for one in other} & {one.plan for one in pairs}
    assert len({pair.name for pairs in made.values() for pair in pairs}) == COUNT * len(KINDS)


def test_facts_are_told_as_they_are_and_sides_take_turns(made: dict[str, list[ContrastPair]]) -> None:
    for kind in ABOUT_FACTS:
        assert Counter(pair.plan.side for pair in made[kind]) == dict.fromkeys(SIDES, COUNT // len(SIDES))
        for pair in made[kind]:
            fact = WORLD.facts[pair.word_clean.text, pair.plan.category]
            assert (pair.answer, pair.plan.side) == (fact.value, fact.side)
            assert pair.text_clean == pair.plan.phrasing.removesuffix("{value}").format(name=fact.name).strip()
            assert pair.distractor in CATEGORIES[fact.category][:FACT_VALUES]


def test_only_the_voices_and_sides_that_were_asked_for_are_used(slm: SpeechTextModel) -> None:
    pairs = contrasts(slm, WORLD, "names", 5, voices=("en-gb+m2",), sides=("withheld",))
    assert {(pair.plan.side, pair.plan.clean.prompt.voice, pair.plan.answer.prompt.voice) for pair in pairs} == {
        ("withheld", "en-gb+m2", "en-gb+m2")
    }


# -- each kind ---------------------------------------------------------------------------------------


def test_names_differ_in_the_name_alone_and_each_value_continues_its_own(made: dict[str, list[ContrastPair]]) -> None:
    for pair in (*made["names"], *made["neighbours"]):
        clean, corrupted = pair.text_clean.split(), pair.text_corrupted.split()
        assert [place for place, (one, other) in enumerate(zip(clean, corrupted, strict=True)) if one != other] == [pair.plan.words[0]]
        assert pair.distractor == WORLD.facts[pair.word_corrupted.text, pair.plan.category].value != pair.answer
        assert pair.plan.distractor.prompt.text == f"{pair.text_corrupted} {pair.distractor}"
        assert (
            len({replace(cut.prompt, text="") for cut in (pair.plan.clean, pair.plan.corrupted, pair.plan.answer, pair.plan.distractor)})
            == 1
        )


def test_facts_ask_one_prompt_and_each_value_is_right_once_and_wrong_once(made: dict[str, list[ContrastPair]]) -> None:
    for pair in made["facts"]:
        assert pair.contrast.clean is pair.contrast.corrupted
        assert pair.plan.distractor.prompt.text == f"{pair.text_clean} {pair.distractor}"
    for one, other in zip(made["facts"][::2], made["facts"][1::2], strict=True):
        assert (one.answer, one.distractor) == (other.distractor, other.answer)
        assert one.word_clean.text != other.word_clean.text


def test_homophones_sound_alike_and_end_their_prompts(made: dict[str, list[ContrastPair]]) -> None:
    rng = np.random.default_rng(0)
    plans = [plan for _ in range(80) for plan in KINDS["homophones"](WORLD, ("en-us", "en-gb"), "heard", rng)]
    assert len(plans) > 30
    for plan in (*plans, *(pair.plan for pair in made["homophones"])):
        prompts = [(cut.prompt.text, place) for cut, place in zip((plan.clean, plan.corrupted), plan.words, strict=True)]
        words = [text.split()[place] for text, place in prompts]
        assert "/".join(sorted(words)) in {"/".join(sorted(one)) for one in HOMOPHONES}
        assert len(set(sounds_in_sentences(prompts, plan.clean.prompt.voice))) == 1
        assert [cut.at for cut in (plan.clean, plan.corrupted)] == [place + 1 for place in plan.words]


def test_the_grammar_has_no_place_for_the_other_homophone() -> None:
    rng = np.random.default_rng(0)
    for here, there in (*HOMOPHONES, *(pair[::-1] for pair in HOMOPHONES)):
        for text, at, _ in filter(None, (_sentence_with(here, there, rng) for _ in range(4))):
            words = text.split()
            assert words[at] == here and len(words) > at + 1
            assert could_stand(here, words[:at])
            assert not could_stand(there, words[:at])


def test_nearly_every_pair_of_homophones_has_sentences_that_tell_it_apart() -> None:
    rng = np.random.default_rng(0)
    told = [pair for pair in HOMOPHONES if any(_sentence_with(*pair, rng) and _sentence_with(*pair[::-1], rng) for _ in range(20))]
    assert len(told) >= len(HOMOPHONES) - 5


def test_what_could_stand_is_what_a_phrasing_says() -> None:
    assert could_stand("boston", "anna lives in".split())
    assert not could_stand("phoenix", "anna lives in".split())  # a city, and no fact's value
    assert could_stand("bear", ["the"])
    assert not could_stand("bare", ["the"])
    assert could_stand("bare", "anna did not see the".split())


def test_neighbours_are_the_nearest_names_whose_facts_differ(made: dict[str, list[ContrastPair]]) -> None:
    distance = {frozenset((near.one, near.other)): near.distance for near in nearest_pairs(NAMES)}
    for side in SIDES:
        near = _near_facts(WORLD, side, "en-us")
        chosen = {(one.name, other.name, one.category) for one, other in near}
        left_out = [
            distance[frozenset((one, other))]
            for one in NAMES
            for other in NAMES
            for category in FACT_CATEGORIES
            if one < other
            and not {(one, other, category), (other, one, category)} & chosen
            and WORLD.facts[one, category].side == WORLD.facts[other, category].side == side
            and WORLD.facts[one, category].value != WORLD.facts[other, category].value
        ]
        assert len(near) == CLOSEST
        assert all(one.side == other.side == side and one.category == other.category and one.value != other.value for one, other in near)
        assert max(distance[frozenset((one.name, other.name))] for one, other in near) <= min(left_out)
    assert table(made["neighbours"])["phonemes_apart"].mean() < table(made["names"])["phonemes_apart"].mean()


def test_voices_say_the_same_words_and_the_continuations_keep_the_clean_voice(made: dict[str, list[ContrastPair]]) -> None:
    for pair in made["voices"]:
        clean, corrupted = pair.plan.clean.prompt, pair.plan.corrupted.prompt
        assert replace(clean, voice=corrupted.voice) == corrupted
        assert clean.voice != corrupted.voice
        assert pair.contrast.clean.tokens.tolist() != pair.contrast.corrupted.tokens.tolist()
        assert {pair.plan.answer.prompt.voice, pair.plan.distractor.prompt.voice} == {clean.voice}
        assert pair.plan.distractor.prompt.text == f"{pair.text_clean} {pair.distractor}"


def test_what_is_foreseen_follows_one_word_in_two_sentences_that_leave_no_other_choice(made: dict[str, list[ContrastPair]]) -> None:
    for pair in made["foreseen"]:
        clean, corrupted = pair.text_clean.split(), pair.text_corrupted.split()
        assert clean[-1] == corrupted[-1] == pair.word_clean.text == pair.word_corrupted.text
        assert following(clean) == {pair.answer} != {pair.distractor} == following(corrupted)
        assert clean[-1] not in (*clean[:-1], *corrupted[:-1])


def test_couples_share_no_phrasing_and_meet_after_one_gap_with_different_words_to_come() -> None:
    found = couples()
    phrasings = [one.phrasing for couple in found for one in couple]
    assert len(set(phrasings)) == len(phrasings) and len(found) >= 25
    for one, other in found:
        assert one.after == other.after and one.word != other.word
        assert {one.word, other.word} <= set(WORLD.lexicon)


def test_following_is_every_word_that_a_phrasing_lets_follow() -> None:
    assert following("the weather".split()) == {"in"}
    assert following("anna has a".split()) > {"house", "cat"}
    assert following("anna lives in boston".split()) == frozenset()


def test_a_sentence_of_a_phrasing_is_one_that_the_grammar_has_and_facts_are_told_as_they_are() -> None:
    rng = np.random.default_rng(0)
    for phrasing in grammar.PHRASINGS:
        sentence = WORLD.sentence(phrasing, rng)
        for gap, word in zip(phrasing.split(), sentence.words, strict=True):
            assert word in (CATEGORIES[sentence.fact.category] if gap == "{value}" and sentence.fact else fillers(gap))
        if sentence.fact is not None:
            assert WORLD.facts[sentence.fact.name, sentence.fact.category] == sentence.fact and sentence.fact.side == "heard"
    with pytest.raises(SpeechError, match="The grammar has no phrasing 'the {cat} sat'"):
        WORLD.sentence("the {cat} sat", rng)


def test_the_value_of_a_fact_is_the_last_word_of_its_phrasing() -> None:
    assert all(phrasing.split()[-1] == "{value}" for some in grammar.FACTS.values() for phrasing in some)


# -- tables ------------------------------------------------------------------------------------------


def test_the_table_says_what_the_pairs_hold(made: dict[str, list[ContrastPair]]) -> None:
    for kind, pairs in made.items():
        rows = table(pairs)
        assert len(rows) == COUNT
        assert rows.attrs == {"quantiser": pairs[0].contrast.clean.quantiser}
        assert (rows["same_length"] == (rows["units_clean"] == rows["units_corrupted"])).all()
        assert rows["units_answer"].tolist() == [len(pair.contrast.answer) for pair in pairs]
        assert rows["name"].is_unique
        if kind in ("facts", "voices", "homophones", "foreseen"):
            assert (rows["phonemes_apart"] == 0).all()
        else:
            assert (rows["phonemes_apart"] > 0).all()


# -- refusals ----------------------------------------------------------------------------------------


def test_what_cannot_be_made_is_refused_in_a_sentence(slm: SpeechTextModel, as_users_run_it: None) -> None:
    with pytest.raises(
        SpeechError, match="No contrasts of kind 'rhymes'; there are: names, facts, homophones, neighbours, voices, foreseen."
    ):
        contrasts(slm, WORLD, "rhymes", 3)
    with pytest.raises(SpeechError, match=r"need a count of 1 or more, voices, and sides among heard, read, withheld; got count 0"):
        contrasts(slm, WORLD, "names", 0)
    with pytest.raises(SpeechError, match=r"got count 1, 10 voices, sides \['seen'\]"):
        contrasts(slm, WORLD, "names", 1, sides=("seen",))
    with pytest.raises(SpeechError, match="Pairs that differ in voice need two voices or more; got \\['en-us'\\]"):
        contrasts(slm, WORLD, "voices", 1, voices=("en-us",))
    with pytest.raises(SpeechError, match="this checkpoint carries no quantiser to do so"):
        contrasts(replace(slm, quantiser=None), WORLD, "names", 1)
    with pytest.raises(SpeechError, match="needs at least one pair"):
        table([])


def test_more_pairs_than_there_are_is_refused(slm: SpeechTextModel, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = contrasts(slm, WORLD, "names", 1)[0].plan
    monkeypatch.setitem(KINDS, "names", lambda world, voices, side, rng: (plan,))
    with pytest.raises(SpeechError, match="Found 1 different pairs of kind 'names' in 80 draws; wanted 2. Ask for fewer."):
        contrasts(slm, WORLD, "names", 2)


# -- roles -------------------------------------------------------------------------------------------


def test_roles_cover_each_prompt_once_and_the_word_is_the_word(every: list[ContrastPair]) -> None:
    for pair in every:
        found = roles(pair)
        names = [one.name for one in found]
        assert names == [role for role in ROLES if role in names] and "word" in names
        for side, word in (("clean", pair.word_clean), ("corrupted", pair.word_corrupted)):
            covered = [position for one in found for position in one.of(side)]
            missing = set(range(len(getattr(pair.contrast, side)))) - set(covered)
            assert len(set(covered)) == len(covered) and (not missing or len(found) < len(ROLES))
            assert found[names.index("word")].of(side) == word.span
            if "end" in names:
                assert list(found[-1].of(side)) == [len(getattr(pair.contrast, side)) - 1]


def test_roles_are_found_by_the_contrast_and_no_other_is_guessed(every: list[ContrastPair]) -> None:
    find = by_role(every[:2])
    assert find(every[1].contrast) == roles(every[1])
    with pytest.raises(SpeechError, match="of none of the pairs"):
        find(every[2].contrast)


# -- spliced -----------------------------------------------------------------------------------------


def test_spliced_pairs_differ_in_the_word_and_in_nothing_else(made: dict[str, list[ContrastPair]]) -> None:
    found = spliced(made["names"])
    assert found
    originals = {f"{pair.name}-spliced": pair for pair in made["names"]}
    for pair in found:
        clean, corrupted, original = pair.contrast.clean, pair.contrast.corrupted, originals[pair.name]
        own, other = pair.word_clean.span, pair.word_corrupted.span
        assert torch.equal(clean.tokens[: own.start], corrupted.tokens[: other.start])
        assert torch.equal(clean.tokens[own.stop :], corrupted.tokens[other.stop :])
        before = original.contrast.corrupted
        assert torch.equal(corrupted.tokens[list(other)], before.tokens[list(original.word_corrupted.span)])
        assert [word.text for word in corrupted.words] == [
            pair.word_corrupted.text if word.span == own else word.text for word in clean.words
        ]
        assert corrupted.words[-1].span.stop == len(corrupted) or clean.words[-1].span.stop < len(clean)
        assert torch.allclose(corrupted.edges.diff()[other.stop :], clean.edges.diff()[own.stop :], atol=1e-5)
        assert corrupted.audio is not None and abs(corrupted.audio.seconds - corrupted.seconds) < 0.05


def test_a_unit_that_would_follow_itself_is_no_pair(made: dict[str, list[ContrastPair]]) -> None:
    pair = next(one for one in made["names"] if spliced([one]) and one.word_clean.span.stop < len(one.contrast.clean))
    clean = pair.contrast.clean
    tokens = clean.tokens.clone()
    tokens[pair.word_clean.span.stop] = pair.contrast.corrupted.tokens[pair.word_corrupted.span.stop - 1]
    contrast = replace(pair.contrast, clean=replace(clean, tokens=tokens))
    assert spliced([replace(pair, contrast=contrast)]) == []
