"""The circuit of docs/circuits.md, "name -> city spoken aloud": tables and pictures.

    python docs/circuits/figures.py [ceilings | swapped | curve | exact | parts | heads]     all of them if none is named; ten minutes on a quiet core

1. Ceilings: how far each organism tells apart what it should say after one name and after another, in pairs as they were said and in spliced ones,
   where the name is all that differs.
2. On the organism that does so best, spliced pairs: edges scored on one half of the names, and everything else measured on the other half.
3. Head types on held-out sentences.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import slm_interp as si
from slm_interp import circuits, statistics
from slm_interp.files import write_text
from slm_interp.organisms import RECIPES, ablation
from slm_interp.organisms.contrasts import ContrastPair, contrasts
from slm_interp.organisms.splicing import spliced
from slm_interp.patching import outcomes
from slm_interp.patching.measuring import baselines
from slm_interp.patching.spans import SpanPair
from slm_interp.plots import write_png
from slm_interp.utterance import Contrast, Span, Utterance

HERE = Path(__file__).parent
ORGANISMS = ("tiny", "tiny-overlapped", "tiny-supervised")
DRAWN = 450  # pairs of all five kinds of fact; about a sixth are about cities
CIRCUIT, FIRST = "tiny-overlapped", 240  # the organism that tells them apart best, and how many pairs are drawn for it
OUTCOMES = {
    "first unit": outcomes.difference(units=1),
    "first three units": outcomes.difference(units=3),
    "whole word": outcomes.difference(),
}
TOLD = 0.5  # nats
STEPS = 5
SIZES = (0, 100, 300, 1000, 3000, 10000, 30000)
FEWER = (300, 3000)  # for the scores that are only compared
ASKED = 10  # pairs of each half, so that this takes minutes
SHOWN = 20


def main() -> None:
    """Everything, or what is named."""
    steps = {"ceilings": all_ceilings, "swapped": swapped, "curve": curve, "exact": exact, "parts": parts, "heads": types}
    for name in sys.argv[1:] or steps:
        steps[name]()


def all_ceilings() -> None:
    """How far every organism tells apart what is said after one name and after another."""
    parts = []
    for name in ORGANISMS:
        said = cities(si.load(name, dtype=torch.float32), name, DRAWN)
        parts += [ceilings(name, pairs).assign(pairs_are=kind) for kind, pairs in (("as said", said), ("spliced", spliced(said)))]
    print(written("ceilings.csv", pd.concat(parts, ignore_index=True)).to_string(index=False))


def cities(slm: si.SpeechTextModel, name: str, count: int) -> list[ContrastPair]:
    """Pairs about where a name lives, of facts that were heard in training."""
    drawn = contrasts(slm, RECIPES[name].world, "names", count, sides=("heard",))
    return [pair for pair in drawn if pair.plan.category == "city"]


def ceilings(name: str, pairs: Sequence[ContrastPair]) -> pd.DataFrame:
    """Clean less corrupted by outcome: mean with its interval over pairs of names, and how many pairs are told apart, either way."""
    slm, rows = si.load(name, dtype=torch.float32), []
    for title, outcome in OUTCOMES.items():
        clean, corrupted = (np.array(side) for side in baselines(slm, [pair.contrast for pair in pairs], outcome))
        band = statistics.bootstrap(clean - corrupted, [pair.cluster for pair in pairs])
        row = {
            "organism": name,
            "outcome": title,
            "pairs": len(pairs),
            "ceiling": float(band.estimate),
            "low": float(band.low),
            "high": float(band.high),
        }
        rows.append(row | {"right_way": int((clean - corrupted >= TOLD).sum()), "wrong_way": int((clean - corrupted <= -TOLD).sum())})
    return pd.DataFrame(rows)


def spans(pair: ContrastPair) -> tuple[SpanPair, ...]:
    """What comes before the name, the name, the words between, and the last word, after which the city is said."""
    edges = []
    for prompt, word in ((pair.contrast.clean, pair.word_clean), (pair.contrast.corrupted, pair.word_corrupted)):
        edges.append((0, word.span.start, word.span.stop, prompt.words[-1].span.start, len(prompt)))
    names = ["opening", "name", "between", "last word"]
    if any(side[2] == side[3] for side in edges):
        names.remove("between")
        edges = [(*side[:3], side[4]) for side in edges]
    found = []
    for number, title in enumerate(names):
        clean, corrupted = (side[number : number + 2] for side in edges)
        if clean[0] < clean[1] and corrupted[0] < corrupted[1]:
            label = f"{pair.word_clean.text} / {pair.word_corrupted.text}" if title == "name" else title
            found.append(SpanPair(title, Span(*clean), Span(*corrupted), label))
    return tuple(found)


def task_of(slm: si.SpeechTextModel, pairs: Sequence[ContrastPair]) -> circuits.Task:
    """The whole city against the whole city."""
    places = {id(pair.contrast): spans(pair) for pair in pairs}
    by_role: Callable[[Contrast], tuple[SpanPair, ...]] = lambda contrast: places[id(contrast)]  # noqa: E731
    return circuits.Task(slm, [pair.contrast for pair in pairs], outcomes.difference(), by_role, "warped", told_apart=TOLD)


def halves(slm: si.SpeechTextModel, pairs: Sequence[ContrastPair]) -> tuple[list[ContrastPair], list[ContrastPair]]:
    """Pairs that are told apart, in two halves; no pair of names in both."""
    told = circuits.told_apart(task_of(slm, pairs))
    kept = [pair for pair, there in zip(pairs, told, strict=True) if there]
    clusters = list(dict.fromkeys(pair.cluster for pair in kept))
    first = set(clusters[::2])
    return [pair for pair in kept if pair.cluster in first], [pair for pair in kept if pair.cluster not in first]


def swapped() -> None:
    """Where what tells the prompts apart is: units of one span alone from the other prompt, and how often they differ there."""
    rows = []
    for name in ORGANISMS[:2]:
        slm = si.load(name, dtype=torch.float32)
        pairs = [pair for half in halves(slm, cities(slm, name, FIRST)) for pair in half]
        table = circuits.by_span(task_of(slm, pairs))
        rows.append(table.assign(organism=name, pairs=len(pairs), differ=[differing(pairs, span) for span in table["span"]]))
    print(written("swapped.csv", pd.concat(rows, ignore_index=True)).to_string(index=False), flush=True)


def differing(pairs: Sequence[ContrastPair], title: str) -> float:
    """In what share of the pairs the two prompts have other units in a span."""
    found = []
    for pair in pairs:
        for one in spans(pair):
            if one.name == title:
                sides = ((pair.contrast.clean, one.clean), (pair.contrast.corrupted, one.corrupted))
                clean, corrupted = (prompt.tokens[span.start : span.stop].tolist() for prompt, span in sides)
                found.append(clean != corrupted)
    return float(np.mean(found)) if found else float("nan")


@dataclass(frozen=True, eq=False)
class Asked:
    """Edges scored on one half of the names, and both halves as tasks."""

    here: circuits.Task
    there: circuits.Task
    clusters: list[str]
    graph: circuits.Graph

    @staticmethod
    def of(name: str = CIRCUIT) -> Asked:
        """Pairs that are told apart; the first so many of each half."""
        slm = si.load(name, dtype=torch.float32)
        pairs = spliced(cities(slm, name, FIRST))
        scored, asked = (half[:ASKED] for half in halves(slm, pairs))
        print(name, f"{len(pairs)} pairs; scored on {len(scored)}, asked of {len(asked)}", flush=True)
        here, there = task_of(slm, scored), task_of(slm, asked)
        return Asked(here, there, [pair.cluster for pair in asked], circuits.eap_ig(here, STEPS))


def curve() -> None:
    """How much circuits of more and more edges carry, on the half that was not scored; the picture."""
    asked = Asked.of()
    graphs = {"EAP-IG": asked.graph, "EAP-IG, spans together": asked.graph.over_spans(), "EAP": circuits.eap(asked.here)}
    graphs["random order"] = shuffled(asked.graph)
    small = circuits.top_n(asked.graph, 150)
    written("edges.csv", small.edges_table(kept=True).drop(columns="kept"))
    print(written("spans.csv", by_span(asked.graph).reset_index()).to_string(index=False), flush=True)
    picture = small.plot(title="name → city: the strongest edges that hang together")
    picture.svg(HERE / "circuit.svg")
    picture.png(HERE / "circuit.png")
    rows = []
    for title, graph in graphs.items():
        found = circuits.faithfulness(asked.there, graph, SIZES if title == "EAP-IG" else FEWER, clusters=asked.clusters)
        rows.append(found.table().assign(scores=title))
        print(written("faithfulness.csv", pd.concat(rows, ignore_index=True)).tail(len(rows[-1])).to_string(index=False), flush=True)
        if title == "EAP-IG":
            heading = f"{CIRCUIT}: name → city, on {len(asked.clusters)} pairs that were not scored"
            write_png(found.plot(title=heading), HERE / "faithfulness.png")


def exact() -> None:
    """The strongest edges one by one, by exact path patching, beside both scores at the base run."""
    asked = Asked.of()
    for title, graph in (("EAP", circuits.eap(asked.here)), ("EAP-IG", asked.graph)):
        table = circuits.path_patching(asked.here, graph, SHOWN)
        print(title, table.attrs)
        print(written(f"path_patching_{title.lower().replace('-', '_')}.csv", table).to_string(index=False), flush=True)


def parts() -> None:
    """What the strongest nodes of the largest circuit add, and how circuit and model fall without them."""
    asked = Asked.of()
    circuit = circuits.top_n(asked.graph, SIZES[-2])
    adds = circuits.minimality(asked.there, circuit, strongest_nodes(circuit, 12))
    print(written("minimality.csv", adds).to_string(index=False), flush=True)
    print(
        written("completeness.csv", circuits.completeness(asked.there, circuit, adds["node"].tolist()[:5])).to_string(index=False),
        flush=True,
    )


def strongest_nodes(graph: circuits.Graph, count: int) -> list[str]:
    """Nodes that write into a circuit, by the sum of the sizes of the scores out of them; the input left out."""
    table = graph.edges_table(kept=True)
    sums = table.assign(size=table["score"].abs()).groupby("source")["size"].sum().drop("input", errors="ignore")
    return [str(name) for name in sums.sort_values(ascending=False).index[:count]]


def shuffled(graph: circuits.Graph) -> circuits.Graph:
    """The same edges in a random order."""
    scores = graph.scores.copy()
    scores[graph.real] = np.random.default_rng(0).permutation(scores[graph.real])
    return circuits.Graph(graph.dataset.assign(score=(graph.dataset["score"].dims, scores)))


def by_span(graph: circuits.Graph) -> pd.DataFrame:
    """Sum of absolute scores of the edges into keys and values, from span (row) to span (column), as a share of all such edges."""
    carried = np.abs(graph.scores[:, np.isin(graph.dataset["slot"].values, ("k", "v"))]).sum((0, 1))
    return pd.DataFrame(carried / carried.sum(), pd.Index(graph.spans, name="from"), pd.Index(graph.spans, name="to"))


def types() -> None:
    """Head types of the main organism on sentences that were held out."""
    slm = si.load("tiny", dtype=torch.float32)
    sentences: list[Utterance] = ablation.heard_sentences(slm, RECIPES["tiny"], 30)
    found = {
        "previous unit": circuits.heads.previous_unit(slm, sentences),
        "induction": circuits.heads.induction(slm),
        "gathering": circuits.heads.gathering(slm, sentences),
        "writes the word": circuits.heads.writes_word(slm, sentences),
        "writes the next unit": circuits.heads.writes_next_unit(slm, sentences),
    }
    rows = []
    for title, data in found.items():
        table = data[["score", "null", "over", "low", "high"]].to_dataframe().reset_index()
        rows.append(table.assign(measure=title).sort_values("over", ascending=False).head(5))
    print(written("heads.csv", pd.concat(rows, ignore_index=True)).to_string(index=False))


def written(name: str, table: pd.DataFrame) -> pd.DataFrame:
    """Write a table beside this file."""
    write_text(HERE / name, table.to_csv(index=False, float_format="%.4f"))
    return table


if __name__ == "__main__":
    main()
