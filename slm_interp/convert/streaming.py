"""Run a model whose weights are on disk, in another dtype, one module at a time.

Each module that owns parameters gets them just before it runs and gives them back just after, so that a
7B model computes in float32 within the memory of its largest layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def streamed(model: nn.Module, read: Callable[[str], Tensor]) -> Iterator[None]:
    """While open, every module of `model` runs with parameters from `read`.

    Args:
        model: its own parameters may be on the meta device; they are put back afterwards.
        read: gives the tensor of a parameter by its full name.
    """
    handles = []
    for prefix, module in model.named_modules():
        names = [name for name, _ in module.named_parameters(recurse=False)]
        if names:
            own = {name: module._parameters[name] for name in names}
            full = {name: f"{prefix}.{name}" if prefix else name for name in names}
            handles.append(module.register_forward_pre_hook(_giver(full, read)))
            handles.append(module.register_forward_hook(_taker(own)))
    try:
        with torch.no_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()


def _giver(full: dict[str, str], read: Callable[[str], Tensor]) -> Callable[[nn.Module, Any], None]:
    def give(module: nn.Module, inputs: Any) -> None:
        for name, path in full.items():
            module._parameters[name] = nn.Parameter(read(path), requires_grad=False)

    return give


def _taker(own: dict[str, nn.Parameter | None]) -> Callable[[nn.Module, Any, Any], None]:
    def take(module: nn.Module, inputs: Any, output: Any) -> None:
        module._parameters.update(own)

    return take
