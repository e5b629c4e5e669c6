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
| `third`, `phonetic`, `semantic` | the word | as `text`, with a third word, or a neighbour of A, in the place of A |
| `elsewhere` | where neither is heard | as `text` |
| `self` | the word | `x`: nothing may change |
| `other_voice` | the word | the residuals of the same word B in another voice, through the pairing policy |
| `written_whole`, `written_text` | the word in prompts that are text | as `whole` and `text` |

`elsewhere`, `other_voice`, neighbours and prompts that are text are there where a case has them. Directions of a word in several spellings are several
pairs, exchanged together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from slm_interp.causal.cases import Case
from slm_interp.errors import PatchingError
from slm_interp.patching.interventions import ComplementOnly, CopyCoordinates, Dosed, Erase, Interchange, Intervention, SwapCoordinates

Place: TypeAlias = Literal["word", "self", "voice", "elsewhere"]
"""Where an arm writes, and what it may take: the clean run's residuals, the run's own, those of another voice, or none."""

Pairs: TypeAlias = "tuple[Float[Tensor, 'pair d_model'], Float[Tensor, 'pair d_model']]"
"""Directions of a first and of a second word, one row for each spelling."""

Taken: TypeAlias = "Float[Tensor, 'at d_model'] | None"
Make: TypeAlias = Callable[[Taken, "Pairs | None"], Intervention]

DOSES = (-1.0, -0.5, 0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Arm:
    """A row of the table above.

    Args:
        name: in results.
        says: what it tells, in a few words.
        make: the intervention, from what is taken and the directions of two words.
        place: where it writes and what it takes.
        first: the word of `Words` whose directions are exchanged with those of the corrupted word; empty for an arm of no basis.
        needs: the field of a case, or of its words, without which the case cannot have it.
        doses: multiples of the change.
        written: asked of the prompts that are text.
    """

    name: str
    says: str
    make: Make
    place: Place = "word"
    first: str = "clean"
    needs: str = ""
    doses: tuple[float, ...] = (1.0,)
    written: bool = False

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

    def intervention(self, taken: Taken, pairs: Pairs | None, dose: float) -> Intervention:
        """What it does at one layer."""
        made = self.make(taken, pairs)
        return made if dose == 1.0 else Dosed(made, dose)


def _interchanged(taken: Taken, pairs: Pairs | None) -> Intervention:
    assert taken is not None
    return Interchange(taken)


def _swapped(taken: Taken, pairs: Pairs | None) -> Intervention:
    assert pairs is not None
    return SwapCoordinates(*pairs)


def _copied(taken: Taken, pairs: Pairs | None) -> Intervention:
    assert taken is not None and pairs is not None
    return CopyCoordinates(torch.cat(pairs), taken)


def _complement(taken: Taken, pairs: Pairs | None) -> Intervention:
    assert taken is not None and pairs is not None
    return ComplementOnly(torch.cat(pairs), taken)


def _erased(taken: Taken, pairs: Pairs | None) -> Intervention:
    assert pairs is not None
    return Erase(torch.cat(pairs))


ARMS: Mapping[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm("whole", "everything there: the ceiling", _interchanged, first=""),
        Arm("text", "the two words' coordinates exchanged", _swapped, doses=DOSES),
        Arm("copied", "the clean run's coordinates in the words' span", _copied),
        Arm("complement", "everything but those coordinates", _complement),
        Arm("erased", "no coordinates in the words' span", _erased),
        Arm("third", "a third word in the place of the clean one", _swapped, first="third", needs="third"),
        Arm("phonetic", "a word near in sound in its place", _swapped, first="phonetic", needs="phonetic"),
        Arm("semantic", "a word near in meaning in its place", _swapped, first="semantic", needs="semantic"),
        Arm("elsewhere", "the exchange where neither word is heard", _swapped, "elsewhere", needs="elsewhere"),
        Arm("self", "what stands there: exactly nothing", _interchanged, "self", first=""),
        Arm("other_voice", "the same word in another voice", _interchanged, "voice", first="", needs="other_voice"),
        Arm("written_whole", "the ceiling in prompts that are text", _interchanged, first="", needs="written", written=True),
        Arm("written_text", "the exchange in prompts that are text", _swapped, needs="written", written=True),
    )
}

QUICK = ("whole", "text", "complement", "third", "elsewhere", "self")
PRESETS: Mapping[str, tuple[str, ...]] = {"quick": QUICK, "full": tuple(ARMS)}


def arms_of(asked: str | Sequence[str]) -> tuple[Arm, ...]:
    """Arms by the name of a preset or by their own names, in the order of the table; the whole patch is always one of them.

    Raises:
        PatchingError: no such preset or arm.
    """
    if isinstance(asked, str) and asked not in PRESETS:
        raise PatchingError(f"Arms are a preset, {' or '.join(map(repr, PRESETS))}, or names among {', '.join(ARMS)}; got {asked!r}.")
    names = PRESETS[asked] if isinstance(asked, str) else tuple(asked)
    unknown = [name for name in names if name not in ARMS]
    if unknown or not names:
        raise PatchingError(f"Arms are {', '.join(ARMS)}; got {unknown[0] if unknown else 'none'!r}.")
    return tuple(arm for name, arm in ARMS.items() if name in {"whole", *names})
