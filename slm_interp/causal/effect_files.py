"""An effect as one netCDF file: tables column by column, random draws as arrays, what the numbers depend on as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from slm_interp.errors import PatchingError
from slm_interp.netcdf import read_dataset, write_dataset

SCHEMA = "slm_interp causal effect 1"


@dataclass(frozen=True, eq=False)
class Parts:
    """What a file holds: the fields of an `Effect`, in its order."""

    table: pd.DataFrame
    reading: pd.DataFrame
    random: xr.DataArray | None
    random_exact: xr.DataArray | None
    about: Mapping[str, Any]


def write(effect: Parts, path: str | os.PathLike[str]) -> None:
    """Write a file, whole or not at all."""
    parts: dict[str, Any] = {}
    for name, frame in (("table", effect.table), ("reading", effect.reading)):
        parts |= {f"{name}:{column}": (f"{name}_row", _plain(frame[column])) for column in frame.columns}
    dataset = xr.Dataset(parts, attrs={"schema": SCHEMA, "about_json": json.dumps(effect.about, sort_keys=True)})
    if effect.random is not None:
        dataset = dataset.assign(random=effect.random.drop_attrs())
    if effect.random_exact is not None:
        dataset = dataset.assign(random_exact=effect.random_exact.drop_attrs().rename(draw="draw_run"))
    write_dataset(dataset, path)


def read(path: str | os.PathLike[str]) -> Parts:
    """Read a file that `write` wrote.

    Raises:
        PatchingError, ReadoutError: no such file, or one that is no effect.
    """
    dataset = read_dataset(path, "is no saved causal effect")
    if dataset.attrs.get("schema") != SCHEMA:
        raise PatchingError(
            f"{os.fspath(path)!r} is no saved causal effect: its schema is {dataset.attrs.get('schema')!r}, not {SCHEMA!r}."
        )
    frames = {
        part: pd.DataFrame(
            {name.partition(":")[2]: dataset[name].values for name in map(str, dataset.data_vars) if name.startswith(f"{part}:")}
        )
        for part in ("table", "reading")
    }
    frames["reading"]["heard"] = frames["reading"]["heard"].astype(bool)
    return Parts(
        frames["table"],
        frames["reading"],
        dataset.get("random"),
        dataset["random_exact"].rename(draw_run="draw") if "random_exact" in dataset else None,
        json.loads(str(dataset.attrs["about_json"])),
    )


def _plain(column: pd.Series) -> np.ndarray:
    values = column.to_numpy()
    if values.dtype == bool:
        return values.astype(np.int8)
    return values.astype(object) if values.dtype.kind not in "iuf" else values
