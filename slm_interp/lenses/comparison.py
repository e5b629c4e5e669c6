"""Several lenses on one reading: what each says in every cell, how far they are apart, and a word probe beside them.

The schema of `Comparison.dataset`: the variables of a `Reading` with a dim `lens` in front, and

| variable | dims | meaning |
|---|---|---|
| `kl` | lens other layer pos | sum of `p_lens (log p_lens - log p_other)` over the ids read, in nats |
| `kl_from_output` | lens layer pos | sum of `p_output (log p_output - log p_lens)`, with the model's own output at that position |
| `same_top` | lens other layer pos | whether both have the same likeliest id |
| `candidate_rank` | reader layer pos target | with a probe only: rank from 0 among the `attrs["candidates"]` words that the probe knows |

*Ranks of lenses and of probes have different bases.* `target_rank` is among all ids read. A probe ranks among its classes, so in `candidate_rank`
the lenses rank among the same words, each by its first piece, under the same rule (greater scores, and half of the equal ones). The dim
`reader` is the lenses and then the probe. NaN: words that the probe does not know, layers it was not trained at.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from slm_interp import hooked
from slm_interp.errors import ReadoutError
from slm_interp.lenses.directions import first_pieces
from slm_interp.lenses.lens import Lens, Targets, read
from slm_interp.lenses.probe.probe import WordProbe, rank_of
from slm_interp.model import SpeechTextModel
from slm_interp.netcdf import read_dataset, write_dataset
from slm_interp.readout import divergence, modality_groups
from slm_interp.utterance import Utterance
from slm_interp.vocabulary import Kind

if TYPE_CHECKING:
    import plotly.graph_objects as go

COMPARED = (
    "target_rank",
    "target_rank_in_modality",
    "target_log_prob",
    "target_ties",
    "modality_log_mass",
    "entropy",
    "top_id",
    "top_label",
    "top_log_prob",
)
PROBE = "probe"


@dataclass(frozen=True, eq=False)
class Comparison:
    """What several lenses said; the schema of `dataset` stands at the top of this file. Make one with `compare`."""

    dataset: xr.Dataset

    @property
    def lenses(self) -> tuple[str, ...]:
        """Their names, the reference first."""
        return tuple(str(name) for name in self.dataset["lens"].values)

    def difference(self, variable: str, of: str, less: str | None = None) -> xr.DataArray:
        """A variable of one lens less that of another (None: the first): dims (layer, pos, ...).

        Raises:
            ReadoutError: lenses that were not compared, a variable that is no number of each lens.
        """
        data, less = self.dataset, self.lenses[0] if less is None else less
        unknown = [name for name in (of, less) if name not in self.lenses]
        if unknown:
            raise ReadoutError(f"This comparison has the lenses {', '.join(self.lenses)}; there is no {unknown[0]!r}.")
        numbers = [str(name) for name, array in data.data_vars.items() if "lens" in array.dims and "other" not in array.dims]
        numbers = [name for name in numbers if data[name].dtype.kind == "f"]
        if variable not in numbers:
            raise ReadoutError(f"Lenses differ in {', '.join(numbers)}; got {variable!r}.")
        return data[variable].sel(lens=of, drop=True) - data[variable].sel(lens=less, drop=True)

    def by_layer(self) -> pd.DataFrame:
        """One row for each lens and layer: means over positions of entropy, KL from the output, KL to the first lens, and agreement."""
        data, first = self.dataset, self.lenses[0]
        columns = {"entropy": data["entropy"].mean("pos"), "kl_from_output": data["kl_from_output"].mean("pos")}
        columns |= {f"kl_to_{first}": data["kl"].sel(other=first, drop=True).mean("pos")}
        columns |= {f"same_top_as_{first}": data["same_top"].sel(other=first, drop=True).mean("pos")}
        table = xr.Dataset({name: column.reset_coords(drop=True) for name, column in columns.items()}).to_dataframe()
        return table.reset_index()

    def plot(self, **options: Any) -> go.Figure:
        """A grid for each lens and one for each difference to the first; options as in `slm_interp.plots.lens_differences`."""
        from slm_interp.plots import lens_differences

        return lens_differences(self.dataset, **options)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a netCDF file, whole or not at all."""
        write_dataset(self.dataset, path)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Comparison:
        """Read a file that `save` wrote.

        Raises:
            ReadoutError: no such file, or one that is no comparison.
        """
        dataset = read_dataset(path, "is no saved comparison")
        if "kl" not in dataset or "lens" not in dataset.dims:
            raise ReadoutError(f"{os.fspath(path)!r} is no saved comparison: it has no lenses and no KL between them.")
        return Comparison(dataset)

    def __repr__(self) -> str:
        sizes = self.dataset.sizes
        beside = f", beside a probe of {self.dataset.attrs['candidates']} words" if "candidate_rank" in self.dataset else ""
        return (
            f"Comparison({' | '.join(self.lenses)}: {sizes['layer']} layers x {sizes['pos']} positions, {sizes['target']} targets{beside})"
        )

    def _repr_html_(self) -> str:
        table = self.by_layer().to_html(index=False, float_format="{:.3f}".format)
        return f"<div><b>{escape(repr(self))}</b><p>Means over positions, in nats; agreement from 0 to 1.</p>{table}</div>"


