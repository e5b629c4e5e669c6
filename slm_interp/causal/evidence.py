"""From the effects of cases to the intervals that the rule of the verdict asks about: `docs/verdict.md`, "What is measured".

1. The columns of a case are its effects, their differences, and the lens's own margin.
2. Whole clusters of prompts and of words are drawn with replacement, once; every mean and every share comes from these same draws.
3. A share is a ratio of means over the whole patch. Below the least ceiling none is taken: line 1 of the rule speaks first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from slm_interp.errors import StatisticsError
from slm_interp.statistics import Interval, resampled, ways_apart

PER_CASE = ("whole", "text", "complement", "margin", "third", "elsewhere")
EXTRAS = {  # what decides nothing and may warn, by case; NaN: a case without it
    "other_voice": "the same words in another voice",  # its effect, in nats
    "distance": "how far the edited residuals are from natural ones",  # after the text swap
    "distance_whole": "how far those of the whole patch are",
}
FEW = 40  # clusters; below this many intervals are too narrow


@dataclass(frozen=True)
class Rule:
    """What could be chosen otherwise; `docs/verdict.md` has the defaults.

    Args:
        nothing: the share of the effect that counts as nothing, `d`.
        least: the ceiling, in nats, that has to be exceeded for there to be an effect to explain.
        level: of intervals. That something is within bounds is asked at `1 - 2 * (1 - level)`: two one-sided tests.
        draws, seed: of the bootstrap.

    Raises:
        StatisticsError: numbers with which the lines of the rule contradict each other.
    """

    nothing: float = 0.1
    least: float = 0.1
    level: float = 0.95
    draws: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.nothing < 1 / 3:
            raise StatisticsError(f"A share that counts as nothing is above 0 and below 1/3, or it is also nearly all; got {self.nothing}.")
        if not self.least > 0:
            raise StatisticsError(f"The least ceiling is above 0 nats, since shares of it are taken; got {self.least}.")
        if not 0.5 < self.level < 1:
            raise StatisticsError(f"The level of intervals is above .5 and below 1; got {self.level}.")
        if self.draws < self.least_draws:
            raise StatisticsError(f"Intervals of {self.level:.2%} need {self.least_draws} draws or more; got {self.draws}.")

    @property
    def narrow(self) -> float:
        """The level of the interval that has to lie within bounds."""
        return 1 - 2 * (1 - self.level)

    @property
    def least_draws(self) -> int:
        """How many draws there have to be for one of them to lie outside of each end of an interval."""
        return math.ceil(2 / (1 - self.level) - 1e-9)


@dataclass(frozen=True, eq=False)
class Measured:
    """What was measured at one layer on the half of the cases that is reported, in nats, one number a case.

    Args:
        whole, text, complement: effects of the three writings.
        margin: how much more the lens reads A than B in the clean run than in the corrupted one.
        random: mean effect over the cases of each random draw.
        prompt, word: labels by which cases depend on each other.
        third, elsewhere: effects of these controls. None: the case set does not have it.
        extras: what decides nothing and may warn, by the names in `EXTRAS`; NaN: a case without it.

    Raises:
        StatisticsError: arrays of different lengths, values that are not finite, fewer than two clusters.
    """

    whole: Float[np.ndarray, " case"]
    text: Float[np.ndarray, " case"]
    complement: Float[np.ndarray, " case"]
    margin: Float[np.ndarray, " case"]
    random: Float[np.ndarray, " draw"] | None
    prompt: Sequence[Any] | np.ndarray
    word: Sequence[Any] | np.ndarray
    third: Float[np.ndarray, " case"] | None = None
    elsewhere: Float[np.ndarray, " case"] | None = None
    extras: Mapping[str, Float[np.ndarray, " case"]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        size = len(self.whole)
        given = {**{name: getattr(self, name) for name in (*PER_CASE, "prompt", "word")}, **self.extras}
        lengths = {name: len(each) for name, each in given.items() if each is not None}
        odd = {name: length for name, length in lengths.items() if length != size}
        if odd or not size:
            raise StatisticsError(f"Every case has one number of each kind; there are {size} whole patches, and {odd or 'no cases'}.")
        for name in (*PER_CASE, "random"):
            values = getattr(self, name)
            if values is not None and not np.isfinite(values).all():
                raise StatisticsError(
                    f"{int((~np.isfinite(values)).sum())} of {len(values)} numbers of {name!r} are not finite. Leave such cases out of "
                    "all arrays by name, or give None for a control that is missing."
                )
        if self.random is not None and not len(self.random):
            raise StatisticsError("There are no random draws; give None if they were not made.")
        if unknown := sorted(set(self.extras) - set(EXTRAS)):
            raise StatisticsError(f"Extras are {', '.join(EXTRAS)}; got {', '.join(unknown)}.")
        if not self.ways:
            raise StatisticsError(
                f"All {size} cases are of one prompt and one word: nothing is known about how others would differ. Give cases of two or "
                "more prompts, or of two or more words."
            )

    @property
    def ways(self) -> dict[str, Sequence[Any] | np.ndarray]:
        """Labels of the ways of clustering that say something (`ways_apart`)."""
        return ways_apart({"prompt": self.prompt, "word": self.word})

    @property
    def columns(self) -> dict[str, Float[np.ndarray, " case"]]:
        """What is averaged, by name."""
        found = {name: np.asarray(getattr(self, name), np.float64) for name in PER_CASE if getattr(self, name) is not None}
        for other, name in (("third", "specific"), ("elsewhere", "here")):
            if other in found:
                found[name] = found["text"] - found[other]
        return found

    @property
    def missing(self) -> tuple[str, ...]:
        """The controls that these cases do not have, in words."""
        named = {"third": "a third word", "elsewhere": "elsewhere", "random": "random draws"}
        lacking = [said for name, said in named.items() if getattr(self, name) is None]
        return (*lacking, *(said for name, said in EXTRAS.items() if name not in self.extras))


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the lines of the rule ask about.

    Args:
        means: intervals of means in nats, of every column: `whole` is the ceiling, `specific` is text less the third word, `here` text less elsewhere.
        shares: intervals of the same columns as shares of the ceiling; empty if there is no ceiling to divide by.
        within: the narrower intervals of the shares of text and complement, for lying within bounds.
        percentile: of the mean effect of text among random draws, in percent.
        beyond_random: whether the mean of text lies above the upper percentile of random draws.
        clusters: how many, by way.
    """

    means: Mapping[str, Interval]
    shares: Mapping[str, Interval]
    within: Mapping[str, Interval]
    percentile: float | None
    beyond_random: bool | None
    clusters: Mapping[str, int] = field(default_factory=dict)


