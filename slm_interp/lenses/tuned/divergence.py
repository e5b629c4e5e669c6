"""KL(final || lens) of residual vectors and its exact gradient, a block of rows at a time; `[layer, pos, d_vocab]` never exists.

With `y = norm(resid)`, `p` the model's own output and `q = softmax(W_U^T y + b_U)`, both over the ids that are read:

1. Of the target only `m = W_U p` and the number `c = sum p log p - sum p b_U` are kept: `KL(p || q) = c - y . m + logsumexp(W_U^T y + b_U)`.
   They are worked out once a batch and serve every layer.
2. The gradient by `y` is `W_U q - m`. It is pulled back through the norm by the norm's own formula, which holds with its epsilon.
3. For the curvature an id `s` is drawn from `p` in every row: `W_U q - W_U e_s` has the second moment `W_U (diag p - p p^T) W_U^T` where `q = p`.

Everything is float32 (float64 for float64), whatever the model is in: one float32 copy of the columns of `W_U` that are read is made, none
where the model is float32 and every id is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from slm_interp import hooked
from slm_interp.errors import ReadoutError
from slm_interp.model import SpeechTextModel

MEMORY = 256 * 2**20  # bytes of a block of logits and what is worked out on it
LOGITS_AT_ONCE = 2**21  # of a block, where the vocabulary is small: larger ones leave the cache


@dataclass(frozen=True, eq=False)
class Head:
    """The final norm and the columns of `W_U` that are read.

    Args:
        W_U, b_U: of the ids that are read.
        scale: weight of the norm; ones where it was folded away.
        shift: bias of the norm; zeros for RMSNorm.
        eps: of the norm.
        norm: `"RMS"`, `"LN"` (centred) or `"none"`.
    """

    W_U: Float[Tensor, "d_model column"]
    b_U: Float[Tensor, " column"]
    scale: Float[Tensor, " d_model"]
    shift: Float[Tensor, " d_model"]
    eps: float
    norm: str

    def normed(self, resid: Float[Tensor, "row d_model"]) -> tuple[Float[Tensor, "row d_model"], Float[Tensor, "row 1"]]:
        """Residuals divided by their deviation, before scale and shift; and the deviation."""
        if self.norm == "none":
            return resid, torch.ones_like(resid[:, :1])
        if self.norm == "LN":
            resid = resid - resid.mean(-1, keepdim=True)
        deviation = (resid.square().mean(-1, keepdim=True) + self.eps).sqrt()
        return resid / deviation, deviation

    def pulled_back(
        self, gradient: Float[Tensor, "row d_model"], unit: Float[Tensor, "row d_model"], deviation: Float[Tensor, "row 1"]
    ) -> Float[Tensor, "row d_model"]:
        """A gradient by the normed residual as one by the residual itself, given what `normed` returned."""
        inner = gradient * self.scale
        if self.norm == "none":
            return inner
        if self.norm == "LN":
            inner = inner - inner.mean(-1, keepdim=True)
        return (inner - unit * (inner * unit).mean(-1, keepdim=True)) / deviation


@dataclass(frozen=True, eq=False)
class Target:
    """What is kept of the model's own output, by row: `m`, `c` and `W_U e_s` of the top of this file."""

    mean: Float[Tensor, "row d_model"]
    constant: Float[Tensor, " row"]
    drawn: Float[Tensor, "row d_model"]


@dataclass(frozen=True, eq=False)
class Gap:
    """KL(final || lens) in nats by row, its gradient by the residual, and the drawn gradient of step 3."""

    kl: Float[Tensor, " row"]
    gradient: Float[Tensor, "row d_model"]
    drawn: Float[Tensor, "row d_model"]


def head_of(slm: SpeechTextModel, among: Bool[Tensor, " d_vocab"]) -> Head:
    """The head of a model over the ids of a mask.

    Raises:
        ReadoutError: a final norm that is neither RMSNorm nor LayerNorm, or logits that are capped.
    """
    unembedding, formula = hooked.unembedding(slm.model), hooked.norm_formula(slm.model)
    W_U, b_U = unembedding.W_U, unembedding.b_U
    if not bool(among.all()):
        ids = among.nonzero().flatten().to(W_U.device)
        W_U = W_U.index_select(1, ids)
        b_U = None if b_U is None else b_U[ids]
    W_U = hooked.widened(W_U)
    zeros, ones = torch.zeros_like(W_U[:, 0]), torch.ones_like(W_U[:, 0])
    return Head(
        W_U,
        torch.zeros_like(W_U[0]) if b_U is None else hooked.widened(b_U),
        ones if formula.weight is None else formula.weight,
        zeros if formula.bias is None else formula.bias,
        formula.eps or 0.0,
        "none" if formula.eps is None else "LN" if formula.centred else "RMS",
    )


