"""The weights of a planted model: a Llama of two query heads on one key-value head, written by hand.

What its blocks do is in `circuit.py`, and in `serial.py` for the models that also write the next word as text; how a block is written, and why it is
exact, in `block.py`. What stands where in the stream is in `codes.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from slm_interp.causal.planted.block import Block, Sizes, norm_weight
from slm_interp.causal.planted.circuit import churn, hear, look_up, speak, write_text
from slm_interp.causal.planted.codes import SPEECH_IN_TEXT, Codes, unit_rows
from slm_interp.causal.planted.kinds import Chain, Mixture
from slm_interp.causal.planted.lexicon import FILLERS, Lexicon
from slm_interp.causal.planted.serial import clean_and_write_text, look_up_both, speak_and_clear

WRITTEN = (2, 3)  # blocks run, as `hooked.layers_at` counts `resid_post`: the text code stands, and nobody has read it
NEXT_WRITTEN = (4, 5)  # the same of the next word's text, where it is written
GAIN = 8.0  # logits for a code of norm 1

Part: TypeAlias = Callable[[Block, Lexicon, torch.Generator], None]


def blocks_of(truth: Mixture | Chain) -> Sequence[Part]:
    """What the blocks do, in order."""
    if isinstance(truth, Mixture):
        return hear, write_text, churn, partial(look_up, mixture=truth), speak
    return hear, clean_and_write_text, churn, partial(look_up_both, chain=truth), churn, partial(speak_and_clear, chain=truth)


def sizes(lexicon: Lexicon, codes: Codes, truth: Mixture | Chain) -> Sizes:
    """As large as the largest block needs."""
    noise, words, side = len(codes.basis["noise"]), len(lexicon.words), lexicon.side
    if isinstance(truth, Mixture):
        carried, neurons = words, max(words, 2 * noise, 2 * side)
    else:
        carried, neurons = 2 * words, max(words + 2 * side, 2 * noise)
    widest = max(side + noise, carried, 16)
    return Sizes(widest + widest % 2, neurons)


def compiled(lexicon: Lexicon, codes: Codes, truth: Mixture | Chain, generator: torch.Generator) -> dict[str, Tensor]:
    """Every weight by its Hugging Face name, in float64."""
    state = {"model.norm.weight": norm_weight(codes, generator)}
    for layer, part in enumerate(blocks_of(truth)):
        block = Block(codes, sizes(lexicon, codes, truth), generator)
        part(block, lexicon, generator)
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
