"""C10, mis-hearing: where the lens reads another word than the one that was said, does the speech follow what is read or what was said?

    heard = decoded(slm, cases, basis, candidates, layer=5)            # what the basis reads of each prompt, whichever word was said
    found = misheard(slm, cases, basis, continuations, layer=5)        # continuations: word -> speech ids that follow it
    found.shares()                                                     # how often speech follows the word that is read, and its margin

1. Every prompt of every case, clean and corrupted, is a natural run of a word that was *said*. The *decoded* word is the candidate that the basis reads
   best at the layer, the most over the span's positions. Candidates are the words whose continuation is known, and nothing is edited.
2. `follows = log p(continuation of the decoded word) - log p(continuation of the word that was said)`, over speech ids, first units or whole (see `units`).
   Above 0 the speech goes with what is read.
3. Prompts that are decoded rightly are the null: there the *runner-up*, the best read of the other candidates, takes the place of the decoded word. They say
   how far apart continuations of a word that is read and of one that is nearly read are when the two ways agree.

Words of one continuation tell nothing apart: such prompts are counted as `alike` and left out, as are prompts whose word has no known continuation.

This is an observation. Where lens and speech go wrong together the cause may be one further down, in what the units say: a word that sounds like another is
another to every part of the model. It is strong the other way round: where the lens goes wrong and the speech does not, what is read there does not drive it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor
from tqdm.auto import tqdm

from slm_interp import hooked
from slm_interp.causal.bases import Basis, basis_of
from slm_interp.causal.cases import Case, checked_cases
from slm_interp.causal.questions import results
from slm_interp.causal.questions.running import checked_layers
from slm_interp.errors import PatchingError
from slm_interp.lenses.lens import DirectedLens
from slm_interp.model import SpeechTextModel
from slm_interp.patching import outcomes
from slm_interp.patching.measuring import measure
from slm_interp.patching.spans import Side
from slm_interp.statistics import Interval
from slm_interp.utterance import Contrast, Utterance

SIDES: tuple[Side, ...] = ("clean", "corrupted")
NEEDED = ("case", "side", "prompt", "word", "said", "decoded", "runner_up", "margin")


def decoded(
    slm: SpeechTextModel, cases: Sequence[Case], basis: Basis | DirectedLens, candidates: Sequence[str], layer: int
) -> pd.DataFrame:
    """What is read of every prompt, each prompt once.

    Args:
        candidates: two words or more.
        layer: of `resid_post`, in blocks run.

    Returns:
        one row a prompt: `case side prompt word basis layer said decoded runner_up margin`; `word` is what was said, to cluster by; `margin` is the score of
        the word that was said less that of the best other candidate, and NaN where it is none. A prompt that several cases share comes once, with the first.

    Raises:
        PatchingError: fewer than two candidates, or one twice; a layer that is not there.
    """
    words = list(candidates)
    if len(words) < 2 or len(set(words)) < len(words):
        raise PatchingError(
            f"Words are read among two candidates or more, each once; got {len(words)}, {len(set(words))} of them different."
        )
    (layer,), basis = checked_layers(slm, [layer]), basis_of(basis, slm)
    rows, seen = [], set()
    for case in checked_cases(cases):
        for side in SIDES:
            prompt, said, span = getattr(case.contrast, side), getattr(case.words, side), case.span.of(side)
            key = (tuple(prompt.tokens.tolist()), said, span)
            if key in seen:
                continue
            seen.add(key)
            stream = hooked.residuals(slm.model, slm.check(prompt).tokens)[layer, span.start : span.stop]
            scores = basis.score(stream, layer, words).amax(0)
            best = [words[int(place)] for place in scores.argsort(descending=True, stable=True)[:2]]
            others = torch.tensor([word != said for word in words], device=scores.device)
            margin = float(scores[words.index(said)] - scores[others].max()) if said in words else float("nan")
            labels = {**results.labels_of(case), "word": said}
            read = {"basis": basis.name, "layer": layer, "said": said, "decoded": best[0], "runner_up": best[1], "margin": margin}
            rows.append({**labels, "side": side, **read})
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Misheard:
    """What the speech follows where the basis reads another word, and the null of those that are read rightly.

    Args:
        table: one row a prompt, as `decoded`, with `against` (the word in whose favour `follows` counts), `misheard`, `log_prob_said`, `log_prob_against`,
            `follows`.
        left_out: prompts left out, by reason.
        units: of each continuation that are read; None is all.
    """

    table: pd.DataFrame
    left_out: Mapping[str, int]
    units: int | None

    def shares(self, level: float = 0.95, seed: int = 0) -> pd.DataFrame:
        """One row for misheard prompts and one for the others: mean of `follows` in nats, and the share of prompts in which it is above 0, with intervals.

        Raises:
            StatisticsError: too few clusters on one side.
        """
        rows = []
        for misheard, own in self.table.groupby("misheard"):
            found = results.means(own.assign(share=(own["follows"] > 0).astype(float)), ["follows", "share"], level, seed)
            rows.append({"prompts": "misheard" if misheard else "heard (runner-up)", "n": len(own), **_flat(found)})
        return pd.DataFrame(rows)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a Parquet file, whole or not at all. What was left out is not in it."""
        results.save_table(self.table.assign(units=0 if self.units is None else self.units), path)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Misheard:
        """Read a file that `save` wrote; errors as `results.load_table`."""
        table = results.load_table(path, (*NEEDED, "follows", "units"))
        return Misheard(table.drop(columns="units"), {}, int(table["units"].iloc[0]) or None)

    def __repr__(self) -> str:
        left = "; ".join(f"left out, {reason}: {count}" for reason, count in self.left_out.items())
        return f"Misheard({int(self.table['misheard'].sum())} of {len(self.table)} prompts{'; ' + left if left else ''})"

    def _repr_html_(self) -> str:
        own = self.table[self.table["misheard"]]
        return results.html_of("Mis-hearing", own[["case", "side", "said", "decoded", "margin", "follows"]].head(20), repr(self))


