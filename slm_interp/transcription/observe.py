"""Observing a corpus: how near the spoken word is in every layer, and how near other words are by the same rule.

1. Places: each word that is heard, the word asked about there, the positions of its window.
2. Candidates of a place: the word asked about and, for each null, `draws` other words.
3. For each utterance one forward run; the ranks of all its candidates are read at all its positions.
4. Pooling: of every candidate, the word first, the best over the window. One list, one call.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from einops import rearrange
from jaxtyping import Float

from slm_interp.errors import ReadoutError
from slm_interp.lenses import Lens, LogitLens
from slm_interp.model import SpeechTextModel
from slm_interp.transcription.asking.cells import COSTS
from slm_interp.transcription.asking.questions import Asked, Question, ask, costs, inside, provenance, strings, word_coordinates
from slm_interp.transcription.asking.targets import Answers, Given, Spelling, Target, Unspelled, pieces
from slm_interp.transcription.asking.windows import Window, named
from slm_interp.transcription.observations import SCHEMA, Observations
from slm_interp.utterance import Utterance

NAMES = {"rank": ("rank", 1), "rank_in_text": ("rank_in_text", 1), "surprise": ("log_prob", -1)}


def observe(
    slm: SpeechTextModel,
    utterances: Sequence[Utterance],
    lens: Lens | None = None,
    target: Target = "current",
    window: Window | str = "span",
    nulls: Sequence[str] = ("shuffled", "elsewhere", "frequency"),
    draws: int = 5,
    seed: int = 0,
    jitter: int = 0,
    answers: Answers = None,
    spelling: Spelling = "first_piece",
    unspelled: Unspelled = "refuse",
    words: Given = None,
) -> Observations:
    """Ranks of the spoken words of a corpus in every layer, beside those of null words.

    Args:
        utterances: with words. A word whose window is empty, or for which a null has no candidate, is left out and counted.
        lens: None is the logit lens.
        target: `"current"`, `"next"` (of the last word: the answer, if there are answers), `"answer"` (at the last word) or
            `"given"`: whichever `words` say.
        window: positions of a word that are asked; see `windows`.
        nulls, draws: which other words are asked at the same place, or of what else the same word is asked, and how many times;
            see `nulls`.
        jitter: move word boundaries by up to so many positions at random.
        answers: one text an utterance, in order or by its name.
        spelling: `"first_piece"` of `" word"`, the best of its `"variants"` in case and leading space, or a word in several
            pieces as a whole: `"all_pieces"` at successive positions, `"every_piece"` in any order; see `pooling`.
        unspelled: refuse words that the tokenizer cannot spell, by name, or `"drop"` and count them.
        words: with target `"given"`: for each utterance a list of one text (or None) for each of its words, or a mapping from
            words that are heard to words to ask for there.

    Raises:
        ReadoutError, UtteranceError, VocabularyError: options that are unknown, utterances this model cannot read,
            words it cannot spell, or nothing left to ask about.
    """
    lens, window = lens or LogitLens(slm), named(window)
    question = Question(target, tuple(nulls), draws, seed, jitter, answers, spelling, unspelled, words)
    asked = ask(slm, utterances, question)
    asked = asked.only(
        inside(asked, utterances, [window])[0], "empty window" if spelling != "all_pieces" else "window shorter than the pieces"
    )
    if not asked.places:
        raise ReadoutError(f"The window {window.name} has no position at any word of this corpus.")
    found = costs(slm, utterances, lens, asked, [window])[:, 0]
    lengths = [len(window.positions(one.span, len(utterances[one.utterance]))) for one in asked.places]
    return observations(slm, utterances, lens, asked, found, lengths, {"window": window.name})


def observations(
    slm: SpeechTextModel,
    utterances: Sequence[Utterance],
    lens: Lens,
    asked: Asked,
    found: Float[np.ndarray, "cost word candidate layer"],
    positions: Sequence[int],
    settings: Mapping[str, Any],
) -> Observations:
    """Pooled costs of places and candidates, labelled.

    Args:
        positions: how many were pooled over, at each place.
        settings: what else `attrs` should say; a window at least.
    """
    about = {**provenance(slm, lens, utterances), **settings_of(asked.question, asked), "schema": SCHEMA, **settings}
    coordinates = {**word_coordinates(asked, utterances), "positions": ("word", np.array(positions))}
    coordinates["pieces"] = ("word", np.array([pieces(slm, one.asked) for one in asked.places]))
    return Observations(_dataset(found, asked.question, asked).assign_coords(coordinates).assign_attrs(about))


def settings_of(question: Question, asked: Asked) -> dict[str, str | int]:
    """How the question was put, for `attrs`."""
    plain = {name: getattr(question, name) for name in ("target", "draws", "seed", "jitter", "spelling", "unspelled")}
    return {**plain, "answers": "no" if question.answers is None else "yes", "left_out_json": json.dumps(dict(asked.left_out))}


def _dataset(found: Float[np.ndarray, "cost word candidate layer"], question: Question, asked: Asked) -> xr.Dataset:
    variables: dict[str, Any] = {}
    for costs_of_one, (name, sign) in zip(found, (NAMES[cost] for cost in COSTS), strict=True):
        nulls = rearrange(costs_of_one[:, 1:], "word (null draw) layer -> null draw word layer", draw=question.draws)
        variables[name] = (("word", "layer"), sign * costs_of_one[:, 0])
        variables[f"null_{name}"] = (("null", "draw", "word", "layer"), sign * nulls)
    types = rearrange(asked.candidates[:, 1:], "word (null draw) -> null draw word", draw=question.draws)
    variables["null_word"] = (("null", "draw", "word"), strings(asked.words.types)[types])
    return xr.Dataset(variables, {"layer": np.arange(found.shape[-1]), "null": strings(question.nulls), "draw": np.arange(question.draws)})
