"""What the next word is read from, by kind, and the verdict that is right for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from slm_interp.errors import PatchingError

Verdict: TypeAlias = Literal["epiphenomenal", "text-mediated", "partly", "uninformative"]


@dataclass(frozen=True)
class Mixture:
    """What the one head that leaves the heard word carries away.

    Args:
        text: weight of the word's text coordinates.
        secret: weight of its secret code.
        verdict: what a causal test should conclude.
    """

    text: float
    secret: float
    verdict: Verdict


KINDS: Mapping[str, Mixture | None] = {
    "shadow": Mixture(0.0, 1.0, "epiphenomenal"),
    "mediated": Mixture(1.0, 0.0, "text-mediated"),
    "partial": None,  # the caller says how much
    "dead": Mixture(0.0, 0.0, "uninformative"),
}


def mixture_of(kind: str, fraction: float | None) -> Mixture:
    """The mixture of a kind.

    Raises:
        PatchingError: an unknown kind, a fraction that is missing, not between 0 and 1, or given to a kind that has its own.
    """
    if kind not in KINDS:
        raise PatchingError(f"No planted model of kind {kind!r}; there are: {', '.join(KINDS)}.")
    known = KINDS[kind]
    if known is not None:
        if fraction is not None:
            raise PatchingError(f"Only 'partial' takes a fraction; {kind!r} has its own. Leave fraction out; got {fraction}.")
        return known
    if fraction is None or not 0 < fraction < 1:
        raise PatchingError(
            f"'partial' needs the share of the text path, 0 < fraction < 1; got {fraction}. The ends are shadow and mediated."
        )
    return Mixture(float(fraction), 1 - float(fraction), "partly")
