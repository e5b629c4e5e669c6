"""`Corpus`: utterances of one model with the answer each prompt asks for, kept in a file so that alignment is done once."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from slm_interp.errors import SpeechError
from slm_interp.files import write_text
from slm_interp.model import SpeechTextModel
from slm_interp.utterance import Span, Utterance, Word

SCHEMA = "slm_interp corpus 1"
FILE = "corpus.json"


@dataclass(frozen=True, eq=False)
class Corpus:
    """Utterances with words, and what else is known of them.

    Args:
        utterances: in order; their names are unique.
        answers: one text for each, or none at all.
        left_out: how many words or clips could not be used, by reason.
        source: where it was read from, for people.

    Raises:
        SpeechError: no utterances, names that repeat, one without words, or another number of answers.
    """

    utterances: tuple[Utterance, ...]
    answers: tuple[str, ...] | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)
    source: str = "memory"

    def __post_init__(self) -> None:
        if not self.utterances:
            raise SpeechError(f"A corpus has one utterance or more; {self.source} gives none.")
        silent = [one.name or str(number) for number, one in enumerate(self.utterances) if not one.words]
        if silent:
            raise SpeechError(f"{len(silent)} utterances of {self.source} have no words, the first is {silent[0]!r}. Align them first.")
        seen: set[str] = set()
        for one in self.utterances:
            if one.name and one.name in seen:
                raise SpeechError(f"Two utterances of {self.source} are named {one.name!r}. Answers and tables go by the name.")
            seen.add(one.name)
        if self.answers is not None and (len(self.answers) != len(self.utterances) or not all(map(str.strip, self.answers))):
            raise SpeechError(
                f"{len(self.utterances)} utterances need as many answers, none blank, or no answers at all; got {len(self.answers)}."
            )

    def __len__(self) -> int:
        return len(self.utterances)

    def __iter__(self) -> Iterator[Utterance]:
        return iter(self.utterances)

    def first(self, count: int | None) -> Corpus:
        """The first so many utterances with their answers; None is all of them."""
        answers = None if self.answers is None else self.answers[:count]
        return replace(self, utterances=self.utterances[:count], answers=answers)

    @property
    def hash(self) -> str:
        """What tells one corpus from another: tokens, words, spans and answers. 16 hex digits."""
        return hashlib.sha256(json.dumps([corpus_hash(self.utterances), self.answers]).encode()).hexdigest()[:16]

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `corpus.json`, whole or not at all. Sound is not kept: tokens, times, words and answers are."""
        rows = [_row(one) for one in self.utterances]
        said = {"schema": SCHEMA, "hash": self.hash, "source": self.source, "left_out": dict(self.left_out), "answers": self.answers}
        path = Path(folder) / FILE
        write_text(path, json.dumps({**said, "utterances": rows}) + "\n")
        return path

    @staticmethod
    def load(slm: SpeechTextModel, path: str | os.PathLike[str]) -> Corpus:
        """Read what `save` wrote: the file or its folder.

        Raises:
            SpeechError: no such file, a damaged one, or one that was changed by hand.
            VocabularyError, UtteranceError: a corpus of units or ids that this model does not have.
        """
        file = Path(path) / FILE if Path(path).is_dir() else Path(path)
        try:
            said = json.loads(file.read_text(encoding="utf-8"))
            if said["schema"] != SCHEMA:
                raise SpeechError(f"{file} has schema {said['schema']!r}; this reads {SCHEMA!r}. Read the corpus from its source again.")
            utterances = tuple(slm.check(_utterance(slm, row)) for row in said["utterances"])
            answers = None if said["answers"] is None else tuple(said["answers"])
            found = Corpus(utterances, answers, said["left_out"], said["source"])
        except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, IndexError) as error:
            raise SpeechError(f"{file} holds no saved corpus: {type(error).__name__} {error}. Read it from its source again.") from error
        if found.hash != said["hash"]:
            raise SpeechError(f"{file} does not hold what was saved: its hash is {found.hash} and it says {said['hash']}.")
        return found

    def __repr__(self) -> str:
        words = sum(len(one.words) for one in self.utterances)
        left_out = ", ".join(f"{count} {reason}" for reason, count in self.left_out.items()) or "nothing"
        answers = "with answers" if self.answers is not None else "without answers"
        return f"Corpus({len(self)} utterances, {words} words, {answers}, from {self.source}; left out: {left_out})"


def corpus_hash(utterances: Sequence[Utterance]) -> str:
    """What tells one list of utterances from another: tokens, words and spans."""
    digest = hashlib.sha256()
    for one in utterances:
        words = [(word.text, word.span.start, word.span.stop) for word in one.words]
        digest.update(json.dumps([one.tokens.tolist(), words]).encode())
    return digest.hexdigest()[:16]


def _row(one: Utterance) -> dict[str, Any]:
    words = [[word.text, word.span.start, word.span.stop, word.start_s, word.end_s] for word in one.words]
    known = {"name": one.name, "form": one.form, "quantiser": one.quantiser}
    return {**known, "tokens": one.tokens.tolist(), "edges": one.edges.tolist(), "words": words}


def _utterance(slm: SpeechTextModel, row: Mapping[str, Any]) -> Utterance:
    words = tuple(Word(text, Span(start, stop), start_s, end_s) for text, start, stop, start_s, end_s in row["words"])
    tokens = torch.tensor(row["tokens"], dtype=torch.long)
    slm.vocabulary.check_ids(tokens)
    return Utterance(
        tokens, torch.tensor(row["edges"]), words, slm.labels(tokens), None, row["quantiser"], form=row["form"], name=row["name"]
    )
