"""Labelled datasets as netCDF files that are whole or not there."""

from __future__ import annotations

import os
from typing import Literal

import xarray as xr

from slm_interp.errors import ReadoutError
from slm_interp.files import atomic_path

ENGINE: Literal["h5netcdf"] = "h5netcdf"


def write_dataset(dataset: xr.Dataset, path: str | os.PathLike[str]) -> None:
    """Write a netCDF file, whole or not at all."""
    with atomic_path(path) as temporary:
        dataset.to_netcdf(temporary, engine=ENGINE)


def read_dataset(path: str | os.PathLike[str], otherwise: str) -> xr.Dataset:
    """Read a file that `write_dataset` wrote.

    Args:
        otherwise: what to say of a file that is none, such as "is no saved reading".

    Raises:
        ReadoutError: no such file, or one that is no dataset.
    """
    try:
        return xr.load_dataset(path, engine=ENGINE)
    except (OSError, ValueError) as error:
        raise ReadoutError(f"{os.fspath(path)!r} {otherwise}: {error}") from error
