"""Tables of spoken facts: a prompt, the continuation that is true and one of the same kind that is not, a row each.

The published set (`slprl/common-sense-facts-audio`, Parquet) names its columns in its own way, and so may you: columns are
mapped by name, and what a cell holds is told by its type. A row is a pair because it is a row; names that repeat, texts that
agree and sounds that are missing are refused.

| a cell | is read as |
|---|---|
| `{"bytes": ..., "path": ...}`, or `{"array": ..., "sampling_rate": ...}`, as Hugging Face's `datasets` write sound | sound |
| bytes | a sound file |
| `"<Un3><Un49>"` | units |
| a list or array of whole numbers | units |
| any other text | path of a sound file |
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from slm_interp.audio import Audio
from slm_interp.errors import SpeechError
from slm_interp.model import SpeechTextModel
from slm_interp.speech.audio import read_audio, resample
from slm_interp.speech.quantiser import NO_QUANTISER, Quantiser
from slm_interp.speech.slamkit_files import SpeechSegment, parse_unit_string
from slm_interp.transcription.knowledge.choices import Choice
from slm_interp.transcription.knowledge.minimal_pairs import Pair
from slm_interp.transcription.knowledge.pair_files import of_units

WANTED = {"choices": ("prompt", "right", "wrong", "name"), "pairs": ("right", "wrong", "name")}
MAY = ("cluster", "right_text", "wrong_text")


def read_choices(
    slm: SpeechTextModel,
    table: pd.DataFrame | str | os.PathLike[str],
    columns: Mapping[str, str],
    form: str | None = None,
    quantiser: Quantiser | None = None,
) -> list[Choice]:
    """Rows as two-way choices after a common prompt, for `forced_choice`.

    Args:
        table: or the path of a Parquet file.
        columns: from `prompt`, `right`, `wrong`, `name` and, where there are such, `cluster`, `right_text`, `wrong_text` to the
            columns of the table. A fact in several voices has one cluster; without a column every row is one of its own.
        form: prompt form.
        quantiser: for sounds; None is the one that the checkpoint carries.

    Raises:
        SpeechError: columns that are not there or not known, names that repeat, texts that agree, cells that cannot be read.
    """
    rows = _rows(table, columns, "choices")
    made = []
    for row in rows:
        prompt, right, wrong = (units_of(slm, row[part], quantiser, f"{part} of {row['name']!r}") for part in ("prompt", "right", "wrong"))
        ids = [slm.vocabulary.unit_to_id(one) for one in (right, wrong)]
        asked = of_units(slm, tuple(prompt.tolist()), form, row["name"])
        made.append(Choice(asked, ids[0], ids[1], row["name"], str(row.get("cluster", row["name"]))))
    return made


def read_whole_pairs(
    slm: SpeechTextModel,
    table: pd.DataFrame | str | os.PathLike[str],
    columns: Mapping[str, str],
    form: str | None = None,
    quantiser: Quantiser | None = None,
) -> list[Pair]:
    """Rows as minimal pairs of whole sentences, prompt included, for `minimal_pairs`; arguments and errors as in `read_choices`."""
    rows = _rows(table, columns, "pairs")
    made = []
    for row in rows:
        sides = [units_of(slm, row[part], quantiser, f"{part} of {row['name']!r}") for part in ("right", "wrong")]
        right, wrong = (of_units(slm, tuple(side.tolist()), form, row["name"]) for side in sides)
        made.append(Pair(right, wrong, row["name"], str(row.get("cluster", row["name"]))))
    return made


def _rows(table: pd.DataFrame | str | os.PathLike[str], columns: Mapping[str, str], kind: str) -> list[dict[str, Any]]:
    """Rows with the names of this file for columns, once they are known to be whole and told apart."""
    wanted = WANTED[kind]
    strange = [name for name in columns if name not in (*wanted, *MAY)]
    missing = [name for name in wanted if name not in columns]
    if strange or missing:
        raise SpeechError(
            f"Columns are mapped from {', '.join(wanted)} and, where there are such, {', '.join(MAY)}; missing: {missing or 'none'}, "
            f"not known: {strange or 'none'}."
        )
    data = table if isinstance(table, pd.DataFrame) else table_of(table)
    absent = [one for one in columns.values() if one not in data]
    if absent or not len(data):
        raise SpeechError(
            f"The table has {len(data)} rows and the columns {', '.join(map(str, data.columns))}; wanted rows and {', '.join(absent) or 'no other'}."
        )
    rows = [dict(zip(columns, values, strict=True)) for values in data[list(columns.values())].itertuples(index=False, name=None)]
    seen: set[str] = set()
    for row in rows:
        row["name"] = str(row["name"])
        if row["name"] in seen:
            raise SpeechError(f"Two rows are named {row['name']!r}; names tell items apart. Join the voice to the name, and map cluster.")
        seen.add(row["name"])
        if "right_text" in row and row["right_text"] == row.get("wrong_text"):
            raise SpeechError(f"Row {row['name']!r} has {row['right_text']!r} as its right and its wrong text.")
    return rows


def table_of(path: str | os.PathLike[str]) -> pd.DataFrame:
    """The table in a Parquet file.

    Raises:
        SpeechError: no such file, or a damaged one. ImportError: no pyarrow.
    """
    try:
        return pd.read_parquet(path)
    except ImportError as error:
        raise ImportError("Parquet files are read by pyarrow, which is not installed: pip install pyarrow, or pass a DataFrame.") from error
    except (OSError, ValueError) as error:
        raise SpeechError(f"{os.fspath(path)!r} is no Parquet file that can be read: {error}") from error


def units_of(slm: SpeechTextModel, cell: Any, quantiser: Quantiser | None, where: str) -> Int[Tensor, " unit"]:
    """The units that a cell holds, or that the quantiser makes of the sound in it; see the table at the top of this file.

    Raises:
        SpeechError: a cell of another kind, an empty one, a unit string with words, or sound without a quantiser.
    """
    if isinstance(cell, str) and cell.lstrip().startswith("<"):
        string = parse_unit_string(cell)
        if not all(isinstance(one, SpeechSegment) for one in string.segments):
            raise SpeechError(f"The {where} has written words in it; it must be units alone.")
        return torch.tensor(string.units, dtype=torch.long)
    if isinstance(cell, list | tuple | np.ndarray):
        numbers = np.asarray(cell)
        if numbers.ndim != 1 or not len(numbers) or numbers.dtype.kind not in "iu":
            raise SpeechError(
                f"The {where} must be units, whole numbers in a row; got {numbers.dtype} of shape {numbers.shape}. Sound comes with its rate."
            )
        return torch.from_numpy(numbers.astype(np.int64))
    audio, quantiser = _sound(cell, where), quantiser if quantiser is not None else slm.quantiser
    if quantiser is None:
        raise SpeechError(f"The {where} is sound, and {NO_QUANTISER}")
    return torch.from_numpy(quantiser.encode(resample(audio, quantiser.recipe.sample_rate)).units).long()


def _sound(cell: Any, where: str) -> Audio:
    if isinstance(cell, Mapping) and cell.get("array") is not None and cell.get("sampling_rate"):
        return Audio(np.asarray(cell["array"], dtype=np.float32), int(cell["sampling_rate"]))
    if isinstance(cell, Mapping):
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, bytes) and cell:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "sound"
            path.write_bytes(cell)
            try:
                return read_audio(path)
            except SpeechError as error:
                raise SpeechError(f"The {where} is {len(cell)} bytes that are no sound: {error}") from error
    if isinstance(cell, str) and cell:
        return read_audio(cell)
    raise SpeechError(f"The {where} is {type(cell).__name__} and holds no sound and no units.")
