"""C5, text-only denoising: the units of a word are spoilt until the lens reads it no more. Does its clean text alone bring the speech back?

    found = denoising(slm, cases, basis, words, layers=[3, 4, 5])      # words: candidates, whose text is restored
    found.shares(layer=4)                                              # text and complement, as shares of the whole

1. The run that is changed is that of the *clean* prompt with the units of its word replaced (`spoil`): by default other units at random, as many.
   `other_word` takes those of the corrupted prompt's word where they are as many. A prompt in which a unit follows itself that did not before is drawn again.
2. **Failed?** Among the candidates (the most over the span for each, at the layer of those asked where it is read best) the word must not come first any
   more. A draw in which it still does is drawn again, up to `tries` times; a case that never fails is left out, and listed in `left_out`. So is a case
   in which it does not come first in the clean run: it has no transcription to spoil.
3. Into the spoilt run are put, at the word's positions, from the clean run: `whole` residuals; `text`, the coordinates in the span of the candidates'
   directions (`CopyCoordinates`); the `complement`, all but these (`ComplementOnly`). An effect is what is gained of the outcome.

The span of the candidates has their rank, and `rank` is in the table: a few dozen words span a small stream whole, which is no text subspace. Where text
and complement are both small and the whole is not, neither does alone: what reads text may be pointed at it by something else of the word (in planted
models a head looks for the word's last unit, and finds nobody where that was replaced). That is no answer about text.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from slm_interp.causal.bases import Basis, basis_of
from slm_interp.causal.cases import Case, checked_cases
from slm_interp.causal.questions import results
from slm_interp.causal.questions.running import checked_layers
from slm_interp.errors import PatchingError
from slm_interp.hooked import MEMORY
from slm_interp.lenses.lens import DirectedLens
from slm_interp.model import SpeechTextModel
from slm_interp.patching import outcomes
from slm_interp.patching.engine import Grid, Patch, patched, ran, score
from slm_interp.patching.interventions import ComplementOnly, CopyCoordinates, Interchange, Intervention
from slm_interp.patching.outcomes import Outcome
from slm_interp.patching.places import hooks_of, standing
from slm_interp.statistics import Interval
from slm_interp.streams import repeats
from slm_interp.utterance import Utterance

Spoil: TypeAlias = Callable[[SpeechTextModel, Case, torch.Generator], "Int[Tensor, ' unit']"]
ARMS = ("whole", "text", "complement")
NEEDED = (
    "case",
    "prompt",
    "word",
    "basis",
    "layer",
    "arm",
    "draw",
    "base",
    "source",
    "value",
    "effect",
    "ceiling",
    "rank",
    "read",
    "spoilt",
)


def other_units(slm: SpeechTextModel, case: Case, generator: torch.Generator) -> Int[Tensor, " unit"]:
    """Speech ids at random, none that stood at the place, none that is its neighbour's (the first unit of a continuation, where the word ends the prompt).

    Raises:
        PatchingError: a word in which no unit stands, or a codebook of fewer than five units.
    """
    tokens, span = case.source.tokens, case.span.clean
    speech = slm.vocabulary.mask("speech")
    there = speech.nonzero().flatten()
    if not bool(speech[tokens[span.start : span.stop].cpu()].all()) or len(there) < 5:
        raise PatchingError(f"Units are replaced by others of a codebook of five or more; the word of {case.name!r} is not all units.")
    found = tokens.clone()
    for at in span:
        follows = [tokens[at + 1]] if at + 1 < len(tokens) else [case.contrast.answer[0], case.contrast.distractor[0]]
        near = [int(found[at])] + ([int(found[at - 1])] if at else []) + [int(one) for one in follows]
        free = there[~torch.isin(there, torch.tensor(near))]
        found[at] = free[int(torch.randint(len(free), (1,), generator=generator))]
    return found[span.start : span.stop]


def other_word(slm: SpeechTextModel, case: Case, generator: torch.Generator) -> Int[Tensor, " unit"]:
    """The units of the corrupted prompt's word.

    Raises:
        PatchingError: a word of another number of units.
    """
    own, other = case.span.clean, case.span.corrupted
    if len(own) != len(other):
        raise PatchingError(
            f"Of {case.name!r} the words have {len(own)} and {len(other)} units; spoil them with other_units, or leave the case out."
        )
    return case.base.tokens[other.start : other.stop]


def spoilt(case: Case, units: Int[Tensor, " unit"]) -> Utterance:
    """The clean prompt with other units at its word. Words and edges stay, labels and sound go.

    Raises:
        PatchingError: another number of units, or those that stood there.
    """
    prompt, span = case.source, case.span.clean
    there = prompt.tokens[span.start : span.stop]
    if units.shape != there.shape or torch.equal(units.to(there), there):
        raise PatchingError(
            f"The word of {case.name!r} has {len(span)} units, which are replaced by as many others; got {tuple(units.shape)}."
        )
    tokens = prompt.tokens.clone()
    tokens[span.start : span.stop] = units.to(tokens)
    return replace(prompt, tokens=tokens, labels=(), audio=None, name=f"{prompt.name}, spoilt")


@dataclass(frozen=True)
class Denoised:
    """What the clean text of a word brings back.

    Args:
        table: one row a case, draw, layer and arm, with the columns `NEEDED`: outcome of the spoilt run (`base`), of the clean one (`source`), with the arm
            (`value`), `effect = value - base`, `ceiling`, and the basis's margin of the word over the best other candidate before and after (`read`, `spoilt`).
        left_out: cases that were not spoilt, with the reason.
        outcome, unit: what was measured.
    """

    table: pd.DataFrame
    left_out: Mapping[str, str]
    outcome: str
    unit: str

    def shares(self, layer: int | None = None, level: float = 0.95, seed: int = 0) -> dict[str, Interval]:
        """Mean effects of `text` and of the `complement` over that of the `whole`, draws of a case averaged, with clustered intervals.

        Raises:
            PatchingError: no such layer, or several to choose from.
            StatisticsError: too few clusters, a whole effect that is not told from 0.
        """
        return results.shares(self._wide(layer), ["text", "complement"], "whole", level, seed)

    def means(self, layer: int | None = None, level: float = 0.95, seed: int = 0) -> dict[str, Interval]:
        """Mean effects of all arms, in units of the outcome; arguments and errors as `shares`."""
        return results.means(self._wide(layer), ARMS, level, seed)

    def _wide(self, layer: int | None) -> pd.DataFrame:
        there = self.table["layer"].unique().tolist()
        if layer is None and len(there) > 1:
            raise PatchingError(f"Text was restored at layers {there}; choose one with layer=.")
        rows = self.table if layer is None else results.chosen(self.table, layer=layer)
        return rows.pivot_table(index=["case", "prompt", "word"], columns="arm", values="effect", sort=False).reset_index()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a Parquet file, whole or not at all. What was left out is not in it."""
        results.save_table(self.table.assign(outcome=self.outcome, unit=self.unit), path)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Denoised:
        """Read a file that `save` wrote; errors as `results.load_table`."""
        table = results.load_table(path, (*NEEDED, "outcome", "unit"))
        return Denoised(table.drop(columns=["outcome", "unit"]), {}, str(table["outcome"].iloc[0]), str(table["unit"].iloc[0]))

    def __repr__(self) -> str:
        own = self.table
        return (
            f"Denoised({own['case'].nunique()} cases, {own['basis'].iloc[0]}, layers {own['layer'].unique().tolist()}, rank {int(own['rank'].max())}"
            f"; {self.outcome} in {self.unit}; left out: {len(self.left_out)})"
        )

    def _repr_html_(self) -> str:
        mean = self.table.groupby(["layer", "arm"], sort=False)[["ceiling", "effect", "read", "spoilt"]].mean().reset_index()
        return results.html_of("Text-only denoising", mean, repr(self))


