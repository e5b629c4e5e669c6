"""Attention knocked out, as plain TransformerLens hooks, for `model.run_with_hooks(tokens, fwd_hooks=hooks)`.

| function | what is done | what it asks |
|---|---|---|
| `cut_attention` | destinations look at no position of the sources; the rest sums to 1 again | does it go *directly* from there to here? |
| `cut_heads` | heads write nothing | are these heads needed? |

Cut scores are set to minus infinity before the softmax (Geva et al. 2023, arXiv 2304.14767). Information can still go from sources to destinations
by way of positions between: cut those too, or say that the direct way alone was tested.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from slm_interp import hooked
from slm_interp.errors import PatchingError

Hooks: TypeAlias = "list[tuple[str, Callable[[Tensor, Any], Tensor]]]"
Heads: TypeAlias = Mapping[int, Sequence[int]]
"""Heads by block."""


def cut_attention(
    model: hooked.HookedTransformer, sources: Iterable[int], destinations: Iterable[int], heads: Heads | None = None
) -> Hooks:
    """No destination attends to any source.

    Args:
        sources, destinations: positions, such as spans. Pairs that attention cannot join (a source after its destination) are none.
        heads: by block; None is all heads of all blocks.

    Raises:
        PatchingError: nothing to cut, heads that are not there, or a destination that would be left with nothing to attend to.
    """
    chosen, read, write = _heads(model, heads), sorted(set(sources)), sorted(set(destinations))
    if not any(source <= destination for source in read for destination in write):
        raise PatchingError(
            f"Attention looks back; no position of {_shown(write)} can see one of {_shown(read)}. Swap sources and destinations."
        )
    blind = [one for one in write if set(range(one + 1)) <= set(read)]
    if blind:
        raise PatchingError(
            f"Position {blind[0]} would be left with nothing to attend to: all of 0 to {blind[0]} is cut. Leave it its own position, or the first one."
        )

    def cut(own: Sequence[int]) -> Callable[[Tensor, Any], Tensor]:
        def hook(scores: Float[Tensor, "batch head dest source"], hook: Any) -> Float[Tensor, "batch head dest source"]:
            _inside([*read, *write], scores.shape[-1])
            scores = scores.clone()
            index = torch.meshgrid(*(torch.tensor(one, device=scores.device) for one in (list(own), write, read)), indexing="ij")
            scores[:, index[0], index[1], index[2]] = -torch.inf
            return scores

        return hook

    return [(f"blocks.{layer}.attn.hook_attn_scores", cut(own)) for layer, own in chosen.items()]


def cut_heads(model: hooked.HookedTransformer, heads: Heads, positions: Iterable[int] | None = None) -> Hooks:
    """Heads write nothing (zero ablation); everything else goes on.

    Args:
        heads: by block.
        positions: where; None is everywhere.

    Raises:
        PatchingError: heads that are not there.
    """
    chosen, there = _heads(model, heads), None if positions is None else sorted(set(positions))

    def cut(own: Sequence[int]) -> Callable[[Tensor, Any], Tensor]:
        def hook(z: Float[Tensor, "batch pos head d_head"], hook: Any) -> Float[Tensor, "batch pos head d_head"]:
            z = z.clone()
            if there is None:
                z[:, :, list(own)] = 0
            else:
                _inside(there, z.shape[1])
                index = torch.meshgrid(torch.tensor(there, device=z.device), torch.tensor(list(own), device=z.device), indexing="ij")
                z[:, index[0], index[1]] = 0
            return z

        return hook

    return [(hooked.hook_at("z", layer), cut(own)) for layer, own in chosen.items()]


def _heads(model: hooked.HookedTransformer, heads: Heads | None) -> dict[int, Sequence[int]]:
    config = model.cfg
    if heads is None:
        return {layer: range(config.n_heads) for layer in range(config.n_layers)}
    outside = [
        (layer, head) for layer, own in heads.items() for head in own if not (0 <= layer < config.n_layers and 0 <= head < config.n_heads)
    ]
    if not heads or outside or not all(len(own) for own in heads.values()):
        shown = outside[0] if outside else dict(heads)
        raise PatchingError(f"Heads are given by block, 0 to {config.n_layers - 1}, each one of 0 to {config.n_heads - 1}; got {shown}.")
    return dict(heads)


def _inside(positions: Sequence[int], length: int) -> None:
    outside = [one for one in positions if not 0 <= one < length]
    if outside:
        raise PatchingError(f"This run has positions 0 to {length - 1}; got {outside[0]}.")


def _shown(positions: Sequence[int]) -> str:
    return f"{positions[0]} to {positions[-1]}" if positions else "none"
