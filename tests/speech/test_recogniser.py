"""The unit recogniser: the textbook formula, words told apart by what tells them apart, and homophones that are not."""

from __future__ import annotations

from functools import lru_cache
from itertools import product

import numpy as np
import pytest

from slm_interp.errors import SpeechError
from slm_interp.speech import AcousticQuantiser, AcousticRecipe, TimedWord, Units, resample, synthesise, train_recogniser, unit_strings
from slm_interp.speech.recogniser import LENGTHS, features_of, words_in

SPOKEN = "apple boat camel doctor evening five garden hammer island jungle kitchen lemon".split()


def strings(*rows: list[int]) -> list[np.ndarray]:
    return [np.array(row) for row in rows]


@lru_cache(maxsize=1)
def spoken() -> tuple[list[str], list[np.ndarray], list[str], list[np.ndarray]]:
    """Words said alone: two rates and two pitches for training, another of each for testing."""
    kinds = [(rate, pitch) for rate in (150, 180) for pitch in (40, 60)]
    sounds = {(word, *kind): resample(synthesise(word, "en-us", *kind).audio, 16_000) for word in SPOKEN for kind in (*kinds, (165, 50))}
    quantiser = AcousticQuantiser.fit([sound for key, sound in sounds.items() if key[1] != 165], AcousticRecipe(n_units=64))
    heard = {key: quantiser.encode(sound).units for key, sound in sounds.items()}
    train = [key for key in heard if key[1] != 165]
    test = [key for key in heard if key[1] == 165]
    return [key[0] for key in train], [heard[key] for key in train], [key[0] for key in test], [heard[key] for key in test]


def test_the_score_is_the_textbook_s() -> None:
    """Three multinomials with `smoothing` added to every count, times the prior, on a case small enough to count by hand."""
    found = train_recogniser(["a", "a", "b"], strings([0, 1], [0, 0], [1]), 2, smoothing=0.5)
    # of "a": places 0:first x2, 1:last, 0:last; pairs ^0 01 1$ ^0 00 0$; lengths 2 2
    score = np.log(2 / 3)
    score += np.log((2 + 0.5) / (4 + 0.5 * 6)) + np.log((1 + 0.5) / (4 + 0.5 * 6))  # 0 first, 0 last
    score += np.log((2 + 0.5) / (6 + 0.5 * 9)) + 2 * np.log((1 + 0.5) / (6 + 0.5 * 9))  # ^0 00 0$
    score += np.log((2 + 0.5) / (2 + 0.5 * LENGTHS))
    other = np.log(1 / 3) + 2 * np.log(0.5 / (1 + 0.5 * 6)) + 3 * np.log(0.5 / (2 + 0.5 * 9)) + np.log(0.5 / (1 + 0.5 * LENGTHS))
    np.testing.assert_allclose(found.scores(np.array([0, 0])), [score, other])


def test_units_are_counted_by_thirds_pairs_and_length() -> None:
    places, pairs = 3 * 10, 11**2
    found = features_of(np.array([7, 8, 9, 7]), 10).tolist()
    assert found[:4] == [7, 10 + 8, 10 + 9, 20 + 7]
    assert found[4:9] == [places + 10 * 11 + 7, places + 7 * 11 + 8, places + 8 * 11 + 9, places + 9 * 11 + 7, places + 7 * 11 + 10]
    assert found[9:] == [places + pairs + 3]
    assert features_of(np.zeros(500, dtype=int), 10)[-1] == places + pairs + LENGTHS - 1


@pytest.mark.parametrize(
    ("one", "other"),
    [([1, 2, 3], [4, 5, 6]), ([1, 2, 3], [3, 2, 1]), ([1, 1, 1, 2, 3], [1, 2, 3]), ([1, 2, 3, 1, 3, 2, 1], [1, 3, 2, 1, 2, 3, 1])],
)
def test_words_are_told_apart_by_units_by_order_and_by_length(one: list[int], other: list[int]) -> None:
    found = train_recogniser(["one", "other"], strings(one, other), 10)
    assert found.recognise(strings(other, one)) == ["other", "one"]


def test_words_that_espeak_says_are_heard_at_a_rate_and_pitch_they_were_not_trained_at() -> None:
    words, train, tested, test = spoken()
    found = train_recogniser(words, train, 64)
    assert found.accuracy(tested, test) >= 0.75  # chance 1 in 12
    assert found.accuracy(words, train) == 1
    assert found.accuracy(tested, test, k=12) == 1
    shuffled = [tested[(index + 5) % 12] for index in range(12)]
    assert found.accuracy(shuffled, test) < 0.2


def test_the_prior_decides_between_equal_strings() -> None:
    found = train_recogniser(["rare", "common", "common"], strings([1, 2], [1, 2], [1, 2]), 5)
    assert found.recognise(strings([1, 2])) == ["common"]
    assert np.exp(found.prior).tolist() == pytest.approx([2 / 3, 1 / 3])


