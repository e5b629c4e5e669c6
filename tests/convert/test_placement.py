"""`load(dtype=, device=)`: parameters are converted and moved one by one, and nowhere is there a second copy of the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from slm_interp import hooked
from slm_interp.convert import load
from slm_interp.convert.loading import placed
from tests.family_replicas import write_replica
from tests.replicas import N_UNITS, VARIANTS, write_slamkit
from tests.versions import COPIED

FUSED = "glm4voice"  # queries, keys and values are rows of one tensor, the gate and the up projection those of another


class Copies(TorchDispatchMode):
    """The memory that conversions to another dtype or device take here: how much of it is alive, and was at most."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[StorageWeakRef, int]] = []
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and out.device.type == "cpu" and out.is_floating_point():
            self.made.append((StorageWeakRef(out.untyped_storage()), out.untyped_storage().nbytes()))
            self.peak = max(self.peak, self.alive)
        return out

    @property
    def alive(self) -> int:
        return sum(size for storage, size in self.made if not storage.expired())


def written(name: str, folder: Path) -> Path:
    """A replica in float32."""
    return write_replica(folder, name) if name == FUSED else write_slamkit(folder, VARIANTS[name])


def n_bytes(parameters: dict[str, Tensor]) -> int:
    return sum(parameter.nbytes for parameter in parameters.values())


@pytest.mark.parametrize("name", [FUSED, *(name for name in VARIANTS if not COPIED or not name.startswith("gpt_neox"))])
def test_another_dtype_takes_the_memory_of_one_model_and_at_no_time_more(name: str, tmp_path: Path) -> None:
    folder = written(name, tmp_path)
    with Copies() as copies:
        model = load(folder, n_units=None if name == FUSED else N_UNITS, dtype=torch.float64).model
    parameters = hooked.parameters(model)
    assert {parameter.dtype for parameter in parameters.values()} == {torch.float64}
    largest = max(parameter.nbytes for parameter in parameters.values())
    assert 0 < copies.alive <= copies.peak <= n_bytes(parameters) and copies.peak > largest


@pytest.mark.parametrize("name", [FUSED, "llama", "qwen2", "gpt_neox"])
def test_a_parameter_of_another_dtype_has_memory_of_its_own_and_no_more_than_it_shows(name: str, tmp_path: Path) -> None:
    """A parameter that was cut from a fused tensor must not keep the whole of it."""
    model = load(written(name, tmp_path), n_units=None if name == FUSED else N_UNITS, dtype=torch.float64).model
    for name, parameter in model.named_parameters():
        assert parameter.untyped_storage().nbytes() == parameter.nbytes, name


def test_parameters_are_replaced_one_at_a_time() -> None:
    state = {str(number): torch.ones(4, 256, dtype=torch.float32) for number in range(8)}
    originals = [StorageWeakRef(tensor.untyped_storage()) for tensor in state.values()]
    with Copies() as copies:
        assert placed(state, torch.float64, "cpu") is state
        assert all(one.expired() for one in originals[:-1]), "each original went when its successor had come"
    assert copies.alive == 8 * 4 * 256 * 8


def test_what_has_its_dtype_and_device_stays_the_same_tensor() -> None:
    state = {"one": torch.ones(3), "two": torch.ones(3, 2).T}
    before = dict(state)
    assert all(tensor is before[name] for name, tensor in placed(state, torch.float32, "cpu").items())


@pytest.mark.parametrize("dtype", [None, torch.float64])
def test_what_goes_to_another_device_is_not_converted_in_the_memory_of_this_one(
    dtype: torch.dtype | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The meta device stands in for a GPU; the model is not filled, since nothing would be there to compute with."""
    arrived: dict[str, Tensor] = {}
    monkeypatch.setattr("slm_interp.convert.loading.hooked.fill", lambda model, state: arrived.update(state) or model)
    with Copies() as copies:
        load(written("llama-mha-tied", tmp_path), n_units=N_UNITS, dtype=dtype, device="meta")
    assert arrived and all(tensor.is_meta and tensor.dtype == (dtype or torch.float32) for tensor in arrived.values())
    assert copies.peak == 0
