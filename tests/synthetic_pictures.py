"""Made-up sweeps, attention and circuits by the schemas of the package: for tests of pictures, which need no model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr

from slm_interp.utterance import Span, Word

WORDS = ["the", "mayor", "of", "paris", "speaks", "the", "river"]
SPANS = ["the", "mayor", "of", "paris", "speaks", "→ Lyon"]


def sweep(contrasts: int = 5, layers: int = 6, heads: int = 0, sites: Sequence[str] = (), direction: str = "denoising") -> xr.Dataset:
    """A sweep over seven words: the word in place 2 carries the answer below, the last one above; contrast 1 is not told apart."""
    generator = np.random.default_rng(0)
    clean, corrupted = generator.normal(3, 0.5, contrasts), generator.normal(-2, 0.5, contrasts)
    depth, place = np.linspace(0, 1, layers)[:, None], np.arange(len(WORDS))[None]
    carried = 0.9 * (place == 2) * (depth < 0.5) + 0.95 * (place == 6) * (depth >= 0.5) - 0.1 * (place == 0)
    shape, dims = [contrasts, layers, len(WORDS)], ["contrast", "layer", "span"]
    recovered = carried + generator.normal(0, 0.02, shape)
    if heads:
        recovered, dims = recovered[..., None] * generator.dirichlet(np.ones(heads), layers)[None, :, None], [*dims, "head_index"]
    if sites:
        recovered, dims = np.stack([recovered * (1 - 0.6 * number) for number in range(len(sites))]), ["site", *dims]
    beside = [slice(None) if name == "contrast" else None for name in dims]
    low, high = corrupted[tuple(beside)], clean[tuple(beside)]
    labels = [[f"town{number}" if word == "paris" else word for word in WORDS] for number in range(contrasts)]
    made = xr.Dataset(
        {
            "outcome": (dims, low + recovered * (high - low)),
            "clean": ("contrast", clean),
            "corrupted": ("contrast", corrupted),
            "told_apart": ("contrast", np.arange(contrasts) != 1),
            "label": (("contrast", "span"), np.array(labels, dtype=object)),
        },
        {
            "contrast": np.array([f"name {number}" for number in range(contrasts)], dtype=object),
            "layer": np.arange(layers),
            "layer_label": ("layer", np.array([f"{layer}_post" for layer in range(layers)], dtype=object)),
            "span": np.array([f"word {number}" for number in range(len(WORDS))], dtype=object),
        },
        {"site": "resid_post", "direction": direction, "policy": "last", "outcome": "log-probability difference", "unit": "nats"},
    )
    made = made.assign_coords(head_index=np.arange(heads)) if heads else made
    return made.assign_coords(site=np.array(sites, dtype=object)) if sites else made


def spoken(positions: int) -> tuple[tuple[str, ...], tuple[Word, ...]]:
    """Labels of units after one marker, and words of six units from position 2 on with one unit between some of them."""
    units = np.random.default_rng(3).integers(0, 20, positions - 1) * 5
    words, at = [], 2
    while at + 6 <= positions:
        words.append(Word(WORDS[len(words) % len(WORDS)], Span(at, at + 6), 0.0, 0.0))
        at += 6 + (len(words) % 3 == 0)
    return ("<speech>", *(f"<Un{unit}>" for unit in units)), tuple(words)


def causal(scores: np.ndarray) -> np.ndarray:
    """Scores as attention under a causal mask."""
    masked = np.where(np.tri(scores.shape[-1], dtype=bool), scores, -np.inf)
    weights = np.exp(masked - masked.max(-1, keepdims=True))
    return (weights / weights.sum(-1, keepdims=True)).astype(np.float32)


def peaked(heads: int, positions: int) -> np.ndarray:
    """Attention as heads have it: on the token before, on the first position, on a few far ones, on the beginnings of words."""
    generator, place = np.random.default_rng(0), np.arange(positions)
    scores = generator.standard_normal((heads, positions, positions), dtype=np.float32)
    for head in range(heads):
        if head % 4 == 0:
            scores[head] += 6 * (place[:, None] - place[None] == 1)
        elif head % 4 == 1:
            scores[head] += 7 * (place[None] == 0)
        elif head % 4 == 2:
            scores[head] += 5 * (generator.random((positions, positions)) < 0.01) - 0.05 * abs(place[:, None] - place[None])
        else:
            scores[head] += 4 * (place[None] % 8 == 1)
    return causal(scores)


def incompressible(heads: int, positions: int) -> np.ndarray:
    """Causal attention whose bytes hold nothing that compression could use: uniform numbers, each row divided by its sum."""
    weights = np.random.default_rng(2).random((heads, positions, positions), dtype=np.float32) * np.tri(positions, dtype=np.float32)
    return weights / weights.sum(-1, keepdims=True)


def circuit_tables(
    layers: int = 5, heads: int = 3, spans: Sequence[str] = SPANS[:3], nodes: int = 12, edges: int = 18, kept: float = 1.0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Nodes and upward edges of random effects, of either sign and many sizes; attention alone crosses spans."""
    generator = np.random.default_rng(4)
    rows = [("input", "input", np.nan, np.nan, span, np.nan) for span in spans]
    cells = [(layer, head, span) for layer in range(layers) for head in (*range(heads), None) for span in spans]
    for index in sorted(generator.choice(len(cells), nodes - len(spans) - 1, replace=False)):
        layer, head, span = cells[index]
        name = f"m{layer}" if head is None else f"a{layer}.h{head}"
        rows.append((name, "mlp" if head is None else "head", layer, np.nan if head is None else head, span, generator.normal(0, 0.2)))
    rows.append(("logits", "logits", np.nan, np.nan, spans[-1], 1.0))
    table = pd.DataFrame(rows, columns=["name", "kind", "layer", "head", "span", "score"])
    names, kinds, stands = (table[column].tolist() for column in ("name", "kind", "span"))
    place = [list(spans).index(span) for span in stands]
    rank = [
        -1 if row.kind == "input" else 10**6 if row.kind == "logits" else 2 * row.layer + (row.kind == "mlp") for row in table.itertuples()
    ]
    found: dict[tuple[int, int, str], float] = {}
    pairs = [
        (one, other)
        for one in range(len(table))
        for other in range(len(table))
        if rank[one] < rank[other] and (place[one] == place[other] or (kinds[other] == "head" and place[one] < place[other]))
    ]
    for index in generator.permutation(len(pairs)):
        one, other = pairs[index]
        slots = ["in"] if kinds[other] != "head" else ["q", "k", "v"] if place[one] == place[other] else ["k", "v"]
        for slot in slots[: 1 + int(generator.integers(len(slots)))]:
            if len(found) < edges:
                found[one, other, slot] = float(generator.normal() * 10 ** generator.uniform(-2, 0))
        if len(found) == edges:
            break
    joined = pd.DataFrame(
        [(names[a], names[b], slot, stands[a], stands[b], value) for (a, b, slot), value in found.items()],
        columns=["source", "target", "slot", "source_span", "target_span", "score"],
    )
    return table, joined.assign(kept=generator.random(len(joined)) < kept)