def compare(
    slm: SpeechTextModel,
    utterance: Utterance,
    lenses: Mapping[str, Lens],
    probe: WordProbe | None = None,
    layers: Sequence[int] | None = None,
    targets: Targets = "words",
    k: int = 1,
    kinds: Sequence[Kind] | None = None,
    exclude_input: bool = False,
    site: str = "resid_post",
    memory: int = 256 * 2**20,
) -> Comparison:
    """Read an utterance with several lenses, and say in every cell how far they are apart.

    The model runs once. Every lens is read as by `lenses.read`, and its distributions once more for the divergences: two products with `W_U` for
    each lens. Nothing of size `[layer, pos, d_vocab]` exists.

    Args:
        lenses: at least two, by the names the result has; the first is what the others are compared to.
        probe: a word probe to stand beside them, at `resid_post`; its ranks are among its own classes, see the top of this file.
        layers, targets, k, kinds, exclude_input, site, memory: as in `lenses.read`.

    Raises:
        ReadoutError: fewer than two lenses, a probe among them or at another site, or what `lenses.read` refuses.
        UtteranceError, VocabularyError: an utterance this model cannot read, words it cannot spell.
    """
    _check(lenses, probe, site)
    options = {"layers": layers, "targets": targets, "k": k, "kinds": kinds, "exclude_input": exclude_input, "site": site, "memory": memory}
    stream = hooked.stream(slm.model, slm.check(utterance).tokens, site)
    readings = [read(lens, slm, utterance, **options, stream=stream).dataset for lens in lenses.values()]  # type: ignore[arg-type]
    names = np.array(list(lenses), dtype=object)
    together = xr.concat(
        [one[list(COMPARED)] for one in readings],
        pd.Index(names, name="lens"),
        coords="minimal",
        compat="override",
        join="exact",
        combine_attrs="drop",
    )
    cells = _cells(slm, utterance, lenses, together, stream, (kinds, exclude_input, site, memory), probe)
    first = together["top_id"].isel(k=0, drop=True)
    same = (first == first.rename(lens="other")).transpose("lens", "other", "layer", "pos")
    settings = {name: lens.settings for name, lens in lenses.items()}
    attrs = {key: value for key, value in readings[0].attrs.items() if all(other.attrs.get(key) == value for other in readings)}
    found = together.assign(same_top=same, **cells).assign_coords(other=names)
    if probe is not None:
        found, settings = _beside(found, slm, utterance, probe), {**settings, PROBE: probe.settings}
        attrs["candidates"] = len(probe.classes)
    return Comparison(found.assign_attrs({**attrs, "reference": str(names[0]), "lenses_json": json.dumps(settings, sort_keys=True)}))


def _check(lenses: Mapping[str, Lens], probe: WordProbe | None, site: str) -> None:
    if len(lenses) < 2:
        raise ReadoutError(f"A comparison takes two lenses or more, by name; got {list(lenses)}. Read one lens with its own read.")
    probes = [name for name, one in lenses.items() if isinstance(one, WordProbe)]
    if probes:
        raise ReadoutError(f"{probes[0]!r} is a word probe: it reads its own classes and no vocabulary. Give it as probe=.")
    if probe is not None and site != "resid_post":
        raise ReadoutError(f"A word probe is made for resid_post; got {site!r}. Compare lenses alone there.")
    if probe is not None and PROBE in lenses:
        raise ReadoutError(f"{PROBE!r} is what the probe is called beside the lenses. Give the lens another name.")


