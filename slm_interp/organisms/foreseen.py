"""Places in the grammar at which one word only can follow, two by two: after the same word, with different words to come.

1. A place is a phrasing and the number of a word in it, the third or a later one, that is the only one with which the grammar goes on there.
2. Two places can meet if the same word, or the same gap, stands right before both, and what follows is not the same word.
3. Phrasings are put into couples, each into one at most, so that what is asked of one couple has no phrasing in common with what is asked of another:
   the phrasing with the fewest partners left takes the partner with the fewest.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from slm_interp.organisms.gaps import fillers, following
from slm_interp.organisms.grammar import PHRASINGS


@dataclass(frozen=True, order=True)
class Place:
    """A place at which one word only can follow.

    Args:
        phrasing: of the grammar.
        at: number of the word that must come.
    """

    phrasing: str
    at: int

    @property
    def word(self) -> str:
        """The word that must come."""
        return self.phrasing.split()[self.at]

    @property
    def after(self) -> str:
        """The word, or the gap, that stands right before it."""
        return self.phrasing.split()[self.at - 1]


def places(phrasing: str) -> list[Place]:
    """The places of a phrasing, with any words in its gaps."""
    gaps = phrasing.split()
    beginning = [fillers(gap)[-1] if gap != "{value}" else gap for gap in gaps]  # the last of a gap stands in no other, or it is no place
    return [Place(phrasing, at) for at in range(2, len(gaps)) if following(beginning[:at]) == {gaps[at]}]


@lru_cache(maxsize=1)
def couples() -> tuple[tuple[Place, Place], ...]:
    """The couples, always the same."""
    found = {phrasing: places(phrasing) for phrasing in PHRASINGS}
    partners = {one: {other for other in found if other != one and _meeting(found[one], found[other])} for one in found}
    made = []
    while open_ones := [one for one in partners if partners[one]]:
        one = min(open_ones, key=lambda phrasing: (len(partners[phrasing]), phrasing))
        other = min(partners[one], key=lambda phrasing: (len(partners[phrasing]), phrasing))
        made.append(_meeting(found[one], found[other])[0])
        for gone in (one, other):
            del partners[gone]
        for left in partners.values():
            left -= {one, other}
    return tuple(made)


def _meeting(first: list[Place], second: list[Place]) -> list[tuple[Place, Place]]:
    return [(one, other) for one in first for other in second if one.after == other.after and one.word != other.word]
