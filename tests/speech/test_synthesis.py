from __future__ import annotations

import ctypes
import hashlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slm_interp.errors import SpeechError
from slm_interp.speech import espeak
from slm_interp.speech.synthesis import phones, pronounce, synthesise, voices

HASH = (
    "import hashlib; from slm_interp.speech.synthesis import synthesise as s; "
    "{before}print(hashlib.sha256(s({arguments}).audio.wav_bytes()).hexdigest())"
)


def spoken_in_a_new_process(arguments: str, before: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", HASH.format(arguments=arguments, before=before)], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_words_come_in_order_and_fill_the_sound() -> None:
    said = synthesise("the capital of france is paris")
    assert [word.text for word in said.words] == ["the", "capital", "of", "france", "is", "paris"]
    assert said.audio.sample_rate == 22050
    assert said.words[0].start_s == 0
    for before, after in zip(said.words, said.words[1:], strict=False):
        assert before.start_s < before.end_s <= after.start_s
    assert said.audio.seconds - 0.05 < said.words[-1].end_s <= said.audio.seconds


def test_a_word_starts_at_the_sample_of_its_event_and_not_at_its_letters_share() -> None:
    """The same word later in the text starts later by what was put before it."""
    alone, after = synthesise("banana"), synthesise("yes, banana")
    assert after.words[1].start_s > after.words[0].end_s
    samples, start = after.audio.samples, round(after.words[1].start_s * 22050)
    assert np.abs(samples[start - 1500 : start]).max() < 0.02  # the pause after the comma
    assert np.abs(samples[start : start + 6000]).max() > 0.2
    assert abs((after.words[1].end_s - after.words[1].start_s) - (alone.words[0].end_s - alone.words[0].start_s)) < 0.03


def test_a_pause_belongs_to_no_word() -> None:
    first, second = synthesise("dogs, ran").words
    assert second.start_s - first.end_s > 0.1


def test_words_that_espeak_reports_as_one_are_told_apart() -> None:
    assert [word.text for word in synthesise("one of the dogs in the house").words] == "one of the dogs in the house".split()


def test_a_number_is_one_word_however_long_it_takes_to_say() -> None:
    words = synthesise("it cost 1234567 dollars").words
    assert [word.text for word in words] == ["it", "cost", "1234567", "dollars"]
    assert words[2].end_s - words[2].start_s > 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Café, naïve!", ["Café", "naïve"]),
        ("don't state-of-the-art", ["don't", "state-of-the-art"]),
        ("hello.  World is here. a b c", ["hello", "World", "is", "here", "a", "b", "c"]),
        ("one... two !!! (three)", ["one", "two", "three"]),
        ("the man - and the dog", ["the", "man", "and", "the", "dog"]),
    ],
)
def test_words_are_those_of_the_text_without_their_punctuation(text: str, words: list[str]) -> None:
    assert [word.text for word in synthesise(text).words] == words


def test_a_spoken_sign_is_refused() -> None:
    with pytest.raises(SpeechError, match=r"eSpeak speaks '&' in 'he & she', which is no word. Write signs as words."):
        synthesise("he & she")


@pytest.mark.parametrize("text", ["", "  ", "...", "-- !"])
def test_a_text_without_words_is_refused(text: str) -> None:
    with pytest.raises(SpeechError, match="There is no word to speak"):
        synthesise(text)


def test_a_control_character_is_refused() -> None:
    with pytest.raises(SpeechError, match="control character"):
        synthesise("hello \x01100s world")


def test_an_unknown_voice_or_variant_is_named_with_its_closest() -> None:
    with pytest.raises(SpeechError, match=r"eSpeak has no voice 'en-uss'. Closest: en-us"):
        synthesise("hello", voice="en-uss")
    with pytest.raises(SpeechError, match=r"eSpeak has no variant 'f33'. Closest: f3"):
        synthesise("hello", voice="en-us+f33")


@pytest.mark.parametrize("arguments", [{"rate": 79}, {"rate": 451}, {"pitch": -1}, {"pitch": 100}])
def test_rate_and_pitch_out_of_range_are_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(SpeechError, match="lies in"):
        synthesise("hello", **arguments)


def test_rate_and_pitch_change_the_sound() -> None:
    assert synthesise("hello world", rate=120).audio.seconds > 1.3 * synthesise("hello world", rate=240).audio.seconds
    assert not np.array_equal(synthesise("hello", pitch=20).audio.samples, synthesise("hello", pitch=80).audio.samples)


def test_the_same_arguments_give_the_same_samples_whatever_was_said_before() -> None:
    for voice in ("en-us", "en-gb+f3", "en-us+whisper", "en-us+klatt3", "en-us+Reed"):
        first = synthesise("she eats fish", voice)
        synthesise("something else entirely", "en-gb-scotland", rate=230, pitch=80)
        second = synthesise("she eats fish", voice)
        assert np.array_equal(first.audio.samples, second.audio.samples), voice
        assert first.words == second.words


def test_another_process_says_the_same() -> None:
    here = hashlib.sha256(synthesise("she eats fish", "en-us+f3", 190, 60).audio.wav_bytes()).hexdigest()
    assert here == spoken_in_a_new_process("'she eats fish', 'en-us+f3', 190, 60", before="s('other words'); s('more', 'en-gb'); ")


def test_a_library_that_somebody_else_holds_is_not_disturbed_and_does_not_disturb() -> None:
    import espeakng_loader

    before = synthesise("she eats fish").audio.samples
    held = ctypes.CDLL(espeakng_loader.get_library_path())
    try:
        synthesise("other words")
        assert np.array_equal(synthesise("she eats fish").audio.samples, before)
    finally:
        import _ctypes

        _ctypes.dlclose(held._handle)


def test_voices_are_listed_and_each_english_one_speaks() -> None:
    english = [voice for voice in voices() if voice.language.startswith("en-") and voice.language != "en-shaw"]
    assert {"en-us", "en-gb", "en-gb-scotland"} <= {voice.language for voice in english}
    for voice in english:
        assert len(synthesise("two words", voice.language).words) == 2
        assert len(synthesise("two words", voice.identifier).words) == 2
    assert "f3" in espeak.variants()


def test_pronunciations_are_espeaks() -> None:
    assert pronounce("paris") == "pˈæɹɪs"
    assert phones("bower") == ("b", "'aU", "3")
    assert phones("two words, here")[0] == "t"
    assert pronounce("bath", "en-gb") != pronounce("bath", "en-us")
    with pytest.raises(SpeechError, match="no word"):
        phones("?!")


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from("of the in a cat is was at to it i and dogs that house have been".split()), min_size=1, max_size=9))
def test_every_row_of_small_words_is_reported_word_by_word(words: list[str]) -> None:
    said = synthesise(" ".join(words))
    assert [word.text for word in said.words] == words
    times = [second for word in said.words for second in (word.start_s, word.end_s)]
    assert times == sorted(times)
    assert times[-1] <= said.audio.seconds
