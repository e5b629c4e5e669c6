"""What a tuned lens is trained on: rows of ids, the positions among them that count, and the residuals there, a batch at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from slm_interp import hooked
from slm_interp.errors import ReadoutError
from slm_interp.lenses.tuned.aim import Aim
from slm_interp.model import SpeechTextModel
from slm_interp.utterance import Utterance

OTHER = "other"  # positions of markers and whatever is neither speech nor text
MODALITIES = ("speech", "text", OTHER)


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of ids of which at least one position counts.

    Args:
        tokens: the rows, each at most once.
        chosen: the positions that count.
        weights: what each of them counts.
        modality: of each of them, by its place in `MODALITIES`.
    """

    tokens: tuple[Int[Tensor, " _"], ...]
    chosen: tuple[Bool[Tensor, " _"], ...]
    weights: tuple[Float[Tensor, " _"], ...]
    modality: tuple[Int[Tensor, " _"], ...]

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def positions(self) -> int:
        """Positions that count, in all."""
        return sum(len(one) for one in self.weights)

    @property
    def hash(self) -> str:
        """What tells these rows from others: the first 16 hex digits of SHA-256 over their ids, in order."""
        digest = hashlib.sha256()
        for one in self.tokens:
            digest.update(len(one).to_bytes(8, "little") + one.to(torch.int64).numpy().astype("<i8").tobytes())
        return digest.hexdigest()[:16]

    def take(self, numbers: Sequence[int]) -> Rows:
        """Some of the rows."""
        return Rows(*(tuple(part[one] for one in numbers) for part in (self.tokens, self.chosen, self.weights, self.modality)))


@dataclass(frozen=True, eq=False)
class Batch:
    """Residuals at positions that count, at some layers and at the last."""

    resid: Float[Tensor, "layer position d_model"]
    final: Float[Tensor, "position d_model"]
    weights: Float[Tensor, " position"]
    modality: Int[Tensor, " position"]

    def __len__(self) -> int:
        return len(self.weights)


def rows_of(slm: SpeechTextModel, sequences: Iterable[Utterance | Int[Tensor, " _"]], aim: Aim) -> Rows:
    """The rows of some sequences that have a position to train at, each once.

    Raises:
        ReadoutError: none has one.
        UtteranceError, VocabularyError: a sequence that this model cannot read.
    """
    distinct: dict[bytes, Tensor] = {}
    for one in sequences:
        ids = _tokens(slm, one)
        if aim.chosen(ids, slm.vocabulary).any():
            distinct.setdefault(ids.numpy().tobytes(), ids)
    if not distinct:
        raise ReadoutError(f"No sequence has a position to train at: the aim is {aim}. Give sequences that have such positions.")
    tokens = tuple(distinct.values())
    chosen = tuple(aim.chosen(one, slm.vocabulary) for one in tokens)
    counted = [one[mask] for one, mask in zip(tokens, chosen, strict=True)]
    shares = aim.shares(torch.cat(counted), slm.vocabulary)
    weights = tuple(aim.weights(one, slm.vocabulary, shares) for one in counted)
    return Rows(tokens, chosen, weights, tuple(_modality(slm, one) for one in counted))


def sides(rows: Rows, share: float, most: int, seed: int) -> tuple[Rows, Rows]:
    """Rows to train on and rows that are held out; no row is on both sides.

    Args:
        rows: at least two.
        share: of the rows that are held out.
        most: positions to hold out; rows above them are trained on.
        seed: of the choice.

    Raises:
        ReadoutError: a single row, a share outside 0..1.
    """
    if len(rows) < 2 or not 0 < share < 1:
        raise ReadoutError(
            f"Training needs two different rows at least, one of them held out, and a share between 0 and 1; got {len(rows)} and {share}."
        )
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
    held: list[int] = []
    positions = 0
    for one in order[: min(max(1, round(share * len(rows))), len(rows) - 1)]:
        if held and positions + len(rows.weights[one]) > most:
            break
        held.append(one)
        positions += len(rows.weights[one])
    return rows.take(sorted(set(order) - set(held))), rows.take(sorted(held))


def batches(rows: Rows, size: int, seed: int, epoch: int) -> list[list[int]]:
    """Rows by their numbers, shuffled and put together until a batch has `size` positions; a function of seed and epoch.

    A last batch of less than half joins the one before it.
    """
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1_000_003 * seed + epoch)).tolist()
    found: list[list[int]] = [[]]
    held = 0
    for one in order:
        if held >= size:
            found.append([])
            held = 0
        found[-1].append(one)
        held += len(rows.weights[one])
    if len(found) > 1 and held < size / 2:
        last = found.pop()
        found[-1] += last
    return found


def batch_of(slm: SpeechTextModel, rows: Rows, layers: Sequence[int], numbers: Sequence[int]) -> Batch:
    """Residuals of some rows, several in one forward pass.

    Raises:
        ReadoutError: residuals that are not finite, rows longer than the model reads.
    """
    device, wanted = hooked.unembedding(slm.model).W_U.device, [*layers, slm.model.cfg.n_layers]
    parts: dict[int, Tensor] = {}
    for place, resid in hooked.each_residuals(slm.model, [rows.tokens[one].to(device) for one in numbers]):
        kept = resid[wanted][:, rows.chosen[numbers[place]].to(device)]
        if not kept.isfinite().all():
            layer = wanted[int((~kept.isfinite()).any(-1).any(-1).nonzero()[0])]
            raise ReadoutError(
                f"Residuals of row {numbers[place]} are not finite, first at layer {layer}. Scan the weights: slm-interp verify."
            )
        parts[place] = kept
    resid = torch.cat([parts[place] for place in range(len(numbers))], 1)
    weights, modality = (torch.cat([part[one] for one in numbers]).to(device) for part in (rows.weights, rows.modality))
    return Batch(resid[:-1], resid[-1], weights, modality)


def _tokens(slm: SpeechTextModel, one: Utterance | Int[Tensor, " pos"]) -> Int[Tensor, " pos"]:
    if isinstance(one, Utterance):
        return slm.check(one).tokens.long().cpu()
    if one.ndim != 1 or not len(one):
        raise ReadoutError(f"A sequence is an Utterance or one row of ids, shape (pos,); got shape {tuple(one.shape)}.")
    slm.vocabulary.check_ids(one)
    if len(one) > slm.model.cfg.n_ctx:
        raise ReadoutError(f"The model reads at most {slm.model.cfg.n_ctx} positions; a row has {len(one)}. Cut it, or leave it out.")
    return one.long().cpu()


def _modality(slm: SpeechTextModel, tokens: Int[Tensor, " position"]) -> Int[Tensor, " position"]:
    found = torch.full_like(tokens, MODALITIES.index(OTHER))
    for kind in ("speech", "text"):
        found[slm.vocabulary.mask(kind)[tokens]] = MODALITIES.index(kind)
    return found
