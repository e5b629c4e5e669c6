"""What a planted model can hear and say: words of two units, an onset and a coda, and which word follows which.

Words stand in a square: word (i, j) is onset unit i, then coda unit j. So no unit alone tells the word, and words of one row or column are
phonetic neighbours. Carrier units mean nothing. The cue is the unit after which the next word is said.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, sqrt

import torch

from slm_interp.errors import PatchingError

WORDS = tuple(
    "apple anchor basket bridge candle castle desert dragon engine falcon garden hammer island jacket kettle ladder market needle orange "
    "pepper quarry rabbit saddle temple uncle valley window yellow zebra barrel carpet donkey feather goblet harbor insect".split()
)
FILLERS = tuple("the a of is and to in it was for on are as with his they at be this from have or by one had not but what all were".split())
N_CARRIERS = 8


@dataclass(frozen=True)
class Lexicon:
    """Words, their units and their successors.

    Args:
        words: spoken words; the text vocabulary has `FILLERS` besides.
        onset, coda: of each word, counted among onsets and among codas.
        following: the word after each word.
        unit_of: unit number of each symbol: onsets, codas, carriers, the cue. Shuffled, so that numbers mean nothing.
    """

    words: tuple[str, ...]
    onset: tuple[int, ...]
    coda: tuple[int, ...]
    following: tuple[int, ...]
    unit_of: tuple[int, ...]

    @property
    def side(self) -> int:
        """How many onsets there are, and codas."""
        return ceil(sqrt(len(self.words)))

    @property
    def n_units(self) -> int:
        """Units of the codebook."""
        return len(self.unit_of)

    @property
    def carriers(self) -> range:
        """Symbols that mean nothing."""
        return range(2 * self.side, 2 * self.side + N_CARRIERS)

    @property
    def cue(self) -> int:
        """The symbol after which the next word is said."""
        return 2 * self.side + N_CARRIERS

    def spelled(self, word: int) -> tuple[int, int]:
        """The two symbols of a word."""
        return self.onset[word], self.side + self.coda[word]


def lexicon_of(n_words: int, generator: torch.Generator) -> Lexicon:
    """A random lexicon.

    Raises:
        PatchingError: fewer than 4 words, or more than there are names for.
    """
    if not 4 <= n_words <= len(WORDS):
        raise PatchingError(f"A planted model has 4 to {len(WORDS)} words; got {n_words}.")
    side = ceil(sqrt(n_words))
    order = torch.randperm(n_words, generator=generator).tolist()
    following = [0] * n_words
    for here, there in zip(order, [*order[1:], order[0]], strict=True):  # one ring: no word follows itself
        following[here] = there
    units = torch.randperm(2 * side + N_CARRIERS + 1, generator=generator).tolist()
    return Lexicon(
        WORDS[:n_words], tuple(w // side for w in range(n_words)), tuple(w % side for w in range(n_words)), tuple(following), tuple(units)
    )
