"""A small world in plain English: who lives where, eats what and works as what, and what one says about it.

A world is drawn from a seed. Every sentence is a phrasing with its gaps filled: facts (a name bound to a city, a
food, a job, an animal, an instrument; a country to its capital) and plain sentences, whose words follow loose
preferences (animals live in places, people eat food in the morning). Sentences are lower case, without
punctuation, and every word of them is in the lexicon, so that a tokenizer can hold each as one token.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

NAMES = tuple(
    "anna ben carla david emma felix grace henry ivy jack karen leo maria nathan olivia peter quentin rosa simon tina "
    "oscar victor wendy arthur bella daniel fiona hugo isabel kevin laura martin nina patrick susan thomas".split()
)
CATEGORIES = {
    "city": tuple(
        "boston chicago denver dublin geneva hamburg lisbon london milan montreal naples oslo prague sydney toronto venice".split()
    ),
    "food": tuple(
        "apples bananas bread carrots cheese chicken chocolate fish noodles onions pancakes potatoes rice salad soup tomatoes".split()
    ),
    "job": tuple(
        "baker builder doctor driver farmer gardener lawyer painter pilot sailor singer soldier tailor teacher waiter writer".split()
    ),
    "animal": tuple("camel cat dog donkey goat hamster horse lizard monkey parrot pig rabbit sheep spider tiger turtle".split()),
    "instrument": tuple("banjo cello drums flute guitar harp organ piano trumpet violin".split()),
}
CAPITALS = dict(
    pair.split("-")
    for pair in (
        "france-paris spain-madrid japan-tokyo egypt-cairo russia-moscow italy-rome germany-berlin greece-athens austria-vienna "
        "poland-warsaw cuba-havana kenya-nairobi peru-lima canada-ottawa china-beijing turkey-ankara sweden-stockholm hungary-budapest"
    ).split()
)
FACTS = {
    "city": ("{name} lives in {value}", "the city of {name} is {value}", "{name} has a house in {value}", "you can find {name} in {value}"),
    "food": (
        "{name} likes to eat {value}",
        "the favourite food of {name} is {value}",
        "{name} always buys {value}",
        "for dinner {name} wants {value}",
    ),
    "job": (
        "{name} works as a {value}",
        "the job of {name} is {value}",
        "{name} wants to be a good {value}",
        "everybody knows {name} the {value}",
    ),
    "animal": (
        "{name} has a {value}",
        "the animal of {name} is a {value}",
        "every day {name} feeds the {value}",
        "{name} sleeps beside the {value}",
    ),
    "instrument": ("{name} plays the {value}", "the sound {name} loves is the {value}", "{name} is learning the {value}"),
}
CAPITAL_FACTS = (
    "the capital of {country} is {capital}",
    "{capital} is the capital of {country}",
    "people in {country} travel to {capital}",
)
GAPS = {
    "person": tuple("man woman girl boy king queen child friend neighbour brother sister mother father uncle".split()),
    "adjective": tuple("small big old young happy angry quiet clever lazy brave hungry tired famous strange gentle".split()),
    "colour": tuple("red blue green yellow white black brown purple orange".split()),
    "place": tuple("garden forest kitchen river market school station mountain valley village castle bridge island harbour".split()),
    "thing": tuple(
        "book letter basket window table lamp hammer bottle mirror blanket ticket bicycle candle umbrella camera pencil".split()
    ),
    "time": (
        "in the morning",
        "in the evening",
        "on monday",
        "on friday",
        "on sunday",
        "in winter",
        "in summer",
        "after dinner",
        "before breakfast",
        "at midnight",
    ),
    "moves": tuple("walks runs jumps swims climbs travels".split()),
    "handles": tuple("carries finds hides sells paints breaks cleans borrows".split()),
    "sees": tuple("sees hears follows remembers forgets watches".split()),
    "weather": tuple("rainy sunny windy cloudy foggy frozen".split()),
    "number": tuple("two three four five six seven eight nine ten twenty".split()),
    "near": tuple("near behind beside under".split()),
}
PLAIN = (
    "the {adjective} {person} {moves} to the {place}",
    "{time} the {person} {handles} the {colour} {thing}",
    "the {animal} {sees} the {adjective} {person}",
    "the {person} {handles} a {thing} in the {place}",
    "the {adjective} {animal} {moves} {near} the {place}",
    "the weather in {city} is {weather} today",
    "{time} the {job} {sees} the {animal}",
    "there are {number} {colour} birds in the {place}",
    "the {job} and the {person} eat {food}",
    "a {colour} {thing} is {near} the {thing}",
    "{name} {handles} the {colour} {thing} {time}",
    "my {person} is a {adjective} {job}",
    "{name} and {name} travel to {city}",
    "the {person} {sees} {number} houses {near} the {place}",
    "{number} and {number} are numbers",
)


@dataclass(frozen=True)
class Sentence:
    """What is said and what it teaches.

    Args:
        text: words between single blanks.
        fact: `(subject, category, value)` of a fact, `None` for a plain sentence.
    """

    text: str
    fact: tuple[str, str, str] | None = None

    @property
    def words(self) -> tuple[str, ...]:
        """The words."""
        return tuple(self.text.split())


@dataclass(frozen=True)
class World:
    """Facts drawn from a seed, and the sentences that can be said.

    Args:
        seed: of the facts and of the held-out choice.
        fact_share: how much of what is said is a fact.
        held_out: share of all different texts that are never used for training.
    """

    seed: int = 0
    fact_share: float = 0.5
    held_out: float = 0.04
    names: tuple[str, ...] = field(default=NAMES)

    @cached_property
    def facts(self) -> dict[tuple[str, str], str]:
        """The value of each `(name, category)`, values spread evenly over names."""
        rng = np.random.default_rng([self.seed, 1])
        bound = {}
        for category, values in CATEGORIES.items():
            repeated = [values[index % len(values)] for index in range(len(self.names))]
            for name, value in zip(self.names, rng.permutation(repeated), strict=True):
                bound[name, category] = str(value)
        return bound

    @property
    def lexicon(self) -> tuple[str, ...]:
        """Every word that can be said, sorted."""
        texts = [*(phrase for phrases in FACTS.values() for phrase in phrases), *CAPITAL_FACTS, *PLAIN]
        fixed = {word for text in texts for word in text.split() if not word.startswith("{")}
        gaps = {word for words in (*GAPS.values(), *CATEGORIES.values()) for entry in words for word in entry.split()}
        return tuple(sorted(fixed | gaps | set(self.names) | set(CAPITALS) | set(CAPITALS.values())))

    def is_held_out(self, text: str) -> bool:
        """Whether a text is kept from training; a function of the text and the seed alone."""
        digest = hashlib.sha256(f"{self.seed}:{text}".encode()).digest()
        return int.from_bytes(digest[:4], "big") < self.held_out * 2**32

    def sentence(self, rng: np.random.Generator) -> Sentence:
        """Something true, or something plain."""
        if rng.random() >= self.fact_share:
            return Sentence(self._fill(_pick(PLAIN, rng), rng))
        if rng.random() < 0.12:
            country = _pick(tuple(CAPITALS), rng)
            text = _pick(CAPITAL_FACTS, rng).format(country=country, capital=CAPITALS[country])
            return Sentence(text, (country, "capital", CAPITALS[country]))
        name, category = _pick(self.names, rng), _pick(tuple(FACTS), rng)
        value = self.facts[name, category]
        return Sentence(_pick(FACTS[category], rng).format(name=name, value=value), (name, category, value))

    def sentences(self, count: int, seed: int, held_out: bool = False) -> list[Sentence]:
        """`count` sentences, all of them from the training side or all of them held out."""
        rng = np.random.default_rng([self.seed, 2, seed, int(held_out)])
        said: list[Sentence] = []
        while len(said) < count:
            one = self.sentence(rng)
            if self.is_held_out(one.text) == held_out:
                said.append(one)
        return said

    def _fill(self, phrase: str, rng: np.random.Generator) -> str:
        pools = {**CATEGORIES, **GAPS, "name": self.names}
        words = (_pick(pools[word[1:-1]], rng) if word.startswith("{") else word for word in phrase.split())
        return " ".join(words)


def _pick(choices: Sequence[str], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]
