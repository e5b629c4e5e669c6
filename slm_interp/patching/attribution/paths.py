"""Integrated gradients: the slope followed from the base to the source, so that curvature is taken in.

1. At one layer of a site all spans move at once, on a straight line from what stands there in the base run to what the pairings make of the source:
   `x(a) = base + a * (source - base)`.
2. The outcome is differentiated at `steps` places of that line, the middles of equal parts: `a = 1/(2m), 3/(2m), ..., (2m-1)/(2m)`.
3. A cell's effect is its part of the line times the mean slope, summed over the span.

Sundararajan et al. 2017 (arXiv 1703.01365). By the fundamental theorem the effects of all spans (and heads) of a layer sum to `joint`, what moving all
of them at once does exactly; with the midpoint rule the rest falls as 1 / steps^2 where the outcome is smooth. A single step is the slope half way. (The
published EAP-IG sums the left ends 0/m, ..., (m-1)/m over inputs, so that its one step is the slope at the base; its `activations` variant the right ends.)

An effect is a share of what moving the whole layer does. That is another question than patching one span alone, unless there is one span and no heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from slm_interp import hooked
from slm_interp.errors import PatchingError
from slm_interp.model import SpeechTextModel
from slm_interp.patching.attribution.asking import MEMORY, asked, attributed
from slm_interp.patching.attribution.linear import Found, Seen, as_hooked, at_site, by_head, first_order, of_prompt, source_of
from slm_interp.patching.attribution.result import Attribution
from slm_interp.patching.contrasts import Contrasts, Direction, Prepared, side_of
from slm_interp.patching.engine import score
from slm_interp.patching.measuring import lay, read_of
from slm_interp.patching.outcomes import Outcome
from slm_interp.patching.places import hooks_of, layers_of
from slm_interp.patching.policies import Policy
from slm_interp.patching.spans import Spans

STEPS = 8


def integrated_gradients(
    slm: SpeechTextModel,
    contrasts: Contrasts,
    site: str = "resid_post",
    spans: Spans = "words",
    policy: str | Policy | None = None,
    outcome: Outcome | None = None,
    direction: Direction = "denoising",
    steps: int = STEPS,
    memory: int = MEMORY,
) -> Attribution:
    """Share out what moving all spans of a layer does, by integrated gradients; one layer after the other.

    `dataset["joint"]` is what moving them all does exactly: how far the effects of a layer are from summing to it says whether `steps` are enough.

    Args:
        contrasts, site, spans, policy, outcome, direction: as in `atp`; spans do not overlap.
        steps: places on the line where the slope is taken.
        memory: bytes that the graphs of the steps run together may take.

    Raises:
        PatchingError: spans that overlap, no steps, and what `atp` refuses.
        ReadoutError: a model in training mode.
    """
    if steps < 1:
        raise PatchingError(f"Slopes are taken at one place or more; got steps={steps}.")
    ask = asked(slm, contrasts, (site,), (spans, policy, outcome, direction))
    for one in ask.prepared:
        _refuse_overlaps(one)

    def run(one: Prepared) -> dict[str, Found]:
        line = _line(slm, one, site, ask.outcome)
        found = [_layer(slm, line, number, layer, steps, memory) for number, layer in enumerate(layers_of(slm.model, site, None))]
        effect, joint = torch.stack([own for own, _ in found]), torch.tensor([all_moved - line.base for _, all_moved in found])
        return {site: Found(effect, line.base, line.other, {"joint": joint.double()})}

    count = len(ask.grids[site].layers)
    method = {"method": f"integrated gradients, {steps} midpoints", "steps": steps}
    return attributed(slm, ask, run, {**method, "forwards": 2 + count * (steps + 1), "backwards": count * (steps + 1)})[site]


@dataclass(frozen=True, eq=False)
class _Line:
    """Where the lines of one contrast begin and end."""

    one: Prepared
    site: str
    source: Float[Tensor, "layer head source_pos d"]
    values: dict[str, Tensor]
    outcome: Outcome
    seen: Seen
    base: float
    other: float


def _line(slm: SpeechTextModel, one: Prepared, site: str, outcome: Outcome) -> _Line:
    source = source_of(slm, one, outcome, (site,))
    laid = lay(slm, side_of(one.contrast, one.base), one.contrast, outcome)
    starts = [hooked.hook_at("resid_pre", block) for block in range(slm.model.cfg.n_layers)]
    names = list(dict.fromkeys([*hooks_of(site, layers_of(slm.model, site, None)), *starts]))
    last, values = hooked.values_at(slm.model, laid.tokens, names, lambda _, value: value)
    reference = None
    if outcome.reference:
        with torch.no_grad():
            reference = source.logits if one.source == "clean" else dict(read_of(slm, laid, last).logits)
    seen = Seen(slm, laid, outcome, reference)
    with torch.enable_grad():
        seen(last.detach().requires_grad_())
    return _Line(one, site, at_site(slm, source, site), values, outcome, seen, seen.values[0], score(outcome, source, reference))


def _layer(slm: SpeechTextModel, line: _Line, number: int, layer: int, steps: int, memory: int) -> tuple[Float[Tensor, "span head"], float]:
    """The effects at one layer, and the outcome with all spans moved."""
    tokens, prompt = line.seen.laid.tokens, line.seen.laid.prompt
    name = hooks_of(line.site, [layer])[0]
    there = by_head(line.values[name], line.site)
    delta = _delta(line, there, line.source[number])
    where = (torch.arange(steps) + 0.5) / steps
    places = torch.cat([where, torch.ones(1)])  # the end of the line too: not for its slope, but for what moving all spans does
    block = layer  # resid_post counts blocks run, so what reads it is the block of that number
    resid = line.values[hooked.hook_at("resid_pre", block)] if block < slm.model.cfg.n_layers else line.values[name]
    hook = hooked.hook_at("resid_pre", block) if line.site == "resid_post" else name
    per_run = (slm.model.cfg.n_layers - block) * hooked.graph_bytes(slm.model.cfg, *tokens.shape) + 1
    slope, done = torch.zeros_like(delta), len(line.seen.values)
    for some in places.split(max(1, memory // per_run)):
        moved = rearrange(there + some.to(there.device)[:, None, None, None, None] * delta, "run row head pos d -> (run row) head pos d")
        found = hooked.gradient_from(
            slm.model,
            tokens.repeat(len(some), 1),
            (block, resid.repeat(len(some), 1, 1)),
            (hook, as_hooked(moved.to(resid), line.site)),
            line.seen,
        )
        each = rearrange(by_head(found, line.site).float(), "(run row) head pos d -> run row head pos d", run=len(some))
        slope += each[some.to(each.device) < 1].sum(0) / steps
    base = of_prompt(line.values[name][:1], line.site, prompt)
    effect = first_order(line.one.pairings, line.source[number].float(), base, of_prompt(as_hooked(slope, line.site), line.site, prompt))
    return effect, line.seen.values[done:][-1]


def _delta(
    line: _Line, there: Float[Tensor, "row head pos d"], source: Float[Tensor, "head source_pos source_d"]
) -> Float[Tensor, "row head pos d"]:
    """Source less base at the positions that move, 0 elsewhere."""
    delta = torch.zeros_like(there, dtype=torch.float32)
    base = of_prompt(as_hooked(there, line.site)[:1], line.site, line.seen.laid.prompt)
    for pairing in line.one.pairings:
        at = pairing.base.to(base.device)
        moved = pairing.values(source.float(), base) - base[:, at]
        delta[:, :, at, : moved.shape[-1]] = moved
    return delta


def _refuse_overlaps(one: Prepared) -> None:
    owner: dict[int, str] = {}
    for pair, pairing in zip(one.pairs, one.pairings, strict=True):
        for position in pairing.base.tolist():
            if position in owner:
                raise PatchingError(
                    f"All spans move at once, so none may overlap: position {position} is in {owner[position]!r} and {pair.name!r} of {one.name}. "
                    "Attribute them in two runs."
                )
            owner[position] = pair.name
