"""C7, serial mediation: does the word's text act on the speech by way of the *next* word's text, and is it so in this order?

    steps = steps_of(heard, said)                       # cases about the word that is heard, and about the word that is said next
    found = serial_mediation(slm, steps, basis, layers=[3], held=[4, 5])
    found.shares(order="current first")                 # total, direct, through, alone, random

`x -> m -> y`: `x` is text that is swapped at a layer, `m` text that is held at later layers where the prompt ends (the span of the case that is
said), `y` the outcome of the corrupted prompt. All effects are changes of the outcome, from whole forwards under hooks:

1. `total`: `x` swapped, nothing held.
2. `direct`: `x` swapped, and coordinates along the directions of `m` held at what they are in the corrupted run (`CopyCoordinates` of its own residuals).
   What is left does not need `m`.
3. `through = total - direct`: what is lost when `m` cannot move (is it necessary?).
4. `alone`: `x` as it is, and coordinates of `m` set to what the swap makes of them (is it sufficient?). The natural direct and indirect effects
   of Pearl 2001 (arXiv 1301.2300) are `direct` and `alone`; Vig et al. 2020 (arXiv 2004.12265). Without interaction `alone = through`.
5. `random`: as `through`, with a change at the held places as long as that of 2. at every position, in directions drawn orthogonal to `m`. What any
   change of that size destroys is no mediation.

| order | `x`, swapped at | `m`, held at the end of the prompt |
|---|---|---|
| `current first` | text of the heard words, at the word | text of the next words |
| `next first` | text of the next words, at the end of the prompt | text of the heard words |

Where text of the current word comes before that of the next one, `through` is large in the first order and 0 in the second. `held` is one layer at a
time and all of them at once: text that later blocks write anew is not held by one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from slm_interp.causal.bases import Basis, basis_of
from slm_interp.causal.cases import Case, checked_cases
from slm_interp.causal.questions import results
from slm_interp.causal.questions.running import Bench, checked_layers
from slm_interp.errors import PatchingError
from slm_interp.lenses.lens import DirectedLens
from slm_interp.model import SpeechTextModel
from slm_interp.patching import outcomes
from slm_interp.patching.interventions import CopyCoordinates, Intervention, SwapCoordinates
from slm_interp.patching.interventions.directions import wide
from slm_interp.patching.interventions.stream import Hook
from slm_interp.patching.measuring import measure
from slm_interp.patching.outcomes import Outcome
from slm_interp.statistics import Interval
from slm_interp.utterance import Span

Order: TypeAlias = Literal["current first", "next first"]
ORDERS: tuple[Order, ...] = get_args(Order)
EFFECTS = ("total", "direct", "through", "alone", "random")


@dataclass(frozen=True, eq=False)
class Steps:
    """One contrast asked twice: about the word that is heard, and about the word that is said next.

    Args:
        heard: the words that tell the prompts apart, where they are heard.
        said: the words that each prompt goes on with, where the prompt ends.

    Raises:
        PatchingError: cases of two contrasts, or of the same words.
    """

    heard: Case
    said: Case

    def __post_init__(self) -> None:
        one, other = self.heard.contrast, self.said.contrast
        alike = all(torch.equal(getattr(one, side).tokens, getattr(other, side).tokens) for side in ("clean", "corrupted"))
        if not alike or not torch.equal(one.answer, other.answer) or not torch.equal(one.distractor, other.distractor):
            raise PatchingError(
                f"Both steps are of one contrast; {self.heard.name!r} and {self.said.name!r} have other prompts or continuations."
            )
        if _of(self.heard) & _of(self.said):
            raise PatchingError(
                f"The words that are heard and those that are said next are others; {self.heard.name!r} shares one of them."
            )


def steps_of(heard: Sequence[Case], said: Sequence[Case]) -> tuple[Steps, ...]:
    """Cases matched by their prompts and continuations; `left_out` says which have no partner, or one that shares a word.

    Raises:
        PatchingError: no two that match, or a match that is not the only one.
    """
    found = tuple(one for one in _matched(heard, said).values() if isinstance(one, Steps))
    if not found:
        raise PatchingError("No case about the heard word has the prompts of one about the next word. Build both from the same contrasts.")
    return found


def left_out(heard: Sequence[Case], said: Sequence[Case]) -> dict[str, str]:
    """The cases that `steps_of` leaves out, with the reason."""
    return {name: one for name, one in _matched(heard, said).items() if isinstance(one, str)}


def _matched(heard: Sequence[Case], said: Sequence[Case]) -> dict[str, Steps | str]:
    places: dict[tuple[tuple[int, ...], ...], list[Case]] = {}
    for case in checked_cases(said):
        places.setdefault(_key(case), []).append(case)
    found: dict[str, Steps | str] = {}
    for case in checked_cases(heard):
        partners = places.get(_key(case), [])
        if len(partners) > 1:
            raise PatchingError(
                f"{case.name!r} meets {len(partners)} cases of what is said next: {', '.join(one.name for one in partners[:3])}."
            )
        if not partners:
            found[case.name] = "no case about what is said next has its prompts and continuations"
        elif shared := _of(case) & _of(partners[0]):
            found[case.name] = f"{sorted(shared)[0]!r} is heard and said next"
        else:
            found[case.name] = Steps(case, partners[0])
    return found


def _of(case: Case) -> set[str]:
    return {case.words.clean, case.words.corrupted}


def _key(case: Case) -> tuple[tuple[int, ...], ...]:
    own = case.contrast
    return tuple(tuple(ids.tolist()) for ids in (own.clean.tokens, own.corrupted.tokens, own.answer, own.distractor))


@dataclass(frozen=True)
class Serial:
    """How much of the effect of one word's text goes by way of another's.

    Args:
        table: one row a contrast, order, swapped layer and `held`: `case prompt word basis order layer held base source ceiling`, and the effects in `EFFECTS`.
        outcome: what was measured.
        unit: of it.
    """

    table: pd.DataFrame
    outcome: str
    unit: str

    def shares(
        self, order: Order = "current first", layer: int | None = None, held: str = "all", level: float = 0.95, seed: int = 0
    ) -> dict[str, Interval]:
        """`total` as a share of the ceiling, and the other effects as shares of `total`, with clustered intervals.

        Args:
            layer: where the swap was; None is the only one there is.
            held: a layer, as the table has it, or `"all"`.

        Raises:
            StatisticsError: too few clusters, a ceiling or a total effect that is not told from 0.
            PatchingError: no such rows, or several layers to choose from.
        """
        rows = self.rows(order, layer, held)
        return results.shares(rows, ["total"], "ceiling", level, seed) | results.shares(rows, EFFECTS[1:], "total", level, seed)

    def means(
        self, order: Order = "current first", layer: int | None = None, held: str = "all", level: float = 0.95, seed: int = 0
    ) -> dict[str, Interval]:
        """Mean ceiling and effects, with clustered intervals; arguments and errors as `shares`."""
        return results.means(self.rows(order, layer, held), ["ceiling", *EFFECTS], level, seed)

    def rows(self, order: Order, layer: int | None, held: str) -> pd.DataFrame:
        """The rows of one order, swapped layer and `held`; errors as `shares`."""
        there = results.chosen(self.table, order=order, held=str(held))
        if layer is None and there["layer"].nunique() > 1:
            raise PatchingError(f"Swaps were made at layers {sorted(there['layer'].unique())}; choose one with layer=.")
        return there if layer is None else results.chosen(there, layer=layer)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a Parquet file, whole or not at all."""
        results.save_table(self.table.assign(outcome=self.outcome, unit=self.unit), path)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Serial:
        """Read a file that `save` wrote; errors as `results.load_table`."""
        table = results.load_table(path, ("order", "held", *EFFECTS))
        return Serial(table.drop(columns=["outcome", "unit"]), str(table["outcome"].iloc[0]), str(table["unit"].iloc[0]))

    def __repr__(self) -> str:
        own = self.table
        where = f"swaps at {sorted(own['layer'].unique().tolist())}, held {own['held'].unique().tolist()}"
        return f"Serial({own['case'].nunique()} contrasts, {own['basis'].iloc[0]}: {where}; {self.outcome} in {self.unit})"

    def _repr_html_(self) -> str:
        mean = self.table.groupby(["order", "layer", "held"], sort=False)[["ceiling", *EFFECTS]].mean().reset_index()
        return results.html_of(
            "Serial mediation", mean, f"Means over {self.table['case'].nunique()} contrasts, {self.outcome}, {self.unit}."
        )


