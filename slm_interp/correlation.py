"""Rank correlation of items that come in clusters: plain, partial, within groups; with intervals, permutation p and what n allows.

1. Every variable is replaced by its mid-ranks; with `within`, by its mid-ranks among the items of its own group.
2. Both variables are freed of the covariates' ranks (and of the groups' means) by least squares: partial rank correlation.
3. The correlation (Pearson) of what is left. Without covariates and groups it is Spearman's.

The interval draws whole clusters with replacement and does all of this anew on each draw. The p exchanges whole clusters of equally
many items (of one group, with `within`) after step 2, and does step 2 again on them (Freedman & Lane 1983): items of a cluster
stay together, since they are no independent evidence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from slm_interp.errors import StatisticsError
from slm_interp.statistics import Alternative, Labels, cluster_weights

FIELLER = 1.06  # variance of Fisher's z of a rank correlation is about 1.06 / (n - 3) (Fieller, Hartley & Pearson 1957)


@dataclass(frozen=True)
class Correlation:
    """A rank correlation.

    Args:
        rho: the estimate.
        low, high: of the clustered bootstrap.
        p: of the permutation test.
        n, clusters: items and clusters.
        level: of the interval.
        undefined: share of draws in which a variable did not vary; they are left out of the interval.
    """

    rho: float
    low: float
    high: float
    p: float
    n: int
    clusters: int
    level: float
    undefined: float

    def __str__(self) -> str:
        return f"{self.rho:.3f} [{self.low:.3f}, {self.high:.3f}], p = {self.p:.4f}, n = {self.n} in {self.clusters} clusters"


def spearman(
    x: Float[np.ndarray, " item"],
    y: Float[np.ndarray, " item"],
    covariates: Mapping[str, Float[np.ndarray, " item"]] | None = None,
    within: Labels | None = None,
    clusters: Labels | None = None,
    alternative: Alternative = "two-sided",
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Correlation:
    """Rank correlation of x and y; see the steps at the top of this file.

    Args:
        covariates: variables whose ranks both are freed of, by name.
        within: a group for each item; only differences inside groups count. A group of one item says nothing and counts for nothing.
        clusters: items that belong together; None takes each item for itself. Clusters lie inside groups.
        draws: of the bootstrap and of the permutation test.

    Raises:
        StatisticsError: fewer than 4 items or 3 clusters, values that are not finite, labels that do not fit, nothing left that varies.
    """
    columns = {"x": x, "y": y, **(covariates or {})}
    groups, codes = _checked(columns, within, clusters, alternative)
    if draws < 1 or not 0 < level < 1:
        raise StatisticsError(f"An interval needs at least one draw and a level between 0 and 1; got draws={draws}, level={level}.")
    values = np.stack([np.asarray(one, dtype=np.float64) for one in columns.values()], 1)
    rho = rank_correlation(values, groups)
    if not math.isfinite(rho):
        raise StatisticsError("Once covariates and groups are taken out, x or y does not vary: there is nothing to correlate.")
    rng = np.random.default_rng(seed)
    weights = cluster_weights({"cluster": codes}, draws, rng).astype(np.int64)
    rows = [np.repeat(np.arange(len(values)), one) for one in weights]
    drawn = np.array([rank_correlation(values[one], groups[one]) for one in rows])
    defined = drawn[np.isfinite(drawn)]
    if not len(defined):
        raise StatisticsError("No draw of the clusters left variables that vary. Give more clusters.")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    p = _permutation_p(values, groups, codes, alternative, draws, rng)
    return Correlation(rho, float(low), float(high), p, len(values), int(codes.max()) + 1, level, 1 - len(defined) / draws)


def rank_correlation(values: Float[np.ndarray, "item variable"], groups: Int[np.ndarray, " item"]) -> float:
    """Steps 1 to 3 for the first two variables, the others being covariates; NaN where nothing varies."""
    left, _ = _freed(values, groups)
    return _pearson(left[:, 0], left[:, 1])


def pearson(x: Float[np.ndarray, " item"], y: Float[np.ndarray, " item"]) -> float:
    """The linear correlation, NaN where one of the two does not vary."""
    return _pearson(x - x.mean(), y - y.mean())


def mid_ranks(values: Float[np.ndarray, " item"]) -> Float[np.ndarray, " item"]:
    """Ranks from 1; equal values share the mean of theirs."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]


def _freed(
    values: Float[np.ndarray, "item variable"], groups: Int[np.ndarray, " item"]
) -> tuple[Float[np.ndarray, "item two"], Float[np.ndarray, "item covariate"]]:
    """Ranks of the first two variables without what the covariates and the groups explain, and what explained it."""
    ranks = np.empty(values.shape)
    for group in np.unique(groups):
        rows = groups == group
        ranks[rows] = np.stack([mid_ranks(one) for one in values[rows].T], 1)
        ranks[rows] -= ranks[rows].mean(0)
    return _residual(ranks[:, :2], ranks[:, 2:]), ranks[:, 2:]


