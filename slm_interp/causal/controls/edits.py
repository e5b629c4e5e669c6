"""What every control is told of an edit: a run that is changed, a layer, positions, and what is added to the residuals that stand there.

A *change* is `values - what stands there`, in float32 at least, one vector for each position. Layers are those of `resid_post`: blocks run, 0 to n_layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from slm_interp import hooked
from slm_interp.errors import PatchingError
from slm_interp.model import SpeechTextModel
from slm_interp.patching.engine import Grid, Patch, Ran, patched, score
from slm_interp.patching.interventions.directions import wide
from slm_interp.patching.interventions.stream import Positions
from slm_interp.patching.measuring import finite
from slm_interp.patching.outcomes import Outcome, Read

SITE = "resid_post"


@dataclass(frozen=True, eq=False)
class Run:
    """A run that is changed, and what is measured of it.

    Args:
        slm: the model.
        base: the run as it is, kept by `engine.ran`.
        outcome: what is measured; the same that the run was laid out for.
        reference: the clean run's logits, where the outcome needs them.
    """

    slm: SpeechTextModel
    base: Ran
    outcome: Outcome
    reference: Mapping[str, Tensor] | None = None

    @property
    def prompt(self) -> int:
        """Positions of the prompt."""
        return self.base.laid.prompt

    @property
    def n_layers(self) -> int:
        """Blocks of the model."""
        return len(self.base.kept.stream) - 1

    @property
    def score(self) -> float:
        """The outcome of the run as it is."""
        return score(self.outcome, self.base, self.reference)

    def places(self, positions: Positions) -> list[int]:
        """Positions of the prompt, None for all.

        Raises:
            PatchingError: none, one twice or out of order, or one outside the prompt.
        """
        chosen = list(range(self.prompt)) if positions is None else list(positions)
        if not chosen or chosen != sorted(set(chosen)) or chosen[0] < 0 or chosen[-1] >= self.prompt:
            raise PatchingError(
                f"An edit is at one position or more of the prompt's 0..{self.prompt - 1}, ascending, each once; got {chosen}."
            )
        return chosen

    def standing(self, layer: int, positions: Positions) -> Float[Tensor, "at d_model"]:
        """The residuals that stand at the positions, in float32 at least.

        Raises:
            PatchingError: a layer that is not there, and as `places`.
        """
        if not 0 <= layer <= self.n_layers:
            raise PatchingError(f"Layers count blocks run, 0 (embedding) to {self.n_layers}; got {layer}.")
        return wide(self.base.kept.stream[layer, 0, self.places(positions)])

    def gained(self, logits: Mapping[str, Float[Tensor, "run _ id"]]) -> Float[Tensor, " run"]:
        """`outcome - base` of several runs, from their logits.

        Raises:
            PatchingError: an outcome that is not finite.
        """
        found = finite(self.outcome.score(Read(logits, self.base.laid.targets, self.reference)), self.outcome.name)
        return found.float().cpu() - self.score


def checked(change: Float[Tensor, "*run at d_model"], there: Float[Tensor, "place size"]) -> Float[Tensor, "*run at d_model"]:
    """The change in float32 at least, once it is known to be one finite vector for each position.

    Raises:
        PatchingError: another shape, or values that are not finite.
    """
    broken = int((~change.isfinite()).sum())
    if change.shape[-2:] != there.shape or broken:
        raise PatchingError(
            f"A change is one finite vector for each position, {tuple(there.shape)}; got {tuple(change.shape)}, of whose numbers {broken} are "
            "not finite."
        )
    return wide(change).to(there.device)


def effects(
    run: Run,
    layer: int,
    positions: Positions,
    changes: Float[Tensor, "run at d_model"],
    memory: int = hooked.MEMORY,
    done: Callable[[int], object] = lambda runs: None,
) -> Float[Tensor, " run"]:
    """What each of several changes does to the outcome, exactly: `patched - base`.

    Args:
        changes: added to what stands at the positions, and rounded to the dtype of the stream.
        memory: bytes that a batch of runs may take.
        done: told how many runs were finished.

    Raises:
        PatchingError: changes that do not fit, an outcome that is not finite.
    """
    there, stream = run.standing(layer, positions), run.base.kept.stream
    values = (there + checked(changes, there)).to(stream.dtype)
    pos = torch.tensor(run.places(positions))
    patches = [Patch(pos, rearrange(one, "at d_model -> 1 1 at d_model")) for one in values]
    stood = rearrange(stream[layer, 0, : run.prompt], "pos d_model -> 1 1 pos d_model")
    found = patched(run.slm, run.base, patches, stood, Grid(SITE, [layer], None, memory), run.outcome, run.reference, done)
    return rearrange(found, "1 run 1 -> run") - run.score
