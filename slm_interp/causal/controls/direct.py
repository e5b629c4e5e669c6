"""How much of an effect needs no later block, and how much later blocks take back.

| function | held as in the base run | so |
|---|---|---|
| `direct` | what later blocks add, everywhere | the change reaches the unembedding by the residual stream alone |
| `at_positions_frozen` | what later blocks add at the changed positions | other positions read the change as it is, and nothing is made of it where it stands |

1. A change stays in the residual stream of its position. With later blocks frozen the last residual is that of the base run plus the change, so `direct` is
   final norm, unembedding and outcome of `last + change` at the one changed position that is read out, the last of the prompt. Elsewhere it is 0. Units of
   a continuation after the first are read at positions that were not changed.
2. Text directions are not orthogonal to the speech columns of `W_U`, so a swap at the last position moves the logits of units by itself. That is nothing the
   model computes from text; `effect - direct` is what later blocks make of the change.
3. Self-repair (McGrath et al. 2023, arXiv 2307.15771; Rushing & Nanda 2024, arXiv 2402.15390): later blocks undo a change that they notice. Frozen at the
   changed positions, what stands there after each later block is that of the base run plus the change. `frozen - free` is what later blocks at these
   positions take back; of the other sign than `frozen`, they add to the effect. At the last position `frozen` is `direct`.

The final norm sees the changed residual. Hooks that hold `attn_out` and `mlp_out` find the same numbers: `tests/causal/test_controls_direct.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from slm_interp import hooked
from slm_interp.causal.controls.edits import SITE, Run, checked, effects
from slm_interp.patching.interventions.directions import wide
from slm_interp.patching.interventions.stream import Positions
from slm_interp.patching.measuring import logits_at


def direct(run: Run, layer: int, positions: Positions, changes: Float[Tensor, "run at d_model"]) -> Float[Tensor, " run"]:
    """What changes do to the outcome with all later blocks frozen, in its unit; 0 where the last position of the prompt is not among them.

    Raises:
        PatchingError: changes that do not fit, an outcome that is not finite.
    """
    moved = checked(changes, run.standing(layer, positions))
    if run.prompt - 1 not in run.places(positions):
        return torch.zeros(len(moved))
    logits, laid = {}, run.base.laid
    for name, row in laid.row.items():
        last = run.base.kept.stream[-1, row, laid.positions(name)]
        many = wide(repeat(last, "unit d_model -> run unit d_model", run=len(moved))).clone()
        many[:, 0] += moved[:, -1]
        with torch.no_grad():
            logits[name] = logits_at(run.slm, many.to(last.dtype), laid.ids)
    return run.gained(logits)


def at_positions_frozen(run: Run, layer: int, positions: Positions, changes: Float[Tensor, "run at d_model"]) -> Float[Tensor, " run"]:
    """What changes do to the outcome with all later blocks frozen at the changed positions alone, in its unit.

    Raises:
        PatchingError: as `direct`.
    """
    moved, pos = checked(changes, run.standing(layer, positions)), torch.tensor(run.places(positions))
    stream, start = run.base.kept.stream, int(pos[0])

    def writes(stage: int) -> hooked.Writes:
        values = (wide(stream[stage, 0, pos]) + moved).to(stream.dtype)
        return hooked.Writes(
            torch.arange(len(moved)).repeat_interleave(len(pos)),
            pos.repeat(len(moved)),
            rearrange(values, "run at d_model -> (run at) d_model"),
        )

    begun = writes(layer).into(stream[layer, 0, start : run.prompt].expand(len(moved), -1, -1), start)
    later = {hooked.hook_at(SITE, stage): writes(stage) for stage in range(layer + 1, run.n_layers + 1)}
    with torch.no_grad():
        last = hooked.resume(run.slm.model, run.base.kept, layer, start, begun, later)
        laid = run.base.laid
        logits = {name: logits_at(run.slm, last[row][:, : len(laid.targets[name])], laid.ids) for name, row in laid.row.items()}
    return run.gained(logits)


@dataclass(frozen=True, eq=False)
class Repair:
    """Effects of changes with the later blocks at their positions free and frozen, in the unit of the outcome."""

    free: Float[Tensor, " run"]
    frozen: Float[Tensor, " run"]

    @property
    def taken_back(self) -> Float[Tensor, " run"]:
        """`frozen - free`: what later blocks at the changed positions undo; of the other sign than the frozen effect, they add to it."""
        return self.frozen - self.free


def self_repair(run: Run, layer: int, positions: Positions, changes: Float[Tensor, "run at d_model"]) -> Repair:
    """Whether later blocks, at the positions that were changed, undo what was changed.

    Raises:
        PatchingError: as `direct`.
    """
    return Repair(effects(run, layer, positions, changes), at_positions_frozen(run, layer, positions, changes))
