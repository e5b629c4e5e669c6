"""Intervals, tests and multiplicity for items that come in clusters. Plain arrays in, plain arrays out.

Items (words) are not independent: those of one utterance share a voice and a context, those of one word type share a
spelling. Every function takes the labels of that dependence and draws whole clusters, never single items.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int

from slm_interp.errors import StatisticsError

Labels: TypeAlias = Sequence[Any] | np.ndarray
Clusters: TypeAlias = Labels | Mapping[str, Labels]
Statistic: TypeAlias = Callable[[np.ndarray, np.ndarray], np.ndarray]
Alternative = Literal["two-sided", "greater", "less"]

NUMBERS_AT_ONCE = 2**22  # of a block of weights: 32 MiB


@dataclass(frozen=True)
class Interval:
    """An estimate and where it may lie.

    Args:
        estimate, low, high: of one shape, that of the statistic.
        level: of the interval, such as .95.
        clusters: how many there were, by way of clustering.
    """

    estimate: Float[np.ndarray, "*what"]
    low: Float[np.ndarray, "*what"]
    high: Float[np.ndarray, "*what"]
    level: float
    clusters: Mapping[str, int]

    def __str__(self) -> str:
        if self.estimate.ndim:
            return f"{self.estimate.shape} estimates with {self.level:.0%} intervals, clusters {dict(self.clusters)}"
        return f"{float(self.estimate):.4g} [{float(self.low):.4g}, {float(self.high):.4g}]"


def ways_apart(ways: Mapping[str, Labels]) -> dict[str, Labels]:
    """The ways of clustering that say something: those with more than one label, and of two that put the same items together the first.

    Two names of one clustering, drawn as if they were two, would count the same clusters twice and widen every interval by about half.
    """
    found: dict[str, Labels] = {}
    seen: set[tuple[int, ...]] = set()
    for way, labels in ways.items():
        numbers: dict[Any, int] = {}
        codes = tuple(numbers.setdefault(label, len(numbers)) for label in labels)
        if len(numbers) > 1 and codes not in seen:
            seen.add(codes)
            found[way] = labels
    return found


def weighted_mean(values: Float[np.ndarray, " item *what"], weights: Float[np.ndarray, "draw item"]) -> Float[np.ndarray, " draw *what"]:
    """The mean of items under each row of weights."""
    sums = np.tensordot(weights, values, axes=1)
    return sums / weights.sum(1).reshape(-1, *(1,) * (sums.ndim - 1))


def ratio_of_means(values: Float[np.ndarray, " item column"], weights: Float[np.ndarray, "draw item"]) -> Float[np.ndarray, "draw ratio"]:
    """Means of all columns but the last over the mean of the last one, under each row of weights: a `statistic` of `bootstrap`."""
    means = weighted_mean(values, weights)
    return means[:, :-1] / means[:, -1:]


def bootstrap(
    values: Float[np.ndarray, " item *what"],
    clusters: Clusters,
    statistic: Statistic = weighted_mean,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval from drawing whole clusters with replacement (Efron 1979; clusters: Davison & Hinkley 1997, 3.8).

    Several ways of clustering at once are drawn independently, and an item weighs the product of how often its
    cluster of each way was drawn: the pigeonhole bootstrap (Owen 2007, Annals of Applied Statistics 1(2), 386-411;
    as weights: Owen & Eckles 2012). It errs on the wide side: noise of single items counts up to three times with two ways.
    Draws in which every weight is 0 are drawn again.

    Args:
        values: items first; every further entry gets its interval from the same draws.
        clusters: one label an item, or a mapping from the name of a way to one label an item.
        statistic: of values and weights `[draw, item]`, one result a draw.

    Raises:
        StatisticsError: no items, values that are not finite, labels that do not fit, a way with one cluster only.
    """
    if draws < 1 or not 0 < level < 1:
        raise StatisticsError(f"An interval needs at least one draw and a level between 0 and 1; got draws={draws}, level={level}.")
    low, high = np.quantile(resampled(values, clusters, statistic, draws, seed), [(1 - level) / 2, (1 + level) / 2], axis=0)
    estimate = statistic(values, np.ones((1, len(values))))[0]
    return Interval(np.asarray(estimate), np.asarray(low), np.asarray(high), level, _counts(_ways(values, clusters)))