def test_homophones_are_confused_until_they_are_merged() -> None:
    words, units = ["see", "sea", "cat"], strings([1, 2], [1, 2], [3])
    apart = train_recogniser(words, units, 5)
    assert apart.results(words, units)["rank"].tolist() == [0.5, 0.5, 0]
    assert apart.accuracy(words, units) == pytest.approx(2 / 3)
    assert apart.accuracy(words, units, k=2) == 1
    assert apart.confusions(words, units)[["word", "heard", "count", "share"]].to_numpy().tolist() == [["see", "sea", 1, 1.0]]
    together = train_recogniser(words, units, 5, merge={"sea": "see"})
    assert together.words == ("cat", "see")
    assert together.results(words, units)["word"].tolist() == ["see", "see", "cat"]
    assert together.accuracy(words, units) == 1
    assert together.confusions(words, units).empty


def test_confusions_are_counted_and_the_most_frequent_come_first() -> None:
    found = train_recogniser(["a", "b", "c"], strings([1], [2], [3]), 5)
    table = found.confusions(["a", "a", "a", "b", "c", "c"], strings([2], [2], [1], [3], [3], [1]))
    assert table.to_numpy().tolist() == [["a", "b", 2, 2 / 3], ["b", "c", 1, 1.0], ["c", "a", 1, 0.5]]


def test_the_units_of_a_word_are_those_at_its_positions() -> None:
    units = Units(np.array([5, 6, 7, 8]), np.array([2, 1, 1, 3]), 0.1)
    words = [TimedWord("one", 0.0, 0.35), TimedWord("two", 0.35, 0.7)]
    assert [one.tolist() for one in unit_strings(units, words)] == [[5, 6], [7, 8]]


@pytest.mark.parametrize(
    ("words", "units", "options", "sentence"),
    [
        (["a"], [[1], [2]], {}, "got 1 words and 2 strings"),
        ([], [], {}, "got 0 words and 0 strings"),
        (["a", "a"], [[1], [2]], {}, r"needs two of them; got \['a'\]"),
        (["a", "b"], [[1], [2]], {"merge": {"b": "a"}}, r"needs two of them; got \['a'\]"),
        (["a", "b"], [[1], [2]], {"merge": {"a": "b", "b": "c"}}, r"\['b'\] are merged and merged into"),
        (["a", "b"], [[1], [2]], {"smoothing": 0.0}, "Smoothing is a positive number; got 0.0"),
        (["a", "b"], [[1], [9]], {}, r"Units lie in 0..4; got 9 to 9"),
        (["a", "b"], [[1], [-1]], {}, r"Units lie in 0..4; got -1 to -1"),
    ],
)
def test_what_cannot_be_trained_is_refused_with_a_sentence(words: list[str], units: list[list[int]], options: dict, sentence: str) -> None:
    with pytest.raises(SpeechError, match=sentence):
        train_recogniser(words, strings(*units), 5, **options)


def test_words_that_were_never_trained_and_empty_strings_are_refused() -> None:
    found = train_recogniser(["a", "b"], strings([1], [2]), 5)
    with pytest.raises(SpeechError, match=r"1 words were never trained, \['zebra'\] among them"):
        found.accuracy(["a", "zebra"], strings([1], [2]))
    with pytest.raises(SpeechError, match="A string of units is empty"):
        found.recognise([np.array([], dtype=int)])


def test_words_said_one_after_the_other_are_found_in_a_string_without_boundaries() -> None:
    words, rows = ["a", "bcd", "ef"], strings([0, 1], [2, 3, 4, 5], [6, 7, 8])
    ear = train_recogniser(words, rows, 10)
    for order in ([0, 1, 2], [2, 1, 1], [1], [0, 2, 0, 2]):
        assert words_in(ear, np.concatenate([rows[number] for number in order])) == [words[number] for number in order]


def test_of_all_ways_to_cut_a_string_the_one_found_is_the_likeliest() -> None:
    ear = train_recogniser(["a", "b", "c"], strings([0, 1, 2], [1, 0], [2, 2, 0, 1]), 3, smoothing=0.5)
    string = np.array([0, 1, 1, 0, 2, 2, 0])

    def best(rest: np.ndarray) -> float:
        cuts = range(1, len(rest) + 1)
        return max(float(ear.scores(rest[:cut]).max()) + (best(rest[cut:]) if cut < len(rest) else 0.0) for cut in cuts)

    found = words_in(ear, string)
    totals = []
    for lengths in product(range(1, len(string) + 1), repeat=len(found)):
        if sum(lengths) == len(string):
            parts = np.split(string, np.cumsum(lengths)[:-1])
            totals.append(sum(float(ear.scores(part)[ear.words.index(word)]) for part, word in zip(parts, found, strict=True)))
    assert max(totals) == pytest.approx(best(string))


def test_a_string_that_cannot_be_heard_is_refused() -> None:
    ear = train_recogniser(["a", "b"], strings([0], [1]), 2)
    for string, longest, sentence in (([], 3, "is empty"), ([5], 3, "lie in 0..1"), ([0], 0, "longest=0")):
        with pytest.raises(SpeechError, match=sentence):
            words_in(ear, np.array(string, dtype=int), longest)
