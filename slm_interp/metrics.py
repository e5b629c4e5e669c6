"""Logits to numbers: log-probability of a sequence over chosen ids, logit difference, KL, rank.

All of them take raw logits; those that speak of probabilities normalise in float32 or better over the ids
they are given, and over all ids otherwise.
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
        wide = wide.masked_fill(~among, -torch.inf)
    return wide.log_softmax(-1)


def sequence_log_prob(
    logits: Float[Tensor, "pos d_vocab"], targets: Int[Tensor, " pos"], among: Bool[Tensor, " d_vocab"] | None = None
) -> Float[Tensor, ""]:
    """Sum over positions of the log-probability of `targets`, teacher-forced: `logits[i]` predicts `targets[i]`.

    Raises:
        VocabularyError: a target outside `among`, whose probability would be 0 by construction.
    """
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
    return torch.where(p > -torch.inf, p.exp() * (p - q), 0).sum(-1)


def rank(logits: Float[Tensor, "*batch d_vocab"], target: int) -> Int[Tensor, "*batch"]:
    """How many ids beat the target, ties going to the smaller id: 0 is the top."""
    value = logits[..., target : target + 1]
    smaller_ids = torch.arange(logits.shape[-1], device=logits.device) < target
    return ((logits > value) | ((logits == value) & smaller_ids)).sum(-1)
