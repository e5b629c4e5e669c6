"""Going on from what stands at a layer, with gradients: for those who change residuals themselves, at every position at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from slm_interp.hooked.gradients import _check, _run_from
from slm_interp.hooked.installed import HookedTransformer
from slm_interp.hooked.sites import stream_names


def run_from_layer(
    model: HookedTransformer,
    tokens: Int[Tensor, "run pos"],
    layer: int,
    resid: Float[Tensor, "run pos d_model"],
    hooks: Sequence[tuple[str, Callable[..., Any]]] = (),
) -> Float[Tensor, "run pos d_model"]:
    """The residual stream after the last block, of runs in which `resid` stands after `layer` blocks; with gradients, where they are on.

    Args:
        tokens: of the runs, for their lengths alone. Pads on the right are seen by no position before them.
        layer: blocks run; with all of them run, `resid` itself is given back.
        hooks: of later layers.

    Raises:
        ReadoutError: a model in training mode, rows longer than it reads.
    """
    _check(model, tokens)
    if layer == model.cfg.n_layers:
        return resid
    last: list[Tensor] = []

    def keep(value: Tensor, hook: Any) -> None:
        last.append(value)

    _run_from(model, tokens, layer, resid, [*hooks, (stream_names(model)[-1], keep)], model.cfg.n_layers)
    return last[0]
