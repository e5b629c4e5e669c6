"""One case, run: its prompts, what stands at the positions of every arm, what each arm writes there, and what comes of it.

1. The corrupted prompt (base), the clean one (source) and the corrupted words in another voice are run once.
2. Of each place an arm may write at, positions and what may be taken are laid out at every layer: positions of the pairing policy, values from its weights.
3. For every arm, basis and dose an intervention makes the residuals, layer by layer.
4. All of them are patches of one pass of `patching.engine`: exact, batched, nothing below the layer or before the word run again.
5. Prompts that are text, where an arm asks for them, are a case of their own under the same name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from slm_interp import hooked
from slm_interp.causal.arms import Arm, AtLayer, Pairs
from slm_interp.causal.background import Background
from slm_interp.causal.bases import Basis
from slm_interp.causal.cases import Case, Heard
from slm_interp.errors import PatchingError
from slm_interp.model import SpeechTextModel
from slm_interp.patching.contrasts import alike_until
from slm_interp.patching.engine import Grid, Patch, Ran, patched_for, ran, score
from slm_interp.patching.outcomes import Outcome, covering
from slm_interp.patching.policies import Pairing, Policy, Stretch, warped, warped_in_time


@dataclass(frozen=True, eq=False)
class Stands:
    """What stands at the positions that an arm writes, and what it may take from another run.

    Args:
        pos: of the changed prompt.
        base: what stands there.
        taken: in the order of `pos`.
    """

    pos: Int[Tensor, " at"]
    base: Float[Tensor, "layer at d_model"]
    taken: Float[Tensor, "layer at d_model"] | None


@dataclass(frozen=True, eq=False)
class Runs:
    """A case that was run.

    Args:
        base, source: its two prompts.
        stream: of the base prompt, `source_stream` of the source prompt, at the layers asked.
        places: by the names in `arms.Place`; those that the case has.
        outcomes: that are read.
    """

    base: Ran
    source: Ran
    stream: Float[Tensor, "layer pos d_model"]
    source_stream: Float[Tensor, "layer source_pos d_model"]
    places: dict[str, Stands]
    outcomes: Sequence[Outcome]

    @cached_property
    def reference(self) -> Mapping[str, Tensor] | None:
        """The clean run's logits, where an outcome compares with them."""
        return self.source.logits if any(one.reference for one in self.outcomes) else None

    @cached_property
    def ends(self) -> list[list[float]]:
        """The outcomes of the base and of the source prompt as they are."""
        return [[score(one, run, self.reference) for one in self.outcomes] for run in (self.base, self.source)]


@dataclass(frozen=True, eq=False)
class Written:
    """What one arm writes at every layer."""

    arm: Arm
    basis: str
    dose: float
    stands: Stands
    values: Float[Tensor, "layer at d_model"]

    @property
    def moved(self) -> Float[Tensor, " layer"]:
        """Length of the change over length of what stood there, mean over positions."""
        base = hooked.widened(self.stands.base)
        return ((hooked.widened(self.values) - base).norm(dim=-1) / base.norm(dim=-1)).mean(-1)


@dataclass(frozen=True, eq=False)
class Asked:
    """What is asked of every case.

    Args:
        slm: the model.
        layers: blocks run.
        bases: of directions.
        outcomes: read from the same runs.
        background: what controls are told of all prompts.
        memory: bytes that a batch of runs may take.
        distance: whether distances from natural residuals are told.
        done: told how many cells were finished.
    """

    slm: SpeechTextModel
    layers: Sequence[int]
    bases: Sequence[Basis]
    outcomes: Sequence[Outcome]
    background: Background
    memory: int
    distance: bool
    done: Callable[[int], object]


