"""The final norm as a formula, so that what is linear in it can be taken apart: `x -> (x - mean) / scale(x) * weight + bias`.

LayerNorm takes the mean out, RMSNorm does not; `scale` is `sqrt(mean(x^2) + eps)` after that. Folded norms have neither weight nor bias.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from slm_interp.errors import ReadoutError
from slm_interp.hooked.installed import HookedTransformer, parameters
from slm_interp.hooked.reading import final_norm

CENTRED = {"LN": True, "LNPre": True, "RMS": False, "RMSPre": False}


@dataclass(frozen=True, eq=False)
class NormFormula:
    """The final norm of a model, in float32 (float64 for float64).

    Args:
        weight, bias: None where there is none, or where it is folded into the unembedding.
        centred: whether the mean over d_model is taken out first.
        eps: None where the model has no final norm at all, so that its scale is 1.
    """

    weight: Float[Tensor, " d_model"] | None
    bias: Float[Tensor, " d_model"] | None
    centred: bool
    eps: float | None

    def scale(self, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch"]:
        """What the norm divides a residual vector by."""
        wide = widened(resid)
        if self.eps is None:
            return torch.ones(wide.shape[:-1], dtype=wide.dtype, device=wide.device)
        kept = wide - wide.mean(-1, keepdim=True) if self.centred else wide
        return (kept.square().mean(-1) + self.eps).sqrt()

    def pull_back(self, columns: Float[Tensor, "column d_model"]) -> Float[Tensor, "column d_model"]:
        """Directions `d` with `norm(x) @ column = d @ x / scale(x) + constant(column)` for every residual `x`."""
        wide = widened(columns)
        weighed = wide if self.weight is None else wide * self.weight
        return weighed - weighed.mean(-1, keepdim=True) if self.centred else weighed

    def constant(self, columns: Float[Tensor, "column d_model"]) -> Float[Tensor, " column"]:
        """What the bias of the norm adds to `norm(x) @ column`, whatever `x` is."""
        wide = widened(columns)
        return wide.new_zeros(len(wide)) if self.bias is None else wide @ self.bias

    def __call__(self, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """The norm itself."""
        wide = widened(resid)
        kept = (wide - wide.mean(-1, keepdim=True) if self.centred else wide) / self.scale(wide)[..., None]
        kept = kept if self.weight is None else kept * self.weight
        return kept if self.bias is None else kept + self.bias


def norm_formula(model: HookedTransformer) -> NormFormula:
    """The final norm of a model, checked against the module that the model runs.

    Raises:
        ReadoutError: a norm that is not of this form, or logits that are capped after the unembedding.
    """
    config = model.cfg
    kind = getattr(config, "normalization_type", None)
    norm = getattr(model, "ln_final", None) if kind is not None else None
    if kind is not None and kind not in CENTRED:
        raise ReadoutError(f"The final norm should be one of {', '.join(CENTRED)}, or none; this model has {kind!r}.")
    if (getattr(config, "output_logits_soft_cap", None) or 0) > 0:
        raise ReadoutError("This model caps its logits after the unembedding, so they are no sum of what its components add.")
    held = parameters(model)
    weight, bias = (widened(held[name].detach()) if name in held else None for name in ("ln_final.w", "ln_final.b"))
    formula = NormFormula(weight, bias, CENTRED.get(str(kind), False), None if norm is None else float(config.eps))
    _check(model, formula)
    return formula


def widened(tensor: Tensor) -> Tensor:
    """In float32 at least."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _check(model: HookedTransformer, formula: NormFormula) -> None:
    """Two vectors through both: one of the usual size, one so small that `eps` counts."""
    W_U = model.unembed.W_U
    ramp = torch.linspace(-1, 2, W_U.shape[0], device=W_U.device)
    probes = torch.stack([ramp, ramp.flip(0) * (formula.eps or 1.0) ** 0.5]).to(W_U.dtype)
    wanted, found = widened(final_norm(model, probes)), formula(probes)
    tolerance = 1e-4 if W_U.dtype in (torch.float32, torch.float64) else 0.03
    if not torch.allclose(wanted, found, rtol=tolerance, atol=tolerance * float(wanted.abs().max())):
        raise ReadoutError(
            f"The final norm of this model is not what its config says ({model.cfg.normalization_type}, eps {formula.eps}): it differs by "
            f"{float((wanted - found).abs().max()):.2g} on a test vector. Read through the lens, which runs the module itself."
        )
