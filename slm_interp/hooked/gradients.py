"""The model with its graph: what differentiates later layers, or a number of the output, by what stands at named hooks.

Two ways to the gradients at hooks, with the same numbers:

- `gradients_at` keeps the graph of the whole run: one forward, one backward.
- `gradients_by_block` keeps the residual stream between blocks alone. From the last block down it runs one block again, with its graph, and
  carries the gradient on to the block below (activation checkpointing, Chen et al. 2016, 1604.06174): one forward more, the graph of one block.

`gradients_without_each_block` carries one gradient for every block whose contributions are dropped from the backward pass. All are alike on every
TransformerLens; 4.x runs the blocks around the one that is asked for too, so there what goes block by block is slower.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from slm_interp.errors import ReadoutError
from slm_interp.hooked.installed import MAJOR, HookedTransformer, run_blocks
from slm_interp.hooked.sites import hook_at, stream_names

Kept = TypeVar("Kept")
Score: TypeAlias = Callable[[Tensor], Tensor]  # the residual stream after the last block -> one number
Keep: TypeAlias = Callable[[str, Tensor, Tensor], Kept]  # a hook, what stands there, its gradient -> what stays of them


@contextmanager
def frozen(model: HookedTransformer) -> Iterator[None]:
    """No parameter asks for a gradient inside the block, so that a graph holds what leads to residuals and nothing for the weights."""
    asked = [parameter for parameter in nn.Module.parameters(model) if parameter.requires_grad]
    for parameter in asked:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asked:
            parameter.requires_grad_(True)


def differentiable_residuals(
    model: HookedTransformer, tokens: Int[Tensor, "batch pos"], first: int = 0
) -> tuple[Float[Tensor, "batch pos d_model"], ...]:
    """The residual stream after `first`, ..., n_layers blocks; each entry is computed from the one before, and the first is a leaf.

    What lies before `first` is no part of the graph. Use it inside `frozen`.

    Args:
        tokens: rows of one length.
        first: blocks run before the graph begins, 0 (embedding) to n_layers.

    Raises:
        ReadoutError: a model in training mode, a `first` that is not there, rows longer than the model reads.
    """
    _check(model, tokens)
    if not 0 <= first <= model.cfg.n_layers:
        raise ReadoutError(f"Layers count blocks run, 0 (embedding) to {model.cfg.n_layers} (what the model reads); got {first}.")
    names = stream_names(model)[first:]
    with torch.enable_grad():
        stream = _traced(names, lambda hooks: run_blocks(model, tokens, hooks))
    return tuple(stream[name] for name in names)


def values_at(
    model: HookedTransformer, tokens: Int[Tensor, "row pos"], names: Sequence[str], keep: Callable[[str, Tensor], Kept]
) -> tuple[Float[Tensor, "row pos d_model"], dict[str, Kept]]:
    """The residual stream after the last block, and what is kept of what stands at some hooks: one forward, without gradients.

    Raises:
        ReadoutError: as `gradients_at`.
    """
    _check(model, tokens)
    kept: dict[str, Kept] = {}
    last: list[Tensor] = []

    def keeper(name: str) -> Any:
        return lambda value, hook: kept.update({name: keep(name, value)})

    def keep_last(resid: Tensor, hook: Any) -> None:
        last.append(resid)

    with torch.no_grad():
        run_blocks(model, tokens, [*((name, keeper(name)) for name in names), (stream_names(model)[-1], keep_last)])
    _refuse_silent(names, kept)
    return last[0], kept


def gradients_at(
    model: HookedTransformer, tokens: Int[Tensor, "row pos"], names: Sequence[str], score: Score, keep: Keep[Kept]
) -> tuple[Float[Tensor, "row pos d_model"], dict[str, Kept]]:
    """The residual stream after the last block, and what is kept of the gradient at every hook: one forward, one backward.

    Args:
        names: of hooks in the blocks, each once; the graph begins at the first that runs.
        score: the number whose gradient is taken.
        keep: called once for each hook; what it returns is all that stays.

    Raises:
        ReadoutError: a model in training mode, rows longer than it reads, a hook that never ran.
    """
    _check(model, tokens)
    last = stream_names(model)[-1]
    with frozen(model), torch.enable_grad():
        values = _traced([*names, *({last} - set(names))], lambda hooks: run_blocks(model, tokens, hooks))
        _refuse_silent(names, values)
        found = torch.autograd.grad(score(values[last]), [values[name] for name in names], materialize_grads=True)
    return values[last].detach(), {name: keep(name, values[name].detach(), slope) for name, slope in zip(names, found, strict=True)}


def gradients_by_block(
    model: HookedTransformer, tokens: Int[Tensor, "row pos"], names: Sequence[str], score: Score, keep: Keep[Kept]
) -> tuple[Float[Tensor, "row pos d_model"], dict[str, Kept]]:
    """As `gradients_at`, with the graph of one block in memory: two forwards, one backward."""
    last, stream, slope = _from_above(model, tokens, score)
    kept: dict[str, Kept] = {}
    with frozen(model), torch.enable_grad():
        for block in reversed(range(model.cfg.n_layers)):
            own, values = _block(model, tokens, block, stream, names)
            *found, slope = _back(values, own, block, slope)
            kept |= {name: keep(name, values[name].detach(), one) for name, one in zip(own, found, strict=True)}
    _refuse_silent(names, kept)
    return last, {name: kept[name] for name in names}


def gradients_without_each_block(
    model: HookedTransformer, tokens: Int[Tensor, "row pos"], names: Sequence[str], score: Score, keep: Keep[Kept]
) -> tuple[Float[Tensor, "row pos d_model"], dict[str, list[Kept]]]:
    """What is kept of the gradient at every hook, as it is and with what each block adds to the residual stream dropped from the backward pass.

    Dropping block `b` lets its gradient through on the residual stream alone: nothing flows into its attention and its MLP, so what stands inside
    it has the gradient 0. What stands above block `b` has the gradient it has anyway, which is not computed again: all of it takes two forwards
    and as much as (n_layers + 1) / 2 backwards, the one that drops nothing among them.

    Returns:
        The residual stream after the last block; for each hook n_layers + 1 entries, first with nothing dropped, then without block 0, 1, ...
    """
    last, stream, slope = _from_above(model, tokens, score)
    kept: dict[str, list[Kept]] = {}
    slopes: dict[int | None, Tensor] = {None: slope}
    with frozen(model), torch.enable_grad():
        for block in reversed(range(model.cfg.n_layers)):
            own, values = _block(model, tokens, block, stream, names)
            above = slopes[None]
            found: dict[int | None, list[Tensor]] = {}
            for dropped in slopes:
                *found[dropped], slopes[dropped] = _back(values, own, block, slopes[dropped], retain_graph=True)
            found[block] = [above if "hook_resid" in name else torch.zeros_like(values[name]) for name in own]
            slopes[block] = above
            for place, name in enumerate(own):
                made = {dropped: keep(name, values[name].detach(), found[dropped][place]) for dropped in found}
                kept[name] = [made[None], *(made.get(dropped, made[None]) for dropped in range(model.cfg.n_layers))]
    _refuse_silent(names, kept)
    return last, {name: kept[name] for name in names}


def gradient_from(
    model: HookedTransformer,
    tokens: Int[Tensor, "run pos"],
    start: tuple[int, Float[Tensor, "run pos d_model"]],
    site: tuple[str, Float[Tensor, "run ..."]],
    score: Score,
) -> Float[Tensor, "run ..."]:
    """The gradient at one hook with other values in it; the blocks are run from the one it stands in.

    Args:
        start: that block, and the residual stream it reads; n_layers where the site is what the last block leaves.
        site: the hook, and the values that stand there.
    """
    _check(model, tokens)
    (block, resid), (name, values) = start, site
    last = stream_names(model)[-1]
    leaf = values.detach().requires_grad_()
    if block == model.cfg.n_layers:
        with frozen(model), torch.enable_grad():
            return torch.autograd.grad(score(leaf), leaf)[0]
    kept: list[Tensor] = []

    def put(value: Tensor, hook: Any) -> Tensor:
        return leaf

    def keep(value: Tensor, hook: Any) -> None:
        kept.append(value)

    with frozen(model), torch.enable_grad():
        _run_from(model, tokens, block, resid, [(name, put), (last, keep)], model.cfg.n_layers)
        return torch.autograd.grad(score(kept[0]), leaf)[0]


def pattern_changes(
    model: HookedTransformer,
    tokens: Int[Tensor, "row pos"],
    site: str,
    moved: Bool[Tensor, "run pos"],
    values: Mapping[int, Float[Tensor, "run pos some_head d_head"]],
) -> dict[int, Float[Tensor, "run row head dest src"]]:
    """What other queries or keys change in the attention of their own layer, everything before it as it is; one forward for all layers.

    Runs stand beside the rows as they are. In each of them the queries (or keys) of every layer are replaced, and its attention is set back to
    that of the row as it is, so that no layer sees what was changed in another. Norms, rotation, window and softmax are the model's own.

    Args:
        site: `q` or `k`.
        moved: positions of each run whose queries or keys are replaced.
        values: by layer, what is put there; read where `moved`.
    """
    _check(model, tokens)
    rows, runs = len(tokens), len(moved)
    where = moved.repeat_interleave(rows, 0)[..., None, None].to(tokens.device)
    found: dict[int, Tensor] = {}

    def put(layer: int) -> Any:
        def replace(value: Tensor, hook: Any) -> Tensor:
            other = values[layer].repeat_interleave(rows, 0).to(value)
            return torch.cat([value[:rows], torch.where(where, other, value[rows:])])

        return replace

    def restore(layer: int) -> Any:
        def take(pattern: Tensor, hook: Any) -> Tensor:
            own = pattern[:rows]
            found[layer] = pattern[rows:].unflatten(0, (runs, rows)) - own
            return own.repeat(runs + 1, 1, 1, 1)

        return take

    hooks = [(hook_at(site, layer), put(layer)) for layer in values] + [(hook_at("pattern", layer), restore(layer)) for layer in values]
    with torch.no_grad():
        run_blocks(model, tokens.repeat(runs + 1, 1), hooks)
    return found


def graph_bytes(config: Any, rows: int, length: int) -> int:
    """About what the graph of one block takes: attention scores and patterns, what norms, projections and the MLP keep for the way back."""
    by_position = 16 * config.d_model + 5 * (config.d_mlp or 0) + 8 * config.n_heads * config.d_head
    by_pair = 4 * config.n_heads
    return rows * length * (by_position + by_pair * length) * config.dtype.itemsize


def _from_above(model: HookedTransformer, tokens: Tensor, score: Score) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """The last residuals, those before each block, and the gradient at the last."""
    _check(model, tokens)
    last, stream = values_at(model, tokens, stream_names(model)[:-1], lambda _, value: value)
    with frozen(model), torch.enable_grad():
        leaf = last.detach().requires_grad_()
        return last, stream, torch.autograd.grad(score(leaf), leaf)[0]


def _block(
    model: HookedTransformer, tokens: Tensor, block: int, stream: dict[str, Tensor], names: Sequence[str]
) -> tuple[list[str], dict[str, Tensor]]:
    """Those of the names that stand in a block, and what stands at them, at its start and at its end, with the block's graph."""
    own = [name for name in names if name.startswith(f"blocks.{block}.")]
    resid = stream.pop(hook_at("resid_post", block))
    ends = [hook_at("resid_pre", block), hook_at("resid_post", block + 1)]
    wanted = list(dict.fromkeys([*ends, *own]))
    values = _traced(wanted, lambda hooks: _run_from(model, tokens, block, resid, hooks, block + 1))
    _refuse_silent(wanted, values)
    return own, values


