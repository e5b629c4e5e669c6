"""Effects as shares of the ceiling, `mean(effect) / mean(effect of the whole patch)`, with intervals from whole clusters of prompts and of words.

Where the interval of the mean of the whole patch holds 0 a share is NaN: shares of what may be nothing are nothing to look at.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float

from slm_interp import statistics
from slm_interp.statistics import Clusters


def by_layer(own: pd.DataFrame, whole: pd.DataFrame, ways: Clusters, level: float, seed: int) -> pd.DataFrame:
    """`layer estimate low high items whole` of an arm, from its effects and those of the whole patch: a row for each case, a column for each layer."""
    rows = []
    for layer in own.columns:
        ceiling = statistics.bootstrap(whole[layer].to_numpy(), ways, level=level, seed=seed)
        row = {"layer": int(layer), "estimate": np.nan, "low": np.nan, "high": np.nan}
        if not ceiling.low <= 0 <= ceiling.high:
            both = np.stack([own[layer].to_numpy(), whole[layer].to_numpy()], 1)
            found = statistics.bootstrap(both, ways, statistics.ratio_of_means, level=level, seed=seed)
            row |= {name: float(getattr(found, name)[0]) for name in ("estimate", "low", "high")}
        rows.append({**row, "items": len(own), "whole": float(ceiling.estimate)})
    return pd.DataFrame(rows)


def at_a_layer(own: Float[np.ndarray, " case"], whole: Float[np.ndarray, " case"], ways: Clusters) -> dict[str, float]:
    """`effect share low high items` of an arm at one layer: its mean in nats, and its share with an interval."""
    ceiling = statistics.bootstrap(whole, ways)
    found = statistics.bootstrap(np.stack([own, whole], 1), ways, _mean_and_share)
    told = np.nan if ceiling.low <= 0 <= ceiling.high else 1.0
    shares = {"share": told * float(found.estimate[1]), "low": told * float(found.low[1]), "high": told * float(found.high[1])}
    return {"effect": float(found.estimate[0]), **shares, "items": len(own)}


def _mean_and_share(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    means = statistics.weighted_mean(values, weights)
    with np.errstate(divide="ignore", invalid="ignore"):  # of a ceiling of exactly nothing
        return np.stack([means[:, 0], means[:, 0] / means[:, 1]], 1)
