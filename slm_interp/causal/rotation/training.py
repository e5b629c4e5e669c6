"""Distributed alignment search (Geiger et al. 2024, arXiv 2303.02536): a subspace learned by what its interchange does.

1. `R` has `rank` orthonormal rows, the QR factor of a free matrix, at first random. Of the residuals at the word it takes the coordinates in their span
   from the other run: `x + R^T R (source - x)`, which is `CopyCoordinates`.
2. The model is run on from there. The objective `"whole"` is the share of the effect of taking *everything* that is missed, over the logits `s` of all units
   that may follow, less their mean, `sum (s - s_whole)^2 / sum (s_whole - s_base)^2`: 0 where the span does as much as everything, and no more. `"answer"` is
   - log p(answer), theirs, which rewards doing more than everything does.
3. A price on how much is moved, `|R (source - x)|^2 / |source - x|^2`, falls linearly to 0 over the first half of the steps. Without it many
   subspaces do the same: where a code that nobody reads goes with one that is read, so does a span that leans on both (the illusion of Makelov et
   al. 2023, arXiv 2311.17030). With it the search comes from the side of moving little.
4. Adam, with a rate that falls to 0 along a cosine. Twenty times the objective is taken on cases that are kept for it, and the best of those once
   the price is gone stays; `patience` times in a row without anything better end it.

Model and residuals stay as they are; only `R` is learned. What it found is worth what it does on other words: `compared`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import cos, pi

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm.auto import tqdm

from slm_interp import hooked
from slm_interp.causal.cases import Case, checked_cases
from slm_interp.causal.rotation.examples import Examples, laid_out, split_by_pairs
from slm_interp.causal.rotation.rotation import Rotation
from slm_interp.errors import PatchingError
from slm_interp.lenses.probe.states import fingerprint_of
from slm_interp.model import SpeechTextModel
from slm_interp.patching.policies import Policy, name_of, same


def _missed(examples: Examples, said: Tensor, whole: Tensor, base: Tensor) -> Tensor:
    said, whole, base = (one - one.mean(-1, keepdim=True) for one in (said, whole, base))
    return (said - whole).square().sum() / (whole - base).square().sum()


def _answer(examples: Examples, said: Tensor, whole: Tensor, base: Tensor) -> Tensor:
    return -said[torch.arange(len(said)), examples.answer].mean()


OBJECTIVES: Mapping[str, Callable[[Examples, Tensor, Tensor, Tensor], Tensor]] = {"whole": _missed, "answer": _answer}
LEAST = 1e-4  # nats: a whole patch that moves no case by more moves nothing


@dataclass(frozen=True)
class Recipe:
    """How a rotation is trained.

    Args:
        objective: one of `OBJECTIVES`.
        steps: of the optimiser.
        batch: interchanges in a step.
        rate: of Adam, at first.
        price: of moving everything, in units of the objective, at first.
        validation: share of the pairs of words that decide when to stop.
        patience: twentieths of the steps without anything better.
        seed: of the first rows, the batches and the division.
    """

    objective: str = "whole"
    steps: int = 400
    batch: int = 32
    rate: float = 0.03
    price: float = 20.0
    validation: float = 0.2
    patience: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise PatchingError(f"An objective is one of {', '.join(OBJECTIVES)}; got {self.objective!r}.")
        if min(self.steps, self.batch, self.patience) < 1 or self.rate <= 0 or self.price < 0:
            raise PatchingError(f"Steps, batch, patience and rate are positive, the price is not negative; got {self}.")


def train(
    slm: SpeechTextModel,
    cases: Sequence[Case],
    layer: int,
    rank: int,
    policy: Policy = same,
    recipe: Recipe | None = None,
    progress: bool = True,
) -> Rotation:
    """Learn the subspace of a layer that carries the word of some cases to what is said next.

    Args:
        cases: to learn from; keep others apart, by `split_by_words` or `split_by_pairs`.
        layer: blocks run.
        rank: dimensions of the subspace.
        policy: which positions of the two words meet.

    Raises:
        PatchingError: a rank that is not below d_model, no more cases than dimensions, a whole patch that moves nothing.
    """
    recipe, d_model = recipe or Recipe(), slm.model.cfg.d_model
    checked_cases(cases)
    if not 1 <= rank < d_model:
        raise PatchingError(f"A subspace has 1 to {d_model - 1} dimensions of the {d_model} there are; got {rank}.")
    learned, kept = split_by_pairs(cases, recipe.validation, recipe.seed)
    if len(learned) <= rank:
        raise PatchingError(
            f"{rank} dimensions are learned from more cases than that, or the differences of the cases themselves are the answer; got {len(learned)} after "
            f"{len(kept)} were kept to decide when to stop. Give more cases, or a smaller rank."
        )
    examples, other = (laid_out(slm, some, layer, policy, both_ways=True) for some in (learned, kept))
    rows, history = _learned(slm, examples, other, rank, recipe, progress)
    about = {
        "fingerprint": fingerprint_of(slm),
        "policy": name_of(policy),
        "cases": len(cases),
        "words": sorted({word for case in cases for word in (case.words.clean, case.words.corrupted)}),
        **asdict(recipe),
    }
    return Rotation(rows, layer, about, history)


def _learned(
    slm: SpeechTextModel, examples: Examples, kept: Examples, rank: int, recipe: Recipe, progress: bool
) -> tuple[Float[Tensor, "rank d_model"], pd.DataFrame]:
    generator = torch.Generator().manual_seed(recipe.seed)
    ends, aims = _ends(slm, examples), _ends(slm, kept)
    if float((ends[0] - ends[1]).abs().max()) < LEAST:
        raise PatchingError(
            f"The whole patch at layer {examples.layer} changes nothing of what is said next: there is nothing to find there."
        )
    free = _Rows(rank, examples.base, generator)
    optimiser = torch.optim.Adam(free.parameters(), lr=recipe.rate)
    best, since, history, every = (float("inf"), free.rows().detach()), 0, [], max(1, recipe.steps // 20)
    with tqdm(total=recipe.steps, desc=f"rotation of rank {rank} at layer {examples.layer}", disable=not progress) as bar:
        for step in range(recipe.steps):
            price = recipe.price * max(0.0, 1 - 2 * step / recipe.steps)
            for group in optimiser.param_groups:
                group["lr"] = recipe.rate * (1 + cos(pi * step / recipe.steps)) / 2
            chosen = torch.randperm(len(examples), generator=generator)[: recipe.batch]
            optimiser.zero_grad()
            loss = _loss(slm, examples.of(chosen), [one[chosen] for one in ends], free.rows(), recipe.objective, price)
            loss.backward()
            optimiser.step()
            bar.update()
            if (step + 1) % every and step + 1 < recipe.steps:
                continue
            with torch.no_grad():
                found = float(_loss(slm, kept, aims, free.rows(), recipe.objective, 0.0))
            history.append({"step": step + 1, "price": price, "training": float(loss.detach()), "kept": found})
            bar.set_postfix(kept=f"{found:.4f}")
            if price > 0:
                continue
            best, since = ((found, free.rows().detach()), 0) if found < best[0] else (best, since + 1)
            if since >= recipe.patience:
                break
    return best[1], pd.DataFrame(history)


def _ends(slm: SpeechTextModel, examples: Examples) -> list[Float[Tensor, "example id"]]:
    """What every run says with everything put in, and with nothing."""
    with torch.no_grad():
        return [examples.log_probs(slm, one) for one in (examples.whole, examples.base)]


def _loss(slm: SpeechTextModel, examples: Examples, ends: Sequence[Tensor], rows: Tensor, objective: str, price: float) -> Tensor:
    with hooked.frozen(slm.model):
        resid = examples.within(rows)
        loss = OBJECTIVES[objective](examples, examples.log_probs(slm, resid), ends[0], ends[1])
        if price:
            base, every = hooked.widened(examples.base), hooked.widened(examples.whole)
            loss = loss + price * (resid - base).square().sum() / (every - base).square().sum()
    return loss


class _Rows(nn.Module):
    """Orthonormal rows that can be learned: only the span of the free matrix counts."""

    def __init__(self, rank: int, like: Tensor, generator: torch.Generator) -> None:
        super().__init__()
        first = torch.randn(like.shape[-1], rank, generator=generator, dtype=torch.float64)
        self.free = nn.Parameter(torch.linalg.qr(first).Q.to(like.device, torch.promote_types(like.dtype, torch.float32)))

    def rows(self) -> Float[Tensor, "rank d_model"]:
        return torch.linalg.qr(self.free).Q.T
