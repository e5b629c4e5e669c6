"""What the causal command is asked, as words on a command line: contrasts, lenses, layers, outcome."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from slm_interp import causal, speech
from slm_interp.causal import building
from slm_interp.causal.bases import EmbeddingBasis, LensBasis, ProbeBasis
from slm_interp.causal.building.cases_built import Built
from slm_interp.causal.building.speakers import Speaker
from slm_interp.causal.building.unit_table import WANTED as UNITS_WANTED
from slm_interp.causal.building.unit_table import unit_cases
from slm_interp.causal.building.word_list import WANTED as WORDS_WANTED
from slm_interp.errors import PatchingError, SpeechError
from slm_interp.lenses.probe.probe import WordProbe
from slm_interp.model import SpeechTextModel
from slm_interp.organisms.world import World
from slm_interp.patching import outcomes
from slm_interp.report.transcription import lens_of
from slm_interp.speech import Quantiser

KINDS: Mapping[str, tuple[Callable[..., Built], str]] = {
    "names": (building.heard_word, "names"),
    "neighbours": (building.heard_word, "neighbours"),
    "homophones": (building.heard_word, "homophones"),
    "next-names": (building.spoken_word, "names"),
    "next-neighbours": (building.spoken_word, "neighbours"),
    "next-foreseen": (building.spoken_word, "foreseen"),
}
OUTCOMES = {
    "onset": (outcomes.difference(units=1), outcomes.difference()),
    "word": (outcomes.difference(), outcomes.difference(units=1)),
}
DTYPES: Mapping[str, torch.dtype | None] = {
    "float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "stored": None,
}  # fmt: skip
SPELLINGS = ("first_piece", "variants", "all_pieces")


@dataclass(frozen=True)
class Source:
    """Where cases come from.

    Args:
        contrasts: one of `KINDS`, asked of an organism; a `.csv` of words (`word_list`) or of units (`unit_cases`); a `.parquet` of spoken facts; or
            an aligned corpus, as `speech.corpus` reads it.
        count: pairs drawn, or at most so many cases.
        seed: of what is drawn.
        columns: for tables, `ours=theirs` each.
        quantiser: of sound; None is the one that the checkpoint carries.
        form: prompt form.
        voices: eSpeak's, for lists of words: the one that speaks, and another for the control.
        recordings: that say the sentences of a list of words in the place of eSpeak, as `speech.corpus` reads them; a second one is the other voice.
        speaker: for corpora: a regular expression whose first group in the name of a clip is who speaks; None takes all for one speaker.
    """

    contrasts: str
    count: int = 48
    seed: int = 0
    columns: tuple[str, ...] = ()
    quantiser: Quantiser | None = None
    form: str | None = None
    voices: tuple[str, str] = ("en-us", "en-gb")
    recordings: tuple[str, ...] = ()
    speaker: str | None = None

    def cases(self, slm: SpeechTextModel) -> Built:
        """The cases, as the model reads them.

        Raises:
            PatchingError: a source of no known kind, fewer than one case, or nothing that can be built.
        """
        if self.count < 1 or any(one.count("=") != 1 for one in self.columns):
            raise PatchingError(f"Columns are written ours=theirs and a count is 1 or more; got {self.columns}, {self.count}.")
        path = Path(self.contrasts)
        self._refuse(path)
        if not path.exists():
            if self.contrasts not in KINDS:
                raise PatchingError(
                    f"Contrasts are one of {', '.join(KINDS)}, asked of an organism, or a file or folder that is there; got {self.contrasts!r}."
                )
            build, kind = KINDS[self.contrasts]
            return build(slm, World(seed=0), kind, self.count, seed=self.seed)
        return _first(self._read(slm, path), self.count)

    def _refuse(self, path: Path) -> None:
        """Options that this source does not read would go unnoticed."""
        if self.recordings and path.suffix != ".csv":
            raise PatchingError(f"Recordings say the sentences of a list of words, a .csv with a column frame; got {self.contrasts!r}.")
        if len(self.recordings) > 2:
            raise PatchingError(f"Recordings are given once, and once more for another voice; got {len(self.recordings)} of them.")
        if self.speaker is not None and path.suffix == ".csv":
            raise PatchingError(f"Speakers are told apart in corpora; {self.contrasts!r} is a table of one speaker.")

    def _read(self, slm: SpeechTextModel, path: Path) -> Built:
        columns = dict(one.split("=") for one in self.columns)
        if path.suffix == ".csv":
            table = _table(path, columns)
            if "clean_units" in table:
                return unit_cases(slm, table, self.form)
            return building.word_list(slm, table, *self._speakers(slm))
        if path.suffix == ".parquet" and {"prompt", "right", "right_text"} & set(columns):
            return building.fact_pairs(slm, path, columns, self.quantiser, self.form)
        try:
            corpus = speech.corpus(slm, path, columns or None, self.quantiser, self.form)
        except SpeechError as error:
            if path.suffix != ".parquet" or columns:
                raise
            facts = "Spoken facts are named by --column name=..., prompt=..., words=..., right=... and right_text=..., each with its own --column."
            raise PatchingError(f"{error} {facts}") from error
        return building.corpus_pairs(slm, corpus, speakers=None if self.speaker is None else speakers_of(corpus, self.speaker))

    def _speakers(self, slm: SpeechTextModel) -> list[Speaker]:
        """Who says the sentences of a list of words, and in another voice."""
        if self.recordings:
            return [building.recorded_in(slm, one, self.quantiser, self.form) for one in self.recordings]
        if self.quantiser is None and slm.quantiser is None:
            raise PatchingError(
                "A list of words is said by eSpeak, and the sounds become units: this checkpoint carries no quantiser, so give --quantiser FOLDER. Where the "
                "model's own is not read here (Spirit LM, GLM-4-Voice), make the units with the model's code and give them as --recordings UNITS.jsonl "
                "(slamkit's features.jsonl), or give a table of units instead of words."
            )
        return [building.espeak(slm, self.quantiser, voice, form=self.form) for voice in self.voices]


def _table(path: Path, columns: Mapping[str, str]) -> pd.DataFrame:
    """A CSV of words or of units, its columns under our names."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise PatchingError(f"{path} is no CSV file that can be read: {error}") from error
    absent = [theirs for theirs in columns.values() if theirs not in table]
    if absent:
        raise PatchingError(f"{path} has no column {', '.join(absent)}; it has {', '.join(map(str, table.columns))}.")
    table = table.rename(columns={theirs: ours for ours, theirs in columns.items()})
    if not {"frame", "clean_units"} & set(table):
        raise PatchingError(
            f"A .csv holds a list of words, with the columns {', '.join(WORDS_WANTED)}, or a table of units, with {', '.join(UNITS_WANTED)}; {path} has "
            f"{', '.join(map(str, table.columns))}. Say which column is which with --column ours=theirs."
        )
    return table


