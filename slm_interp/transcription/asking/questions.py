"""From a corpus to costs: which words and nulls are asked where, and what a lens says about each of them in some windows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import numpy as np
from einops import rearrange
from jaxtyping import Bool, Float, Int

from slm_interp.errors import ReadoutError
from slm_interp.lenses import Lens
from slm_interp.lenses.many import residuals_of_each
from slm_interp.model import SpeechTextModel
from slm_interp.speech.corpus import corpus_hash
from slm_interp.transcription.asking.cells import COSTS, Candidate, pool, read_cells
from slm_interp.transcription.asking.nulls import Lexicon, draw, lexicon, sources
from slm_interp.transcription.asking.pooling import positions_needed
from slm_interp.transcription.asking.random_residuals import noises
from slm_interp.transcription.asking.targets import Answers, Given, Place, Spelling, Target, Unspelled, answer_of, given_of, places, spelled
from slm_interp.transcription.asking.windows import Window
from slm_interp.utterance import Utterance


@dataclass(frozen=True)
class Question:
    """What is asked about each word; see `observe`, whose arguments these are."""

    target: Target = "current"
    nulls: tuple[str, ...] = ("shuffled", "elsewhere", "frequency")
    draws: int = 5
    seed: int = 0
    jitter: int = 0
    answers: Answers = None
    spelling: Spelling = "first_piece"
    unspelled: Unspelled = "refuse"
    words: Given = None


@dataclass(frozen=True, eq=False)
class Asked:
    """Places with their candidates: types of the lexicon, the word asked about first, then the draws of each null.

    Args:
        sources: what each candidate is read from; see `nulls.sources`.
        question: as it was put.
        left_out: how many words could not be asked about, by reason.
    """

    places: tuple[Place, ...]
    words: Lexicon
    candidates: Int[np.ndarray, "place candidate"]
    sources: Int[np.ndarray, " candidate"]
    question: Question
    left_out: Counter[str]

    def only(self, keep: Bool[np.ndarray, " place"], reason: str) -> Asked:
        """Those that are kept; the others are counted."""
        kept = tuple(place for place, yes in zip(self.places, keep, strict=True) if yes)
        counted = self.left_out + Counter({reason: int((~keep).sum())})
        return replace(self, places=kept, candidates=self.candidates[keep], left_out=counted)

    def needed(self, row: int) -> int:
        """How many positions a window must have to be asked at a place."""
        return positions_needed(self.question.spelling, len(self.words.ids[self.candidates[row, 0]]))

    def spelled(self, row: int) -> list[Candidate]:
        """The candidates of a place, as they are pooled."""
        kinds = zip(self.candidates[row], self.sources, strict=True)
        return [Candidate(self.words.ids[kind], int(source)) for kind, source in kinds]


def ask(slm: SpeechTextModel, utterances: Sequence[Utterance], question: Question) -> Asked:
    """Choose places, ids and nulls.

    Raises:
        ReadoutError: nothing to ask about is left, and what `places`, `spelled` and `draw` refuse.
    """
    found, counted = places(utterances, question.target, question.answers, question.jitter, question.seed, question.words)
    extra = [*answer_of(question.answers, utterances), *(text for texts in given_of(question.words, utterances) for text in texts)]
    texts = [word.text for one in utterances for word in one.words] + [text for text in extra if text]
    ids = spelled(slm, texts, question.spelling, question.unspelled)
    counted["not spelled"] = sum(place.asked not in ids for place in found)
    found = [place for place in found if place.asked in ids]
    words = lexicon(utterances, found, ids)
    drawn, missing = draw(words, utterances, found, question.nulls, question.draws, question.seed)
    flat = rearrange(drawn, "place null draw -> place (null draw)")
    kept = np.asarray((flat >= 0).all(1))
    counted += Counter({name: count for name, count in missing.items() if count})
    if not kept.any():
        raise ReadoutError(f"No word is left to ask about; left out: {dict(+counted)}. Give longer or more utterances, or fewer nulls.")
    asked = np.concatenate([words.asked_type[:, None], flat], 1)
    rows = tuple(place for place, yes in zip(found, kept, strict=True) if yes)
    return Asked(rows, words, asked[kept], sources(question.nulls, question.draws), question, +counted)


def inside(asked: Asked, utterances: Sequence[Utterance], windows: Sequence[Window]) -> Bool[np.ndarray, "window place"]:
    """Whether a window has a position at a place, or as many as the pieces of the word where they are asked in order."""
    needed = [asked.needed(row) for row in range(len(asked.places))]
    rows = [
        [
            len(one.positions(place.span, len(utterances[place.utterance]))) >= least
            for place, least in zip(asked.places, needed, strict=True)
        ]
        for one in windows
    ]
    return np.array(rows, dtype=bool)


def costs(
    slm: SpeechTextModel, utterances: Sequence[Utterance], lens: Lens, asked: Asked, windows: Sequence[Window]
) -> Float[np.ndarray, "cost window place candidate layer"]:
    """Pooled costs of every candidate; NaN where a window has no position (see `inside`)."""
    shape = (len(COSTS), len(windows), *asked.candidates.shape, slm.model.cfg.n_layers + 1)
    found = np.full(shape, np.nan, dtype=np.float32)
    rows_of = _by_utterance(asked)
    there = np.asarray(inside(asked, utterances, windows).any(0))
    numbers = [number for number, rows in rows_of.items() if there[rows].any()]
    for place, resid in residuals_of_each(slm, [utterances[number] for number in numbers]):
        rows = rows_of[numbers[place]]
        ranges = {(w, row): one.positions(asked.places[row].span, resid.shape[1]) for w, one in enumerate(windows) for row in rows}
        ids = [one for kind in np.unique(asked.candidates[rows]) for one in asked.words.ids[kind]]
        noise = noises(asked.question.nulls, asked.question.draws, asked.question.seed, numbers[place])
        cells = read_cells(slm, lens, resid, [position for window in ranges.values() for position in window], ids, noise)
        for (w, row), window in ranges.items():
            if len(window) >= asked.needed(row):
                found[:, w, row] = pool(cells, window, asked.spelled(row), asked.question.spelling)
    return found


def _by_utterance(asked: Asked) -> dict[int, list[int]]:
    rows: dict[int, list[int]] = {}
    for row, place in enumerate(asked.places):
        rows.setdefault(place.utterance, []).append(row)
    return rows


def word_coordinates(asked: Asked, utterances: Sequence[Utterance]) -> dict[str, Any]:
    """Coordinates along `word`. Clusters are `utterance` and `word_type`, the word asked about."""
    rows = asked.places
    columns: dict[str, Any] = {
        "utterance": [one.utterance for one in rows],
        "word_index": [one.index for one in rows],
        "asked_index": [one.asked_index for one in rows],
        "start": [one.span.start for one in rows],
        "stop": [one.span.stop for one in rows],
        "span_length": [len(one.span) for one in rows],
        "utterance_name": strings([utterances[one.utterance].name for one in rows]),
        "heard": strings([one.heard for one in rows]),
        "word_type": strings([one.asked for one in rows]),
    }
    return {"word": np.arange(len(rows)), **{name: ("word", np.asarray(values)) for name, values in columns.items()}}


def strings(values: Sequence[Any]) -> np.ndarray:
    """Text as netCDF takes it."""
    return np.array([str(value) for value in values], dtype=object)


def model_provenance(slm: SpeechTextModel) -> dict[str, str]:
    """Where the model comes from, and the versions that ran it."""
    packages = ("slm-interp", "torch", "transformer-lens", "xarray")
    return {
        "dtype": str(slm.model.cfg.dtype).removeprefix("torch."),
        "provenance_json": json.dumps(dict(slm.provenance), sort_keys=True),
        "versions_json": json.dumps({name: version(name) for name in packages}, sort_keys=True),
    }


def provenance(slm: SpeechTextModel, lens: Lens, utterances: Sequence[Utterance]) -> dict[str, Any]:
    """What every measurement of a corpus by a lens says about its source."""
    return {
        **lens.settings,
        "corpus": corpus_hash(utterances),
        "n_utterances": len(utterances),
        "n_text_ids": int(slm.vocabulary.mask("text").sum()),
        "n_live_ids": slm.vocabulary.size - int(slm.vocabulary.mask("dead").sum()),
        **model_provenance(slm),
    }
