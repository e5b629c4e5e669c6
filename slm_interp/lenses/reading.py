"""`Reading`: what a lens said at every layer and position, as one labelled dataset.

The schema (version 1) of `Reading.dataset`; log is natural, probabilities are of the softmax over the ids read.

| variable | dims | meaning |
|---|---|---|
| `top_id`, `top_label`, `top_log_prob` | layer pos k | likeliest ids; equal logits by smaller id; -1, "" and NaN where there are no more |
| `top_*_by_modality` | layer pos modality k | the same within each modality; log-probabilities stay joint |
| `modality_log_mass` | layer pos modality | log of the probability on the modality |
| `entropy` | layer pos | nats |
| `target_log_prob` | layer pos target | joint; NaN where the target is the excluded input |
| `target_rank` | layer pos target | from 0, mid-rank: ids with a greater logit + half of the others with an equal one |
| `target_ties` | layer pos target | others with an equal logit: rank -/+ ties / 2 are the optimistic and pessimistic ranks |
| `target_rank_in_modality` | layer pos target | rank among ids of the target's own modality |

Coordinates: `layer` (blocks run, 0 is the embedding; the block at a site other than `resid_post`), `layer_label`, `hook`; `pos`, `token`, `label`, `kind`,
`start_s`, `end_s`, `word`, `word_index` (-1 outside words); `k` from 1; `modality`, `modality_size`; `target` (a number,
since words repeat), `target_id`, `target_label`, `target_word`, `target_start`, `target_stop` (-1 unless a word of the utterance).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr
from einops import rearrange
from jaxtyping import Int
from torch import Tensor

from slm_interp import hooked
from slm_interp.errors import ReadoutError
from slm_interp.model import SpeechTextModel
from slm_interp.netcdf import read_dataset, write_dataset
from slm_interp.readout import Readout
from slm_interp.utterance import Utterance, Word

if TYPE_CHECKING:
    import plotly.graph_objects as go

SCHEMA = 1
TIE_RULE = "rank = ids with a greater logit + half of the other ids with an equal logit, from 0"
_BY_ROW = ("top_id", "top_log_prob", "top_id_by_modality", "top_log_prob_by_modality", "entropy")
_BY_TARGET = ("target_log_prob", "target_rank", "target_ties", "target_rank_in_modality")
_DIMS = {"top": ("k",), "entropy": (), "target": ("target",), "modality_log_mass": ("modality",)}


@dataclass(frozen=True)
class Target:
    """An id to rank, what it prints as, and the word it stands for, with its span where the utterance has it."""

    identifier: int
    label: str
    word: str = ""
    start: int = -1
    stop: int = -1


@dataclass(frozen=True, eq=False)
class Reading:
    """What a lens said; the schema of `dataset` stands at the top of this file.

    Raises:
        ReadoutError: a dataset of another schema.
    """

    dataset: xr.Dataset

    def __post_init__(self) -> None:
        if self.dataset.attrs.get("schema") != SCHEMA:
            raise ReadoutError(
                f"A reading has schema {SCHEMA}; this dataset has {self.dataset.attrs.get('schema')}. Read the utterance again."
            )

    def modality_mass(self) -> xr.DataArray:
        """Probability on each modality: dims (layer, pos, modality)."""
        log_mass = self.dataset["modality_log_mass"]
        return log_mass.copy(data=np.exp(log_mass.values)).rename("modality_mass")

    def entropy(self) -> xr.DataArray:
        """Entropy in nats: dims (layer, pos)."""
        return self.dataset["entropy"]

    def rank_of(self, what: str | int | Word | Sequence[str | int | Word]) -> xr.DataArray:
        """Ranks from 0 of targets of this reading, in the order asked for: dims (layer, pos, target).

        Args:
            what: words by spelling, ids, or `Word`s (told apart by their spans), or a list of them.

        Raises:
            ReadoutError: something that was no target when reading.
        """
        return self.dataset["target_rank"].isel(target=self._places(what))

    def log_prob_of(self, what: str | int | Word | Sequence[str | int | Word]) -> xr.DataArray:
        """Log-probabilities of targets of this reading: dims (layer, pos, target); see `rank_of`."""
        return self.dataset["target_log_prob"].isel(target=self._places(what))

    def _places(self, what: str | int | Word | Sequence[str | int | Word]) -> list[int]:
        if isinstance(what, str | int | Word):
            return [self._place(what)]
        return [self._place(one) for one in what]

    def _place(self, one: str | int | Word) -> int:
        data = self.dataset
        if isinstance(one, int):
            found = data["target_id"] == one
        elif isinstance(one, str):
            found = data["target_word"] == one
        else:
            found = (data["target_word"] == one.text) & (data["target_start"] == one.span.start) & (data["target_stop"] == one.span.stop)
        places = np.flatnonzero(found.values)
        if not len(places):
            words = list(dict.fromkeys(str(word) for word in data["target_word"].values))
            raise ReadoutError(f"{one!r} was no target of this reading; its targets are {words}. Read again with targets=[...].")
        return int(places[0])

    def top(self, layer: int, pos: int) -> pd.DataFrame:
        """The listed ids of one cell: id, label, log_prob, prob, likeliest first."""
        cell = self.dataset.sel(layer=layer, pos=pos)
        table = pd.DataFrame(
            {"id": cell["top_id"], "label": cell["top_label"], "log_prob": cell["top_log_prob"]}, index=cell["k"].to_index()
        )
        return table[table["id"] >= 0].assign(prob=lambda rows: np.exp(rows["log_prob"]))

    def to_dataframe(self) -> pd.DataFrame:
        """One row for every layer, position and target, or for every layer and position if there are no targets."""
        data = self.dataset
        cells = data[["entropy"]].assign(
            {f"{name}_mass": self.modality_mass().sel(modality=name, drop=True) for name in data["modality"].values}
        )
        cells = cells.assign(top_id=data["top_id"].isel(k=0, drop=True), top_label=data["top_label"].isel(k=0, drop=True))
        if data.sizes["target"]:
            cells = cells.assign({name: data[name] for name in _BY_TARGET})
        return cells.drop_vars("modality", errors="ignore").to_dataframe().reset_index()

    def plot(self, **options: Any) -> go.Figure:
        """The layer x position grid; options as in `slm_interp.plots.lens_grid`."""
        from slm_interp.plots import lens_grid

        return lens_grid(self.dataset, **options)

    def plot_modalities(self, **options: Any) -> go.Figure:
        """Modality mass by layer; options as in `slm_interp.plots.modality_by_layer`."""
        from slm_interp.plots import modality_by_layer

        return modality_by_layer(self.dataset, **options)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a netCDF file, whole or not at all."""
        write_dataset(self.dataset, path)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Reading:
        """Read a file that `save` wrote.

        Raises:
            ReadoutError: no such file, or one that is no reading.
        """
        dataset = read_dataset(path, "is no saved reading")
        return Reading(dataset)

    def __repr__(self) -> str:
        data, attrs = self.dataset, self.dataset.attrs
        return (
            f"Reading({attrs['lens']} lens{_of_site(attrs)}, final norm {attrs.get('final_norm', 'as trained')}, "
            f"{data.sizes['layer']} layers x {data.sizes['pos']} positions, "
            f"{', '.join(data['modality'].values)}, {data.sizes['target']} targets, of {attrs['utterance'] or 'an unnamed utterance'!r})"
        )

    def _repr_html_(self) -> str:
        mass = self.modality_mass().mean("pos").to_pandas()
        mass.index = pd.Index(self.dataset["layer_label"].values, name="layer")
        mean = mass.assign(entropy=self.entropy().mean("pos").values)
        note = "Mean over positions: probability by modality, entropy in nats."
        return f"<div><b>{escape(repr(self))}</b><p>{note}</p>{mean.to_html(float_format='{:.3f}'.format)}</div>"


