"""A page to look at and listen to: what a lens read, clip by clip."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float

from slm_interp.lenses.summary import summarise
from slm_interp.page import Block, Figure, Page, Player, Section, Table, Text
from slm_interp.plots import lens_grid, modality_by_layer, waveform
from slm_interp.utterance import Utterance

LEAD = (
    "Each cell of a grid is what the model would say if it stopped at that layer: its final norm and unembedding applied to the "
    "residual stream there. The top row is the model's own next-token prediction. A token that a lens can read in the middle of a "
    "network is there to be read; that the model uses it is another claim, which reading alone cannot show."
)
GRID_CAPTION = (
    "Columns are positions, never merged when a unit repeats. A bar marks the positions of each word. Colours and printed tokens can be "
    "changed above; pointing at a cell lists the best tokens of each modality with their probabilities in the joint vocabulary."
)
MODALITY_CAPTION = (
    "Solid: mean over positions; band: 10th to 90th percentile. Dotted: what a uniform distribution over the vocabulary would give, "
    "which is large for a modality that owns most ids."
)


@dataclass(frozen=True, eq=False)
class Clip:
    """One utterance as a lens read it. `note` is what a reader must know first, such as that the clip is out of domain."""

    title: str
    utterance: Utterance
    dataset: xr.Dataset
    note: str = ""


def lens_page(
    clips: Sequence[Clip], title: str = "What every layer says", lead: str = LEAD, provenance: Mapping[str, Any] | None = None
) -> Page:
    """One page: for each clip a summary, the player, the waveform, the grid, the modality curves and a table of its words.

    Args:
        clips: with `Reading.dataset` of each.
        title, lead: heading and opening words.
        provenance: replaces what the first clip's dataset says about checkpoint, lens and versions.
    """
    sources = provenance if provenance is not None else (provenance_of(clips[0].dataset) if clips else {})
    return Page(title, [_section(clip) for clip in clips], lead, sources)


def provenance_of(dataset: xr.Dataset) -> dict[str, Any]:
    """The flat provenance of a reading: its own settings, the model's, and the versions."""
    attrs = dict(dataset.attrs)
    nested = {key: json.loads(str(attrs.pop(key, "{}"))) for key in ("provenance_json", "versions_json")}
    settings = {key: value for key, value in attrs.items() if key not in {"utterance", "seconds_total", "schema"}}
    return dict(nested["provenance_json"]) | settings | nested["versions_json"]


def _section(clip: Clip) -> Section:
    blocks: list[Block] = [Text(summary(clip.dataset))]
    if clip.utterance.audio is not None:
        blocks.append(Player(clip.utterance.audio, clip.utterance.words))
        label = f"Waveform of {clip.title} over {clip.utterance.audio.seconds:.1f} seconds with its words marked."
        blocks.append(Figure(waveform(clip.utterance.audio, clip.utterance.words), label))
    size = f"{clip.dataset.sizes['layer']} layers by {clip.dataset.sizes['pos']} positions"
    blocks.append(
        Figure(lens_grid(clip.dataset), f"Grid of {size}: the best token of every layer at every position of {clip.title}.", GRID_CAPTION)
    )
    if (clip.dataset["kind"].values == "speech").any():
        label = "Mean probability of each modality and entropy by layer, with the values of a uniform distribution. " + summary(
            clip.dataset
        )
        blocks.append(Figure(modality_by_layer(clip.dataset), label, MODALITY_CAPTION))
    words = word_table(clip.dataset)
    if len(words):
        blocks.append(Table(words, "Every word: where it is, and the best place its text token reaches inside its own span", folded=True))
    return Section(clip.title, blocks, clip.note)


def summary(dataset: xr.Dataset) -> str:
    """What the reading says, in plain words with what chance gives; its size alone where no text was read on speech."""
    size = f"{dataset.sizes['pos']} positions, {dataset.sizes['layer']} layers."
    read = "text" in dataset["modality"].values and (dataset["kind"].values == "speech").any()
    return f"{summarise(dataset)}".replace("\n", "\n\n") if read else size


def word_table(dataset: xr.Dataset) -> pd.DataFrame:
    """One row a ranked word: seconds, positions, and the best rank (1 is first) of its token among its kind, with layer and position."""
    rows = []
    labels = dataset["layer_label"].values
    for target in range(dataset.sizes.get("target", 0)):
        start, stop = (int(dataset["target_start"].values[target]), int(dataset["target_stop"].values[target]))
        if start < 0:
            continue
        ranks = dataset["target_rank_in_modality"].values[:, start:stop, target]
        word = str(dataset["target_word"].values[target])
        row = {"word": word, "seconds": _seconds(dataset, start, stop), "positions": f"{start}–{stop - 1}"}
        rows.append(row | _best(ranks, [str(label) for label in labels], start))
    return pd.DataFrame(rows)


def _seconds(dataset: xr.Dataset, start: int, stop: int) -> str:
    return f"{float(dataset['start_s'].values[start]):.2f}–{float(dataset['end_s'].values[stop - 1]):.2f}"


def _best(ranks: Float[np.ndarray, "layer pos"], labels: list[str], start: int) -> dict[str, Any]:
    """The lowest rank from 1, ties halved as the reading has them, and where it is; missing ranks are NaN."""
    if np.isnan(ranks).all():
        return {"best rank": "not ranked", "at layer": "", "at position": ""}
    layer, pos = np.unravel_index(int(np.nanargmin(ranks)), ranks.shape)
    return {"best rank": f"{ranks[layer, pos] + 1:,.10g}", "at layer": labels[layer], "at position": start + int(pos)}
