"""Which word is asked about: the one heard, the next, or any that the user gives."""

from __future__ import annotations

import re

import numpy as np
import pytest

from slm_interp.errors import ReadoutError
from slm_interp.transcription import observe, recall, with_predictability
from tests.transcription import planted
from tests.transcription.planted import SILENCE, WORDS


def test_given_words_are_asked_where_they_were_given_for(tiny_slm, corpus):
    """The current and the next word, given by hand, are what those targets ask."""
    texts = [[word.text for word in one.words] for one in corpus]
    current, following = (observe(tiny_slm, corpus, target=target).dataset for target in ("current", "next"))
    by_hand = observe(tiny_slm, corpus, target="given", words=texts).dataset
    np.testing.assert_array_equal(by_hand["rank"], current["rank"])
    np.testing.assert_array_equal(by_hand["null_rank"], current["null_rank"])
    one_later = observe(tiny_slm, corpus, target="given", words=[[*some[1:], None] for some in texts])
    np.testing.assert_array_equal(one_later.dataset["rank"], following["rank"])
    assert one_later.left_out == {"no word given": 6}
    assert (one_later.dataset["asked_index"] == -1).all()
    assert one_later.dataset["heard"].values.tolist() == following["heard"].values.tolist()


def test_a_mapping_asks_for_another_word_wherever_one_is_heard(planted_slm):
    """What is shown while `see` sounds is `sea`."""
    shown = {word: WORDS.index({"see": "sea", "sea": "see"}.get(word, word)) for word in WORDS}
    heard = [planted.utterance(planted_slm, some, [[SILENCE, shown[word]] for word in some]) for some in planted.sentences(20, 6)]
    swapped = observe(planted_slm, heard, target="given", words={"see": "sea", "sea": "see"}, nulls=["frequency"])
    assert set(swapped.dataset["heard"].values.tolist()) == {"see", "sea"}
    assert (recall(swapped, k=(1,))["recall"] == 1).all()
    honest = observe(planted_slm, heard, target="given", words={"see": "see", "sea": "sea"}, nulls=["frequency"])
    assert (recall(honest, k=(1,))["recall"] == 0).all()


def test_nulls_of_a_given_word_are_neither_it_nor_the_word_heard_nor_its_neighbours(tiny_slm, corpus):
    data = observe(tiny_slm, corpus, target="given", words={word: "rome" for word in WORDS if word != "rome"}, nulls=["frequency"]).dataset
    for row in range(data.sizes["word"]):
        word = data.isel(word=row)
        near = [one.text for one in corpus[int(word["utterance"])].words][max(0, int(word["word_index"]) - 1) : int(word["word_index"]) + 2]
        assert {"rome", *near}.isdisjoint(word["null_word"].values.ravel().tolist())


def test_asking_for_the_next_word_at_a_word_that_is_heard_finds_nothing(planted_slm):
    """The off-by-one target: what sounds is the current word, and it is found under no other name."""
    heard = planted.heard(planted_slm)
    for target, share in (("current", 1), ("next", 0)):
        table = recall(observe(planted_slm, heard, target=target), k=(1,))
        assert (table["recall"] == share).all()
    guessed = planted.guessed(planted_slm)
    for target, share in (("current", 0), ("next", 1)):
        table = recall(observe(planted_slm, guessed, target=target), k=(1,))
        assert (table["recall"] == share).all()


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"target": "given"}, "Words to ask for and target='given' belong together; got target='given', words=None."),
        ({"words": {"see": "sea"}}, "belong together; got target='current', words={'see': 'sea'}."),
        ({"target": "given", "words": [["rome"]]}, "6 utterances need 6 lists of words to ask for; got 1."),
        ({"target": "given", "words": [["rome"]] * 6}, "Utterance 0 (clip 0) has 6 words and needs a list of as many to ask for"),
        ({"target": "given", "words": ["france"] * 6}, "Utterance 0 (clip 0) has 6 words and needs a list"),
    ],
)
def test_words_that_do_not_fit_are_refused_in_a_sentence(tiny_slm, corpus, options, sentence):
    with pytest.raises(ReadoutError, match=re.escape(sentence)):
        observe(tiny_slm, corpus, **options)


def test_given_words_have_no_predictability(tiny_slm, corpus):
    found = observe(tiny_slm, corpus, target="given", words={word: "rome" for word in WORDS if word != "rome"}, nulls=["frequency"])
    with pytest.raises(ReadoutError, match="Words that were given have no place in the sentence"):
        with_predictability(found, tiny_slm, corpus)
