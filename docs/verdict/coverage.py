"""Coverage of the intervals, and error rates of the verdict, on simulated cases: the tables of docs/verdict.md.

    python docs/verdict/coverage.py [intervals | verdicts | alarms]     all of them if none is named; two minutes of one core

1. intervals: how often they hold the truth, by number of clusters, ways of clustering and tails; beside the percentile bootstrap, which the verdict
   uses, its expanded form (Hesterberg 2015, The American Statistician 69(4), 3.3) and a two-way sandwich (Cameron, Gelbach & Miller 2011, Journal of
   Business & Economic Statistics 29(2), 238-249) with quantiles of Student's t.
2. verdicts: what is said of each scenario, by the rule and by two naive ones.
3. alarms: false alarms of sign flips, over one layer and over twelve, and of a layer that is chosen and reported on the same cases.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from slm_interp.causal.calibration import Block, blocks, verdicts
from slm_interp.causal.evidence import Rule
from slm_interp.causal.rule import WORDS
from slm_interp.causal.simulation import SCENARIOS, Design, standard
from slm_interp.files import write_text
from slm_interp.statistics import holm, sign_flip

HERE = Path(__file__).parent
REPETITIONS = 1000
LEVEL = 0.95
LAYERS = 12
CLUSTERS = (10, 20, 40, 80)
TOLD_APART = ("shadow", "mediated", "boundary .1", "partial .2", "boundary .9")
ASKED = (  # tails, cases, scenarios; half as many prompts and half as many words as cases
    *(("normal", cases, tuple(SCENARIOS)) for cases in (16, 40, 80)),
    ("normal", 160, TOLD_APART),
    ("heavy", 80, TOLD_APART),
)


def main(parts: Sequence[str] = (), repetitions: int = REPETITIONS, out: Path = HERE) -> None:
    """Every table, or those that are named."""
    made: dict[str, Callable[[int], pd.DataFrame]] = {"intervals": intervals, "verdicts": confusion, "alarms": alarms}
    for name in parts or made:
        table = made[name](repetitions)
        write_text(out / f"{name}.csv", table.to_csv(index=False, float_format="%.4f"))
        write_text(out / f"{name}.txt", SHOWN[name](table))
        print(name, SHOWN[name](table), sep="\n", flush=True)


# -- intervals ---------------------------------------------------------------------------------------


def designs(clusters: int, heavy: bool) -> dict[str, tuple[Design, tuple[str, ...]]]:
    """What is simulated with a number of clusters, and the ways by which they are drawn."""
    twice, eight = 2 * clusters, 8 * clusters
    return {
        "words, 2 cases each": (Design(twice, twice, clusters, heavy), ("word",)),  # every case has a prompt of its own
        "words, 8 cases each": (Design(eight, eight, clusters, heavy), ("word",)),
        "prompts x words, 2 cases each": (Design(twice, clusters, clusters, heavy), ("prompt", "word")),
        "prompts x words, 8 cases each": (Design(eight, clusters, clusters, heavy), ("prompt", "word")),
        "8 prompts x words, 8 cases a word": (Design(eight, 8, clusters, heavy), ("prompt", "word")),
        "prompts x words, 2 cases each, as if independent": (Design(twice, clusters, clusters, heavy), ()),
    }


def intervals(repetitions: int) -> pd.DataFrame:
    """Coverage of the mean of text and of its share."""
    scenario, rows = SCENARIOS["partial .5"], []
    for heavy in (False, True):
        for clusters in CLUSTERS:
            for name, (design, ways) in designs(clusters, heavy).items():
                held: dict[tuple[str, str], list[np.ndarray]] = {}
                for block in blocks(scenario, design, repetitions, Rule(seed=clusters), ways):
                    for quantity, truth in (("mean", scenario.truth.text * scenario.truth.ceiling), ("share", scenario.truth.text)):
                        for method, (low, high) in _by_method(block, ways, quantity).items():
                            inside = np.where(low > truth, 1, np.where(high < truth, -1, 0))
                            held.setdefault((method, quantity), []).append(np.stack([inside, high - low]))
                tails = "heavy" if heavy else "normal"
                for (method, quantity), parts in held.items():
                    missed, width = np.concatenate(parts, 1)
                    rates = {"covered": (missed == 0).mean(), "above": (missed > 0).mean(), "below": (missed < 0).mean()}
                    row = {"design": name, "clusters": clusters, "tails": tails, "quantity": quantity, "method": method}
                    rows.append({**row, **rates, "width": np.median(width)})
    return pd.DataFrame(rows)


def _by_method(block: Block, ways: Sequence[str], quantity: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Intervals of every repetition by the bootstrap of the verdict and by two others."""
    text, whole = block.columns.index("text"), block.columns.index("whole")
    labels = {"prompt": block.prompt, "word": block.word}
    groups = [labels[way] for way in ways] or [np.arange(block.values.shape[1])]
    fewest = min(len(set(group.tolist())) for group in groups)
    drawn, values = block.drawn[..., text], block.values
    estimate = values[..., text].mean(1)
    influence = values[..., text] - estimate[:, None]
    if quantity == "share":
        drawn = drawn / block.drawn[..., whole]
        estimate = values[..., text].mean(1) / values[..., whole].mean(1)
        influence = (values[..., text] - estimate[:, None] * values[..., whole]) / values[..., whole].mean(1)[:, None]
    expanded = 2 * stats.norm.cdf(np.sqrt(fewest / (fewest - 1)) * stats.t.ppf((1 + LEVEL) / 2, fewest - 1)) - 1
    ordered = np.sort(np.ascontiguousarray(drawn.T), axis=1)
    half = stats.t.ppf((1 + LEVEL) / 2, fewest - 1) * np.sqrt(_sandwich(influence, groups))
    return {
        "percentile": _quantiles(ordered, LEVEL),
        "expanded percentile": _quantiles(ordered, expanded),
        "two-way sandwich": (estimate - half, estimate + half),
    }


