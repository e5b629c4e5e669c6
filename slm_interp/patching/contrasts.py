"""The contrasts of a sweep: their names, their pairings, and the labels by which they cluster."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from slm_interp.errors import PatchingError
from slm_interp.patching.policies import Pairing, Policy, Stretch
from slm_interp.patching.spans import Side, SpanPair, Spans, spans_of
from slm_interp.utterance import Contrast, Utterance

Contrasts: TypeAlias = "Contrast | Sequence[Contrast] | Mapping[str, Contrast]"
Direction: TypeAlias = Literal["denoising", "noising"]
BASE: dict[str, Side] = {"denoising": "corrupted", "noising": "clean"}  # whose run is changed; the other is the source


@dataclass(frozen=True, eq=False)
class Prepared:
    """A contrast, and what goes where in it.

    Args:
        name: in results.
        contrast: the two prompts.
        base: the side whose run is changed.
        pairs: the spans.
        pairings: for each of them.
    """

    name: str
    contrast: Contrast
    base: Side
    pairs: tuple[SpanPair, ...]
    pairings: tuple[Pairing, ...]

    @property
    def source(self) -> Side:
        """The side that values come from."""
        return "clean" if self.base == "corrupted" else "corrupted"

    @property
    def key(self) -> str:
        """Its name, and a hash over everything that decides its numbers beside the model and the options of the sweep."""
        digest = hashlib.sha256()
        one = self.contrast
        for ids in (one.clean.tokens, one.corrupted.tokens, one.answer, one.distractor):
            digest.update(repr(ids.tolist()).encode())
        for pair, pairing in zip(self.pairs, self.pairings, strict=True):
            said = (pair.name, pairing.base.tolist(), pairing.source.tolist(), pairing.weights.tolist(), pairing.match_norms)
            digest.update(repr(said).encode())
        return f"{self.name} {digest.hexdigest()[:12]}"


def side_of(contrast: Contrast, side: Side) -> Utterance:
    """The prompt of a side."""
    return contrast.clean if side == "clean" else contrast.corrupted


def alike_until(contrast: Contrast) -> int:
    """How many positions at the start both prompts have in common: there every layer of both runs is the same."""
    shared = min(len(contrast.clean), len(contrast.corrupted))
    unlike = (contrast.clean.tokens[:shared] != contrast.corrupted.tokens[:shared]).nonzero()
    return int(unlike[0]) if len(unlike) else shared


def check_direction(direction: str) -> None:
    """Refuse another direction than the two there are.

    Raises:
        PatchingError: neither of them.
    """
    if direction not in BASE:
        raise PatchingError(
            f"A direction is 'denoising' (clean values into the corrupted run) or 'noising' (corrupted values into the clean run); got {direction!r}."
        )


def prepared(contrasts: Contrasts, spans: Spans, policy: Policy, direction: Direction) -> list[Prepared]:
    """The contrasts of a sweep with their pairings.

    Raises:
        PatchingError: no contrasts, an unknown direction, spans that do not meet under the policy.
        UtteranceError: a span past the end of its prompt.
    """
    check_direction(direction)
    found, base = [], BASE[direction]
    for name, contrast in named(contrasts).items():
        pairs = spans_of(contrast, spans)
        other: Side = "clean" if base == "corrupted" else "corrupted"
        pairings = tuple(
            checked(policy(*(Stretch(side_of(contrast, side), pair.of(side)) for side in (other, base))), contrast, pair, base)
            for pair in pairs
        )
        found.append(Prepared(name, contrast, base, pairs, pairings))
    return found


def checked(pairing: Pairing, contrast: Contrast, pair: SpanPair, base: Side) -> Pairing:
    """A pairing, once its positions are known to be in the prompts.

    Raises:
        PatchingError: a policy that reaches past an end.
    """
    source: Side = "clean" if base == "corrupted" else "corrupted"
    for which, side, places in (("base", base, pairing.base), ("source", source, pairing.source)):
        length = len(side_of(contrast, side))
        if int(places.min()) < 0 or int(places.max()) >= length:
            raise PatchingError(f"The policy pairs {which} positions {places.tolist()} of {pair.name!r}; the {side} prompt has {length}.")
    return pairing


def named(contrasts: Contrasts) -> dict[str, Contrast]:
    """Contrasts by name: that of the clean prompt, numbered where it is not told or not the only one.

    Raises:
        PatchingError: none.
    """
    if isinstance(contrasts, Mapping):
        found = dict(contrasts)
    else:
        given = [contrasts] if isinstance(contrasts, Contrast) else list(contrasts)
        names = [one.clean.name for one in given]
        unique = all(names) and len(set(names)) == len(names)
        found = {
            name if unique else f"{name or 'contrast'} {number}": one for number, (name, one) in enumerate(zip(names, given, strict=True))
        }
    if not found:
        raise PatchingError("A sweep needs one contrast or more; got none.")
    return found


def clusters_of(contrast: Contrast) -> tuple[str, str]:
    """What a contrast says around its words (`the capital of _`), and the words that tell it apart (`france | italy`).

    Prompts without words, or with other numbers of them, are a prompt of their own: what they are called, and no word.
    """
    clean, corrupted = ([word.text for word in one.words] for one in (contrast.clean, contrast.corrupted))
    if not clean or len(clean) != len(corrupted):
        return contrast.clean.name or " ".join(clean), ""
    pairs = list(zip(clean, corrupted, strict=True))
    return " ".join(one if one == other else "_" for one, other in pairs), " | ".join(
        sorted({word for one, other in pairs if one != other for word in (one, other)})
    )


def in_order(names: Iterable[Sequence[str]]) -> list[str]:
    """All names, as they are first met."""
    return list(dict.fromkeys(name for own in names for name in own))
