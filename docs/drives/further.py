"""The questions beside the verdict, asked of one organism: the tables `further-*.csv` of docs/does-text-drive-speech.md.

    python docs/drives/further.py [ORGANISM] [QUESTION ...]        `tiny-overlapped`, and all of `ASKED`, if none is named

Cases are those of `organisms.py` (seed 1). What is chosen (a layer, cells) is chosen on other cases than those that report, or was fixed beforehand.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import pandas as pd
import torch
from organisms import MAIN, QUESTIONS, SEED, WORK, lenses_of

import slm_interp as si
from slm_interp import causal
from slm_interp.causal import rotation
from slm_interp.causal.bases import Basis
from slm_interp.causal.erasure import erasure
from slm_interp.causal.questions import results
from slm_interp.causal.questions.decoded_cells import development_half, peak_cells
from slm_interp.causal.questions.denoising import denoising
from slm_interp.causal.questions.knockout import knockout
from slm_interp.causal.questions.mishearing import misheard
from slm_interp.causal.questions.serial import EFFECTS, serial_mediation, steps_of
from slm_interp.causal.questions.speaking_out import speaking_out
from slm_interp.causal.questions.text_to_speech import EFFECTS as PUT_IN
from slm_interp.causal.questions.text_to_speech import text_to_speech
from slm_interp.errors import StatisticsError
from slm_interp.files import atomic_path, write_text
from slm_interp.organisms import RECIPES
from slm_interp.organisms.ablation import heard_sentences
from slm_interp.organisms.foreseen import couples
from slm_interp.organisms.grammar import FACTS
from slm_interp.patching import outcomes
from slm_interp.patching.policies import policy_of
from slm_interp.speech.vocoder import UnitVocoder

HERE = Path(__file__).parent
NAME = next((one for one in sys.argv[1:] if one in RECIPES), MAIN)
FILES = "further" if NAME == MAIN else f"further-{NAME}"
BEST = 10  # of 12 layers: where the pilot found the word to come read best among those in which whole patches move most
TO_COME = sorted({place.word for couple in couples() for place in couple})  # the declared words


@lru_cache(maxsize=1)
def model() -> si.SpeechTextModel:
    """The organism, in float32."""
    return si.load(NAME, dtype=torch.float32)


@lru_cache(maxsize=1)
def bases() -> tuple[Basis, ...]:
    """The logit lens and the tuned lens of `organisms.py`."""
    return tuple(lenses_of(model(), RECIPES[NAME]))


@lru_cache(maxsize=2)
def cases_of(question: str) -> list[causal.Case]:
    """The cases of a question of `organisms.py`."""
    asked = QUESTIONS[question]
    return list(asked.build(model(), RECIPES[NAME].world, asked.kind, asked.pairs, SEED, **asked.options))


def erased() -> pd.DataFrame:
    """C4: the words to come are taken out of continuous speech, at every unit, at one layer or in a band."""
    said = heard_sentences(model(), RECIPES[NAME], 120)
    parts = []
    for basis in bases():
        found = erasure(model(), said[:60], said[60:], basis, TO_COME, [8, BEST, (8, 11)], [0, 1, 4, 16], "speech", seed=SEED)
        read = found.verified.assign(basis=basis.name)
        write_text(HERE / f"{FILES}-erased-read-{basis.name.partition('[')[0]}.csv", read.to_csv(index=False, float_format="%.4f"))
        parts.append(found.summary().assign(basis=basis.name))
    return pd.concat(parts)


def turned() -> pd.DataFrame:
    """C3: cases whose sign is turned, of the effect that `organisms.py` saved; the onset unit."""
    effect = causal.Effect.load(WORK / NAME / "foreseen" / "effect.nc")
    onset = effect.outcomes[1]
    parts = [speaking_out(effect).flips(BEST, basis, onset).assign(basis=basis) for basis in effect.bases]
    return pd.concat(parts)


def learned() -> pd.DataFrame:
    """C8: subspaces learned from 70% of the couples, asked of the others, and their angles with the words to come."""
    own, kept = rotation.split_by_pairs(cases_of("foreseen"), 0.3, SEED)
    warped = policy_of("warped")
    rows = []
    for rank in (1, 2, 4, 8, 16):
        found = rotation.train(model(), own, BEST, rank, warped, rotation.Recipe(seed=SEED))
        found.save(WORK / NAME / "learned" / str(rank))
        for basis in bases():
            table = rotation.compared(model(), found, kept, basis, warped, learned_from=own, seed=SEED)
            angles = rotation.angles(found, basis, TO_COME)
            for arm, effects in table.groupby("arm", sort=False):
                mean = effects.groupby(["case", "prompt", "word"])["effect"].mean().reset_index()
                one = results.means(mean, ["effect"])["effect"]
                row = {"rank": rank, "basis": basis.name, "arm": arm, "of": int(effects["rank"].iloc[0]), **flat("effect", one)}
                rows.append({**row, "overlap": angles["overlap"].iloc[0], "chance": angles["chance"].iloc[0]})
    return pd.DataFrame(rows)


def written() -> pd.DataFrame:
    """C6: the state at the end of the written prompt, put in at the end of the spoken one; every pair of layers, by halves of the couples."""
    cases, layers = cases_of("foreseen")[::2], (4, 6, 8, 9, 10, 11)
    found = text_to_speech(model(), cases, layers, layers)
    halves = {case.name: half for half, own in zip(("development", "report"), development_half(cases, SEED), strict=True) for case in own}
    rows = []
    for (source, layer), own in found.table.assign(half=found.table["case"].map(halves)).groupby(["source_layer", "layer"]):
        for half, part in own.groupby("half"):
            means = results.means(part, [*PUT_IN, "ceiling"])
            rows.append({"source_layer": source, "layer": layer, "half": half} | merged(means))
    return pd.DataFrame(rows)


def spoken() -> pd.DataFrame:
    """What the model goes on to say before and after each intervention, with its sound: the first case that reports and that the whole patch turns."""
    slm, reports = model(), development_half(cases_of("foreseen"), 0)[1]
    heard = [*heard_sentences(slm, RECIPES[NAME], 150), *(prompt for case in reports for prompt in (case.source, case.base))]
    voice = UnitVocoder.fit([one.audio for one in heard if one.audio is not None], slm.quantiser, slm.quantiser.n_units)
    for case in reports:
        found = causal.continuations(slm, case, bases()[1], 11, ("whole", "text", "complement"), 30, "warped", avoid=voice.unheard)
        if found.first_difference("whole") == 0:
            break
    found = found.listen(voice)
    for run in found.runs:
        with atomic_path(HERE / f"{FILES.replace('further', 'heard')}-{run}.wav") as path:
            path.write_bytes(found.audio_with_prompt(run).wav_bytes())
    print(case, case.prompt, flush=True)
    return found.summary


def restored() -> pd.DataFrame:
    """C5: the name is replaced by other units, and its text, everything, or everything else put back; facts, whole words."""
    rows = []
    for basis in bases():
        cases = cases_of("heard")
        names = sorted({word for case in cases for word in (case.words.clean, case.words.corrupted)})[:12]
        found = denoising(model(), cases, basis, names, [4, 8, BEST], outcome=outcomes.difference(), seed=SEED)
        rows += [
            {"basis": basis.name, "layer": layer, "cases": found.table["case"].nunique(), "left_out": len(found.left_out)}
            | merged(found.means(layer))
            for layer in (4, 8, BEST)
        ]
    return pd.DataFrame(rows)


def knocked() -> pd.DataFrame:
    """C9: later positions are kept from the cells where the tuned lens reads the name best; cells chosen on half of the words."""
    chooses, reports = development_half([case for case in cases_of("heard") if case.span.corrupted.stop < len(case.base)], SEED)
    cells = peak_cells(model(), chooses, bases()[1], 6)
    print(cells, flush=True)
    found = knockout(model(), reports, cells, outcome=outcomes.difference())
    return pd.DataFrame(
        [
            {"arm": arm, "cases": len(own), "mass": own["mass"].mean(), "cells": own["cells"].mean()}
            | merged(results.means(own, ["ceiling", "lost"]))
            for arm, own in found.table.groupby("arm", sort=False)
        ]
    )


def serial() -> pd.DataFrame:
    """C7: the name's text swapped with the fact's held, and the reverse."""
    steps = steps_of(cases_of("heard"), cases_of("said"))
    found = serial_mediation(model(), steps, bases()[1], [4, 8], [9, BEST, 11], outcomes.difference(), seed=SEED)
    return pd.DataFrame(
        [
            {"order": order, "layer": layer, "held": held, "cases": len(own)} | merged(results.means(own, ["ceiling", *EFFECTS]))
            for (order, layer, held), own in found.table.groupby(["order", "layer", "held"], sort=False)
        ]
    )


def mistaken() -> pd.DataFrame:
    """C10: where the lens reads another name than was said, whose fact does the speech go on with?"""
    parts = []
    for category, phrasings in FACTS.items():
        own = [case for case in cases_of("heard") if case.prompt in phrasings]
        follows = {case.words.clean: case.contrast.answer for case in own}
        parts += [misheard(model(), own, basis, follows, BEST).table.assign(category=category) for basis in bases()]
    table = pd.concat(parts)
    rows = []
    for (basis, wrong), own in table.groupby(["basis", "misheard"]):
        try:
            found = merged(results.means(own.assign(share=(own["follows"] > 0).astype(float)), ["follows", "share"]))
        except StatisticsError as error:
            found = {"why": str(error)}
        rows.append({"basis": basis, "misheard": wrong, "prompts": len(own), **found})
    return pd.DataFrame(rows)


def flat(name: str, interval: object) -> dict[str, float]:
    """An interval as three columns."""
    return {name: float(interval.estimate), f"{name}_low": float(interval.low), f"{name}_high": float(interval.high)}  # type: ignore[attr-defined]


def merged(intervals: dict[str, object]) -> dict[str, float]:
    """Several of them."""
    return {key: value for name, one in intervals.items() for key, value in flat(name, one).items()}


ASKED: dict[str, Callable[[], pd.DataFrame]] = {
    "erased": erased,
    "learned": learned,
    "written": written,
    "spoken": spoken,
    "restored": restored,
    "knocked": knocked,
    "serial": serial,
    "mistaken": mistaken,
    "turned": turned,
}


def main(asked: Sequence[str]) -> None:
    """Questions by name, each into a table of its own."""
    for name in [one for one in asked if one != NAME] or ASKED:
        found = ASKED[name]()
        write_text(HERE / f"{FILES}-{name}.csv", found.to_csv(index=False, float_format="%.4f"))
        print(name, found.to_string(index=False), sep="\n", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