def _back(values: dict[str, Tensor], own: list[str], block: int, slope: Tensor, retain_graph: bool = False) -> tuple[Tensor, ...]:
    """The gradients at the names and at the start of a block, from the one at its end."""
    start, end = hook_at("resid_pre", block), hook_at("resid_post", block + 1)
    places = [values[name] for name in [*own, start]]
    return torch.autograd.grad(values[end], places, slope, retain_graph=retain_graph, materialize_grads=True)


def _traced(names: Sequence[str], run: Callable[[list[tuple[str, Any]]], None]) -> dict[str, Tensor]:
    """What stands at some hooks in a run, as parts of its graph; what depends on none of those before it begins the graph anew."""
    values: dict[str, Tensor] = {}

    def keeper(name: str) -> Any:
        def keep(value: Tensor, hook: Any) -> Tensor:
            values[name] = value if value.requires_grad else value.detach().requires_grad_()
            return values[name]

        return keep

    run([(name, keeper(name)) for name in names])
    return values


def _run_from(
    model: HookedTransformer, tokens: Tensor, block: int, resid: Tensor, hooks: Sequence[tuple[str, Callable[..., Any]]], stop: int
) -> None:
    """Run the blocks from `block` up to and without `stop` on what stands before them."""
    if MAJOR == 3:
        model.run_with_hooks(
            resid,
            start_at_layer=block,
            stop_at_layer=stop,
            return_type=None,
            fwd_hooks=list(hooks),
            prepend_bos=False,
            attention_mask=torch.ones_like(tokens),
        )
    else:  # 4.x has no way to leave out what lies below
        begin = (hook_at("resid_pre", block), lambda value, hook: resid)
        end = (hook_at("resid_post", stop), lambda value, hook: value.detach())
        run_blocks(model, tokens, [begin, *hooks, *([end] if stop < model.cfg.n_layers else [])])


def _check(model: HookedTransformer, tokens: Tensor) -> None:
    if model.training:
        raise ReadoutError("Gradients are taken of a model in evaluation mode, without dropout; this one is training. Call model.eval().")
    if tokens.shape[1] > model.cfg.n_ctx:
        raise ReadoutError(f"The model reads at most {model.cfg.n_ctx} positions; these rows have {tokens.shape[1]}.")


def _refuse_silent(names: Sequence[str], kept: dict[str, Any]) -> None:
    silent = [name for name in names if name not in kept]
    if silent:
        raise ReadoutError(f"Nothing passed {silent[0]} ({len(silent)} such hooks): this model has no such place.")
