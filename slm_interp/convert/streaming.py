"""Run a model whose weights are on disk, in another dtype, one module at a time.

Each owner of parameters gets them just before it runs and gives them back just after, so that a 7B model
computes in float32 within the memory of its largest layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def streamed(owners: Iterable[tuple[str, nn.Module]], read: Callable[[str, Tensor], Tensor]) -> Iterator[None]:
    """While open, every owner runs with parameters from `read`.

    Args:
        owners: modules with their names, for instance `hooked.parameter_owners(model)`; each takes its own
            parameters and those of the modules inside it that are no owners themselves. The parameters may be
            on the meta device; they are put back afterwards.
        read: gives the tensor of a parameter, from its full name and the parameter that is put back.
    """
    owners = list(owners)
    others = {id(owner) for _, owner in owners}
    handles = []
    for prefix, owner in owners:
        slots = list(_slots(prefix, owner, others, set()))
        handles.append(owner.register_forward_pre_hook(_giver(slots, read)))
        handles.append(owner.register_forward_hook(_taker(slots)))
    try:
        with torch.no_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()


def direct_owners(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Every module that owns parameters directly, with its name."""
    return [(name, module) for name, module in model.named_modules() if next(module.parameters(recurse=False), None) is not None]


@dataclass(frozen=True, eq=False)
class _Slot:
    """A parameter's place: the module that has it, its name there and in full, and what is put back."""

    module: nn.Module
    name: str
    full: str
    kept: nn.Parameter


def _slots(prefix: str, module: nn.Module, others: Set[int], seen: set[int]) -> Iterator[_Slot]:
    seen.add(id(module))
    for name, parameter in module.named_parameters(recurse=False):
        yield _Slot(module, name, f"{prefix}.{name}" if prefix else name, parameter)
    for name, child in module.named_children():
        if id(child) not in others and id(child) not in seen:
            yield from _slots(f"{prefix}.{name}" if prefix else name, child, others, seen)


def _giver(slots: list[_Slot], read: Callable[[str, Tensor], Tensor]) -> Callable[[nn.Module, Any], None]:
    def give(module: nn.Module, inputs: Any) -> None:
        for slot in slots:
            slot.module._parameters[slot.name] = nn.Parameter(read(slot.full, slot.kept), requires_grad=False)

    return give


def _taker(slots: list[_Slot]) -> Callable[[nn.Module, Any, Any], None]:
    def take(module: nn.Module, inputs: Any, output: Any) -> None:
        for slot in slots:
            slot.module._parameters[slot.name] = slot.kept

    return take
