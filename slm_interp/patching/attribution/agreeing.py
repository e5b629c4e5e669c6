"""How far estimates agree with exact patching: correlations, signs, what is found, and what is missed worst."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr

from slm_interp.correlation import mid_ranks, pearson
from slm_interp.errors import PatchingError
from slm_interp.patching.attribution.result import Attribution
from slm_interp.patching.result import Sweep

ALIKE = ("site", "direction", "policy", "outcome")


def agreement(attributed: Attribution | Mapping[str, Attribution], exact: Sweep, top: int = 10) -> pd.DataFrame:
    """One row for each attribution: how its cells (of every contrast) agree with the exact effects.

    | column | is |
    |---|---|
    | `pearson`, `spearman` | correlation over all cells; of a method without signs with the exact effects' absolute values |
    | `pearson_within`, `spearman_within` | mean over contrasts of the correlation within each: which cell, not which contrast |
    | `same_sign` | share of cells of the same sign, weighted by the size of the exact effect; NaN for a method without signs |
    | `slope` | least squares through 0, estimate on exact: below 1 where the method underestimates |
    | `found` | mean over contrasts of the share of the `top` greatest exact effects (by size) among the `top` greatest estimates |
    | `worst_miss` | greatest exact effect (by size) that the method puts at less than a tenth of it; 0 where it misses none |

    Args:
        attributed: one, or several by the names the table has.
        top: cells of each contrast.

    Raises:
        PatchingError: estimates of another site, direction, policy or outcome than the exact sweep, or of other cells.
    """
    several = attributed if isinstance(attributed, Mapping) else {attributed.method: attributed}
    return pd.DataFrame([_row(name, one, exact, top) for name, one in several.items()])


def worst_misses(attributed: Attribution, exact: Sweep, n: int = 5) -> pd.DataFrame:
    """The cells with the greatest difference between estimate and exact effect: contrast, layer, span (and head), label, both numbers.

    For a method without signs, between its magnitude and the exact effect's size.

    Raises:
        PatchingError: as `agreement`.
    """
    own, there = _aligned(attributed, exact)
    table = (
        xr.Dataset({"estimate": own, "exact": there, "label": exact.dataset["label"]})
        .to_dataframe(dim_order=list(there.dims))
        .reset_index()
    )
    table = table.dropna(subset=["exact"]).assign(difference=lambda one: one["estimate"] - one["exact"])
    columns = [*map(str, there.dims), "label", "estimate", "exact", "difference"]
    order = (-table["difference"].abs()).argsort(kind="stable")
    return table.iloc[order][columns].head(n).reset_index(drop=True)


def _row(name: str, attributed: Attribution, exact: Sweep, top: int) -> dict[str, object]:
    own, there = _aligned(attributed, exact)
    signed = "magnitude" not in attributed.dataset
    estimates, truths = (_by_contrast(one) for one in (own, there))
    x, y = np.concatenate(estimates), np.concatenate(truths)
    within = list(zip(estimates, truths, strict=True))
    missed = np.abs(y[np.abs(x) < np.abs(y) / 10])
    return {
        "method": name,
        "site": exact.dataset.attrs["site"],
        "cells": len(x),
        "pearson": pearson(x, y),
        "spearman": pearson(mid_ranks(x), mid_ranks(y)),
        "pearson_within": float(np.nanmean([pearson(a, b) for a, b in within])),
        "spearman_within": float(np.nanmean([pearson(mid_ranks(a), mid_ranks(b)) for a, b in within])),
        "same_sign": float(np.average(np.sign(x) == np.sign(y), weights=np.abs(y))) if signed and np.abs(y).any() else np.nan,
        "slope": float(x @ y / (y @ y)) if y.any() else np.nan,
        "found": float(np.mean([_found(a, b, top) for a, b in within])),
        "worst_miss": float(missed.max()) if len(missed) else 0.0,
    }


def _aligned(attributed: Attribution, exact: Sweep) -> tuple[xr.DataArray, xr.DataArray]:
    """Estimates and exact effects of the same cells; sizes of both for a method without signs."""
    mine, theirs = attributed.dataset.attrs, exact.dataset.attrs
    unlike = [key for key in ALIKE if mine.get(key) != theirs.get(key)]
    if unlike:
        key = unlike[0]
        raise PatchingError(
            f"Estimates and exact patches are of two kinds: {key} {mine.get(key)!r} and {theirs.get(key)!r}. Run both alike."
        )
    there = exact.effect()
    own = attributed.dataset["magnitude"] if "magnitude" in attributed.dataset else attributed.effect()
    try:
        own, there = xr.align(own, there, join="exact")
    except ValueError as error:
        raise PatchingError(
            f"Estimates and exact patches are of other cells: {error}. Run both over the same layers, spans and heads."
        ) from error
    if not (own.isnull() == there.isnull()).all():
        raise PatchingError("Estimates and exact patches lack other spans. Run both with the same spans.")
    return own, (there if "magnitude" not in attributed.dataset else abs(there))


def _by_contrast(values: xr.DataArray) -> list[np.ndarray]:
    rows = values.values.reshape(values.sizes["contrast"], -1).astype(np.float64)
    return [row[np.isfinite(row)] for row in rows]


def _found(estimate: np.ndarray, exact: np.ndarray, top: int) -> float:
    count = min(top, len(exact))
    best = [set(np.argsort(-np.abs(one), kind="stable")[:count].tolist()) for one in (estimate, exact)]
    return len(best[0] & best[1]) / count
