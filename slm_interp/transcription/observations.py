"""`Observations`: for every word, how near the word asked about was in each layer, beside its nulls.

| variable | dims | meaning |
|---|---|---|
| `rank`, `rank_in_text` | word layer | best mid-rank from 0 over the window, among all live ids and among text ids |
| `log_prob` | word layer | best joint log-probability (nats) over the window |
| `null_rank`, `null_rank_in_text`, `null_log_prob` | null draw word layer | the same of words drawn by each null |
| `null_word` | null draw word | those words |

Coordinates along `word`: `utterance` (number), `utterance_name`, `word_index`, `heard`, `word_type` (the word asked
about), `asked_index` (-1 of a given word), `start`, `stop`, `span_length`, `positions` (of the window), `pieces` (of `" word"`,
whichever were asked). `layer` counts blocks run.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from html import escape

import numpy as np
import pandas as pd
import xarray as xr

from slm_interp.errors import ReadoutError
from slm_interp.netcdf import read_dataset, write_dataset

SCHEMA = "slm_interp observations 1"


@dataclass(frozen=True, eq=False)
class Observations:
    """A corpus as a lens read it; the schema of `dataset` stands at the top of this file.

    Raises:
        ReadoutError: a dataset of another schema.
    """

    dataset: xr.Dataset

    def __post_init__(self) -> None:
        if self.dataset.attrs.get("schema") != SCHEMA:
            raise ReadoutError(
                f"Observations have schema {SCHEMA!r}; this has {self.dataset.attrs.get('schema')!r}. Observe the corpus again."
            )

    @property
    def left_out(self) -> dict[str, int]:
        """How many words could not be asked about, by reason."""
        return dict(json.loads(self.dataset.attrs["left_out_json"]))

    @property
    def nulls(self) -> tuple[str, ...]:
        """Names of the nulls."""
        return tuple(str(name) for name in self.dataset["null"].values)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a netCDF file, whole or not at all."""
        write_dataset(self.dataset, path)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Observations:
        """Read a file that `save` wrote.

        Raises:
            ReadoutError: no such file, or one that holds no observations.
        """
        dataset = read_dataset(path, "holds no saved observations")
        return Observations(dataset)

    def __repr__(self) -> str:
        data, attrs = self.dataset, self.dataset.attrs
        left_out = ", ".join(f"{count} {reason}" for reason, count in self.left_out.items()) or "none"
        return (
            f"Observations({attrs['target']} word over {attrs['window']}, {data.sizes['word']} words of {attrs['n_utterances']} utterances, "
            f"{data.sizes['layer']} layers, nulls {', '.join(self.nulls)} x {data.sizes['draw']}; left out: {left_out})"
        )

    def _repr_html_(self) -> str:
        data = self.dataset
        columns = {"median rank": data["rank"].median("word").values}
        columns |= {f"null: {name}": data["null_rank"].sel(null=name).median(("word", "draw")).values for name in self.nulls}
        table = pd.DataFrame(columns, index=pd.Index(np.asarray(data["layer"]), name="layer"))
        return f"<div><b>{escape(repr(self))}</b>{table.to_html(float_format='{:.1f}'.format)}</div>"
