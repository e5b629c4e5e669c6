"""TransformerLens 3.9: `HookedTransformer`, whose own parameters have the classic names.

The class is looked up where it is used, so that this module can be imported where 4.x is installed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
import transformer_lens
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache
from transformer_lens.cache.key_value_cache_entry import TransformerLensKeyValueCacheEntry
from transformer_lens.utilities.architectures import POST_NORM_ARCHITECTURES

from slm_interp.errors import ConversionError
from slm_interp.hooked.kept import Kept, KeysAndValues, Writes

PARTIAL: Mapping[str, str] = {}  # sites whose hook reaches part of what follows only, with what it does reach
SOFTMAX = "softmax of attention: {} computes it in the model's dtype, transformers in float32; below float32 they differ by rounding"


def empty(fields: Mapping[str, Any]) -> transformer_lens.HookedTransformer:
    """A HookedTransformer on the meta device: names and shapes, no memory.

    Args:
        fields: arguments of `HookedTransformerConfig`.
    """
    config = transformer_lens.HookedTransformerConfig(**{"device": "cpu", "init_weights": False, "default_prepend_bos": False, **fields})
    with torch.device("meta"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="HookedTransformer is deprecated", category=DeprecationWarning)
        return transformer_lens.HookedTransformer(config, move_to_device=False)


def parameters(model: transformer_lens.HookedTransformer) -> dict[str, Tensor]:
    """Every parameter by its classic name (`blocks.0.attn.W_Q`)."""
    return dict(model.named_parameters())


def fill(model: transformer_lens.HookedTransformer, state: Mapping[str, Tensor]) -> transformer_lens.HookedTransformer:
    """Give an empty model its weights without copying them, and its buffers.

    Args:
        model: from `empty`.
        state: one tensor for every parameter; tensors are assigned, not copied, so views stay views.

    Raises:
        ConversionError: a parameter left unfilled or left over.
    """
    buffers = {name for name, _ in model.named_buffers()}
    missing, unexpected = model.load_state_dict(dict(state), strict=False, assign=True)
    if set(missing) - buffers or unexpected:
        raise ConversionError(f"Parameters left unfilled: {sorted(set(missing) - buffers)}; left over: {sorted(unexpected)}.")
    _fill_buffers(model)
    left = [name for name, tensor in [*model.named_parameters(), *model.named_buffers()] if tensor.is_meta]
    if left:
        raise ConversionError(f"These tensors never got a value: {left[:5]} ({len(left)} in all).")
    return model.eval()


def _fill_buffers(model: transformer_lens.HookedTransformer) -> None:
    """Causal mask, the score of a masked cell, and one pair of rotary tables for all layers."""
    config = model.cfg
    tables = None
    for block in model.blocks:
        attention = block.attn
        attention.mask = torch.empty((0, 0), dtype=torch.bool)
        attention.IGNORE = torch.tensor(-torch.inf)
        if config.rotary_dim is None:
            continue
        if tables is None:
            tables = attention.calculate_sin_cos_rotary(
                config.rotary_dim, min(config.n_ctx, attention.ROTARY_INITIAL_CACHE_SIZE), base=config.rotary_base, dtype=config.dtype
            )
        attention.rotary_sin, attention.rotary_cos = tables


def run_blocks(
    model: transformer_lens.HookedTransformer,
    tokens: Int[Tensor, "batch pos"],
    hooks: Sequence[tuple[str, Callable[..., Any]]],
    mask: Int[Tensor, "batch pos"] | None = None,
) -> None:
    """Run the embedding and the blocks with hooks, and nothing after them.

    Args:
        mask: 1 where there is a token and 0 where there is a pad; None is tokens everywhere.
    """
    model.run_with_hooks(
        tokens,
        return_type=None,
        stop_at_layer=model.cfg.n_layers,
        fwd_hooks=list(hooks),
        prepend_bos=False,
        attention_mask=torch.ones_like(tokens) if mask is None else mask,
    )


def notes(fields: Mapping[str, Any]) -> list[str]:
    """What is computed or kept in another way than the checkpoint's own program does, in sentences."""
    return [SOFTMAX.format("HookedTransformer")]


