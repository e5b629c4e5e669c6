"""Control tasks (Hewitt & Liang 2019): every type gets a label drawn from the words' own distribution, by seed and name alone.

A probe that reads the control as well as the task reads nothing of the task: it has learnt a list of types.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping
from itertools import accumulate
from typing import Literal, TypeAlias

import numpy as np

from slm_interp.errors import ReadoutError
from slm_interp.lenses.probe.states import States

Control: TypeAlias = Literal["none", "word", "unit"]

_TYPES = {"word": "text", "unit": "token"}


def labels_of(states: States, target: str, control: str, seed: int, drawn_from: Mapping[str, int]) -> np.ndarray:
    """What a probe has to answer for each word: an array of strings, "" where there is no such word.

    Args:
        states: words with their neighbours and the id at the position that is read.
        target: `"current"`, `"next"` or `"previous"`.
        control: `"none"`: the word asked for. `"word"`, `"unit"`: a random label for every word, or every id, that is read.
        seed: of the random labels.
        drawn_from: how often each word was asked for in training; the random labels follow it.

    Raises:
        ReadoutError: another target or control, or random labels for words where the words themselves are asked for.
    """
    labels = states.labels(target)
    if control == "none":
        return labels
    if control not in _TYPES:
        raise ReadoutError(f"A control draws a label for every {' or '.join(_TYPES)}, or is none; got {control!r}.")
    if (target, control) == ("current", "word"):
        raise ReadoutError(
            "A random label for every word is the current word under other names: whoever reads the word reads it too. "
            "Control the current word with control='unit', and the next or previous one with control='word'."
        )
    types = [str(one) for one in states.dataset[_TYPES[control]].values]
    drawn = {one: drawn_label(one, seed, drawn_from) for one in set(types)}
    return np.array([drawn[one] if asked else "" for one, asked in zip(types, labels, strict=True)], dtype=object)


def drawn_label(one: str, seed: int, drawn_from: Mapping[str, int]) -> str:
    """The label of a type: a draw from a distribution of words that depends on nothing but the seed and the type's name."""
    words = sorted(drawn_from)
    edges = list(accumulate(drawn_from[word] for word in words))
    digest = hashlib.sha256(f"{seed}:{one}".encode()).digest()
    return words[bisect_right(edges, int.from_bytes(digest[:8], "big") * edges[-1] >> 64)]


def counts(labels: np.ndarray) -> dict[str, int]:
    """How often each label is there."""
    return dict(sorted(Counter(str(one) for one in labels).items()))