def resampled(
    values: Float[np.ndarray, " item *what"], clusters: Clusters, statistic: Statistic = weighted_mean, draws: int = 2000, seed: int = 0
) -> Float[np.ndarray, " draw *result"]:
    """What `bootstrap` takes its quantiles of: the statistic under every draw of clusters; arguments and errors as there."""
    ways = _ways(values, clusters)
    if draws < 1:
        raise StatisticsError(f"Resampling needs at least one draw; got draws={draws}.")
    rng = np.random.default_rng(seed)
    step = max(1, NUMBERS_AT_ONCE // len(values))
    parts = [statistic(values, cluster_weights(ways, min(step, draws - start), rng)) for start in range(0, draws, step)]
    return np.concatenate(parts)


def cluster_weights(ways: Mapping[str, Int[np.ndarray, " item"]], draws: int, rng: np.random.Generator) -> Float[np.ndarray, "draw item"]:
    """How often each item is drawn when the clusters of every way are drawn with replacement."""
    (n_items,) = next(iter(ways.values())).shape
    weights = np.zeros((draws, n_items))
    empty = np.arange(draws)
    while len(empty):
        again = np.ones((len(empty), n_items))
        for codes in ways.values():
            size = int(codes.max()) + 1
            again *= rng.multinomial(size, np.full(size, 1 / size), size=len(empty))[:, codes]
        weights[empty] = again
        empty = empty[~again.any(1)]
    return weights


def paired_difference(
    first: Float[np.ndarray, " item *what"], second: Float[np.ndarray, " item *what"], clusters: Clusters, **options: Any
) -> Interval:
    """Interval of the mean of `first - second`, paired by item; options and errors as in `bootstrap`."""
    return bootstrap(_paired(first, second), clusters, **options)


def permutation(
    first: Float[np.ndarray, " item *what"],
    second: Float[np.ndarray, " item *what"],
    clusters: Clusters,
    alternative: Alternative = "two-sided",
    draws: int = 9999,
    seed: int = 0,
) -> Float[np.ndarray, "*what"]:
    """p of no difference between paired values: `sign_flip` of `first - second`."""
    return sign_flip(_paired(first, second), clusters, alternative, draws, seed)


def sign_flip(
    differences: Float[np.ndarray, " item *what"],
    clusters: Clusters,
    alternative: Alternative = "two-sided",
    draws: int = 9999,
    seed: int = 0,
) -> Float[np.ndarray, "*what"]:
    """p of a mean of 0, from flipping the sign of whole clusters (Fisher 1935, 21): `(1 + as extreme) / (1 + draws)`.

    If the clusters allow no more than `draws` sign patterns, each of them is tried once and p is exact, their share.
    With several ways of clustering the largest p is given; each treats the other way's clusters as independent, so the
    interval of `bootstrap` is the stricter answer there.

    Raises:
        StatisticsError: as in `bootstrap`, or an unknown alternative.
    """
    if alternative not in ("two-sided", "greater", "less"):
        raise StatisticsError(f"An alternative is two-sided, greater or less; got {alternative!r}.")
    ways = _ways(differences, clusters)
    rng = np.random.default_rng(seed)
    return np.asarray(np.max([_flip(differences, codes, alternative, draws, rng) for codes in ways.values()], axis=0))


def _flip(
    differences: Float[np.ndarray, " item *what"],
    codes: Int[np.ndarray, " item"],
    alternative: Alternative,
    draws: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, "*what"]:
    size = int(codes.max()) + 1
    sums = np.zeros((size, *differences.shape[1:]))
    np.add.at(sums, codes, differences)
    observed = _extremity(sums.sum(0, keepdims=True), alternative) - 1e-9 * np.abs(sums).sum(0)  # sums in another order round differently
    exact = size < 63 and 2**size <= draws
    step = max(1, NUMBERS_AT_ONCE // sums.size)
    patterns = np.array(list(product((-1.0, 1.0), repeat=size))) if exact else None
    total = 2**size if exact else draws
    count = np.zeros(differences.shape[1:])
    for start in range(0, total, step):
        many = min(step, total - start)
        signs = patterns[start : start + many] if patterns is not None else rng.choice([-1.0, 1.0], (many, size))
        count += (_extremity(np.tensordot(signs, sums, axes=1), alternative) >= observed).sum(0)
    return np.asarray(count / total if exact else (1 + count) / (1 + draws))


def _extremity(sums: np.ndarray, alternative: Alternative) -> np.ndarray:
    return {"two-sided": np.abs, "greater": np.positive, "less": np.negative}[alternative](sums)


def equivalent(
    values: Float[np.ndarray, " item *what"], bound: float, clusters: Clusters, alpha: float = 0.05, **options: Any
) -> Bool[np.ndarray, "*what"]:
    """Whether the mean is shown to lie within `-bound..bound`: the `1 - 2 alpha` interval does (two one-sided tests, Schuirmann 1987).

    Args:
        bound: the largest mean, in either direction, that would still count as no effect; declared before looking.

    Raises:
        StatisticsError: a bound that is not positive, and as in `bootstrap`.
    """
    if not bound > 0:
        raise StatisticsError(f"Equivalence needs a positive bound; got {bound}.")
    found = bootstrap(values, clusters, level=1 - 2 * alpha, **options)
    return np.asarray((found.low > -bound) & (found.high < bound))


def holm(p: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """p adjusted so that the chance of any false finding stays below the level (Holm 1979); any dependence."""
    order = _ordered(p)
    adjusted = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return _restored(np.minimum(adjusted, 1), order)


def benjamini_hochberg(p: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """p adjusted so that the expected share of false findings stays below the level (Benjamini & Hochberg 1995); independent or positively dependent tests."""
    order = _ordered(p)
    scaled = p[order] * len(p) / np.arange(1, len(p) + 1)
    return _restored(np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1), order)


def _ordered(p: np.ndarray) -> np.ndarray:
    if not len(p) or not ((p >= 0) & (p <= 1)).all():
        raise StatisticsError(f"Adjusting needs at least one p, all in 0..1; got {p}.")
    return np.argsort(p, kind="stable")


def _restored(adjusted: np.ndarray, order: np.ndarray) -> np.ndarray:
    out = np.empty_like(adjusted)
    out[order] = adjusted
    return out


def _paired(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    if first.shape != second.shape:
        raise StatisticsError(f"Paired values have one shape; got {first.shape} and {second.shape}.")
    return first - second


def _ways(values: np.ndarray, clusters: Clusters) -> dict[str, np.ndarray]:
    """Cluster numbers of the items by way, once values and labels are known to fit."""
    if not len(values):
        raise StatisticsError("There are no items to draw from.")
    broken = ~np.isfinite(values)
    if broken.any():
        raise StatisticsError(f"Values must be finite; {int(broken.sum())} of {values.size} are not. Leave such items out by name first.")
    ways = {}
    for name, labels in (clusters if isinstance(clusters, Mapping) else {"cluster": clusters}).items():
        if len(labels) != len(values):
            raise StatisticsError(f"{len(values)} items need {len(values)} labels by {name}; got {len(labels)}.")
        numbers: dict[Any, int] = {}
        ways[name] = np.array([numbers.setdefault(label, len(numbers)) for label in labels])
        if len(numbers) < 2:
            raise StatisticsError(
                f"All {len(values)} items are of one {name}: nothing is known about how another {name} would differ. Give more of them."
            )
    if not ways:
        raise StatisticsError("Items need the labels of at least one way of clustering; got none.")
    return ways


def _counts(ways: Mapping[str, np.ndarray]) -> dict[str, int]:
    return {name: int(codes.max()) + 1 for name, codes in ways.items()}
