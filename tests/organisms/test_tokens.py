from __future__ import annotations

from collections import Counter

import pytest

from slm_interp.organisms.grid import TINY
from slm_interp.organisms.lexicon import NAMES
from slm_interp.organisms.tokens import VARIANTS, Speller, joint_vocabulary, text_tokenizer
from slm_interp.organisms.training import TOKENIZER_DOCUMENTS

WORLD = TINY.world


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [sentence.text for document in WORLD.documents(TOKENIZER_DOCUMENTS, WORLD.seed) for sentence in document]


@pytest.fixture(scope="module")
def speller(texts: list[str]) -> Speller:
    return Speller(text_tokenizer(texts, TINY.text_tokens), WORLD.lexicon)


def test_frequent_words_are_one_piece_and_others_two_three_or_more(speller: Speller, texts: list[str]) -> None:
    pieces = Counter(len(ids) for ids in speller.whole.values())
    assert all(pieces[count] >= 100 for count in (1, 2, 3))
    counts = Counter(word for text in texts for word in text.split())
    often = {n: sum(counts[word] for word, ids in speller.whole.items() if len(ids) == n) / pieces[n] for n in (1, 2, 3)}
    assert often[1] > often[2] > often[3]


def test_every_spelling_of_a_word_spells_it_with_its_space(speller: Speller) -> None:
    for word in WORLD.lexicon:
        spellings = (speller.whole[word], speller.letters[word], *speller.variants[word])
        assert {speller.tokenizer.decode(ids) for ids in spellings} == {f" {word}"}
        assert len(speller.letters[word]) == len(word) + 1
        assert len(speller.variants[word]) == VARIANTS
        assert all(1 <= len(ids) <= len(word) + 1 for ids in speller.variants[word])


def test_variants_vary(speller: Speller) -> None:
    assert sum(len(set(some)) > 1 for some in speller.variants.values()) > 0.95 * len(WORLD.lexicon)
    assert any(speller.whole[word] in speller.variants[word] for word in NAMES)


def test_spellings_depend_on_the_texts_and_the_seed_alone(speller: Speller, texts: list[str]) -> None:
    again = text_tokenizer(iter(texts), TINY.text_tokens)
    assert again.get_vocab() == speller.tokenizer.get_vocab()
    assert Speller(again, WORLD.lexicon).variants == speller.variants
    assert Speller(again, WORLD.lexicon, seed=1).variants != speller.variants


def test_the_tokenizer_has_its_size_writes_any_text_and_adds_nothing(speller: Speller) -> None:
    text = " anna lives in Zürich, 42!"
    assert len(speller.tokenizer) == TINY.text_tokens
    assert speller.tokenizer.decode(speller.tokenizer.encode(text)) == text
    assert tuple(speller.tokenizer.encode(" anna")) == speller.whole["anna"]
    assert speller.tokenizer.decode([speller.line_break]) == "\n"
    assert speller.tokenizer.decode([speller.period]) == "."


def test_units_and_markers_follow_the_text_tokenizer(speller: Speller) -> None:
    size = len(speller.tokenizer)
    vocabulary = joint_vocabulary(size, 256, "0123456789abcdef")
    assert (vocabulary.size, vocabulary.spelled(size), vocabulary.spelled(size + 255)) == (size + 258, "<Un0>", "<Un255>")
    assert (vocabulary.marker("<speech>"), vocabulary.marker("<text>")) == (size + 256, size + 257)
    vocabulary.check_tokenizer(speller.tokenizer)
