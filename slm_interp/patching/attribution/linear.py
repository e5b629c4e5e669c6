"""What every attribution method shares: a contrast laid out, what stands at a site, and a slope times what a cell moves.

1. What stands at a site is seen as `[head, pos, d]`, with one head where the site has none; for `pattern`, `pos` is the destination and `d` the source.
2. A cell moves the base positions of its pairing from what stands there to what the pairing makes of the source.
3. To first order the outcome moves by that times the slope (gradient), summed over the span. The continuations of an outcome are rows that share
   the prompt, and the same is moved in each, so slopes are summed over rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from slm_interp import hooked
from slm_interp.errors import PatchingError
from slm_interp.model import SpeechTextModel
from slm_interp.patching.contrasts import Prepared, side_of
from slm_interp.patching.engine import Ran, ran, score
from slm_interp.patching.measuring import Laid, finite, lay, read_of
from slm_interp.patching.outcomes import Outcome
from slm_interp.patching.places import hooks_of, layers_of
from slm_interp.patching.policies import Pairing


@dataclass(frozen=True, eq=False)
class Found:
    """What a method found of one contrast at one site.

    Args:
        effect: estimates of `patched - base`.
        base, source: the outcome of the two prompts as they are.
        beside: other variables of the result.
    """

    effect: Float[Tensor, "layer span head"]
    base: float
    source: float
    beside: Mapping[str, Tensor] = field(default_factory=dict)


class Seen:
    """The outcome as a function of the last residuals, which remembers the numbers it gave."""

    def __init__(self, slm: SpeechTextModel, laid: Laid, outcome: Outcome, reference: Mapping[str, Tensor] | None):
        self.slm, self.laid, self.outcome, self.reference = slm, laid, outcome, reference
        self.values: list[float] = []

    def __call__(self, last: Float[Tensor, "run_and_row pos d_model"]) -> Float[Tensor, ""]:
        """The outcome, summed over runs; the rows of each run stand together.

        Raises:
            PatchingError: an outcome without a gradient, or one that is not finite.
        """
        each = last.unflatten(0, (-1, len(self.laid.tokens)))
        value = finite(self.outcome.score(read_of(self.slm, self.laid, each, self.reference)), self.outcome.name)
        if not value.requires_grad:
            raise PatchingError(
                f"The outcome {self.outcome.name!r} has no gradient: it counts or compares. Attribute difference(), log_prob() or "
                "logit_difference(), or patch exactly with patching.activation."
            )
        self.values += value.detach().float().flatten().tolist()
        return value.sum()


def source_of(slm: SpeechTextModel, one: Prepared, outcome: Outcome, sites: Sequence[str]) -> Ran:
    """The source prompt, run once, with what stands at the sites."""
    return ran(slm, side_of(one.contrast, one.source), one.contrast, outcome, _names(slm, sites))


def begun(slm: SpeechTextModel, one: Prepared, outcome: Outcome, sites: Sequence[str]) -> tuple[Ran, Seen, float]:
    """The source run, the outcome of the base as a function, and the outcome of the source.

    Raises:
        PatchingError: an outcome that is flat at the base.
    """
    if outcome.reference and one.base == "clean":
        raise PatchingError(
            f"The outcome {outcome.name!r} compares with the clean run, so at the clean run its gradient is 0 and says nothing. Use "
            "direction='denoising', integrated_gradients, or another outcome."
        )
    source = source_of(slm, one, outcome, sites)
    reference = source.logits if outcome.reference else None
    base = lay(slm, side_of(one.contrast, one.base), one.contrast, outcome)
    return source, Seen(slm, base, outcome, reference), score(outcome, source, reference)


def _names(slm: SpeechTextModel, sites: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(name for site in sites for name in hooks_of(site, layers_of(slm.model, site, None))))


def at_site(slm: SpeechTextModel, source: Ran, site: str) -> Float[Tensor, "layer head source_pos d"]:
    """What stood at a site in the source run."""
    names = hooks_of(site, layers_of(slm.model, site, None))
    return torch.stack([by_head(source.kept.at[name][None], site)[0] for name in names])


def by_head(value: Float[Tensor, "row ..."], site: str) -> Float[Tensor, "row head pos d"]:
    """What stands at a site, with its heads in front."""
    if site == "pattern":
        return value
    if site in hooked.SITES:
        return rearrange(value, "row pos d -> row 1 pos d")
    return rearrange(value, "row pos head d -> row head pos d")


def as_hooked(value: Float[Tensor, "row head pos d"], site: str) -> Float[Tensor, "row ..."]:
    """The way back of `by_head`."""
    if site == "pattern":
        return value
    if site in hooked.SITES:
        return rearrange(value, "row 1 pos d -> row pos d")
    return rearrange(value, "row head pos d -> row pos head d")


def of_prompt(value: Float[Tensor, "row ..."], site: str, prompt: int) -> Float[Tensor, "head pos d"]:
    """What stands at the prompt, in float32, summed over rows; attention is cut to the prompt on both sides."""
    kept = by_head(value, site)[:, :, :prompt].float().sum(0)
    return kept[..., :prompt] if site == "pattern" else kept


def first_order(
    pairings: Sequence[Pairing],
    source: Float[Tensor, "head source_pos d"],
    base: Float[Tensor, "head base_pos d"],
    slope: Float[Tensor, "head base_pos d"],
) -> Float[Tensor, "span head"]:
    """Slope times what is moved, summed over the positions of every span."""
    found = []
    for pairing in pairings:
        at = pairing.base.to(base.device)
        moved = pairing.values(source.to(base), base) - base[:, at]
        found.append(einsum(moved, slope[:, at], "head pos d, head pos d -> head"))
    return torch.stack(found)


Effects: TypeAlias = Mapping[tuple[str, int], Tensor]  # [span, head], by site and number of the layer


class Cells:
    """What turns a value and a slope at a hook into the effects of all cells that are there."""

    def __init__(self, slm: SpeechTextModel, one: Prepared, source: Ran, laid: Laid, sites: Sequence[str]):
        self.pairings, self.prompt = one.pairings, laid.prompt
        self.stood = {site: at_site(slm, source, site).float() for site in sites}
        self.places: dict[str, list[tuple[str, int]]] = {}  # one hook may serve two sites: resid_post 0 is resid_pre 0, result is z
        for site in sites:
            for number, name in enumerate(hooks_of(site, layers_of(slm.model, site, None))):
                self.places.setdefault(name, []).append((site, number))

    @property
    def names(self) -> list[str]:
        """The hooks."""
        return list(self.places)

    def __call__(self, name: str, value: Float[Tensor, "row ..."], slope: Float[Tensor, "row ..."]) -> Effects:
        """The effects at a hook."""
        found = {}
        for site, number in self.places[name]:
            base, sloping = of_prompt(value[:1], site, self.prompt), of_prompt(slope, site, self.prompt)
            found[site, number] = first_order(self.pairings, self.stood[site][number], base, sloping)
        return found


def by_layer(found: Effects, site: str) -> Float[Tensor, "layer span head"]:
    """The effects at one site, its layers in order."""
    own = sorted(number for there, number in found if there == site)
    return torch.stack([found[site, number] for number in own])
