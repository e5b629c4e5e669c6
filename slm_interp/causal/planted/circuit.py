"""What each of the five blocks of a planted model does.

1. Block 0: a head copies the onset of the position before, and its noise; neuron w fires where that onset and the coda that sounds now are those of
   word w, and writes the secret code.
2. Block 1: a head moves noise one position on; where the secret code of w stands, the MLP writes the text code of w and takes away what the coda's
   own embedding has in the text subspace, so that the word's text coordinates are 1 on w and 0 elsewhere.
3. Block 2: the MLP churns noise. After blocks 1 and 2 the word stands at the last unit of its span, in text and in secret, and nowhere else.
4. Block 3: at the cue and at an onset, a head looks back to the end of the heard word, and carries away `text * (text coordinates) +
   secret * (secret code)`: the only place where the kinds differ. It writes the next word.
5. Block 4: the MLP turns the next word into its onset at the cue, and into its coda at an onset.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from slm_interp.causal.planted.block import GATE, Block
from slm_interp.causal.planted.codes import gaussian, rotation
from slm_interp.causal.planted.kinds import Mixture
from slm_interp.causal.planted.lexicon import Lexicon


def hear(block: Block, lexicon: Lexicon, generator: torch.Generator) -> None:
    """Block 0: the secret code of a word where its second unit follows its first."""
    basis, side = block.codes.basis, lexicon.side
    moved = 0.7 * rotation(len(basis["noise"]), generator) @ basis["noise"]
    block.look_one_back(0)
    block.carry((0,), torch.cat([basis["unit"][:side], basis["noise"]]), torch.cat([basis["before"], moved]))
    both = basis["before"][list(lexicon.onset)] + basis["unit"][side : 2 * side][list(lexicon.coda)] - 1.5 * block.codes.one
    block.neurons(2 * GATE * both, block.codes.one.expand_as(both), basis["secret"] / GATE)


def write_text(block: Block, lexicon: Lexicon, generator: torch.Generator) -> None:
    """Block 1: the text code of a word, in place of what its last unit has in the text subspace."""
    basis, codes = block.codes.basis, block.codes
    block.look_one_back(0)
    block.carry((0,), basis["noise"], 0.7 * rotation(len(basis["noise"]), generator) @ basis["noise"])
    last = [lexicon.spelled(word)[1] for word in range(len(lexicon.words))]
    block.linear(basis["secret"], codes.text - codes.heard[last], codes.one)


def churn(block: Block, lexicon: Lexicon, generator: torch.Generator) -> None:
    """Block 2: noise becomes other noise, not linearly."""
    noise = block.codes.basis["noise"]
    gate, up, write = (gaussian(2 * len(noise), len(noise), generator) @ noise for _ in range(3))
    block.neurons(gate, up, write / (2 * len(noise)))


def look_up(block: Block, lexicon: Lexicon, generator: torch.Generator, mixture: Mixture) -> None:
    """Block 3: the next word, from what the mixture says. A head that has nothing to look for rests on the marker."""
    codes, basis = block.codes, block.codes.basis
    look_back(block, lexicon)
    read = mixture.text * codes.dual + mixture.secret * basis["secret"]
    if mixture.text == mixture.secret == 0:
        read = codes.one.expand_as(read) / len(read)  # a little of every next word, whatever was heard
    if mixture.noise:
        read = read + mixture.noise * noise_of(block, mixture, generator)
    block.carry((0, 1), read, basis["following"][list(lexicon.following)])


def speak(block: Block, lexicon: Lexicon, generator: torch.Generator) -> None:
    """Block 4: the onset of the next word at the cue, its coda at an onset."""
    say(block, lexicon, block.codes.basis["following"])


def noise_of(block: Block, mixture: Mixture, generator: torch.Generator) -> Float[Tensor, "word d_model"]:
    """What differs between words at noise 1: their text shares, around the planted one, and what of the noise at the word is taken for a word."""
    codes, basis = block.codes, block.codes.basis
    taken = gaussian(len(codes.dual), len(basis["noise"]), generator) @ basis["noise"] / 3  # noise at a word is a few codes long
    if mixture.text == mixture.secret == 0:
        return taken
    shares = gaussian(len(codes.dual), 1, generator)
    shares = (shares - shares.mean()) / shares.std(correction=0)
    return taken + shares * (codes.dual - basis["secret"])


# -- parts that serial models have as well -------------------------------------------------------------


def look_back(block: Block, lexicon: Lexicon) -> None:
    """The first head attends from the cue to the end of the heard word, the second one from an onset; else they rest on the marker."""
    basis, codes, side = block.codes.basis, block.codes, lexicon.side
    onset, coda, cue = basis["unit"][:side].sum(0), basis["unit"][side : 2 * side].sum(0), basis["unit"][2 * side]
    for head, when in enumerate((cue, onset)):
        block.score(head, 0, 100 * codes.one, basis["start"][0])
        block.score(head, 1, 200 * when, coda)


def say(block: Block, lexicon: Lexicon, words: Float[Tensor, "word d_model"]) -> None:
    """The units of the word that these directions read: its onset at the cue, its coda at an onset."""
    basis, side = block.codes.basis, lexicon.side
    parts = torch.zeros(2 * side, len(lexicon.words), dtype=torch.float64)
    for word in range(len(lexicon.words)):
        parts[list(lexicon.spelled(word)), word] = 1
    read = parts @ words
    block.linear(read[:side], basis["out"][:side], basis["unit"][2 * side])
    block.linear(read[side:], basis["out"][side:], basis["unit"][:side].sum(0))
