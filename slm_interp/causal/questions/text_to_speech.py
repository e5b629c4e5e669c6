"""C6, from a text run into a speech run: is what the model makes of the *written* word understood where the word is heard?

    found = text_to_speech(slm, cases, layers=range(9))                # cases with prompts as text
    found.grid("specific")                                             # source layer x layer, mean effects

1. The prompts of a case are run as text (`case.written`). At a source layer the residual at the last piece of the word is taken: there the whole word was read.
2. It is put into the run of the corrupted speech prompt, at the word's span and a layer. By default every position of the span gets it, scaled to the
   length of what it replaces (`norm_matched(pooled)` of a single position): text and speech differ in the size of residuals, and a longer vector would
   count for more whatever it says.
3. All pairs of layers are tried: a state that is understood may stand at other depths of the two runs (Dumas et al. 2024, arXiv 2411.08745; Ghandeharioun et
   al. 2024, arXiv 2401.06102).

| arm | the text run is that of | an effect means |
|---|---|---|
| `other_word` | the clean prompt: the other word | its state says the clean word where speech of the corrupted one was |
| `same_word` | the corrupted prompt: the word that is heard there anyway | what any state of a text run does at this place |

`specific = other_word - same_word` is what the *word* does; the two states come from runs of one form, at one place. Shares are of the ceiling, the clean
speech prompt's outcome less the corrupted one's. Whole residuals are exchanged: an effect says that text and speech runs meet in one code at these layers,
not that this code is the words' rows of `W_U`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from slm_interp import hooked
from slm_interp.causal.cases import Case, checked_cases
from slm_interp.causal.questions import results
from slm_interp.causal.questions.running import checked_layers
from slm_interp.errors import PatchingError
from slm_interp.hooked import MEMORY
from slm_interp.model import SpeechTextModel
from slm_interp.patching import outcomes
from slm_interp.patching.engine import Grid, Patch, patched, ran, score
from slm_interp.patching.measuring import measure, reference_of
from slm_interp.patching.outcomes import Outcome
from slm_interp.patching.places import hooks_of, standing
from slm_interp.patching.policies import Policy, Stretch, name_of, norm_matched, policy_of, pooled
from slm_interp.patching.spans import Side
from slm_interp.statistics import Interval
from slm_interp.utterance import Span

ARMS: dict[str, Side] = {"other_word": "clean", "same_word": "corrupted"}
EFFECTS = (*ARMS, "specific")
NEEDED = ("case", "prompt", "word", "source_layer", "layer", "base", "source", "ceiling", *EFFECTS)


@dataclass(frozen=True)
class TextToSpeech:
    """Effects of states of a text run in a speech run.

    Args:
        table: one row a case, source layer and layer: `case prompt word source_layer layer base source ceiling other_word same_word specific`.
        policy: how the word's last piece meets the span.
        outcome, unit: what was measured.
    """

    table: pd.DataFrame
    policy: str
    outcome: str
    unit: str

    def grid(self, effect: str = "specific") -> pd.DataFrame:
        """Mean effect over cases, source layers down and layers across.

        Raises:
            PatchingError: another effect.
        """
        if effect not in EFFECTS:
            raise PatchingError(f"Effects are {', '.join(EFFECTS)}; got {effect!r}.")
        return self.table.pivot_table(index="source_layer", columns="layer", values=effect, aggfunc="mean")

    def shares(self, source_layer: int, layer: int, level: float = 0.95, seed: int = 0) -> dict[str, Interval]:
        """Mean effects of one pair of layers over the mean ceiling, with clustered intervals.

        A pair that was chosen for its effect on the same cases has too large a share: choose on others.

        Raises:
            PatchingError: no such pair.
            StatisticsError: too few clusters, a ceiling that is not told from 0.
        """
        rows = results.chosen(self.table, source_layer=source_layer, layer=layer)
        return results.shares(rows, EFFECTS, "ceiling", level, seed)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a Parquet file, whole or not at all."""
        results.save_table(self.table.assign(policy=self.policy, outcome=self.outcome, unit=self.unit), path)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> TextToSpeech:
        """Read a file that `save` wrote; errors as `results.load_table`."""
        said = ("policy", "outcome", "unit")
        table = results.load_table(path, (*NEEDED, *said))
        return TextToSpeech(table.drop(columns=list(said)), *(str(table[name].iloc[0]) for name in said))

    def __repr__(self) -> str:
        own = self.table
        size = f"{own['source_layer'].nunique()} x {own['layer'].nunique()} layers"
        return f"TextToSpeech({own['case'].nunique()} cases, {size}, {self.policy}; {self.outcome} in {self.unit})"

    def _repr_html_(self) -> str:
        said = f"Mean of other_word - same_word over {self.table['case'].nunique()} cases, source layers down, layers across; {self.outcome}, {self.unit}."
        return results.html_of("Text run into speech run", self.grid().reset_index(), said)