def serial_mediation(
    slm: SpeechTextModel,
    steps: Sequence[Steps],
    basis: Basis | DirectedLens,
    layers: Sequence[int],
    held: Sequence[int],
    outcome: Outcome | None = None,
    draws: int = 4,
    seed: int = 0,
) -> Serial:
    """Swap one word's text with the other's held, both ways round; see the steps at the top of this file.

    Args:
        layers: of `resid_post`, in blocks run, where text is swapped, one at a time.
        held: where it is held: those above the swap, each by itself and all at once.
        outcome: None is `outcomes.difference(units=1)`.
        draws: of random directions for `random`.

    Raises:
        PatchingError: layers that are not there, none held above a swap, words whose directions depend on each other, values that are not finite.
    """
    outcome, basis = outcome or outcomes.difference(units=1), basis_of(basis, slm)
    swapped, holding = checked_layers(slm, layers), checked_layers(slm, held)
    early = [layer for layer in swapped if layer >= holding[-1]]
    if early or draws < 1:
        raise PatchingError(
            f"Text is held above the swap, with one random draw or more; got a swap at {early[:1]}, held at {holding}, draws={draws}."
        )
    checked_cases([one.heard for one in steps])
    rows = []
    for one in tqdm(steps, desc="serial mediation", unit="contrast", disable=None):
        ceiling = measure(slm, one.heard.source, one.heard.contrast, outcome)
        bench = Bench(slm, one.heard.base, one.heard.contrast, outcome)
        for order in ORDERS:
            first, second = (one.heard, one.said) if order == "current first" else (one.said, one.heard)
            for layer in swapped:
                generator = torch.Generator().manual_seed(seed)
                ask = _Asked(bench, basis, first, second, one.said.span.corrupted, layer)
                found = ask.effects([own for own in holding if own > layer], draws, generator)
                rows += [
                    {
                        **results.labels_of(one.heard),
                        "basis": basis.name,
                        "order": order,
                        "layer": layer,
                        "held": name,
                        "base": bench.own.value,
                        "source": ceiling,
                        "ceiling": ceiling - bench.own.value,
                        **effects,
                    }
                    for name, effects in found.items()
                ]
    return Serial(pd.DataFrame(rows), outcome.name, outcome.unit)


