"""A prompt under plain TransformerLens hooks, and its outcome: for edits at several layers or places at once.

The blocks are run over the prompt and its continuations, with hooks; final norm and unembedding are computed where the outcome reads. Hooks name positions
of the prompt, which are the same in every row. An edit at one layer alone is `patching.engine`'s, sooner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from slm_interp import hooked
from slm_interp.errors import PatchingError
from slm_interp.hooked.installed import run_blocks
from slm_interp.model import SpeechTextModel
from slm_interp.patching.interventions.stream import Hook
from slm_interp.patching.measuring import Laid, finite, lay, read_of, reference_of
from slm_interp.patching.outcomes import Outcome
from slm_interp.utterance import Contrast, Utterance


@dataclass(frozen=True, eq=False)
class Run:
    """A run under hooks.

    Args:
        value: its outcome.
        stream: of its first row, at every layer of `resid_post`, the continuation's positions included, after edits.
    """

    value: float
    stream: Float[Tensor, "layer pos d_model"]


@dataclass(frozen=True, eq=False)
class Bench:
    """A prompt laid out once, to be run many times.

    Args:
        prompt: whose run is changed.
        contrast: whose continuations follow it, whatever the prompt is.
    """

    slm: SpeechTextModel
    prompt: Utterance
    contrast: Contrast
    outcome: Outcome

    @cached_property
    def laid(self) -> Laid:
        """Its rows; errors as `measuring.lay`."""
        return lay(self.slm, self.prompt, self.contrast, self.outcome)

    @cached_property
    def own(self) -> Run:
        """The run as it is."""
        return self.run([])

    @cached_property
    def _reference(self) -> dict[str, Tensor] | None:
        return reference_of(self.slm, self.contrast, self.outcome)

    @property
    def length(self) -> int:
        """Positions of the longest row: prompt and continuation."""
        return int(self.laid.tokens.shape[1])

    def run(self, hooks: Sequence[Hook]) -> Run:
        """The run with hooks.

        Raises:
            PatchingError: an outcome that is not a finite number.
        """
        stream: list[Tensor] = []

        def keep(resid: Tensor, hook: object) -> None:
            stream.append(resid)

        names = [hooked.hook_at("resid_post", layer) for layer in hooked.layers_at(self.slm.model, "resid_post")]
        with torch.no_grad():
            run_blocks(self.slm.model, self.laid.tokens, [*hooks, *((name, keep) for name in names)])
            read = read_of(self.slm, self.laid, stream[-1], self._reference)
            value = float(finite(self.outcome.score(read), self.outcome.name))
        return Run(value, torch.stack([resid[0] for resid in stream]))

    def value(self, hooks: Sequence[Hook]) -> float:
        """The outcome with hooks."""
        return self.run(hooks).value


def checked_layers(slm: SpeechTextModel, layers: Sequence[int] | None) -> list[int]:
    """Layers of `resid_post`, ascending, each once; None is all of them.

    Raises:
        PatchingError: none, or one that is not there.
    """
    there = hooked.layers_at(slm.model, "resid_post")
    if layers is None:
        return list(there)
    outside = [layer for layer in layers if layer not in there]
    if outside or not layers or len(set(layers)) < len(layers):
        raise PatchingError(f"Layers count blocks run, 0 (embedding) to {there[-1]}, one or more, each once; got {list(layers)}.")
    return sorted(layers)
