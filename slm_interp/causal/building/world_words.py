"""Words of the organisms' world by what they are like: category, frequency, sound.

Frequencies follow from how the world draws: names and countries evenly, words of a category by its power law. A word that is the value of a fact is
told in facts besides, so values are like values, and other words of their category like each other. Words that stand in phrasings themselves are as
frequent as phrasings with them are many.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache

from slm_interp.causal.building.filling import pieces_of
from slm_interp.model import SpeechTextModel
from slm_interp.organisms.grammar import PHRASINGS
from slm_interp.organisms.lexicon import CAPITALS, CATEGORIES, FACT_CATEGORIES, FACT_VALUES, NAMES
from slm_interp.organisms.phonetic import bare_phonemes, edit_distance
from slm_interp.organisms.world import World


@dataclass(frozen=True)
class Pool:
    """Words that can stand in for one another.

    Args:
        words: the frequent ones first.
        category: a gap of the grammar; empty for words that stand in phrasings themselves.
        first_rank: of the first word, within its category.
    """

    words: tuple[str, ...]
    category: str
    first_rank: int = 0

    def __iter__(self) -> Iterator[str]:
        return iter(self.words)


FIXED = "fixed"  # the words of phrasings themselves that can follow another word, by how many phrasings have them
STAND_IN = Counter(word for phrasing in PHRASINGS for word in set(phrasing.split()[1:]) if not word.startswith("{"))
EVEN = {"name": NAMES, "country": tuple(CAPITALS), "capital": tuple(CAPITALS.values())}


def like(word: str, category: str | None = None) -> Pool:
    """The words that a word can be exchanged for: those of its category, or of the first that has it; without a category, itself alone."""
    if category == FIXED:
        return Pool(tuple(word for word, _ in STAND_IN.most_common()), FIXED)
    for name, words in {**EVEN, **CATEGORIES}.items():
        if word not in words or category not in (None, name):
            continue
        if name not in FACT_CATEGORIES:
            return Pool(words, name)
        told = words.index(word) < FACT_VALUES
        return Pool(words[:FACT_VALUES], name) if told else Pool(words[FACT_VALUES:], name, FACT_VALUES)
    return Pool((word,), "")


def frequencies(world: World) -> Callable[[str, Pool], float]:
    """How often a word of a pool is drawn, in a unit that is the same throughout the pool."""

    def of(word: str, pool: Pool) -> float:
        if pool.category == FIXED:
            return float(STAND_IN[word])
        if pool.category in EVEN or not pool.category:
            return 1.0
        return float((pool.first_rank + pool.words.index(word) + 3.0) ** -world.steepness)

    return of


def nearest_in_sound(slm: SpeechTextModel, world: World, words: tuple[str, str], taken: Collection[str], voice: str) -> str | None:
    """The word of the lexicon with the fewest edits from the first word, over the longer one's phonemes; its first piece is that of neither word."""
    sounds = dict(_sounds(world.lexicon, voice))
    own = bare_phonemes(words[0], voice)
    firsts = {pieces[0] for word in words if (pieces := pieces_of(slm, word))}
    ranked = sorted(
        (edit_distance(own, other) / max(len(own), len(other)), word)
        for word, other in sounds.items()
        if word not in taken and word not in words and other
    )
    return next((word for _, word in ranked if (pieces := pieces_of(slm, word)) and pieces[0] not in firsts), None)


@lru_cache(maxsize=8)
def _sounds(lexicon: tuple[str, ...], voice: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return tuple((word, bare_phonemes(word, voice)) for word in lexicon)
