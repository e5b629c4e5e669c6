"""Edge attribution patching (EAP): what changing one edge would do to the outcome, to first order, for all edges at once.

1. Two runs without gradients give what every node writes in the base and in the source run; their difference `d` is taken through the pairing.
2. One run with gradients gives the outcome's gradient `g` at every input of every node apart (`gradients.py`).
3. The score of an edge from `u` into a slot of `v` is `d_u . g_v`, summed over positions inside a span: outcome of the base run with that one
   edge carrying source values, less the outcome of the base run, to first order.
4. Keys and values carry from the span of what is read to the span of what reads: their scores are kept for every pair of spans.

Scores are means over contrasts; a contrast that lacks a span has no edge there, which counts as 0. Under noising a score below 0 says that
corrupting the edge would hurt. Syed, Rager, Conmy 2023 (arXiv 2310.10348); Nanda 2023 (attribution patching).

Exact where the way from the edge to the outcome is linear; elsewhere an estimate, worst where a softmax or a norm is saturated. Integrated gradients
(`integrated.py`) help, exact path patching (`path_patching.py`) tells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TypeAlias

import numpy as np
import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from slm_interp.circuits.gradients import Gradient, each_gradient
from slm_interp.circuits.graph import Graph, graph_of
from slm_interp.circuits.nodes import Shape, places, targets, writers
from slm_interp.circuits.task import Pair, Task
from slm_interp.circuits.values import Values, differences, values_of, zeros_like
from slm_interp.errors import PatchingError

Points: TypeAlias = Callable[[Values, Values, Pair], Iterable[Mapping[str, Tensor]]]
"""From base values, source values at base positions and a pair to what is replaced in each run whose gradients are averaged."""


def eap(task: Task) -> Graph:
    """Scores of all edges at the base run: two runs, and one with gradients, for each contrast.

    Raises:
        PatchingError: an outcome without gradients; what `Task` refuses.
    """
    return attributed(task, "EAP", lambda base, source, pair: [{}])


def zero_ablation(task: Task) -> Graph:
    """As `eap`, with nodes that write nothing in place of the source run: what each edge is worth at all, and not what tells the prompts apart."""
    return attributed(task, "EAP, zero ablation", lambda base, source, pair: [{}], zero=True)


def attributed(task: Task, method: str, points: Points, zero: bool = False) -> Graph:
    """Scores from differences and the mean of gradients over some runs."""
    shape, spans = task.shape, len(task.span_names)
    total = np.zeros((len(writers(shape)), len(targets(shape)), spans, spans))
    for pair in tqdm(task.pairs, desc=method, unit="contrast", disable=len(task.pairs) < 2):
        base = values_of(task.slm, pair.base.tokens)
        source = values_of(task.slm, pair.source.tokens)
        if zero:
            source = zeros_like(source)
        change = differences(task, pair, source, base)
        runs = list(points(base, source, pair))
        for replaced in runs:
            each_gradient(task, pair, partial(add_scores, total, shape, pair, change, 1 / (len(runs) * len(task.pairs))), replaced)
    if not np.isfinite(total).all():
        raise PatchingError("Scores of edges are not finite. Scan the weights: slm-interp verify.")
    return graph_of(task, total, method)


def add_scores(
    total: Float[np.ndarray, "source target source_span target_span"],
    shape: Shape,
    pair: Pair,
    change: Float[Tensor, "source row pos d_model"],
    share: float,
    gradient: Gradient,
) -> None:
    """Add what one slot's gradients give to the scores of the edges into it."""
    there = _targets_of(shape, gradient)
    before = targets(shape)[there.start].before
    by_position = einsum(change[:before], gradient.at.to(change), "source row pos d_model, target row pos d_model -> source target pos")
    spans = total.shape[-1]
    within = torch.nn.functional.one_hot(pair.span.clamp(min=0), spans).to(by_position) * (pair.span >= 0).to(by_position)[:, None]
    found = (by_position @ within).double().cpu().numpy() * share
    if gradient.span is None:
        own = np.arange(spans)
        total[:before, there][..., own, own] += found
    else:
        total[:before, there, :, gradient.span] += found


def _targets_of(shape: Shape, gradient: Gradient) -> slice:
    if gradient.layer == shape.n_layers:
        return slice(len(targets(shape)) - 1, len(targets(shape)))
    return places(shape, gradient.layer, gradient.slot)
