from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from slm_interp.organisms import grammar
from slm_interp.organisms.lexicon import CAPITALS, CATEGORIES, FACT_CATEGORIES, FACT_VALUES, HOMOPHONES, NAMES
from slm_interp.organisms.recipe import Speaking
from slm_interp.organisms.world import Sentence, World
from slm_interp.speech.synthesis import pronounce, synthesise

WORLD = World(seed=0)
N_DOCUMENTS = 4000
Documents = list[tuple[Sentence, ...]]


@pytest.fixture(scope="module")
def aloud() -> Documents:
    return WORLD.documents(N_DOCUMENTS, seed=0)


@pytest.fixture(scope="module")
def read() -> Documents:
    return [WORLD.document(np.random.default_rng([7, number]), aloud=False) for number in range(N_DOCUMENTS)]


def words_of(document: tuple[Sentence, ...]) -> set[str]:
    return {word for sentence in document for word in sentence.words}


# -- the same every time -----------------------------------------------------------------------------


def test_a_seed_makes_one_world() -> None:
    assert World(seed=3).facts == World(seed=3).facts != World(seed=4).facts
    assert World(seed=3).documents(20, seed=1) == World(seed=3).documents(20, seed=1) != World(seed=3).documents(20, seed=2)
    assert World(seed=3).held_out_sentences(20, seed=1) == World(seed=3).held_out_sentences(20, seed=1)


def test_fewer_documents_are_the_first_of_more_whatever_else_was_drawn(aloud: Documents) -> None:
    np.random.default_rng(0).random(100)
    assert WORLD.documents(5, seed=0) == aloud[:5]


# -- words -------------------------------------------------------------------------------------------


def test_the_lexicon_is_every_word_and_all_of_it_is_said(aloud: Documents) -> None:
    said = {word for document in aloud for word in words_of(document)}
    assert said == set(WORLD.lexicon)
    assert 900 <= len(WORLD.lexicon) <= 1050
    assert list(WORLD.lexicon) == sorted(set(WORLD.lexicon))


def test_espeak_reports_every_word_of_the_lexicon() -> None:
    assert tuple(word.text for word in synthesise(" ".join(WORLD.lexicon), rate=450).words) == WORLD.lexicon


def test_no_word_is_in_two_categories_so_that_a_gap_says_what_stands_in_it() -> None:
    counts = Counter(word for words in CATEGORIES.values() for word in words)
    assert set(counts.values()) == {1}
    assert not set(counts) & {*NAMES, *CAPITALS, *CAPITALS.values()}


def test_homophones_are_words_of_different_categories() -> None:
    assert len(set(HOMOPHONES)) >= 60
    category = {word: name for name, words in CATEGORIES.items() for word in words}
    for one, other in HOMOPHONES:
        assert one != other
        assert {one, other} <= set(WORLD.lexicon)
        assert category.get(one, "none") != category.get(other, "none") or {one, other}.isdisjoint(category)


@pytest.mark.parametrize("voice", [*Speaking().voices, *Speaking().held_out])
def test_homophones_sound_alike_in_every_voice(voice: str) -> None:
    sounds = pronounce(".\n".join(word for pair in HOMOPHONES for word in pair), voice).split()
    assert len(sounds) == 2 * len(HOMOPHONES)
    assert [pair for pair, one, other in zip(HOMOPHONES, sounds[::2], sounds[1::2], strict=True) if one != other] == []


def test_voices_are_kept_from_training() -> None:
    assert Speaking().held_out
    assert not set(Speaking().voices) & set(Speaking().held_out)


# -- facts -------------------------------------------------------------------------------------------


def test_every_name_has_one_fact_of_each_category_and_values_are_spread() -> None:
    assert set(WORLD.facts) == {(name, category) for name in NAMES for category in FACT_CATEGORIES}
    for category in FACT_CATEGORIES:
        counts = Counter(fact.value for fact in WORLD.facts.values() if fact.category == category)
        assert set(counts) == set(CATEGORIES[category][:FACT_VALUES])
        assert max(counts.values()) - min(counts.values()) <= 1


def test_sides_have_their_shares_in_each_category() -> None:
    for category in FACT_CATEGORIES:
        counts = Counter(fact.side for fact in WORLD.facts.values() if fact.category == category)
        assert [counts[side] for side in ("heard", "read", "withheld")] == pytest.approx(
            [share * len(NAMES) for share in WORLD.sides], abs=1
        )


def test_facts_are_told_as_they_are_and_to_whom_they_may_be(aloud: Documents, read: Documents) -> None:
    for documents, sides in ((aloud, {"heard"}), (read, {"heard", "read"})):
        told = [sentence for document in documents for sentence in document if sentence.fact]
        for sentence in told:
            fact = sentence.fact
            assert fact is not None and fact == WORLD.facts[fact.name, fact.category]
            assert sentence.text in {WORLD.tell(fact, number) for number in range(len(grammar.FACTS[fact.category]))}
        assert {sentence.fact.side for sentence in told if sentence.fact} == sides
        assert {sentence.fact for sentence in told if sentence.fact} == {fact for fact in WORLD.facts.values() if fact.side in sides}


def test_a_fact_can_be_told_with_another_value() -> None:
    fact = WORLD.facts["anna", "city"]
    assert WORLD.tell(fact, 0) == f"anna lives in {fact.value}"
    assert WORLD.tell(fact, 0, "oslo") == "anna lives in oslo"