def speakers_of(corpus: speech.Corpus, pattern: str) -> list[str]:
    """Of each clip who speaks, from its name.

    Raises:
        PatchingError: no regular expression with a group, or a name in which it is not found.
    """
    try:
        found = re.compile(pattern)
    except re.error as error:
        raise PatchingError(
            f"A speaker is the first group of a regular expression, such as '^([0-9]+)-'; {pattern!r} is none: {error}."
        ) from error
    matches = [(one.name, found.search(one.name)) for one in corpus]
    lost = [name for name, match in matches if match is None]
    if lost or not found.groups:
        raise PatchingError(
            f"A speaker is the first group of a regular expression in the name of a clip, such as '^([0-9]+)-'; {pattern!r} has {found.groups} groups and "
            f"is not in {len(lost)} of {len(matches)} names{f', such as {lost[0]!r}' if lost else ''}."
        )
    return [match[1] or "" for _, match in matches if match is not None]


def _first(built: Built, count: int) -> Built:
    """At most so many cases; the others are listed."""
    if len(built) <= count:
        return built
    rest = pd.DataFrame(
        [(case.name, "case", f"only the first {count} were asked for") for case in built.cases[count:]], columns=["name", "what", "why"]
    )
    return Built(built.cases[:count], pd.concat([built.left_out, rest], ignore_index=True), built.source)


def bases_of(slm: SpeechTextModel, asked: str) -> tuple[Any, ...]:
    """Bases by their names with commas between them: `logit`, `embedding`, or the folder of a saved lens or probe; `:variants` or `:all_pieces` after it.

    Raises:
        PatchingError: none, or an unknown spelling.
        ReadoutError: a folder with no lens in it, or with one of another model.
    """
    names = [one.strip() for one in asked.split(",") if one.strip()]
    if not names:
        raise PatchingError(
            "A causal test asks one lens or more, with commas between them: logit, embedding, or the folder of a saved one."
        )
    return tuple(_basis(slm, *_spelled(name)) for name in names)


def _spelled(name: str) -> tuple[str, str]:
    """A name without its spelling, and the spelling."""
    bare, _, spelling = name.rpartition(":")
    return (bare, spelling) if bare and spelling in SPELLINGS else (name, "first_piece")


def _basis(slm: SpeechTextModel, name: str, spelling: str) -> Any:
    if name == "embedding":
        return EmbeddingBasis(slm, spelling)  # type: ignore[arg-type]  # one of SPELLINGS
    if (Path(name) / "probe.json").is_file():
        return ProbeBasis(WordProbe.load(name, slm))
    return LensBasis(lens_of(slm, name), slm, spelling)  # type: ignore[arg-type]  # as above


def dtype_of(asked: str) -> torch.dtype | None:
    """What numbers a model computes in; None is what its files hold.

    Raises:
        PatchingError: another name.
    """
    if asked not in DTYPES:
        raise PatchingError(f"Numbers are one of {', '.join(DTYPES)}; got {asked!r}.")
    return DTYPES[asked]


def layers_of(asked: str | None) -> list[int] | None:
    """`3,4,6-8` as 3 4 6 7 8; None for all.

    Raises:
        PatchingError: something else.
    """
    if asked is None:
        return None
    found: list[int] = []
    for part in asked.split(","):
        ends = part.strip().split("-")
        if len(ends) > 2 or not all(one.strip().isdigit() for one in ends):
            raise PatchingError(f"Layers are written as numbers and ranges with commas between them, such as 3,4,6-8; got {asked!r}.")
        found += range(int(ends[0]), int(ends[-1]) + 1)
    return sorted(set(found))


def plan_of(
    slm: SpeechTextModel, built: Built, lens: str, preset: str, layers: str | None, outcome: str, seed: int, policy: str | None
) -> causal.Plan:
    """The plan, checked.

    Args:
        lens, layers: as `bases_of` and `layers_of` read them.
        preset: of arms, `quick` or `full`.
        outcome: `onset` or `word`: which of the two the verdict is about; both are measured.
        policy: how spans of unequal length meet; None takes spans of one length alone.

    Raises:
        PatchingError: what `causal.plan` refuses, or another outcome.
    """
    if outcome not in OUTCOMES:
        raise PatchingError(f"An outcome is one of {', '.join(OUTCOMES)}; got {outcome!r}.")
    chosen: Sequence[Any] = bases_of(slm, lens)
    return causal.plan(slm, built.cases, chosen, layers_of(layers), preset, policy, OUTCOMES[outcome], seed)
