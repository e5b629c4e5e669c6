from __future__ import annotations

import pytest

from slm_interp.errors import SpeechError
from slm_interp.speech.phones import ARPABET, ESPEAK_TO_ARPABET, arpabet
from slm_interp.speech.synthesis import phones

# American pronunciations of the CMU dictionary, without stress; between them every vowel and consonant of it.
KNOWN = {
    "father": "F AA DH ER",
    "cat": "K AE T",
    "cut": "K AH T",
    "law": "L AO",
    "cow": "K AW",
    "hide": "HH AY D",
    "red": "R EH D",
    "bird": "B ER D",
    "ate": "EY T",
    "sit": "S IH T",
    "eat": "IY T",
    "boat": "B OW T",
    "toy": "T OY",
    "hood": "HH UH D",
    "two": "T UW",
    "cheese": "CH IY Z",
    "judge": "JH AH JH",
    "thing": "TH IH NG",
    "measure": "M EH ZH ER",
    "ship": "SH IH P",
    "view": "V Y UW",
    "wag": "W AE G",
    "north": "N AO R TH",
    "start": "S T AA R T",
    "square": "S K W EH R",
    "near": "N IH R",
    "hurry": "HH ER IY",
    "fire": "F AY ER",
    "button": "B AH T AH N",
    "little": "L IH T AH L",
    "leaf": "L IY F",
}


@pytest.mark.parametrize("word", KNOWN)
def test_espeak_and_the_table_say_a_word_as_the_cmu_dictionary_does(word):
    assert " ".join(arpabet(phones(word), word)) == KNOWN[word]


def test_the_known_words_use_every_phone_of_the_model():
    assert {phone for said in KNOWN.values() for phone in said.split()} == ARPABET
    assert len(ARPABET) == 39


def test_the_table_names_the_phones_of_the_acoustic_model():
    from pocketsphinx import Decoder

    decoder = Decoder(loglevel="FATAL", lm=None)
    for phone in ARPABET:
        decoder.add_word(f"only-{phone.lower()}", phone, True)
        assert decoder.lookup_word(f"only-{phone.lower()}") == phone


def test_unknown_words_of_the_real_clips_are_pronounced_plausibly():
    said = {word: " ".join(arpabet(phones(word), word)) for word in ("fringed", "alders", "eardrops", "lyndes")}
    assert said == {"fringed": "F R IH N JH D", "alders": "AO L D ER Z", "eardrops": "IH R D R AA P S", "lyndes": "L IH N D Z"}


def test_a_sound_outside_the_table_and_no_sound_at_all_are_refused():
    with pytest.raises(SpeechError, match=r"says 'llan' with the sound 'K~', which the acoustic model has not.*pronunciations="):
        arpabet(("K~", "a"), "llan")
    with pytest.raises(SpeechError, match="makes no sound for 'hm'"):
        arpabet((";", "_:"), "hm")


def test_an_r_after_an_r_coloured_vowel_is_said_once():
    assert arpabet(("3:", "r", "i"), "x") == ("ER", "IY")
    assert arpabet(("A@", "r", "i"), "x") == ("AA", "R", "IY")
    assert all(phone == phone.upper() for said in ESPEAK_TO_ARPABET.values() for phone in said)
