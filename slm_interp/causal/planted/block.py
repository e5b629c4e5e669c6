"""A block under construction: a Llama block of two query heads on one key-value head, zeros at first, and the ways to write into it.

Exactness: a gate of 50 makes silu the identity (to exp(-50)) and a neuron linear; a gate of -50 makes it 0. Heads attend by margins above 70. RMSNorm
divides by what `CONSTANT` makes of it. Norm weights are random, and all rows that read are pulled through them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import torch
from jaxtyping import Float
from torch import Tensor

from slm_interp.causal.planted.codes import Codes

ROPE_THETA = 1e12  # the last pairs of a head do not turn
GATE = 50.0
SHARP = 2000.0  # score of the position before, of each pair that looks for it
TURNING = 4  # such pairs: two alone come together again within 64 positions


@dataclass(frozen=True)
class Sizes:
    """Sizes of heads and MLPs, the same in every block."""

    d_head: int
    d_mlp: int


def norm_weight(codes: Codes, generator: torch.Generator) -> Float[Tensor, " d_model"]:
    """Random weights of an RMSNorm."""
    return 0.6 + 0.8 * torch.rand(codes.d_model, generator=generator, dtype=torch.float64)


class Block:
    """One block under construction: zeros, and the ways to write into them."""

    def __init__(self, codes: Codes, size: Sizes, generator: torch.Generator) -> None:
        self.codes, self.size = codes, size
        self.before_attention, self.before_mlp = norm_weight(codes, generator), norm_weight(codes, generator)
        self.q = torch.zeros(2, size.d_head, codes.d_model, dtype=torch.float64)
        self.k, self.v = torch.zeros_like(self.q[0]), torch.zeros_like(self.q[0])
        self.o = torch.zeros(codes.d_model, 2, size.d_head, dtype=torch.float64)
        self.gate, self.up = (torch.zeros(size.d_mlp, codes.d_model, dtype=torch.float64) for _ in range(2))
        self.down = torch.zeros(codes.d_model, size.d_mlp, dtype=torch.float64)
        self.used = 0

    def score(self, head: int, channel: int, query: Float[Tensor, " d_model"], key: Float[Tensor, " d_model"]) -> None:
        """Add `(query @ resid) * (key @ resid)` to the scores of a head, on a channel that does not turn; all heads share the key."""
        dim = self.size.d_head // 2 - 1 - channel
        self.q[head, dim] = self.codes.reading(query, self.before_attention) * sqrt(self.size.d_head)
        self.k[dim] = self.codes.reading(key, self.before_attention)

    def look_one_back(self, head: int) -> None:
        """Attend to the position before: query and key are constants, one turn of the fastest pairs apart."""
        half, one = self.size.d_head // 2, self.codes.reading(self.codes.one, self.before_attention)
        for pair in range(TURNING):
            turn = torch.tensor(ROPE_THETA ** (-2 * pair / self.size.d_head), dtype=torch.float64)
            self.q[head, pair] = one * torch.cos(turn) * SHARP * sqrt(self.size.d_head)
            self.q[head, pair + half] = -one * torch.sin(turn) * SHARP * sqrt(self.size.d_head)
            self.k[pair] = one

    def carry(self, heads: tuple[int, ...], read: Float[Tensor, "value d_model"], write: Float[Tensor, "value d_model"]) -> None:
        """What heads read where they look, and what they write for it."""
        self.v[: len(read)] = self.codes.reading(read, self.before_attention)
        for head in heads:
            self.o[:, head, : len(write)] = write.T

    def neurons(
        self, gate: Float[Tensor, "neuron d_model"], up: Float[Tensor, "neuron d_model"], write: Float[Tensor, "neuron d_model"]
    ) -> None:
        """Neurons that write `silu(gate @ resid) * (up @ resid)`."""
        there = slice(self.used, self.used + len(gate))
        self.gate[there], self.up[there] = (self.codes.reading(rows, self.before_mlp) for rows in (gate, up))
        self.down[:, there] = write.T
        self.used = there.stop

    def linear(
        self, read: Float[Tensor, "neuron d_model"], write: Float[Tensor, "neuron d_model"], when: Float[Tensor, " d_model"]
    ) -> None:
        """Neurons that write `read @ resid` where `when` reads 1, and nothing where it reads 0."""
        self.neurons((GATE * when).expand_as(read), read, write / GATE)

    def state(self) -> dict[str, Tensor]:
        """Weights by the Hugging Face names of a block."""
        return {
            "input_layernorm.weight": self.before_attention,
            "post_attention_layernorm.weight": self.before_mlp,
            "self_attn.q_proj.weight": self.q.flatten(0, 1),
            "self_attn.k_proj.weight": self.k,
            "self_attn.v_proj.weight": self.v,
            "self_attn.o_proj.weight": self.o.flatten(1, 2),
            "mlp.gate_proj.weight": self.gate,
            "mlp.up_proj.weight": self.up,
            "mlp.down_proj.weight": self.down,
        }