def denoising(
    slm: SpeechTextModel,
    cases: Sequence[Case],
    basis: Basis | DirectedLens,
    words: Sequence[str],
    layers: Sequence[int],
    spoil: Spoil = other_units,
    outcome: Outcome | None = None,
    draws: int = 1,
    tries: int = 10,
    seed: int = 0,
) -> Denoised:
    """Spoil the word of each clean prompt, and restore its text, everything, or everything but its text.

    Args:
        words: candidates: those of the case are added. Their directions span the text that is restored.
        layers: of `resid_post`, in blocks run; one at a time.
        spoil: what the word's units are replaced by.
        outcome: None is `outcomes.difference(units=1)`.
        draws: spoilt prompts of each case.
        tries: draws that are looked at for each of these.

    Raises:
        PatchingError: layers that are not there, fewer than one draw or try, candidates that span the whole stream, no case that could be spoilt.
    """
    outcome, basis = outcome or outcomes.difference(units=1), basis_of(basis, slm)
    grid = Grid("resid_post", checked_layers(slm, layers), None, MEMORY)
    if draws < 1 or tries < 1:
        raise PatchingError(f"A word is spoilt once or more, with one try or more; got draws={draws}, tries={tries}.")
    rows, left = [], {}
    for case in tqdm(checked_cases(cases), desc="denoising", unit="case", disable=None):
        generator = torch.Generator().manual_seed(seed)
        among = list(dict.fromkeys([case.words.clean, case.words.corrupted, *words]))
        ask = _Asked(slm, case, basis, among, grid, outcome)
        if ask.read <= 0:
            left[case.name] = f"{case.words.clean!r} is not what {basis.name!r} reads in the clean run"
            continue
        for draw in range(draws):
            drawn = (spoilt(case, spoil(slm, case, generator)) for _ in range(tries))
            prompt = next((one for one in drawn if repeats(one.tokens) <= repeats(case.source.tokens) and ask.margin(one) < 0), None)
            if prompt is None:
                left[case.name] = f"{case.words.clean!r} is still read, or a unit follows itself, in every one of {tries} spoilt prompts"
                break
            rows += [{**results.labels_of(case), "basis": basis.name, "draw": draw, **row} for row in ask.restored(prompt)]
    if not rows:
        raise PatchingError(f"No case could be spoilt: {next(iter(left.values()))} ({len(left)} such). Take layers where the word is read.")
    return Denoised(pd.DataFrame(rows), left, outcome.name, outcome.unit)


