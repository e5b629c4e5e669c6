"""What the next word is read from, by kind, and the verdict that is right for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
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
        noise: standard deviation over words of the weight that goes from the one to the other, of mean 0; and, roughly, of what whole effects
            take from the noise at the heard word, as a share. Shares are exact in expectation then, and without noise for every case.
    """

    text: float
    secret: float
    verdict: Verdict
    noise: float = 0.0


@dataclass(frozen=True)
class Chain:
    """What is computed from what in a serial model: text of the heard word, then text of the next word, then units.

    Args:
        next_text: the share of the next word's text that is written from the heard word's text; the rest comes from its secret code.
        next_code: the same of the next word's code that is no text.
        units: the share of the units that is read from the next word's text; the rest comes from that code.
    """

    next_text: float
    next_code: float
    units: float

    @property
    def through(self) -> float:
        """The share of the whole effect that runs from text to text to units."""
        return self.units * self.next_text

    @property
    def around(self) -> float:
        """The share that a swap of the heard word's text keeps while the next word's text is frozen."""
        return (1 - self.units) * self.next_code

    @property
    def current(self) -> float:
        """The share that a swap of the heard word's text moves."""
        return self.through + self.around

    @property
    def mixture(self) -> Mixture:
        """What a test that is asked at the heard word alone should find."""
        known: dict[float, Verdict] = {0.0: "epiphenomenal", 1.0: "text-mediated"}
        return Mixture(self.current, 1 - self.current, known.get(self.current, "partly"))


KINDS: Mapping[str, Mixture | None] = {
    "shadow": Mixture(0.0, 1.0, "epiphenomenal"),
    "mediated": Mixture(1.0, 0.0, "text-mediated"),
    "partial": None,  # the caller says how much
    "dead": Mixture(0.0, 0.0, "uninformative"),
}
SERIAL: Mapping[str, Chain | None] = {
    "serial": Chain(1.0, 0.0, 1.0),
    "parallel": Chain(1.0, 1.0, 0.0),
    "skipped": Chain(0.0, 0.0, 1.0),
    "silent": Chain(1.0, 0.0, 0.0),
    "branching": None,  # the caller says how much runs through the next word's text
}


def truth_of(kind: str, fraction: float | None, noise: float = 0.0) -> Mixture | Chain:
    """What the units are computed from, in a model of a kind.

    Raises:
        PatchingError: an unknown kind; a fraction that is missing, not between 0 and 1, or given to a kind that has its own; noise below 0, or
            asked of a serial model.
    """
    truth = _exact(kind, fraction)
    if not 0 <= noise < float("inf") or (noise and isinstance(truth, Chain)):
        raise PatchingError(f"Noise is 0 or a finite number above, for the kinds {', '.join(KINDS)}; got {noise} for {kind!r}.")
    return replace(truth, noise=float(noise)) if isinstance(truth, Mixture) else truth


def _exact(kind: str, fraction: float | None) -> Mixture | Chain:
    known: Mapping[str, Mixture | Chain | None] = {**KINDS, **SERIAL}
    if kind not in known:
        raise PatchingError(f"No planted model of kind {kind!r}; there are: {', '.join(KINDS)}, and serial ones: {', '.join(SERIAL)}.")
    truth = known[kind]
    if truth is not None:
        if fraction is not None:
            raise PatchingError(
                f"Only 'partial' takes a fraction, and among serial kinds 'branching'; {kind!r} has its own. Leave fraction out; got {fraction}."
            )
        return truth
    if fraction is None or not 0 < fraction < 1:
        ends = "shadow and mediated" if kind in KINDS else "parallel and serial"
        raise PatchingError(f"{kind!r} needs the share of the text path, 0 < fraction < 1; got {fraction}. The ends are {ends}.")
    share = float(fraction)
    return Mixture(share, 1 - share, "partly") if kind in KINDS else Chain(1.0, 1.0, share)