def evidence(measured: Measured, rule: Rule) -> Evidence:
    """Intervals of means and shares, all from the same draws of clusters."""
    values = np.stack(list(measured.columns.values()), 1)
    return weigh(measured, resampled(values, measured.ways, draws=rule.draws, seed=rule.seed), rule)


def weigh(measured: Measured, drawn: Float[np.ndarray, "draw column"], rule: Rule) -> Evidence:
    """Evidence from means of `measured.columns` under each draw of clusters.

    Raises:
        StatisticsError: too few random draws for their upper percentile.
    """
    if measured.random is not None and len(measured.random) < rule.least_draws:
        raise StatisticsError(
            f"The {50 * (1 + rule.level):.4g}th percentile needs {rule.least_draws} random draws or more; got {len(measured.random)}."
        )
    columns = measured.columns
    clusters = {name: len(set(labels)) for name, labels in measured.ways.items()}
    estimates = np.array([column.mean() for column in columns.values()])
    names = list(columns)
    means = _intervals(names, estimates, drawn, (rule.level,), clusters)[0]
    shares, within = {}, {}
    if means["whole"].low > rule.least:
        whole = names.index("whole")
        there = drawn[:, whole] != 0  # a draw without any ceiling says nothing about shares
        picked = [at for at, name in enumerate(names) if name not in ("whole", "margin")]
        ratios = drawn[there][:, picked] / drawn[there][:, [whole]]
        named = [names[at] for at in picked]
        shares, narrow = _intervals(named, estimates[picked] / estimates[whole], ratios, (rule.level, rule.narrow), clusters)
        within = {name: narrow[name] for name in ("text", "complement")}
    percentile = beyond = None
    if measured.random is not None:
        text = float(means["text"].estimate)
        percentile = 100 * float((measured.random < text).mean())
        beyond = bool(text > np.quantile(measured.random, (1 + rule.level) / 2))
    return Evidence(means, shares, within, percentile, beyond, clusters)


def _intervals(
    names: Sequence[str],
    estimates: Float[np.ndarray, " column"],
    drawn: Float[np.ndarray, "draw column"],
    levels: Sequence[float],
    clusters: Mapping[str, int],
) -> list[dict[str, Interval]]:
    """By level and by name."""
    ordered = np.sort(np.ascontiguousarray(drawn.T), axis=1)  # quantiles of what is in order take less than half the time
    ends = np.quantile(ordered, [(1 + side * level) / 2 for level in levels for side in (-1, 1)], axis=1)
    pairs = zip(levels, ends[::2], ends[1::2], strict=True)
    return [
        {
            name: Interval(np.asarray(estimates[at]), np.asarray(low[at]), np.asarray(high[at]), level, clusters)
            for at, name in enumerate(names)
        }
        for level, low, high in pairs
    ]
