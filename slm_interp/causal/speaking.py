"""What the model goes on to say after a prompt, as it is and after an intervention, so that an effect can be heard and not only measured.

    found = causal.continuations(slm, case, LogitLens(slm), layer=5)     # after the corrupted prompt, the clean one, and each arm
    found.listen(vocoder)                                                # players beside each other

1. What each arm writes at the layer is made by `writing.run_of` and `writing.written`, as in the experiment, at dose 1.
2. A run reads its prompt once, with the arm's residuals put in, and keeps the keys and values of every block: each unit said later attends to the edited
   prompt, at every step (`hooked.run_on`). On TransformerLens 4.x, which keeps none, the whole row is run anew for each unit, and edited each time.
3. The next unit is the likeliest speech id; where repeats are merged (`streams.repeats_are_merged`) no unit follows itself; units to `avoid` are passed
   over. With a seed it is drawn: argmax of log p plus Gumbel noise. A step has the same noise in every run, so runs that expect the same say the same,
   and what differs is the intervention.
4. What was said is read again after the corrupted prompt with nothing put in, whole: what the edit adds to the log p of each unit, given those before it.

Runs are made one by one, so that an arm that writes what stands there (`self`) says bit by bit what the prompt says (on 4.x up to the rounding of longer
rows). What it cannot show: greedy speech is one path, and a path that parts at one unit goes its own way from there; the size of an effect is what
`causal.run` measures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from slm_interp import hooked
from slm_interp.causal.arms import ARMS, CHECKS, Arm
from slm_interp.causal.cases import Case
from slm_interp.causal.experiment import Plan, plan
from slm_interp.causal.spoken import UNEDITED, Continuations, prompts_of
from slm_interp.causal.writing import Asked, run_of, written
from slm_interp.errors import PatchingError, VocabularyError
from slm_interp.hooked.installed import VERSION
from slm_interp.model import SpeechTextModel
from slm_interp.patching import outcomes
from slm_interp.patching.measuring import finite, logits_at
from slm_interp.patching.policies import Policy, name_of
from slm_interp.streams import repeats_are_merged

HEARD = ("whole", "text", "complement")


@dataclass(frozen=True, eq=False)
class Sayable:
    """Which ids may be said.

    Args:
        ids: of speech, ascending.
        allowed: those that are not avoided.
        merged: no unit follows itself.
    """

    ids: Int[Tensor, " id"]
    allowed: Bool[Tensor, " id"]
    merged: bool

    def next(self, log_probs: Float[Tensor, " id"], before: int, noise: Float[Tensor, " id"] | None) -> int:
        """The place among `ids` of what is said after an id."""
        scores = log_probs.double() if noise is None else log_probs.double() + noise
        may = self.allowed & (self.ids != before) if self.merged else self.allowed
        return int(scores.masked_fill(~may, float("-inf")).argmax())


@dataclass(frozen=True, eq=False)
class Edit:
    """What is put in at some positions of a prompt, after so many blocks."""

    layer: int
    pos: Int[Tensor, " at"]
    values: Float[Tensor, "at d_model"]

    @property
    def hooks(self) -> list[tuple[str, Any]]:
        """That put it in, in a run of one row."""
        writes = hooked.Writes(torch.zeros_like(self.pos), self.pos, self.values)
        return [(hooked.hook_at("resid_post", self.layer), lambda resid, hook: writes.into(resid))]


def continuations(
    slm: SpeechTextModel,
    case: Case,
    basis: Any,
    layer: int,
    arms: Sequence[str] = HEARD,
    units: int = 40,
    policy: str | Policy | None = None,
    seed: int | None = None,
    avoid: Sequence[int] = (),
) -> Continuations:
    """What the model says after the corrupted prompt, after the clean one, and after the corrupted one with each arm's residuals in it.

    Args:
        basis: one lens, probe or other basis.
        layer: of `resid_post`, blocks run, 1 to n_layers.
        arms: names in `causal.ARMS`, of those that write at one layer of the prompts that are heard; dose 1.
        units: how many are said.
        policy: how spans of unequal length meet, as in `causal.plan`.
        seed: None says the likeliest unit every time; a number draws.
        avoid: units that are not said, such as `UnitVocoder.unheard`.

    Raises:
        PatchingError: what `causal.plan` refuses; an arm that no speech can follow, or that the case does not have; fewer than one unit, or more than
            the model reads; a model whose speech is not one stream of units; nothing left to say.
        VocabularyError: units to avoid that the model does not have.
    """
    names = (arms,) if isinstance(arms, str) else tuple(arms)
    _check_arms(case, names)
    _check_stream(slm, units)
    made = plan(
        slm, [case], [basis] if hasattr(basis, "name") else basis, [layer], names or ("whole",), policy, outcomes.difference(units=1)
    )
    if len(made.bases) > 1:
        raise PatchingError(f"Speech is heard after one basis at a time; got {[one.name for one in made.bases]}.")
    _check_length(slm, case, units)
    sayable = _sayable(slm, case, avoid)
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    noise = None if generator is None else _gumbel((units, len(sayable.ids)), generator)
    runs: dict[str, tuple[str, Int[Tensor, " pos"], Edit | None]] = {
        name: ("", getattr(case.contrast, name).tokens, None) for name in UNEDITED
    }
    runs |= {one.arm.name: (one.basis, case.base.tokens, Edit(layer, one.stands.pos, one.values[0])) for one in _written(made, case, names)}
    rows = []
    for name, (own, tokens, edit) in runs.items():
        said, log_probs = said_after(slm, tokens, units, sayable, edit, noise)
        plain = _unedited(slm, case.base.tokens, said, sayable)
        rows.append(
            pd.DataFrame(
                {
                    "case": case.name,
                    "run": name,
                    "basis": own,
                    "layer": layer,
                    "step": range(units),
                    "unit": slm.vocabulary.id_to_unit(said, slm.vocabulary.codebooks[0]).numpy(),
                    "log_prob": log_probs.numpy(),
                    "log_prob_unedited": plain.numpy(),
                }
            )
        )
    return Continuations(pd.concat(rows, ignore_index=True), prompts_of(slm, case), _about(made, case, sayable, seed, avoid))


@torch.no_grad()
def said_after(
    slm: SpeechTextModel,
    prompt: Int[Tensor, " pos"],
    units: int,
    sayable: Sayable,
    edit: Edit | None = None,
    noise: Float[Tensor, "unit id"] | None = None,
) -> tuple[Int[Tensor, " unit"], Float[Tensor, " unit"]]:
    """Ids that one run says, and the log-probability of each over the speech ids, in nats.

    Args:
        edit: put in while the prompt is read.
        noise: added to the log-probabilities of each step before the greatest is taken.

    Raises:
        PatchingError: logits that are not finite.
    """
    tokens, past, log_probs = prompt, None, []
    hooks = [] if edit is None else edit.hooks
    for step in range(units):
        last, past = hooked.run_on(slm.model, tokens[None], hooks, past)
        found = finite(hooked.widened(logits_at(slm, last[0], sayable.ids)), "the next unit").log_softmax(-1).cpu()
        place = sayable.next(found, int(tokens[-1]), None if noise is None else noise[step])
        log_probs.append(found[place])
        tokens = torch.cat([tokens, sayable.ids[place : place + 1].to(tokens)])
    return tokens[len(prompt) :].cpu(), torch.stack(log_probs).double()


@torch.no_grad()
def _unedited(slm: SpeechTextModel, prompt: Int[Tensor, " pos"], said: Int[Tensor, " unit"], sayable: Sayable) -> Float[Tensor, " unit"]:
    """Log-probability of each unit after a prompt as it is and the units before it: one whole forward."""
    last = hooked.last_residuals(slm.model, torch.cat([prompt, said[:-1].to(prompt)])[None])[0, len(prompt) - 1 :]
    found = finite(hooked.widened(logits_at(slm, last, sayable.ids)), "the next unit").log_softmax(-1).cpu()
    return found.gather(-1, torch.searchsorted(sayable.ids, said)[:, None])[:, 0].double()


def _written(made: Plan, case: Case, names: Sequence[str]) -> list[Any]:
    """What the arms write, at dose 1."""
    arms = [replace(ARMS[name], doses=(1.0,)) for name in names]
    asked = Asked(made.slm, made.layers, made.bases, made.outcomes, made.background, hooked.MEMORY, False, lambda cells: None)
    return list(written(asked, case, run_of(asked, case, made.policy), arms))


def _gumbel(shape: tuple[int, int], generator: torch.Generator) -> Float[Tensor, "unit id"]:
    return -torch.empty(shape, dtype=torch.float64).exponential_(generator=generator).log()


def _sayable(slm: SpeechTextModel, case: Case, avoid: Sequence[int]) -> Sayable:
    vocabulary, prompts = slm.vocabulary, (case.base, case.source)
    ids = vocabulary.mask("speech").nonzero().flatten()
    passed = vocabulary.unit_to_id(torch.tensor(list(avoid), dtype=torch.long), vocabulary.codebooks[0])
    allowed, merged = ~torch.isin(ids, passed), repeats_are_merged(vocabulary, [one.tokens for one in prompts])
    if int(allowed.sum()) < 1 + merged:
        raise PatchingError(f"Of {len(ids)} units {len(set(avoid))} are avoided: nothing is left to say. Avoid fewer.")
    return Sayable(ids, allowed, merged)


def _about(made: Plan, case: Case, sayable: Sayable, seed: int | None, avoid: Sequence[int]) -> dict[str, Any]:
    slm, first = made.slm, made.bases[0]
    return {
        "words": {"clean": case.words.clean, "corrupted": case.words.corrupted},
        "basis": {"name": first.name, **first.settings},
        "policy": name_of(made.policy),
        "seed": seed,
        "avoid": sorted(set(map(int, avoid))),
        "merged": sayable.merged,
        "quantiser": slm.vocabulary.quantiser,
        "dtype": str(slm.model.cfg.dtype),
        "provenance": dict(slm.provenance),
        "versions": {"transformer-lens": VERSION, "torch": torch.__version__},
    }


# -- what is refused -------------------------------------------------------------------------------------


def _check_arms(case: Case, names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        raise PatchingError(f"An arm is heard once; got {list(names)}.")
    for name in names:
        reason = _why_not(name, case)
        if reason:
            raise PatchingError(f"Case {case.name!r}: nothing can be said after arm {name!r}: {reason}.")


def _why_not(name: str, case: Case) -> str:
    if name in CHECKS:
        return "it is a check over many directions and no run of its own"
    if name not in ARMS:
        return f"there is no such arm, but {', '.join(ARMS)}"
    arm = ARMS[name]
    return NO_SPEECH[arm.how] or (
        "it is asked of the prompts that are text; take case.as_text() and 'whole' or 'text'"
        if arm.written
        else "its subspace is measured on the prompts of all cases of an experiment, and here is one"
        if name == "variance"
        else _lacking(arm, case)
    )


def _lacking(arm: Arm, case: Case) -> str:
    return "" if arm.has(case) else f"the case has no {arm.needs.replace('_', ' ')}"


NO_SPEECH: Mapping[str, str] = {
    "patch": "",
    "direct": "its later blocks are frozen to those of a run that has said something else by then",
    "band": "it writes at several layers; ask each layer for itself",
}


def _check_stream(slm: SpeechTextModel, units: int) -> None:
    books, turns = slm.vocabulary.codebooks, slm.prompts.alternation
    if len(books) != 1:
        raise VocabularyError(
            f"Speech can be heard after an intervention where it is one stream of units; this vocabulary has codebooks {list(books) or 'none'}. "
            "Frames of several codes, or streams merged by time, would need their turns."
        )
    if units < 1 or (turns is not None and units > turns[1]):
        most = "" if turns is None else f", at most {turns[1]}, after which this family's turn of text comes"
        raise PatchingError(f"One unit or more is said{most}; got units={units}.")


def _check_length(slm: SpeechTextModel, case: Case, units: int) -> None:
    longest, reads = max(len(case.base), len(case.source)), slm.model.cfg.n_ctx
    if longest + units - 1 > reads:
        raise PatchingError(
            f"The model reads at most {reads} positions; case {case.name!r} has {longest}, which leaves {max(0, reads - longest + 1)} units; got {units}."
        )
