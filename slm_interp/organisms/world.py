"""A small world in plain English, drawn from a seed: who lives where, eats what, works as what, and what one says about it.

1. **Facts** bind a name to a value: a city, a food, a job, an animal, an instrument. Each has a `side`: `heard` (said
   aloud and read), `read` (read only; the name and the value are said aloud elsewhere, their pairing never is) or
   `withheld` (never told at all: what a model says about it is its prior).
2. **Sentences** are phrasings with their gaps filled. A category's words are drawn by a power law, so that some are
   frequent and some are rare.
3. **Documents** are a few sentences that stay with a subject: a gap takes again what the document has said before. A
   word's first mention cannot be foreseen beyond its category; later ones can, by who heard the first.

A document about people draws the other gaps from words that are no fact's value, so no name is ever near a value but
in its fact, and a pairing that is not told leaves no trace, not even its absence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias, TypeVar

import numpy as np

from slm_interp.errors import SpeechError
from slm_interp.organisms import grammar
from slm_interp.organisms.lexicon import CAPITALS, CATEGORIES, FACT_CATEGORIES, FACT_VALUES, NAMES

Item = TypeVar("Item")
Side: TypeAlias = Literal["heard", "read", "withheld"]


@dataclass(frozen=True)
class Fact:
    """A name, what is told of it, the value, and who may know."""

    name: str
    category: str
    value: str
    side: Side


@dataclass(frozen=True)
class Sentence:
    """Words between single blanks, and the fact they tell, if they tell one."""

    text: str
    fact: Fact | None = None

    @property
    def words(self) -> tuple[str, ...]:
        """The words."""
        return tuple(self.text.split())


@dataclass(frozen=True)
class World:
    """Facts drawn from a seed, and the documents that can be told.

    Args:
        seed: of the facts and of the held-out choice.
        about_people: share of documents that are about people; in these, `fact_share` of the sentences tell a fact.
        topical: chance that a gap takes what the document has said before.
        length: fewest and most sentences of a document.
        steepness: of the power law of words within a category; 0 makes all alike.
        sides: shares of facts that are heard, read only and withheld.
        held_out: share of all different texts that are never used for training.
    """

    seed: int = 0
    about_people: float = 0.5
    fact_share: float = 0.6
    topical: float = 0.65
    length: tuple[int, int] = (3, 6)
    steepness: float = 0.5
    sides: tuple[float, float, float] = (0.5, 0.35, 0.15)
    held_out: float = 0.04

    @cached_property
    def facts(self) -> dict[tuple[str, str], Fact]:
        """The fact of each `(name, category)`; values and sides are spread evenly over names."""
        rng = np.random.default_rng([self.seed, 1])
        bound = {}
        for category in FACT_CATEGORIES:
            values = rng.permutation(np.resize(CATEGORIES[category][:FACT_VALUES], len(NAMES)))
            stops = np.round(np.cumsum(self.sides) * len(NAMES)).astype(int)
            order = rng.permutation(len(NAMES))
            for place, index in enumerate(order):
                side: Side = "heard" if place < stops[0] else "read" if place < stops[1] else "withheld"
                bound[NAMES[index], category] = Fact(NAMES[index], category, str(values[index]), side)
        return bound

    @cached_property
    def lexicon(self) -> tuple[str, ...]:
        """Every word that can be said, sorted."""
        fixed = {word for phrasing in grammar.PHRASINGS for word in phrasing.split() if not word.startswith("{")}
        gaps = {word for words in CATEGORIES.values() for word in words}
        return tuple(sorted(fixed | gaps | set(NAMES) | set(CAPITALS) | set(CAPITALS.values())))

    def is_held_out(self, text: str) -> bool:
        """Whether a text is kept from training; a function of the text and the seed alone."""
        digest = hashlib.sha256(f"{self.seed}:{text}".encode()).digest()
        return int.from_bytes(digest[:4], "big") < self.held_out * 2**32

    def document(self, rng: np.random.Generator, aloud: bool) -> tuple[Sentence, ...]:
        """A document of training sentences; aloud, it tells heard facts only."""
        told = self._told["heard" if aloud else "read"]
        people = rng.random() < self.about_people
        said: dict[str, list[str]] = {}
        names = [_pick(NAMES, rng) for _ in range(int(rng.integers(1, 3)))] if people else []
        sentences: list[Sentence] = []
        for _ in range(int(rng.integers(self.length[0], self.length[1] + 1))):
            one = self._about(names, told, said, rng) if people else self._plain(said, rng)
            while self.is_held_out(one.text):
                one = self._about(names, told, said, rng) if people else self._plain(said, rng)
            sentences.append(one)
        return tuple(sentences)

    def documents(self, count: int, seed: int) -> list[tuple[Sentence, ...]]:
        """`count` documents that are said aloud."""
        return [self.document(np.random.default_rng([self.seed, 2, seed, number]), aloud=True) for number in range(count)]

    def held_out_sentences(self, count: int, seed: int) -> list[Sentence]:
        """`count` different sentences whose texts no document has, each standing alone; facts among them are heard ones."""
        rng = np.random.default_rng([self.seed, 3, seed])
        found: dict[str, Sentence] = {}
        while len(found) < count:
            people = rng.random() < self.about_people
            one = self._about([_pick(NAMES, rng)], self._told["heard"], {}, rng) if people else self._plain({}, rng)
            if self.is_held_out(one.text):
                found.setdefault(one.text, one)
        return list(found.values())

    def tell(self, fact: Fact, phrasing: int, value: str | None = None) -> str:
        """A fact in one of its phrasings, or what it would be with another value."""
        return grammar.FACTS[fact.category][phrasing].format(name=fact.name, value=value or fact.value)

    def sentence(self, phrasing: str, rng: np.random.Generator) -> Sentence:
        """A phrasing with its gaps filled, standing alone; one of a fact tells a fact that is told aloud.

        Raises:
            SpeechError: a phrasing that the grammar does not have.
        """
        if phrasing not in grammar.PHRASINGS:
            raise SpeechError(f"The grammar has no phrasing {phrasing!r}; those that it has are `organisms.grammar.PHRASINGS`.")
        for category, phrasings in grammar.FACTS.items():
            if phrasing in phrasings:
                fact = _pick([one for one in self.facts.values() if one.category == category and one.side == "heard"], rng)
                return Sentence(self.tell(fact, phrasings.index(phrasing)), fact)
        if phrasing in grammar.CAPITAL_FACTS:
            country = _pick(tuple(CAPITALS), rng)
            return Sentence(phrasing.format(country=country, capital=CAPITALS[country]))
        return Sentence(self._fill(phrasing, {}, rng, _pick(NAMES, rng) if "{name}" in phrasing else None))

    @cached_property
    def _told(self) -> dict[str, dict[str, tuple[Fact, ...]]]:
        """Facts of each name that may be told aloud (`heard`), or in writing (`read`)."""
        allowed = {"heard": ("heard",), "read": ("heard", "read")}
        return {
            where: {name: tuple(fact for fact in self.facts.values() if fact.name == name and fact.side in sides) for name in NAMES}
            for where, sides in allowed.items()
        }

    def _about(
        self, names: Sequence[str], told: Mapping[str, tuple[Fact, ...]], said: dict[str, list[str]], rng: np.random.Generator
    ) -> Sentence:
        name = _pick(names, rng)
        if told[name] and rng.random() < self.fact_share:
            fact = _pick(told[name], rng)
            return Sentence(self.tell(fact, int(rng.integers(len(grammar.FACTS[fact.category])))), fact)
        return Sentence(self._fill(_pick(grammar.PEOPLE, rng), said, rng, name))

    def _plain(self, said: dict[str, list[str]], rng: np.random.Generator) -> Sentence:
        if rng.random() < 0.06:
            country = _pick(tuple(CAPITALS), rng)
            return Sentence(_pick(grammar.CAPITAL_FACTS, rng).format(country=country, capital=CAPITALS[country]))
        return Sentence(self._fill(_pick(grammar.PLAIN, rng), said, rng))

    def _fill(self, phrasing: str, said: dict[str, list[str]], rng: np.random.Generator, name: str | None = None) -> str:
        """Fill the gaps: with what was said of a category, if the coin says so and the sentence has it not yet; else anew."""
        words: list[str] = []
        for word in phrasing.split():
            if not word.startswith("{"):
                words.append(word)
            elif word == "{name}":
                words.append(str(name))
            else:
                category = word[1:-1]
                known = [one for one in said.get(category, []) if one not in words]
                if known and rng.random() < self.topical:
                    words.append(_pick(known, rng))
                    continue
                drawn = self._draw(category, name is not None, rng)
                while drawn in words:
                    drawn = self._draw(category, name is not None, rng)
                said.setdefault(category, []).append(drawn)
                words.append(drawn)
        return " ".join(words)

    def _draw(self, category: str, with_people: bool, rng: np.random.Generator) -> str:
        words, cumulative = self._urns[category, with_people]
        return words[int(np.searchsorted(cumulative, rng.random()))]

    @cached_property
    def _urns(self) -> dict[tuple[str, bool], tuple[tuple[str, ...], np.ndarray]]:
        """Words of a category with their cumulative chances; with people, without the values of facts."""
        urns = {}
        for category, words in CATEGORIES.items():
            for with_people in (False, True):
                some = words[FACT_VALUES:] if with_people and category in FACT_CATEGORIES else words
                weights = (np.arange(len(some)) + 3.0) ** -self.steepness
                urns[category, with_people] = some, np.cumsum(weights / weights.sum())
        return urns


def _pick(choices: Sequence[Item], rng: np.random.Generator) -> Item:
    return choices[int(rng.integers(len(choices)))]