class _Asked:
    """One case, and its clean run."""

    def __init__(self, slm: SpeechTextModel, case: Case, basis: Basis, words: Sequence[str], grid: Grid, outcome: Outcome) -> None:
        self.slm, self.case, self.basis, self.words, self.grid, self.outcome = slm, case, basis, words, grid, outcome
        self.clean = ran(slm, case.source, case.contrast, outcome, hooks_of(grid.site, grid.layers))
        self.reference = self.clean.logits if outcome.reference else None
        self.there = standing(self.clean.kept.at, grid.site, grid.layers, None)[:, 0]
        self.read = self._margin(self.there)

    def _margin(self, stream: Float[Tensor, "layer pos d_model"]) -> float:
        """How much more the word is read than any other candidate, at the layer where it is read best of the layers asked."""
        span, found = self.case.span.clean, []
        for number, layer in enumerate(self.grid.layers):
            best = self.basis.score(stream[number, span.start : span.stop], layer, self.words).amax(0)
            found.append(float(best[0] - best[1:].max()))
        return max(found)

    def margin(self, prompt: Utterance) -> float:
        """The same in another prompt."""
        run = ran(self.slm, prompt, self.case.contrast, self.outcome, hooks_of(self.grid.site, self.grid.layers))
        return self._margin(standing(run.kept.at, self.grid.site, self.grid.layers, None)[:, 0])

    def restored(self, prompt: Utterance) -> list[dict[str, object]]:
        """Every layer and arm."""
        span, grid = self.case.span.clean, self.grid
        base = ran(self.slm, prompt, self.case.contrast, self.outcome, hooks_of(grid.site, grid.layers))
        here = standing(base.kept.at, grid.site, grid.layers, None)[:, 0]
        made: dict[str, list[Tensor]] = {arm: [] for arm in ARMS}
        ranks = []
        for number, layer in enumerate(grid.layers):
            arms, rank = self._arms(layer, self.there[number, span.start : span.stop])
            ranks.append(rank)
            for arm, one in arms.items():
                made[arm].append(one(here[number : number + 1, span.start : span.stop], None))
        patches = [Patch(torch.arange(span.start, span.stop), torch.stack(own)) for own in made.values()]
        values = patched(self.slm, base, patches, here[:, None], grid, self.outcome, self.reference)[..., 0]
        ends = {"base": score(self.outcome, base, self.reference), "source": score(self.outcome, self.clean, self.reference)}
        both = {**ends, "ceiling": ends["source"] - ends["base"], "read": self.read, "spoilt": self._margin(here)}
        return [
            {**both, "layer": layer, "arm": arm, "rank": ranks[number], "value": value, "effect": value - ends["base"]}
            for number, layer in enumerate(grid.layers)
            for arm, value in zip(ARMS, values[number].tolist(), strict=True)
        ]

    def _arms(self, layer: int, own: Float[Tensor, "pos d_model"]) -> tuple[dict[str, Intervention], int]:
        directions = self.basis.directions(layer, self.words)
        text = CopyCoordinates(directions, own)
        if text.subspace.rank >= own.shape[-1]:
            raise PatchingError(f"These {len(self.words)} candidates span all {own.shape[-1]} dimensions of the stream. Take fewer.")
        return {"whole": Interchange(own), "text": text, "complement": ComplementOnly(directions, own)}, text.subspace.rank
