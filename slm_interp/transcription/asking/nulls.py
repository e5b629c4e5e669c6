"""Nulls: other words asked at the same place, by the same rule.

A maximum over positions, layers and ids finds something for any word. A null says how much: it draws words that are
neither heard at the place nor beside it, of as many ids as the word itself (a word of fewer pieces is found more
easily), and whoever asks pools them exactly as the word itself.

| null | what is drawn |
|---|---|
| `shuffled` | other words of the same utterance |
| `elsewhere` | words asked about in other utterances, as often as they are asked |
| `frequency` | of the ten word types nearest in corpus count (log of count + 1; ties at random) |
| `random_residuals`, `mixed_residuals` | no other word: the same one, asked of random vectors with the norms of the residuals; see `random_residuals` |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from slm_interp.errors import ReadoutError
from slm_interp.transcription.asking.random_residuals import RANDOM
from slm_interp.transcription.asking.targets import Place
from slm_interp.utterance import Utterance

FREQUENCY_NEIGHBOURS = 10


@dataclass(frozen=True)
class Lexicon:
    """The word types of a corpus that have a spelling.

    Args:
        types: their texts.
        ids: that count as each.
        count: of each among the words heard.
        heard_type, heard_in: type and utterance of each word heard.
        asked_type, asked_in: type and utterance of each place.
    """

    types: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...]
    count: Int[np.ndarray, " type"]
    heard_type: Int[np.ndarray, " heard"]
    heard_in: Int[np.ndarray, " heard"]
    asked_type: Int[np.ndarray, " place"]
    asked_in: Int[np.ndarray, " place"]


def lexicon(utterances: Sequence[Utterance], places: Sequence[Place], ids: Mapping[str, tuple[int, ...]]) -> Lexicon:
    """The lexicon of a corpus; words without ids are no part of it."""
    types = tuple(ids)
    number = {text: index for index, text in enumerate(types)}
    heard = [(number[word.text], index) for index, one in enumerate(utterances) for word in one.words if word.text in number]
    counts = Counter(kind for kind, _ in heard)
    pairs = np.array(heard, dtype=np.int64).reshape(-1, 2)
    asked = np.array([(number[one.asked], one.utterance) for one in places], dtype=np.int64).reshape(-1, 2)
    count = np.array([counts[kind] for kind in range(len(types))], dtype=np.int64)
    return Lexicon(types, tuple(ids.values()), count, pairs[:, 0], pairs[:, 1], asked[:, 0], asked[:, 1])


def barred(words: Lexicon, place: Place, utterance: Utterance) -> Bool[np.ndarray, " type"]:
    """Types that share an id with the word asked about, the one heard, or one beside it; and those of another number of ids."""
    near = {place.asked, *(word.text for word in utterance.words[max(0, place.index - 1) : place.index + 2])}
    taken = {one for text, ids in zip(words.types, words.ids, strict=True) if text in near for one in ids}
    size = len(words.ids[words.types.index(place.asked)])
    return np.array([len(ids) != size or not taken.isdisjoint(ids) for ids in words.ids])


def _shuffled(words: Lexicon, place: Place, out: Bool[np.ndarray, " type"], rng: np.random.Generator) -> Int[np.ndarray, " candidate"]:
    here = words.heard_type[words.heard_in == place.utterance]
    return here[~out[here]]


def _elsewhere(words: Lexicon, place: Place, out: Bool[np.ndarray, " type"], rng: np.random.Generator) -> Int[np.ndarray, " candidate"]:
    there = words.asked_type[words.asked_in != place.utterance]
    return there[~out[there]]


def _frequency(words: Lexicon, place: Place, out: Bool[np.ndarray, " type"], rng: np.random.Generator) -> Int[np.ndarray, " candidate"]:
    candidates = rng.permutation(np.flatnonzero(~out))
    counts = np.log1p(words.count)
    distance = np.abs(counts[candidates] - counts[words.types.index(place.asked)])
    return candidates[np.argsort(distance, kind="stable")[:FREQUENCY_NEIGHBOURS]]


NULLS: Mapping[str, Callable[[Lexicon, Place, np.ndarray, np.random.Generator], np.ndarray]] = {
    "shuffled": _shuffled,
    "elsewhere": _elsewhere,
    "frequency": _frequency,
}
NAMES = (*NULLS, *RANDOM)


def sources(nulls: Sequence[str], draws: int) -> Int[np.ndarray, " candidate"]:
    """What each candidate of a place is read from, the word itself first: 0 the model's residuals, d the d-th of `noises`."""
    random = np.repeat([name in RANDOM for name in nulls], draws)
    return np.array([0, *np.where(random, random.cumsum(), 0)])


def draw(
    words: Lexicon, utterances: Sequence[Utterance], places: Sequence[Place], nulls: Sequence[str], draws: int, seed: int
) -> tuple[Int[np.ndarray, "place null draw"], Counter[str]]:
    """Types drawn with replacement for each place and null, -1 where a null has no candidate; and how many places that hits.

    Raises:
        ReadoutError: unknown nulls, or fewer than one draw.
    """
    unknown = [name for name in nulls if name not in NAMES]
    if unknown or not nulls or draws < 1 or len(set(nulls)) < len(nulls):
        raise ReadoutError(
            f"Nulls are one or more of {', '.join(NAMES)}, each once, with at least one draw; got {list(nulls)} with draws={draws}."
        )
    drawn = np.full((len(places), len(nulls), draws), -1, dtype=np.int64)
    counted: Counter[str] = Counter()
    rngs = [np.random.default_rng([seed, 1 + NAMES.index(name)]) for name in nulls]  # adding a null changes no other
    for row, place in enumerate(places):
        out = barred(words, place, utterances[place.utterance])
        for column, (name, rng) in enumerate(zip(nulls, rngs, strict=True)):
            candidates = words.asked_type[row : row + 1] if name in RANDOM else NULLS[name](words, place, out, rng)
            if len(candidates):
                drawn[row, column] = rng.choice(candidates, draws)
            else:
                counted[f"no other word of as many ids for the null {name!r}"] += 1
    return drawn, counted