def parameter_owners(model: transformer_lens.HookedTransformer) -> list[tuple[str, nn.Module]]:
    """What a streamed forward loads one by one, with its name: here every module that owns parameters directly."""
    return [(name, module) for name, module in model.named_modules() if next(module.parameters(recurse=False), None) is not None]


def run_and_cache(
    model: transformer_lens.HookedTransformer, tokens: Int[Tensor, "row pos"], hooks: Sequence[tuple[str, Callable[..., Any]]]
) -> KeysAndValues | None:
    """Run the embedding and the blocks with hooks, and give the keys and values of every block."""
    cache = TransformerLensKeyValueCache.init_cache(model.cfg, model.embed.W_E.device, len(tokens))
    model.run_with_hooks(
        tokens,
        return_type=None,
        stop_at_layer=model.cfg.n_layers,
        fwd_hooks=list(hooks),
        prepend_bos=False,
        attention_mask=torch.ones_like(tokens),
        past_kv_cache=cache,
    )
    return tuple((entry.past_keys, entry.past_values) for entry in cache.entries)


def run_on(
    model: transformer_lens.HookedTransformer,
    tokens: Int[Tensor, "batch pos"],
    hooks: Sequence[tuple[str, Callable[..., Any]]],
    past: TransformerLensKeyValueCache | None = None,
) -> tuple[Float[Tensor, "batch d_model"], TransformerLensKeyValueCache]:
    """The residual stream after the last block at the last position, and what a run of the same rows grown longer goes on from.

    The positions of a first run are run once, with the hooks; later ones go on from their keys and values, which hold whatever the hooks changed.

    Args:
        tokens: rows from their beginning, those that were run before included.
        hooks: of the first run; positions that come later never pass them.
        past: of the run of these rows without their last tokens.
    """
    cache = TransformerLensKeyValueCache.init_cache(model.cfg, model.embed.W_E.device, len(tokens)) if past is None else past
    new = tokens[:, cache[0].past_keys.shape[1] :]
    last: list[Tensor] = []

    def keep(resid: Tensor, hook: Any) -> None:
        last.append(resid[:, -1])

    final = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
    with torch.no_grad():
        model.run_with_hooks(
            new,
            return_type=None,
            stop_at_layer=model.cfg.n_layers,
            fwd_hooks=[*(hooks if past is None else ()), (final, keep)],
            prepend_bos=False,
            attention_mask=torch.ones_like(new),
            past_kv_cache=cache,
        )
    return last[0], cache


def resume(
    model: transformer_lens.HookedTransformer,
    kept: Kept,
    layer: int,
    start: int,
    resid: Float[Tensor, "run prompt_pos d_model"],
    writes: Mapping[str, Writes],
) -> list[Float[Tensor, "run _ d_model"]]:
    """The last residuals of runs that differ from a kept one from block `layer` and position `start` on.

    Args:
        resid: what block `layer` reads at the positions of the prompt from `start` on.
        writes: what is put in at hooks of block `layer` or later, at those positions.

    Returns:
        for each row, the residual stream after the last block from the last position of the prompt on.
    """
    assert kept.past is not None
    longest = max(kept.lengths)
    cache = _cache(model, [(keys[:, :start], values[:, :start]) for keys, values in kept.past], len(resid))
    if longest == kept.prompt:
        cache.freeze()  # nothing goes on from here
    hooks = [(name, _writer(one, start)) for name, one in writes.items()]
    with torch.no_grad():
        last = _last_from(model, resid, layer, cache, hooks)
        found, past = [], [(entry.past_keys, entry.past_values) for entry in cache.entries]
        for row, length in enumerate(kept.lengths):
            if length == kept.prompt:
                found.append(last)
                continue
            after = kept.stream[layer, row, kept.prompt : length].expand(len(resid), -1, -1)
            going_on = _cache(model, [*_below(kept, layer), *past[layer:]], len(resid))
            going_on.freeze()
            found.append(torch.cat([last, _run_from(model, after, layer, going_on, [])], 1))
    return found


