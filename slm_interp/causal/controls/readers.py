"""A change in two parts: what later blocks read of it and what they do not; what varies by itself and what does not.

Makelov, Lange & Nanda 2023 (arXiv 2311.17030) show how a patch along one direction can be an illusion. The direction is a sum, *disconnected + dormant*:
along the first part the stream varies with the word and nobody reads it; along the second it never varies, but what reads it would act on it. The patch
takes its coordinate from the first and drives the output by the second, a path that the model itself does not use. Two splits tell:

| split | inside | outside | made from |
|---|---|---|---|
| `what_is_read` | `read` | `unread` (their *disconnected*) | weights: the row space of everything that reads the stream in later blocks |
| `what_varies` | `varying` | `dormant` | data: the principal components that hold 99% of the variance of natural residuals |

1. *Readers* of `resid_post` after `l` blocks: `W_Q`, `W_K`, `W_V` of all heads and `W_in`, `W_gate` of the MLP of every block from `l` on, and those columns
   of the unembedding that are asked for; each pulled back through its norm (times its weight; centred for LayerNorm). The *scale* of a norm reads every
   direction, and is left aside.
2. Every reader counts alike: its squared singular values are divided by their sum. The fewest directions that hold 99% of what is stacked are `read`.
3. `inside(change)` and `outside(change)` are orthogonal, and sum to the change. An effect that is all of the `dormant` part is an illusion in their sense.
   An effect of the `unread` part comes by the scale of a norm, or by the last percent.
4. Their own test is another one: project the *directions*, `inside(directions)` of `what_is_read`, and swap along those, so that coordinates too are taken
   from what is read. The effect must stay. (The read part of a *change* keeps coordinates that came from what is unread.)

In a narrow model the readers span the whole stream and nothing is unread: `everything` says so. Directions in which few prompts happened to vary count as
dormant: give more states than d_model. Where variance is large elsewhere, all text may lie within the last percent; `distance.py` grades what this cuts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from slm_interp import hooked
from slm_interp.causal.controls.natural import Natural
from slm_interp.errors import PatchingError
from slm_interp.hooked.norm import CENTRED
from slm_interp.lenses.directions import directions_of
from slm_interp.model import SpeechTextModel
from slm_interp.patching.interventions.directions import SMALLEST, along, combined, exact, wide

ENERGY = 0.99
COLUMNS = 8192  # of the unembedding at a time
ROUNDING = {torch.float64: SMALLEST**2}  # of a product, as a share of the largest; products of other dtypes are summed in float32

READERS = {  # parameters of a block whose first axes are read from the stream, and the norm before them
    "ln1": {"attn.W_Q": "head d_model d_head -> (head d_head) d_model", "attn.W_K": "head d_model d_head -> (head d_head) d_model"}
    | {"attn.W_V": "head d_model d_head -> (head d_head) d_model"},
    "ln2": {"mlp.W_in": "d_model d_mlp -> d_mlp d_model", "mlp.W_gate": "d_model d_mlp -> d_mlp d_model"},
}


@dataclass(frozen=True, eq=False)
class Split:
    """The stream in two orthogonal parts.

    Args:
        basis: orthonormal rows of what is inside, in float64.
        energy: share that they hold, at least.
        inside_is, outside_is: names of the parts.
        measured_by: what was stacked, for a sentence.
    """

    basis: Float[Tensor, "rank d_model"]
    energy: float
    inside_is: str
    outside_is: str
    measured_by: str

    @property
    def rank(self) -> int:
        """Dimensions inside."""
        return len(self.basis)

    @property
    def everything(self) -> bool:
        """Whether nothing is left outside, so that the split says nothing."""
        return self.rank == self.basis.shape[1]

    def inside(self, change: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """The part inside, in float32 at least."""
        return combined(along(change, self.basis), self.basis)

    def outside(self, change: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """The rest."""
        return wide(change) - self.inside(change)

    def __str__(self) -> str:
        said = f"{self.inside_is}: {self.rank} of {self.basis.shape[1]} dimensions hold {self.energy:.4g} of {self.measured_by}"
        return f"{said}; nothing is {self.outside_is}, so the split says nothing" if self.everything else said


def what_is_read(slm: SpeechTextModel, layers: Sequence[int], ids: Sequence[int] = (), energy: float = ENERGY) -> dict[int, Split]:
    """What later blocks read, at some layers (blocks run); one pass over the weights.

    Args:
        ids: columns of the unembedding that count as readers: those of the outcome where the change is at the position that is read out, none elsewhere.
        energy: share of the squared singular values of all readers.

    Raises:
        PatchingError: layers that are not there, an energy outside 0..1, a block whose readers are not known, such as experts.
        VocabularyError: ids outside the vocabulary.
    """
    last = slm.model.cfg.n_layers
    if not layers or not all(0 <= layer <= last for layer in layers):
        raise PatchingError(f"Layers count blocks run, 0 (embedding) to {last}, one or more; got {list(layers)}.")
    stacked = torch.zeros(slm.model.cfg.d_model, slm.model.cfg.d_model, dtype=torch.float64)
    if len(ids):
        parts = [directions_of(slm, ids[start : start + COLUMNS]) for start in range(0, len(ids), COLUMNS)]
        stacked += _alike(sum((_products(part) for part in parts), torch.zeros_like(stacked)))
    found = {}
    for layer in reversed(range(min(layers), last + 1)):
        for rows in _readers(slm, layer) if layer < last else ():
            stacked += _alike(_products(rows))
        if layer in layers:
            sizes, columns = torch.linalg.eigh(stacked)
            rank = _rank(sizes.flip(0).clamp(min=0), energy, ROUNDING.get(slm.model.cfg.dtype, SMALLEST))
            found[layer] = Split(columns.T.flip(0)[:rank], energy, "read", "unread", "what later blocks read, each reader alike")
    return {layer: found[layer] for layer in layers}


def what_varies(natural: Natural, energy: float = ENERGY) -> Split:
    """The principal components that hold most of the variance of natural residuals; what lies outside is dormant.

    Raises:
        PatchingError: an energy outside 0..1.
    """
    own = natural.principal
    rank = _rank(own.variances, energy)
    return Split(own.components[:rank], energy, "varying", "dormant", f"the variance of {own.states} natural residuals")


def _readers(slm: SpeechTextModel, block: int) -> Iterator[Float[Tensor, "_ d_model"]]:
    """Everything that reads the stream in a block, as rows, pulled back through the norm before it."""
    config, held = slm.model.cfg, hooked.parameters(slm.model)
    kind = getattr(config, "normalization_type", None)
    if kind is not None and kind not in CENTRED:
        raise PatchingError(f"Readers are pulled back through norms that are {', '.join(CENTRED)}, or none; this model has {kind!r}.")
    for norm, readers in READERS.items():
        weight = held.get(f"blocks.{block}.{norm}.w")
        formula = hooked.NormFormula(None if weight is None else hooked.widened(weight.detach()), None, CENTRED.get(str(kind), False), None)
        there = {name: held.get(f"blocks.{block}.{name}", held.get(f"blocks.{block}.{name.replace('.', '._')}")) for name in readers}
        if there.get("mlp.W_in", 0) is None and not getattr(config, "attn_only", False):
            raise PatchingError(f"Block {block} has no mlp.W_in, so what its MLP reads is not known (experts?). Leave out this control.")
        for name, pattern in readers.items():
            own = there[name]
            if own is not None:
                yield formula.pull_back(rearrange(own.detach(), pattern))


def _products(rows: Float[Tensor, "row d_model"]) -> Float[Tensor, "d_model d_model"]:
    """Of all rows with all, summed: in the precision of the rows, as most of the work is here, and then in float64."""
    return exact(rows.T @ rows)


def _alike(products: Float[Tensor, "d_model d_model"]) -> Float[Tensor, "d_model d_model"]:
    """Products of the rows of a reader, of trace 1; of nothing nothing."""
    size = products.diagonal().sum()
    return products / size if size > 0 else products


def _rank(energies: Float[Tensor, " direction"], energy: float, rounding: float = SMALLEST**2) -> int:
    """The fewest of some directions, largest first, that hold a share of the whole; less than `rounding` of the largest is none."""
    if not 0 < energy <= 1:
        raise PatchingError(f"Energy is a share above 0, at most 1; got {energy}.")
    if not energies.any():
        return 0
    there = int((energies > rounding * energies[0]).sum())
    held = energies.cumsum(0) / energies.sum()
    return min(there, int((held < energy).sum()) + 1)
