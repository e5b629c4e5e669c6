"""Runs that begin at a layer and a position of another run: nothing below the layer or before the position is computed again.

1. `keep` (here) runs the rows of a prompt and its continuations once: residual stream, keys and values of the prompt.
2. `resume` (in the module of each TransformerLens) takes a batch of runs that differ from it from one layer and one position on. Below the
   layer they are the kept run, and before the position they are too, as attention is causal: residuals come from the stream, keys and
   values of the prefix from the cache.
3. The prompt is run once for each of them; its continuations go on from the keys and values of the changed prompt.

On TransformerLens 4.x, which has no such cache, whole rows are run with the residuals put in by hook: the same numbers, later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from slm_interp.errors import ReadoutError
from slm_interp.hooked.installed import HookedTransformer, run_and_cache
from slm_interp.hooked.kept import Kept, Writes
from slm_interp.hooked.sites import hook_at, stream_names


def keep(model: HookedTransformer, tokens: Int[Tensor, "row pos"], lengths: Sequence[int], prompt: int, names: Sequence[str] = ()) -> Kept:
    """Run rows that begin with one prompt, without gradients, and keep what runs from their middle need.

    Args:
        tokens: padded on the right.
        lengths: of each row without its pads.
        prompt: positions at the start that are alike in every row.
        names: of hooks whose values at the prompt are wanted too.

    Raises:
        ReadoutError: more positions than the model reads, or a hook that never ran.
    """
    if tokens.shape[1] > model.cfg.n_ctx:
        raise ReadoutError(f"The model reads at most {model.cfg.n_ctx} positions; these rows have {tokens.shape[1]}.")
    stream: list[Tensor] = []
    at: dict[str, Tensor] = {}
    broken: list[str] = []

    def onto_stream(resid: Tensor, hook: Any) -> None:
        stream.append(resid)

    def watch(name: str) -> Any:
        def look(value: Tensor, hook: Any) -> None:
            if not value.isfinite().all():
                broken.append(name)

        return look

    def store(name: str) -> Any:
        def put(value: Tensor, hook: Any) -> None:
            at[name] = value[0, :, :prompt, :prompt] if name in patterns else value[0, :prompt]

        return put

    patterns = {hook_at("pattern", layer) for layer in range(model.cfg.n_layers)}
    watched = [hook_at(site, layer) for layer in range(model.cfg.n_layers) for site in ("q", "k", "v")]
    residual = stream_names(model)
    hooks = [(name, onto_stream) for name in residual] + [(name, watch(name)) for name in [*residual, *watched]]
    with torch.no_grad():
        past = run_and_cache(model, tokens, [*hooks, *((name, store(name)) for name in names)])
    silent = [name for name in names if name not in at]
    if silent:
        raise ReadoutError(f"Nothing passed {silent[0]} ({len(silent)} such hooks): this model has no such place.")
    own = None if past is None else tuple((keys[:1, :prompt], values[:1, :prompt]) for keys, values in past)
    return Kept(tokens, tuple(lengths), prompt, torch.stack(stream), own, at, tuple(broken))


def written_at(site: str, layer: int, writes: Writes, resid: Float[Tensor, "pos d_model"]) -> dict[str, Writes]:
    """What to write at which hook so that these values stand at a site.

    `resid_mid` is set through what attention adds, `resid_mid - resid_pre`: its own hook is seen by the MLP alone on 4.x.

    Args:
        resid: the residual stream before the block, in the run that is changed.
    """
    if site != "resid_mid":
        return {hook_at(site, layer): writes}
    there = resid[writes.pos.to(resid.device)]
    return {hook_at("attn_out", layer): replace(writes, values=writes.values.to(there) - there)}
