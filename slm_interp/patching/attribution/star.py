"""AtP*: attribution patching with both corrections of Kramar et al. 2024 (arXiv 2403.00745).

1. *QK fix* (`query_key.py`): at `q` and `k`, attention is recomputed exactly before the outcome is taken to first order.
2. *GradDrop*: an effect may be the small difference of a direct and an indirect one, and then the sign of a small slope says little. So the effect is
   estimated anew with each layer's contributions to the residual stream (its attention and its MLP together) dropped from the backward pass, and

       magnitude(cell) = 1 / (L - 1) * sum over layers l of | estimate with layer l dropped |

   The sum has L terms, and the one of the cell's own layer is 0, as all it does goes through that layer's contributions; hence L - 1. What stands in
   the residual stream itself (`resid_*`) has no such layer, so there it is divided by L. (`attn_out` and `mlp_out` are such contributions themselves.)

`effect` is the estimate with nothing dropped (with the QK fix), which has a sign; `magnitude` is for ranking. A public implementation of the paper numbers
the equations 7 (queries), 9-10 (keys) and 11 (GradDrop): github.com/koayon/atp_star. There patterns are nodes; here queries and keys are.

What it costs: three forwards (two, and the blocks once more on the way down), for `q` and `k` one more; and (L + 1) / 2 backwards, as what stands
above a dropped layer keeps its slope (`hooked.gradients_without_each_block`).
"""

from __future__ import annotations

from typing import Any

import torch

from slm_interp import hooked
from slm_interp.errors import PatchingError
from slm_interp.model import SpeechTextModel
from slm_interp.patching.attribution.asking import MEMORY, asked, attributed
from slm_interp.patching.attribution.first_order import way
from slm_interp.patching.attribution.linear import Cells, Found, Seen, begun, by_layer
from slm_interp.patching.attribution.query_key import SOFTENED, attention_cells
from slm_interp.patching.attribution.result import Attribution
from slm_interp.patching.contrasts import Contrasts, Direction, Prepared
from slm_interp.patching.engine import Ran
from slm_interp.patching.outcomes import Outcome
from slm_interp.patching.policies import Policy
from slm_interp.patching.spans import Spans


def atp_qk(
    slm: SpeechTextModel,
    contrasts: Contrasts,
    site: str = "q",
    spans: Spans = "words",
    policy: str | Policy | None = None,
    outcome: Outcome | None = None,
    direction: Direction = "denoising",
    memory: int = MEMORY,
) -> Attribution:
    """AtP of queries or keys, taken through the softmax (QK fix).

    Args:
        site: `q` or `k`.
        contrasts, spans, policy, outcome, direction, memory: as in `atp`.

    Raises:
        PatchingError: another site, and what `atp` refuses.
        ReadoutError: a model in training mode.
    """
    if site not in SOFTENED:
        raise PatchingError(f"Only queries and keys go through the softmax: the site is 'q' or 'k'; got {site!r}. Use atp there.")
    ask = asked(slm, contrasts, (site,), (spans, policy, outcome, direction))
    differentiate, cost = way(slm, ask, memory)

    def run(one: Prepared) -> dict[str, Found]:
        source, seen, other = begun(slm, one, ask.outcome, (site,))
        cells = _cells(slm, one, source, seen, site)
        _, kept = differentiate(slm.model, seen.laid.tokens, cells.names, seen, cells)
        found = {place: effect for own in kept.values() for place, effect in own.items()}
        return {site: Found(by_layer(found, site), seen.values[0], other)}

    return attributed(slm, ask, run, {"method": "AtP with QK fix", **cost, "forwards": cost["forwards"] + 1})[site]


def atp_star(
    slm: SpeechTextModel,
    contrasts: Contrasts,
    site: str = "z",
    spans: Spans = "words",
    policy: str | Policy | None = None,
    outcome: Outcome | None = None,
    direction: Direction = "denoising",
) -> Attribution:
    """AtP with QK fix at `q` and `k` and with GradDrop: `effect` with a sign, `magnitude` to rank by.

    The graph of one block is in memory at a time.

    Args:
        contrasts, site, spans, policy, outcome, direction: as in `atp`.

    Raises:
        PatchingError: a model of one block, and what `atp` refuses.
        ReadoutError: a model in training mode.
    """
    layers = slm.model.cfg.n_layers
    if layers < 2:
        raise PatchingError("GradDrop compares paths through other blocks; this model has one block alone. Use atp or atp_qk.")
    ask = asked(slm, contrasts, (site,), (spans, policy, outcome, direction))

    def run(one: Prepared) -> dict[str, Found]:
        source, seen, other = begun(slm, one, ask.outcome, (site,))
        cells = _cells(slm, one, source, seen, site)
        _, kept = hooked.gradients_without_each_block(slm.model, seen.laid.tokens, cells.names, seen, cells)
        whole = {place: effect for own in kept.values() for place, effect in own[0].items()}
        dropped = {place: torch.stack([one[place] for one in own[1:]]).abs().sum(0) for own in kept.values() for place in own[0]}
        magnitude = by_layer(dropped, site) / (layers if site.startswith("resid") else layers - 1)
        return {site: Found(by_layer(whole, site), seen.values[0], other, {"magnitude": magnitude})}

    cost = {"forwards": 3 + (site in SOFTENED), "backwards": (layers + 1) / 2}
    return attributed(slm, ask, run, {"method": "AtP*", **cost})[site]


def _cells(slm: SpeechTextModel, one: Prepared, source: Ran, seen: Seen, site: str) -> Any:
    if site in SOFTENED:
        return attention_cells(slm, one, source, seen.laid, site, seen.outcome)
    return Cells(slm, one, source, seen.laid, (site,))
