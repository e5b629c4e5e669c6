"""How often intervals hold the truth, and how often the verdict is right, for a design of cases: before an experiment, "how many do I need?".

    coverage(SCENARIOS["partial .5"], Design(cases=80, prompts=40, words=40), repetitions=1000)
    verdicts(SCENARIOS["shadow"], Design(cases=40, prompts=20, words=20), repetitions=1000)["word"].value_counts(normalize=True)

Repetitions come in blocks. Those of one block share the labels and the draws of clusters, so that a block is one matrix product; every block has its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from slm_interp.causal.evidence import Measured, Rule, weigh
from slm_interp.causal.simulation import Design, Scenario, effects
from slm_interp.causal.verdict import judge
from slm_interp.errors import StatisticsError
from slm_interp.statistics import resampled

BLOCK = 100  # repetitions with the same labels and draws
RANDOM = 1000


@dataclass(frozen=True, eq=False)
class Block:
    """Simulated experiments with the same labels, and their means under the same draws of clusters.

    Args:
        columns: of `values` and `drawn`, as in `Measured.columns`.
    """

    columns: Sequence[str]
    values: Float[np.ndarray, "repetition case column"]
    drawn: Float[np.ndarray, "draw repetition column"]
    random: Float[np.ndarray, "repetition random"]
    prompt: Int[np.ndarray, " case"]
    word: Int[np.ndarray, " case"]

    def measured(self, repetition: int) -> Measured:
        """One of the experiments."""
        named = {name: self.values[repetition, :, at] for at, name in enumerate(self.columns)}
        given = {name: each for name, each in named.items() if name not in ("specific", "here")}
        return Measured(**given, random=self.random[repetition], prompt=self.prompt, word=self.word)


def blocks(
    scenario: Scenario, design: Design, repetitions: int, rule: Rule, ways: Sequence[str] = ("prompt", "word"), draws: int | None = None
) -> Iterator[Block]:
    """Simulated experiments, `BLOCK` at a time.

    Args:
        ways: by which clusters are drawn. `()`: single cases, as if they were independent.

    Raises:
        StatisticsError: fewer than one repetition.
    """
    if repetitions < 1:
        raise StatisticsError(f"Rates need one repetition or more; got {repetitions}.")
    for number, start in enumerate(range(0, repetitions, BLOCK)):
        rng = np.random.default_rng((rule.seed, number))
        prompt, word = design.labels(rng)
        size = min(BLOCK, repetitions - start)
        made = effects(scenario, design, prompt, word, size, rng)
        random = scenario.random * rng.normal(size=(size, RANDOM))
        first = Measured(**{name: each[0] for name, each in made.items()}, random=random[0], prompt=prompt, word=word)
        names = list(first.columns)
        made |= {"specific": made["text"] - made["third"], "here": made["text"] - made["elsewhere"]}
        values = np.stack([made[name] for name in names], -1)
        clusters = {way: labels for way, labels in first.ways.items() if way in ways} or {"case": np.arange(design.cases)}
        drawn = resampled(values.transpose(1, 0, 2), clusters, draws=draws or rule.draws, seed=int(rng.integers(2**31)))
        yield Block(names, values, drawn, random, prompt, word)


def verdicts(scenario: Scenario, design: Design, repetitions: int = 1000, rule: Rule | None = None) -> pd.DataFrame:
    """The verdict on every simulated experiment: one row for each, `word line text complement`, the shares NaN without a ceiling."""
    rule, rows = rule or Rule(), []
    for block in blocks(scenario, design, repetitions, rule):
        for repetition in range(len(block.values)):
            measured = block.measured(repetition)
            found = judge(measured, weigh(measured, block.drawn[:, repetition], rule), rule)
            shares = {name: float(found.shares[name].estimate) if found.shares else np.nan for name in ("text", "complement")}
            rows.append({"word": found.word, "line": found.line, **shares})
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class _Tally:
    """Counts of a quantity over repetitions."""

    misses: list[Float[np.ndarray, " repetition"]] = field(default_factory=list)
    widths: list[Float[np.ndarray, " repetition"]] = field(default_factory=list)


def coverage(
    scenario: Scenario,
    design: Design,
    repetitions: int = 1000,
    ways: Sequence[str] = ("prompt", "word"),
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """How often intervals of means (nats) and of shares hold the truth: one row a quantity.

    Columns: `quantity kind truth covered above below width`; `above`: how often the whole interval lies above the truth; `width`: its median.

    Args:
        ways: by which clusters are drawn. `()`: single cases, as if they were independent.
    """
    truth = scenario.truth
    shares = {"text": truth.text, "complement": truth.complement, "specific": truth.specific}
    means = {"whole": truth.ceiling, "text": truth.text * truth.ceiling}
    tallies = {**{("mean", name): _Tally() for name in means}, **{("share", name): _Tally() for name in shares}}
    for block in blocks(scenario, design, repetitions, replace(Rule(), seed=seed), ways):
        ceiling = block.drawn[..., block.columns.index("whole")]
        for (kind, name), tally in tallies.items():
            drawn = block.drawn[..., block.columns.index(name)]
            low, high = np.quantile(drawn / ceiling if kind == "share" else drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
            right = (shares if kind == "share" else means)[name]
            tally.misses.append((low > right).astype(int) - (high < right).astype(int))
            tally.widths.append(high - low)
    rows = []
    for (kind, name), tally in tallies.items():
        missed, width = np.concatenate(tally.misses), float(np.median(np.concatenate(tally.widths)))
        right = (shares if kind == "share" else means)[name]
        rates = {"covered": (missed == 0).mean(), "above": (missed > 0).mean(), "below": (missed < 0).mean()}
        rows.append({"quantity": name, "kind": kind, "truth": right, **rates, "width": width})
    return pd.DataFrame(rows)
