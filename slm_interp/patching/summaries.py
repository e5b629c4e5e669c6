"""From the contrasts of a sweep to one number a cell: means with intervals, p, and a choice on one half reported on the other.

Contrasts that are left out (not told apart, or without the span) are NaN, the same in every layer and head; spans are taken one by one, each with
the contrasts that have it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from slm_interp import statistics
from slm_interp.errors import StatisticsError

Ways = Mapping[str, Sequence[Any]]


def interval(values: xr.DataArray, clusters: Ways, level: float, seed: int) -> xr.Dataset:
    """`estimate`, `low`, `high` and `items` of every cell; see `Sweep.interval`."""
    parts = []
    for span, own, ways in by_span(values, clusters):
        found = statistics.bootstrap(own, ways, level=level, seed=seed)
        template = values.isel(contrast=0, drop=True).sel(span=span)
        part = xr.Dataset({name: template.copy(data=getattr(found, name)) for name in ("estimate", "low", "high")})
        parts.append(part.assign({"items": len(own), **{f"clusters_{way}": count for way, count in found.clusters.items()}}))
    whole = xr.concat(parts, "span", coords="minimal", compat="override", join="exact", combine_attrs="drop")
    order = [dim for dim in values.dims if dim != "contrast"]
    return whole.transpose(*order, ...).assign_attrs({**values.attrs, "of": str(values.name), "level": level, "seed": seed})


def share(moved: xr.DataArray, ceiling: xr.DataArray, clusters: Ways, level: float, seed: int) -> xr.Dataset:
    """`estimate`, `low`, `high` and `items` of a ratio of means in every cell; see `Sweep.share`.

    Raises:
        StatisticsError: a mean ceiling whose interval holds 0, which no ratio can stand on.
    """
    parts = []
    for span, own, ways in by_span(moved, clusters):
        there = np.isfinite(moved.sel(span=span).transpose("contrast", ...).values.reshape(moved.sizes["contrast"], -1)).all(1)
        below = ceiling.values[there]
        whole = statistics.bootstrap(below, ways, level=level, seed=seed)
        if whole.low <= 0 <= whole.high:
            raise StatisticsError(
                f"The mean ceiling of the {len(below)} contrasts at {str(span)!r} is {whole}: it is not told from 0, so nothing can be a share of "
                "it. Give more contrasts, or report effect()."
            )
        joined = np.concatenate([own.reshape(len(own), -1), below[:, None]], 1)
        found = statistics.bootstrap(joined, ways, statistics.ratio_of_means, level=level, seed=seed)
        template = moved.isel(contrast=0, drop=True).sel(span=span)
        shaped = {name: template.copy(data=getattr(found, name).reshape(template.shape)) for name in ("estimate", "low", "high")}
        parts.append(xr.Dataset(shaped).assign({"items": len(own)}))
    whole_set = xr.concat(parts, "span", coords="minimal", compat="override", join="exact", combine_attrs="drop")
    order = [dim for dim in moved.dims if dim != "contrast"]
    return whole_set.transpose(*order, ...).assign_attrs(
        {**moved.attrs, "of": "share", "unit": "share of the ceiling", "level": level, "seed": seed}
    )


def p(values: xr.DataArray, clusters: Ways, adjust: Callable[[np.ndarray], np.ndarray] | None, seed: int) -> xr.DataArray:
    """p of a mean of 0 in every cell, adjusted over all of them; see `Sweep.p`."""
    found = values.isel(contrast=0, drop=True).copy(deep=True)
    for span, own, ways in by_span(values, clusters):
        found.loc[{"span": span}] = statistics.sign_flip(own, ways, seed=seed)
    if adjust is not None:
        found = found.copy(data=adjust(found.values.reshape(-1)).reshape(found.shape))
    said = "none" if adjust is None else adjust.__name__
    return found.rename("p").assign_attrs({**values.attrs, "adjusted": said, "cells": found.size, "unit": "probability"})


def chosen_and_reported(values: xr.DataArray, clusters: Ways, seed: int) -> pd.DataFrame:
    """The best cell of every span on one half, reported on the other; see `Sweep.chosen_and_reported`."""
    cell_dims = [dim for dim in values.dims if dim not in ("contrast", "span")]
    rows = []
    for span, own, ways in by_span(values, clusters):
        first = half(next(iter(ways.values())), seed)
        for chooses, reports, named in ((first, ~first, "first half"), (~first, first, "second half")):
            means = own[chooses].mean(0)
            place = np.unravel_index(int(np.argmax(means)), means.shape)
            cell = {str(dim): values[dim].values[index] for dim, index in zip(cell_dims, place, strict=True)}
            theirs = {way: labels[reports] for way, labels in ways.items() if len(set(labels[reports])) > 1}
            found = statistics.bootstrap(
                own[reports][(slice(None), *place)], theirs or {way: labels[reports] for way, labels in ways.items()}, seed=seed
            )
            rows.append(
                {
                    "span": span,
                    "chosen_on": named,
                    **cell,
                    "in_the_choice": float(means[place]),
                    "reported": float(found.estimate),
                    "low": float(found.low),
                    "high": float(found.high),
                    "contrasts_choice": int(chooses.sum()),
                    "contrasts_report": int(reports.sum()),
                }
            )
    table = pd.DataFrame(rows)
    table.attrs = {"of": str(values.name), "seed": seed}
    return table


def half(labels: np.ndarray, seed: int) -> np.ndarray:
    """Which items are in the first half: half of the clusters, drawn with a seed.

    Raises:
        StatisticsError: fewer than four clusters, so that a half would have one.
    """
    own = np.array(sorted(set(labels.tolist())), dtype=object)
    if len(own) < 4:
        raise StatisticsError(f"A choice on one half needs two clusters in each; there are {len(own)}. Give more contrasts.")
    drawn = set(np.random.default_rng(seed).permutation(own)[: len(own) // 2].tolist())
    return np.array([label in drawn for label in labels])


def by_span(values: xr.DataArray, clusters: Ways) -> Iterator[tuple[Any, np.ndarray, dict[str, np.ndarray]]]:
    """Every span with the contrasts that have it, contrasts first, and their labels.

    Raises:
        StatisticsError: a span that no contrast has.
    """
    for span in values["span"].values:
        own = values.sel(span=span).transpose("contrast", ...).values
        there = np.isfinite(own.reshape(len(own), -1)).all(1)
        if not there.any():
            raise StatisticsError(f"No contrast is left at {str(span)!r}: none that has it is told apart by the model. Look at .ceiling.")
        yield span, own[there], {way: np.array(labels, dtype=object)[there] for way, labels in clusters.items()}
