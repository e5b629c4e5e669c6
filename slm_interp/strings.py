"""Strings as a family's own code writes them, `[Speech][Hu99][Hu49][Text] and then`, taken apart and put together.

Declared tokens are found by their spelling and turned into ids by arithmetic; what stands between them is text, for a tokenizer.
"""

from __future__ import annotations

import re
from functools import lru_cache

from jaxtyping import Int
from torch import Tensor

from slm_interp.errors import VocabularyError
from slm_interp.vocabulary import IdRange, JointVocabulary

_NUMBER = re.compile(r"\\\{(:c|:0\d*d)?\\\}")


def pieces(vocabulary: JointVocabulary, string: str) -> list[int | str]:
    """Ids of the declared tokens in a string, and the text between them.

    Args:
        vocabulary: whose ranges have templates.
        string: to take apart.

    Raises:
        VocabularyError: a token that is spelled like a unit and is none: its number is too large, or written in another way.
    """
    pattern, ranges = _grammar(vocabulary)
    found: list[int | str] = []
    end = 0
    for match in pattern.finditer(string):
        if match.start() > end:
            found.append(string[end : match.start()])
        place = next(place for place, group in enumerate(match.groups()) if group is not None)
        found.append(_identifier(ranges, place, match[0], match.group(place + 1)))
        end = match.end()
    if end < len(string):
        found.append(string[end:])
    return found


def spelled(vocabulary: JointVocabulary, ids: Int[Tensor, " pos"]) -> str:
    """The string of ids that are all declared with a spelling.

    Raises:
        VocabularyError: an id that only a tokenizer can spell.
    """
    words = [vocabulary.spelled(identifier) for identifier in ids.tolist()]
    if None in words:
        raise VocabularyError(f"Id {int(ids[words.index(None)])} has no declared spelling; text is spelled by the tokenizer.")
    return "".join(str(word) for word in words)


@lru_cache(maxsize=32)
def _grammar(vocabulary: JointVocabulary) -> tuple[re.Pattern[str], tuple[tuple[IdRange, ...], ...]]:
    """One pattern for all declared tokens: a group for each template, which several codebooks may share."""
    shared: dict[tuple[str, bool], list[IdRange]] = {}
    for one in vocabulary.ranges:
        if one.template is not None:
            shared.setdefault((one.template, one.kind == "marker"), []).append(one)
    # Of two spellings that begin alike the longer one is meant, as a tokenizer takes it.
    longest = sorted(shared, key=lambda one: (len(_NUMBER.sub("", re.escape(one[0]))), not one[1]), reverse=True)
    groups = []
    for template, marker in longest:
        literal, ranges = re.escape(template), shared[template, marker]
        if marker or not _NUMBER.search(literal):
            groups.append(f"({literal})")
        elif "{:c}" in template:
            low, high = min(one.first for one in ranges), max(one.first + len(one) for one in ranges)
            groups.append(_NUMBER.sub(f"([\\\\U{low:08x}-\\\\U{high - 1:08x}])", literal))
        else:
            # A number is read from its first digit, so that a long row of digits is walked through once.
            groups.append(_NUMBER.sub("((?<![0-9])[0-9]+)" if _NUMBER.match(literal) else "([0-9]+)", literal))
    return re.compile("|".join(groups) or r"(?!)"), tuple(tuple(shared[key]) for key in longest)


def _identifier(ranges: tuple[tuple[IdRange, ...], ...], place: int, token: str, number: str) -> int:
    """Id of a token whose template is the one at `place`."""
    candidates = ranges[place]
    if token == candidates[0].template:
        return candidates[0].start
    template = str(candidates[0].template)
    value = ord(number) if "{:c}" in template else int(number[:12])
    for one in candidates:
        if one.first <= value < one.first + len(one) and template.format(value) == token:
            return one.ids[value - one.first]
    counts = ", ".join(f"{template.format(one.first)} to {template.format(one.first + len(one) - 1)}" for one in candidates)
    raise VocabularyError(f"{token!r} is spelled like a unit and is none; there are {counts}.")
