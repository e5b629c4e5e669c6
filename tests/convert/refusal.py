"""Loading that must fail, with the sentence it must fail with."""

from __future__ import annotations

from pathlib import Path

import pytest

from slm_interp.convert import load
from slm_interp.errors import CheckpointError, SlmInterpError
from tests.replicas import N_UNITS


def refused(folder: Path | str, sentence: str, error: type[SlmInterpError] = CheckpointError, **options: object) -> None:
    """Load a folder and demand this refusal."""
    with pytest.raises(error, match=sentence):
        load(folder, **{"n_units": N_UNITS, **options})
