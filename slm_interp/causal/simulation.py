"""Simulated cases whose answer is known: what the intervals and the verdict are tested on, with small samples and weak, noisy effects.

    made = simulate(SCENARIOS["partial .5"], Design(cases=40, prompts=20, words=20), seed=0)
    decide(made.measured), made.truth

A case has the prompt `p` and the word `w`, crossed and not nested. With `z` of mean 0 and variance 1:

1. ceiling     `W = ceiling * (1 + .25 z_p + .35 z_w + .4 z)`: it varies, now and then to below 0
2. fraction    `f = text + spread * (lean z_W + sqrt(1 - lean^2) z)`, with `z_W` how far the ceiling is from its mean, in deviations: text may carry
               more of large effects than of small ones, and the ratio of means is then `text + spread * lean * sqrt(.25^2 + .35^2 + .4^2)`
3. effects     `T = f W`, `C = (1 - f - lost) W`, `X = third * f W`, `E = elsewhere * f W`; to these and to `W` comes noise
4. noise       `noise * (.4 z_p + .4 z_w + .5 z + .66 z')`: three of four parts are common to the effects of one case, the last is of each effect
5. margin      `margin * (1 + .3 z_p + .5 z_w + .8 z)`; random draws: normal, of deviation `random`

`z` is normal, or of Student's t with 3 degrees of freedom, scaled: a few cases are far out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from slm_interp.causal.evidence import Measured
from slm_interp.causal.rule import Word
from slm_interp.errors import StatisticsError

CEILING = (0.25, 0.35, 0.4)  # deviations by prompt, word and case, as shares of the mean
APART = math.sqrt(sum(deviation**2 for deviation in CEILING))
NOISE = (0.4, 0.4, 0.5, 0.66)  # by prompt, word, case, and single effect; their squares sum to 1
MARGIN = (0.3, 0.5, 0.8)
FREEDOM = 3


@dataclass(frozen=True)
class Scenario:
    """How the effects of cases come about.

    Args:
        right: what the verdict should be.
        text: mean share of the ceiling that text carries.
        lost: share that neither part carries alone.
        third, elsewhere: what another word, another place have of the effect of text.
        ceiling: mean of the whole patch, in nats.
        noise: deviation of what is added to every effect, in nats.
        spread, lean: of the fraction over cases, and its correlation with the ceiling.
        margin: mean margin of the lens.
        random: deviation of the mean effects of random draws, in nats.
    """

    right: Word
    text: float
    lost: float = 0.0
    third: float = 0.5
    elsewhere: float = 0.0
    ceiling: float = 2.0
    noise: float = 0.3
    spread: float = 0.0
    lean: float = 0.0
    margin: float = 3.0
    random: float = 0.02

    @property
    def truth(self) -> Truth:
        """The shares in the population."""
        text = self.text + self.spread * self.lean * APART
        return Truth(self.right, self.ceiling, text, 1 - text - self.lost, (1 - self.third) * text)


@dataclass(frozen=True)
class Truth:
    """What is true in the population: the right verdict, the mean ceiling in nats, shares of text, of its complement and of `text less third word`."""

    verdict: Word
    ceiling: float
    text: float
    complement: float
    specific: float


def _partial(share: float, spread: float = 0.15, lean: float = 0.5) -> Scenario:
    """Text that carries a share of the ceiling, more of it where the ceiling is large."""
    return Scenario("partly", share - spread * lean * APART, spread=spread, lean=lean)


# At the boundaries a share is exactly one that the rule compares with: "epiphenomenal" and "text-mediated" are false there.
SCENARIOS: Mapping[str, Scenario] = {
    "shadow": Scenario("epiphenomenal", 0.0),
    "mediated": Scenario("text-mediated", 1.0),
    "boundary .1": Scenario("partly", 0.1),
    "partial .2": _partial(0.2),
    "partial .5": _partial(0.5),
    "partial .8": _partial(0.8),
    "boundary .9": Scenario("partly", 0.9),
    "dead": Scenario("uninformative", 0.0, ceiling=0.0),
    "weak ceiling": Scenario("uninformative", 0.0, ceiling=0.05),
    "unspecific": Scenario("uninformative", 0.5, third=1.0, elsewhere=1.0, random=1.0),
    "off-target": Scenario("uninformative", 0.5, third=1.0),
    "interaction": Scenario("uninformative", 0.0, lost=0.7),
    "unread lens": Scenario("uninformative", 0.0, margin=0.0),
}


@dataclass(frozen=True)
class Design:
    """How many cases, of how many prompts and words; every prompt and every word has as many cases as the next, give or take one.

    Args:
        heavy: whether a few cases, prompts and words are far out (Student's t with 3 degrees of freedom).
    """

    cases: int
    prompts: int
    words: int
    heavy: bool = False

    def __post_init__(self) -> None:
        if min(self.prompts, self.words) < 1 or max(self.prompts, self.words) > self.cases:
            raise StatisticsError(f"Every prompt and every word has a case; got {self}.")

    def labels(self, rng: np.random.Generator) -> tuple[Int[np.ndarray, " case"], Int[np.ndarray, " case"]]:
        """The prompt and the word of every case, crossed at random."""
        at = np.arange(self.cases)
        return rng.permutation(at % self.prompts), rng.permutation(at % self.words)


@dataclass(frozen=True, eq=False)
class Simulated:
    """What was measured, and what is true."""

    measured: Measured
    truth: Truth


def simulate(scenario: Scenario, design: Design, seed: int = 0, draws: int = 1000) -> Simulated:
    """Cases of a scenario, with the truth.

    Args:
        draws: how many random directions.
    """
    rng = np.random.default_rng(seed)
    prompt, word = design.labels(rng)
    made = effects(scenario, design, prompt, word, 1, rng)
    random = scenario.random * rng.normal(size=draws)
    return Simulated(Measured(**{name: each[0] for name, each in made.items()}, random=random, prompt=prompt, word=word), scenario.truth)


def effects(
    scenario: Scenario,
    design: Design,
    prompt: Int[np.ndarray, " case"],
    word: Int[np.ndarray, " case"],
    repetitions: int,
    rng: np.random.Generator,
) -> dict[str, Float[np.ndarray, "repetition case"]]:
    """`whole text complement third elsewhere margin` of many simulated experiments with the same labels, in nats."""

    def z(labels: Int[np.ndarray, " case"]) -> Float[np.ndarray, "repetition case"]:
        return standard(rng, (repetitions, int(labels.max()) + 1), design.heavy)[:, labels]

    def varied(deviations: tuple[float, ...]) -> Float[np.ndarray, "repetition case"]:
        """By prompt, by word and by case."""
        return sum((deviation * z(labels) for deviation, labels in zip(deviations, (prompt, word, each), strict=True)), np.zeros(()))

    each = np.arange(design.cases)
    apart = varied(CEILING)
    whole = scenario.ceiling * (1 + apart)
    leaning = scenario.lean * apart / APART + np.sqrt(1 - scenario.lean**2) * z(each)
    fraction = scenario.text + scenario.spread * leaning
    parts = {
        "whole": np.ones(()),
        "text": fraction,
        "complement": 1 - fraction - scenario.lost,
        "third": scenario.third * fraction,
        "elsewhere": scenario.elsewhere * fraction,
    }
    common = varied(NOISE[:3])
    found = {name: part * whole + scenario.noise * (common + NOISE[3] * z(each)) for name, part in parts.items()}
    return found | {"margin": scenario.margin + max(scenario.margin, 1.0) * varied(MARGIN)}


def standard(rng: np.random.Generator, shape: tuple[int, int], heavy: bool) -> Float[np.ndarray, "repetition cluster"]:
    """Noise of mean 0 and variance 1."""
    if heavy:
        return rng.standard_t(FREEDOM, shape) * np.sqrt((FREEDOM - 2) / FREEDOM)
    return rng.normal(size=shape)
