"""Does text drive speech in the organisms? Effects, verdicts and pictures of docs/does-text-drive-speech.md.

    python docs/drives/organisms.py ask QUESTION [ORGANISM ...]     all that ship if none is named; a folder is one that was trained and does not ship
    python docs/drives/organisms.py tables                          tables and pictures of everything that was asked

Questions are the rows of `QUESTIONS`. The first outcome, that of the verdict, is the whole word; the onset unit stands beside it. Runs go to `out/drives/`
case by case, so that what was cut off goes on; different questions and organisms may run side by side.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
import torch

import slm_interp as si
from slm_interp import causal, statistics
from slm_interp.causal.bases import Basis, LensBasis, ProbeBasis
from slm_interp.causal.building import heard_word, spoken_word
from slm_interp.errors import SpeechError, StatisticsError
from slm_interp.files import write_text
from slm_interp.lenses import Aim, TunedRecipe, collect, train_probe, train_tuned
from slm_interp.lenses.probe.probe import WordProbe
from slm_interp.lenses.probe.training import Asked
from slm_interp.organisms import RECIPES, names
from slm_interp.organisms.corpus import prompts
from slm_interp.organisms.recipe import Recipe, Speaking
from slm_interp.organisms.rows import rows
from slm_interp.organisms.samples import Sample
from slm_interp.patching import outcomes
from slm_interp.plots import write_png

HERE = Path(__file__).parent
WORK = HERE.parents[1] / "out" / "drives"
SEED = 1  # of the draws: not those of the pilots
OUTCOMES = (outcomes.difference(), outcomes.difference(units=1))
MAIN = "tiny-overlapped"
HEARD = 6  # times that the probe hears each word
NAMES_ARMS = ("whole", "text", "complement", "third", "elsewhere", "self", "other_voice", "random", "distance")


@dataclass(frozen=True)
class Question:
    """What is asked of an organism; everything in it was fixed before the question was asked.

    Args:
        build: of cases, with its kind of contrast.
        probe: what the probe is trained to read.
        layers: of 12.
        pairs: that are drawn.
        arms: a preset or names.
        options: of the builder: who was told the facts, who speaks.
    """

    build: Callable[..., Sequence[causal.Case]]
    kind: str
    probe: Asked
    layers: tuple[int, ...]
    pairs: int
    arms: str | tuple[str, ...] = "full"
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


QUESTIONS = {
    "heard": Question(heard_word, "names", "current", (4, 8, 10), 240, NAMES_ARMS, {"sides": ("heard",)}),
    "said": Question(spoken_word, "names", "next", (4, 8, 10), 240, NAMES_ARMS, {"sides": ("heard",)}),
    "foreseen": Question(spoken_word, "foreseen", "next", (8, 9, 10, 11), 248),
    "homophones": Question(heard_word, "homophones", "current", (6, 8, 10), 160),
    "read": Question(heard_word, "names", "current", (4, 8, 10), 240, NAMES_ARMS, {"sides": ("read",)}),
    "voices": Question(spoken_word, "foreseen", "next", (8, 9, 10, 11), 248, "full", {"voices": Speaking().held_out}),
}


def main() -> None:
    """One question of some organisms, or tables of all that was asked."""
    match sys.argv[1:]:
        case ["tables"]:
            tables()
        case ["ask", name, *asked] if name in QUESTIONS:
            for organism in asked or names():
                ask(organism, name)
        case _:
            sys.exit(f"usage: organisms.py tables | ask {'|'.join(QUESTIONS)} [ORGANISM ...]")


def ask(organism: str, name: str) -> None:
    """Cases, bases, effect of one question of one organism; what it finds is saved and said."""
    question, folder = QUESTIONS[name], WORK / Path(organism).name / name
    slm, recipe = si.load(organism, dtype=torch.float32), RECIPES[Path(organism).name]
    cases = cases_of(slm, recipe, question, folder)
    said = collect(slm, spoken(slm, recipe, {word for case in cases for word in words_of(case)}))
    probe = train_probe(said, question.probe)
    cases = [known for case in cases if (known := known_to(probe, case)) is not None]
    print(organism, name, len(cases), "cases whose words the probe has heard", flush=True)
    effect = effect_of(slm, cases, [*lenses_of(slm, recipe), ProbeBasis(probe)], question, folder)
    print(folder.parent.name, name, effect.verdict(), flush=True)


def tables() -> None:
    """Every effect that lies in `out/drives/` as verdicts, differences, profiles and pictures beside this file."""
    verdicts, profiles, differences = [], [], []
    for name in QUESTIONS:
        effects = {path.parents[1].name: causal.Effect.load(path) for path in sorted(WORK.glob(f"*/{name}/effect.nc"))}
        for outcome in (one.name for one in OUTCOMES) if effects else ():
            found = causal.across(effects, outcome)
            verdicts.append(found.table.assign(question=name, outcome=outcome))
            if outcome == OUTCOMES[0].name and len(effects) > 1:
                write_png(found.plot(title=f"{name}, model by model"), HERE / f"{name}.png")
                write_text(HERE / f"{name}.txt", printed(found.table))
                differences += [{"question": name, **row} for row in apart(found)]
        for organism, effect in effects.items():
            profiles.append(profile_of(effect).assign(organism=organism, question=name))
        if MAIN in effects:
            write_png(effects[MAIN].plot(), HERE / f"{MAIN}-{name}.png")
        print(name, *effects, flush=True)
    for name, parts in (("verdicts", verdicts), ("profile", profiles), ("differences", [pd.DataFrame(differences)])):
        write_text(HERE / f"{name}.csv", pd.concat(parts).to_csv(index=False, float_format="%.4f"))


def apart(found: causal.Across) -> Iterator[dict[str, object]]:
    """What the main organism differs by from every other one: share of text, and text less third word in nats."""
    for other in found.models:
        for basis in dict.fromkeys(name for _, name in found.measured):
            for what, unit in (("text", "share"), ("specific", "nats")):
                with suppress(StatisticsError):  # no ceiling to share
                    if other != MAIN:
                        one = found.difference(MAIN, other, basis, what, unit)
                        row = {"one": MAIN, "other": other, "basis": basis, "what": what, "unit": unit}
                        yield {**row, "difference": float(one.estimate), "low": float(one.low), "high": float(one.high)}


def printed(table: pd.DataFrame) -> str:
    """Lines of a page: a model and basis each."""
    shown = ["ceiling", "text", "direct", "later", "complement", "specific"]
    lines = [
        "| organism | basis | layer | whole, nats | text | of it direct | of it later | complement | text less third | verdict |",
        "|" + "---|" * 10,
    ]
    for row in table[table["layer"].notna()].to_dict("records"):
        cells = [f"{row[one]:.2f} [{row[f'{one}_low']:.2f}, {row[f'{one}_high']:.2f}]" if pd.notna(row.get(one)) else "" for one in shown]
        basis = str(row["basis"]).partition("[")[0]
        lines.append(f"| `{row['model']}` | {basis} | {row['layer']} | {' | '.join(cells)} | {row['verdict']} ({row['line']}) |")
    return "\n".join(lines) + "\n"


def cases_of(slm: si.SpeechTextModel, recipe: Recipe, question: Question, folder: Path) -> list[causal.Case]:
    """The cases of a question that have a third word; what was left out of them is written down."""
    built = question.build(slm, recipe.world, question.kind, question.pairs, SEED, **question.options)
    write_text(folder / "left_out.csv", built.left_out.to_csv(index=False))
    cases = [case for case in built if case.words.third is not None]
    print(folder, len(cases), "cases of", len(built), "; listed:", len(built.left_out), flush=True)
    return cases


def known_to(probe: WordProbe, case: causal.Case) -> causal.Case | None:
    """A case without the neighbours that the probe has no class for; none if it has none for the words themselves or the third."""
    known, own = set(probe.classes), case.words
    if {own.clean, own.corrupted, own.third} - known:
        return None
    near = {what: word if word in known else None for what, word in (("phonetic", own.phonetic), ("semantic", own.semantic))}
    return replace(case, words=replace(own, **near))


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


def effect_of(
    slm: si.SpeechTextModel, cases: Sequence[causal.Case], bases: Sequence[Basis], question: Question, folder: Path
) -> causal.Effect:
    """The effects of one question, gone on with where they were cut off."""
    plan = causal.plan(slm, cases, bases, layers=question.layers, arms=question.arms, policy="warped", outcome=OUTCOMES)
    print(plan, flush=True)
    effect = plan.run(folder / "parts")
    effect.save(folder / "effect.nc")
    return effect


def words_of(case: causal.Case) -> set[str]:
    """Every word that a basis may be asked for."""
    own = case.words
    return {one for one in (own.clean, own.corrupted, own.third, own.phonetic, own.semantic) if one is not None}


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


if __name__ == "__main__":
    main()
