"""What every node writes in a run: the input, every head (`z @ W_O`) and every MLP; with `b_O`, which is no node's, they sum to the residual stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor

from slm_interp import hooked
from slm_interp.circuits.nodes import Shape
from slm_interp.circuits.task import Pair, Task
from slm_interp.errors import PatchingError
from slm_interp.hooked.installed import run_blocks
from slm_interp.model import SpeechTextModel


@dataclass(frozen=True, eq=False)
class Values:
    """What the nodes write, in the model's own dtype; heads before `W_O`.

    Args:
        input: what the embedding wrote.
        z: of every block.
        mlp: of every block; none in a model of attention alone.
    """

    input: Float[Tensor, "row pos d_model"]
    z: tuple[Float[Tensor, "row pos head d_head"], ...]
    mlp: tuple[Float[Tensor, "row pos d_model"], ...]


def values_of(slm: SpeechTextModel, tokens: Int[Tensor, "row pos"]) -> Values:
    """What the nodes write in a run as it is, without gradients.

    Raises:
        PatchingError: values that are not finite.
    """
    kept: dict[str, Tensor] = {}
    shape = Shape.of(slm.model.cfg)
    z = [hooked.hook_at("z", layer) for layer in range(shape.n_layers)]
    mlp = [] if shape.attn_only else [hooked.hook_at("mlp_out", layer) for layer in range(shape.n_layers)]
    names = ["blocks.0.hook_resid_pre", *z, *mlp]
    with torch.no_grad():
        run_blocks(slm.model, tokens, [(name, keeper(kept, name)) for name in names])
    broken = [name for name in names if not kept[name].isfinite().all()]
    if broken:
        raise PatchingError(f"What passes {broken[0]} is not finite. Scan the weights: slm-interp verify.")
    return Values(kept[names[0]], tuple(kept[name] for name in z), tuple(kept[name] for name in mlp))


def keeper(kept: dict[str, Tensor], name: str) -> Callable[[Tensor, Any], None]:
    """A hook that keeps what passes, under a name."""

    def keep(value: Tensor, hook: Any) -> None:
        kept[name] = value

    return keep


def weight(task: Task, layer: int, name: str) -> Tensor:
    """A parameter of a block's attention by its classic name; keys and values by key-value head, not copied to every query head."""
    grouped = f"blocks.{layer}.attn._{name}"
    return task.weights[grouped if grouped in task.weights else f"blocks.{layer}.attn.{name}"]


def zeros_like(values: Values) -> Values:
    """Nodes that write nothing."""
    return Values(values.input * 0, tuple(one * 0 for one in values.z), tuple(one * 0 for one in values.mlp))


def differences(task: Task, pair: Pair, source: Values, base: Values) -> Float[Tensor, "source row pos d_model"]:
    """What each writer writes in the source run less what it writes in the base run, at base positions, in float32 at least."""
    shape = task.shape

    def changed(there: Tensor, here: Tensor) -> Tensor:
        return pair.changed(hooked.widened(there), hooked.widened(here))

    found = [changed(source.input, base.input)[None]]
    for layer in range(shape.n_layers):
        found.append(results(task, layer, changed(source.z[layer], base.z[layer])))
        if not shape.attn_only:
            found.append(changed(source.mlp[layer], base.mlp[layer])[None])
    return torch.cat(found)


def results(task: Task, layer: int, z: Float[Tensor, "*batch pos head d_head"]) -> Float[Tensor, "head *batch pos d_model"]:
    """What each head of a block writes."""
    W_O = hooked.widened(weight(task, layer, "W_O"))
    return rearrange(einsum(z, W_O, "... head d_head, head d_head d_model -> ... head d_model"), "... head d_model -> head ... d_model")
