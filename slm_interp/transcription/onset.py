"""Heard or guessed: when does a word become decodable, relative to its own onset and end?

A word that is transcribed becomes decodable while or after it sounds. One that is merely expected is decodable before
its onset, where none of its sound has been read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import xarray as xr
from einops import rearrange
from jaxtyping import Bool, Float

from slm_interp.errors import ReadoutError
from slm_interp.lenses import Lens, LogitLens
from slm_interp.model import SpeechTextModel
from slm_interp.statistics import bootstrap, sign_flip
from slm_interp.transcription.asking.cells import COSTS
from slm_interp.transcription.asking.questions import Asked, Question, ask, costs, inside, provenance, strings
from slm_interp.transcription.asking.windows import FIRST, LAST, before, end_and_after, from_end, offset
from slm_interp.transcription.observe import settings_of
from slm_interp.transcription.recall import VARIABLE, Ranks
from slm_interp.utterance import Utterance

Anchor = Literal["onset", "end"]
ANCHORS = {"onset": offset, "end": from_end}


def by_position(
    slm: SpeechTextModel,
    utterances: Sequence[Utterance],
    lens: Lens | None = None,
    offsets: Sequence[int] = range(-8, 13),
    relative_to: Anchor = "onset",
    k: int = 10,
    ranks: Ranks = "joint",
    question: Question | None = None,
) -> xr.Dataset:
    """Recall at single positions counted from the word's first (`"onset"`) or last (`"end"`) position, which is 0.

    Variables: `recall`, `low`, `high` (layer, offset); for each null `null_recall` and the paired difference `over` with
    `over_low` and `over_high` (null, layer, offset); `words` (offset), those whose utterance has that position.
    Intervals as in `recall`.

    Args:
        question: which word is asked about, with which nulls; None is the current word.

    Raises:
        ReadoutError: an unknown anchor or offsets that no word has; and as in `observe`.
    """
    if relative_to not in get_args(Anchor):
        raise ReadoutError(f"Positions are counted from onset or end; got {relative_to!r}.")
    _check(k, (ranks,))
    lens, question, offsets = lens or LogitLens(slm), question or Question(), list(offsets)
    asked = ask(slm, utterances, question)
    windows = [ANCHORS[relative_to](one) for one in offsets]
    there = inside(asked, utterances, windows)
    empty = [one for one, row in zip(offsets, there, strict=True) if not row.any()]
    if empty:
        raise ReadoutError(f"No word of this corpus has a position {empty[0]:+d} from its {relative_to}. Ask for nearer offsets.")
    hits = _near(costs(slm, utterances, lens, asked, windows), question, k, ranks)
    clusters, n = _clusters(asked), len(question.nulls)
    rows = []
    for here, values in zip(there, hits, strict=True):
        own, null = values[here][..., :1], values[here][..., 1:]
        labels = {way: all_labels[here] for way, all_labels in clusters.items()}
        found = bootstrap(np.concatenate([own, null, own - null], -1), labels, seed=question.seed)
        single = {"recall": found.estimate, "low": found.low, "high": found.high}
        over = {"over": found.estimate, "over_low": found.low, "over_high": found.high}
        rows.append(
            {name: part[:, 0] for name, part in single.items()}
            | {"null_recall": found.estimate[:, 1 : 1 + n].T}
            | {name: part[:, 1 + n :].T for name, part in over.items()}
        )
    shaped = {
        name: ((*(("null",) if one.ndim == 2 else ()), "layer", "offset"), np.stack([row[name] for row in rows], -1))
        for name, one in rows[0].items()
    }
    coordinates = {"layer": np.arange(hits.shape[2]), "offset": offsets, "null": strings(question.nulls)}
    attrs = {**provenance(slm, lens, utterances), **settings_of(question, asked), "relative_to": relative_to, "k": k, "ranks": ranks}
    return xr.Dataset({**shaped, "words": ("offset", there.sum(1))}, coordinates, attrs)


def rise(
    slm: SpeechTextModel,
    utterances: Sequence[Utterance],
    lens: Lens | None = None,
    width: int = 3,
    k: int = 10,
    ranks: Ranks = "joint",
    question: Question | None = None,
) -> pd.DataFrame:
    """One row a layer: recall before, in and after a word, and how much of it was heard.

    Columns: `layer`, `words`; recall at single positions `before` (-1 from the onset), `first`, `last`, `after_1`,
    `after_2` (from the end); recall over `width` positions just before the onset (`before_pooled`) and from the last
    position on (`after_pooled`); `heard`, their paired difference, with `low`, `high` and one-sided `p` (above 0); and
    `heard_null`, the same difference for null words, all nulls together. Both windows are equally long, so that pooling favours
    neither; words without all these positions are left out and counted in `attrs["left_out_json"]`.

    Raises:
        ReadoutError: as in `observe`, or no word has all positions.
        StatisticsError: words of a single utterance or a single type.
    """
    return rises(slm, utterances, lens, width, k, (ranks,), question)[ranks]


def rises(
    slm: SpeechTextModel,
    utterances: Sequence[Utterance],
    lens: Lens | None = None,
    width: int = 3,
    k: int = 10,
    ranks: Sequence[Ranks] = ("joint", "text"),
    question: Question | None = None,
) -> dict[Ranks, pd.DataFrame]:
    """`rise` under several ways of ranking, from one run of the corpus.

    Raises:
        ReadoutError, StatisticsError: as in `rise`.
    """
    _check(k, ranks)
    lens, question = lens or LogitLens(slm), question or Question()
    singles = {"before": offset(-1), "first": FIRST, "last": LAST, "after_1": from_end(1), "after_2": from_end(2)}
    windows = {**singles, "before_pooled": before(width), "after_pooled": end_and_after(width)}
    asked = ask(slm, utterances, question)
    there = inside(asked, utterances, list(windows.values()))
    asked = asked.only(np.asarray(there.all(0)), "positions missing before or after")
    if not asked.places:
        raise ReadoutError(f"No word has {width} positions before its onset and {max(2, width - 1)} after its end.")
    found = costs(slm, utterances, lens, asked, list(windows.values()))
    about = {**provenance(slm, lens, utterances), **settings_of(question, asked), "k": k, "width": width}
    return {one: _risen(_near(found, question, k, one), list(windows), asked, {**about, "ranks": one}) for one in ranks}


def _risen(
    hits: Float[np.ndarray, "window place layer own_and_nulls"], windows: Sequence[str], asked: Asked, about: Mapping[str, Any]
) -> pd.DataFrame:
    by_window = dict(zip(windows, hits, strict=True))
    heard = by_window["after_pooled"] - by_window["before_pooled"]
    own = heard[..., 0]
    interval = bootstrap(own, _clusters(asked), seed=asked.question.seed)
    columns = {"layer": np.arange(own.shape[1]), "words": len(own)}
    columns |= {name: values[..., 0].mean(0) for name, values in by_window.items()}
    columns |= {"heard": interval.estimate, "low": interval.low, "high": interval.high}
    columns |= {"p": sign_flip(own, _clusters(asked), "greater", seed=asked.question.seed), "heard_null": heard[..., 1:].mean((0, 2))}
    table = pd.DataFrame(columns)
    table.attrs = dict(about)
    return table


def _check(k: int, ranks: Sequence[str]) -> None:
    wrong = [one for one in ranks if one not in VARIABLE]
    if wrong or k < 1:
        raise ReadoutError(f"Recall needs a k from 1 up and ranks joint or text; got k={k}, ranks={(wrong or list(ranks))[0]!r}.")


def _near(
    found: Float[np.ndarray, "cost window place candidate layer"], question: Question, k: int, ranks: Ranks
) -> Float[np.ndarray, "window place layer own_and_nulls"]:
    """Whether each word is among the k best in each window, then the share of each null's draws."""
    near: Bool[np.ndarray, "window place candidate layer"] = found[COSTS.index(VARIABLE[ranks])] < k
    nulls = rearrange(near[:, :, 1:], "window place (null draw) layer -> draw window place layer null", draw=question.draws)
    return np.concatenate([near[:, :, 0, :, None], nulls.mean(0)], -1)


def _clusters(asked: Asked) -> dict[str, np.ndarray]:
    return {
        "utterance": np.array([one.utterance for one in asked.places]),
        "word_type": np.array([one.asked for one in asked.places]),
    }