def _quantiles(ordered: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.quantile(ordered, [(1 - level) / 2, (1 + level) / 2], axis=1)
    return low, high


def _sandwich(influence: np.ndarray, groups: Sequence[np.ndarray]) -> np.ndarray:
    """Variance of a mean of influences: by each way, less that of single cases counted twice; never less than that of one way."""
    each = [_variance(influence, group) for group in groups]
    if len(groups) == 1:
        return each[0]
    crossed = np.unique(np.stack(groups), axis=1, return_inverse=True)[1].reshape(-1)
    return np.maximum(sum(each) - _variance(influence, crossed), np.maximum(*each))


def _variance(influence: np.ndarray, group: np.ndarray) -> np.ndarray:
    size = int(group.max()) + 1
    sums = influence @ np.eye(size)[group]
    return (sums**2).sum(1) / influence.shape[1] ** 2 * size / (size - 1)


# -- verdicts ----------------------------------------------------------------------------------------


def confusion(repetitions: int) -> pd.DataFrame:
    """How often each word is said of each scenario, and how often two naive rules say that text drives the speech."""
    rows = []
    for tails, cases, names in ASKED:
        design = Design(cases, cases // 2, cases // 2, tails == "heavy")
        for name in names:
            scenario = SCENARIOS[name]
            found = verdicts(scenario, design, repetitions, Rule(seed=cases))
            rates = found["word"].value_counts(normalize=True).reindex(WORDS, fill_value=0.0).to_dict()
            lines = found["line"].value_counts(normalize=True).reindex(range(1, 8), fill_value=0.0).add_prefix("line ").to_dict()
            naive = [_naive(block) for block in blocks(scenario, design, repetitions, Rule(seed=cases), draws=2)]
            swap, decodable = np.concatenate(naive, 1).mean(1)
            row = {"scenario": name, "right": scenario.right, "cases": cases, "clusters": cases // 2, "tails": tails}
            rows.append({**row, **rates, **lines, "swap differs from 0": swap, "decodable, so used": decodable})
    return pd.DataFrame(rows)


def _naive(block: Block) -> np.ndarray:
    """Whether each naive rule says that text drives the speech, of every repetition."""
    text, margin = (block.values[..., block.columns.index(name)] for name in ("text", "margin"))
    return np.stack(
        [stats.ttest_1samp(text, 0, axis=1).pvalue < 0.05, stats.ttest_1samp(margin, 0, axis=1, alternative="greater").pvalue < 0.05]
    )


# -- alarms ------------------------------------------------------------------------------------------


def alarms(repetitions: int) -> pd.DataFrame:
    """False alarms at .05 where no layer has any effect, and what a chosen layer is reported to have."""
    rows = []
    for shape in ("normal", "heavy", "skewed"):
        for clusters in (10, 20, 40):
            for number, start in enumerate(range(0, repetitions, 100)):
                rng = np.random.default_rng((clusters, number))
                for name, hit, bias in _alarms(shape, clusters, min(100, repetitions - start), rng):
                    rows.append({"procedure": name, "shape": shape, "clusters": clusters, "alarms": hit, "bias": bias, "n": len(hit)})
    table = pd.DataFrame(rows)
    keys = ["procedure", "shape", "clusters"]
    rates = table.groupby(keys, sort=False)[["alarms", "bias"]].agg(lambda parts: np.concatenate(list(parts)).mean())
    return rates.reset_index()


def _alarms(shape: str, clusters: int, size: int, rng: np.random.Generator) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Every procedure on the same data: its name, whether it raised an alarm, and what it reported (deviations of a case)."""
    design = Design(4 * clusters, clusters, clusters)
    prompt, word = design.labels(rng)
    each = np.arange(design.cases)
    by_word, crossed = (_layered(shape, size, labels, rng) for labels in ((word, each), (prompt, word, each)))
    flip = {"draws": 499, "seed": int(rng.integers(2**31))}
    one, single = (sign_flip(by_word.transpose(1, 0, 2), labels, **flip) for labels in (word, each))
    both = sign_flip(crossed.transpose(1, 0, 2), {"prompt": prompt, "word": word}, **flip)
    adjusted = np.array([holm(p) for p in one])
    zero = np.zeros(size)
    words, prompts = (rng.permutation(clusters) < clusters // 2 for _ in range(2))
    in_words, in_both = words[word], words[word] & prompts[prompt]
    out_of_both = ~words[word] & ~prompts[prompt]
    everything = np.ones(design.cases, bool)
    found = [
        ("one layer, clusters flipped whole", one[:, 0] <= 0.05, zero),
        ("one layer, single cases flipped", single[:, 0] <= 0.05, zero),
        ("one layer, prompts and words, the larger p", both[:, 0] <= 0.05, zero),
        (f"any of {LAYERS} layers, p as it is", (one <= 0.05).any(1), zero),
        (f"any of {LAYERS} layers, Holm", (adjusted <= 0.05).any(1), zero),
    ]
    for name, values, chooses, reports in (
        ("best layer, same cases", by_word, everything, everything),
        ("best layer, halves of words", by_word, in_words, ~in_words),
        ("best layer, halves of words, prompts matter and are shared", crossed, in_words, ~in_words),
        ("best layer, halves of words and of prompts, prompts matter", crossed, in_both, out_of_both),
    ):
        best = values[:, chooses].mean(1).argmax(1)
        reported = values[np.arange(size), :, best][:, reports]
        p = sign_flip(reported.T, word[reports], "greater", **flip)
        found.append((name, p <= 0.05, reported.mean(1)))
    return found


def _layered(shape: str, size: int, ways: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Effects `[repetition, case, layer]` of mean 0: an equal part of the variance by every way, half of each common to all layers."""
    total = np.zeros((size, len(ways[0]), LAYERS))
    for labels in ways:
        shape_of = (size, int(labels.max()) + 1, LAYERS)
        parts = [_noise(shape, (size * shape_of[1], layers), rng).reshape(size, shape_of[1], layers) for layers in (1, LAYERS)]
        total += ((parts[0] + parts[1]) / np.sqrt(2 * len(ways)))[:, labels]
    return total


def _noise(shape: str, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    return rng.exponential(size=size) - 1 if shape == "skewed" else standard(rng, size, shape == "heavy")


# -- shown -------------------------------------------------------------------------------------------


def _intervals_shown(table: pd.DataFrame) -> str:
    """Of the interval of the verdict; the others are in the table beside it."""
    own = table[table["method"] == "percentile"]
    wide = own.assign(percent=100 * own["covered"]).pivot_table(
        index=["quantity", "tails", "design"], columns="clusters", values="percent", sort=False
    )
    return _markdown(wide.reset_index(), "{:.1f}")


def _verdicts_shown(table: pd.DataFrame) -> str:
    rates = [*WORDS, "swap differs from 0", "decodable, so used"]
    return _markdown(table.assign(**{name: 100 * table[name] for name in rates})[["cases", "tails", "scenario", "right", *rates]], "{:.1f}")


def _alarms_shown(table: pd.DataFrame) -> str:
    wide = table.assign(alarms=100 * table["alarms"]).pivot_table(
        index=["shape", "procedure"], columns="clusters", values=["alarms", "bias"], sort=False
    )
    wide.columns = [f"{name}, {clusters}" for name, clusters in wide.columns]
    return _markdown(wide.reset_index(), "{:.2f}")


def _markdown(table: pd.DataFrame, number: str) -> str:
    def cell(value: object) -> str:
        return number.format(value) if isinstance(value, float) else str(value)

    rows = [
        table.columns.map(str).tolist(),
        ["---"] * len(table.columns),
        *([cell(value) for value in row] for row in table.values.tolist()),
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


SHOWN = {"intervals": _intervals_shown, "verdicts": _verdicts_shown, "alarms": _alarms_shown}


if __name__ == "__main__":
    main(sys.argv[1:])
