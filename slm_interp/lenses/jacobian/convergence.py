"""Whether a Jacobian lens has been fitted on enough prompts: agreement of two halves that share none, and what is left to gain.

A lens is always close to itself: the mean over n of N prompts lies near the mean over all N because it is part of it. So the mean
over n prompts of one half is set beside things made of *other* prompts:

| `against` | the other side | it tells |
|---|---|---|
| `half` | all prompts of the other half | how far n prompts are from what many others give; levels off at the noise of that half |
| `same` | as many prompts of the other half | how well two such lenses agree; its square falls as 1/n, half of it each one's own |
| `whole` | all prompts, these included (`prompts` of both halves together) | the figure usually shown; 0 at the end by construction |

Both directions are averaged. The scale of J is that of a sum over positions, so look at the cosine beside the distance. `prompts` 0 is
the identity, which is the logit lens: a Jacobian lens that is not clearly nearer to the other half than that has learnt nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from slm_interp import hooked
from slm_interp.errors import ReadoutError
from slm_interp.lenses.jacobian.fit import JacobianFit, key_of, relative_distance
from slm_interp.readout import modality_groups
from slm_interp.statistics import bootstrap
from slm_interp.utterance import Utterance

COLUMNS = ("kl", "top1")
LOGITS_AT_ONCE = 2**24


def convergence(fit: JacobianFit) -> pd.DataFrame:
    """How far the matrices are from those of other prompts: one row for every number of prompts, layer and `against`.

    Columns: `prompts` (in the lens; 0 is the identity), `layer`, `against` (see the top of this file), `relative_frobenius` (norm of the
    difference over that of the other side), `cosine` (of the matrices as vectors).

    Raises:
        ReadoutError: fewer than two prompts.
    """
    halves, whole = _halves(fit), fit.lens().jacobians
    rows = []
    for each, lenses in _kept(fit):
        pairs = {
            "half": [(lenses[0], halves[1]), (lenses[1], halves[0])],
            "same": [(lenses[0], lenses[1]), (lenses[1], lenses[0])],
            "whole": [((lenses[0] + lenses[1]) / 2, whole)],
        }
        if not each:
            del pairs["same"]
        for against, both in pairs.items():
            distance = torch.stack([relative_distance(*pair) for pair in both]).mean(0)
            cosine = torch.stack([_cosine(*pair) for pair in both]).mean(0)
            for layer, far, angle in zip(fit.layers, distance.tolist(), cosine.tolist(), strict=True):
                count = 2 * each if against == "whole" else each
                rows.append({"prompts": count, "layer": layer, "against": against, "relative_frobenius": far, "cosine": angle})
    return _described(pd.DataFrame(rows), fit)


def readout_convergence(fit: JacobianFit, utterances: Sequence[Utterance], draws: int = 1000, level: float = 0.95) -> pd.DataFrame:
    """How far readings are from those of all prompts of the *other* half, on utterances that no prompt of the fit was.

    Columns: `prompts` (0 is the logit lens), `layer`, `positions`, `kl` (mean over positions of KL from the other half's distribution over
    live ids to this one, nats), `top1` (share of positions with the same first id), each with `_low` and `_high`: bootstrap over utterances.
    Positions before `skip_first_positions`, which the lens was not fitted at, are left out.

    Raises:
        ReadoutError: fewer than two prompts, utterances the lens was fitted on, or too short ones.
        StatisticsError: fewer than two utterances.
    """
    _halves(fit)
    skip, shared = int(fit.fitted["skip_first_positions"]), [one.name for one in utterances if key_of(one.tokens) in fit.prompts]
    if shared:
        raise ReadoutError(f"{len(shared)} of these utterances were prompts of the fit, {shared[0]!r} among them. Hold some out.")
    short = [one.name for one in utterances if len(one) <= skip]
    if short:
        raise ReadoutError(f"{short[0]!r} has no position after the first {skip}, which the lens was not fitted at. Leave it out.")
    cells: dict[int, list[np.ndarray]] = {}
    for one in utterances:
        resid = hooked.residuals(fit.slm.model, fit.slm.check(one).tokens)[list(fit.layers), skip:]
        for each, lenses in _kept(fit):
            cells.setdefault(each, []).append(_compared(fit, lenses, resid))
    names = np.concatenate([[number] * (len(one) - skip) for number, one in enumerate(utterances)])
    rows = []
    for each, parts in cells.items():
        shares = bootstrap(np.concatenate(parts), {"utterance": names}, draws=draws, level=level)
        for index, layer in enumerate(fit.layers):
            row: dict[str, float] = {"prompts": each, "layer": layer, "positions": len(names)}
            for column, name in enumerate(COLUMNS):
                row |= {name: shares.estimate[index, column]}
                row |= {f"{name}_low": shares.low[index, column], f"{name}_high": shares.high[index, column]}
            rows.append(row)
    return _described(pd.DataFrame(rows), fit)


def _compared(
    fit: JacobianFit, matrices: tuple[Tensor, Tensor], resid: Float[Tensor, "layer pos d_model"]
) -> Float[np.ndarray, "pos layer measure"]:
    """KL and agreement of the readings by matrices of each half with those by the whole other half, both directions averaged."""
    own = [replace(fit.half(0), jacobians=one) for one in matrices]
    others = [fit.half(1), fit.half(0)]
    W_U, b_U = _live(fit)
    step = max(1, LOGITS_AT_ONCE // W_U.shape[1])
    found = []
    for layer, rows in zip(fit.layers, resid, strict=True):
        parts = []
        for some in rows.split(step):
            both = [_differ(*(_log_probs(lens.scores(some, layer), W_U, b_U) for lens in pair)) for pair in zip(own, others, strict=True)]
            parts.append(torch.stack(both).mean(0))
        found.append(torch.cat(parts))
    return torch.stack(found, 1).double().cpu().numpy()


def _differ(own: Float[Tensor, "pos live"], other: Float[Tensor, "pos live"]) -> Float[Tensor, "pos measure"]:
    """KL from `other` to `own`, and whether the first id is the same."""
    kl = (other.exp() * (other - own)).sum(-1)
    return torch.stack([kl, (own.argmax(-1) == other.argmax(-1)).to(kl.dtype)], -1)


def _live(fit: JacobianFit) -> tuple[Float[Tensor, "d_model live"], Float[Tensor, " live"] | None]:
    """The unembedding of all ids but dead rows."""
    live = torch.stack(list(modality_groups(fit.slm.vocabulary).values())).any(0)
    head = hooked.unembedding(fit.slm.model)
    live = live.to(head.W_U.device)
    return head.W_U[:, live], None if head.b_U is None else head.b_U[live]


def _log_probs(scores: Float[Tensor, "pos d_model"], W_U: Tensor, b_U: Tensor | None) -> Float[Tensor, "pos live"]:
    logits = scores @ W_U if b_U is None else scores @ W_U + b_U
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)


def _kept(fit: JacobianFit) -> Iterator[tuple[int, tuple[Tensor, Tensor]]]:
    """The identity, then what was kept, then the whole halves where they were not kept."""
    identity = torch.eye(fit.sums.shape[-1], dtype=fit.sums.dtype).expand(fit.sums.shape[1:])
    yield 0, (identity, identity)
    for each in sorted(fit.snapshots):
        yield each, fit.at(each)
    if min(fit.counts) not in fit.snapshots:
        yield min(fit.counts), (fit.half(0).jacobians, fit.half(1).jacobians)


def _halves(fit: JacobianFit) -> tuple[Tensor, Tensor]:
    if min(fit.counts) < 1:
        raise ReadoutError(f"Two halves take two prompts at least; this fit has {sum(fit.counts)}. Fit on more.")
    return fit.half(0).jacobians, fit.half(1).jacobians


def _cosine(one: Float[Tensor, "layer d_out d_in"], other: Float[Tensor, "layer d_out d_in"]) -> Float[Tensor, " layer"]:
    return torch.nn.functional.cosine_similarity(one.flatten(1).double(), other.flatten(1).double(), dim=-1)


def _described(table: pd.DataFrame, fit: JacobianFit) -> pd.DataFrame:
    table.attrs = {**fit.fitted, "prompts_in_halves": list(fit.counts)}
    return table