def misheard(
    slm: SpeechTextModel,
    cases: Sequence[Case],
    basis: Basis | DirectedLens,
    continuations: Mapping[str, Int[Tensor, " unit"]],
    layer: int,
    units: int | None = 1,
) -> Misheard:
    """Whether the speech follows the word that is read or the word that was said.

    Args:
        continuations: speech ids that follow each candidate; its words are the candidates.
        layer: of `resid_post`, in blocks run, chosen on other cases.
        units: of each continuation that are read; None is all of them, whose log-probabilities are sums of unequally many.

    Raises:
        PatchingError: as `decoded`; no prompt whose word has a continuation; ids that are no speech.
    """
    rows, left = [], {"no continuation of what was said": 0, "alike": 0}
    table = decoded(slm, cases, basis, list(continuations), layer)
    by_name = {case.name: case for case in cases}
    for row in tqdm(table.to_dict("records"), desc="mis-hearing", unit="prompt", disable=None):
        said = str(row["said"])
        if said not in continuations:
            left["no continuation of what was said"] += 1
            continue
        wrong = row["decoded"] != said
        against = str(row["decoded"] if wrong else row["runner_up"])
        ends = [continuations[one][:units] for one in (said, against)]
        if torch.equal(ends[0], ends[1]):
            left["alike"] += 1
            continue
        prompt: Utterance = getattr(by_name[str(row["case"])].contrast, str(row["side"]))
        own, other = (measure(slm, prompt, Contrast(prompt, prompt, one, one), outcomes.log_prob(units)) for one in ends)
        rows.append(
            {**row, "against": against, "misheard": bool(wrong), "log_prob_said": own, "log_prob_against": other, "follows": other - own}
        )
    if not rows:
        raise PatchingError(
            f"No prompt of {len(table)} has two known continuations that differ: {left}. Give continuations of the words that are said."
        )
    return Misheard(pd.DataFrame(rows), {reason: count for reason, count in left.items() if count}, units)


def _flat(found: Mapping[str, Interval]) -> dict[str, float]:
    return {
        f"{name}{end}": float(getattr(one, what))
        for name, one in found.items()
        for end, what in (("", "estimate"), ("_low", "low"), ("_high", "high"))
    }
