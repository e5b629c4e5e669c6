"""How weights move: AdamW, or Muon for the matrices of the blocks; what came from the text model may move less, or not at all.

A text model of the size people use has seen a thousand times the tokens of its joint training, and is then trained on with a
small learning rate: what it can do already hardly changes, and speech has to come to terms with it. In an organism both
trainings are short, so `Phase.inherited` says how far inherited weights may move.

Muon: K. Jordan et al. 2024; its learning rate is matched to AdamW's as in Liu et al. 2025 (arXiv 2502.16982).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from slm_interp.organisms.network import blocks_above, embeddings, text_blocks
from slm_interp.organisms.recipe import Phase, Shape

DECAY = 0.01
BETAS = (0.9, 0.98)


class Optimiser:
    """One step over all weights of a model.

    Args:
        model: a text model or a joint one.
        phase: says which optimiser, and how far inherited weights and the blocks above them move.
        shape: of the joint model, with `text_rows` the rows of the text model it started from; neither for a model that
            inherited nothing, all of whose weights move alike.
    """

    def __init__(self, model: Any, phase: Phase, shape: Shape | None = None, text_rows: int = 0) -> None:
        scales: dict[int, float] = {}
        if shape is not None:
            scales |= {id(weight): phase.inherited for weight in inherited_weights(model, shape)}
            scales |= {id(weight): phase.above for block in blocks_above(model, shape) for weight in block.parameters()}
        self.kept = phase.inherited if shape is not None else 1.0
        self.held = [(matrix, text_rows) for matrix in embeddings(model)] if self.kept < 1 else []
        for weight in model.parameters():
            weight.requires_grad_(scales.get(id(weight), 1.0) > 0)
        rows = {id(matrix) for matrix in embeddings(model)}
        groups: dict[str, list[dict[str, Any]]] = {"adamw": [], "muon": []}
        for weight in model.parameters():
            if weight.requires_grad:
                muon = phase.optimiser == "muon" and weight.ndim == 2 and id(weight) not in rows
                groups["muon" if muon else "adamw"].append(
                    {
                        "params": [weight],
                        "weight_decay": DECAY if weight.ndim > 1 else 0.0,
                        "scale": scales.get(id(weight), 1.0),
                    }
                )
        self.parts: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups["adamw"], betas=BETAS)]
        if groups["muon"]:
            self.parts.append(torch.optim.Muon(groups["muon"], adjust_lr_fn="match_rms_adamw"))

    @property
    def state(self) -> dict[Tensor, dict[str, Any]]:
        """The moments of each weight."""
        return {weight: moments for part in self.parts for weight, moments in part.state.items()}

    def restore(self, weight: Tensor, moments: dict[str, Any]) -> None:
        """Give a weight its moments back."""
        part = next(one for one in self.parts if any(weight is some for group in one.param_groups for some in group["params"]))
        part.state[weight] = moments

    def step(self, learning_rate: float) -> None:
        """Move the weights along their gradients, and forget the gradients."""
        before = [matrix[:rows].detach().clone() for matrix, rows in self.held]
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = learning_rate * group["scale"]
            part.step()
            part.zero_grad(set_to_none=True)
        with torch.no_grad():
            for (matrix, rows), old in zip(self.held, before, strict=True):
                matrix[:rows] = old + self.kept * (matrix[:rows] - old)


def inherited_weights(model: Any, shape: Shape) -> list[Tensor]:
    """Of a joint model, those that come whole from the text model: its blocks and its final norm. Text rows are part of a matrix."""
    return [*(weight for block in text_blocks(model, shape) for weight in block.parameters()), *model.model.norm.parameters()]
