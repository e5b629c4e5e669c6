"""A checkpoint folder: its config and its tensors, memory-mapped and read when asked for.

Nothing here runs what a file brings along. Shards are safetensors files inside the folder, or `pytorch_model.bin`s where there is none of
those (see `slm_interp.convert.shards`); each is opened once, and a tensor is a view of the mapped file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slm_interp.convert.shards import DTYPES, Safetensors, Shard, TorchFile
from slm_interp.errors import CheckpointError

# How weights lie in a folder, the wanted way first: index, single file, and what opens a shard.
LAYOUTS: tuple[tuple[str, str, Callable[[Path], Shard]], ...] = (
    ("model.safetensors.index.json", "model.safetensors", Safetensors),
    ("pytorch_model.bin.index.json", "pytorch_model.bin", TorchFile),
)
SAMPLED_BLOCKS, BLOCK_BYTES = 8, 4096  # a block costs the disk a whole readahead, so there are few
WHOLE_BELOW_BYTES = 2**20
READERS = 16  # threads that wait for the disk side by side: a cold load is nothing but such waits


class Checkpoint:
    """A folder with `config.json` and weights.

    Args:
        folder: a local folder.

    Raises:
        CheckpointError: no folder, no config, no weights, an index that points to a missing file or out
            of the folder, or a shard that is truncated or holds more than tensors.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise CheckpointError(f"Wanted a checkpoint folder; {str(folder)!r} is not one.")
        if (self.folder / "adapter_config.json").exists() and not (self.folder / "config.json").exists():
            raise CheckpointError(
                f"{str(self.folder)!r} holds an adapter (LoRA) and no model. Merge it into its base model (peft: merge_and_unload) and save that."
            )
        self.config = read_json(self.folder / "config.json")
        self._index_name, single, self._open = self._layout()
        self.files = [single] if self._index is None else sorted(set(self._index.values()))
        self._files = {name: self._open(self.folder / name) for name in self.files}
        self._where = self._locate()

    def _layout(self) -> tuple[str, str, Callable[[Path], Shard]]:
        """The first way in which weights lie here."""
        for index, single, opener in LAYOUTS:
            if (self.folder / index).exists() or (self.folder / single).exists():
                return index, single, opener
        wanted = " or ".join(name for index, single, _ in LAYOUTS for name in (single, index))
        others = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.safetensors") for path in self.folder.glob(pattern))
        found = f"It has {others}: save the model again with save_pretrained." if others else "It has no weights."
        raise CheckpointError(f"Wanted {wanted} in {str(self.folder)!r}. {found}")

    @cached_property
    def _index(self) -> dict[str, str] | None:
        if not (self.folder / self._index_name).exists():
            return None
        weight_map = read_json(self.folder / self._index_name).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(name, str) for name in weight_map.values()):
            raise CheckpointError(f"{self._index_name} needs a 'weight_map' from tensor names to file names.")
        for name in weight_map.values():
            if Path(name).name != name or name in ("", ".", "..") or "\0" in name:
                raise CheckpointError(f"{self._index_name} points out of its folder: {name!r}. Shards lie beside the index.")
        return weight_map

    def _locate(self) -> dict[str, str]:
        held: dict[str, str] = {}
        for shard, file in self._files.items():
            for name in file.names():
                if name in held:
                    raise CheckpointError(f"Tensor {name!r} is in two shards, {held[name]!r} and {shard!r}.")
                held[name] = shard
        if self._index is not None and self._index != held:
            differing = sorted(set(self._index.items()) ^ set(held.items()))[0]
            raise CheckpointError(f"{self._index_name} and the shards disagree on tensor {differing[0]!r} (shard {differing[1]!r}).")
        return held

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor, without reading one."""
        return {name: self._files[shard].shape(name) for name, shard in self._where.items()}

    def dtype_of(self, name: str) -> torch.dtype:
        """Stored dtype of a tensor."""
        stored = self._stored(name)
        if stored not in DTYPES:
            raise CheckpointError(
                f"Tensor {name!r} is stored as {stored}; floating point was wanted ({', '.join(DTYPES)}). Quantised weights cannot be read."
            )
        return DTYPES[stored]

    def _stored(self, name: str) -> str:
        return self._files[self._where[name]].stored_as(name)

    @property
    def stored_as(self) -> list[str]:
        """The dtypes that occur, as words."""
        return sorted({str(DTYPES.get(stored, stored)) for stored in map(self._stored, self._where)})

    @property
    def n_bytes(self) -> int:
        """Bytes of all shards."""
        return sum((self.folder / shard).stat().st_size for shard in self._files)

    def tensor(self, name: str, *, separate: bool = False) -> Tensor:
        """A tensor as a view of the memory-mapped shard.

        Args:
            name: of the tensor.
            separate: from a mapping of its own. The pages read are the same ones, but what is written into
                this view, which never reaches the file, does not reach the other views either.
        """
        shard = self._where[name]
        return (self._open(self.folder / shard) if separate else self._files[shard]).tensor(name)

    def fingerprint(self) -> str:
        """SHA-256 (16 hex digits) over the config, tensor names, shapes and dtypes, and sampled blocks of every tensor.

        It tells checkpoints apart without reading every byte; two files that differ only between the
        samples share it.
        """
        digest = hashlib.sha256(json.dumps(self.config, sort_keys=True).encode())
        shapes = self.shapes
        for name in sorted(shapes):
            digest.update(f"{name} {shapes[name]} {self._stored(name)}".encode())
            for block in sampled_blocks(self.tensor(name), SAMPLED_BLOCKS, BLOCK_BYTES):
                digest.update(block.contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    def non_finite(self, names: Iterable[str], whole: bool) -> list[str]:
        """Those of the named tensors that hold NaN or infinite values.

        Args:
            names: of floating-point tensors.
            whole: read every byte; otherwise tensors above 1 MB are sampled.
        """
        names = sorted(names)
        tensors = [self.tensor(name) for name in names]
        with ThreadPoolExecutor(READERS) as pool:
            finite = pool.map(lambda tensor: _is_finite(tensor, whole), tensors)
            return [name for name, good in zip(names, finite, strict=True) if not good]


def _is_finite(tensor: Tensor, whole: bool) -> bool:
    flat = tensor.reshape(-1)
    if whole or tensor.nbytes <= WHOLE_BELOW_BYTES:
        return all(bool(torch.isfinite(block).all()) for block in flat.split(2**22))
    return all(bool(torch.isfinite(block).all()) for block in sampled_blocks(tensor, SAMPLED_BLOCKS, BLOCK_BYTES))


def sampled_blocks(tensor: Tensor, count: int, n_bytes: int) -> list[Tensor]:
    """Up to `count` evenly spaced blocks of about `n_bytes`, first and last included."""
    flat = tensor.reshape(-1)
    length = max(1, n_bytes // tensor.element_size())
    starts = torch.linspace(0, max(0, flat.numel() - length), count, dtype=torch.float64).long().unique().tolist()
    return [flat[start : start + length] for start in starts]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, or a sentence about why not."""
    if not path.exists():
        raise CheckpointError(f"{path.name} is missing from {str(path.parent)!r}.")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:  # ValueError: bad JSON, bad UTF-8, or an integer of thousands of digits
        raise CheckpointError(f"{path.name} is not valid JSON ({error}).") from error
    if not isinstance(value, Mapping):
        raise CheckpointError(f"{path.name} must hold a JSON object; it holds {type(value).__name__}.")
    return dict(value)
