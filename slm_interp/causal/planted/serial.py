"""What the six blocks of a serial model do: the next word is written as text at the cue, and the units are computed from it, or not.

1. Blocks 0 to 2 are those of `circuit.py`; block 1 also takes away what the embeddings of cue and onsets have in the text subspace, so that the
   text coordinates there are 0 until the next word is written.
2. Block 3: at the cue and at an onset, a head looks back to the end of the heard word and carries away two things: what the next word's text is
   written from, and what a code of the next word without text is written from. Each is a mixture of the word's text coordinates and its secret code.
3. Block 4 churns noise. After blocks 3 and 4 the next word stands at the last position of the prompt, in text and in a code that no text direction sees.
4. Block 5: the units are read from a mixture of the two, and the text is taken away: text directions and the unembedding of speech lean on each other,
   so what stayed would reach the units' logits past every block.
"""

from __future__ import annotations

import torch

from slm_interp.causal.planted.block import Block
from slm_interp.causal.planted.circuit import look_back, say, write_text
from slm_interp.causal.planted.kinds import Chain
from slm_interp.causal.planted.lexicon import Lexicon


def clean_and_write_text(block: Block, lexicon: Lexicon, generator: torch.Generator) -> None:
    """Block 1: the text code of a word; no text where the next word will be written."""
    write_text(block, lexicon, generator)
    codes, unit, side = block.codes, block.codes.basis["unit"], lexicon.side
    places = [*range(side), 2 * side]
    block.linear(unit[places], -codes.heard[[*range(side), lexicon.cue]], codes.one)


def look_up_both(block: Block, lexicon: Lexicon, generator: torch.Generator, chain: Chain) -> None:
    """Block 3: the next word, as text and in a code of its own."""
    codes, basis, following = block.codes, block.codes.basis, list(lexicon.following)
    look_back(block, lexicon)
    text, code = (share * codes.dual + (1 - share) * basis["secret"] for share in (chain.next_text, chain.next_code))
    block.carry((0, 1), torch.cat([text, code]), torch.cat([codes.text[following], basis["following"][following]]))


def speak_and_clear(block: Block, lexicon: Lexicon, generator: torch.Generator, chain: Chain) -> None:
    """Block 5: the units of the next word, read from its text and from its code; the text is taken away."""
    codes, basis, side = block.codes, block.codes.basis, lexicon.side
    say(block, lexicon, chain.units * codes.dual + (1 - chain.units) * basis["following"])
    block.linear(codes.dual, -codes.text, basis["unit"][2 * side] + basis["unit"][:side].sum(0))
