"""The residual stream with its graph, for what differentiates later layers by earlier ones; alike on every TransformerLens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from slm_interp.errors import ReadoutError
from slm_interp.hooked.installed import HookedTransformer, run_blocks
from slm_interp.hooked.sites import stream_names


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
    if model.training:
        raise ReadoutError("Gradients are taken of a model in evaluation mode, without dropout; this one is training. Call model.eval().")
    if not 0 <= first <= model.cfg.n_layers:
        raise ReadoutError(f"Layers count blocks run, 0 (embedding) to {model.cfg.n_layers} (what the model reads); got {first}.")
    if tokens.shape[1] > model.cfg.n_ctx:
        raise ReadoutError(f"The model reads at most {model.cfg.n_ctx} positions; these rows have {tokens.shape[1]}.")
    stream: list[Tensor] = []

    def keep(resid: Tensor, hook: Any) -> Tensor:
        stream.append(resid if stream else resid.detach().requires_grad_())
        return stream[-1]

    with torch.enable_grad():
        run_blocks(model, tokens, [(name, keep) for name in stream_names(model)[first:]])
    return tuple(stream)