def target_of(head: Head, final: Float[Tensor, "row d_model"], generator: torch.Generator, memory: int = MEMORY) -> Target:
    """Step 1: the model's own output, from its last residuals.

    Args:
        head: ids that are read.
        final: residuals the model itself reads.
        generator: draws the ids of step 3, on the CPU, so that a seed means the same on every device.
        memory: bytes to take beyond the arguments and the result.
    """
    final = final.to(head.W_U.dtype)
    mean, drawn, constant = torch.empty_like(final), torch.empty_like(final), final.new_empty(len(final))
    at = torch.rand(len(final), 1, generator=generator, dtype=torch.float64).to(final)
    for rows in _blocks(len(final), head, memory):
        logits = _logits(head, final[rows])[0]
        constant[rows] = -logits.logsumexp(-1)
        p = logits.add_(constant[rows, None]).exp()  # `logits` are log-probabilities from here on
        constant[rows] = (p * logits.sub_(head.b_U)).sum(-1)
        mean[rows] = p @ head.W_U.T
        reached = torch.cumsum(p, -1, out=p)
        place = torch.searchsorted(reached, at[rows] * reached[:, -1:]).clamp(max=reached.shape[1] - 1)
        drawn[rows] = head.W_U.T[place[:, 0]]
    return Target(mean, constant, drawn)


def gap(head: Head, resid: Float[Tensor, "row d_model"], target: Target, memory: int = MEMORY) -> Gap:
    """Step 2 and 3: the KL of residuals that a lens has translated, its gradient, and the drawn one."""
    resid = resid.to(head.W_U.dtype)
    kl, gradient, drawn = resid.new_empty(len(resid)), torch.empty_like(resid), torch.empty_like(resid)
    for rows in _blocks(len(resid), head, memory):
        logits, ready, unit, deviation = _logits(head, resid[rows])
        kl[rows], expected = _expected(head, logits, ready, target, rows)
        for out, reference in ((gradient, target.mean), (drawn, target.drawn)):
            out[rows] = head.pulled_back(expected - reference[rows], unit, deviation)
    return Gap(kl, gradient, drawn)


def kl_of(head: Head, resid: Float[Tensor, "row d_model"], target: Target, memory: int = MEMORY) -> Float[Tensor, " row"]:
    """KL(final || lens) in nats, without gradients: half of the work."""
    resid = resid.to(head.W_U.dtype)
    kl = resid.new_empty(len(resid))
    for rows in _blocks(len(resid), head, memory):
        logits, ready, _, _ = _logits(head, resid[rows])
        kl[rows] = target.constant[rows] - (ready * target.mean[rows]).sum(-1) + logits.logsumexp(-1)
    return kl


def _logits(head: Head, resid: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    unit, deviation = head.normed(resid)
    ready = unit * head.scale + head.shift
    return torch.addmm(head.b_U, ready, head.W_U), ready, unit, deviation


def _expected(head: Head, logits: Tensor, ready: Tensor, target: Target, rows: slice) -> tuple[Tensor, Tensor]:
    """KL and `W_U q`; the logits are overwritten."""
    top = logits.amax(-1, keepdim=True)
    weight = logits.sub_(top).exp_()
    total = weight.sum(-1, keepdim=True)
    kl = target.constant[rows] - (ready * target.mean[rows]).sum(-1) + (top + total.log())[:, 0]
    return kl, (weight @ head.W_U.T).div_(total)


def _blocks(n_rows: int, head: Head, memory: int) -> Iterator[slice]:
    """Rows whose logits, and one thing worked out on them, fit into the memory."""
    width, itemsize = head.W_U.shape[1], head.W_U.element_size()
    fit = memory // (3 * width * itemsize)
    if not fit:
        raise ReadoutError(
            f"{memory / 2**20:.0f} MiB are too little: one row of {width} logits takes {3 * width * itemsize / 2**20:.0f} MiB."
        )
    step = max(1, min(fit, max(64, LOGITS_AT_ONCE // width)))
    return (slice(start, min(start + step, n_rows)) for start in range(0, n_rows, step))
