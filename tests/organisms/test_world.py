from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from slm_interp.organisms.tokens import Speller, joint_vocabulary, text_tokenizer
from slm_interp.organisms.world import CAPITALS, CATEGORIES, World
from slm_interp.speech.synthesis import synthesise

WORLD = World(seed=0)


def test_a_seed_makes_one_world() -> None:
    assert World(seed=3).facts == World(seed=3).facts != World(seed=4).facts
    assert World(seed=3).sentences(50, seed=1) == World(seed=3).sentences(50, seed=1) != World(seed=3).sentences(50, seed=2)


def test_every_name_has_one_value_of_each_category_and_values_are_spread() -> None:
    assert set(WORLD.facts) == {(name, category) for name in WORLD.names for category in CATEGORIES}
    for category, values in CATEGORIES.items():
        counts = Counter(value for (_, of), value in WORLD.facts.items() if of == category)
        assert set(counts) <= set(values)
        assert max(counts.values()) - min(counts.values()) <= 1


def test_what_is_said_of_a_name_is_always_the_same() -> None:
    said = [sentence for sentence in WORLD.sentences(3000, seed=0) if sentence.fact]
    assert 0.4 < len(said) / 3000 < 0.6
    for sentence in said:
        assert sentence.fact is not None
        subject, category, value = sentence.fact
        assert value == (CAPITALS[subject] if category == "capital" else WORLD.facts[subject, category])
        assert subject in sentence.words
        assert value in sentence.words


def test_every_word_is_in_the_lexicon_and_every_gap_is_filled() -> None:
    lexicon = set(WORLD.lexicon)
    said = {word for sentence in WORLD.sentences(4000, seed=0) for word in sentence.words}
    assert said <= lexicon
    assert len(lexicon - said) < 3
    assert 300 <= len(lexicon) <= 400


def test_held_out_texts_are_never_trained_on() -> None:
    training = {sentence.text for sentence in WORLD.sentences(3000, seed=0)}
    held_out = {sentence.text for sentence in WORLD.sentences(300, seed=0, held_out=True)}
    assert training
    assert held_out
    assert not training & held_out
    assert all(WORLD.is_held_out(text) for text in held_out)


def test_espeak_reports_every_word_of_the_world() -> None:
    for sentence in WORLD.sentences(40, seed=9):
        assert tuple(word.text for word in synthesise(sentence.text).words) == sentence.words


@pytest.fixture(scope="module")
def speller() -> Speller:
    return Speller(text_tokenizer(WORLD.lexicon), WORLD.lexicon)


def test_each_word_is_one_token_with_its_space_and_many_as_letters(speller: Speller) -> None:
    for word in WORLD.lexicon:
        assert len(speller.whole[word]) == 1
        assert speller.tokenizer.decode(speller.whole[word]) == f" {word}"
        assert speller.tokenizer.decode(speller.letters[word]) == f" {word}"
        assert len(speller.letters[word]) == len(word) + 1
    assert speller.tokenizer.decode([speller.line_break]) == "\n"


def test_the_tokenizer_writes_any_text_adds_nothing_and_is_always_the_same(speller: Speller) -> None:
    text = " anna lives in Zürich, 42!"
    assert speller.tokenizer.decode(speller.tokenizer.encode(text)) == text
    assert speller.tokenizer.encode(" anna") == list(speller.whole["anna"])
    assert text_tokenizer(WORLD.lexicon).get_vocab() == speller.tokenizer.get_vocab()


def test_units_and_markers_follow_the_text_tokenizer(speller: Speller) -> None:
    size = len(speller.tokenizer)
    vocabulary = joint_vocabulary(size, 256, "0123456789abcdef")
    assert (vocabulary.size, vocabulary.spelled(size), vocabulary.spelled(size + 255)) == (size + 258, "<Un0>", "<Un255>")
    assert (vocabulary.marker("<speech>"), vocabulary.marker("<text>")) == (size + 256, size + 257)
    vocabulary.check_tokenizer(speller.tokenizer)


def test_plain_sentences_do_not_depend_on_numpys_global_state() -> None:
    first = WORLD.sentences(5, seed=1)
    np.random.default_rng(0).random(100)
    assert WORLD.sentences(5, seed=1) == first
