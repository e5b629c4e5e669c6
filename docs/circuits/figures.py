"""The circuit of docs/circuits.md, "name -> city spoken aloud": tables and pictures.

    python docs/circuits/figures.py          about fifteen minutes on a quiet core

1. Ceilings: how far each organism tells apart what it should say after one name and after another.
2. On the organism that does so best: edges scored on one half of the names, and everything else measured on the other half.
3. Head types on held-out sentences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import slm_interp as si
from slm_interp import circuits, statistics
from slm_interp.files import write_text
from slm_interp.organisms import RECIPES, ablation
from slm_interp.organisms.contrasts import ContrastPair, contrasts
from slm_interp.patching import outcomes
from slm_interp.patching.measuring import baselines
from slm_interp.patching.spans import SpanPair
from slm_interp.plots import write_png
from slm_interp.utterance import Contrast, Span, Utterance

HERE = Path(__file__).parent
ORGANISMS = ("tiny", "tiny-overlapped", "tiny-supervised")
DRAWN = 450  # pairs of all five kinds of fact; about a sixth are about cities
OUTCOMES = {
    "first unit": outcomes.difference(units=1),
    "first three units": outcomes.difference(units=3),
    "whole word": outcomes.difference(),
}
TOLD = 1.0  # nats
STEPS = 5
SIZES = (0, 50, 100, 200, 500, 1000, 2000, 5000, 15000)
FEWER = (200, 1000, 5000)  # for the scores that are only compared
ASKED = 12  # pairs, so that this takes minutes
SHOWN = 24


def main() -> None:
    """Everything."""
    found = {name: cities(si.load(name, dtype=torch.float32), name) for name in ORGANISMS}
    table = pd.concat([ceilings(name, pairs) for name, pairs in found.items()], ignore_index=True)
    print(written("ceilings.csv", table).to_string(index=False))
    sure = table[table["outcome"] == "whole word"].sort_values("low").iloc[-1]["organism"]
    circuit(str(sure), found[str(sure)])
    types()


def cities(slm: si.SpeechTextModel, name: str) -> list[ContrastPair]:
    """Pairs about where a name lives, of facts that were heard in training."""
    drawn = contrasts(slm, RECIPES[name].world, "names", DRAWN, sides=("heard",))
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


def circuit(name: str, pairs: Sequence[ContrastPair]) -> None:
    """Scores on one half; the curve, exact effects, and what each node adds, on the other."""
    slm = si.load(name, dtype=torch.float32)
    scored, asked = halves(slm, pairs)
    scored, asked = scored[:ASKED], asked[:ASKED]
    here, there = task_of(slm, scored), task_of(slm, asked)
    print(name, f"scored on {len(scored)} pairs, asked of {len(asked)}")
    graphs = {"EAP-IG": circuits.eap_ig(here, STEPS), "EAP": circuits.eap(here)}
    graphs["EAP-IG, spans together"] = graphs["EAP-IG"].over_spans()
    graphs["random order"] = shuffled(graphs["EAP-IG"])
    labels, curves = [pair.cluster for pair in asked], []
    for title, graph in graphs.items():
        curve = circuits.faithfulness(there, graph, SIZES if title == "EAP-IG" else FEWER, clusters=labels)
        curves.append(curve.table().assign(scores=title))
        if title == "EAP-IG":
            write_png(curve.plot(title=f"{name}: name → city, on {len(asked)} pairs that were not scored"), HERE / "faithfulness.png")
            chosen = curve
    table = pd.concat(curves, ignore_index=True)
    print(written("faithfulness.csv", table.assign(organism=name)).to_string(index=False))
    graph = graphs["EAP-IG"]
    exact = circuits.path_patching(here, graph, SHOWN)
    print(written("path_patching.csv", exact).head(20).to_string(index=False), exact.attrs)
    try:
        size = chosen.smallest(0.8)
    except si.errors.PatchingError as error:
        print(error)
        size = SIZES[-1]
    parts = circuits.top_n(graph, size)
    print(f"{size} edges, {parts.size} after pruning")
    few, strongest = task_of(slm, asked[: ASKED // 2]), strongest_nodes(parts, 20)
    adds = written("minimality.csv", circuits.minimality(few, parts, strongest))
    print(adds.to_string(index=False))
    print(written("completeness.csv", circuits.completeness(few, parts, adds["node"].tolist()[:8])).to_string(index=False))
    small = circuits.top_n(graph, 150)
    written("edges.csv", small.edges_table(kept=True).drop(columns="kept"))
    print(by_span(graph).to_string())
    written("spans.csv", by_span(graph).reset_index())
    picture = small.plot(title=f"{name}: name → city, the {small.size} edges left of the 150 strongest")
    picture.svg(HERE / "circuit.svg")
    picture.png(HERE / "circuit.png")


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
    sentences: list[Utterance] = ablation.heard_sentences(slm, RECIPES["tiny"], 60)
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
