from __future__ import annotations

import pytest

from slm_interp.errors import SpeechError
from slm_interp.organisms.lexicon import HOMOPHONES, NAMES
from slm_interp.organisms.phonetic import bare_phonemes, edit_distance, nearest_pairs, sounds_in_sentences


@pytest.mark.parametrize(("one", "other", "edits"), [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "abc", 0), ("flaw", "lawn", 2)])
def test_edit_distance_is_levenshteins(one: str, other: str, edits: int) -> None:
    assert edit_distance(one, other) == edit_distance(other, one) == edits


def test_stress_makes_no_distance_and_homophones_have_none() -> None:
    assert bare_phonemes("anna") == ("æ", "n", "ə")
    assert all(edit_distance(bare_phonemes(one), bare_phonemes(other)) == 0 for one, other in HOMOPHONES)
    stressed, not_stressed = sounds_in_sentences([("the end of the wood", 4), ("i would go", 1)], "en-us")
    assert stressed.replace("ˈ", "") == not_stressed != stressed


def test_a_word_is_found_in_its_sentence_beside_words_that_are_run_together() -> None:
    """eSpeak says "of the" and "in the" as one word, and reads a full stop between lower-case words aloud."""
    sentences = [("the wolf of the wood", 1), ("in the wood of the wolf", 5), ("wolf", 0)]
    assert len(set(sounds_in_sentences(sentences, "en-gb"))) == 1


def test_a_text_of_other_words_than_are_said_is_refused() -> None:
    with pytest.raises(SpeechError, match="eSpeak says 10 words for the 2 of"):
        sounds_in_sentences([("wolf 12345678", 0)], "en-us")


def test_pairs_are_all_there_and_the_nearest_come_first() -> None:
    pairs = nearest_pairs(NAMES)
    assert len(pairs) == len(NAMES) * (len(NAMES) - 1) // 2
    assert [pair.distance for pair in pairs] == sorted(pair.distance for pair in pairs)
    assert {pairs[0].one, pairs[0].other} in ({"anna", "hannah"}, {"tina", "nina"})
    assert all(pair.distance == edit_distance(bare_phonemes(pair.one), bare_phonemes(pair.other)) for pair in pairs[::100])
