"""What a grid says under the pointer: place, seconds, word, and the best tokens of every modality."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import xarray as xr

from slm_interp.plots.theme import markup, unit, visible

LEAN_ABOVE = 5000  # cells; larger grids carry fewer tokens a cell, so that the page stays small
GAP = " | "


def percent(probability: float) -> str:
    """`12.3%`; `<0.1%` rather than a zero that is none."""
    if not math.isfinite(probability):
        return "n/a"
    return f"{100 * probability:.1f}%" if probability >= 0.0005 else "<0.1%"


def tokens_in_hover(dataset: xr.Dataset) -> int:
    """How many tokens of each modality the hover lists: five, three in large grids, never more than were read."""
    cells = dataset.sizes["layer"] * dataset.sizes["pos"]
    return min(dataset.sizes["k"], 3 if cells > LEAN_ABOVE else 5)


def _lists(labels: np.ndarray, log_probs: np.ndarray, log_mass: np.ndarray, deep: int) -> list[list[str]]:
    """One line a cell: the modality's mass, then its best `deep` tokens with their probabilities."""
    probabilities, masses = (np.exp(log_probs[..., :deep].astype(np.float64)).tolist(), np.exp(log_mass.astype(np.float64)).tolist())
    names = labels[..., :deep].tolist()
    return [[_line(*one) for one in zip(*row, strict=True)] for row in zip(masses, names, probabilities, strict=True)]


def _line(mass: float, names: list[str], probabilities: list[float]) -> str:
    best = [f"{unit(visible(name))} {percent(probability)}" for name, probability in zip(names, probabilities, strict=True) if name != ""]
    return markup(f"{percent(mass)}: {GAP.join(best)}")


def _places(dataset: xr.Dataset) -> list[str]:
    """One line a position: number, input token, word, seconds."""
    lines = []
    for index in range(dataset.sizes["pos"]):
        start, end = (float(dataset["start_s"].values[index]), float(dataset["end_s"].values[index]))
        seconds = f"{start:.2f}–{end:.2f} s" if end > start else f"at {start:.2f} s, takes no time"
        word = str(dataset["word"].values[index])
        place = f"{visible(str(dataset['label'].values[index]))} · position {int(dataset['pos'].values[index])} · {seconds}"
        lines.append(markup(place + (f" · “{word}”" if word else "")))
    return lines


def _own_targets(dataset: xr.Dataset) -> np.ndarray:
    """For each position the target that is the word heard there, else -1."""
    own = np.full(dataset.sizes["pos"], -1)
    if "target_start" in dataset.coords:
        for target in range(dataset.sizes["target"]):
            start, stop = (int(dataset["target_start"].values[target]), int(dataset["target_stop"].values[target]))
            if start >= 0:
                own[start:stop] = np.where(own[start:stop] < 0, target, own[start:stop])
    return own


def hover(dataset: xr.Dataset) -> tuple[np.ndarray, str]:
    """`customdata` for a heat map, `[layer][pos][field]`, and the template that prints it.

    The line about the heard word is there only when the reading ranks it.
    """
    deep = tokens_in_hover(dataset)
    names = [str(name) for name in dataset["modality"].values]
    labels, log_probs = (dataset["top_label_by_modality"].values, dataset["top_log_prob_by_modality"].values)
    masses = dataset["modality_log_mass"].values
    fields = [
        _lists(labels[:, :, index], log_probs[:, :, index], masses[:, :, index], min(deep, 2) if name == "marker" else deep)
        for index, name in enumerate(names)
    ]
    fields.insert(0, [_places(dataset)] * dataset.sizes["layer"])
    template = "<b>%{customdata[0]}</b><br>layer %{y}<br>" + "".join(
        f"<br><b>{markup(name)}</b> %{{customdata[{index + 1}]}}" for index, name in enumerate(names)
    )
    own = _own_targets(dataset)
    if (own >= 0).any():
        fields.append(_rank_lines(dataset, own))
        template += f"<br>%{{customdata[{len(names) + 1}]}}"
    return np.moveaxis(np.array(fields, dtype=object), 0, -1), template + "<extra></extra>"


def _rank_lines(dataset: xr.Dataset, own: np.ndarray) -> list[list[str]]:
    """One line a cell: how far down the list the heard word is (1 is first), where there is one."""
    ranks = dataset["target_rank_in_modality"].values
    said = [f"heard word {visible(str(label))}: " for label in dataset["target_label"].values]
    return [
        [markup(said[target] + _rank(float(row[pos, target]))) if target >= 0 else "" for pos, target in enumerate(own.tolist())]
        for row in ranks
    ]


def _rank(rank: float) -> str:
    return f"rank {rank + 1:,.10g} of its kind" if rank >= 0 else "not ranked here"


def cell_tokens(dataset: xr.Dataset, shown: str) -> Any:
    """Labels `[layer, pos]` of the best token: of all (`"any"`) or of one modality."""
    if shown == "any":
        return dataset["top_label"].values[:, :, 0]
    return dataset["top_label_by_modality"].sel(modality=shown).values[:, :, 0]