def _of_site(attrs: Mapping[str, Any]) -> str:
    """Where it was read, where that is not the usual place."""
    site = str(attrs.get("site", "resid_post"))
    return "" if site == "resid_post" else f" of {site}"


def dataset_of(
    slm: SpeechTextModel,
    utterance: Utterance,
    layers: Sequence[int],
    readout: Readout,
    columns: Int[Tensor, " target"],
    targets: Sequence[Target],
    sizes: Mapping[str, int],
    settings: Mapping[str, str],
) -> xr.Dataset:
    """A readout of all layers and positions of an utterance, labelled.

    Args:
        readout: rows are layer-major: all positions of the first layer, then the next.
        columns: which column of the readout each target is.
        sizes: ids read of each modality.
        settings: of the lens and the scope, and the `site`; they go to `attrs`.
    """
    by_row = {name: getattr(readout, name) for name in _BY_ROW} | {"modality_log_mass": readout.log_mass}
    tensors = by_row | {name: getattr(readout, name)[:, columns] for name in _BY_TARGET}
    arrays = {
        name: rearrange(tensor, "(layer pos) ... -> layer pos ...", layer=len(layers)).cpu().numpy() for name, tensor in tensors.items()
    }
    spell = _speller(slm, arrays["top_id"], arrays["top_id_by_modality"])
    arrays |= {"top_label": spell(arrays["top_id"]), "top_label_by_modality": spell(arrays["top_id_by_modality"])}
    narrow = {name: array.astype(np.float32) if array.dtype.kind == "f" else array for name, array in arrays.items()}
    variables = {name: (("layer", "pos", *_dims(name)), array) for name, array in sorted(narrow.items())}
    coordinates = _layer_coordinates(layers, settings["site"]) | _pos_coordinates(slm, utterance) | _target_coordinates(targets)
    coordinates |= {
        "k": np.arange(1, arrays["top_id"].shape[-1] + 1),
        "modality": ("modality", _strings(sizes)),
        "modality_size": ("modality", np.array(list(sizes.values()))),
    }
    return xr.Dataset(variables, coordinates, {**_provenance(slm, utterance), **settings, "kinds": ",".join(sizes)})


