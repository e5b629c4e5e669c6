"""Cases to be heard on the page of a causal experiment: what the model says before and after each intervention, in one voice.

The voice is a saved `UnitVocoder`, or one fitted with the checkpoint's own quantiser on sound that is at hand: held-out sentences of an organism that ships,
and the prompts of the cases. Units that it never heard are not said: greedy speech passes over them, and the page says how many they are.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from slm_interp import organisms
from slm_interp.audio import Audio
from slm_interp.causal.building.cases_built import Built
from slm_interp.causal.cases import Case
from slm_interp.causal.experiment import Plan
from slm_interp.causal.speaking import HEARD, continuations
from slm_interp.causal.spoken import Continuations
from slm_interp.errors import PatchingError
from slm_interp.model import SpeechTextModel
from slm_interp.organisms import ablation
from slm_interp.page import Block, Player, Section, Table, Text
from slm_interp.report.causal_figures import Shown
from slm_interp.speech import resample
from slm_interp.speech.vocoder import UnitVocoder
from slm_interp.vocabulary import check_quantiser

SENTENCES = 150  # of an organism, that its voice is fitted on
UNITS = 40  # said at most after each prompt: at least 1.6 s of the organisms' speech
RUNS = {
    "corrupted": "the corrupted prompt, nothing changed",
    "clean": "the clean prompt, nothing changed",
    "whole": "everything of the clean word put in",
    "text": "the two words' text exchanged",
    "complement": "everything of the clean word but its text put in",
}
LEAD = (
    "Each run reads the prompt and goes on by itself, the likeliest unit every time; what an arm writes stays in place for every unit that is said. One path "
    "of speech is an illustration, not a measurement: where it parts at one unit it goes its own way, and the sizes of effects stand above."
)
CAPTION = (
    "parts_at: the unit at which a run leaves the corrupted one; same and as_clean: shares of units, place by place; gain: nats that the change adds to what "
    "is said."
)


@dataclass(frozen=True, eq=False)
class Listening:
    """So many cases, in this voice."""

    count: int
    vocoder: UnitVocoder


def listening(slm: SpeechTextModel, built: Built, checkpoint: str, count: int, vocoder: str | os.PathLike[str] | None) -> Listening | None:
    """What is heard; None where no case is.

    Args:
        checkpoint: as it was given: the name of an organism, or a folder.
        count: cases, from the first.
        vocoder: folder of a saved one; None fits one.

    Raises:
        PatchingError: fewer than no cases; a vocoder and no case; no vocoder, and nothing to fit one with.
        VocabularyError: a vocoder of another codebook.
        SpeechError: a folder without a vocoder.
    """
    if count < 0 or (vocoder is not None and not count):
        raise PatchingError(f"--listen is a number of cases, 1 or more where a vocoder is given; got {count}.")
    if not count:
        return None
    voice = _fitted(slm, built, checkpoint) if vocoder is None else UnitVocoder.load(vocoder)
    check_quantiser(slm.vocabulary.quantiser, voice.quantiser)
    return Listening(count, voice)


def _fitted(slm: SpeechTextModel, built: Built, checkpoint: str) -> UnitVocoder:
    if slm.quantiser is None:
        raise PatchingError(
            "Units are heard through a vocoder. This checkpoint carries no quantiser to fit one with: give --quantiser, or --vocoder with a folder that "
            "UnitVocoder.save wrote."
        )
    prompts = [prompt for case in built.cases for prompt in (case.source, case.base)]
    if checkpoint in organisms.names():
        prompts = ablation.heard_sentences(slm, organisms.RECIPES[checkpoint], SENTENCES) + prompts
    sounds: dict[int, Audio] = {id(one.audio): one.audio for one in prompts if one.audio is not None}
    if not sounds:
        raise PatchingError(
            "A vocoder is fitted on sound, and no prompt of these cases has any: give --vocoder with a folder that UnitVocoder.save wrote."
        )
    rate = slm.quantiser.recipe.sample_rate
    return UnitVocoder.fit(
        [resample(one, rate) for one in sounds.values()], slm.quantiser, slm.vocabulary.n_units(slm.vocabulary.codebooks[0])
    )


def heard(plan: Plan, one: Shown, asked: Listening) -> list[Continuations]:
    """The first cases of a plan at the layer and basis that is shown, with the arms of `speaking.HEARD` that were asked."""
    basis = next(own for own in plan.bases if own.name == one.basis)
    arms = [name for name in HEARD if name in {arm.name for arm in plan.arms}]
    return [
        continuations(plan.slm, case, basis, one.layer, arms, _room(plan.slm, case), plan.policy, avoid=asked.vocoder.unheard).listen(
            asked.vocoder
        )
        for case in tqdm(plan.cases[: asked.count], desc="listening", unit="case", disable=None)
    ]


def _room(slm: SpeechTextModel, case: Case) -> int:
    turn = UNITS if slm.prompts.alternation is None else slm.prompts.alternation[1]
    return min(UNITS, turn, slm.model.cfg.n_ctx - max(len(case.base), len(case.source)) + 1)


def write_sounds(found: Sequence[Continuations], folder: Path) -> None:
    """Tables and WAV files of every case, in a folder of its own: `1`, `2`, ..."""
    for number, one in enumerate(found, 1):
        one.save(folder / str(number))


def section_of(found: Sequence[Continuations], asked: Listening) -> Section:
    """What stands on the page: for each case where runs part, and a player for each run."""
    unheard, all_of = len(asked.vocoder.unheard), len(asked.vocoder.durations)
    blocks: list[Block] = [
        Text(LEAD),
        Text(f"The voice whispers; it knows {all_of - unheard} of {all_of} units, and the others are not said."),
    ]
    for one in found:
        blocks += _of_case(one)
    return Section("Heard before and after", blocks)


def _of_case(one: Continuations) -> list[Block]:
    summary, words = one.summary, one.about["words"]
    shown = summary.drop(columns="units").assign(parts_at=[at if at is not None else "never" for at in map(one.first_difference, one.runs)])
    blocks: list[Block] = [Text(f"{one.title}: {words['clean']!r} into {words['corrupted']!r}"), Table(shown, CAPTION)]
    for run in one.runs:
        whole = one.speaks_prompt(run)
        blocks.append(Text(f"{run}: {RUNS[run]}" + ("" if whole else "; without its prompt, which has units that the voice never heard")))
        blocks.append(Player(one.audio_with_prompt(run) if whole else one.audio(run)))
    blocks.append(Table(summary[["run", "units"]], "The units.", folded=True))
    return blocks