def test_no_sentence_has_a_name_and_a_value_but_the_one_that_tells_them(aloud: Documents, read: Documents) -> None:
    """Neither as a fact nor by chance: a name stands beside a fact's value only where that fact may be told and is."""
    values = {value for category in FACT_CATEGORIES for value in CATEGORIES[category][:FACT_VALUES]}
    for document in (*aloud, *read):
        for sentence in document:
            names, there = set(NAMES) & set(sentence.words), values & set(sentence.words)
            if names and there:
                assert sentence.fact is not None
                assert (names, there) == ({sentence.fact.name}, {sentence.fact.value})


def test_a_document_has_an_untold_name_and_value_only_where_the_value_is_told_of_another_name(aloud: Documents, read: Documents) -> None:
    """Sixteen values are shared by 64 names, so two people of a document may have the same; each document is checked whole."""
    for documents, untold in ((aloud, ("read", "withheld")), (read, ("withheld",))):
        met = 0
        for document in documents:
            words, told = words_of(document), [sentence.fact for sentence in document if sentence.fact]
            for name in set(NAMES) & words:
                for category in FACT_CATEGORIES:
                    fact = WORLD.facts[name, category]
                    if fact.side in untold and fact.value in words:
                        assert any(one.value == fact.value and one.name != name for one in told)
                        met += 1
        assert met < 0.02 * len(documents)


def test_names_and_values_of_untold_facts_are_said_aloud_elsewhere(aloud: Documents) -> None:
    said = {word for document in aloud for word in words_of(document)}
    untold = [fact for fact in WORLD.facts.values() if fact.side != "heard"]
    assert untold
    assert all(fact.name in said and fact.value in said for fact in untold)


# -- sentences and documents -------------------------------------------------------------------------


def test_sentences_are_phrasings_with_their_gaps_filled(aloud: Documents) -> None:
    fillers = {f"{{{category}}}": set(words) for category, words in CATEGORIES.items()}
    fillers |= {"{name}": set(NAMES), "{country}": set(CAPITALS), "{capital}": set(CAPITALS.values())}
    by_length: dict[int, list[list[set[str]]]] = {}
    for phrasing in (*grammar.PEOPLE, *grammar.PLAIN, *grammar.CAPITAL_FACTS):
        by_length.setdefault(len(phrasing.split()), []).append([fillers.get(gap, {gap}) for gap in phrasing.split()])
    for sentence in (one for document in aloud[:500] for one in document if not one.fact):
        options = by_length[len(sentence.words)]
        assert any(all(word in words for word, words in zip(sentence.words, gaps, strict=True)) for gaps in options), sentence.text
        assert sentence.text == " ".join(sentence.words)


def test_countries_have_their_own_capitals(aloud: Documents) -> None:
    said = [set(sentence.words) for document in aloud for sentence in document if set(CAPITALS) & set(sentence.words)]
    assert said
    assert all({CAPITALS[word] for word in words & set(CAPITALS)} == words & set(CAPITALS.values()) for words in said)


def test_half_of_the_documents_are_about_people_and_most_of_what_these_say_is_facts(aloud: Documents) -> None:
    people = [document for document in aloud if set(NAMES) & words_of(document)]
    assert len(people) / len(aloud) == pytest.approx(WORLD.about_people, abs=0.03)
    sentences = [sentence for document in people for sentence in document]
    assert sum(sentence.fact is not None for sentence in sentences) / len(sentences) == pytest.approx(WORLD.fact_share, abs=0.03)
    assert {len(document) for document in aloud} == set(range(WORLD.length[0], WORLD.length[1] + 1))
    assert {len(set(NAMES) & words_of(document)) for document in people} == {1, 2}


def test_documents_stay_with_their_subject(aloud: Documents) -> None:
    """A later sentence takes up a word of an earlier one more often when gaps are topical."""

    def repeated(documents: Documents) -> float:
        things = set(CATEGORIES["thing"])
        pairs = [(set(one.words) & things, set(two.words) & things) for document in documents for one, two in pairwise(document)]
        both = [bool(before & after) for before, after in pairs if before and after]
        return float(np.mean(both))

    assert repeated(aloud) > 0.5
    assert repeated(replace(WORLD, topical=0.0).documents(1000, seed=0)) < 0.05


def test_first_words_of_a_category_are_frequent_and_last_ones_rare(aloud: Documents) -> None:
    counts = Counter(word for document in aloud for sentence in document for word in sentence.words)
    things = CATEGORIES["thing"]
    third = len(things) // 3
    assert sum(counts[word] for word in things[:third]) > 1.5 * sum(counts[word] for word in things[-third:])


# -- what is kept from training ----------------------------------------------------------------------


def test_held_out_texts_are_in_no_document(aloud: Documents, read: Documents) -> None:
    held_out = WORLD.held_out_sentences(400, seed=0)
    texts = {sentence.text for sentence in held_out}
    assert len(texts) == 400
    assert all(WORLD.is_held_out(text) for text in texts)
    assert not texts & {sentence.text for document in (*aloud, *read) for sentence in document}
    assert {sentence.fact.side for sentence in held_out if sentence.fact} == {"heard"}


def test_a_share_of_all_texts_is_held_out() -> None:
    rng = np.random.default_rng(1)
    free = replace(WORLD, held_out=0.0)
    texts = {sentence.text for _ in range(2000) for sentence in free.document(rng, aloud=False)}
    assert np.mean([WORLD.is_held_out(text) for text in texts]) == pytest.approx(WORLD.held_out, abs=0.01)
