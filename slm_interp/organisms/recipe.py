"""Every choice that makes an organism, as data. The recipes that ship are in `RECIPES`."""

from __future__ import annotations

from dataclasses import dataclass, field

from slm_interp.organisms.world import World
from slm_interp.speech.acoustic import AcousticRecipe


@dataclass(frozen=True)
class Speaking:
    """Who speaks and how: each sentence draws one of each.

    Args:
        voices: eSpeak voices with their variants.
        rates: words a minute.
        pitches: eSpeak's 0 to 99.
    """

    voices: tuple[str, ...] = ("en-us", "en-us+f3", "en-gb", "en-us+m3", "en-us+Annie", "en-gb-scotland")
    rates: tuple[int, ...] = (150, 165, 180, 195)
    pitches: tuple[int, ...] = (40, 50, 60)


@dataclass(frozen=True)
class Shape:
    """Size of the Llama that is trained."""

    d_model: int = 160
    n_layers: int = 10
    n_heads: int = 5
    d_mlp: int = 352
    n_ctx: int = 1024
    tied: bool = True


@dataclass(frozen=True)
class Phase:
    """One stretch of training.

    Args:
        steps: optimiser steps.
        rows: sequences of a step.
        length: tokens of a sequence.
        learning_rate: at its peak, after `warm_up` steps; a cosine takes it to a tenth at the end.
        mix: share of text, interleaved and speech sentences; they sum to 1.
        spelled: chance that a word of a text sentence comes letter by letter instead of whole.
        runs: shortest and longest run of words in one modality.
    """

    steps: int
    rows: int = 12
    length: int = 256
    learning_rate: float = 1.2e-3
    warm_up: int = 60
    mix: tuple[float, float, float] = (1.0, 0.0, 0.0)
    spelled: float = 0.45
    runs: tuple[int, int] = (1, 3)


@dataclass(frozen=True)
class Recipe:
    """An organism from nothing: world, sound, tokens, model, training.

    Args:
        name: of the folder it ships in.
        seed: of sentences, weights and batches.
        sentences: spoken sentences to train on.
        held_out: spoken sentences to measure on; their texts are never trained on.
        fitted_on: spoken sentences the quantiser is fitted on.
        text_phase: the text model, before there is any speech.
        joint_phases: one after the other, once the vocabularies are joined.
    """

    name: str
    text_phase: Phase
    joint_phases: tuple[Phase, ...]
    seed: int = 0
    sentences: int = 24_000
    held_out: int = 400
    fitted_on: int = 1500
    world: World = field(default_factory=World)
    speaking: Speaking = field(default_factory=Speaking)
    quantiser: AcousticRecipe = field(default_factory=AcousticRecipe)
    shape: Shape = field(default_factory=Shape)


TINY = Recipe(
    name="tiny",
    text_phase=Phase(steps=350),
    joint_phases=(
        Phase(steps=1500, mix=(0.15, 0.6, 0.25)),
        Phase(steps=420, mix=(0.15, 0.6, 0.25), spelled=0.0, learning_rate=8e-4, warm_up=20),
    ),
)

RECIPES: dict[str, Recipe] = {TINY.name: TINY}
