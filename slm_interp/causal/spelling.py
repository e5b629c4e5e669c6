"""Spellings: which ids are a word, and how the directions of two words are matched, by the names that `transcription` uses.

| spelling | ids | directions of a pair are matched |
|---|---|---|
| `first_piece` | the first piece of `" word"` | one with one |
| `variants` | first pieces of {word, lower, Capitalised} with and without a space | form by form; forms that one of the two lacks are left out |
| `all_pieces` | every piece of `" word"` | piece by piece, as far as the shorter word goes |

A pair of directions that depends on the pairs before it (the same id again, a form in which both words are one id) is left out for both words. Words with
the same first piece have the same direction and are refused by name; with `all_pieces` they are told apart by the pieces that differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from slm_interp.errors import PatchingError
from slm_interp.model import SpeechTextModel
from slm_interp.patching.interventions.directions import Subspace
from slm_interp.transcription.asking.targets import by_form

Spelling: TypeAlias = Literal["first_piece", "variants", "all_pieces"]
Pair: TypeAlias = "tuple[Float[Tensor, 'pair d_model'], Float[Tensor, 'pair d_model']]"

FIRST = " word"  # the form in which a word stands inside a sentence


def known(spelling: str) -> None:
    """Refuse another spelling.

    Raises:
        PatchingError: none of the table.
    """
    if spelling not in get_args(Spelling):
        raise PatchingError(f"A word is spelled by {', '.join(get_args(Spelling))}; got {spelling!r}.")


def named(name: str, spelling: str) -> str:
    """What a basis is called, with its spelling where that is not the first piece."""
    return name if spelling == "first_piece" else f"{name}, {spelling}"


def spelled(slm: SpeechTextModel, word: str, spelling: Spelling) -> dict[str, int]:
    """Ids of a word, by what they are matched with: a form, or the number of a piece. That of its first piece comes first."""
    pieces = slm.word_ids(word)
    if spelling == "all_pieces":
        return {str(number): one for number, one in enumerate(pieces)}
    found = {FIRST: pieces[0]}
    if spelling == "variants":
        found |= {form: one for form, one in by_form(slm, word).items() if form != FIRST}
    return found


def distinct(slm: SpeechTextModel, words: Sequence[str], spelling: Spelling) -> list[int]:
    """All ids of some words, each once."""
    return list(dict.fromkeys(one for word in words for one in spelled(slm, word, spelling).values()))


def matched(slm: SpeechTextModel, first: str, second: str, spelling: Spelling) -> tuple[list[int], list[int]]:
    """Ids of two words, form by form; a pair with an id that is in a pair before it is left out.

    Raises:
        PatchingError: words that share what tells them apart.
    """
    own: Mapping[str, int] = spelled(slm, first, spelling)
    other: Mapping[str, int] = spelled(slm, second, spelling)
    if spelling != "all_pieces" and own[FIRST] == other[FIRST]:
        raise alike(first, second, slm.label(own[FIRST]))
    matched: list[tuple[int, int]] = []
    for form in own:
        pair = own[form], other.get(form)
        if pair[1] is not None and pair[0] != pair[1] and not set(pair) & {one for done in matched for one in done}:
            matched.append((pair[0], pair[1]))
    if not matched:
        raise alike(first, second, slm.label(next(iter(own.values()))))
    return [one for one, _ in matched], [one for _, one in matched]


def alike(first: str, second: str, piece: str | None = None) -> PatchingError:
    """What is raised of words that have one direction."""
    shared = "are one word" if piece is None else f"both begin with {piece!r}"
    return PatchingError(
        f"{first!r} and {second!r} {shared}: they have one direction, and exchanging them changes nothing. Leave this case out"
        f"{'.' if piece is None else ', or tell the words apart by spelling=' + repr('all_pieces') + '.'}"
    )


def independent(first: Float[Tensor, "tried d_model"], second: Float[Tensor, "tried d_model"], words: tuple[str, str]) -> Pair:
    """The pairs that are independent of those before them, the first of which must be.

    Raises:
        PatchingError: directions of the two words that are one line, zero or not finite.
    """
    kept: list[int] = []
    for pair in range(len(first)):
        tried = [*kept, pair]
        if Subspace(torch.cat([first[tried], second[tried]])).rank == 2 * len(tried):
            kept = tried
    if not kept:
        raise PatchingError(
            f"The directions of {words[0]!r} and {words[1]!r} lie on one line: nothing tells the words apart. Leave this case out."
        )
    return first[kept], second[kept]
