"""Does text drive speech in the organisms? Effects, verdicts and pictures of docs/does-text-drive-speech.md.

    python docs/drives/organisms.py [ORGANISM ...]     all that ship if none is named

Two questions are asked of each: of the word that is heard, and of the word that is to be said. The first outcome, that of the verdict, is the whole word; the
onset unit stands beside it. Runs go to `out/drives/` case by case, so that what was cut off goes on.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pandas as pd
import torch

import slm_interp as si
from slm_interp import causal, statistics
from slm_interp.causal.bases import Basis, LensBasis, ProbeBasis
from slm_interp.causal.building import heard_word, spoken_word
from slm_interp.errors import SpeechError
from slm_interp.files import write_text
from slm_interp.lenses import Aim, TunedRecipe, collect, train_probe, train_tuned
from slm_interp.organisms import RECIPES, names
from slm_interp.organisms.corpus import prompts
from slm_interp.organisms.recipe import Recipe
from slm_interp.organisms.rows import rows
from slm_interp.organisms.samples import Sample
from slm_interp.patching import outcomes
from slm_interp.plots import write_png

HERE = Path(__file__).parent
WORK = HERE.parents[1] / "out" / "drives"
PAIRS = 240  # of each kind
SEED = 1  # of the draws: not those of the pilot
LAYERS = (4, 8, 10)  # of 12
QUESTIONS: dict[str, tuple[Callable[..., Sequence[causal.Case]], tuple[str, ...]]] = {
    "heard": (heard_word, ("names",)),
    "said": (spoken_word, ("names",)),
}
TARGET = {"heard": "current", "said": "next"}  # what the probe was trained to read
OUTCOMES = (outcomes.difference(), outcomes.difference(units=1))
HEARD = 6  # times that the probe hears each word
ARMS = ("whole", "text", "complement", "third", "elsewhere", "self", "other_voice", "random", "distance")


def main() -> None:
    """Everything, organism by organism."""
    asked = sys.argv[1:] or names()
    found: list[dict[str, object]] = []
    profiles: list[pd.DataFrame] = []
    for name in asked:
        slm, recipe = si.load(name, dtype=torch.float32), RECIPES[name]
        cases = {question: cases_of(slm, recipe, question, WORK / name / question) for question in QUESTIONS}
        said = collect(slm, spoken(slm, recipe, {word for own in cases.values() for case in own for word in words_of(case)}))
        lenses = lenses_of(slm, recipe)
        for question, own in cases.items():
            effect = effect_of(slm, own, [*lenses, ProbeBasis(train_probe(said, TARGET[question]))], WORK / name / question)
            found += lines(name, question, effect)
            profiles.append(profile_of(effect).assign(organism=name, question=question))
            write_png(effect.plot(), HERE / f"{name}-{question}.png")
            write_text(WORK / name / question / "verdicts.csv", pd.DataFrame(found).to_csv(index=False, float_format="%.4f"))
    table = pd.DataFrame(found)
    write_text(HERE / "profile.csv", pd.concat(profiles).to_csv(index=False, float_format="%.4f"))
    write_text(HERE / "verdicts.csv", table.to_csv(index=False, float_format="%.4f"))
    print(table.drop(columns="reason").to_string(index=False))


def cases_of(slm: si.SpeechTextModel, recipe: Recipe, question: str, folder: Path) -> list[causal.Case]:
    """The cases of a question that have a third word; what was left out of them is written down."""
    build, kinds = QUESTIONS[question]
    built = [build(slm, recipe.world, kind, PAIRS, SEED, sides=("heard",)) for kind in kinds]
    left_out = pd.concat([one.left_out for one in built], ignore_index=True)
    write_text(folder / "left_out.csv", left_out.to_csv(index=False))
    cases = [case for one in built for case in one if case.words.third is not None]
    print(question, len(cases), "cases of", sum(len(one) for one in built), "; listed:", len(left_out), flush=True)
    return cases


def spoken(slm: si.SpeechTextModel, recipe: Recipe, wanted: set[str]) -> list[si.Utterance]:
    """Sentences of training documents, for the probe, until every word that is wanted was heard `HEARD` times, and said next as often."""
    world, counts = recipe.world, dict.fromkeys(wanted, 0)
    documents = [[one.text for one in document] for document in world.documents(4_000, world.seed)]
    chosen = []
    for document in prompts(documents, recipe.speaking.voices, recipe.speaking, world.seed):
        for prompt in document:
            own = [word for word in prompt.text.split()[1:] if counts.get(word, HEARD) < HEARD]
            if own:
                chosen.append(prompt)
                for word in own:
                    counts[word] += 1
    found = []
    for one in chosen:
        with suppress(SpeechError):  # a word without a unit of its own
            found.append(Sample.spoken(one).utterance(slm))
    return found


def lenses_of(slm: si.SpeechTextModel, recipe: Recipe) -> list[Basis]:
    """Lenses trained now, on rows of the organism's own world."""
    tuned = train_tuned(slm, rows(slm, recipe), Aim("speech", "text"), TunedRecipe(passes=2))
    return [LensBasis(si.LogitLens(slm), slm), LensBasis(tuned, slm)]