def resume_all(
    model: transformer_lens.HookedTransformer,
    kept: Kept,
    layer: int,
    start: int,
    resid: Float[Tensor, "run prompt_pos d_model"],
    writes: Mapping[str, Writes],
) -> Float[Tensor, "run prompt_pos d_model"]:
    """As `resume`, without continuations: the last residuals at every position of the prompt from `start` on."""
    assert kept.past is not None
    cache = _cache(model, [(keys[:, :start], values[:, :start]) for keys, values in kept.past], len(resid))
    cache.freeze()
    with torch.no_grad():
        return _run_from(model, resid, layer, cache, [(name, _writer(one, start)) for name, one in writes.items()])


def _below(kept: Kept, layer: int) -> KeysAndValues:
    """Keys and values of the blocks before `layer`, which are not run and so need none of their own."""
    return () if kept.past is None else kept.past[:layer]


def _cache(model: transformer_lens.HookedTransformer, past: Sequence[tuple[Tensor, Tensor]], runs: int) -> TransformerLensKeyValueCache:
    entries = [TransformerLensKeyValueCacheEntry(keys.expand(runs, -1, -1, -1), values.expand(runs, -1, -1, -1)) for keys, values in past]
    return TransformerLensKeyValueCache(entries, torch.empty((runs, 0), dtype=torch.int))


def _run_from(
    model: transformer_lens.HookedTransformer,
    resid: Float[Tensor, "run some_pos d_model"],
    layer: int,
    cache: TransformerLensKeyValueCache,
    hooks: Sequence[tuple[str, Callable[..., Any]]],
    stop: int | None = None,
) -> Float[Tensor, "run some_pos d_model"]:
    """Blocks from `layer` up to `stop`, None for all.

    No mask is given: rows have no pads, so positions count on from the cache. Blocks are called as they are: `run_with_hooks` would clear every
    hook of the model after each of thousands of runs.
    """
    with ExitStack() as stack:
        for name, put in hooks:
            handle = model.hook_dict[name].register_forward_hook(lambda point, given, value, put=put: put(value, point))
            stack.callback(handle.remove)
        for number in range(layer, model.cfg.n_layers if stop is None else stop):
            resid = model.blocks[number](resid, past_kv_cache_entry=cache[number])
    return resid


def _last_from(
    model: transformer_lens.HookedTransformer,
    resid: Float[Tensor, "run some_pos d_model"],
    layer: int,
    cache: TransformerLensKeyValueCache,
    hooks: Sequence[tuple[str, Callable[..., Any]]],
) -> Float[Tensor, "run 1 d_model"]:
    """The last position alone. In the last block nothing reads the others but as keys and values, so only those are computed of them."""
    config, end = model.cfg, model.cfg.n_layers - 1
    split = config.use_split_qkv_input or config.use_attn_in or config.original_architecture in POST_NORM_ARCHITECTURES
    if split or layer > end or resid.shape[1] == 1 or any(name.startswith(f"blocks.{end}.") for name, _ in hooks):
        return _run_from(model, resid, layer, cache, hooks)[:, -1:]
    if layer < end:
        resid = _run_from(model, resid, layer, cache, hooks, end)
    block, entry = model.blocks[end], cache.entries[end]
    others = block.ln1(resid[:, :-1])
    _, keys, values = block.attn.calculate_qkv_matrices(others[:, :0], others, others)
    entry.past_keys, entry.past_values = torch.cat([entry.past_keys, keys], 1), torch.cat([entry.past_values, values], 1)
    return _run_from(model, resid[:, -1:], end, cache, [])


def _writer(writes: Writes, start: int) -> Callable[..., Any]:
    return lambda activation, hook: writes.into(activation, start)
