"""Multinomial logistic regression with a ridge penalty, by L-BFGS in whitened coordinates: what the word probe is fitted with.

Minimised over `W` and `b`: mean cross-entropy of `softmax((x - mean) W + b)` plus `penalty * v / 2 * |W|^2`, where `v` is the mean variance of
a coordinate of `x`. The penalty is therefore free of scale, and rotating `x` rotates `W` and changes no score. Whitening is the change
of variable `W = V (L + penalty * v)^(-1/2) w` (V, L: eigenvectors and eigenvalues of the covariance), in which the problem is well conditioned.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from slm_interp.errors import ReadoutError

STEPS = 100


@dataclass(frozen=True, eq=False)
class Whitening:
    """Points without their mean, and the axes and variances of their cloud."""

    centred: Float[Tensor, "point d_model"]
    mean: Float[Tensor, " d_model"]
    axes: Float[Tensor, "d_model axis"]
    variances: Float[Tensor, " axis"]


def whitening(points: Float[Tensor, "point d_model"]) -> Whitening:
    """The part of the fit that is the same for every penalty.

    Raises:
        ReadoutError: points that are all the same.
    """
    mean = points.double().mean(0)
    centred = points.double() - mean
    variances, axes = torch.linalg.eigh(centred.T @ centred / len(points))
    if variances[-1] <= 1e-12 * (1 + mean.square().sum()):
        raise ReadoutError(
            "The residuals at this layer and position are all the same: there is nothing to tell words apart by. Leave the layer out."
        )
    return Whitening(centred.float(), mean.float(), axes, variances.clamp_min(0))


def fit(
    points: Whitening, labels: Int[Tensor, " point"], n_classes: int, penalty: float
) -> tuple[Float[Tensor, "class d_model"], Float[Tensor, " class"]]:
    """Weights and biases: scores are `x @ weights.T + biases`. The same arguments give the same numbers.

    Args:
        points: from `whitening`.
        labels: the class of each point, each class at least once.
        n_classes: how many there are.
        penalty: in units of the mean variance of a coordinate.
    """
    ridge = penalty * points.variances.mean()
    to_weight = (points.axes / (points.variances + ridge).sqrt()).float()
    white = points.centred @ to_weight
    shrink = (ridge / (points.variances + ridge)).float()[:, None]
    counts = torch.bincount(labels, minlength=n_classes).float()
    weight = torch.zeros(white.shape[1], n_classes, requires_grad=True)
    bias = (counts.log() - counts.log().mean()).requires_grad_(True)
    steps = torch.optim.LBFGS([weight, bias], max_iter=STEPS, tolerance_grad=1e-6, tolerance_change=1e-8, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        steps.zero_grad()
        value = cross_entropy(white @ weight + bias, labels) + (shrink * weight.square()).sum() / 2
        value.backward()
        return value

    with _one_thread():
        steps.step(loss)
    weights = (to_weight @ weight.detach()).T
    return weights.contiguous(), bias.detach() - weights @ points.mean


@contextmanager
def _one_thread() -> Iterator[None]:
    """Products as small as these are hardly quicker on several threads; where others compute too, threads that wait for each other take minutes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
