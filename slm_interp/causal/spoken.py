"""What was said after an intervention and without it: units as a table, where they part, and their sound."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int

from slm_interp.audio import Audio
from slm_interp.causal.cases import Case
from slm_interp.causal.questions.results import load_table, save_table
from slm_interp.errors import PatchingError, SpeechError
from slm_interp.files import atomic_path, write_text
from slm_interp.model import SpeechTextModel
from slm_interp.speech.recogniser import UnitRecogniser, words_in
from slm_interp.speech.units import Units
from slm_interp.speech.vocoder import UnitVocoder
from slm_interp.vocabulary import check_quantiser

UNEDITED = ("corrupted", "clean")
COLUMNS = ("case", "run", "basis", "layer", "step", "unit", "log_prob", "log_prob_unedited")
PROMPT_COLUMNS = ("prompt", "unit", "seconds")


@dataclass(frozen=True, eq=False)
class Continuations:
    """What a model goes on to say. Make one with `causal.continuations`, hear it with `listen`.

    Args:
        table: one row a unit: `case`; `run` (`corrupted`, `clean`: the prompts as they are; else the arm whose residuals are in the corrupted one);
            `basis`, empty where none has a say; `layer` at which arms write; `step` from 0; `unit`; `log_prob` over speech ids, nats;
            `log_prob_unedited`, that of the same unit after the corrupted prompt as it is and the same units before it.
        prompts: one row for each unit that is heard in a prompt: `prompt` (`corrupted`, `clean`), `unit`, `seconds` it lasts.
        about: what all of it depends on.
        vocoder: that speaks the units.
        recogniser: that tells words from them.
    """

    table: pd.DataFrame
    prompts: pd.DataFrame
    about: Mapping[str, Any]
    vocoder: UnitVocoder | None = None
    recogniser: UnitRecogniser | None = None

    @property
    def runs(self) -> tuple[str, ...]:
        """Names of the runs: `corrupted`, `clean`, then the arms."""
        return tuple(self.table["run"].drop_duplicates())

    def units(self, run: str) -> Int[np.ndarray, " step"]:
        """What a run says, in units of the codebook.

        Raises:
            PatchingError: no such run.
        """
        if run not in self.runs:
            raise PatchingError(f"No run {run!r}; there are {', '.join(self.runs)}.")
        return self.table.loc[self.table["run"] == run, "unit"].to_numpy(np.int64)

    def first_difference(self, run: str) -> int | None:
        """The step at which a run first says another unit than the corrupted one; None if it never does."""
        apart = np.flatnonzero(self.units(run) != self.units("corrupted"))
        return int(apart[0]) if len(apart) else None

    @property
    def summary(self) -> pd.DataFrame:
        """One row a run, with what tells it from the others.

        `parts_at`, the step of `first_difference`; `same`, the share of steps at which it says the corrupted run's unit, `as_clean` likewise; `gain`, the
        sum of what the edit adds to the log-probability of its units; `units`; `words` that a recogniser hears, where there is one.
        """
        rows = []
        for run in self.runs:
            own, rows_of = self.units(run), self.table[self.table["run"] == run]
            rows.append(
                {
                    "run": run,
                    "parts_at": self.first_difference(run),
                    "same": float((own == self.units("corrupted")).mean()),
                    "as_clean": float((own == self.units("clean")).mean()),
                    "gain": float((rows_of["log_prob"] - rows_of["log_prob_unedited"]).sum()),
                    "units": " ".join(map(str, own)),
                }
                | ({} if self.recogniser is None else {"words": " ".join(self.words(run))})
            )
        return pd.DataFrame(rows).astype({"parts_at": "Int64"})

    def listen(self, vocoder: UnitVocoder, recogniser: UnitRecogniser | None = None) -> Continuations:
        """The same with a voice, and, where one is given, an ear: shown in a notebook it has players and words.

        Raises:
            VocabularyError: a vocoder of another codebook.
            SpeechError: units that it never heard.
        """
        made = replace(self, vocoder=vocoder, recogniser=recogniser)
        for run in self.runs:
            made._spoken(run, vocoder)
        return made

    def words(self, run: str) -> list[str]:
        """Words that the recogniser hears in a run; the last may be cut short.

        Raises:
            PatchingError: no recogniser was given to `listen`.
        """
        if self.recogniser is None:
            raise PatchingError("No recogniser hears these units. Give one: found.listen(vocoder, recogniser).")
        return words_in(self.recogniser, self.units(run))

    def audio(self, run: str, vocoder: UnitVocoder | None = None) -> Audio:
        """The sound of what a run says, each unit as long as it is on average.

        Args:
            vocoder: None is the one given to `listen`.

        Raises:
            PatchingError: no such run, no vocoder.
            VocabularyError: a vocoder of another codebook.
            SpeechError: units that it never heard.
        """
        voice = self._voice(vocoder)
        return voice.audio(self._spoken(run, voice))

    def audio_with_prompt(self, run: str, vocoder: UnitVocoder | None = None) -> Audio:
        """The units of the prompt for as long as each was heard, and what a run says, in one voice; arguments and errors as of `audio`."""
        voice = self._voice(vocoder)
        said, heard = self._spoken(run, voice), self._heard(run)
        frames = np.maximum(np.rint(heard["seconds"].to_numpy() / said.frame_s), 1).astype(np.int64)
        units = np.concatenate([heard["unit"].to_numpy(np.int64), said.units])
        return voice.audio(Units(units, np.concatenate([frames, said.durations]), said.frame_s, said.quantiser))

    def speaks_prompt(self, run: str, vocoder: UnitVocoder | None = None) -> bool:
        """Whether a vocoder has heard every unit of a run's prompt, which `audio_with_prompt` needs."""
        return not set(self._heard(run)["unit"]) & set(self._voice(vocoder).unheard)

    def _heard(self, run: str) -> pd.DataFrame:
        return self.prompts[self.prompts["prompt"] == ("clean" if run == "clean" else "corrupted")]

    def _voice(self, vocoder: UnitVocoder | None) -> UnitVocoder:
        found = vocoder or self.vocoder
        if found is None:
            raise PatchingError("Units are heard through a vocoder: give one here, or found.listen(vocoder).")
        return found

    def _sound(self, run: str) -> Audio:
        return self.audio_with_prompt(run) if self.speaks_prompt(run) else self.audio(run)

    def _spoken(self, run: str, vocoder: UnitVocoder) -> Units:
        check_quantiser(self.about["quantiser"], vocoder.quantiser)
        units = self.units(run)
        strange = sorted(set(units.tolist()) & set(vocoder.unheard))
        if strange:
            raise SpeechError(
                f"{run!r} says units {strange[:5]}, which this vocoder never heard. Ask for continuations with avoid=vocoder.unheard, or fit it on more sound."
            )
        return vocoder.timed(units)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write `continuations.parquet`, `continuation_prompts.parquet` and `continuations.json` into a folder; with a voice, sounds too.

        Of every run a WAV file of what it says (`whole.wav`), and, where the voice knows all units of the prompt, one of the prompt with it
        (`whole_with_prompt.wav`). Each file is whole or not there.
        """
        place = Path(folder)
        save_table(self.table, place / "continuations.parquet")
        save_table(self.prompts, place / "continuation_prompts.parquet")
        for run in self.runs if self.vocoder is not None else ():
            sounds = {run: self.audio(run)}
            if self.speaks_prompt(run):
                sounds[f"{run}_with_prompt"] = self.audio_with_prompt(run)
            for name, sound in sounds.items():
                with atomic_path(place / f"{name}.wav") as path:
                    path.write_bytes(sound.wav_bytes())
        write_text(place / "continuations.json", json.dumps(dict(self.about), indent=1, sort_keys=True) + "\n")

    @staticmethod
    def load(folder: str | os.PathLike[str]) -> Continuations:
        """Read what `save` wrote; a voice is given to it anew.

        Raises:
            PatchingError: no such files, or others.
        """
        place = Path(folder)
        table = load_table(place / "continuations.parquet", COLUMNS)
        prompts = load_table(place / "continuation_prompts.parquet", PROMPT_COLUMNS)
        if not (place / "continuations.json").is_file():
            raise PatchingError(f"No continuations.json in {folder}: they were not saved whole. Save them again.")
        return Continuations(table, prompts, json.loads((place / "continuations.json").read_text(encoding="utf-8")))

    @property
    def title(self) -> str:
        """The case, and where it was asked."""
        first = self.table.iloc[0]
        return f"{first['case']}, {self.about['basis']['name']} at layer {first['layer']}"

    def __repr__(self) -> str:
        parts = ", ".join(
            f"{run} parts at {at}" if (at := self.first_difference(run)) is not None else f"{run} as it is" for run in self.runs
        )
        return f"Continuations({self.title}; {len(self.units('corrupted'))} units: {parts})"

    def _repr_html_(self) -> str:
        shown = self.summary
        columns = [name for name in shown.columns if name != "units"]
        head = "".join(f"<th>{escape(name)}</th>" for name in (*columns, "units", *(["heard"] if self.vocoder is not None else [])))
        rows = []
        for row in shown.to_dict("records"):
            cells = "".join(f"<td>{escape(_cell(row[name]))}</td>" for name in columns)
            units = f"<td><small>{escape(row['units'])}</small></td>"
            sound = "" if self.vocoder is None else f"<td>{self._sound(row['run'])._repr_html_()}</td>"
            rows.append(f"<tr>{cells}{units}{sound}</tr>")
        return f"<div><b>{escape(self.title)}</b><table><tr>{head}</tr>{''.join(rows)}</table></div>"


def _cell(value: Any) -> str:
    return "" if value is pd.NA else f"{value:.3g}" if isinstance(value, float) else str(value)


def prompts_of(slm: SpeechTextModel, case: Case) -> pd.DataFrame:
    """The units of both prompts of a case and the seconds each lasts; text and markers are not heard."""
    frames, speech = [], slm.vocabulary.mask("speech")
    for name in UNEDITED:
        prompt = getattr(case.contrast, name)
        heard = speech[prompt.tokens.cpu()]
        units = slm.vocabulary.id_to_unit(prompt.tokens.cpu()[heard], slm.vocabulary.codebooks[0])
        seconds = prompt.edges.double().diff().cpu()[heard]
        frames.append(pd.DataFrame({"prompt": name, "unit": units.numpy(), "seconds": seconds.numpy()}))
    return pd.concat(frames, ignore_index=True)
