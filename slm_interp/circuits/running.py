"""Running a model with a circuit: what the kept edges carry is computed in this run, what the others carry comes from the source run.

1. The base prompt is run. The input of a slot is the sum of what all writers before it wrote in this run, plus, for every dropped edge into it, what
   its writer wrote in the source run less what it wrote in this one.
   So a node outside the circuit computes from source values alone and writes what it wrote in the source run.
2. Queries, keys and values are computed from those inputs, slot by slot, and put at their hooks; the MLP and the final norm read theirs.
3. An edge into keys or values that is dropped for some destinations and kept for others needs keys of more than one kind: then the block runs once
   for every span of destinations, and each destination takes its own.
4. Many circuits run at once, as rows of a batch.

With all edges kept this is the base run; with none it is the source run at every base position that is written, and so at equal lengths the source run itself.
Positions that no source value reaches (see `task.py`) always keep their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from einops import einsum, rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm import tqdm

from slm_interp import hooked
from slm_interp.circuits.graph import EVERYTHING, Graph
from slm_interp.circuits.nodes import SLOTS, Slot, places, targets, writers
from slm_interp.circuits.task import Pair, Task
from slm_interp.circuits.values import Values, results, values_of, weight, zeros_like
from slm_interp.errors import PatchingError
from slm_interp.hooked.installed import run_blocks
from slm_interp.patching.measuring import finite, read_of

MEMORY = 512 * 2**20
Outside: TypeAlias = Literal["source", "zero"]


def outcomes_of(
    task: Task, graphs: Sequence[Graph], outside: Outside | Sequence[Values] = "source", memory: int = MEMORY
) -> Float[np.ndarray, "contrast graph"]:
    """The outcome of every contrast under every circuit.

    Args:
        graphs: of this task's model; all with the spans of the task, or all without regard to spans.
        outside: what dropped edges carry: the source run's values, nothing (`zero`), or values of one's own for each contrast, such as `means`.
        memory: bytes that what the nodes wrote may take at once; a single circuit may take more.

    Raises:
        PatchingError: graphs of another model or other spans, an option that is not there, outcomes that are not finite.
    """
    if isinstance(outside, str) and outside not in ("source", "zero"):
        raise PatchingError(f"Dropped edges carry 'source' values, 'zero', or values given for each contrast; got {outside!r}.")
    dropped = torch.from_numpy(np.stack([graph.real & ~graph.kept for graph in _of_this_task(task, graphs)]))
    groups = _groups(task, dropped)
    found = np.empty((len(task.pairs), len(graphs)))
    for number, pair in enumerate(tqdm(task.pairs, desc="circuits", unit="contrast", disable=len(task.pairs) * len(graphs) < 40)):
        given = outside if isinstance(outside, str) else outside[number]
        source = values_of(task.slm, pair.source.tokens) if isinstance(given, str) else given
        source = zeros_like(source) if given == "zero" else source
        rows, length = pair.base.tokens.shape
        for copies, group in groups.items():
            each = 4 * (2 * len(writers(task.shape)) + 3 * task.shape.n_heads * copies) * rows * length * task.slm.model.cfg.d_model
            for part in group.split(max(1, memory // each)):
                found[number, part.numpy()] = _run(task, pair, source, dropped[part].to(pair.base.tokens.device), copies)
    return found


def _groups(task: Task, dropped: Bool[Tensor, "run source target source_span target_span"]) -> dict[int, Int[Tensor, " some"]]:
    """Numbers of the circuits by how many copies of a block they need: one for each span of destinations if their keys and values differ, else one."""
    across = [number for number, one in enumerate(targets(task.shape)) if one.slot in ("k", "v")]
    kinds, spans = dropped[:, :, across], dropped.shape[-1]
    back = torch.ones(spans, spans, dtype=torch.bool).triu()
    apart = (kinds.any(-1) != (kinds | ~back).all(-1)).flatten(1).any(1)
    found = {copies: (apart == (copies > 1)).nonzero().flatten() for copies in ({1, spans})}
    return {copies: group for copies, group in found.items() if len(group)}


def means(task: Task, prompts: Sequence[Any]) -> list[Values]:
    """What every node writes on average over positions of some prompts, for every contrast: mean ablation outside a circuit.

    Raises:
        PatchingError: no prompts.
    """
    if not len(prompts):
        raise PatchingError("A mean is taken over one prompt or more; got none.")
    total, count = None, 0
    for prompt in prompts:
        values = _flat(values_of(task.slm, task.slm.check(prompt).tokens[None]))
        total = values if total is None else [old + new for old, new in zip(total, values, strict=True)]
        count += len(prompt)
    assert total is not None
    found = []
    for pair in task.pairs:
        rows, length = pair.source.tokens.shape
        spread = [(one / count).expand(rows, length, *one.shape).to(task.slm.model.cfg.dtype) for one in total]
        n_layers = task.shape.n_layers
        found.append(Values(spread[0], tuple(spread[1 : 1 + n_layers]), tuple(spread[1 + n_layers :])))
    return found


def _flat(values: Values) -> list[Tensor]:
    return [hooked.widened(one[0]).sum(0) for one in (values.input, *values.z, *values.mlp)]


def _of_this_task(task: Task, graphs: Sequence[Graph]) -> Sequence[Graph]:
    if not len(graphs):
        raise PatchingError("A run takes one circuit or more; got none.")
    for graph in graphs:
        if graph.shape != task.shape:
            raise PatchingError(f"A circuit runs in a model of its own shape; the graph is of {graph.shape}, the model of {task.shape}.")
        if graph.spans != graphs[0].spans or graph.spans not in (task.span_names, (EVERYTHING,)):
            raise PatchingError(
                f"A circuit has the spans of its task, {', '.join(task.span_names)}, or none (over_spans); got {', '.join(graph.spans)}."
            )
    return graphs


@dataclass(eq=False)
class _State:
    """A run under way: what was written so far.

    Args:
        resid: the sum of it, with `b_O`.
        change: source value less own value of every writer so far.
        z: source values by block, at base positions; None where a base value would be kept.
    """

    task: Task
    pair: Pair
    source: Values
    dropped: Bool[Tensor, "run source target source_span target_span"]
    span: Tensor
    copies: int
    resid: Tensor = field(default_factory=lambda: torch.empty(0))
    change: list[Tensor] = field(default_factory=list)

    def wrote(self, own: Float[Tensor, "node run row pos d_model"], source: Float[Tensor, "node row source_pos d_model"]) -> None:
        """Add writers to the sum, and what their source values would change."""
        taken = einsum(self.pair.weights.to(source), source, "base_pos source_pos, node row source_pos d -> node row base_pos d")
        written = self.pair.written.to(own)[:, None]
        self.change.append(taken[:, None] - written * own)
        self.resid = self.resid + own.sum(0) if self.resid.numel() else own.sum(0)

    def read(self, there: slice) -> Float[Tensor, "target run copy row pos d_model"]:
        """The inputs of some targets; one copy where all destinations read alike."""
        targets_there = targets(self.task.shape)[there]
        before, across = targets_there[0].before, targets_there[0].slot in ("k", "v")
        dropped = self.dropped[:, :before, there]
        if not dropped.any():
            return self.resid[None, :, None].expand(len(targets_there), -1, 1, -1, -1, -1)
        spans = torch.arange(self.copies, device=self.span.device) if across else None
        masks = dropped[..., self.span, :][..., spans] if across else dropped[..., self.span, self.span][..., None]
        change = torch.cat(self.change)[:before]
        added = einsum(masks.to(change), change, "run source target pos copy, source run row pos d -> target run copy row pos d")
        return self.resid[None, :, None] + added


def _run(task: Task, pair: Pair, source: Values, dropped: Tensor, copies: int) -> Float[np.ndarray, " run"]:
    across = [number for number, one in enumerate(targets(task.shape)) if one.slot in ("k", "v")]
    state = _State(task, pair, source, dropped, pair.span if dropped.shape[-1] > 1 else torch.zeros_like(pair.span), copies)
    if copies == 1:  # all destinations of a span alike: what holds for one holds for all
        state.dropped = dropped.clone()
        state.dropped[:, :, across, :, 0] = dropped[:, :, across].any(-1)
    runs, (rows, length) = len(dropped), pair.base.tokens.shape
    tokens = repeat(pair.base.tokens, "row pos -> (run row copy) pos", run=runs, copy=state.copies)
    with torch.no_grad():
        run_blocks(task.slm.model, tokens, _hooks(state, runs, rows, length))
        last = state.read(slice(len(targets(task.shape)) - 1, None))[0, :, 0].to(task.slm.model.cfg.dtype)
        scores = task.outcome.score(read_of(task.slm, pair.base, last, pair.reference))
    return finite(scores, task.outcome.name).double().cpu().numpy()


def _hooks(state: _State, runs: int, rows: int, length: int) -> list[tuple[str, Any]]:
    """One run's hooks; every one of them either puts what a slot reads or takes what a node wrote."""
    task, shape = state.task, state.task.shape
    model, dtype = task.slm.model, task.slm.model.cfg.dtype

    def apart(value: Tensor) -> Tensor:
        return rearrange(value, "(run row copy) ... -> run row copy ...", run=runs, row=rows)

    def begin(value: Tensor, hook: Any) -> None:
        state.wrote(hooked.widened(apart(value)[:, :, 0])[None], hooked.widened(state.source.input)[None])

    def slot(layer: int, name: Slot) -> Any:
        def put(value: Tensor, hook: Any) -> Tensor:
            read = state.read(places(shape, layer, name)).to(dtype)
            flat = rearrange(read, "head run copy row pos d_model -> (head run copy) (row pos) d_model")
            normed = model.blocks[layer].ln1(flat)
            normed = rearrange(normed, "(head run copy) (row pos) d -> head run copy row pos d", run=runs, copy=read.shape[2], row=rows)
            W, b = (weight(task, layer, f"{kind}_{name.upper()}") for kind in "Wb")
            made = einsum(normed, W, "head run copy row pos d_model, head d_model d_head -> run row copy pos head d_head") + b
            return rearrange(
                made.expand(-1, -1, state.copies, -1, -1, -1), "run row copy pos head d_head -> (run row copy) pos head d_head"
            )

        return put

    def mixed(layer: int) -> Any:
        def take(value: Tensor, hook: Any) -> None:
            z = apart(value)
            own = z[:, :, state.span, torch.arange(length, device=z.device)] if state.copies > 1 else z[:, :, 0]
            state.wrote(results(task, layer, hooked.widened(own)), results(task, layer, hooked.widened(state.source.z[layer])))
            state.resid = state.resid + hooked.widened(weight(task, layer, "b_O"))

        return take

    def into_mlp(layer: int) -> Any:
        def put(value: Tensor, hook: Any) -> Tensor:
            read = state.read(places(shape, layer, "in"))[0].to(value)
            return rearrange(read.expand(-1, state.copies, -1, -1, -1), "run copy row pos d_model -> (run row copy) pos d_model")

        return put

    def out_of_mlp(layer: int) -> Any:
        def take(value: Tensor, hook: Any) -> None:
            state.wrote(hooked.widened(apart(value)[:, :, 0])[None], hooked.widened(state.source.mlp[layer])[None])

        return take

    made: list[tuple[str, Any]] = [("blocks.0.hook_resid_pre", begin)]
    for layer in range(shape.n_layers):
        made += [(f"blocks.{layer}.attn.hook_{name}", slot(layer, name)) for name in SLOTS]
        made.append((f"blocks.{layer}.attn.hook_z", mixed(layer)))
        if not shape.attn_only:
            made.append((f"blocks.{layer}.hook_resid_{'pre' if shape.parallel else 'mid'}", into_mlp(layer)))
            made.append((f"blocks.{layer}.hook_mlp_out", out_of_mlp(layer)))
    return made
