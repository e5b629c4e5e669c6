"""What a sweep over spans found: `Sweep`.

The schema of `Sweep.dataset`:

| variable | dims | meaning |
|---|---|---|
| `outcome` | contrast layer span (head_index) | the outcome with this one patch; NaN where a contrast has no such span |
| `clean`, `corrupted` | contrast | the outcome of the two prompts as they are |
| `told_apart` | contrast | whether the ceiling, `clean - corrupted`, is 0.1 of the outcome's unit or more in size |
| `label` | contrast span | what to print for a span |

Coordinates beside `contrast layer span head_index`: `layer_label` (3_post), `prompt` and `word` (by which contrasts cluster). `attrs` has the site,
direction, base, policy, outcome and its unit, and the provenance. The methods have the names of TransformerLens 4.3's `PatchingResult` where
they say the same.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import pandas as pd
import xarray as xr

from slm_interp import statistics
from slm_interp.errors import PatchingError
from slm_interp.netcdf import read_dataset, write_dataset
from slm_interp.patching.assembly import LEAST
from slm_interp.statistics import Clusters, ways_apart

if TYPE_CHECKING:
    import plotly.graph_objects as go

What: TypeAlias = Literal["recovered", "effect"]
ADJUSTED = {"holm": statistics.holm, "benjamini_hochberg": statistics.benjamini_hochberg}


@dataclass(frozen=True, eq=False)
class Sweep:
    """The outcome of every patch; the schema of `dataset` stands at the top of this file. Make one with `patching.activation`."""

    dataset: xr.Dataset

    @property
    def ceiling(self) -> xr.DataArray:
        """`clean - corrupted` of every contrast: what a patch of everything moves."""
        return (self.dataset["clean"] - self.dataset["corrupted"]).rename("ceiling").assign_attrs(unit=self.dataset.attrs["unit"])

    def recovered(self, least: float = LEAST) -> xr.DataArray:
        """`(patched - corrupted) / (clean - corrupted)`, NaN for contrasts that the model does not tell apart.

        Args:
            least: size of the ceiling, in the outcome's unit, from which on it is divided by.

        Raises:
            PatchingError: a `least` that is not positive.
        """
        if not least > 0:
            raise PatchingError(f"A ceiling is divided by from a size above 0 on; got least={least}.")
        ceiling = self.ceiling.where(np.abs(self.ceiling) >= least)
        found = (self.dataset["outcome"] - self.dataset["corrupted"]) / ceiling
        dims = self.dataset["outcome"].dims
        return (
            found.transpose(*dims)
            .rename("recovered")
            .assign_attrs({**_plain(self.dataset.attrs), "least": least, "unit": "share of the ceiling"})
        )

    def effect(self) -> xr.DataArray:
        """`patched` less the base run as it is, in the outcome's unit."""
        attrs = self.dataset.attrs
        found = self.dataset["outcome"] - self.dataset[attrs["base"]]
        return found.transpose(*self.dataset["outcome"].dims).rename("effect").assign_attrs(_plain(attrs))

    def values(self, what: What, least: float = LEAST) -> xr.DataArray:
        """`recovered` or `effect`, by name.

        Raises:
            PatchingError: neither of them.
        """
        if what not in ("recovered", "effect"):
            raise PatchingError(f"A sweep has 'recovered' and 'effect'; got {what!r}.")
        return self.recovered(least) if what == "recovered" else self.effect()

    def mean(self, what: What = "recovered", least: float = LEAST) -> xr.DataArray:
        """The mean over contrasts, those left out that are not told apart or lack the span."""
        return self.values(what, least).mean("contrast", keep_attrs=True)

    def stderr(self, what: What = "recovered", least: float = LEAST) -> xr.DataArray:
        """The standard error of `mean` as if contrasts were independent; `interval` clusters them."""
        values = self.values(what, least)
        return values.std("contrast", ddof=1) / np.sqrt(values.notnull().sum("contrast"))

    def clusters(self, clusters: Clusters | None = None) -> dict[str, Sequence[Any]]:
        """The labels by which contrasts depend on each other.

        Args:
            clusters: one label for each contrast, or several ways of labelling by name; None takes `prompt` and `word`, those of the two that
                say something (`statistics.ways_apart`).
        """
        if clusters is None:
            found = {way: self.dataset[way].values.tolist() for way in ("prompt", "word")}
            return {way: list(labels) for way, labels in ways_apart(found).items()} or {"word": found["word"]}
        ways = clusters if isinstance(clusters, Mapping) else {"cluster": clusters}
        return {name: list(labels) for name, labels in ways.items()}

    def interval(
        self, what: What = "recovered", clusters: Clusters | None = None, least: float = LEAST, level: float = 0.95, seed: int = 0
    ) -> xr.Dataset:
        """`estimate`, `low` and `high` of the mean over contrasts, whole clusters drawn; `items` says how many contrasts a span has.

        Raises:
            StatisticsError: too few contrasts or clusters.
        """
        from slm_interp.patching.summaries import interval

        return interval(self.values(what, least), self.clusters(clusters), level, seed)

    def share(self, clusters: Clusters | None = None, level: float = 0.95, seed: int = 0) -> xr.Dataset:
        """`estimate`, `low` and `high` of the mean of `patched - corrupted` over the mean ceiling, whole clusters drawn.

        A ratio of means, for contrasts whose own ceilings are small or of either sign: all of them count, by how much there is to recover. The mean of
        `recovered` weighs a pair that is hardly told apart like one that is.

        Raises:
            StatisticsError: too few contrasts or clusters, or a mean ceiling that is not told from 0.
        """
        from slm_interp.patching.summaries import share

        moved = (self.dataset["outcome"] - self.dataset["corrupted"]).transpose(*self.dataset["outcome"].dims)
        return share(moved.assign_attrs(_plain(self.dataset.attrs)), self.ceiling, self.clusters(clusters), level, seed)

    def p(
        self, clusters: Clusters | None = None, adjust: Literal["holm", "benjamini_hochberg"] | None = "holm", seed: int = 0
    ) -> xr.DataArray:
        """p of a mean effect of 0 in every cell, from flipping the signs of whole clusters, adjusted over all cells.

        Raises:
            PatchingError: another adjustment.
            StatisticsError: too few contrasts or clusters.
        """
        from slm_interp.patching.summaries import p

        if adjust is not None and adjust not in ADJUSTED:
            raise PatchingError(f"p is adjusted by {', '.join(ADJUSTED)}, or by None; got {adjust!r}.")
        return p(self.effect(), self.clusters(clusters), None if adjust is None else ADJUSTED[adjust], seed)

    def chosen_and_reported(
        self, what: What = "recovered", clusters: Clusters | None = None, least: float = LEAST, seed: int = 0
    ) -> pd.DataFrame:
        """The best layer (and head) of every span, chosen on one half of the clusters and reported on the other, both ways.

        A maximum over cells that is reported from the items that chose it is too high. One row for each span and half: the cell, its mean in the
        half that chose, and mean and interval in the other.

        Raises:
            StatisticsError: too few clusters to halve.
        """
        from slm_interp.patching.summaries import chosen_and_reported

        return chosen_and_reported(self.values(what, least), self.clusters(clusters), seed)

    def to_dataframe(self, least: float = LEAST) -> pd.DataFrame:
        """One row for every cell of every contrast, spans that a contrast lacks left out."""
        data = self.dataset
        columns = {"outcome": data["outcome"], "recovered": self.recovered(least), "effect": self.effect()}
        whole = xr.Dataset({name: column.drop_attrs() for name, column in columns.items()}).assign(
            clean=data["clean"], corrupted=data["corrupted"], ceiling=self.ceiling, label=data["label"]
        )
        table = whole.to_dataframe(dim_order=list(data["outcome"].dims)).reset_index()
        return table.dropna(subset=["outcome"]).reset_index(drop=True)

    def plot(self, **options: Any) -> go.Figure:
        """A heat map of layers and spans (or heads); options as in `slm_interp.plots.patching.heat_map`."""
        return import_module("slm_interp.plots.patching").heat_map(self.dataset, **options)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a netCDF file, whole or not at all."""
        write_dataset(self.dataset, path)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Sweep:
        """Read a file that `save` wrote.

        Raises:
            PatchingError, ReadoutError: no such file, or one that is no sweep.
        """
        dataset = read_dataset(path, "is no saved sweep")
        if not {"outcome", "clean", "corrupted"} <= set(dataset.data_vars) or "site" not in dataset.attrs:
            raise PatchingError(f"{os.fspath(path)!r} is no saved sweep: it has no patched outcomes with their baselines.")
        return Sweep(dataset.assign(told_apart=dataset["told_apart"].astype(bool)))

    def __repr__(self) -> str:
        data, attrs = self.dataset, self.dataset.attrs
        sizes = " x ".join(f"{data.sizes[dim]} {_PLURAL[str(dim)]}" for dim in data["outcome"].dims)
        flat = [str(name) for name in data["contrast"].values[~data["told_apart"].values]]
        unlike = f"; not told apart: {', '.join(flat[:5])}{' ...' if len(flat) > 5 else ''}" if flat else ""
        ceilings = self.ceiling.values
        return (
            f"Sweep({attrs['site']}, {attrs['direction']}, policy {attrs['policy']}: {sizes}; {attrs['outcome']} in {attrs['unit']}, ceiling "
            f"{np.median(ceilings):.3g} (median; {ceilings.min():.3g} to {ceilings.max():.3g}){unlike})"
        )

    def _repr_html_(self) -> str:
        mean = self.mean() if bool(self.dataset["told_apart"].any()) else self.mean("effect")
        said = f"Mean {mean.name}"
        if "head_index" in mean.dims:
            mean, said = mean.max("span"), said + ", the greatest over spans"
        table = pd.DataFrame(mean.values, mean["layer_label"].values, mean[mean.dims[-1]].values)
        return f"<div><b>{escape(repr(self))}</b><p>{said}.</p>{table.to_html(float_format='{:.3f}'.format)}</div>"


_PLURAL = {"contrast": "contrasts", "layer": "layers", "span": "spans", "head_index": "heads"}


def _plain(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """What a single array says of its sweep."""
    return {str(key): attrs[key] for key in ("site", "direction", "base", "policy", "outcome", "unit") if key in attrs}


def provenance(sweep: Sweep) -> dict[str, Any]:
    """Where the numbers come from: the model's own provenance and the settings of the sweep."""
    return dict(json.loads(str(sweep.dataset.attrs["provenance_json"]))) | _plain(sweep.dataset.attrs)
