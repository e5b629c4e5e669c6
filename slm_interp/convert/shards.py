"""One weight file: safetensors, or what `torch.save` writes, both memory-mapped; nothing is unpickled but tensors."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from slm_interp.errors import CheckpointError

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class Shard(Protocol):
    """A weight file that is open."""

    def names(self) -> list[str]:
        """Its tensors."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""

    def stored_as(self, name: str) -> str:
        """Dtype of a tensor, in the words of safetensors (`DTYPES`)."""

    def tensor(self, name: str) -> Tensor:
        """A tensor as a view of the mapped file."""


class Safetensors:
    """A safetensors file."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = safe_open(path, framework="pt", device="cpu")
        except FileNotFoundError as error:
            raise missing(path) from error
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"{path.name!r} is truncated or no safetensors file ({error}). Fetch it again.") from error

    def names(self) -> list[str]:
        """As `Shard`."""
        return list(self._file.keys())

    def shape(self, name: str) -> tuple[int, ...]:
        """As `Shard`."""
        return tuple(self._file.get_slice(name).get_shape())

    def stored_as(self, name: str) -> str:
        """As `Shard`."""
        return str(self._file.get_slice(name).get_dtype())

    def tensor(self, name: str) -> Tensor:
        """As `Shard`."""
        return self._file.get_tensor(name)


class TorchFile:
    """A `pytorch_model.bin`: its pickle is read with `weights_only`, which makes tensors and nothing else.

    Tensors are views of the mapped file. Files from before torch 1.6, which are no zip archives, cannot be mapped and are refused.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise missing(path)
        if not zipfile.is_zipfile(path):
            raise CheckpointError(
                f"{path.name!r} is truncated, or older than torch 1.6 and cannot be memory-mapped. Fetch it again, or save it again with torch.save."
            )
        records = _records(path)
        try:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except pickle.UnpicklingError as error:
            named = re.search(r"GLOBAL (\S+)", str(error))  # the rest of torch's sentence tells how to unpickle it all the same
            what = f"'{named[1]}'" if named else "something else"
            raise CheckpointError(
                f"{path.name!r} holds more than tensors, {what}, and nothing else is unpickled. Save the model again with save_pretrained."
            ) from error
        except Exception as error:  # damaged archives end in kinds of torch, zipfile and the interpreter
            raise CheckpointError(f"{path.name!r} is damaged ({type(error).__name__}: {error!s:.200}). Fetch it again.") from error
        if not isinstance(state, Mapping) or not all(isinstance(name, str) and isinstance(one, Tensor) for name, one in state.items()):
            raise CheckpointError(f"{path.name!r} must hold tensors by name; it holds {type(state).__name__}.")
        if any(one.layout != torch.strided or one.is_quantized or one.is_meta or one.is_nested for one in state.values()):
            raise CheckpointError(f"{path.name!r} holds sparse, nested, quantised or empty tensors; plain ones were wanted.")
        claimed = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in state.values()}
        if sorted(filter(None, claimed.values())) != sorted(filter(None, records)):
            raise CheckpointError(
                f"{path.name!r} is damaged: its tensors and the records they lie in have different sizes. Fetch it again."
            )
        self._state: Mapping[str, Tensor] = state

    def names(self) -> list[str]:
        """As `Shard`."""
        return list(self._state)

    def shape(self, name: str) -> tuple[int, ...]:
        """As `Shard`."""
        return tuple(self._state[name].shape)

    def stored_as(self, name: str) -> str:
        """As `Shard`."""
        dtype = self._state[name].dtype
        return next((word for word, one in DTYPES.items() if one == dtype), str(dtype))

    def tensor(self, name: str) -> Tensor:
        """As `Shard`."""
        return self._state[name].detach()


def _records(path: Path) -> list[int]:
    """Bytes of each record of numbers in an archive of torch; mapped memory is not checked against them.

    Raises:
        CheckpointError: records that are packed, and so cannot be mapped, or an archive of a program.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CheckpointError(f"{path.name!r} is damaged ({error}). Fetch it again.") from error
    if any(one.filename.endswith("/constants.pkl") for one in entries):
        raise CheckpointError(
            f"{path.name!r} is a program (TorchScript); tensors by name were wanted. Save its state_dict with torch.save."
        )
    if any(one.compress_type != zipfile.ZIP_STORED for one in entries):
        raise CheckpointError(f"{path.name!r} is a packed archive and cannot be memory-mapped. Save it again with torch.save.")
    return [one.file_size for one in entries if "/data/" in one.filename]


def missing(path: Path) -> CheckpointError:
    """The error about a shard that is not there."""
    return CheckpointError(f"Shard {path.name!r} is missing from {str(path.parent)!r}.")
