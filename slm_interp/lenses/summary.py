"""What a reading says, in numbers small enough for a sentence, each beside what chance gives.

Decoded at k: the word's first piece is among the k likeliest ids of the joint vocabulary at *any* position of
its span and in *any* layer read (the paper's rule). Chance is the same maximum, over the same span and layers,
for the other words of the utterance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from slm_interp.errors import ReadoutError


@dataclass(frozen=True)
class Decoded:
    """How many words were decoded, and how many other words would have been.

    Args:
        hits: words decoded at k.
        words: words looked for.
        chance: mean share of the other words that the same rule decodes at the same spans.
    """

    hits: int
    words: int
    chance: float

    def __str__(self) -> str:
        return f"{self.hits} of {self.words} (other words by the same rule: {self.chance:.0%})"


@dataclass(frozen=True)
class Summary:
    """A reading in numbers.

    Args:
        text_mass: mean probability on text at speech positions, a layer each.
        uniform_text_mass: what a uniform distribution over the vocabulary puts on text.
        current: the word that is being said, decoded within its own span.
        next: the word after it, decoded within the same span.
        k: of the top-k rule.
    """

    text_mass: tuple[float, ...]
    uniform_text_mass: float
    current: Decoded | None
    next: Decoded | None
    k: int

    @property
    def peak(self) -> int:
        """Index of the layer with most mass on text."""
        return int(np.argmax(self.text_mass))

    def __str__(self) -> str:
        mass = self.text_mass
        lines = [
            f"At speech positions the probability on text tokens goes from {mass[0]:.1%} at the embedding to {mass[self.peak]:.1%} after "
            f"{self.peak} of {len(mass) - 1} layers and ends at {mass[-1]:.1%} (a uniform guess would put {self.uniform_text_mass:.0%} there)."
        ]
        for name, decoded in (("word being said", self.current), ("next word", self.next)):
            if decoded is not None:
                lines.append(f"The {name} is among the {self.k} likeliest tokens somewhere in its span and depth for {decoded}.")
        return "\n".join(lines)


def summarise(dataset: xr.Dataset, k: int = 10) -> Summary:
    """A reading in numbers; see `Summary`.

    Args:
        dataset: of a `Reading` whose targets are the words of its utterance.
        k: of the top-k rule.

    Raises:
        ReadoutError: a reading without text or without speech positions.
    """
    if "text" not in dataset.modality.values or not (dataset.kind == "speech").any():
        raise ReadoutError("A summary needs a model with text ids and an utterance with speech positions.")
    mass = np.exp(dataset.modality_log_mass.sel(modality="text")).where(dataset.kind == "speech").mean("pos")
    uniform = float(dataset.modality_size.sel(modality="text") / dataset.modality_size.sum())
    best = best_ranks(dataset)
    return Summary(tuple(float(value) for value in mass), uniform, decoded(dataset, best, 0, k), decoded(dataset, best, 1, k), k)


def best_ranks(dataset: xr.Dataset) -> np.ndarray:
    """Lowest rank of every target within every word's span, over layers: `[word, target]`, for words of the utterance."""
    placed = [target for target in range(dataset.sizes["target"]) if int(dataset.target_start[target]) >= 0]
    spans = [slice(int(dataset.target_start[target]), int(dataset.target_stop[target])) for target in placed]
    ranks = dataset.target_rank.isel(target=placed)
    return np.array([ranks.isel(pos=span).min(("layer", "pos")).values for span in spans]).reshape(len(placed), len(placed))


def decoded(dataset: xr.Dataset, best: np.ndarray, ahead: int, k: int) -> Decoded | None:
    """Words `ahead` of the span decoded at k, beside every word that is spelled differently; None without words."""
    words = [str(word) for word, start in zip(dataset.target_word.values, dataset.target_start.values, strict=True) if start >= 0]
    hits, chances = [], []
    for here in range(len(words) - ahead):
        near = {words[other] for other in range(max(0, here - 1), min(len(words), here + 2))}
        hits.append(best[here, here + ahead] < k)
        others = [best[here, other] < k for other in range(len(words)) if words[other] not in near]
        chances += [float(np.mean(others))] if others else []
    return Decoded(int(np.sum(hits)), len(hits), float(np.mean(chances)) if chances else float("nan")) if hits else None
