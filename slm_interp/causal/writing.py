"""One case, run: its prompts, what stands at the positions of every arm, what each arm writes there, and what comes of it.

1. The corrupted prompt (base), the clean one (source) and the corrupted words in another voice are run once.
2. Of each place an arm may write at, positions and what may be taken are laid out at every layer: positions of the pairing policy, values from its weights.
3. For every arm, basis and dose an intervention makes the residuals, layer by layer.
4. All of them are patches of one pass of `patching.engine`: exact, batched, nothing below the layer or before the word run again.
5. Prompts that are text, where an arm asks for them, are a case of their own under the same name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from slm_interp import hooked
from slm_interp.causal.arms import Arm, Pairs
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
    """

    base: Ran
    source: Ran
    stream: Float[Tensor, "layer pos d_model"]
    source_stream: Float[Tensor, "layer source_pos d_model"]
    places: dict[str, Stands]


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


def run_of(slm: SpeechTextModel, case: Case, layers: Sequence[int], policy: Policy, outcomes: Sequence[Outcome]) -> Runs:
    """Run the prompts of a case and lay out what stands where."""
    outcome, chosen = covering(outcomes), list(layers)
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
    return Runs(base, source, here, there, places)


def written(case: Case, runs: Runs, layers: Sequence[int], arms: Sequence[Arm], bases: Sequence[Basis]) -> Iterator[Written]:
    """What every arm that the case has writes, for every basis and dose."""
    found: dict[tuple[str, int, str], Pairs] = {}

    def pairs(basis: Basis, layer: int, word: str) -> Pairs:
        key = (basis.name, layer, word)
        if key not in found:
            found[key] = basis.pairs(layer, word, case.words.corrupted)
        return found[key]

    for arm in arms:
        if not arm.has(case):
            continue
        stands = runs.places[arm.place]
        for basis in bases if arm.of_basis else (None,):
            for dose in arm.doses:
                values = torch.stack(
                    [
                        _made(case, arm, stands, number, None if basis is None else pairs(basis, layer, arm.first_word(case)), dose)
                        for number, layer in enumerate(layers)
                    ]
                )
                yield Written(arm, "" if basis is None else basis.name, dose, stands, values)


def _made(case: Case, arm: Arm, stands: Stands, number: int, pairs: Pairs | None, dose: float) -> Float[Tensor, "at d_model"]:
    taken = None if stands.taken is None else stands.taken[number]
    try:
        return arm.intervention(taken, pairs, dose)(stands.base[number][None], None)[0]
    except PatchingError as error:
        raise PatchingError(f"Case {case.name!r}, arm {arm.name!r}: {error}") from error


def table_of(
    slm: SpeechTextModel,
    case: Case,
    runs: Runs,
    layers: Sequence[int],
    put_in: Sequence[Written],
    outcomes: Sequence[Outcome],
    memory: int,
    done: Callable[[int], object],
) -> pd.DataFrame:
    """One row for every layer, arm, basis, dose and outcome of a case.

    Raises:
        PatchingError: an outcome that is not finite; a patch of what stands there already that changes something.
    """
    reference = runs.source.logits if any(one.reference for one in outcomes) else None
    patches = [Patch(one.stands.pos, one.values[:, None]) for one in put_in]
    grid = Grid("resid_post", layers, None, memory)
    found = patched_for(slm, runs.base, patches, runs.stream[:, None], grid, outcomes, reference, done)[:, :, 0].numpy()
    ends = [[score(one, run, reference) for one in outcomes] for run in (runs.base, runs.source)]
    rows: list[dict[str, Any]] = []
    for number, one in enumerate(put_in):
        moved = one.moved.tolist()
        if one.arm.name == "self" and any(moved):
            raise PatchingError(f"Case {case.name!r}: what stands there already was put in and is something else. Positions do not match.")
        for place, layer in enumerate(layers):
            for which, outcome in enumerate(outcomes):
                base, source, value = ends[0][which], ends[1][which], float(found[place, number, which])
                if one.arm.name == "self" and value != base:
                    raise PatchingError(f"Case {case.name!r}: nothing was changed, and {outcome.name} moved from {base} to {value}.")
                rows.append(
                    {"basis": one.basis, "layer": layer, "arm": one.arm.name, "dose": one.dose, "outcome": outcome.name}
                    | {"base": base, "source": source, "value": value, "effect": value - base, "moved": moved[place]}
                )
    return pd.DataFrame(rows)


def reading_of(case: Case, runs: Runs, layers: Sequence[int], bases: Sequence[Basis], candidates: Sequence[str]) -> pd.DataFrame:
    """What each basis itself says at the word: one row for every basis and layer.

    `margin` is its score of the clean word less that of the corrupted one, in the clean run, less the same in the corrupted run; each score is the greatest
    over the positions of the word. `rank` is that of the clean word among the candidates in the clean run, from 0, those equal to it half; `heard`: it is 0.
    """
    rows, words = [], list(dict.fromkeys([case.words.clean, case.words.corrupted, *candidates]))
    clean, corrupted = runs.source_stream[:, list(case.span.clean)], runs.stream[:, list(case.span.corrupted)]
    for basis in bases:
        for number, layer in enumerate(layers):
            said, other = (basis.score(one[number], layer, words).amax(0).double() for one in (clean, corrupted))
            margin = float((said[0] - said[1]) - (other[0] - other[1]))
            rank = float((said > said[0]).sum()) + float((said[1:] == said[0]).sum()) / 2
            rows.append({"basis": basis.name, "layer": layer, "margin": margin, "rank": rank, "heard": rank == 0})
    return pd.DataFrame(rows)
