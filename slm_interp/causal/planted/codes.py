"""Where everything stands in the residual stream of a planted model: orthonormal subspaces, turned by a random rotation.

| subspace | holds |
|---|---|
| `constant` | `CONSTANT` at every position: it keeps the norm, and is read where a bias is wanted |
| `start` | 1 at a marker: where heads rest |
| `unit` | onset, coda or cue that sounds now |
| `before` | the onset that sounded one position before |
| `secret` | the word, in a code that no text direction sees |
| `text` | spanned by the lens directions of the words, which are oblique |
| `following` | the next word |
| `out` | the unit to say |
| `noise` | what carriers and units leave behind; moved and changed by the model, never read for a word |
| `idle` | the rest of the width: noise that stays |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt

import torch
from jaxtyping import Float
from torch import Tensor

from slm_interp.causal.planted.lexicon import Lexicon
from slm_interp.errors import PatchingError

CONSTANT = 2000.0  # codes have norms about 1: taking one away changes the mean square by a four-millionth
OBLIQUE = 0.5  # how far text directions lean on each other
SPEECH_IN_TEXT = 0.4  # norm, within the text subspace, of what a unit's rows of W_E and columns of W_U have there


@dataclass(frozen=True, eq=False)
class Codes:
    """Bases of the subspaces, in float64.

    Args:
        basis: orthonormal rows by subspace.
        text: the direction along which the lens reads each word, of norm 1, and its code.
        dual: reads the oblique coordinate of each word: `dual @ text.T` is the identity, within the text subspace.
        heard: what the embedding of each symbol has in the text subspace.
        d_model: width.
    """

    basis: Mapping[str, Float[Tensor, "_ d_model"]]
    text: Float[Tensor, "word d_model"]
    dual: Float[Tensor, "word d_model"]
    heard: Float[Tensor, "symbol d_model"]
    d_model: int

    def reading(self, vectors: Float[Tensor, "*row d_model"], weight: Float[Tensor, " d_model"]) -> Float[Tensor, "*row d_model"]:
        """Rows that give `vectors @ resid` after an RMSNorm with this weight: pulled through it, and large since codes are small."""
        return vectors / weight * (CONSTANT / sqrt(self.d_model))

    @property
    def one(self) -> Float[Tensor, " d_model"]:
        """Reads 1 at every position."""
        return self.basis["constant"][0] / CONSTANT


def sizes_of(lexicon: Lexicon, d_model: int) -> dict[str, int]:
    """Dimensions of the subspaces.

    Raises:
        PatchingError: a width that cannot hold them.
    """
    words, side = len(lexicon.words), lexicon.side
    sizes = {"constant": 1, "start": 1, "unit": 2 * side + 1, "before": side, "secret": words, "text": words, "following": words}
    sizes |= {"out": 2 * side, "noise": max(6, d_model // 8)}
    least = sum(sizes.values())
    if least > d_model:
        raise PatchingError(f"{words} words need d_model {least} or more; got {d_model}. Take a wider model or fewer words.")
    return sizes | {"idle": d_model - least}


def codes_of(lexicon: Lexicon, d_model: int, generator: torch.Generator) -> Codes:
    """Random codes: rotation, text directions, and what speech has in the text subspace."""
    sizes = sizes_of(lexicon, d_model)
    basis = dict(zip(sizes, rotation(d_model, generator).split(list(sizes.values())), strict=True))
    words = len(lexicon.words)
    lean = torch.eye(words, dtype=torch.float64) + OBLIQUE * gaussian(words, words, generator) / sqrt(words) + 0.3 / sqrt(words)
    lean = lean / lean.norm(dim=-1, keepdim=True)
    heard = SPEECH_IN_TEXT * unit_rows(lexicon.n_units, basis["text"], generator)
    return Codes(basis, lean @ basis["text"], torch.linalg.inv(lean).T @ basis["text"], heard, d_model)


def rotation(size: int, generator: torch.Generator) -> Float[Tensor, "size size"]:
    """A random orthogonal matrix."""
    return torch.linalg.qr(gaussian(size, size, generator)).Q


def gaussian(rows: int, columns: int, generator: torch.Generator) -> Float[Tensor, "rows columns"]:
    """Standard normal numbers in float64."""
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64)


def unit_rows(rows: int, basis: Float[Tensor, "dim d_model"], generator: torch.Generator) -> Float[Tensor, "rows d_model"]:
    """Random vectors of norm 1 in a subspace; zeros in one of no dimensions."""
    if not len(basis):
        return torch.zeros(rows, basis.shape[1], dtype=torch.float64)
    drawn = gaussian(rows, len(basis), generator)
    return drawn / drawn.norm(dim=-1, keepdim=True) @ basis
