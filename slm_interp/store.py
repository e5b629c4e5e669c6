"""A table in parts: atomic Parquet files in a folder, with a manifest that says what they are the answer to.

A long run writes one part for each unit of work (an utterance, a target, a layer) under a key. Killed at any moment and
started again it finds the parts that are whole and does the others; a folder that was made with other settings is refused.

| file | holds |
|---|---|
| `manifest.json` | schema, settings and versions; written once, when the folder is made |
| `parts/KEY-HASH.parquet` | the rows of one unit of work |
| `parts/KEY-HASH.json` | its key, number of rows, and SHA-256 of the Parquet file; written last: with it the part is complete |

Nothing is written twice by two writers of different parts, so that several processes may share a folder. A part is
renamed into place, its record after it: without the record it does not count and is done again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from slm_interp.errors import StoreError
from slm_interp.files import atomic_path, write_text

SCHEMA = "slm_interp store 1"
MANIFEST, PARTS = "manifest.json", "parts"


@dataclass(frozen=True)
class Store:
    """A folder of parts, opened with the settings it was made with; see `open_store`.

    Args:
        folder: where.
        settings: what was asked, flat or nested, as JSON has it.
    """

    folder: Path
    settings: Mapping[str, Any]

    def __contains__(self, key: object) -> bool:
        return self._record(str(key)).is_file()

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of the complete parts, in the order of their spelling."""
        found = (str(_json(path)["key"]) for path in (self.folder / PARTS).glob("*.json") if not path.name.startswith("."))
        return tuple(sorted(found))

    def write(self, key: str, frame: pd.DataFrame) -> None:
        """Write a part, whole or not at all. A part that is there already is replaced."""
        part, record = self._part(key), self._record(key)
        record.unlink(missing_ok=True)
        bare = frame.copy(deep=False)
        bare.attrs = {}  # pandas would write them into the file; what they say belongs to the settings
        with atomic_path(part) as temporary:
            bare.to_parquet(temporary, engine="pyarrow", index=False)
        write_text(record, json.dumps({"key": key, "rows": len(frame), "sha256": _sha256(part)}, indent=1) + "\n")

    def read(self, key: str) -> pd.DataFrame:
        """A part.

        Raises:
            StoreError: it is not there, or its bytes are not those that were written.
        """
        if key not in self:
            raise StoreError(f"{self.folder} has no complete part {key!r}; it has {', '.join(self.keys) or 'none'}. Write it first.")
        said, part = _json(self._record(key)), self._part(key)
        if not part.is_file() or _sha256(part) != said.get("sha256"):
            raise StoreError(
                f"Part {key!r} in {part} is not what was written: its SHA-256 differs or the file is gone. "
                f"Delete {self._record(key).name} beside it to have it done again."
            )
        return pd.read_parquet(part, engine="pyarrow")

    def frame(self, keys: Iterable[str] | None = None) -> pd.DataFrame:
        """Parts as one table, in the order of the keys given, or of all keys as they are spelled.

        Raises:
            StoreError: no parts, one that is not there, or one that is broken.
        """
        wanted = self.keys if keys is None else list(keys)
        if not wanted:
            raise StoreError(f"{self.folder} has no complete part yet. Write one first.")
        whole = pd.concat([self.read(key) for key in wanted], ignore_index=True)
        whole.attrs = dict(self.settings)
        return whole

    def _part(self, key: str) -> Path:
        return self.folder / PARTS / f"{_file_name(key)}.parquet"

    def _record(self, key: str) -> Path:
        return self.folder / PARTS / f"{_file_name(key)}.json"


def open_store(folder: str | os.PathLike[str], settings: Mapping[str, Any], versions: Mapping[str, str] | None = None) -> Store:
    """Make a store, or open one to go on with it.

    Args:
        folder: made if it is not there.
        settings: everything the rows depend on: what was asked, the model's fingerprint, the corpus's hash.
        versions: of packages; written down and not compared, so that an upgrade does not cost the parts that are done.

    Raises:
        StoreError: a folder that was made with other settings (the first three that differ are named), that holds other files,
            or whose manifest is broken.
    """
    root = Path(folder)
    asked = json.loads(json.dumps(dict(settings), sort_keys=True))
    manifest = root / MANIFEST
    if not manifest.is_file():
        if (root / PARTS).is_dir() and any((root / PARTS).iterdir()):
            raise StoreError(f"{root} has parts and no {MANIFEST}: nothing says what they are. Choose another folder.")
        _write_first(manifest, {"schema": SCHEMA, "hash": settings_hash(asked), "settings": asked, "versions": dict(versions or {})})
    said = _json(manifest)
    if said.get("schema") != SCHEMA or not isinstance(said.get("settings"), dict) or said.get("hash") != settings_hash(said["settings"]):
        raise StoreError(f"{manifest} is not a manifest of schema {SCHEMA!r}, or it was changed by hand. Choose another folder.")
    differences = differing(said["settings"], asked)
    if differences:
        more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise StoreError(
            f"{root} was made with other settings: {'; '.join(differences[:3])}{more}. Choose another folder, or the settings it was made with."
        )
    (root / PARTS).mkdir(exist_ok=True)
    return Store(root, asked)


def _write_first(manifest: Path, said: Mapping[str, Any]) -> None:
    """Write a manifest unless another process has just done so: a link, unlike a rename, replaces nothing."""
    manifest.parent.mkdir(parents=True, exist_ok=True)
    temporary = manifest.with_name(f".{manifest.name}.{os.getpid()}.partial")
    write_text(temporary, json.dumps(said, indent=1, sort_keys=True) + "\n")
    try:
        os.link(temporary, manifest)
    except FileExistsError:
        pass
    finally:
        temporary.unlink(missing_ok=True)


def differing(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What two settings disagree on, one sentence each."""
    names = sorted({*there, *here})
    unlike = [name for name in names if there.get(name, _ABSENT) != here.get(name, _ABSENT)]
    return [f"{name} is {_shown(there, name)} there and {_shown(here, name)} here" for name in unlike]


def settings_hash(settings: Mapping[str, Any]) -> str:
    """The first 16 hex digits of SHA-256 over the settings as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


_ABSENT = object()


def _shown(settings: Mapping[str, Any], name: str) -> str:
    return f"{json.dumps(settings[name]):.80}" if name in settings else "absent"


def _file_name(key: str) -> str:
    """A name for every key: what can be read of it, and a hash that tells keys apart that read alike."""
    if not key:
        raise StoreError("A part has a key of one letter or more; got an empty one.")
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '-', key)[:60]}-{hashlib.sha256(key.encode()).hexdigest()[:10]}"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(2**20), b""):
            digest.update(block)
    return digest.hexdigest()


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read as JSON: {error}. Delete it, or choose another folder.") from error
    if not isinstance(found, dict):
        raise StoreError(f"{path} must be a JSON object; got {found!r:.60}. Delete it, or choose another folder.")
    return found
