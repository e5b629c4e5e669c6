"""Directions in the residual stream along which the model's unembedding reads a token.

The final norm divides by a scale that depends on the whole residual, and everything else in it is linear. So for every residual vector `x`

    logit(x) = direction @ x / scale(x) + constant,

where `direction` is the token's column of `W_U` pulled back through the norm: times its weight, and for LayerNorm with its mean over d_model
taken out. The constant is what the biases of norm and unembedding add. The identity is exact; `tests/lenses/test_directions.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from slm_interp import hooked
from slm_interp.model import SpeechTextModel


def directions_of(slm: SpeechTextModel, ids: Sequence[int]) -> Float[Tensor, "id d_model"]:
    """Columns of `W_U` pulled back through the final norm, in float32 at least.

    Raises:
        VocabularyError: ids outside the vocabulary.
        ReadoutError: a final norm that is not of the usual form.
    """
    return hooked.norm_formula(slm.model).pull_back(columns_of(slm, ids))


def columns_of(slm: SpeechTextModel, ids: Sequence[int]) -> Float[Tensor, "id d_model"]:
    """Columns of `W_U` as they are, in float32 at least.

    Raises:
        VocabularyError: ids outside the vocabulary.
    """
    wanted = torch.as_tensor(list(ids), dtype=torch.long)
    slm.vocabulary.check_ids(wanted)
    W_U = hooked.unembedding(slm.model).W_U
    return hooked.widened(W_U[:, wanted.to(W_U.device)].T)


def first_pieces(slm: SpeechTextModel, words: Sequence[str]) -> list[int]:
    """The first piece of each word as it stands inside a sentence, `" word"`: what a model says when it begins to say the word.

    Raises:
        VocabularyError: words the tokenizer cannot spell.
    """
    return [slm.word_ids(word)[0] for word in words]
