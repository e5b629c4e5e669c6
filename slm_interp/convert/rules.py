"""Weight maps as data, and the one interpreter that follows them.

An architecture is a tuple of rules from Hugging Face tensor names to TransformerLens parameter names.
`{}` stands for the layer. Patterns are einops patterns with named axes; only patterns that return a
view are accepted, so a memory-mapped checkpoint is never copied.

    Copy("model.layers.{}.mlp.up_proj.weight", "blocks.{}.mlp.W_in", "d_mlp d_model -> d_model d_mlp")
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from einops import EinopsError, rearrange
from torch import Tensor

from slm_interp.errors import ConversionError


@dataclass(frozen=True)
class Copy:
    """One source tensor, or some of its rows, becomes one parameter, axes permuted by an einops pattern.

    Args:
        rows: first row and the one after the last; None is the end of the tensor.
    """

    source: str
    target: str
    pattern: str | None = None
    rows: tuple[int, int | None] | None = None


@dataclass(frozen=True)
class Split:
    """One fused source tensor becomes several parameters: the pattern's first output axis, `part`, picks among the targets."""

    source: str
    targets: tuple[str, ...]
    pattern: str


@dataclass(frozen=True)
class Drop:
    """A source tensor that carries nothing the model needs, with the reason; `same_as` names the tensor it must repeat."""

    source: str
    reason: str
    same_as: str | None = None


@dataclass(frozen=True)
class Zero:
    """A parameter that the source architecture does not have and that is zero by definition."""

    target: str


Rule = Copy | Split | Drop | Zero


def expanded(rules: Iterable[Rule], n_layers: int) -> Iterator[Rule]:
    """The rules with `{}` replaced by every layer."""
    for rule in rules:
        for layer in range(n_layers) if "{}" in repr(rule) else (0,):
            yield _at(rule, layer)


def _at(rule: Rule, layer: int) -> Rule:
    if isinstance(rule, Copy):
        return replace(rule, source=rule.source.format(layer), target=rule.target.format(layer))
    if isinstance(rule, Split):
        return replace(rule, source=rule.source.format(layer), targets=tuple(name.format(layer) for name in rule.targets))
    if isinstance(rule, Drop):
        return replace(rule, source=rule.source.format(layer))
    return replace(rule, target=rule.target.format(layer))


def convert(
    rules: Iterable[Rule],
    sources: Mapping[str, tuple[int, ...]],
    read: Callable[[str], Tensor],
    parameters: Mapping[str, tuple[int, ...]],
    axes: Mapping[str, int],
    n_layers: int,
    dtype: torch.dtype,
) -> dict[str, Tensor]:
    """Follow the rules.

    Args:
        rules: of the architecture.
        sources: shape of every source tensor, by name.
        read: gives a source tensor; called once a rule that needs it.
        parameters: shape of every parameter wanted, by name.
        axes: sizes of named axes (`head`, `d_head`, ...).
        n_layers: layers that `{}` runs over.
        dtype: of zeros.

    Returns:
        One tensor for each parameter; all but zeros are views of what `read` gave.

    Raises:
        ConversionError: a source tensor without a rule, a rule without its source, a parameter left
            unfilled or filled twice, a shape that does not fit, or a pattern that would copy.
    """
    state: dict[str, Tensor] = {}
    used: set[str] = set()
    for rule in expanded(rules, n_layers):
        if isinstance(rule, Zero):
            made = {rule.target: torch.zeros(_wanted(parameters, rule.target), dtype=dtype)}
        else:
            if rule.source not in sources:
                if isinstance(rule, Drop):
                    continue
                raise ConversionError(f"The checkpoint lacks {rule.source!r}. {_closest(rule.source, sources)}")
            used.add(rule.source)
            made = _dropped(rule, read) if isinstance(rule, Drop) else _made(rule, read(rule.source), axes)
        for target, tensor in made.items():
            if target in state:
                raise ConversionError(f"Two rules fill the parameter {target!r}.")
            if tuple(tensor.shape) != _wanted(parameters, target):
                raise ConversionError(
                    f"{target!r} has shape {_wanted(parameters, target)}; the checkpoint gives {tuple(tensor.shape)} from {_source(rule)!r}."
                )
            state[target] = tensor
    for name in sources:
        if name not in used:
            raise ConversionError(f"No rule for {name!r} {sources[name]}. {_closest(name, used)}")
    unfilled = [name for name in parameters if name not in state]
    if unfilled:
        raise ConversionError(f"No rule fills the parameter {unfilled[0]!r} {parameters[unfilled[0]]} ({len(unfilled)} unfilled).")
    return state


def _source(rule: Rule) -> str:
    return "zero" if isinstance(rule, Zero) else rule.source


def _wanted(parameters: Mapping[str, tuple[int, ...]], target: str) -> tuple[int, ...]:
    if target not in parameters:
        raise ConversionError(f"A rule fills {target!r}, which the model does not have. {_closest(target, parameters)}")
    return tuple(parameters[target])


def _closest(name: str, names: Iterable[str]) -> str:
    found = difflib.get_close_matches(name, list(names), n=1, cutoff=0.0)
    return f"Closest: {found[0]!r}." if found else "There is nothing like it."


def _dropped(rule: Drop, read: Callable[[str], Tensor]) -> dict[str, Tensor]:
    if rule.same_as is None:
        return {}
    kept = read(rule.same_as)
    if not torch.equal(read(rule.source).to(kept.dtype), kept):
        raise ConversionError(
            f"{rule.source!r} should repeat {rule.same_as!r} and does not ({rule.reason}). "
            "Repair config.json (tie_word_embeddings) or the weights: programs disagree on which of the two to use."
        )
    return {}


def _made(rule: Copy | Split, tensor: Tensor, axes: Mapping[str, int]) -> dict[str, Tensor]:
    if isinstance(rule, Copy):
        if rule.rows is not None:
            start, stop = rule.rows
            if tensor.ndim == 0 or len(tensor) < max(start, stop or 0):
                raise ConversionError(f"{rule.source!r} {tuple(tensor.shape)} has no rows {start}..{'' if stop is None else stop - 1}.")
            tensor = tensor[start:stop]
        return {rule.target: tensor if rule.pattern is None else view(tensor, rule.pattern, axes, rule.source)}
    parts = view(tensor, rule.pattern, {**axes, "part": len(rule.targets)}, rule.source).unbind(0)
    return dict(zip(rule.targets, parts, strict=True))


def view(tensor: Tensor, pattern: str, axes: Mapping[str, int], name: str) -> Tensor:
    """`einops.rearrange`, refused if it copies."""
    named = set(re.findall(r"[A-Za-z_]\w*", pattern))
    try:
        out = rearrange(tensor, pattern, **{axis: size for axis, size in axes.items() if axis in named})
    except EinopsError as error:
        raise ConversionError(
            f"{name!r} {tuple(tensor.shape)} does not fit the pattern {pattern!r}: {str(error).splitlines()[-1]}"
        ) from error
    if out.untyped_storage().data_ptr() != tensor.untyped_storage().data_ptr():
        raise ConversionError(f"The pattern {pattern!r} copies {name!r}; rules only permute, split or cut.")
    return out