@dataclass(frozen=True, eq=False)
class _Asked:
    """One contrast in one order, swapped at one layer; what is held is held at `end`."""

    bench: Bench
    basis: Basis
    first: Case
    second: Case
    end: Span
    layer: int

    def effects(self, holding: Sequence[int], draws: int, generator: torch.Generator) -> dict[str, dict[str, float]]:
        """All effects, for each held layer and for all of them."""
        base, swap = self.bench.own.value, self._swap()
        moved = self.bench.run([swap])
        total = moved.value - base
        found = {}
        for name, layers in {**{str(one): [one] for one in holding}, "all": holding}.items():
            direct = self.bench.value([swap, *(self._copied(one, self.bench.own.stream) for one in layers)]) - base
            alone = self.bench.value([self._copied(one, moved.stream) for one in layers]) - base
            noise = [self.bench.value([swap, *(self._drawn(one, generator) for one in layers)]) - base for _ in range(draws)]
            found[name] = {
                "total": total,
                "direct": direct,
                "through": total - direct,
                "alone": alone,
                "random": total - sum(noise) / draws,
            }
        return found

    def _swap(self) -> Hook:
        pair = self.basis.pairs(self.layer, self.first.words.clean, self.first.words.corrupted)
        return SwapCoordinates(*pair).hook("resid_post", self.layer, self.first.span.corrupted)

    def _text(self, layer: int) -> Float[Tensor, "direction d_model"]:
        """Directions of what is held."""
        return torch.cat(self.basis.pairs(layer, self.second.words.clean, self.second.words.corrupted))

    def _copied(self, layer: int, stream: Float[Tensor, "layer pos d_model"]) -> Hook:
        """Coordinates of what is held, as they are in a run."""
        own = stream[layer, self.end.start : self.end.stop]
        return CopyCoordinates(self._text(layer), own).hook("resid_post", layer, self.end)

    def _drawn(self, layer: int, generator: torch.Generator) -> Hook:
        """A change as long as holding would be, in a direction orthogonal to what is held."""
        own = self.bench.own.stream[layer, self.end.start : self.end.stop]
        holds = CopyCoordinates(self._text(layer), own)
        drawn = torch.randn(own.shape, generator=generator, dtype=torch.float64).to(wide(own))
        drawn = drawn - holds.subspace.within(drawn)
        return _AsFar(holds, drawn / drawn.norm(dim=-1, keepdim=True)).hook("resid_post", layer, self.end)


@dataclass(frozen=True, eq=False)
class _AsFar(Intervention):
    """A change as long as that of copied coordinates, along other directions of length 1."""

    copied: CopyCoordinates
    along: Float[Tensor, "pos d_model"]

    def _made(self, there: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        return there + (self.copied._made(there) - there).norm(dim=-1, keepdim=True) * self.along.to(there)