def _dims(name: str) -> tuple[str, ...]:
    if name.endswith("_by_modality"):
        return ("modality", "k")
    return next(dims for start, dims in _DIMS.items() if name.startswith(start))


def _strings(values: Any) -> np.ndarray:
    return np.array([str(value).replace("\0", "\\0") for value in values], dtype=object)  # netCDF strings end at a NUL


def _speller(slm: SpeechTextModel, *ids: np.ndarray) -> Any:
    known = np.unique(np.concatenate([array.ravel() for array in ids]))
    labels = _strings("" if one < 0 else slm.label(int(one)) for one in known)
    return lambda array: labels[np.searchsorted(known, array)]


def _layer_coordinates(layers: Sequence[int], site: str) -> dict[str, Any]:
    return {
        "layer": np.asarray(layers, dtype=np.int64),
        "layer_label": ("layer", _strings(hooked.label_at(site, layer) for layer in layers)),
        "hook": ("layer", _strings(hooked.hook_at(site, layer) for layer in layers)),
    }


def _pos_coordinates(slm: SpeechTextModel, utterance: Utterance) -> dict[str, Any]:
    owner = np.full(len(utterance), -1)
    for index, word in enumerate(utterance.words):
        owner[word.span.start : word.span.stop] = index
    edges = utterance.edges.double().numpy()
    return {
        "pos": np.arange(len(utterance)),
        "token": ("pos", utterance.tokens.numpy()),
        "label": ("pos", _strings(utterance.labels or slm.labels(utterance.tokens))),
        "kind": ("pos", _strings(slm.vocabulary.kind_of(int(token)) for token in utterance.tokens)),
        "start_s": ("pos", edges[:-1]),
        "end_s": ("pos", edges[1:]),
        "word": ("pos", _strings(utterance.words[index].text if index >= 0 else "" for index in owner)),
        "word_index": ("pos", owner),
    }


def _target_coordinates(targets: Sequence[Target]) -> dict[str, Any]:
    integers = {"id": "identifier", "start": "start", "stop": "stop"}
    coordinates = {
        f"target_{name}": ("target", np.array([getattr(one, field) for one in targets], dtype=np.int64)) for name, field in integers.items()
    }
    strings = {f"target_{name}": ("target", _strings(getattr(one, name) for one in targets)) for name in ("label", "word")}
    return {"target": np.arange(len(targets)), **coordinates, **strings}


def _provenance(slm: SpeechTextModel, utterance: Utterance) -> dict[str, Any]:
    packages = ("slm-interp", "torch", "transformer-lens", "xarray")
    return {
        "schema": SCHEMA,
        "tie_rule": TIE_RULE,
        "dead_ids": "excluded",
        "utterance": utterance.name,
        "form": utterance.form,
        "quantiser": utterance.quantiser or "",
        "n_layers": slm.model.cfg.n_layers,
        "d_vocab": slm.vocabulary.size,
        "dtype": str(slm.model.cfg.dtype).removeprefix("torch."),
        "seconds_total": utterance.seconds,
        "provenance_json": json.dumps(dict(slm.provenance), sort_keys=True),
        "versions_json": json.dumps({name: version(name) for name in packages}, sort_keys=True),
    }
