"""What the results of all questions are made of: labels to draw by, means and shares with intervals, a table to look at, files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from slm_interp import statistics
from slm_interp.causal.cases import Case
from slm_interp.errors import PatchingError, StatisticsError
from slm_interp.files import atomic_path
from slm_interp.statistics import Interval


def labels_of(case: Case) -> dict[str, str]:
    """The first columns of every row about a case: what it is called, and the labels that it clusters by."""
    return {"case": case.name, "prompt": case.prompt, "word": case.word}


def clusters_of(table: pd.DataFrame) -> dict[str, Sequence[Any]]:
    """The labels by which rows depend on each other: `prompt` and `word`, those of the two that say something (`ways_apart`); else `word`."""
    found = {way: table[way].tolist() for way in ("prompt", "word")}
    return {way: list(labels) for way, labels in statistics.ways_apart(found).items()} or {"word": found["word"]}


def chosen(table: pd.DataFrame, **where: Any) -> pd.DataFrame:
    """The rows in which columns have these values.

    Raises:
        PatchingError: no such rows; the values that there are.
    """
    kept = table
    for column, value in where.items():
        rows = kept[kept[column] == value]
        if rows.empty:
            there = sorted(kept[column].unique().tolist())
            raise PatchingError(f"No rows with {column} = {value!r}; there are: {', '.join(map(repr, there))}.")
        kept = rows
    return kept


def means(table: pd.DataFrame, columns: Sequence[str], level: float = 0.95, seed: int = 0) -> dict[str, Interval]:
    """The mean of each column over rows, whole clusters drawn, the same draws for all.

    Raises:
        StatisticsError: too few clusters, values that are not finite.
    """
    found = statistics.bootstrap(table[list(columns)].to_numpy(float), clusters_of(table), level=level, seed=seed)
    return _apart(found, columns)


def shares(table: pd.DataFrame, columns: Sequence[str], over: str, level: float = 0.95, seed: int = 0) -> dict[str, Interval]:
    """The mean of each column over the mean of another, whole clusters drawn, the same draws for all.

    Raises:
        StatisticsError: as `means`; a mean to divide by whose interval holds 0.
    """
    whole = means(table, [over], level, seed)[over]
    if whole.low <= 0 <= whole.high:
        raise StatisticsError(
            f"The mean of {over!r} is {whole}: it is not told from 0, so nothing can be a share of it. Report means instead."
        )
    values = table[[*columns, over]].to_numpy(float)
    found = statistics.bootstrap(values, clusters_of(table), statistics.ratio_of_means, level=level, seed=seed)
    return _apart(found, columns)


def _apart(found: Interval, columns: Sequence[str]) -> dict[str, Interval]:
    return {
        name: replace(
            found, estimate=np.asarray(found.estimate[place]), low=np.asarray(found.low[place]), high=np.asarray(found.high[place])
        )
        for place, name in enumerate(columns)
    }


def html_of(title: str, table: pd.DataFrame, said: str = "") -> str:
    """A title, a sentence and a table."""
    body = table.to_html(index=False, float_format="{:.3f}".format, border=0)
    return f"<div><b>{escape(title)}</b>{f'<p>{escape(said)}</p>' if said else ''}{body}</div>"


def save_table(table: pd.DataFrame, path: str | os.PathLike[str]) -> None:
    """Write a Parquet file, whole or not at all."""
    with atomic_path(path) as temporary:
        table.to_parquet(temporary, index=False)


def load_table(path: str | os.PathLike[str], columns: Sequence[str]) -> pd.DataFrame:
    """Read a file that `save_table` wrote.

    Raises:
        PatchingError: no such file, or one of another question.
    """
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise PatchingError(f"{os.fspath(path)!r} is no saved result: {error}") from error
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise PatchingError(f"{os.fspath(path)!r} is the result of another question: it has no column {missing[0]!r}.")
    return table
