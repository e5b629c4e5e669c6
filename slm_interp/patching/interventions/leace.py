"""LEACE: the smallest change of residuals after which no linear probe can tell the classes apart (Belrose et al. 2023, arXiv 2306.03819).

With `x` residuals of mean `m` and covariance `S`, `z` one-hot labels, `C` their cross-covariance, and `W` the whitening `S^(-1/2)`:

1. `U` is an orthonormal basis of the columns of `W C`: where, of whitened residuals, the classes have different means.
2. `x -> x - W^+ U U^T W (x - m)` (their equation 1). It is an *oblique* projection around the mean: afterwards all classes have the mean `m`, which is the
   same as saying that no linear classifier does better than one that sees nothing (their theorem 3.1), and of all such maps it moves `x` least.
3. The fit is `concept_erasure.LeaceFitter`'s, in float64, with two of its defaults changed since they leave traces: singular values of `W C` count from
   1e-6 on (0.01), and the trace of the covariance is not held down by mixing in another projection; `variance_removed` says what became of it. Its shrinkage
   of `S` stays: it does not touch that the means are equal.

`Erase` takes the part in the span of some directions out whole, wherever classes differ; `Erase(means)`, of the classes' means without the mean of all, also
leaves no linear trace, and moves `x` further. What LEACE cannot do: a classifier that is not linear may still tell the classes apart, and so may the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot

from slm_interp.errors import PatchingError, missing_extra
from slm_interp.patching.interventions.directions import along, combined, exact, same_width, wide
from slm_interp.patching.interventions.intervention import Intervention

SMALLEST = 1e-6  # of the singular values of the whitened cross-covariance, which are correlations times the spread of a label


@dataclass(frozen=True, eq=False)
class Leace(Intervention):
    """A concept erased by LEACE; make one with `Leace.fit`.

    Args:
        left: what is taken out, one row for each dimension: rows of `(W^+ U)^T`.
        right: what it is measured by: rows of `U^T W`; `right @ left.T` is the identity.
        mean: around which it is taken out.
        classes: whose differences are erased.
    """

    left: Float[Tensor, "rank d_model"]
    right: Float[Tensor, "rank d_model"]
    mean: Float[Tensor, " d_model"]
    classes: tuple[str, ...] = ()

    @classmethod
    def fit(cls, resid: Float[Tensor, "row d_model"], labels: Sequence[str]) -> Leace:
        """Fit on residuals of one layer, whose positions are those it will be used at.

        Args:
            labels: the class of each row, such as the word that is heard.

        Raises:
            ImportError: concept-erasure is not installed.
            PatchingError: rows and labels that do not match, residuals that are not finite, one class, or so many that nothing would be left.
        """
        try:
            from concept_erasure import LeaceFitter
        except ImportError as error:
            raise missing_extra("concept-erasure", "causal") from error

        _check(resid, labels)
        classes, numbers = np.unique(np.asarray(labels, dtype=str), return_inverse=True)
        shown = one_hot(torch.from_numpy(numbers.reshape(-1)), len(classes)).double()
        fitter = LeaceFitter(resid.shape[1], len(classes), dtype=torch.float64, constrain_cov_trace=False, svd_tol=SMALLEST)
        eraser = fitter.update(exact(resid), shown).eraser
        there = eraser.proj_left.any(0)
        if not there.any():
            raise PatchingError(f"The {len(classes)} classes have one mean already: there is nothing to erase.")
        return cls(eraser.proj_left[:, there].T, eraser.proj_right[there], eraser.bias, tuple(map(str, classes)))

    @property
    def rank(self) -> int:
        """Dimensions taken out: one less than there are classes, or fewer where their means lie flatter."""
        return len(self.left)

    def variance_removed(self, resid: Float[Tensor, "*batch d_model"]) -> float:
        """The share of the variance of some residuals (around their mean, over all d_model) that is gone afterwards.

        Negative where it grew: an oblique projection can lengthen what it leaves.

        Raises:
            PatchingError: residuals that are not finite or do not vary.
        """
        own = wide(resid).flatten(0, -2)
        before = float((own - own.mean(0)).square().sum())
        if not isfinite(before) or len(own) < 2 or before == 0:
            raise PatchingError(f"A share of variance needs two residuals or more that are finite and differ; got {len(own)}.")
        after = self._made(own[None])[0]
        return 1 - float((after - after.mean(0)).square().sum()) / before

    def _made(self, there: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        same_width(there, self.left)
        return there - combined(along(there - self.mean.to(there.device, there.dtype), self.right), self.left)


def _check(resid: Float[Tensor, "row d_model"], labels: Sequence[str]) -> None:
    if len(resid) != len(labels):
        raise PatchingError(f"Every residual has a label; got {len(resid)} residuals and {len(labels)} labels.")
    broken = int((~resid.isfinite().all(-1)).sum())
    if broken:
        raise PatchingError(f"{broken} of {len(resid)} residuals are not finite. Scan the weights: slm-interp verify.")
    classes, d_model = len(set(labels)), resid.shape[1]
    if classes < 2 or classes - 1 >= d_model:
        raise PatchingError(
            f"Erasing takes one dimension less than there are classes: 2 to {d_model} of them in a stream of {d_model}; got {classes}. "
            "Take fewer words, or Erase.top."
        )
    if len(labels) < 2 * classes:
        raise PatchingError(
            f"{classes} classes need two residuals each and more, or what is erased is noise; got {len(labels)}. Give more utterances, or fewer words."
        )
