"""Is the speech neither trivial nor hopeless? Units per word, and how well words can be told from their units alone.

An isolated-word recogniser (`slm_interp.speech.recogniser`) learns from documents as training says them, and is asked about held-out
sentences, in the voices of training and in those kept from it. Homophones count as one word: no ear tells them apart.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Int

from slm_interp.organisms.corpus import Document, prompts, speak
from slm_interp.organisms.lexicon import HOMOPHONES
from slm_interp.organisms.recipe import Recipe
from slm_interp.speech.acoustic import AcousticQuantiser
from slm_interp.speech.recogniser import train_recogniser, unit_strings
from slm_interp.speech.spans import heard_words

MERGED = {second: first for first, second in HOMOPHONES}


def sounds(recipe: Recipe, quantiser: AcousticQuantiser, documents: int = 2_000, processes: int | None = None) -> pd.DataFrame:
    """One row for each side, `voices of training` and `other voices`.

    Columns: `voices` (how many), `sentences`, `words`, `not_trained` (left out: the recogniser never had them), `units_per_word` with
    `units_per_word_sd`, `top_1` and `top_5` (share of words among the likeliest), `lexicon` (words it chooses from), `trained_on` (words).

    Args:
        recipe: whose world is said.
        quantiser: of the organism.
        documents: to learn from; the first of training.
        processes: that speak; as many as there are cores.
    """
    world, speaking = recipe.world, recipe.speaking
    read = [[one.text for one in document] for document in world.documents(documents, world.seed)]
    asked = [[one.text] for one in world.held_out_sentences(recipe.held_out, world.seed)]
    words, strings = _strings(speak(prompts(read, speaking.voices, speaking, world.seed), quantiser, processes))
    recogniser = train_recogniser(words, strings, quantiser.n_units, MERGED)
    rows = []
    for number, (side, voices) in enumerate({"voices of training": speaking.voices, "other voices": speaking.held_out}.items(), start=1):
        said, heard = _strings(speak(prompts(asked, voices, speaking, world.seed + number), quantiser, processes))
        known = [MERGED.get(word, word) in recogniser.words for word in said]
        kept = [word for word, there in zip(said, known, strict=True) if there]
        units = [string for string, there in zip(heard, known, strict=True) if there]
        lengths = np.array([len(string) for string in heard])
        rows.append(
            {
                "side": side,
                "voices": len(voices),
                "sentences": len(asked),
                "words": len(kept),
                "not_trained": len(said) - len(kept),
                "units_per_word": lengths.mean(),
                "units_per_word_sd": lengths.std(),
                **{f"top_{k}": recogniser.accuracy(kept, units, k) for k in (1, 5)},
                "lexicon": len(recogniser.words),
                "trained_on": len(words),
            }
        )
    return pd.DataFrame(rows)


def _strings(documents: Sequence[Document]) -> tuple[list[str], list[Int[np.ndarray, " _"]]]:
    """Words and the units of each, those without a unit left out."""
    words: list[str] = []
    strings: list[Int[np.ndarray, " _"]] = []
    for one in (sentence for document in documents for sentence in document):
        kept = heard_words(one.words, one.units).words
        words += [word.text for word in kept]
        strings += unit_strings(one.units, kept)
    return words, strings