def _cells(
    slm: SpeechTextModel,
    utterance: Utterance,
    lenses: Mapping[str, Lens],
    together: xr.Dataset,
    stream: Float[Tensor, "layer pos d_model"],
    scope: tuple[Sequence[Kind] | None, bool, str, int],
    probe: WordProbe | None,
) -> dict[str, Any]:
    """Divergences of every cell, and ranks among the probe's words; one layer at a time."""
    kinds, exclude_input, site, memory = scope
    groups, unembedding = modality_groups(slm.vocabulary, kinds), hooked.unembedding(slm.model)
    last = stream[-1] if site == "resid_post" else hooked.residuals(slm.model, utterance.tokens)[-1]
    output = hooked.final_norm(slm.model, last)
    inputs = utterance.tokens if exclude_input else None
    words = _Words.of(slm, probe, together) if probe is not None else None
    found, ranks = [], []
    for layer in together["layer"].values.tolist():
        ready = [lens.scores(stream[layer], layer) for lens in lenses.values()]
        found.append(divergence([*ready, output], unembedding, groups, inputs, memory))
        if words is not None:
            ranks.append(torch.stack([words.ranks(one, unembedding.W_U, unembedding.b_U) for one in ready]))
    kl = rearrange(torch.stack(found), "layer lens other pos -> lens other layer pos").float().cpu().numpy()
    cells: dict[str, Any] = {
        "kl": (("lens", "other", "layer", "pos"), kl[:-1, :-1]),
        "kl_from_output": (("lens", "layer", "pos"), kl[-1, :-1]),
    }
    if words is not None:
        by_lens = rearrange(torch.stack(ranks), "layer lens pos target -> lens layer pos target")
        cells["candidate_rank"] = (("reader", "layer", "pos", "target"), by_lens.float().cpu().numpy())
    return cells


@dataclass(frozen=True, eq=False)
class _Words:
    """The words a probe knows as ids, and which of them each target is; -1 for none."""

    ids: Int[Tensor, " class"]
    right: Int[Tensor, " target"]

    @staticmethod
    def of(slm: SpeechTextModel, probe: WordProbe, together: xr.Dataset) -> _Words:
        classes = list(probe.classes)
        places = [classes.index(word) if word in classes else -1 for word in together["target_word"].values.tolist()]
        return _Words(torch.tensor(first_pieces(slm, classes)), torch.tensor(places, dtype=torch.long))

    def ranks(
        self, ready: Float[Tensor, "pos d_model"], W_U: Float[Tensor, "d_model d_vocab"], b_U: Float[Tensor, " d_vocab"] | None
    ) -> Float[Tensor, "pos target"]:
        ids = self.ids.to(W_U.device)
        scores = ready @ W_U[:, ids]
        scores = scores if b_U is None else scores + b_U[ids]
        right = self.right.to(scores.device).clamp(min=0).expand(len(scores), -1)
        return rank_of(scores.float(), right).masked_fill(self.right.to(scores.device) < 0, torch.nan)


def _beside(found: xr.Dataset, slm: SpeechTextModel, utterance: Utterance, probe: WordProbe) -> xr.Dataset:
    """The probe's own ranks after those of the lenses."""
    said = probe.read(slm, utterance)
    places = list(zip(*(said[f"target_{part}"].values.tolist() for part in ("word", "start", "stop")), strict=True))
    own = np.full(found["candidate_rank"].shape[1:], np.nan, dtype=np.float32)
    layers = found["layer"].values.tolist()
    there = [(layers.index(layer), index) for index, layer in enumerate(said["layer"].values.tolist()) if layer in layers]
    targets = zip(*(found[f"target_{part}"].values.tolist() for part in ("word", "start", "stop")), strict=True)
    for target, place in enumerate(targets):
        if place in places:
            for row, index in there:
                own[row, :, target] = said["target_rank"].values[index, :, places.index(place)]
    ranks = np.concatenate([found["candidate_rank"].values, own[None]])
    readers = np.array([*found["lens"].values.tolist(), PROBE], dtype=object)
    return (
        found.drop_vars("candidate_rank").assign(candidate_rank=(("reader", "layer", "pos", "target"), ranks)).assign_coords(reader=readers)
    )
