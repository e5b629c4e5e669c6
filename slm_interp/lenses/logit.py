"""The logit lens: the model's own unembedding applied to the residual stream of every layer.

nostalgebraist, "interpreting GPT: the logit lens" (2020): softmax(W_U norm(resid) + b_U). The final norm is
recomputed on every residual vector, as the model does on the last one, so the last layer is the model's output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from slm_interp import hooked
from slm_interp.errors import ReadoutError
from slm_interp.lenses.directions import columns_of, directions_of, first_pieces
from slm_interp.lenses.lens import read
from slm_interp.lenses.reading import Reading
from slm_interp.model import SpeechTextModel
from slm_interp.utterance import Utterance


@dataclass(frozen=True, eq=False)
class LogitLens:
    """The logit lens of a model.

    Args:
        slm: the model to look into.
        final_norm: apply the norm before the unembedding. The paper on interleaved models does not say whether it
            did; without it the last layer is *not* the model's output.
    """

    slm: SpeechTextModel
    final_norm: bool = True
    name: str = "logit"

    @property
    def sites(self) -> tuple[str, ...]:
        """Where it can be used: everywhere, it is fitted to no place. What `layer` means at each stands in `lens.py`."""
        return tuple(hooked.SITES)

    @property
    def settings(self) -> dict[str, str]:
        """What a reading has to say about this lens."""
        return {"lens": self.name, "final_norm": "on" if self.final_norm else "off"}

    def scores(self, resid: Float[Tensor, "*batch d_model"], layer: int) -> Float[Tensor, "*batch d_model"]:
        """Residuals of a layer as vectors ready for `W_U`: through the final norm, or as they are."""
        return hooked.final_norm(self.slm.model, resid) if self.final_norm else resid

    def directions(self, layer: int, words: Sequence[str]) -> Float[Tensor, "word d_model"]:
        """The direction along which each word is read: its column of `W_U` pulled back through the final norm; see `directions.py`.

        The same at every layer. A word of several pieces is its first piece. Without the final norm: the columns as they are.

        Raises:
            ReadoutError: a layer that is not there, a final norm that is not of the usual form.
            VocabularyError: words the tokenizer cannot spell.
        """
        return self.directions_of_ids(layer, first_pieces(self.slm, words))

    def directions_of_ids(self, layer: int, ids: Sequence[int]) -> Float[Tensor, "id d_model"]:
        """The same for ids instead of words.

        Raises:
            ReadoutError: a layer that is not there, a final norm that is not of the usual form.
            VocabularyError: ids outside the vocabulary.
        """
        last = self.slm.model.cfg.n_layers
        if not 0 <= layer <= last:
            raise ReadoutError(f"Layers count blocks run, 0 (embedding) to {last} (what the model reads); got {layer}.")
        return directions_of(self.slm, ids) if self.final_norm else columns_of(self.slm, ids)

    def read(self, utterance: Utterance | Int[Tensor, " pos"], **options: Any) -> Reading:
        """What every layer says at every position; options and errors as in `lenses.read`."""
        return read(self, self.slm, utterance, **options)
