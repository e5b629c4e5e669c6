"""Runs with something erased at one layer or at every layer of a band: many subspaces of one utterance at once, and what each unit then costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import torch
from einops import einsum, repeat
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from slm_interp import hooked
from slm_interp.causal.erasure.spaces import Space
from slm_interp.errors import PatchingError
from slm_interp.model import SpeechTextModel
from slm_interp.patching.measuring import finite, logits_at
from slm_interp.utterance import Utterance

Positions: TypeAlias = Literal["words", "speech"]
WHERE = ("onset", "inside", "outside")


@dataclass(frozen=True, eq=False)
class Erasers:
    """What is erased at one layer, several subspaces beside each other: row 0 erases nothing."""

    left: Float[Tensor, "run rank d_model"]
    right: Float[Tensor, "run rank d_model"]
    mean: Float[Tensor, "run one d_model"]

    @classmethod
    def of(cls, spaces: Sequence[Space], like: Tensor) -> Erasers:
        """Rows are padded with zeros, which erase nothing."""
        most = max(len(one.left) for one in spaces)
        work = torch.promote_types(like.dtype, torch.float32)
        sides = [torch.stack([pad(rows, (0, 0, 0, most - len(rows))) for rows in some]) for some in _sides(spaces, most)]
        left, right = (one.to(like.device, work) for one in sides)
        means = torch.stack([spaces[0].mean, *(one.mean for one in spaces)])[:, None]
        return cls(left, right, means.to(like.device, work))

    def without(self, resid: Float[Tensor, "run pos d_model"], positions: Int[Tensor, " at"]) -> Float[Tensor, "run pos d_model"]:
        """The stream with every run's own subspace at its mean at some positions; the rest does not change by a bit."""
        there = resid[:, positions].to(self.mean.dtype)
        share = einsum(there - self.mean, self.right, "run at d_model, run rank d_model -> run at rank")
        changed = resid.clone()
        changed[:, positions] = (there - einsum(share, self.left, "run at rank, run rank d_model -> run at d_model")).to(resid.dtype)
        changed[0] = resid[0]
        return changed


def _sides(spaces: Sequence[Space], most: int) -> tuple[list[Tensor], list[Tensor]]:
    nothing = torch.zeros(most, spaces[0].left.shape[1], dtype=spaces[0].left.dtype)
    return [nothing, *(one.left for one in spaces)], [nothing, *(one.right for one in spaces)]


def positions_of(slm: SpeechTextModel, utterance: Utterance, positions: str) -> Int[Tensor, " at"]:
    """Where something is erased: at all positions of words, or of speech.

    Raises:
        PatchingError: another name, or an utterance without such positions.
    """
    if positions not in get_args(Positions):
        raise PatchingError(f"Positions are {' or '.join(map(repr, get_args(Positions)))}; got {positions!r}.")
    if positions == "words":
        found = sorted({at for word in utterance.words for at in word.span.checked(len(utterance))})
    else:
        found = slm.vocabulary.mask("speech")[utterance.tokens].nonzero().flatten().tolist()
    if not found:
        raise PatchingError(
            f"{utterance.name or 'An utterance'!r} has no positions of {positions}: erasure is asked of speech with its words."
        )
    return torch.tensor(found)


@dataclass(frozen=True, eq=False)
class Asked:
    """Which units of an utterance are asked for: those predicted from the first erased position on, and where each stands."""

    pos: Int[Tensor, " unit"]
    where: tuple[str, ...]

    @classmethod
    def of(cls, slm: SpeechTextModel, utterance: Utterance, first: int) -> Asked:
        """Units after position `first`: the first of a word, another one of it, or of no word."""
        speech = slm.vocabulary.mask("speech")[utterance.tokens]
        places = dict.fromkeys(range(len(utterance)), "outside")
        for word in utterance.words:
            places |= dict.fromkeys(word.span, "inside") | {word.span.start: "onset"}
        found = [pos for pos in range(first, len(utterance) - 1) if speech[pos + 1]]
        return cls(torch.tensor(found, dtype=torch.long), tuple(places[pos + 1] for pos in found))


def started(
    slm: SpeechTextModel, utterance: Utterance, erasers: dict[int, Erasers], positions: Int[Tensor, " at"]
) -> tuple[Float[Tensor, "run pos d_model"], list[tuple[str, Any]]]:
    """What stands at the first layer of a band with everything erased there, and the hooks that erase in the rest of it."""
    layers = sorted(erasers)
    stream = hooked.residuals(slm.model, utterance.tokens)[layers[0]]
    first = erasers[layers[0]]
    resid = first.without(repeat(stream, "pos d_model -> run pos d_model", run=len(first.left)), positions)

    def put(layer: int) -> Any:
        return lambda value, hook: erasers[layer].without(value, positions)

    return resid, [(hooked.hook_at("resid_post", layer), put(layer)) for layer in layers[1:]]


def after_erasure(
    slm: SpeechTextModel, utterance: Utterance, erasers: dict[int, Erasers], positions: Int[Tensor, " at"]
) -> Float[Tensor, "run pos d_model"]:
    """What stands at the last layer of a band."""
    resid, hooks = started(slm, utterance, erasers, positions)
    if not hooks:
        return resid
    kept: list[Tensor] = []

    def keep(value: Tensor, hook: Any) -> None:
        kept.append(value)

    with torch.no_grad():
        tokens = utterance.tokens.expand(len(resid), -1)
        hooked.run_from_layer(slm.model, tokens, min(erasers), resid, [*hooks, (hooked.hook_at("resid_post", max(erasers)), keep)])
    return kept[0]


def costs(
    slm: SpeechTextModel, utterance: Utterance, erasers: dict[int, Erasers], positions: Int[Tensor, " at"], asked: Asked
) -> tuple[Float[Tensor, "run unit"], Float[Tensor, "run unit"]]:
    """- log p of every unit that is asked for, over the speech ids, and the KL of each run's prediction from that of row 0, in nats.

    Raises:
        PatchingError: numbers that are not finite.
    """
    ids = slm.vocabulary.mask("speech").nonzero().flatten()
    resid, hooks = started(slm, utterance, erasers, positions)
    with torch.no_grad():
        last = hooked.run_from_layer(slm.model, utterance.tokens.expand(len(resid), -1), min(erasers), resid, hooks)
        said = hooked.widened(logits_at(slm, last[:, asked.pos], ids)).log_softmax(-1)
    right = torch.searchsorted(ids, utterance.tokens[asked.pos + 1].to(ids)).to(said.device)
    nll = -said.gather(-1, repeat(right, "unit -> run unit 1", run=len(said)))[..., 0]
    kl = (said[:1].exp() * (said[:1] - said)).sum(-1)
    return finite(nll, "NLL").cpu(), kl.cpu()