def _residual(ranks: np.ndarray, explained_by: np.ndarray) -> np.ndarray:
    """What least squares leaves of centred ranks; rounding is 0, so that what does not vary is seen not to."""
    if not explained_by.shape[1]:
        return ranks
    left = ranks - explained_by @ np.linalg.lstsq(explained_by, ranks, rcond=None)[0]
    left[:, np.abs(left).max(0) < 1e-9 * max(1.0, np.abs(ranks).max())] = 0
    return left


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    size = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / size if size > 0 else math.nan


def _permutation_p(
    values: np.ndarray, groups: np.ndarray, codes: np.ndarray, alternative: Alternative, draws: int, rng: np.random.Generator
) -> float:
    left, explained_by = _freed(values, groups)
    members = [np.flatnonzero(codes == code) for code in range(int(codes.max()) + 1)]
    alike: dict[tuple[int, int], list[np.ndarray]] = {}
    for rows in members:
        alike.setdefault((int(groups[rows[0]]), len(rows)), []).append(rows)
    extreme = {"two-sided": np.abs, "greater": np.positive, "less": np.negative}[alternative]
    observed = extreme(_pearson(left[:, 0], left[:, 1])) - 1e-9
    count = 0
    for _ in range(draws):
        y = np.empty(len(left))
        for blocks in alike.values():
            for rows, other in zip(blocks, rng.permutation(len(blocks)), strict=True):
                y[rows] = left[blocks[other], 1]
        moved = _residual(y[:, None], explained_by)[:, 0]
        count += bool(extreme(_pearson(left[:, 0], moved)) >= observed)
    return (1 + count) / (1 + draws)


def _checked(
    columns: Mapping[str, np.ndarray], within: Labels | None, clusters: Labels | None, alternative: str
) -> tuple[Int[np.ndarray, " item"], Int[np.ndarray, " item"]]:
    """Numbers of groups and clusters, once everything fits."""
    n = len(columns["x"])
    if alternative not in ("two-sided", "greater", "less"):
        raise StatisticsError(f"An alternative is two-sided, greater or less; got {alternative!r}.")
    for name, one in columns.items():
        if len(one) != n or not np.isfinite(one).all():
            raise StatisticsError(f"Variables have one finite value for each of {n} items; {name} has {len(one)}, or some are not finite.")
    codes = _numbers(np.arange(n) if clusters is None else clusters, n, "clusters")
    groups = _numbers(np.zeros(n) if within is None else within, n, "within")
    if n < 4 or codes.max() < 2:
        raise StatisticsError(f"A rank correlation needs at least 4 items in 3 clusters; got {n} in {int(codes.max()) + 1 if n else 0}.")
    for code in range(int(codes.max()) + 1):
        if len(np.unique(groups[codes == code])) > 1:
            raise StatisticsError("A cluster lies in several groups, so that neither can be exchanged alone. Cluster inside groups.")
    return groups, codes


def _numbers(labels: Sequence[Any] | np.ndarray, n: int, name: str) -> Int[np.ndarray, " item"]:
    if len(labels) != n:
        raise StatisticsError(f"{n} items need {n} labels of {name}; got {len(labels)}.")
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(label, len(numbers)) for label in labels], dtype=np.int64)


def fieller_interval(rho: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """The interval that a rank correlation of n independent items has by Fisher's z: `tanh(atanh(rho) -/+ z sqrt(1.06 / (n - 3)))`.

    Raises:
        StatisticsError: fewer than 4 items, or a rho outside -1..1.
    """
    if n < 4 or not -1 <= rho <= 1:
        raise StatisticsError(f"An interval of rho needs n of 4 or more and rho in -1..1; got n={n}, rho={rho}.")
    if abs(rho) == 1:
        return rho, rho
    reach = NormalDist().inv_cdf((1 + level) / 2) * math.sqrt(FIELLER / (n - 3))
    return math.tanh(math.atanh(rho) - reach), math.tanh(math.atanh(rho) + reach)


def detectable(n: int, power: float = 0.8, alpha: float = 0.05) -> float:
    """The rank correlation that n independent items would show at the given level with the given power, by Fisher's z.

    Raises:
        StatisticsError: fewer than 4 items.
    """
    if n < 4:
        raise StatisticsError(f"Nothing can be said about a correlation of {n} items; 4 are the least.")
    normal = NormalDist()
    return math.tanh((normal.inv_cdf(1 - alpha / 2) + normal.inv_cdf(power)) * math.sqrt(FIELLER / (n - 3)))
