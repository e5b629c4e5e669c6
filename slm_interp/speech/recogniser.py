"""How well can words be told from units alone: an isolated-word recogniser over unit strings.

What a model could know of a word at best, had it heard the units and nothing of the sentence; and where two words are the same units, so
that no model can tell them apart without context.

Naive Bayes over three multinomials of a string of units (Manning, Raghavan & Schütze, Introduction to Information Retrieval, 13.2):
which unit lies in its first, middle and last third; which unit follows which, edges included; how many units there are. Smoothed by adding
`smoothing` to every count, with each word's share in training as its prior. It is closed form, has no seed, and needs numpy alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from slm_interp.errors import SpeechError
from slm_interp.speech.spans import words_to_spans
from slm_interp.speech.units import Units
from slm_interp.speech.words import TimedWord

THIRDS = 3
LENGTHS = 64  # strings of this many units and longer count as equally long


@dataclass(frozen=True, eq=False)
class UnitRecogniser:
    """A trained recogniser. Make one with `train_recogniser`.

    Args:
        words: its classes, sorted.
        n_units: units in the codebook.
        merge: words that count as another one: homophones.
        prior: log of each word's share in training.
        unseen: log-probability of a feature that a word never had, for each of the three multinomials.
        features: features that a word had, ascending.
        owners: which word each is of.
        gains: how much likelier than an unseen one it is, in log-probability.
    """

    words: tuple[str, ...]
    n_units: int
    merge: Mapping[str, str]
    prior: Float[np.ndarray, " class"]
    unseen: Float[np.ndarray, "kind class"]
    features: Int[np.ndarray, " entry"]
    owners: Int[np.ndarray, " entry"]
    gains: Float[np.ndarray, " entry"]

    def scores(self, string: Int[np.ndarray, " unit"]) -> Float[np.ndarray, " class"]:
        """Log of the joint probability of the string and each word, natural logarithm.

        Raises:
            SpeechError: an empty string, or units outside the codebook.
        """
        found = features_of(string, self.n_units)
        scores = self.prior + np.bincount(_kinds(found, self.n_units), minlength=3) @ self.unseen
        for feature in found:
            start, stop = np.searchsorted(self.features, (feature, feature + 1))
            scores[self.owners[start:stop]] += self.gains[start:stop]
        return scores

    def recognise(self, strings: Sequence[Int[np.ndarray, " _"]]) -> list[str]:
        """The likeliest word of each string."""
        return [self.words[int(self.scores(string).argmax())] for string in strings]

    def results(self, words: Sequence[str], strings: Sequence[Int[np.ndarray, " _"]]) -> pd.DataFrame:
        """What each string was heard as: one row a string.

        Returns:
            `word` and `heard` (merged homophones under their one name), `rank` of the right word from 0 (equal scores count half),
            `ties`, other words with an equal score, and `n_units`.

        Raises:
            SpeechError: unequal numbers of words and strings, none at all, or words that training never had.
        """
        _check_pairs(words, strings)
        right = [self.merge.get(word, word) for word in words]
        unknown = sorted(set(right) - set(self.words))
        if unknown:
            raise SpeechError(
                f"{len(unknown)} words were never trained, {unknown[:5]} among them. Train on them, or leave them out of the test."
            )
        rows = []
        for word, string in zip(right, strings, strict=True):
            scores = self.scores(string)
            own = scores[self.words.index(word)]
            ties = int((scores == own).sum()) - 1
            rows.append((word, self.words[int(scores.argmax())], float((scores > own).sum() + ties / 2), ties, len(string)))
        return pd.DataFrame(rows, columns=["word", "heard", "rank", "ties", "n_units"])

    def accuracy(self, words: Sequence[str], strings: Sequence[Int[np.ndarray, " _"]], k: int = 1) -> float:
        """Share of strings whose word is among the k likeliest, words with equal scores in random order; errors as in `results`."""
        found = self.results(words, strings)
        ahead = found["rank"] - found["ties"] / 2
        return float(((k - ahead) / (found["ties"] + 1)).clip(0, 1).mean())

    def confusions(self, words: Sequence[str], strings: Sequence[Int[np.ndarray, " _"]]) -> pd.DataFrame:
        """Words heard as another, the most often first: `word`, `heard`, `count`, and `share` of the word's strings."""
        found = self.results(words, strings)
        wrong = found[found["word"] != found["heard"]].groupby(["word", "heard"]).size().reset_index(name="count")
        wrong["share"] = wrong["count"] / found["word"].value_counts().reindex(wrong["word"]).to_numpy()
        return wrong.sort_values(["count", "share", "word", "heard"], ascending=[False, False, True, True]).reset_index(drop=True)

    def __repr__(self) -> str:
        return f"UnitRecogniser({len(self.words)} words, {self.n_units} units, {len(self.merge)} merged)"


