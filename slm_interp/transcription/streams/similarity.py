"""How alike two sets of states of the same words are: retrieval of the one by the other, and linear CKA. Plain arrays.

Retrieval asks whether the *same directions* are used: it falls if one set is rotated. CKA (Kornblith et al. 2019, arXiv 1905.00414)
asks whether words lie to each other in the same way, in whatever directions: it is 1 for a rotated copy. Both centre each set
first: a direction that all states share, such as one for the modality, would otherwise make everything look alike.

With fewer words than dimensions the plain estimate of CKA is near 1 for anything; `cka` uses the unbiased estimate of HSIC
(Song et al. 2012, Journal of Machine Learning Research 13, equation 5), which is about 0 for states that have nothing to do with each other.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Int

from slm_interp.errors import StatisticsError


def cosines(
    queries: Float[np.ndarray, "query d_model"], candidates: Float[np.ndarray, "candidate d_model"]
) -> Float[np.ndarray, "query candidate"]:
    """Cosines of states once each set is centred; a state that is the mean of its set has cosine 0 with any."""
    left, right = (_unit(one - one.mean(0)) for one in (queries, candidates))
    return left @ right.T


def _unit(states: Float[np.ndarray, "word d_model"]) -> Float[np.ndarray, "word d_model"]:
    norms = np.linalg.norm(states, axis=-1, keepdims=True)
    floor = 1e-9 * max(float(norms.max()), 1e-30)
    return np.divide(states, norms, out=np.zeros_like(states), where=norms > floor)


def retrieved(
    similarity: Float[np.ndarray, "query candidate"], asked: Int[np.ndarray, " query"], offered: Int[np.ndarray, "*draw candidate"]
) -> Float[np.ndarray, "*draw query"]:
    """Whether the most similar candidate is of the type asked for; candidates that are equally similar share the hit.

    Args:
        asked: word type of each query.
        offered: word type of each candidate; for a null, in several random orders.
    """
    best = similarity >= similarity.max(1, keepdims=True) - 1e-12
    share = best / best.sum(1, keepdims=True)
    types = int(max(asked.max(), offered.max())) + 1
    flat = offered.reshape(-1, offered.shape[-1])
    hits = np.stack([(share @ np.eye(types)[one])[np.arange(len(asked)), asked] for one in flat])
    return hits.reshape(*offered.shape[:-1], len(asked))


def gram(states: Float[np.ndarray, "word d_model"]) -> Float[np.ndarray, "word word"]:
    """Inner products of the states of a set, centred and of one mean size, which CKA does not see and rounding does."""
    centred = states - states.mean(0)
    size = float(np.square(centred).mean())
    return (centred / math.sqrt(size) if size > 0 else centred) @ (centred / math.sqrt(size) if size > 0 else centred).T


def cka(first: Float[np.ndarray, "word word"], second: Float[np.ndarray, "word word"]) -> float:
    """Linear CKA of two sets of states by their Gram matrices, of the unbiased estimates of HSIC; NaN where a set does not vary.

    Raises:
        StatisticsError: fewer than 4 words, or sets of different sizes.
    """
    if first.shape != second.shape or len(first) < 4:
        raise StatisticsError(f"CKA compares states of the same 4 words or more; got {len(first)} and {len(second)}.")
    own = hsic(first, first) * hsic(second, second)
    return hsic(first, second) / math.sqrt(own) if own > 0 else math.nan


def hsic(first: Float[np.ndarray, "word word"], second: Float[np.ndarray, "word word"]) -> float:
    """The unbiased estimate of the Hilbert-Schmidt independence criterion (Song et al. 2012, equation 5)."""
    n = len(first)
    k, l_ = (one - np.diag(np.diag(one)) for one in (first, second))
    rows_k, rows_l = k.sum(0), l_.sum(0)
    joint = float((k * l_).sum()) + float(rows_k.sum() * rows_l.sum()) / ((n - 1) * (n - 2)) - 2 / (n - 2) * float(rows_k @ rows_l)
    return joint / (n * (n - 3))
