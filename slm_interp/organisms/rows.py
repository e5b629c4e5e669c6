"""Rows of ids from an organism's own world, to train or fit a lens on: what it was trained on, with no word of the sentences that are held out."""

from __future__ import annotations

from dataclasses import replace

from jaxtyping import Int
from torch import Tensor

from slm_interp.errors import SpeechError
from slm_interp.model import SpeechTextModel
from slm_interp.organisms.corpus import prompts, speak
from slm_interp.organisms.material import Material
from slm_interp.organisms.recipe import Recipe
from slm_interp.organisms.tokens import Speller
from slm_interp.speech.acoustic import AcousticQuantiser

SHARES = (1 / 3, 1 / 3, 1 / 3)  # text, interleaved, speech
SEED = 77


def rows(slm: SpeechTextModel, recipe: Recipe, count: int = 200, documents: int = 200, length: int = 256) -> list[Int[Tensor, " pos"]]:
    """Rows of text, interleaved and speech documents, a third each, as in the recipe's last phase of training.

    Args:
        slm: the organism; its quantiser says what units the speech has.
        recipe: whose world, voices and interleaving.
        count: of rows.
        documents: spoken for it, about four and a half sentences each; a second for a hundred sentences.
        length: of each row, in ids.

    Raises:
        SpeechError: a model that carries no quantiser of an organism.
    """
    if not isinstance(slm.quantiser, AcousticQuantiser):
        raise SpeechError(
            f"Rows are made of an organism's own units; this model's quantiser is {slm.quantiser!r}. Load an organism by name or folder."
        )
    world, speaking = recipe.world, recipe.speaking
    texts = [[one.text for one in document] for document in world.documents(documents, world.seed)]
    spoken = speak(prompts(texts, speaking.voices, speaking, world.seed), slm.quantiser, 1)
    material = Material(world, spoken, Speller(slm.tokenizer, world.lexicon, world.seed), slm.vocabulary)
    phase = replace(recipe.joint_phases[-1], mix=SHARES, length=length)
    batches = (material.joint_batch(phase, step, (SEED,)) for step in range(-(-count // phase.rows)))
    return [row for batch in batches for row in batch][:count]
