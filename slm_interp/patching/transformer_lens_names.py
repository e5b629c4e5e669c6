"""TransformerLens's own names: `get_act_patch_*` as in `transformer_lens.patching`, with the same arguments and the same numbers, sooner.

    from slm_interp.patching.transformer_lens_names import get_act_patch_resid_pre
    get_act_patch_resid_pre(slm.model, corrupted_tokens, clean_cache, metric)  # [layer, pos]

A metric of TransformerLens reads all logits, so they are all computed: from the patched layer and position on, in batches of cells, and before that position
once for all cells. Where the metric reads one position and few ids, `patching.activation` is far quicker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any, TypeAlias

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from slm_interp import hooked
from slm_interp.errors import PatchingError
from slm_interp.patching.batching import batches

Metric: TypeAlias = Callable[[Tensor], Any]
Index: TypeAlias = tuple[int, ...]


def act_patch(
    model: hooked.HookedTransformer,
    corrupted_tokens: Int[Tensor, "batch pos"],
    clean_cache: Any,
    patching_metric: Metric,
    activation: str,
    axes: tuple[str, ...],
    memory: int = hooked.MEMORY,
) -> Float[Tensor, "layer ..."]:
    """Patch clean activations into the corrupted run, one cell at a time, and measure.

    Args:
        clean_cache: an `ActivationCache` or a mapping from names of hooks, of `model.run_with_cache` on the clean tokens; the same shape as the corrupted ones.
        patching_metric: of the logits `[batch, pos, d_vocab]`.
        activation: `resid_pre resid_mid attn_out mlp_out z q k v pattern`.
        axes: after the layer: `pos`, `head`, `dest_pos`, `src_pos`.
        memory: bytes that the residuals of a batch of cells may take.

    Raises:
        PatchingError: a cache of another shape.
        ReadoutError: a model without this activation.
    """
    n_layers, length = model.cfg.n_layers, corrupted_tokens.shape[1]
    if activation in hooked.SITES:
        hooked.layers_at(model, activation)
    names = [hooked.hook_at(activation, layer) for layer in range(n_layers)]
    shape = _shape(model, axes, activation, length)
    kept = [hooked.keep(model, row[None], [length], length, names) for row in corrupted_tokens]
    base = torch.stack([_logits(model, one.stream[-1, 0]) for one in kept])
    found = torch.zeros(n_layers, *shape)
    each = 12 * model.cfg.d_model * length * base.element_size()
    for layer, name in enumerate(names):
        clean = clean_cache[name]
        if len(clean) != len(kept) or clean.shape[1:] != kept[0].at[name].shape:
            raise PatchingError(
                f"The clean cache has {tuple(clean.shape)} at {name}; the corrupted run has {(len(kept), *kept[0].at[name].shape)}. Both prompts "
                "have one shape here; patching.activation takes prompts of two lengths."
            )
        writes = [_writes(one.at[name], own, (activation, axes, shape)) for one, own in zip(kept, clean, strict=True)]
        first = torch.full((found[layer].numel(),), length)
        for own in writes:
            first = first.scatter_reduce(0, own.run, own.pos, "amin")
        changed = (first < length).nonzero().flatten()
        values = torch.full((len(first),), float(patching_metric(base.clone())))
        for batch in batches(first[changed].tolist(), length, lambda start: max(1, memory // each)):
            cells = changed[batch]
            start = int(first[cells].min())
            last = torch.stack(
                [_resumed(model, one, own, cells, (activation, layer, start)) for one, own in zip(kept, writes, strict=True)]
            )
            for number, cell in enumerate(cells.tolist()):
                logits = torch.cat([base[:, :start], _logits(model, last[:, number])], 1)
                values[cell] = float(patching_metric(logits))
        found[layer] = values.reshape(shape)
    return found


def _shape(model: hooked.HookedTransformer, axes: tuple[str, ...], activation: str, length: int) -> tuple[int, ...]:
    heads = len(hooked.heads_at(model, activation)) if activation in hooked.HEADS else 0
    return tuple(heads if axis == "head" else length for axis in axes)


def _resumed(
    model: hooked.HookedTransformer, kept: hooked.Kept, writes: hooked.Writes, cells: Int[Tensor, " cell"], place: tuple[str, int, int]
) -> Float[Tensor, "cell some_pos d_model"]:
    activation, layer, start = place
    own = writes.of(cells)
    resid = kept.stream[layer, 0, start:].expand(len(cells), -1, -1)
    if activation == "resid_pre":
        return hooked.resume_all(model, kept, layer, start, own.into(resid, start), {})
    return hooked.resume_all(model, kept, layer, start, resid, hooked.written_at(activation, layer, own, kept.stream[layer, 0]))


def _writes(base: Tensor, clean: Tensor, cells: tuple[str, tuple[str, ...], tuple[int, ...]]) -> hooked.Writes:
    """What every cell of a layer puts in, cells numbered as the result is laid out; what stands there already is left out.

    Args:
        base, clean: one activation of one prompt in both runs.
        cells: activation, axes after the layer, and their sizes.
    """
    activation, axes, shape = cells
    if activation in hooked.SITES:
        base, clean = base[None], clean[None]
    elif activation != "pattern":
        base, clean = (rearrange(one, "pos head size -> head pos size") for one in (base, clean))
    unlike = base != clean
    parts = list(_cells(axes, shape, base.shape[1]))
    run, head, pos = (torch.tensor([part[place] for part in parts]) for place in (0, 1, 2))
    values = clean[head, pos]
    if "src_pos" in axes:
        src = torch.tensor([part[3] for part in parts])
        values = base[head, pos].scatter(1, src[:, None], values.gather(1, src[:, None]))
        there = unlike[head, pos, src]
    else:
        there = unlike.any(-1)[head, pos]
    heads = head if "head" in axes else None
    return hooked.Writes(run, pos, values, heads, activation == "pattern").among(there.cpu())


def _cells(axes: tuple[str, ...], shape: tuple[int, ...], length: int) -> Iterator[tuple[int, int, int, int]]:
    """Number of the cell, head, position and source of everything that is put in."""
    for number, index in enumerate(product(*(range(size) for size in shape))):
        place = dict(zip(axes, index, strict=True))
        where = place.get("pos", place.get("dest_pos"))
        for pos in range(length) if where is None else [where]:
            yield number, place.get("head", 0), pos, place.get("src_pos", 0)


def _logits(model: hooked.HookedTransformer, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab"]:
    unembedding = hooked.unembedding(model)
    made = hooked.final_norm(model, resid) @ unembedding.W_U
    made = made if unembedding.b_U is None else made + unembedding.b_U
    cap = getattr(model.cfg, "output_logits_soft_cap", 0.0) or 0.0
    return cap * torch.tanh(made / cap) if cap > 0 else made


get_act_patch_resid_pre = partial(act_patch, activation="resid_pre", axes=("pos",))
get_act_patch_resid_mid = partial(act_patch, activation="resid_mid", axes=("pos",))
get_act_patch_attn_out = partial(act_patch, activation="attn_out", axes=("pos",))
get_act_patch_mlp_out = partial(act_patch, activation="mlp_out", axes=("pos",))
get_act_patch_attn_head_out_by_pos = partial(act_patch, activation="z", axes=("pos", "head"))
get_act_patch_attn_head_q_by_pos = partial(act_patch, activation="q", axes=("pos", "head"))
get_act_patch_attn_head_k_by_pos = partial(act_patch, activation="k", axes=("pos", "head"))
get_act_patch_attn_head_v_by_pos = partial(act_patch, activation="v", axes=("pos", "head"))
get_act_patch_attn_head_pattern_by_pos = partial(act_patch, activation="pattern", axes=("head", "dest_pos"))
get_act_patch_attn_head_pattern_dest_src_pos = partial(act_patch, activation="pattern", axes=("head", "dest_pos", "src_pos"))
get_act_patch_attn_head_out_all_pos = partial(act_patch, activation="z", axes=("head",))
get_act_patch_attn_head_q_all_pos = partial(act_patch, activation="q", axes=("head",))
get_act_patch_attn_head_k_all_pos = partial(act_patch, activation="k", axes=("head",))
get_act_patch_attn_head_v_all_pos = partial(act_patch, activation="v", axes=("head",))
get_act_patch_attn_head_pattern_all_pos = partial(act_patch, activation="pattern", axes=("head",))


def get_act_patch_attn_head_all_pos_every(
    model: hooked.HookedTransformer, corrupted_tokens: Int[Tensor, "batch pos"], clean_cache: Any, metric: Metric
) -> Float[Tensor, "patch_type layer head"]:
    """Outputs, queries, keys, values and patterns of every head, all positions at once; zeros where keys and values have fewer heads."""
    return _every(
        [
            one(model, corrupted_tokens, clean_cache, metric)
            for one in (
                get_act_patch_attn_head_out_all_pos,
                get_act_patch_attn_head_q_all_pos,
                get_act_patch_attn_head_k_all_pos,
                get_act_patch_attn_head_v_all_pos,
                get_act_patch_attn_head_pattern_all_pos,
            )
        ]
    )


def get_act_patch_attn_head_by_pos_every(
    model: hooked.HookedTransformer, corrupted_tokens: Int[Tensor, "batch pos"], clean_cache: Any, metric: Metric
) -> Float[Tensor, "patch_type layer pos head"]:
    """Outputs, queries, keys, values and patterns of every head by position; zeros where keys and values have fewer heads."""
    found = [
        one(model, corrupted_tokens, clean_cache, metric)
        for one in (
            get_act_patch_attn_head_out_by_pos,
            get_act_patch_attn_head_q_by_pos,
            get_act_patch_attn_head_k_by_pos,
            get_act_patch_attn_head_v_by_pos,
        )
    ]
    pattern = get_act_patch_attn_head_pattern_by_pos(model, corrupted_tokens, clean_cache, metric)
    return _every([*found, rearrange(pattern, "layer head pos -> layer pos head")])


def get_act_patch_block_every(
    model: hooked.HookedTransformer, corrupted_tokens: Int[Tensor, "batch pos"], clean_cache: Any, metric: Metric
) -> Float[Tensor, "patch_type layer pos"]:
    """The residual stream before every block, and what attention and MLP add, by position."""
    sites = (get_act_patch_resid_pre, get_act_patch_attn_out, get_act_patch_mlp_out)
    return torch.stack([one(model, corrupted_tokens, clean_cache, metric) for one in sites])


def _every(found: list[Tensor]) -> Tensor:
    heads = found[0].shape[-1]
    return torch.stack([torch.nn.functional.pad(one, (0, heads - one.shape[-1])) for one in found])
