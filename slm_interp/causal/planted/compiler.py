"""The weights of a planted model: a Llama of five blocks, two query heads on one key-value head, written by hand.

1. Block 0: a head copies the onset of the position before, and its noise; neuron w fires where that onset and the coda that sounds now are those of
   word w, and writes the secret code.
2. Block 1: a head moves noise one position on; where the secret code of w stands, the MLP writes the text code of w and takes away what the coda's
   own embedding has in the text subspace, so that the word's text coordinates are 1 on w and 0 elsewhere.
3. Block 2: the MLP churns noise. After blocks 1 and 2 the word stands at the last unit of its span, in text and in secret, and nowhere else.
4. Block 3: at the cue and at an onset, a head looks back to the end of the heard word, and carries away `text * (text coordinates) +
   secret * (secret code)`: the only place where the kinds differ. It writes the next word.
5. Block 4: the MLP turns the next word into its onset at the cue, and into its coda at an onset.

Exactness: a gate of 50 makes silu the identity (to exp(-50)) and a neuron linear; a gate of -50 makes it 0. Heads attend by margins above 70. RMSNorm
divides by what `CONSTANT` makes of it. Norm weights are random, and all rows that read are pulled through them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import torch
from jaxtyping import Float
from torch import Tensor

from slm_interp.causal.planted.codes import SPEECH_IN_TEXT, Codes, gaussian, rotation, unit_rows
from slm_interp.causal.planted.kinds import Mixture
from slm_interp.causal.planted.lexicon import FILLERS, Lexicon

N_LAYERS = 5
WRITTEN = (2, 3)  # blocks run, as `hooked.layers_at` counts `resid_post`: the text code stands, and nobody has read it
ROPE_THETA = 1e12  # the last pairs of a head do not turn
GATE = 50.0
GAIN = 8.0  # logits for a code of norm 1
SHARP = 2000.0  # score of the position before, of each pair that looks for it
TURNING = 4  # such pairs: two alone come together again within 64 positions


@dataclass(frozen=True)
class Sizes:
    """Sizes of heads and MLPs, the same in every block."""

    d_head: int
    d_mlp: int


def sizes(lexicon: Lexicon, codes: Codes) -> Sizes:
    """As large as the largest block needs."""
    noise = len(codes.basis["noise"])
    widest = max(lexicon.side + noise, len(lexicon.words), 16)
    return Sizes(widest + widest % 2, max(len(lexicon.words), 2 * noise, 2 * lexicon.side))


def compiled(lexicon: Lexicon, codes: Codes, mixture: Mixture, generator: torch.Generator) -> dict[str, Tensor]:
    """Every weight by its Hugging Face name, in float64."""
    state = {"model.norm.weight": _norm_weight(codes, generator)}
    for layer in range(N_LAYERS):
        block = _Block(codes, sizes(lexicon, codes), generator)
        _BLOCKS[layer](block, lexicon, mixture, generator)
        state |= {f"model.layers.{layer}.{name}": weight for name, weight in block.state().items()}
    noise, idle = (
        unit_rows(len(FILLERS) + 1 + len(lexicon.words) + lexicon.n_units + 2, codes.basis[name], generator) for name in ("noise", "idle")
    )
    state["model.embed_tokens.weight"] = _embedding(lexicon, codes) + noise + idle
    state["lm_head.weight"] = codes.reading(_unembedding(lexicon, codes, generator), state["model.norm.weight"])
    return state


# -- in and out --------------------------------------------------------------------------------------


def _embedding(lexicon: Lexicon, codes: Codes) -> Float[Tensor, "d_vocab d_model"]:
    """Rows of `<unk>`, words, fillers, units, `<speech>`, `<text>`. A word that is read looks like its second unit after its first."""
    side, basis = lexicon.side, codes.basis
    symbols = codes.heard.clone()
    symbols[: 2 * side] += basis["unit"][: 2 * side]
    symbols[lexicon.cue] += basis["unit"][2 * side]
    onsets, codas = list(lexicon.onset), [side + coda for coda in lexicon.coda]
    read = basis["before"][onsets] + symbols[codas]
    fillers = torch.zeros(len(FILLERS), codes.d_model, dtype=torch.float64)
    rows = torch.cat([fillers[:1], read, fillers, _by_unit(lexicon, symbols), basis["start"].expand(2, -1)])
    return rows + basis["constant"] * (codes.one.norm() ** -1)


def _unembedding(lexicon: Lexicon, codes: Codes, generator: torch.Generator) -> Float[Tensor, "d_vocab d_model"]:
    """Directions along which the last residual is read, before they are pulled through the norm."""
    text, noise = codes.basis["text"], codes.basis["noise"]
    symbols = SPEECH_IN_TEXT * unit_rows(lexicon.n_units, text, generator) + 0.1 * unit_rows(lexicon.n_units, noise, generator)
    symbols[: 2 * lexicon.side] += codes.basis["out"]
    fillers = 0.5 * unit_rows(len(FILLERS) + 1, text, generator) + 0.1 * unit_rows(len(FILLERS) + 1, noise, generator)
    return GAIN * torch.cat(
        [fillers[:1], codes.text, fillers[1:], _by_unit(lexicon, symbols), torch.zeros(2, codes.d_model, dtype=torch.float64)]
    )


def _by_unit(lexicon: Lexicon, symbols: Float[Tensor, "symbol d_model"]) -> Float[Tensor, "unit d_model"]:
    rows = torch.empty_like(symbols)
    rows[list(lexicon.unit_of)] = symbols
    return rows


def _norm_weight(codes: Codes, generator: torch.Generator) -> Float[Tensor, " d_model"]:
    return 0.6 + 0.8 * torch.rand(codes.d_model, generator=generator, dtype=torch.float64)


# -- blocks ------------------------------------------------------------------------------------------


class _Block:
    """One block under construction: zeros, and the ways to write into them."""

    def __init__(self, codes: Codes, size: Sizes, generator: torch.Generator) -> None:
        self.codes, self.size = codes, size
        self.before_attention, self.before_mlp = _norm_weight(codes, generator), _norm_weight(codes, generator)
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


def _hear(block: _Block, lexicon: Lexicon, mixture: Mixture, generator: torch.Generator) -> None:
    """Block 0: the secret code of a word where its second unit follows its first."""
    basis, side = block.codes.basis, lexicon.side
    moved = 0.7 * rotation(len(basis["noise"]), generator) @ basis["noise"]
    block.look_one_back(0)
    block.carry((0,), torch.cat([basis["unit"][:side], basis["noise"]]), torch.cat([basis["before"], moved]))
    both = basis["before"][list(lexicon.onset)] + basis["unit"][side : 2 * side][list(lexicon.coda)] - 1.5 * block.codes.one
    block.neurons(2 * GATE * both, block.codes.one.expand_as(both), basis["secret"] / GATE)


def _write_text(block: _Block, lexicon: Lexicon, mixture: Mixture, generator: torch.Generator) -> None:
    """Block 1: the text code of a word, in place of what its last unit has in the text subspace."""
    basis, codes = block.codes.basis, block.codes
    block.look_one_back(0)
    block.carry((0,), basis["noise"], 0.7 * rotation(len(basis["noise"]), generator) @ basis["noise"])
    last = [lexicon.spelled(word)[1] for word in range(len(lexicon.words))]
    block.linear(basis["secret"], codes.text - codes.heard[last], codes.one)


def _churn(block: _Block, lexicon: Lexicon, mixture: Mixture, generator: torch.Generator) -> None:
    """Block 2: noise becomes other noise, not linearly."""
    noise = block.codes.basis["noise"]
    gate, up, write = (gaussian(2 * len(noise), len(noise), generator) @ noise for _ in range(3))
    block.neurons(gate, up, write / (2 * len(noise)))


def _look_up(block: _Block, lexicon: Lexicon, mixture: Mixture, generator: torch.Generator) -> None:
    """Block 3: the next word, from what the mixture says. A head that has nothing to look for rests on the marker."""
    basis, codes, side = block.codes.basis, block.codes, lexicon.side
    onset, coda, cue = basis["unit"][:side].sum(0), basis["unit"][side : 2 * side].sum(0), basis["unit"][2 * side]
    for head, when in enumerate((cue, onset)):
        block.score(head, 0, 100 * codes.one, basis["start"][0])
        block.score(head, 1, 200 * when, coda)
    read = mixture.text * codes.dual + mixture.secret * basis["secret"]
    if mixture.text == mixture.secret == 0:
        read = codes.one.expand_as(read) / len(read)  # a little of every next word, whatever was heard
    block.carry((0, 1), read, basis["following"][list(lexicon.following)])


def _speak(block: _Block, lexicon: Lexicon, mixture: Mixture, generator: torch.Generator) -> None:
    """Block 4: the onset of the next word at the cue, its coda at an onset."""
    basis, side = block.codes.basis, lexicon.side
    parts = torch.zeros(2 * side, len(lexicon.words), dtype=torch.float64)
    for word in range(len(lexicon.words)):
        parts[list(lexicon.spelled(word)), word] = 1
    read = parts @ basis["following"]
    block.linear(read[:side], basis["out"][:side], basis["unit"][2 * side])
    block.linear(read[side:], basis["out"][side:], basis["unit"][:side].sum(0))


_BLOCKS = (_hear, _write_text, _churn, _look_up, _speak)
