"""Interchanges laid out for training: what stands at a layer in the changed run, with what the other run has there put in, many cases at once.

A case gives two: clean residuals into the corrupted run, and the reverse. Rows are padded on the right. Outcomes are those of the first unit that follows, over
the speech ids: nothing is appended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from slm_interp import hooked
from slm_interp.causal.cases import Case
from slm_interp.errors import PatchingError
from slm_interp.model import SpeechTextModel
from slm_interp.patching import outcomes
from slm_interp.patching.measuring import lay, logits_at
from slm_interp.patching.policies import Policy, Stretch
from slm_interp.patching.spans import SpanPair
from slm_interp.utterance import Contrast


@dataclass(frozen=True, eq=False)
class Examples:
    """Interchanges at one layer.

    Args:
        layer: blocks run.
        tokens: of the changed runs.
        base: what stands there; `whole` has what the other run has at the word, and differs from it nowhere else.
        last: the last position of each prompt.
        answer, distractor: the first unit that follows the other prompt, and this one, as places among `ids`.
        ids: the speech ids.
    """

    layer: int
    tokens: Int[Tensor, "example pos"]
    base: Float[Tensor, "example pos d_model"]
    whole: Float[Tensor, "example pos d_model"]
    last: Int[Tensor, " example"]
    answer: Int[Tensor, " example"]
    distractor: Int[Tensor, " example"]
    ids: Int[Tensor, " id"]

    def __len__(self) -> int:
        return len(self.tokens)

    def of(self, rows: Int[Tensor, " row"]) -> Examples:
        """Some of them."""
        own = {name: getattr(self, name)[rows] for name in ("tokens", "base", "whole", "last", "answer", "distractor")}
        return replace(self, **own)

    def within(self, basis: Float[Tensor, "rank d_model"]) -> Float[Tensor, "example pos d_model"]:
        """The stream with its coordinates in the span of orthonormal rows taken from the other run; with gradients to the rows."""
        moved = hooked.widened(self.whole) - hooked.widened(self.base)
        share = einsum(moved, basis.to(moved), "example pos d_model, rank d_model -> example pos rank")
        return hooked.widened(self.base) + einsum(share, basis.to(moved), "example pos rank, rank d_model -> example pos d_model")

    def log_probs(self, slm: SpeechTextModel, resid: Float[Tensor, "example pos d_model"]) -> Float[Tensor, "example id"]:
        """Of the unit that follows, over the speech ids, where `resid` stands at the layer."""
        after = hooked.run_from_layer(slm.model, self.tokens, self.layer, resid.to(self.base.dtype))
        return hooked.widened(logits_at(slm, after[torch.arange(len(self)), self.last], self.ids)).log_softmax(-1)

    def difference(self, log_probs: Float[Tensor, "example id"]) -> Float[Tensor, " example"]:
        """log p(answer) - log p(distractor)."""
        row = torch.arange(len(self))
        return log_probs[row, self.answer] - log_probs[row, self.distractor]


def laid_out(slm: SpeechTextModel, cases: Sequence[Case], layer: int, policy: Policy, both_ways: bool = False) -> Examples:
    """Run both prompts of every case, and put what the one has at the word into the other.

    Args:
        both_ways: also the reverse of every case, after all of them.

    Raises:
        PatchingError: a layer that is not there, spans that do not meet under the policy, continuations that are no speech.
    """
    if not cases or not 0 <= layer <= slm.model.cfg.n_layers:
        raise PatchingError(f"Cases are asked at a layer in 0..{slm.model.cfg.n_layers}, blocks run; got {len(cases)} cases at {layer}.")
    asked = [*cases, *(map(_reversed, cases) if both_ways else ())]
    parts = [_one(slm, case, layer, policy) for case in asked]
    tokens, base, whole, places = zip(*parts, strict=True)
    longest = max(map(len, tokens))
    rows = torch.tensor(places)
    return Examples(
        layer,
        torch.stack([pad(one, (0, longest - len(one)), value=int(one[-1])) for one in tokens]),
        pad_sequence(list(base), batch_first=True),
        pad_sequence(list(whole), batch_first=True),
        torch.tensor([len(one) - 1 for one in tokens]),
        rows[:, 0],
        rows[:, 1],
        outcomes.difference(units=1).ids(slm.vocabulary),
    )


def _one(slm: SpeechTextModel, case: Case, layer: int, policy: Policy) -> tuple[Tensor, Tensor, Tensor, tuple[int, int]]:
    laid = lay(slm, case.base, case.contrast, outcomes.difference(units=1))
    base, source = (hooked.residuals(slm.model, slm.check(one).tokens)[layer] for one in (case.base, case.source))
    pairing = policy(Stretch(case.source, case.span.clean), Stretch(case.base, case.span.corrupted))
    whole = base.clone()
    whole[pairing.base] = pairing.values(source[None], base[None])[0].to(base)
    return case.base.tokens.long(), base, whole, (int(laid.targets["answer"][0]), int(laid.targets["distractor"][0]))


def _reversed(case: Case) -> Case:
    contrast, span = case.contrast, case.span
    turned = Contrast(contrast.corrupted, contrast.clean, contrast.distractor, contrast.answer)
    words = replace(case.words, clean=case.words.corrupted, corrupted=case.words.clean, phonetic=None, semantic=None)
    return Case(
        f"{case.name}, reversed",
        turned,
        words,
        SpanPair(span.name, span.corrupted, span.clean, span.label),
        prompt=case.prompt,
        word=case.word,
    )


# -- which cases are learned from, and which are kept ------------------------------------------------


def split_by_words(cases: Sequence[Case], share: float = 0.3, seed: int = 0) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """Cases for training and for testing that share no word. Cases that have one of each side belong to neither and are left out.

    Args:
        share: of the words that are kept for testing.

    Raises:
        PatchingError: a share that leaves one side empty.
    """
    words = sorted({word for case in cases for word in _words(case)})
    kept = _chosen(words, share, seed)
    sides = tuple(tuple(case for case in cases if all((word in kept) is out for word in _words(case))) for out in (False, True))
    return _both(sides, len(cases), "word")


def split_by_pairs(cases: Sequence[Case], share: float = 0.3, seed: int = 0) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """Cases that share no pair of words; single words are met again, beside another one. Arguments and errors as in `split_by_words`."""
    kept = _chosen(sorted({case.word for case in cases}), share, seed)
    sides = tuple(tuple(case for case in cases if (case.word in kept) is out) for out in (False, True))
    return _both(sides, len(cases), "pair of words")


def _words(case: Case) -> tuple[str, str]:
    return case.words.clean, case.words.corrupted


def _chosen(groups: Sequence[str], share: float, seed: int) -> set[str]:
    if len(groups) < 2 or not 0 < share < 1:
        raise PatchingError(f"Two sides need two groups at least and a share between 0 and 1; got {len(groups)} and {share}.")
    count = min(max(1, round(share * len(groups))), len(groups) - 1)
    return {groups[one] for one in np.random.default_rng(seed).choice(len(groups), count, replace=False)}


def _both(sides: tuple[tuple[Case, ...], ...], asked: int, what: str) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    if not all(sides):
        raise PatchingError(
            f"Of {asked} cases {len(sides[0])} are left to learn from and {len(sides[1])} to test on, if they share no {what}. Give more cases, or "
            "another share."
        )
    return sides[0], sides[1]


Split = Callable[[Sequence[Case], float, int], "tuple[tuple[Case, ...], tuple[Case, ...]]"]
