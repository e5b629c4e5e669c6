"""Attribution patching (AtP): what exact patching does, to first order, for all layers, sites and spans from two forwards and one backward.

1. The source prompt is run and what stands at the sites is kept.
2. The base prompt is run with its graph, and the outcome is differentiated by everything that stands at the sites.
3. A cell's effect is slope times what is moved, summed over the span: equation 4 of Kramar et al. 2024 (arXiv 2403.00745), with the pairing's values in
   place of the node of the other prompt. First described by Nanda 2023 (neelnanda.io, "Attribution Patching").

Exact where the outcome is linear in what stands at the site. It fails where it is curved: where attention is saturated (the softmax is flat there,
whatever a patch would do) and where effects cancel; `star.py` corrects for both, `paths.py` follows the curve.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from slm_interp import hooked
from slm_interp.model import SpeechTextModel
from slm_interp.patching.attribution.asking import MEMORY, Asked, asked, attributed
from slm_interp.patching.attribution.linear import Cells, Found, begun, by_layer
from slm_interp.patching.attribution.result import Attribution
from slm_interp.patching.contrasts import Contrasts, Direction, Prepared, side_of
from slm_interp.patching.measuring import lay
from slm_interp.patching.outcomes import Outcome
from slm_interp.patching.policies import Policy
from slm_interp.patching.spans import Spans


def atp(
    slm: SpeechTextModel,
    contrasts: Contrasts,
    site: str = "resid_post",
    spans: Spans = "words",
    policy: str | Policy | None = None,
    outcome: Outcome | None = None,
    direction: Direction = "denoising",
    memory: int = MEMORY,
) -> Attribution:
    """Estimate every cell of `patching.activation` at one site.

    Args:
        contrasts, site, spans, policy, outcome, direction: as in `patching.activation`.
        memory: bytes that the graph may take. A longer prompt is run block by block: one forward more, the same numbers.

    Raises:
        PatchingError: what `patching.activation` refuses; an outcome without a gradient, such as `rank()`, or with none at the base.
        ReadoutError: a model in training mode.
    """
    return atp_sites(slm, contrasts, (site,), spans, policy, outcome, direction, memory)[site]


def atp_sites(
    slm: SpeechTextModel,
    contrasts: Contrasts,
    sites: Sequence[str],
    spans: Spans = "words",
    policy: str | Policy | None = None,
    outcome: Outcome | None = None,
    direction: Direction = "denoising",
    memory: int = MEMORY,
) -> dict[str, Attribution]:
    """As `atp`, for several sites from the same two forwards and one backward.

    Raises:
        PatchingError, ReadoutError: as `atp`.
    """
    ask = asked(slm, contrasts, sites, (spans, policy, outcome, direction))
    differentiate, cost = way(slm, ask, memory)

    def run(one: Prepared) -> dict[str, Found]:
        source, seen, other = begun(slm, one, ask.outcome, sites)
        cells = Cells(slm, one, source, seen.laid, sites)
        _, kept = differentiate(slm.model, seen.laid.tokens, cells.names, seen, cells)
        found = {place: effect for own in kept.values() for place, effect in own.items()}
        return {site: Found(by_layer(found, site), seen.values[0], other) for site in sites}

    return attributed(slm, ask, run, {"method": "AtP", **cost})


def way(slm: SpeechTextModel, ask: Asked, memory: int) -> tuple[Callable[..., Any], dict[str, int]]:
    """How gradients are taken within a budget, the same for all contrasts, and what a contrast costs with its source run."""
    laid = [lay(slm, side_of(one.contrast, one.base), one.contrast, ask.outcome).tokens.shape for one in ask.prepared]
    graph = slm.model.cfg.n_layers * max(hooked.graph_bytes(slm.model.cfg, *shape) for shape in laid)
    if graph <= memory:
        return hooked.gradients_at, {"forwards": 2, "backwards": 1}
    return hooked.gradients_by_block, {"forwards": 3, "backwards": 1}
