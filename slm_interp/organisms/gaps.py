"""What can stand where: the words of each gap of the grammar, and the words that can follow a beginning."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from slm_interp.organisms import grammar
from slm_interp.organisms.lexicon import CAPITALS, CATEGORIES, FACT_VALUES, NAMES


def could_stand(word: str, before: Sequence[str]) -> bool:
    """Whether the grammar has a sentence that begins with these words and goes on with this one."""
    return word in following(before)


def following(before: Sequence[str]) -> frozenset[str]:
    """Every word with which a sentence of the grammar that begins with these words can go on; none at the end of a sentence."""
    return frozenset[str]().union(
        *(
            gaps[len(before)]
            for gaps in _sentences()
            if len(gaps) > len(before) and all(one in words for one, words in zip(before, gaps, strict=False))
        )
    )


def fillers(gap: str) -> tuple[str, ...]:
    """The words that can stand at one place of a phrasing, `{value}` excepted."""
    special = {"{name}": NAMES, "{country}": tuple(CAPITALS), "{capital}": tuple(CAPITALS.values())}
    if not gap.startswith("{"):
        return (gap,)
    return special[gap] if gap in special else CATEGORIES[gap[1:-1]]


@lru_cache(maxsize=1)
def _sentences() -> tuple[tuple[frozenset[str], ...], ...]:
    """Every phrasing as the words that can stand at each of its places."""
    found = [[fillers(gap) for gap in phrasing.split()] for phrasing in (*grammar.PEOPLE, *grammar.PLAIN, *grammar.CAPITAL_FACTS)]
    for category, phrasings in grammar.FACTS.items():
        values = CATEGORIES[category][:FACT_VALUES]
        found += [[values if gap == "{value}" else fillers(gap) for gap in phrasing.split()] for phrasing in phrasings]
    return tuple(tuple(frozenset(words) for words in gaps) for gaps in found)
