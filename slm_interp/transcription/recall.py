"""Recall at k: the share of words among the k best, by layer and over all layers, beside every null.

`any` is the paper's aggregate score: the best layer of each word. Its nulls take their best layer too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import xarray as xr
from einops import rearrange
from jaxtyping import Float

from slm_interp.errors import ReadoutError
from slm_interp.statistics import bootstrap, holm, sign_flip
from slm_interp.transcription.observations import Observations

Ranks = Literal["joint", "text"]
VARIABLE = {"joint": "rank", "text": "rank_in_text"}
READ = {"joint": "n_live_ids", "text": "n_text_ids"}
GROUPS = 20
CLUSTERS = ("utterance", "word_type")


def recall(
    observations: Observations,
    k: Sequence[int] = (1, 10, 50),
    by: str | None = None,
    ranks: Ranks = "joint",
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """One row for every layer (and `any`), k and group.

    Columns: `layer`, `k`, the group, `words`, `utterances`, `word_types`, `k_share` (k as a fraction of the ids read),
    `recall` with `low` and `high`; and for each null its recall `null_*`, the paired difference `over_*` with
    `over_*_low` and `over_*_high`, its one-sided p `p_*` (recall above the null) and `holm_*`, adjusted over the layers.
    Intervals: bootstrap over utterances and word types at once. p: sign flips of whole utterances and of whole word
    types, the larger of the two.

    Args:
        by: a coordinate along `word` with few values, such as `"predictability"`.
        ranks: among all live ids (`"joint"`) or among text ids.

    Raises:
        ReadoutError: a k below 1, unknown ranks or coordinate.
        StatisticsError: words of a single utterance or a single type.
    """
    if ranks not in get_args(Ranks) or not k or min(k) < 1:
        raise ReadoutError(f"Recall needs one or more k from 1 up and ranks joint or text; got k={tuple(k)}, ranks={ranks!r}.")
    data = observations.dataset
    tables = []
    for name, part in _groups(data, by):
        hits, null_hits = hits_of(part, k, VARIABLE[ranks])
        clusters = {way: part[way].values for way in CLUSTERS}
        table = table_of(
            hits,
            null_hits,
            clusters,
            {"layer": [*map(str, data["layer"].values), "any"], "k": list(k)},
            observations.nulls,
            level,
            draws,
            seed,
        )
        table.insert(2, "k_share", table["k"] / int(data.attrs[READ[ranks]]))
        tables.append(table if by is None else table.assign(**{by: name}))
    whole = pd.concat(tables, ignore_index=True)
    whole.attrs = {**data.attrs, "ranks": ranks, "level": level, "bootstrap_draws": draws, "bootstrap_seed": seed}
    return whole


def hits_of(
    data: xr.Dataset, k: Sequence[int], variable: str
) -> tuple[Float[np.ndarray, "word layer k"], Float[np.ndarray, "word layer k null"]]:
    """Whether each word is among the k best, and the share of each null's draws; the last layer is the best one."""
    own, null = data[variable], data[f"null_{variable}"]
    both = []
    for ranks in (own, null):
        with_any = np.concatenate([ranks.values, ranks.min("layer").values[..., None]], -1)
        both.append((with_any[..., None] < np.asarray(k)).astype(np.float64))
    return both[0], rearrange(both[1].mean(1), "null word layer k -> word layer k null")


def table_of(
    hits: Float[np.ndarray, " word *rows"],
    null_hits: Float[np.ndarray, "word *rows null"],
    clusters: dict[str, Any],
    index: dict[str, Sequence[Any]],
    nulls: Sequence[str],
    level: float,
    draws: int,
    seed: int,
) -> pd.DataFrame:
    """Estimates, intervals and p of hits beside nulls, one row for each entry of `index`, its last key fastest."""
    over = hits[..., None] - null_hits
    shares = bootstrap(np.concatenate([hits[..., None], null_hits, over], -1), clusters, draws=draws, level=level, seed=seed)
    p = sign_flip(over, clusters, "greater", draws=draws, seed=seed)
    adjusted = np.apply_along_axis(holm, 0, p[:-1]) if len(p) > 1 else p[:-1]
    adjusted = np.concatenate([adjusted, p[-1:]])  # `any` is one test by itself
    rows = pd.MultiIndex.from_product(list(index.values()), names=list(index)).to_frame(index=False)
    rows["words"] = len(hits)
    rows["utterances"], rows["word_types"] = shares.clusters["utterance"], shares.clusters["word_type"]
    flat = {name: values.reshape(len(rows), -1) for name, values in (("at", shares.estimate), ("low", shares.low), ("high", shares.high))}
    rows["recall"], rows["low"], rows["high"] = flat["at"][:, 0], flat["low"][:, 0], flat["high"][:, 0]
    for number, name in enumerate(nulls):
        column = 1 + len(nulls) + number
        rows[f"null_{name}"] = flat["at"][:, 1 + number]
        rows[f"over_{name}"], rows[f"over_{name}_low"], rows[f"over_{name}_high"] = (
            flat[part][:, column] for part in ("at", "low", "high")
        )
        rows[f"p_{name}"], rows[f"holm_{name}"] = p[..., number].ravel(), adjusted[..., number].ravel()
    return rows


def _groups(data: xr.Dataset, by: str | None) -> Iterator[tuple[Any, xr.Dataset]]:
    if by is None:
        yield None, data
        return
    there = [str(name) for name, one in data.coords.items() if one.dims == ("word",) and name != "word"]
    if by not in there:
        raise ReadoutError(f"No coordinate {by!r} along words; there are {', '.join(there)}. Surprisal is joined by with_predictability.")
    values = list(dict.fromkeys(data[by].values.tolist()))
    if len(values) > GROUPS:
        raise ReadoutError(f"Groups need a coordinate with {GROUPS} values at most; {by!r} has {len(values)}. Cut it into classes.")
    for value in sorted(values):
        yield value, data.isel(word=np.flatnonzero(data[by].values == value))
