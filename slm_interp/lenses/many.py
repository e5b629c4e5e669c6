"""The residuals of a corpus, utterance by utterance, run in batches of similar length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from slm_interp import hooked
from slm_interp.model import SpeechTextModel
from slm_interp.utterance import Utterance


def residuals_of_each(
    slm: SpeechTextModel, utterances: Sequence[Utterance], memory: int = hooked.MEMORY
) -> Iterator[tuple[int, Float[Tensor, "layer _ d_model"]]]:
    """The number of each utterance and its residuals in every layer, in the order of their lengths, shortest first.

    What is computed from an utterance must not depend on the order, nor on who is in its batch: key it by its number.

    Args:
        memory: bytes that a batch may take (`hooked.each_residuals`).

    Raises:
        UtteranceError, VocabularyError: an utterance this model cannot read; before anything is run.
    """
    tokens = [slm.check(one).tokens for one in utterances]
    yield from tqdm(hooked.each_residuals(slm.model, tokens, memory), "utterances", len(tokens), mininterval=5, disable=None)