def train_recogniser(
    words: Sequence[str],
    strings: Sequence[Int[np.ndarray, " _"]],
    n_units: int,
    merge: Mapping[str, str] | None = None,
    smoothing: float = 1e-3,
) -> UnitRecogniser:
    """A recogniser of the words that some strings of units were cut from.

    Args:
        words: of each string.
        strings: units of one word each, as from `unit_strings`.
        n_units: units in the codebook.
        merge: words that count as another: `{"sea": "see"}`.
        smoothing: added to every count. Units of one synthesiser repeat themselves, so little is best.

    Raises:
        SpeechError: unequal numbers of words and strings, fewer than two words, units outside the codebook, a merge into a word
            that is itself merged, no smoothing.
    """
    _check_pairs(words, strings)
    merge = dict(merge or {})
    chained = sorted(set(merge) & set(merge.values()))
    if chained:
        raise SpeechError(f"Merge every homophone into one word that stays; {chained} are merged and merged into.")
    if smoothing <= 0:
        raise SpeechError(f"Smoothing is a positive number; got {smoothing}. Without it one unseen unit would rule a word out.")
    labels = [merge.get(word, word) for word in words]
    classes = sorted(set(labels))
    if len(classes) < 2:
        raise SpeechError(f"A recogniser tells words apart and needs two of them; got {classes}.")
    number = {word: index for index, word in enumerate(classes)}
    counted = Counter(
        (int(feature), number[word]) for word, string in zip(labels, strings, strict=True) for feature in features_of(string, n_units)
    )
    features, owners = (np.array(column) for column in zip(*sorted(counted), strict=True))
    counts = np.array([counted[key] for key in sorted(counted)], dtype=np.float64)
    totals = np.zeros((3, len(classes)))
    np.add.at(totals, (_kinds(features, n_units), owners), counts)
    unseen = np.log(smoothing) - np.log(totals + smoothing * np.array(_sizes(n_units))[:, None])
    prior = np.log(np.bincount([number[word] for word in labels]) / len(labels))
    gains = np.log(counts + smoothing) - np.log(smoothing)
    return UnitRecogniser(tuple(classes), n_units, MappingProxyType(merge), prior, unseen, features, owners, gains)


def unit_strings(units: Units, words: Sequence[TimedWord]) -> list[Int[np.ndarray, " _"]]:
    """The units of each word of a sound, by the rule that gives words their positions.

    Raises:
        SpeechError: words that no unit carries, or that do not belong to these units.
    """
    return [units.units[word.span.start : word.span.stop] for word in words_to_spans(words, units)]


def words_in(recogniser: UnitRecogniser, string: Int[np.ndarray, " unit"], longest: int = 24) -> list[str]:
    """Words in a string of units whose boundaries nobody knows: of all ways to cut it into words, the likeliest, by dynamic programming.

    A way is scored by the sum of its words' `scores`. The end of the string counts as the end of a word, so the last may be cut short.

    Args:
        longest: units that a word may have.

    Raises:
        SpeechError: as `scores`; a longest word of no unit.
    """
    if longest < 1:
        raise SpeechError(f"A word has one unit or more; got longest={longest}.")
    best: list[tuple[float, int, int]] = [(0.0, 0, -1)]  # of what ends here: its score, where its last word starts, which word that is
    features_of(string, recogniser.n_units)
    for stop in range(1, len(string) + 1):
        ways = []
        for start in range(max(0, stop - longest), stop):
            scores = recogniser.scores(string[start:stop])
            word = int(scores.argmax())
            ways.append((best[start][0] + float(scores[word]), start, word))
        best.append(max(ways))
    words, stop = list[str](), len(string)
    while stop:
        _, start, word = best[stop]
        words, stop = [recogniser.words[word], *words], start
    return words


def features_of(string: Int[np.ndarray, " unit"], n_units: int) -> Int[np.ndarray, " feature"]:
    """What is counted of a string, as numbers: units by third, pairs of neighbours with the edges, the length."""
    if not len(string):
        raise SpeechError("A string of units is empty. Words without units are told apart by heard_words.")
    if string.min() < 0 or string.max() >= n_units:
        raise SpeechError(f"Units lie in 0..{n_units - 1}; got {string.min()} to {string.max()}. Are they of another quantiser?")
    units, length = np.asarray(string, dtype=np.int64), len(string)
    third = (2 * np.arange(length) + 1) * THIRDS // (2 * length)
    edged = np.concatenate([[n_units], units, [n_units]])
    places, pairs, _ = _sizes(n_units)
    return np.concatenate(
        [third * n_units + units, places + edged[:-1] * (n_units + 1) + edged[1:], [places + pairs + min(length, LENGTHS) - 1]]
    )


def _sizes(n_units: int) -> tuple[int, int, int]:
    """How many different features each multinomial has."""
    return THIRDS * n_units, (n_units + 1) ** 2, LENGTHS


def _kinds(features: Int[np.ndarray, " feature"], n_units: int) -> Int[np.ndarray, " feature"]:
    """Which of the three multinomials each feature belongs to."""
    return np.searchsorted(np.cumsum(_sizes(n_units)[:2]), features, side="right")


def _check_pairs(words: Sequence[str], strings: Sequence[Int[np.ndarray, " _"]]) -> None:
    if len(words) != len(strings) or not len(words):
        raise SpeechError(f"Every string of units has one word; got {len(words)} words and {len(strings)} strings.")