def effect_of(slm: si.SpeechTextModel, cases: Sequence[causal.Case], bases: Sequence[Basis], folder: Path) -> causal.Effect:
    """The effects of one question, gone on with where they were cut off."""
    plan = causal.plan(slm, cases, bases, layers=LAYERS, arms=ARMS, policy="warped", outcome=OUTCOMES)
    print(plan, flush=True)
    effect = plan.run(folder / "parts")
    effect.save(folder / "effect.nc")
    return effect


def words_of(case: causal.Case) -> set[str]:
    """Every word that a basis is asked for by these arms."""
    own = case.words
    return {one for one in (own.clean, own.corrupted, own.third) if one is not None}


def lines(organism: str, question: str, effect: causal.Effect) -> list[dict[str, object]]:
    """One line for each outcome and basis, and one for all bases together."""
    found = []
    for outcome in effect.outcomes:
        together = effect.verdict(outcome=outcome)
        same = {"organism": organism, "question": question, "outcome": outcome, "cases": effect.table["case"].nunique()}
        found.append({**same, "basis": "all", "verdict": together.word, "reason": together.reason})
        write_text(WORK / organism / question / f"verdict-{outcome}.json", json.dumps(together.to_dict(), indent=1))
        for basis in effect.bases:
            verdict = effect.verdict(basis, outcome)
            line = {**same, "basis": basis, "layer": effect.chosen_layer(basis, outcome), "verdict": verdict.word, "line": verdict.line}
            line |= flat("ceiling", verdict.ceiling)
            for share in ("text", "complement", "specific", "here"):
                line |= flat(share, verdict.shares.get(share))
            found.append({**line, "percentile": verdict.percentile, "reason": verdict.reason})
    return found


def profile_of(effect: causal.Effect) -> pd.DataFrame:
    """The mean effect of every arm at every layer over all cases, in nats, with its interval: a description, of which no verdict is made."""
    parts = []
    for outcome in effect.outcomes:
        for arm, basis in dict.fromkeys(zip(effect.table["arm"], effect.table["basis"], strict=True)):
            values = effect.effects(arm, basis, outcome)
            found = statistics.bootstrap(values.to_numpy(), effect.clusters(values.index))
            columns = {"estimate": found.estimate, "low": found.low, "high": found.high}
            parts.append(
                pd.DataFrame({"outcome": outcome, "basis": basis, "arm": arm, "layer": values.columns, **columns, "cases": len(values)})
            )
    return pd.concat(parts, ignore_index=True)


def flat(name: str, interval: object) -> dict[str, float]:
    """An interval as three columns."""
    if interval is None:
        return {}
    return {name: float(interval.estimate), f"{name}_low": float(interval.low), f"{name}_high": float(interval.high)}  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
