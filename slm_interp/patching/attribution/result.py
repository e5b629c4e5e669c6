"""What attribution patching found: `Attribution`.

The schema of `Attribution.dataset` is that of a sweep (`patching/result.py`), with *estimates* in it:

| variable | dims | meaning |
|---|---|---|
| `outcome` | contrast layer span (head_index) | the base outcome and the estimated effect of the cell; NaN where a contrast has no such span |
| `magnitude` | as `outcome` | AtP* alone: mean of the absolute effects with one block after the other dropped; it has no sign |
| `joint` | contrast layer | integrated gradients alone: what moving all spans of a layer at once does, exactly; the effects of the layer sum to it |

and `clean`, `corrupted`, `told_apart`, `label` as there. `attrs` has also the method, and the `forwards` and `backwards` that a contrast took.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import pandas as pd
import xarray as xr

from slm_interp.errors import PatchingError
from slm_interp.netcdf import read_dataset, write_dataset
from slm_interp.patching.assembly import LEAST
from slm_interp.patching.result import Sweep

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False)
class Attribution:
    """Estimates of what patching does; the schema of `dataset` stands at the top of this file."""

    dataset: xr.Dataset

    @property
    def sweep(self) -> Sweep:
        """The estimates as a sweep, for its means, intervals and tables; they stay estimates."""
        return Sweep(self.dataset)

    @property
    def method(self) -> str:
        """What made the estimates."""
        return str(self.dataset.attrs["method"])

    @property
    def ceiling(self) -> xr.DataArray:
        """`clean - corrupted` of every contrast."""
        return self.sweep.ceiling

    def effect(self) -> xr.DataArray:
        """Estimates of `patched - base`, in the unit of the outcome."""
        return self.sweep.effect()

    def recovered(self, least: float = LEAST) -> xr.DataArray:
        """Estimates of `(patched - corrupted) / (clean - corrupted)`, NaN for contrasts that the model does not tell apart."""
        return self.sweep.recovered(least)

    def score(self) -> xr.DataArray:
        """What cells are ranked by: `magnitude` where there is one, else the size of the effect."""
        return self.dataset["magnitude"] if "magnitude" in self.dataset else abs(self.effect()).rename("magnitude")

    def best(self, n: int = 10) -> pd.DataFrame:
        """The cells of the greatest mean score over contrasts, with their mean effect; check them with exact patching."""
        table = xr.Dataset({"score": self.score().mean("contrast"), "effect": self.effect().mean("contrast")}).to_dataframe()
        return table.dropna().sort_values("score", ascending=False, kind="stable").reset_index().head(n)

    def plot(self, **options: Any) -> go.Figure:
        """A heat map of layers and spans (or heads); options as in `slm_interp.plots.patching.heat_map`."""
        return self.sweep.plot(**options)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a netCDF file, whole or not at all."""
        write_dataset(self.dataset, path)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Attribution:
        """Read a file that `save` wrote.

        Raises:
            PatchingError, ReadoutError: no such file, or one that is no attribution.
        """
        dataset = read_dataset(path, "is no saved attribution")
        if "outcome" not in dataset or "method" not in dataset.attrs:
            raise PatchingError(f"{os.fspath(path)!r} is no saved attribution: it has no estimates, or does not say by which method.")
        return Attribution(dataset.assign(told_apart=dataset["told_apart"].astype(bool)))

    def __repr__(self) -> str:
        return f"Attribution({self.method}, estimated: {self.sweep!r})"

    def _repr_html_(self) -> str:
        attrs = self.dataset.attrs
        said = (
            f"{attrs['forwards']} forwards and {attrs['backwards']} backwards for each contrast. Estimates: patch the cells that matter exactly. "
            f"The cells of the greatest mean score, in {attrs['unit']}:"
        )
        return (
            f"<div><b>{escape(repr(self))}</b><p>{escape(said)}</p>{self.best().to_html(index=False, float_format='{:.3f}'.format)}</div>"
        )
