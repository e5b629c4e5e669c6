"""The correction for saturated attention: queries and keys go through the softmax itself, and only then to first order.

Where a head attends to one position alone, the softmax is flat and the slope at its queries and keys is near 0, though another query may turn its
attention elsewhere. So what a patch of queries or keys does to the *attention* is computed exactly, and only what attention does to the outcome is
taken to first order (Kramar et al. 2024, arXiv 2403.00745, section 3.1, "QK fix"):

    queries: effect = sum over dest in the span, src of  (attention'[dest, src] - attention[dest, src]) * d outcome / d attention[dest, src]
    keys:    the same, over every dest that sees the span, with all keys of the span replaced at once

attention' is the softmax with the patched queries (keys), everything else as in the base run. A span of several keys is patched as a whole, as in the
exact sweep; the paper's nodes are single positions. A key-value head has the sum over the query heads that share it.

Spans of queries that do not overlap are in one run together, as each destination has a softmax of its own; each span of keys has a run of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from slm_interp import hooked
from slm_interp.model import SpeechTextModel
from slm_interp.patching.attribution.linear import Effects, at_site
from slm_interp.patching.contrasts import Prepared, side_of
from slm_interp.patching.engine import Ran, ran
from slm_interp.patching.measuring import Laid
from slm_interp.patching.outcomes import Outcome
from slm_interp.patching.policies import Pairing

SOFTENED = ("q", "k")


class AttentionCells:
    """What turns attention and its slope at a hook into the effects of all cells of queries or keys."""

    def __init__(self, slm: SpeechTextModel, one: Prepared, source: Ran, laid: Laid, site: str, base: Ran | None = None):
        self.site, self.pairings = site, one.pairings
        self.places = [together([pairing], laid) for pairing in one.pairings]
        self.runs = packed(one.pairings) if site == "q" else [[number] for number in range(len(one.pairings))]
        self.kv_heads = len(hooked.heads_at(slm.model, "k"))
        stood = at_site(slm, source, site)
        there = stood if base is None else at_site(slm, base, site)
        moved = torch.stack([together([one.pairings[number] for number in run], laid) for run in self.runs])
        values = {layer: self._values(stood[layer], there[layer], laid) for layer in range(slm.model.cfg.n_layers)}
        self.changes = hooked.pattern_changes(slm.model, laid.tokens, site, moved, values)
        self.layers = {hooked.hook_at("pattern", layer): layer for layer in self.changes}

    @property
    def names(self) -> list[str]:
        """The hooks."""
        return list(self.layers)

    def _values(
        self, source: Float[Tensor, "head source_pos d"], base: Float[Tensor, "head base_pos d"], laid: Laid
    ) -> Float[Tensor, "run pos head d"]:
        """What is put at the positions that each run moves."""
        made = source.new_zeros(len(self.runs), laid.tokens.shape[1], source.shape[0], source.shape[-1])
        for run, numbers in enumerate(self.runs):
            for number in numbers:
                pairing = self.pairings[number]
                made[run, pairing.base.to(made.device)] = rearrange(pairing.values(source, base), "head pos d -> pos head d").to(made)
        return made

    def __call__(self, name: str, value: Tensor, slope: Float[Tensor, "row head dest src"]) -> Effects:
        """The effects at the attention of a layer."""
        layer = self.layers[name]
        moved = einsum(self.changes[layer].float(), slope.float(), "run row head dest src, row head dest src -> run head dest")
        found = []
        for number, place in enumerate(self.places):
            run = next(run for run, numbers in enumerate(self.runs) if number in numbers)
            found.append(moved[run][:, place.to(moved.device)].sum(-1) if self.site == "q" else moved[run].sum(-1))
        effect = torch.stack(found)
        if self.site == "k":
            effect = rearrange(effect, "span (kv_head group) -> span kv_head group", kv_head=self.kv_heads).sum(-1)
        return {(self.site, layer): effect}


def attention_cells(slm: SpeechTextModel, one: Prepared, source: Ran, laid: Laid, site: str, outcome: Outcome) -> AttentionCells:
    """The cells of a contrast; where norms are matched, the base is run once more for its own."""
    if not any(pairing.match_norms for pairing in one.pairings):
        return AttentionCells(slm, one, source, laid, site)
    names = [hooked.hook_at(site, layer) for layer in range(slm.model.cfg.n_layers)]
    return AttentionCells(slm, one, source, laid, site, ran(slm, side_of(one.contrast, one.base), one.contrast, outcome, names))


def packed(pairings: Sequence[Pairing]) -> list[list[int]]:
    """Numbers of the pairings in as few runs as first fit finds, so that no two of a run write to one position."""
    runs: list[tuple[set[int], list[int]]] = []
    for number, pairing in enumerate(pairings):
        own = set(pairing.base.tolist())
        for taken, numbers in runs:
            if not taken & own:
                taken |= own
                numbers.append(number)
                break
        else:
            runs.append((own, [number]))
    return [numbers for _, numbers in runs]


def together(pairings: Sequence[Pairing], laid: Laid) -> Bool[Tensor, " pos"]:
    """The base positions of some pairings, among all positions of the rows."""
    mask = torch.zeros(laid.tokens.shape[1], dtype=torch.bool)
    mask[torch.cat([pairing.base for pairing in pairings])] = True
    return mask