def pairing_of(case: Case, policy: Policy, source: Heard | None = None) -> Pairing:
    """Which positions of the base prompt take what of the source, the clean prompt where no other is given.

    Prompts that are text take no time: `warped_in_time` is `warped` there.

    Raises:
        PatchingError: spans that do not meet under the policy; the case is named.
    """
    own = source or Heard(case.source, case.span.clean)
    text = policy is warped_in_time and float(case.base.edges[-1]) == float(case.base.edges[0])
    try:
        return (warped if text else policy)(Stretch(own.prompt, own.span), Stretch(case.base, case.span.corrupted))
    except PatchingError as error:
        raise PatchingError(f"Case {case.name!r}: {error}") from error


def elsewhere_of(case: Case, pairing: Pairing) -> Int[Tensor, " at"] | None:
    """The positions elsewhere that lie as the written ones lie in the word.

    Raises:
        PatchingError: a stretch that is not as long as the word.
    """
    if case.elsewhere is None:
        return None
    if len(case.elsewhere) != len(case.span.corrupted):
        raise PatchingError(
            f"Case {case.name!r}: elsewhere is as long as the word, {len(case.span.corrupted)} positions; got {len(case.elsewhere)}."
        )
    return pairing.base - case.span.corrupted.start + case.elsewhere.start


def run_of(asked: Asked, case: Case, policy: Policy) -> Runs:
    """Run the prompts of a case and lay out what stands where."""
    slm, outcome, chosen = asked.slm, covering(asked.outcomes), list(asked.layers)
    base, source = (ran(slm, prompt, case.contrast, outcome) for prompt in (case.base, case.source))
    here, there = (one.kept.stream[chosen, 0, : one.laid.prompt] for one in (base, source))
    alike = alike_until(case.contrast)
    there[:, :alike] = here[:, :alike]  # one computation, rounded twice where the prompts differ in length
    pairing = pairing_of(case, policy)
    at = here[:, pairing.base]
    places = {"word": Stands(pairing.base, at, pairing.values(there, here)), "self": Stands(pairing.base, at, at)}
    elsewhere = elsewhere_of(case, pairing)
    if elsewhere is not None:
        places["elsewhere"] = Stands(elsewhere, here[:, elsewhere], None)
    if case.other_voice is not None:
        voice = pairing_of(case, policy, case.other_voice)
        spoken = hooked.residuals(slm.model, slm.check(case.other_voice.prompt).tokens)[chosen]
        places["voice"] = Stands(voice.base, here[:, voice.base], voice.values(spoken, here))
    return Runs(base, source, here, there, places, asked.outcomes)


class Directions:
    """Directions of two words by basis and layer, each made once."""

    def __init__(self, case: Case) -> None:
        self.case, self.found = case, dict[tuple[str, int, str], Pairs]()

    def __call__(self, basis: Basis, layer: int, arm: Arm) -> Pairs:
        """Those that an arm exchanges."""
        word = arm.first_word(self.case)
        key = (basis.name, layer, word)
        if key not in self.found:
            self.found[key] = basis.pairs(layer, word, self.case.words.corrupted)
        return self.found[key]


def at_layer(asked: Asked, runs: Runs, arm: Arm, number: int, pairs: Pairs | None) -> AtLayer:
    """What an arm has at hand at a layer, by its number among those asked."""
    stands, layer = runs.places[arm.place], asked.layers[number]
    taken = None if stands.taken is None else stands.taken[number]
    last = int(stands.pos[-1]) == runs.base.laid.prompt - 1
    read = asked.background.read(layer, last) if arm.name in ("read", "unread") else None
    natural = asked.background.natural[layer] if arm.name == "variance" else None
    return AtLayer(stands.base[number], taken, pairs, read, natural)


def written(asked: Asked, case: Case, runs: Runs, arms: Sequence[Arm]) -> Iterator[Written]:
    """What every arm that is a patch writes, for every basis and dose, where the case has the arm."""
    directions = Directions(case)
    for arm in arms:
        if not arm.has(case) or arm.how != "patch":
            continue
        for basis in asked.bases if arm.of_basis else (None,):
            for dose in arm.doses:
                made = []
                for number, layer in enumerate(asked.layers):
                    pairs = None if basis is None else directions(basis, layer, arm)
                    made.append(_made(case, arm, at_layer(asked, runs, arm, number, pairs), dose))
                yield Written(arm, "" if basis is None else basis.name, dose, runs.places[arm.place], torch.stack(made))