def text_to_speech(
    slm: SpeechTextModel,
    cases: Sequence[Case],
    source_layers: Sequence[int] | None = None,
    layers: Sequence[int] | None = None,
    outcome: Outcome | None = None,
    policy: str | Policy | None = None,
    memory: int = MEMORY,
) -> TextToSpeech:
    """Put states of written words into the speech run, at every pair of layers.

    Args:
        cases: with prompts as text, both sides.
        source_layers, layers: of `resid_post`, in blocks run, in the text run and in the speech run; None is all.
        outcome: None is `outcomes.difference(units=1)`.
        policy: how the word's last piece, a stretch of one position, meets the span; None is `norm_matched(pooled)`.
        memory: bytes that a batch of runs may take beside the model.

    Raises:
        PatchingError: a case without text prompts, layers that are not there, values that are not finite.
    """
    outcome = outcome or outcomes.difference(units=1)
    meets = norm_matched(pooled) if policy is None else policy_of(policy)
    taken, grid = checked_layers(slm, source_layers), Grid("resid_post", checked_layers(slm, layers), None, memory)
    lacking = [case.name for case in checked_cases(cases) if case.written is None]
    if lacking:
        raise PatchingError(
            f"Every case needs its prompts as text; {lacking[0]!r} has none ({len(lacking)} such). Build cases with written prompts."
        )
    rows = []
    for case in tqdm(cases, desc="text into speech", unit="case", disable=None):
        base = ran(slm, case.base, case.contrast, outcome, hooks_of(grid.site, grid.layers))
        reference = reference_of(slm, case.contrast, outcome)
        here = standing(base.kept.at, grid.site, grid.layers, None)[:, 0]
        ends = {"base": score(outcome, base, reference), "source": measure(slm, case.source, case.contrast, outcome)}
        patches = [patch for side in ARMS.values() for patch in _patches(slm, case, side, taken, meets, here)]
        values = patched(slm, base, patches, here[:, None], grid, outcome, reference)[..., 0].double() - ends["base"]
        found = dict(zip(ARMS, values.split(len(taken), dim=1), strict=True))
        for number, layer in enumerate(grid.layers):
            for place, source_layer in enumerate(taken):
                effects = {arm: float(own[number, place]) for arm, own in found.items()}
                both = {
                    **ends,
                    "ceiling": ends["source"] - ends["base"],
                    **effects,
                    "specific": effects["other_word"] - effects["same_word"],
                }
                rows.append({**results.labels_of(case), "source_layer": source_layer, "layer": layer, **both})
    return TextToSpeech(pd.DataFrame(rows), name_of(meets), outcome.name, outcome.unit)


def _patches(
    slm: SpeechTextModel, case: Case, side: Side, taken: Sequence[int], meets: Policy, here: Float[Tensor, "layer base_pos d_model"]
) -> list[Patch]:
    """What is put in from the text run of one side: a patch for each source layer, the same at every layer but for its length."""
    assert case.written is not None
    assert case.written_span is not None
    prompt = case.written.clean if side == "clean" else case.written.corrupted
    last = case.written_span.of(side).stop - 1
    pairing = meets(Stretch(prompt, Span(last, last + 1)), Stretch(case.base, case.span.corrupted))
    stream = hooked.residuals(slm.model, slm.check(prompt).tokens)
    made = []
    for layer in taken:
        there = stream[layer].expand(len(here), -1, -1)
        made.append(Patch(pairing.base, torch.stack([pairing.values(one, own) for one, own in zip(there, here, strict=True)])[:, None]))
    return made
