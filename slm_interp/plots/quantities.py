"""What a grid can be coloured by: a table of quantities, each read from a lens dataset.

A dataset is what a lens gives (`Reading.dataset`): dims `layer pos k modality target`, natural logarithms,
probabilities of the joint softmax.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from slm_interp.errors import ReadoutError
from slm_interp.plots.theme import BLUES, GREENS, ORANGES, PURPLES, markup

Grid = Float[np.ndarray, "layer pos"]


@dataclass(frozen=True)
class Quantity:
    """One way to colour a grid.

    Args:
        title: what the colour bar says.
        scale: plotly colour scale.
        values: the numbers, from the dataset and the target to rank.
        top: upper end of the scale, from the dataset; the lower end is 0.
        ticks: colour bar ticks as (values, texts), where the plain numbers would mislead.
    """

    title: str
    scale: list[list[Any]]
    values: Callable[[xr.Dataset, int], Grid]
    top: Callable[[xr.Dataset], float]
    ticks: Callable[[xr.Dataset], tuple[list[float], list[str]]] | None = None


def mass(dataset: xr.Dataset, modality: str) -> Grid:
    """Probability mass of a modality.

    Raises:
        ReadoutError: the dataset did not read this modality.
    """
    known = [str(name) for name in dataset["modality"].values]
    if modality not in known:
        raise ReadoutError(f"This reading has the modalities {', '.join(known)}; wanted {modality!r}. Colour by another one.")
    return np.exp(dataset["modality_log_mass"].values[:, :, known.index(modality)].astype(np.float64))


def target_log10_rank(dataset: xr.Dataset, target: int) -> Grid:
    """log10 of (rank from 0, plus 1); NaN where the target was left out."""
    n_targets = dataset.sizes.get("target", 0)
    if not 0 <= target < n_targets:
        raise ReadoutError(f"This reading ranks {n_targets} targets; wanted number {target}. Read again with targets=... to rank more.")
    rank = dataset["target_rank"].values[:, :, target].astype(np.float64)
    return np.log10(rank + 1)


def _vocabulary(dataset: xr.Dataset) -> int:
    return int(dataset.attrs["d_vocab"])


def _rank_ticks(dataset: xr.Dataset) -> tuple[list[float], list[str]]:
    decades = range(int(np.floor(np.log10(_vocabulary(dataset)))) + 1)
    return [float(decade) for decade in decades], [f"{10**decade:,}" for decade in decades]


def _one(_: xr.Dataset) -> float:
    return 1.0


# Rank 1 is the good end: dark there, pale where the target is buried.
FADING_GREENS = [[place, colour] for (place, _), (_, colour) in zip(GREENS, reversed(GREENS), strict=True)]

QUANTITIES: dict[str, Quantity] = {
    "text_mass": Quantity("probability on text", BLUES, lambda data, _: mass(data, "text"), _one),
    "speech_mass": Quantity("probability on speech units", ORANGES, lambda data, _: mass(data, "speech"), _one),
    "top_probability": Quantity(
        "probability of the top token", GREENS, lambda data, _: np.exp(data["top_log_prob"].values[:, :, 0].astype(np.float64)), _one
    ),
    "entropy": Quantity(
        "entropy (nats)", PURPLES, lambda data, _: data["entropy"].values.astype(np.float64), lambda data: float(np.log(_vocabulary(data)))
    ),
    "rank": Quantity("rank", FADING_GREENS, target_log10_rank, lambda data: float(np.log10(_vocabulary(data))), _rank_ticks),
}


def opening_quantity(dataset: xr.Dataset) -> str:
    """What a grid is coloured by if nobody says: the mass on text, where the model has text."""
    return "text_mass" if "text" in dataset["modality"].values else "top_probability"


def quantity(name: str) -> Quantity:
    """A row of the table.

    Raises:
        ReadoutError: no such quantity.
    """
    if name not in QUANTITIES:
        raise ReadoutError(f"A grid is coloured by one of {', '.join(QUANTITIES)}; got {name!r}.")
    return QUANTITIES[name]


def colour_bar(dataset: xr.Dataset, name: str, target: int) -> dict[str, Any]:
    """Trace attributes that dress a heat map as this quantity: scale, ends, colour bar."""
    chosen = quantity(name)
    title = chosen.title
    if name == "rank":
        title = f"rank of {markup(str(dataset['target_label'].values[target]).strip() or 'target')}"
    bar: dict[str, Any] = {"title": {"text": title, "side": "right"}, "orientation": "h", "thickness": 10, "lenmode": "pixels", "len": 320}
    bar |= {"x": 0.0, "xanchor": "left", "yref": "container", "y": 0, "yanchor": "bottom", "ypad": 8, "xpad": 22, "outlinewidth": 0}
    if chosen.ticks is not None:
        values, texts = chosen.ticks(dataset)
        bar |= {"tickmode": "array", "tickvals": values, "ticktext": texts}
    return {"colorscale": chosen.scale, "zmin": 0.0, "zmax": chosen.top(dataset), "colorbar": bar}
