"""What a learned subspace does on cases it was not learned from, beside everything, text, the greatest variance and chance; and where it lies.

| arm | takes from the other run |
|---|---|
| `whole` | everything at the word: the ceiling |
| `learned` | the coordinates in the learned subspace |
| `text` | those in the span of the two words' directions, in a basis |
| `all_text` | those in the span of the directions of all words of the cases |
| `variance` | those in as many principal components of the residuals at the word, from the largest on |
| `random` | those in random subspaces of the same rank, draw by draw |

Effects are of the first unit that follows: a rise of log p(answer) - log p(distractor), over the speech ids.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from slm_interp import hooked
from slm_interp.causal.angles import chance_overlap, overlap, principal_angles, random_subspace
from slm_interp.causal.bases import Basis
from slm_interp.causal.cases import Case, checked_cases
from slm_interp.causal.rotation.examples import Examples, laid_out
from slm_interp.causal.rotation.rotation import Rotation
from slm_interp.errors import PatchingError
from slm_interp.model import SpeechTextModel
from slm_interp.patching.interventions.directions import orthonormal
from slm_interp.patching.policies import Policy, same


def compared(
    slm: SpeechTextModel,
    rotation: Rotation,
    cases: Sequence[Case],
    basis: Basis,
    policy: Policy = same,
    draws: int = 20,
    learned_from: Sequence[Case] = (),
    seed: int = 0,
) -> pd.DataFrame:
    """What every arm of the table above does on some cases, corrupted prompts changed.

    Args:
        cases: other than the rotation was learned from.
        basis: of text.
        draws: random subspaces.
        learned_from: cases whose residuals give the principal components; none: those of `cases` themselves.
        seed: of the random subspaces.

    Returns:
        one row for each case and arm: case, prompt, word, arm, draw, rank, base, whole, value, effect (value - base), in nats.

    Raises:
        PatchingError: a rotation of another width, cases that cannot be laid out, words that a basis cannot tell apart.
    """
    checked_cases(cases)
    d_model = slm.model.cfg.d_model
    if rotation.directions.shape[1] != d_model:
        raise PatchingError(f"This rotation is of streams {rotation.directions.shape[1]} wide; the model has {d_model}.")
    examples = laid_out(slm, cases, rotation.layer, policy)
    other = laid_out(slm, learned_from, rotation.layer, policy) if learned_from else examples
    generator = torch.Generator().manual_seed(seed)
    pairs = [torch.cat(basis.pairs(rotation.layer, case.words.clean, case.words.corrupted)) for case in cases]
    shared: list[tuple[str, int, Tensor]] = [
        ("learned", 0, rotation.directions),
        ("variance", 0, _components(other, rotation.rank)),
        *(("random", draw, random_subspace(rotation.rank, d_model, generator)) for draw in range(draws)),
    ]
    every = orthonormal(
        basis.directions(rotation.layer, sorted({word for case in cases for word in (case.words.clean, case.words.corrupted)}))
    )
    if len(every) < d_model:
        shared.insert(1, ("all_text", 0, every))
    with torch.no_grad():
        base, whole = (examples.difference(examples.log_probs(slm, one)) for one in (examples.base, examples.whole))
        found = [(arm, draw, len(rows), _taken(slm, examples, rows)) for arm, draw, rows in shared]
        text = torch.cat([_taken(slm, examples.of(torch.tensor([n])), orthonormal(rows)) for n, rows in enumerate(pairs)])
    frames = [
        _frame(cases, "whole", 0, d_model, base, whole, whole),
        _frame(cases, "text", 0, len(orthonormal(pairs[0])), base, whole, text),
    ]
    frames += [_frame(cases, arm, draw, rank, base, whole, value) for arm, draw, rank, value in found]
    return pd.concat(frames, ignore_index=True)


def angles(rotation: Rotation, basis: Basis, words: Sequence[str]) -> pd.DataFrame:
    """How the learned subspace lies to the span of some words' directions.

    Returns:
        one row for each principal angle: angle (degrees, ascending), `overlap` (mean squared cosine of all), `chance` (the overlap that a
        random subspace has on average), the two ranks.

    Raises:
        PatchingError: words whose directions span the whole stream.
    """
    text, d_model = basis.directions(rotation.layer, list(words)), rotation.directions.shape[1]
    rank = len(orthonormal(text))
    if rank >= d_model:
        raise PatchingError(f"{len(words)} words span all {d_model} dimensions: every subspace lies in their span. Give fewer words.")
    found = principal_angles(rotation.directions, text)
    shared, chance = overlap(rotation.directions, text), chance_overlap(rotation.rank, rank, d_model)
    about = {"overlap": shared, "chance": chance, "rank": rotation.rank, "text_rank": rank, "basis": basis.name}
    return pd.DataFrame({"number": range(len(found)), "angle": found.tolist()}).assign(**about)


def _taken(slm: SpeechTextModel, examples: Examples, rows: Float[Tensor, "rank d_model"]) -> Float[Tensor, " example"]:
    return examples.difference(examples.log_probs(slm, examples.within(rows)))


def _components(examples: Examples, rank: int) -> Float[Tensor, "rank d_model"]:
    """The principal components of what stands at the word in both runs."""
    there = (examples.whole != examples.base).any(-1)
    stands = torch.cat([hooked.widened(one)[there] for one in (examples.base, examples.whole)]).double()
    return torch.linalg.svd(stands - stands.mean(0), full_matrices=False)[2][:rank]


def _frame(cases: Sequence[Case], arm: str, draw: int, rank: int, base: Tensor, whole: Tensor, value: Tensor) -> pd.DataFrame:
    about = [{"case": case.name, "prompt": case.prompt, "word": case.word} for case in cases]
    numbers = {"base": base.tolist(), "whole": whole.tolist(), "value": value.tolist(), "effect": (value - base).tolist()}
    return pd.DataFrame(about).assign(arm=arm, draw=draw, rank=rank, **numbers)
