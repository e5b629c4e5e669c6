"""Newton's step for an affine map, from two small matrices: the curvature as a Kronecker product (Martens & Grosse 2015, K-FAC, arXiv 1503.05671).

A map `M` of inputs `x` whose loss has the gradients `g` by `M x` has the gradient `G = E[g x^T]`, and near its best a curvature of about
`E[g g^T] (x) E[x x^T]`, with `g` of ids drawn from the model. So `B^-1 G A^-1` is Newton's step. It is free of the scale and the basis of the
inputs, in which plain gradient descent is slow: residual streams differ by a factor of a hundred between directions and between layers.

Both matrices get a multiple of the identity (Levenberg-Marquardt), in units that a few huge residuals do not move: `damping^1/2` times the
median of `|x|^2`, or the trace of `B`, a coordinate. They are solved in float64.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def moved(old: Tensor, new: Tensor, share: float) -> Tensor:
    """A running mean, in place: `share` of it comes from the new value."""
    return old.add_(new - old, alpha=share)


def moment(rows: Float[Tensor, "row coordinate"], weights: Float[Tensor, " row"]) -> Float[Tensor, "coordinate coordinate"]:
    """Second moment of weighted rows; the weights sum to 1."""
    return (rows * weights[:, None]).T @ rows


def coordinate_scale(rows: Float[Tensor, "row coordinate"]) -> float:
    """The median square of a row, by coordinate."""
    return float(rows.square().sum(-1).median()) / rows.shape[1]


def newton(
    gradient: Float[Tensor, "output input"],
    outputs: Float[Tensor, "output output"],
    inputs: Float[Tensor, "input input"],
    damping: float,
    input_scale: float,
) -> Float[Tensor, "output input"]:
    """Newton's step `B^-1 G A^-1`, damped.

    Args:
        gradient: `G`, of the loss by the map.
        outputs, inputs: `B` and `A`.
        damping: share of the scale of each that is added to its diagonal, squared.
        input_scale: from `coordinate_scale`.
    """
    output_scale = float(outputs.diagonal().mean())
    left = _damped(outputs, damping**0.5 * output_scale)
    right = _damped(inputs, damping**0.5 * input_scale)
    half = torch.cholesky_solve(gradient.double(), left)
    return torch.cholesky_solve(half.T, right).T.to(gradient.dtype)


def least_squares(
    products: Float[Tensor, "output input"], inputs: Float[Tensor, "input input"], ridge: float, input_scale: float
) -> Float[Tensor, "output input"]:
    """The map that comes nearest to given outputs: `E[y x^T] (A + ridge * scale)^-1`."""
    return torch.cholesky_solve(products.double().T, _damped(inputs, ridge * input_scale)).T.to(products.dtype)


def _damped(matrix: Tensor, amount: float) -> Tensor:
    """The Cholesky factor of a second moment with something on its diagonal: never nothing, for moments that are 0 throughout."""
    wide = matrix.double()
    least = 1e-12 * float(wide.diagonal().amax()) + 1e-30
    return torch.linalg.cholesky(wide + max(amount, least) * torch.eye(len(wide), dtype=wide.dtype, device=wide.device))