def _made(case: Case, arm: Arm, at: AtLayer, dose: float) -> Float[Tensor, "at d_model"]:
    try:
        return arm.intervention(at, dose)(at.there[None], None)[0]
    except PatchingError as error:
        raise PatchingError(f"Case {case.name!r}, arm {arm.name!r}: {error}") from error


def table_of(asked: Asked, case: Case, runs: Runs, put_in: Sequence[Written]) -> pd.DataFrame:
    """One row for every layer, arm, basis, dose and outcome of a case.

    Raises:
        PatchingError: an outcome that is not finite; a patch of what stands there already that changes something.
    """
    patches = [Patch(one.stands.pos, one.values[:, None]) for one in put_in]
    grid = Grid("resid_post", asked.layers, None, asked.memory)
    found = patched_for(asked.slm, runs.base, patches, runs.stream[:, None], grid, asked.outcomes, runs.reference, asked.done)[
        :, :, 0
    ].numpy()
    rows: list[dict[str, Any]] = []
    for number, one in enumerate(put_in):
        moved = one.moved.tolist()
        if one.arm.name == "self" and (any(moved) or (found[:, number] != runs.ends[0]).any()):
            raise PatchingError(f"Case {case.name!r}: what stands there already was put in, and something changed. Positions do not match.")
        for place, layer in enumerate(asked.layers):
            pos, there = one.stands.pos.tolist(), one.stands.base[place]
            far = asked.background.distances(case, layer, pos, there, one.values[place]) if asked.distance else float("nan")
            rows += rows_of(asked, runs, one.arm.name, one.basis, layer, found[place, number].tolist(), one.dose, moved[place], far)
    return pd.DataFrame(rows)


def rows_of(
    asked: Asked,
    runs: Runs,
    arm: str,
    basis: str,
    layer: int,
    values: Sequence[float],
    dose: float = 1.0,
    moved: float = float("nan"),
    distance: float = float("nan"),
) -> list[dict[str, Any]]:
    """Rows of one cell, one for each outcome."""
    cell = {"basis": basis, "layer": layer, "arm": arm, "dose": dose}
    base, source = runs.ends
    return [
        {**cell, "outcome": one.name, "base": base[which], "source": source[which], "value": values[which]}
        | {"effect": values[which] - base[which], "moved": moved, "distance": distance}
        for which, one in enumerate(asked.outcomes)
    ]


def reading_of(asked: Asked, case: Case, runs: Runs, candidates: Sequence[str]) -> pd.DataFrame:
    """What each basis itself says at the word: one row for every basis and layer.

    `margin` is its score of the clean word less that of the corrupted one, in the clean run, less the same in the corrupted run; each score is the greatest
    over the positions of the word. `rank` is that of the clean word among the candidates in the clean run, from 0, those equal to it half; `heard`: it is 0.
    """
    rows, words = [], list(dict.fromkeys([case.words.clean, case.words.corrupted, *candidates]))
    clean, corrupted = runs.source_stream[:, list(case.span.clean)], runs.stream[:, list(case.span.corrupted)]
    for basis in asked.bases:
        for number, layer in enumerate(asked.layers):
            said, other = (basis.score(one[number], layer, own).amax(0).double() for one, own in ((clean, words), (corrupted, words[:2])))
            margin = float((said[0] - said[1]) - (other[0] - other[1]))
            rank = float((said > said[0]).sum()) + float((said[1:] == said[0]).sum()) / 2
            rows.append({"basis": basis.name, "layer": layer, "margin": margin, "rank": rank, "heard": rank == 0})
    return pd.DataFrame(rows)
