"""Observations as tidy rows, utterance block by utterance block, and back.

A long run asks the whole corpus once (`asked_of`: places, candidates and nulls depend on all of it), then reads it in blocks that
can be kept and gone on with. One row for every word, layer and candidate:

| column | meaning |
|---|---|
| `target` | `current`, `next` or `answer` |
| `place` | number of the word heard among those asked, in the order of the corpus |
| `utterance`, `utterance_name`, `word_index`, `heard` | the word that is heard |
| `asked_index`, `word_type` | the word asked about |
| `start`, `stop`, `span_length`, `positions` | its span (jittered if asked), and the positions of its window |
| `pieces` | how many pieces the word asked about has |
| `candidate` | the word whose ranks these are: the word asked about, or one drawn by a null (the same word, for a null of random residuals) |
| `null`, `draw` | which null and which of its draws; `""` and -1 for the word asked about |
| `layer` | blocks run; 0 is the embedding |
| `rank`, `rank_in_text` | best mid-rank from 0 over the window, among all live ids and among text ids |
| `log_prob` | best joint log-probability (nats) over the window |
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from slm_interp.errors import ReadoutError
from slm_interp.lenses import Lens
from slm_interp.model import SpeechTextModel
from slm_interp.transcription.asking.cells import COSTS
from slm_interp.transcription.asking.questions import Asked, Question, ask, costs, inside, provenance, strings, word_coordinates
from slm_interp.transcription.asking.targets import pieces
from slm_interp.transcription.asking.windows import Window, named
from slm_interp.transcription.observations import SCHEMA, Observations
from slm_interp.transcription.observe import NAMES, settings_of
from slm_interp.utterance import Utterance

VALUES = tuple(name for name, _ in NAMES.values())


def asked_of(slm: SpeechTextModel, utterances: Sequence[Utterance], question: Question, window: Window | str = "span") -> Asked:
    """Which words are asked about in a corpus, with their nulls, those without a position in the window left out and counted.

    Raises:
        ReadoutError: as in `observe`.
    """
    asked, rule = ask(slm, utterances, question), named(window)
    reason = "empty window" if question.spelling != "all_pieces" else "window shorter than the pieces"
    asked = asked.only(np.asarray(inside(asked, utterances, [rule])[0]), reason)
    if not asked.places:
        raise ReadoutError(f"The window {rule.name} has no position at any word of this corpus.")
    return asked


def rows_of(
    slm: SpeechTextModel,
    utterances: Sequence[Utterance],
    lens: Lens,
    asked: Asked,
    question: Question,
    window: Window | str,
    block: Collection[int],
) -> pd.DataFrame:
    """The rows of the places in some utterances; none if they have none.

    Args:
        utterances: of the whole corpus.
        asked: from `asked_of`, with the same question and window.
        block: numbers of utterances.
    """
    numbers = [number for number, place in enumerate(asked.places) if place.utterance in block]
    chosen = np.zeros(len(asked.places), dtype=bool)
    chosen[numbers] = True
    part, rule = asked.only(chosen, "in another block"), named(window)
    layers = slm.model.cfg.n_layers + 1
    found = (
        costs(slm, utterances, lens, part, [rule])[:, 0]
        if numbers
        else np.zeros((len(COSTS), 0, asked.candidates.shape[1], layers), np.float32)
    )
    word, candidate, layer = (index.ravel() for index in np.indices(found.shape[1:]))
    about = {name: np.asarray(values[1])[word] for name, values in word_coordinates(part, utterances).items() if name != "word"}
    lengths = [len(rule.positions(place.span, len(utterances[place.utterance]))) for place in part.places]
    nulls = np.array(["", *(name for name in question.nulls for _ in range(question.draws))], dtype=object)
    draws = np.array([-1, *(draw for _ in question.nulls for draw in range(question.draws))])
    columns: dict[str, Any] = {"target": question.target, "place": np.array(numbers, dtype=np.int64)[word], **about}
    columns |= {"positions": np.array(lengths, dtype=np.int64)[word]}
    columns |= {"pieces": np.array([pieces(slm, place.asked) for place in part.places], dtype=np.int64)[word]}
    columns |= {"candidate": strings(part.words.types)[part.candidates][word, candidate]}
    columns |= {"null": nulls[candidate], "draw": draws[candidate], "layer": layer}
    columns |= {name: sign * costs_of_one.ravel() for (name, sign), costs_of_one in zip((NAMES[one] for one in COSTS), found, strict=True)}
    return pd.DataFrame(columns)


def observations_of(frame: pd.DataFrame, attrs: dict[str, Any]) -> Observations:
    """Rows of all blocks as `Observations`: what `observe` gives, number for number.

    Args:
        frame: rows of one target.
        attrs: from `attrs_of`.

    Raises:
        ReadoutError: no rows, or rows that are missing or repeat.
    """
    nulls = [str(one) for one in dict.fromkeys(frame["null"]) if one]
    order = {name: number for number, name in enumerate(["", *nulls])}
    rows = frame.assign(_null=frame["null"].map(order)).sort_values(["place", "_null", "draw", "layer"], kind="stable")
    words, layers, draws = rows["place"].nunique(), rows["layer"].nunique(), int(rows["draw"].max()) + 1 if len(rows) else 0
    shape = (words, 1 + len(nulls) * draws, layers)
    if not len(rows) or len(rows) != np.prod(shape) or rows.duplicated(["place", "null", "draw", "layer"]).any():
        raise ReadoutError(
            f"{words} words, {len(nulls)} nulls of {draws} draws and {layers} layers make {np.prod(shape)} rows; got {len(rows)}."
        )
    variables: dict[str, Any] = {}
    for name in VALUES:
        values = rows[name].to_numpy().reshape(shape)
        variables[name] = (("word", "layer"), values[:, 0])
        by_null = values[:, 1:].reshape(words, len(nulls), draws, layers).transpose(1, 2, 0, 3)
        variables[f"null_{name}"] = (("null", "draw", "word", "layer"), by_null)
    drawn = rows["candidate"].to_numpy(dtype=object).reshape(shape)[:, 1:, 0].reshape(words, len(nulls), draws)
    variables["null_word"] = (("null", "draw", "word"), drawn.transpose(1, 2, 0))
    first = rows.drop_duplicates("place")
    numbers = ("utterance", "word_index", "asked_index", "start", "stop", "span_length", "positions", "pieces")
    coordinates: dict[str, Any] = {name: ("word", first[name].to_numpy(dtype=np.int64)) for name in numbers}
    coordinates |= {name: ("word", strings(first[name].tolist())) for name in ("utterance_name", "heard", "word_type")}
    coordinates |= {"word": np.arange(words), "layer": np.arange(layers), "null": strings(nulls), "draw": np.arange(draws)}
    return Observations(xr.Dataset(variables, coordinates, attrs))


def attrs_of(
    slm: SpeechTextModel, utterances: Sequence[Utterance], lens: Lens, asked: Asked, question: Question, window: Window | str
) -> dict[str, Any]:
    """What observations say about their source and the question put; as `observe` writes it."""
    return {
        **provenance(slm, lens, utterances),
        **settings_of(question, asked),
        "schema": SCHEMA,
        "window": named(window).name,
    }
