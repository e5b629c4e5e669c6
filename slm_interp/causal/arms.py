"""What is written in a run: the table of arms, and the presets that choose among them.

Each arm puts other residuals in the place of those that stand at some positions of the changed run, at one layer. What they are is what one of
`patching.interventions` makes of what stands there, `x`, of what is taken from another run, and of the directions of two words:

| arm | at | writes |
|---|---|---|
| `whole` | the word | the clean run's residuals, through the pairing policy: the ceiling |
| `text` | the word | `x` with its coordinates along the directions of the clean word A and the corrupted word B exchanged; doses -1 to 2 |
| `copied` | the word | `x` with its coordinates in the span of A and B taken from the clean run |
| `complement` | the word | the clean run's residuals with their coordinates in that span left as they are in `x` |
| `erased` | the word | `x` without its part in that span |
| `variance` | the word | as `copied`, in a subspace of as many dimensions in which the stream varies as much (`controls.variance`) |
| `read`, `unread` | the word | the part of the change of `text` inside, and outside, what later blocks read (`controls.readers`) |
| `third`, `phonetic`, `semantic` | the word | as `text`, with a third word, or a neighbour of A, in the place of A |
| `elsewhere` | where neither is heard | as `text` |
| `self` | the word | `x`: nothing may change |
| `other_voice` | the word | the residuals of the same word B in another voice, through the pairing policy |
| `direct` | the word | as `text`, with all later blocks frozen (`controls.direct`): nothing, but where the word holds the last position |
| `band` | the word | as `text`, at this layer and again at all later ones asked, so that it is not rebuilt; of no basis: as `whole` at all of them |
| `written_whole`, `written_text` | the word in prompts that are text | as `whole` and `text` |

`elsewhere`, `other_voice`, neighbours and prompts that are text are there where a case has them. Directions of a word in several spellings are several
pairs, exchanged together. Three checks are asked for by name as arms are: `random` (1,000 directions, to first order), `random_exact` (50 of them run), and
`distance` (of what is written from natural residuals).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from slm_interp.causal.cases import Case
from slm_interp.causal.controls.natural import Natural
from slm_interp.causal.controls.readers import Split
from slm_interp.causal.controls.variance import equal_variance
from slm_interp.errors import PatchingError
from slm_interp.patching.interventions import ComplementOnly, CopyCoordinates, Dosed, Erase, Interchange, Intervention, SwapCoordinates

Place: TypeAlias = Literal["word", "self", "voice", "elsewhere"]
"""Where an arm writes, and what it may take: the clean run's residuals, the run's own, those of another voice, or none."""

How: TypeAlias = Literal["patch", "direct", "band"]
"""By a patch of one layer, with later blocks frozen, or at several layers at once."""

Pairs: TypeAlias = "tuple[Float[Tensor, 'pair d_model'], Float[Tensor, 'pair d_model']]"
"""Directions of a first and of a second word, one row for each spelling."""

DOSES = (-1.0, -0.5, 0.5, 1.0, 2.0)


@dataclass(frozen=True, eq=False)
class AtLayer:
    """What is at hand at one layer; an arm that asks for what is None was not prepared for.

    Args:
        there: what stands at the positions that are written.
        taken: what may be taken from another run.
        pairs: directions of the two words.
        read: what later blocks read.
        natural: residuals that nobody edits.
    """

    there: Float[Tensor, "at d_model"]
    taken: Float[Tensor, "at d_model"] | None = None
    pairs: Pairs | None = None
    read: Split | None = None
    natural: Natural | None = None


@dataclass(frozen=True)
class Arm:
    """A row of the table above.

    Args:
        name: in results.
        says: what it tells, in a few words.
        make: the intervention, from what is at hand.
        place: where it writes and what it takes.
        first: the word of `Words` whose directions are exchanged with those of the corrupted word; empty for an arm of no basis.
        needs: the field of a case, or of its words, without which the case cannot have it.
        doses: multiples of the change.
        written: asked of the prompts that are text.
        how: see `How`.
    """

    name: str
    says: str
    make: Callable[[AtLayer], Intervention]
    place: Place = "word"
    first: str = "clean"
    needs: str = ""
    doses: tuple[float, ...] = (1.0,)
    written: bool = False
    how: How = "patch"

    @property
    def of_basis(self) -> bool:
        """Whether it depends on directions."""
        return bool(self.first)

    def has(self, case: Case) -> bool:
        """Whether a case can have it."""
        there = getattr(case, self.needs, None) if hasattr(case, self.needs) else getattr(case.words, self.needs, None)
        return not self.needs or there is not None

    def first_word(self, case: Case) -> str:
        """The word that takes part in the exchange beside the corrupted one."""
        return str(getattr(case.words, self.first))

    def intervention(self, at: AtLayer, dose: float) -> Intervention:
        """What it does at one layer."""
        made = self.make(at)
        return made if dose == 1.0 else Dosed(made, dose)


def interchanged(at: AtLayer) -> Intervention:
    """What is taken, whole."""
    assert at.taken is not None
    return Interchange(at.taken)


def swapped(at: AtLayer) -> Intervention:
    """The coordinates of two words exchanged."""
    assert at.pairs is not None
    return SwapCoordinates(*at.pairs)


def _copied(at: AtLayer) -> Intervention:
    assert at.taken is not None and at.pairs is not None
    return CopyCoordinates(torch.cat(at.pairs), at.taken)


def _complement(at: AtLayer) -> Intervention:
    assert at.taken is not None and at.pairs is not None
    return ComplementOnly(torch.cat(at.pairs), at.taken)


def _erased(at: AtLayer) -> Intervention:
    assert at.pairs is not None
    return Erase(torch.cat(at.pairs))


def _variance(at: AtLayer) -> Intervention:
    assert at.taken is not None and at.pairs is not None and at.natural is not None
    return CopyCoordinates(equal_variance(at.natural, torch.cat(at.pairs)).directions, at.taken)


def _inside(at: AtLayer) -> Intervention:
    assert at.read is not None
    return CopyCoordinates(at.read.basis, swapped(at)(at.there[None], None)[0])


def _outside(at: AtLayer) -> Intervention:
    assert at.read is not None
    return ComplementOnly(at.read.basis, swapped(at)(at.there[None], None)[0])


def kept_swapped(at: AtLayer) -> Intervention:
    """The coordinates of two words set to what the exchange makes of those in `there`, whatever stands there by now."""
    assert at.pairs is not None
    return CopyCoordinates(torch.cat(at.pairs), swapped(at)(at.there[None], None)[0])


ARMS: Mapping[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm("whole", "everything there: the ceiling", interchanged, first=""),
        Arm("text", "the two words' coordinates exchanged", swapped, doses=DOSES),
        Arm("copied", "the clean run's coordinates in the words' span", _copied),
        Arm("complement", "everything but those coordinates", _complement),
        Arm("erased", "no coordinates in the words' span", _erased),
        Arm("variance", "coordinates in a subspace of equal variance", _variance),
        Arm("read", "the part of the exchange that later blocks read", _inside),
        Arm("unread", "the part that they do not read", _outside),
        Arm("third", "a third word in the place of the clean one", swapped, first="third", needs="third"),
        Arm("phonetic", "a word near in sound in its place", swapped, first="phonetic", needs="phonetic"),
        Arm("semantic", "a word near in meaning in its place", swapped, first="semantic", needs="semantic"),
        Arm("elsewhere", "the exchange where neither word is heard", swapped, "elsewhere", needs="elsewhere"),
        Arm("self", "what stands there: exactly nothing", interchanged, "self", first=""),
        Arm("other_voice", "the same word in another voice", interchanged, "voice", first="", needs="other_voice"),
        Arm("direct", "the exchange with later blocks frozen", swapped, how="direct"),
        Arm("band", "the exchange at all later layers too", kept_swapped, how="band"),
        Arm("written_whole", "the ceiling in prompts that are text", interchanged, first="", needs="written", written=True),
        Arm("written_text", "the exchange in prompts that are text", swapped, needs="written", written=True),
    )
}

CHECKS: Mapping[str, str] = {
    "random": "directions drawn at random, as long as the change of text, to first order",
    "random_exact": "the first of them, run",
    "distance": "of what is written from natural residuals",
}

QUICK = ("whole", "text", "complement", "third", "elsewhere", "self", "random")
PRESETS: Mapping[str, tuple[str, ...]] = {"quick": QUICK, "full": (*ARMS, *CHECKS)}


def arms_of(asked: str | Sequence[str]) -> tuple[tuple[Arm, ...], tuple[str, ...]]:
    """Arms and checks by the name of a preset or by their own names, in the order of the tables; the whole patch is always one of them.

    Raises:
        PatchingError: no such preset or arm; random directions without the text swap whose length they have.
    """
    if isinstance(asked, str) and asked not in PRESETS:
        raise PatchingError(
            f"Arms are a preset, {' or '.join(map(repr, PRESETS))}, or names among {', '.join((*ARMS, *CHECKS))}; got {asked!r}."
        )
    names = {"whole", *(PRESETS[asked] if isinstance(asked, str) else asked)}
    unknown = sorted(names - {*ARMS, *CHECKS})
    if unknown or not asked:
        raise PatchingError(f"Arms are {', '.join((*ARMS, *CHECKS))}; got {unknown[0] if unknown else 'none'!r}.")
    if "random_exact" in names:
        names |= {"random"}
    if "random" in names and "text" not in names:
        raise PatchingError("Random directions are as long as the change of 'text' at each position; ask for 'text' too.")
    return tuple(arm for name, arm in ARMS.items() if name in names), tuple(name for name in CHECKS if name in names)
