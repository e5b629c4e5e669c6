"""Gradients of an outcome at every input of every node apart, from one run with its graph.

1. One run keeps, block by block, queries, keys, values, attention scores, mixed values, what the MLP reads and what it writes, and the last residual;
   one backward pass gives the outcome's gradients there.
2. What a single head's query costs is its own gradient, pulled back through `W_Q` of that head and the block's first norm: nothing else lies between a
   query and the residual stream. Likewise keys and values, by key-value head. TransformerLens's `use_split_qkv_input`, which
   copies the stream for every head before the run, is not needed, and neither are ungrouped keys and values.
3. Keys and values carry from a span to another. The gradient of a key is a sum over the queries that look at it, and that of a value a sum over
   the positions that take it, so each is also had for the destinations of one span alone: the gradients at scores and at mixed values, with
   all other rows put to 0, go back to the keys and the values.
4. The input of an MLP and of the final norm are pulled back by the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from einops import einsum, rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from slm_interp import hooked
from slm_interp.circuits.nodes import SLOTS, Shape, Slot
from slm_interp.circuits.task import Pair, Task
from slm_interp.circuits.values import weight
from slm_interp.errors import PatchingError
from slm_interp.hooked.installed import run_blocks
from slm_interp.model import SpeechTextModel
from slm_interp.patching.measuring import read_of
from slm_interp.patching.outcomes import Outcome

INPUT = "blocks.0.hook_resid_pre"


@dataclass(frozen=True, eq=False)
class Gradient:
    """Gradients at one slot of one block.

    Args:
        layer, slot: which; `in` of layer `n_layers` is the final norm.
        span: number of the span in which the destinations lie, for keys and values; None elsewhere.
        at: the residual that each target reads, for the product with differences of it.
    """

    layer: int
    slot: Slot
    span: int | None
    at: Float[Tensor, "target row pos d_model"]


@dataclass(frozen=True, eq=False)
class Run:
    """A run with its graph."""

    kept: Mapping[str, Tensor]
    outcome: Float[Tensor, ""]
    found: Mapping[str, Tensor] = field(default_factory=dict)


def each_gradient(task: Task, pair: Pair, visit: Callable[[Gradient], None], replaced: Mapping[str, Tensor] | None = None) -> float:
    """Visit the gradients of the outcome of the base run at every target, block by block from the last; returns that outcome.

    Args:
        replaced: what stands at some hooks instead of what was computed there; the input by `blocks.0.hook_resid_pre`. What leads to a replaced
            value has no gradient through it.

    Raises:
        PatchingError: an outcome without gradients, or one that is not finite.
    """
    slm, shape = task.slm, task.shape
    if slm.model.training:
        raise PatchingError("Gradients are taken of a model in evaluation mode, without dropout; this one is training. Call model.eval().")
    with hooked.frozen(slm.model), torch.enable_grad():
        run = _run(slm, pair, task.outcome, shape, replaced or {})
        visit(Gradient(shape.n_layers, "in", None, run.found["last"][None]))
        for layer in reversed(range(shape.n_layers)):
            for gradient in _block(task, run, pair, layer):
                visit(gradient)
    return float(run.outcome)


def _run(slm: SpeechTextModel, pair: Pair, outcome: Outcome, shape: Shape, replaced: Mapping[str, Tensor]) -> Run:
    kept: dict[str, Tensor] = {}

    def put(value: Tensor, hook: Any, name: str) -> Tensor:
        made = replaced[name].to(value) if name in replaced else value
        kept[name] = made.detach().requires_grad_() if name == INPUT else made
        return kept[name]

    read = [f"blocks.{layer}.{place}" for layer in range(shape.n_layers) for place in _places(shape)]
    last = hooked.hook_at("resid_post", shape.n_layers)
    # every hook gives back what it keeps: TransformerLens 4.x shows hooks a copy in the classic shape, and goes on with what they return
    names = dict.fromkeys([INPUT, *read, *replaced, last])
    run_blocks(slm.model, pair.base.tokens, [(name, lambda value, hook, name=name: put(value, hook, name)) for name in names])
    score = outcome.score(read_of(slm, pair.base, kept[last], pair.reference))
    if not score.requires_grad:
        raise PatchingError(
            f"The outcome {outcome.name!r} has no gradient (it counts, or is cut off). Attribute a difference or a log-probability."
        )
    if not score.isfinite():
        raise PatchingError(f"The outcome {outcome.name!r} is not finite. Scan the weights: slm-interp verify.")
    wanted = [name for name in [*read, last] if kept[name].requires_grad]
    made = torch.autograd.grad(score, [kept[name] for name in wanted], retain_graph=True, allow_unused=True)
    found = {name: torch.zeros_like(kept[name]) if one is None else one for name, one in zip(wanted, made, strict=True)}
    found |= {name: torch.zeros_like(kept[name]) for name in read if name not in found}
    return Run(kept, score.detach(), {**found, "last": found[last]})


def _places(shape: Shape) -> list[str]:
    """What is kept of a block."""
    heads = ["hook_resid_pre", "attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_attn_scores", "attn.hook_z"]
    return heads + ([] if shape.attn_only else ["hook_mlp_out", *([] if shape.parallel else ["hook_resid_mid"])])


def _block(task: Task, run: Run, pair: Pair, layer: int) -> Iterator[Gradient]:
    shape = task.shape

    def of(place: str) -> tuple[Tensor, Tensor]:
        name = f"blocks.{layer}.{place}"
        return run.kept[name], run.found[name]

    if not shape.attn_only:
        read, _ = of("hook_resid_pre" if shape.parallel else "hook_resid_mid")
        yield Gradient(layer, "in", None, _back(*of("hook_mlp_out"), read)[None])
    resid, _ = of("hook_resid_pre")
    _, at_query = of("attn.hook_q")
    yield Gradient(layer, "q", None, _through_norm(task, layer, "q", resid, at_query[None])[0])
    spans = [span for span in range(len(task.span_names)) if (pair.span == span).any()]
    rows = torch.stack([pair.span == span for span in spans])
    for slot, place in zip(SLOTS[1:], ("hook_attn_scores", "hook_z"), strict=True):
        carried, _ = of(f"attn.hook_{slot}")
        mixed, at_mixed = of(f"attn.{place}")
        # scores are [row head dest source], mixed values [row dest head d_head]
        within = rearrange(rows, "span dest -> span 1 1 dest 1" if slot == "k" else "span dest -> span 1 dest 1 1").to(at_mixed)
        at_carried = torch.stack([_back(mixed, at_mixed * one, carried) for one in within])
        for span, at in zip(spans, _through_norm(task, layer, slot, resid, at_carried), strict=True):
            yield Gradient(layer, slot, span, at)


def _back(made: Tensor, gradient: Tensor, read: Tensor) -> Tensor:
    """The gradient at what was read, from that at what was made of it."""
    if not made.requires_grad or not read.requires_grad:  # a replaced value was made of nothing
        return torch.zeros_like(read)
    (found,) = torch.autograd.grad(made, read, gradient, retain_graph=True, allow_unused=True)
    if found is None:
        raise PatchingError(
            "What a block reads does not lead to what it writes in this model's graph, so its edges have no scores. Use TransformerLens 3.9."
        )
    return found


def _through_norm(
    task: Task, layer: int, slot: Slot, resid: Float[Tensor, "row pos d_model"], gradient: Float[Tensor, "span row pos head d_head"]
) -> Float[Tensor, "span head row pos d_model"]:
    """Each head's gradient at the residual stream before the block, through its weights and the first norm."""
    W = weight(task, layer, f"W_{slot.upper()}")
    at_norm = einsum(gradient, W, "span row pos head d_head, head d_model d_head -> span head row pos d_model")
    sizes = {"span": at_norm.shape[0], "head": at_norm.shape[1]}
    flat = repeat(resid.detach(), "row pos d_model -> (span head row) pos d_model", **sizes).requires_grad_()
    normed = task.slm.model.blocks[layer].ln1(flat)
    (found,) = torch.autograd.grad(normed, flat, rearrange(at_norm, "span head row pos d_model -> (span head row) pos d_model"))
    return rearrange(found, "(span head row) pos d_model -> span head row pos d_model", **sizes)
