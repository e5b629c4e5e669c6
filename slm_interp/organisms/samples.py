"""Held-out sentences that ship with an organism: how to say them again, sample by sample, and when each word sounds."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slm_interp.audio import Audio
from slm_interp.errors import CheckpointError
from slm_interp.files import write_text
from slm_interp.organisms.corpus import Prompt, Spoken
from slm_interp.speech.words import TimedWord

if TYPE_CHECKING:
    from slm_interp.model import SpeechTextModel
    from slm_interp.utterance import Utterance

N_SAMPLES = 20
SAMPLE_RATE = 16_000


@dataclass(frozen=True)
class Sample:
    """A sentence the organism was not trained on.

    Args:
        prompt: the arguments of `synthesise`.
        words: with the seconds eSpeak gave.
    """

    prompt: Prompt
    words: tuple[TimedWord, ...]

    @staticmethod
    def spoken(prompt: Prompt) -> Sample:
        """What eSpeak makes of a prompt."""
        return Sample(prompt, prompt.audio(SAMPLE_RATE)[1])

    @property
    def text(self) -> str:
        """What is said."""
        return self.prompt.text

    def audio(self) -> Audio:
        """The sound, spoken anew, at 16 kHz."""
        return self.prompt.audio(SAMPLE_RATE)[0]

    def utterance(self, slm: SpeechTextModel, form: str | None = None) -> Utterance:
        """The sentence as this model reads it: its quantiser's units and their words."""
        from slm_interp import speech

        return speech.utterance(slm, audio=self.audio(), words=list(self.words), form=form, name=self.text)


def write_samples(held_out: Sequence[Spoken], facts: Collection[str], folder: str | os.PathLike[str]) -> None:
    """Write `samples.json`: of held-out sentences that open differently, facts first and the longest first.

    What the organism makes of them plays no part in the choice.

    Args:
        held_out: to choose from.
        facts: texts that tell a fact.
        folder: where.
    """
    chosen: dict[tuple[str, ...], Spoken] = {}
    for one in held_out:
        chosen.setdefault(tuple(word.text for word in one.words[:2]), one)
    longest = sorted(chosen.values(), key=lambda one: (one.prompt.text not in facts, -len(one.words), one.prompt.text))[:N_SAMPLES]
    rows = [{**asdict(one.prompt), "words": [[word.text, word.start_s, word.end_s] for word in one.words]} for one in longest]
    write_text(Path(folder) / "samples.json", json.dumps(rows, indent=1) + "\n")


def read_samples(folder: str | os.PathLike[str]) -> tuple[Sample, ...]:
    """Read what `write_samples` wrote.

    Raises:
        CheckpointError: there is no such file.
    """
    path = Path(folder) / "samples.json"
    if not path.is_file():
        raise CheckpointError(f"No samples.json in {folder}. Folders made by slm_interp.organisms have one.")
    rows = json.loads(path.read_text(encoding="utf-8"))
    return tuple(Sample(Prompt(**row), tuple(TimedWord(*word) for word in words)) for row in rows for words in [row.pop("words")])
