"""Contrast pairs in which the word that matters is all that differs: the corrupted word spliced into the clean prompt.

Two sentences said whole differ in more than their words. The sound before the answer already leans towards it (eSpeak runs sounds together, and a frame's
slopes look ahead), so the last unit of a prompt may give away what no word did: patched alone, at the embedding, it can move the outcome as far as
the word. Compare the ceilings of pairs as they were said with those of spliced ones before the word is given credit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from slm_interp.organisms.contrasts import ContrastPair
from slm_interp.speech.splicing import spliced_contrast


def spliced(pairs: Sequence[ContrastPair]) -> list[ContrastPair]:
    """The pairs with the corrupted word in the clean prompt; answer and distractor stay as they were said.

    A pair is left out if a unit would follow itself where the parts meet: repeats are merged, so no model was trained on such a row.
    """
    return [made for made in map(spliced_pair, pairs) if made is not None]


def spliced_pair(pair: ContrastPair) -> ContrastPair | None:
    """One pair with the corrupted word in the clean prompt, or nothing where a unit would follow itself."""
    contrast = spliced_contrast(pair.contrast, pair.word_clean.span, pair.word_corrupted.span)
    if contrast is None:
        return None
    word = next(one for one in contrast.corrupted.words if one.span.start == pair.word_clean.span.start)
    return replace(pair, contrast=contrast, name=f"{pair.name}-spliced", word_corrupted=word)
