"""Directions drawn at random, as the null of an edit: what vectors of its size do that know nothing of a word.

1. A draw is like the change of the edit in all but direction. Let `D [at, d_model]` be that change at the positions of a span. Its fewest singular
   directions that hold 99% of its squared length (of the swap of two words: one, as it is a multiple of `a - b` at every position) are replaced by as
   many orthonormal vectors, uniformly at random, and each position is brought back to its length. So a draw is as long as the change at each position
   (*norm-matched*), and its positions share directions as those of the change do, signs included (*rank-matched*). Random directions in place of the
   words', with the coordinates along *them* exchanged, would give changes of other lengths: a stream has next to nothing along a random direction.
2. Each effect is taken to first order: slope of the outcome at the base run, times the change. One backward gives the slopes of all layers and
   positions, after which a draw is a dot product.
3. Draws depend on seed, case and layer. Draw `i` of two cases has independent directions, so the mean over cases of draw `i` is one draw from the null of
   a mean effect.
4. The first draws are also run exactly. `agreement` compares: correlation, slope, and *offset*, the mean of exact minus linear. An offset is what a change
   does whatever its direction (the second order). Averaging over cases leaves it as it is and makes the spread of the draws smaller, so ask for the
   agreement of the means over cases, not of single cases alone.
5. Where first order does not hold, `exact` runs all draws.

The variance of a stream lies in few directions, and a random one meets little of it: an easy null. `variance.py` has the harder one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from slm_interp import hooked
from slm_interp.causal.controls.edits import SITE, Run, checked, effects
from slm_interp.errors import PatchingError
from slm_interp.patching.attribution.asking import MEMORY
from slm_interp.patching.attribution.linear import Seen
from slm_interp.patching.interventions.directions import exact as exactly
from slm_interp.patching.interventions.directions import wide
from slm_interp.patching.interventions.stream import Positions

DRAWS = 1000
CHECKED = 50  # draws that are run exactly too
TOGETHER = 50  # draws that are made at a time: the first ones are the same however many are asked for
HELD = 0.99  # of the squared length of a change, by the directions that a draw replaces
NOTHING = 1e-3  # nats; an error below it is none, whatever the correlation


@dataclass(frozen=True)
class Key:
    """What random directions depend on, and nothing else.

    Args:
        seed: of the experiment.
        case: its name.
        layer: blocks run.
    """

    seed: int
    case: str
    layer: int

    def generator(self) -> torch.Generator:
        """A generator on the processor, the same on every machine."""
        digest = hashlib.sha256(f"{self.seed} {self.layer} {self.case}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") % 2**63)


def slopes(run: Run, memory: int = MEMORY) -> Float[Tensor, "layer pos d_model"]:
    """The gradient of the outcome by the residuals of the run: all layers (blocks run) and positions of the prompt, one backward.

    In float32 at least, from a backward in the dtype of the model.

    Args:
        memory: bytes that the graph may take; above it blocks are run again one by one, for the same numbers.

    Raises:
        PatchingError: an outcome without a gradient, such as `rank()`.
        ReadoutError: a model in training mode.
    """
    model, laid = run.slm.model, run.base.laid
    names = [hooked.hook_at(SITE, layer) for layer in hooked.layers_at(model, SITE)]
    graph = model.cfg.n_layers * hooked.graph_bytes(model.cfg, *laid.tokens.shape)
    differentiate = hooked.gradients_at if graph <= memory else hooked.gradients_by_block

    def keep(name: str, value: Tensor, slope: Float[Tensor, "row pos d_model"]) -> Float[Tensor, "prompt_pos d_model"]:
        return wide(slope[:, : laid.prompt]).sum(0)  # rows are continuations of one prompt, and each has the same change

    _, kept = differentiate(model, laid.tokens, names, Seen(run.slm, laid, run.outcome, run.reference), keep)
    return torch.stack([kept[name] for name in names])


def linearised(
    slope: Float[Tensor, "at d_model"], change: Float[Tensor, "at d_model"], key: Key, draws: int = DRAWS
) -> Float[np.ndarray, " draw"]:
    """The effects of random directions, to first order, in the unit of the outcome.

    Args:
        slope: `slopes(...)[layer, positions]`.
        change: of the edit whose null this is, at the same positions.

    Raises:
        PatchingError: a change of another shape or not finite, fewer than one draw.
    """
    shape = _shape(checked(change, slope))
    pulled = einsum(shape, wide(slope).to("cpu", torch.float64), "at rank, at d_model -> rank d_model").float()
    found = [
        einsum(frames, pulled, "draw rank d_model, rank d_model -> draw") for frames in _frames(pulled.shape[1], len(pulled), key, draws)
    ]
    return torch.cat(found)[:draws].numpy()


def drawn(change: Float[Tensor, "at d_model"], key: Key, draws: int) -> Iterator[Float[Tensor, "draw at d_model"]]:
    """The changes themselves, some draws at a time; arguments and errors as in `linearised`."""
    shape = _shape(checked(change, change))
    left = draws
    for frames in _frames(change.shape[1], shape.shape[1], key, draws):
        yield einsum(shape.float(), frames, "at rank, draw rank d_model -> draw at d_model")[:left]
        left -= len(frames)


def exact(
    run: Run,
    layer: int,
    positions: Positions,
    change: Float[Tensor, "at d_model"],
    key: Key,
    draws: int = CHECKED,
    memory: int = hooked.MEMORY,
    done: Callable[[int], object] = lambda runs: None,
) -> Float[np.ndarray, " draw"]:
    """The effects of the same random directions, exactly: one run for each, in batches; of 1,000 draws this is the whole null.

    Args:
        change: of the edit whose null this is.
        draws: how many, from the first on.
        memory, done: as in `edits.effects`.

    Raises:
        PatchingError: as in `linearised`, and an outcome that is not finite.
    """
    there = run.standing(layer, positions)
    parts = [effects(run, layer, positions, some.to(there), memory, done) for some in drawn(checked(change, there), key, draws)]
    return torch.cat(parts).numpy()


@dataclass(frozen=True)
class Agreement:
    """How well first order tells what random directions do.

    Args:
        draws: that were compared.
        correlation: of exact with linear effects (Pearson); NaN where one of them does not vary.
        slope: of exact on linear effects.
        offset: mean of exact minus linear.
        spread: standard deviation of the exact effects.
        largest_error: greatest absolute difference.
    """

    draws: int
    correlation: float
    slope: float
    offset: float
    spread: float
    largest_error: float

    @property
    def fits(self) -> bool:
        """Whether the linear null may stand for the exact one.

        Errors below a thousandth of a nat; or a correlation of .9 and more, a slope of .8 to 1.25, and an offset within half the exact spread.
        """
        if self.largest_error <= NOTHING:
            return True
        return self.correlation >= 0.9 and 0.8 <= self.slope <= 1.25 and abs(self.offset) <= self.spread / 2

    def __str__(self) -> str:
        said = (
            f"{self.draws} draws run exactly: correlation {self.correlation:.3f}, slope {self.slope:.3f}, offset {self.offset:.2g}, largest error "
            f"{self.largest_error:.2g}"
        )
        return (
            said
            if self.fits
            else f"{said}. First order does not tell them, or rounding below float32 drowns them: run all draws exactly (controls.random.exact)"
        )


def agreement(linear: Float[np.ndarray, " draw"], exact: Float[np.ndarray, " draw"]) -> Agreement:
    """Compare the linear effects of some draws with the exact ones of the same draws, of one case or as means over cases.

    Raises:
        PatchingError: fewer than three draws, other numbers of them, or effects that are not finite.
    """
    if linear.shape != exact.shape or len(exact) < 3 or not (np.isfinite(linear).all() and np.isfinite(exact).all()):
        raise PatchingError(
            f"Linear and exact effects are compared on the same three draws or more, all finite; got {linear.shape} and {exact.shape}."
        )
    linear, exact = linear.astype(np.float64), exact.astype(np.float64)
    own, other = linear - linear.mean(), exact - exact.mean()
    shared, varies = float(own @ other), float(own @ own)
    correlation = shared / np.sqrt(varies * float(other @ other)) if varies and other.any() else np.nan
    error = exact - linear
    return Agreement(
        len(exact),
        float(correlation),
        shared / varies if varies else np.nan,
        float(error.mean()),
        float(exact.std(ddof=1)),
        float(np.abs(error).max()),
    )


def percentile(observed: float, null: Float[np.ndarray, " draw"]) -> float:
    """Where an effect stands among those of random draws, 0 to 100; ties count half.

    Raises:
        PatchingError: no draws, or numbers that are not finite.
    """
    if not len(null) or not np.isfinite(null).all() or not np.isfinite(observed):
        raise PatchingError(f"A percentile is of a finite effect among one finite draw or more; got {observed} among {len(null)} draws.")
    return 100 * float((null < observed).mean() + (null == observed).mean() / 2)


def _shape(change: Float[Tensor, "at d_model"]) -> Float[Tensor, "at rank"]:
    """A change without its directions: what each position has of each of them. Rows are as long as the changes."""
    own = exactly(change)
    lengths = own.norm(dim=-1)
    sides, sizes, _ = torch.linalg.svd(own, full_matrices=False)
    energy = sizes.square().cumsum(0)
    rank = int((energy < HELD * energy[-1]).sum()) + 1
    kept = sides[:, :rank] * sizes[:rank]
    held = kept.norm(dim=-1)
    kept[held == 0, 0] = held[held == 0] = 1.0
    return kept * (lengths / held)[:, None]


def _frames(d_model: int, rank: int, key: Key, draws: int) -> Iterator[Float[Tensor, "draw rank d_model"]]:
    """As many sets of orthonormal vectors as are asked for, or a few more, uniformly distributed (QR of Gaussian matrices, Mezzadri 2007)."""
    if draws < 1:
        raise PatchingError(f"A null has one draw or more; got draws={draws}.")
    generator = key.generator()
    for _ in range(0, draws, TOGETHER):
        gaussian = torch.randn(TOGETHER, d_model, rank, generator=generator)
        if rank == 1:
            yield rearrange(gaussian / gaussian.norm(dim=1, keepdim=True), "draw d_model 1 -> draw 1 d_model")
            continue
        turned, scale = torch.linalg.qr(gaussian)
        signs = scale.diagonal(dim1=-2, dim2=-1).sign()
        yield rearrange(turned * signs[:, None], "draw d_model rank -> draw rank d_model")
