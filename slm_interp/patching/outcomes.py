"""What is measured of a run: from logits at the continuation to one number a run.

An outcome says which continuations are read, over which ids their logits are normalised, and how the numbers become one. It sees no model:
`measuring.py` lays the continuations out, runs them, and hands over `Read`. All of them have gradients but `rank`.

| outcome | is | unit |
|---|---|---|
| `difference()` | log p(answer) - log p(distractor), whole sequences, teacher-forced | nats |
| `difference(units=1)` | the same of the first unit alone; both read one position, so nothing is appended | nats |
| `log_prob()` | log p(answer) | nats |
| `logit_difference()` | logit of the first unit of the answer minus that of the distractor: linear in what the unembedding reads | logits |
| `kl()` | KL of this run from the clean run, mean over the positions of the answer: how much is damaged | nats |
| `rank()` | mid-rank of the first unit of the answer, 0 is the top | ranks |

`among="speech"` normalises over the speech ids alone, so that probability that moves to text or markers is no effect on which unit is said; `"joint"`
normalises over all live ids. A function of the user's own is wrapped in `Outcome`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from slm_interp import metrics
from slm_interp.errors import PatchingError
from slm_interp.utterance import Contrast
from slm_interp.vocabulary import JointVocabulary

Continuation: TypeAlias = Literal["answer", "distractor"]
Among: TypeAlias = Literal["speech", "joint"]


@dataclass(frozen=True, eq=False)
class Read:
    """What an outcome is given, of several runs at once.

    Args:
        logits: by continuation; `logits[..., i, :]` predicts unit `i` of it, over the ids of `Outcome.among` in their order.
        targets: by continuation; its units as places among those ids.
        reference: as `logits`, of the clean prompt itself; there if the outcome asks for it.
    """

    logits: Mapping[str, Float[Tensor, "*run unit id"]]
    targets: Mapping[str, Int[Tensor, " unit"]]
    reference: Mapping[str, Float[Tensor, "unit id"]] | None = None

    def log_prob(self, continuation: Continuation) -> Float[Tensor, "*run"]:
        """Log-probability of a continuation, summed over its units, in nats, over the ids that are read."""
        normed = metrics.log_probs(self.logits[continuation])
        targets = self.targets[continuation].to(normed.device)
        return normed.gather(-1, targets.expand(normed.shape[:-1])[..., None])[..., 0].sum(-1)


@dataclass(frozen=True, eq=False)
class Outcome:
    """A number of a run, and what has to be read for it.

    Args:
        name: what a result calls it, options included.
        score: from `Read` to one number a run.
        unit: of that number.
        continuations: which ones are appended and read.
        units: how many units of each; None is all. With 1 nothing is appended.
        among: ids that are read: `"speech"` or `"joint"`.
        reference: whether `Read.reference` is needed.
    """

    name: str
    score: Callable[[Read], Float[Tensor, "*run"]]
    unit: str
    continuations: tuple[Continuation, ...] = ("answer", "distractor")
    units: int | None = None
    among: Among = "speech"
    reference: bool = False

    def __post_init__(self) -> None:
        known = ("answer", "distractor")
        if not self.continuations or set(self.continuations) - set(known) or self.among not in ("speech", "joint"):
            raise PatchingError(
                f"An outcome reads continuations among {', '.join(known)}, over 'speech' or 'joint' ids; got {self.continuations} "
                f"over {self.among!r}."
            )
        if self.units is not None and self.units < 1:
            raise PatchingError(f"An outcome reads one unit or more; got units={self.units}.")

    def targets(self, contrast: Contrast) -> dict[str, Int[Tensor, " unit"]]:
        """The ids of every continuation that is read, cut to `units`.

        Raises:
            PatchingError: fewer units than `units` asks for.
        """
        found = {name: getattr(contrast, name) for name in self.continuations}
        for name, ids in found.items():
            if self.units is not None and len(ids) < self.units:
                raise PatchingError(f"The outcome {self.name!r} reads {self.units} units of each continuation; the {name} has {len(ids)}.")
        return {name: ids[: self.units].long() for name, ids in found.items()}

    def ids(self, vocabulary: JointVocabulary) -> Int[Tensor, " id"]:
        """The ids that are read, ascending."""
        mask: Bool[Tensor, " d_vocab"] = vocabulary.mask("speech") if self.among == "speech" else ~vocabulary.mask("dead")
        return mask.nonzero().flatten()

    def places(self, contrast: Contrast, vocabulary: JointVocabulary) -> dict[str, Int[Tensor, " unit"]]:
        """The units of every continuation as places among `ids`.

        Raises:
            PatchingError: a continuation with an id that is not read: no speech, or a dead row.
        """
        ids, found = self.ids(vocabulary), {}
        for name, wanted in self.targets(contrast).items():
            vocabulary.check_ids(wanted)
            outside = wanted[~torch.isin(wanted, ids)]
            if len(outside):
                raise PatchingError(
                    f"The {name} has id {int(outside[0])}, which is {vocabulary.kind_of(int(outside[0]))}; the outcome {self.name!r} reads "
                    f"{self.among} ids. Give units of speech, or choose among='joint'."
                )
            found[name] = torch.searchsorted(ids, wanted)
        return found


def covering(outcomes: Sequence[Outcome]) -> Outcome:
    """An outcome whose runs are enough for several others, each of which is then read by way of `narrowed`.

    Raises:
        PatchingError: none, two of one name, or outcomes over different ids, which are not read of one run.
    """
    names = [one.name for one in outcomes]
    if not outcomes or len(set(names)) < len(names) or len({one.among for one in outcomes}) > 1:
        raise PatchingError(
            f"Outcomes that share their runs are one or more, of different names, all over 'speech' or all over 'joint' ids; got {names}."
        )
    units = [one.units for one in outcomes]
    most = None if None in units else max(one for one in units if one is not None)
    read = tuple(dict.fromkeys(name for one in outcomes for name in one.continuations))
    first = outcomes[0]
    return Outcome(", ".join(names), first.score, first.unit, read, most, first.among, any(one.reference for one in outcomes))


def narrowed(read: Read, outcome: Outcome) -> Read:
    """What was read for `covering`, cut to the units and continuations of one of its outcomes."""
    stop, own = slice(outcome.units), outcome.continuations
    reference: dict[str, Tensor] | None = None if read.reference is None else {name: read.reference[name][stop] for name in own}
    return Read({name: read.logits[name][..., stop, :] for name in own}, {name: read.targets[name][stop] for name in own}, reference)


def read_within(cover: Outcome, outcome: Outcome) -> Outcome:
    """One of the outcomes that another covers, as an outcome of the runs laid out for that."""
    return replace(cover, name=outcome.name, unit=outcome.unit, score=lambda read: outcome.score(narrowed(read, outcome)))


def difference(units: int | None = None, among: Among = "speech") -> Outcome:
    """log p(answer) - log p(distractor), each summed over its units (all, or the first `units`).

    Whole words of unequal length differ in how many factors they have: compare conditions, not signs, or choose `units`.
    """
    return Outcome(
        _named("difference", units, among),
        lambda read: read.log_prob("answer") - read.log_prob("distractor"),
        "nats",
        units=units,
        among=among,
    )


def log_prob(units: int | None = None, among: Among = "speech") -> Outcome:
    """log p(answer), summed over its units."""
    return Outcome(_named("log_prob", units, among), lambda read: read.log_prob("answer"), "nats", ("answer",), units, among)


def logit_difference() -> Outcome:
    """Logit of the first unit of the answer minus that of the distractor; no softmax."""

    def score(read: Read) -> Tensor:
        first = {name: logits[..., 0, :] for name, logits in read.logits.items()}
        answer, distractor = (first[name][..., int(read.targets[name][0])] for name in ("answer", "distractor"))
        return answer - distractor

    return Outcome("logit_difference(units=1)", score, "logits", units=1)


def kl(units: int | None = None, among: Among = "speech") -> Outcome:
    """KL(clean run || this run) in nats, mean over the positions that predict the answer; 0 for the clean run."""

    def score(read: Read) -> Tensor:
        if read.reference is None:
            raise PatchingError("KL is from the clean run; no reference was given.")
        found = read.logits["answer"]
        return metrics.kl_divergence(read.reference["answer"].to(found).expand_as(found), found).mean(-1)

    return Outcome(_named("kl", units, among), score, "nats", ("answer",), units, among, reference=True)


def rank(among: Among = "speech") -> Outcome:
    """Mid-rank of the first unit of the answer among the ids read, 0 at the top. No gradients: it counts."""
    return Outcome(
        _named("rank", 1, among),
        lambda read: metrics.rank(read.logits["answer"][..., 0, :], int(read.targets["answer"][0])),
        "ranks",
        ("answer",),
        1,
        among,
    )


def _named(name: str, units: int | None, among: Among) -> str:
    options = [] if units is None else [f"units={units}"]
    return f"{name}({', '.join(options + ([] if among == 'speech' else [f'among={among!r}']))})"
