"""How near words are in sound: edit distance over eSpeak's phonemes, and what a word sounds like inside a sentence."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

import numpy as np

from slm_interp.errors import SpeechError
from slm_interp.speech import espeak
from slm_interp.speech.synthesis import WORD_JOINER, pronounce


class Nearness(NamedTuple):
    """Two words and the edits between their phonemes; `share` is that number over the longer word's phonemes."""

    distance: int
    share: float
    one: str
    other: str


STRESS = "ˈˌ"
SEPARATED = espeak.IPA_MODE | espeak.MNEMONIC_MODE  # IPA, with underscores between phonemes


@lru_cache(maxsize=4096)
def bare_phonemes(word: str, voice: str = "en-us") -> tuple[str, ...]:
    """IPA phonemes of a word without stress; eSpeak's own mnemonics would tell apart allophones that sound alike."""
    said = "_".join(espeak.phonemes(word, voice, SEPARATED))
    return tuple(bare for phoneme in said.split("_") if (bare := phoneme.strip(STRESS)))


def edit_distance(one: Sequence[Hashable], other: Sequence[Hashable]) -> int:
    """Fewest insertions, deletions and substitutions that make one row the other (Levenshtein 1966)."""
    row = list(range(len(other) + 1))
    for above, left in enumerate(one, start=1):
        before, row = row, [above]
        for place, upper in enumerate(other, start=1):
            row.append(min(row[-1] + 1, before[place] + 1, before[place - 1] + (left != upper)))
    return row[-1]


@lru_cache(maxsize=64)
def nearest_pairs(words: tuple[str, ...], voice: str = "en-us") -> tuple[Nearness, ...]:
    """All pairs of these words, the nearest in sound first; of equal distances the one between the longer words."""
    found = []
    for one, other in combinations(words, 2):
        sounds = bare_phonemes(one, voice), bare_phonemes(other, voice)
        distance = edit_distance(*sounds)
        found.append(Nearness(distance, distance / max(map(len, sounds)), one, other))
    return tuple(sorted(found))


def sounds_in_sentences(sentences: Sequence[tuple[str, int]], voice: str) -> tuple[str, ...]:
    """IPA with stress of one word of each sentence, given by its number.

    Pairs that eSpeak's dictionary runs together ("of the") are kept apart here; of other words this changes nothing.
    """
    texts = [f" {WORD_JOINER}".join(text.split()) for text, _ in sentences]
    said = pronounce(".\n".join(texts), voice).split()
    starts = np.cumsum([0, *(len(text.split()) for text in texts)])
    if len(said) != starts[-1]:
        raise SpeechError(f"eSpeak says {len(said)} words for the {starts[-1]} of {[text for text, _ in sentences]}. Write signs as words.")
    return tuple(said[start + at] for start, (_, at) in zip(starts, sentences, strict=False))
