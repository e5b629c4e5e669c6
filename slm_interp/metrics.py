"""Logits to numbers: log-probability of a sequence over chosen ids, logit difference, KL, rank.

All of them take raw logits; those that speak of probabilities normalise in float32 or better over the ids
they are given, and over all ids otherwise. NaN in, NaN out: no metric turns a broken logit into a good number.
All but `rank` have gradients.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from slm_interp.errors import VocabularyError


def log_probs(logits: Float[Tensor, "*batch d_vocab"], among: Bool[Tensor, " d_vocab"] | None = None) -> Float[Tensor, "*batch d_vocab"]:
    """Log-probabilities in nats, in float32 or better; renormalised over `among`, -inf elsewhere."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    if among is not None:
        if not among.any():
            raise VocabularyError("There is nothing to normalise over: the mask selects no id.")
        wide = wide.masked_fill(~among.to(wide.device), -torch.inf)
    return wide.log_softmax(-1)


def sequence_log_prob(
    logits: Float[Tensor, "pos d_vocab"], targets: Int[Tensor, " pos"], among: Bool[Tensor, " d_vocab"] | None = None
) -> Float[Tensor, ""]:
    """Sum over positions of the log-probability of `targets`, teacher-forced: `logits[i]` predicts `targets[i]`.

    Raises:
        VocabularyError: not one target a position, or a target outside `among`, whose probability would be 0 by construction.
    """
    if len(targets) != len(logits):
        raise VocabularyError(f"Each row of logits predicts one target; got {len(logits)} rows and {len(targets)} targets.")
    if among is not None and not among[targets].all():
        raise VocabularyError(f"Target id {int(targets[~among[targets]][0])} is not among the ids normalised over.")
    return log_probs(logits, among).gather(-1, targets[:, None]).sum()


def logit_difference(logits: Float[Tensor, "*batch d_vocab"], answer: int, distractor: int) -> Float[Tensor, "*batch"]:
    """Logit of the answer minus logit of the distractor."""
    return logits[..., answer] - logits[..., distractor]


def kl_divergence(
    reference: Float[Tensor, "*batch d_vocab"], other: Float[Tensor, "*batch d_vocab"], among: Bool[Tensor, " d_vocab"] | None = None
) -> Float[Tensor, "*batch"]:
    """KL(reference || other) in nats, over `among`."""
    p, q = log_probs(reference, among), log_probs(other, among)
    return (p.exp() * (p - q).masked_fill(p == -torch.inf, 0)).sum(-1)


def rank(logits: Float[Tensor, "*batch d_vocab"], target: int) -> Float[Tensor, "*batch"]:
    """The target's mid-rank: ids with a greater logit, plus half of the other ids with an equal one. 0 is the top.

    The rule of `readout`: it favours no id for its place in the vocabulary. A row with NaN has rank NaN.
    """
    value = logits[..., target : target + 1]
    ties = (logits == value).sum(-1) - 1
    return ((logits > value).sum(-1) + ties / 2).masked_fill(logits.isnan().any(-1), torch.nan)
