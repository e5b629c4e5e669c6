"""One weight file: safetensors, or what `torch.save` writes, both memory-mapped; nothing is unpickled but tensors."""

from __future__ import annotations

import pickle
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
        try:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except pickle.UnpicklingError as error:
            raise CheckpointError(
                f"{path.name!r} holds more than tensors, and nothing else is unpickled: {str(error).splitlines()[0]}"
            ) from error
        except Exception as error:  # damaged archives end in kinds of torch, zipfile and the interpreter
            raise CheckpointError(f"{path.name!r} is damaged ({type(error).__name__}: {error!s:.200}). Fetch it again.") from error
        if not isinstance(state, Mapping) or not all(isinstance(name, str) and isinstance(one, Tensor) for name, one in state.items()):
            raise CheckpointError(f"{path.name!r} must hold tensors by name; it holds {type(state).__name__}.")
        if any(one.layout != torch.strided or one.is_quantized or one.is_meta for one in state.values()):
            raise CheckpointError(f"{path.name!r} holds sparse, quantised or empty tensors; plain ones were wanted.")
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


def missing(path: Path) -> CheckpointError:
    """The error about a shard that is not there."""
    return CheckpointError(f"Shard {path.name!r} is missing from {str(path.parent)!r}.")
