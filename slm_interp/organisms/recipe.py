"""Every choice that makes an organism, as data. The recipes themselves are in `slm_interp.organisms.grid`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Literal

from slm_interp.errors import SpeechError
from slm_interp.organisms.world import World
from slm_interp.speech.acoustic import AcousticRecipe


@dataclass(frozen=True)
class Speaking:
    """Who speaks and how: each document draws one of each.

    Args:
        voices: eSpeak voices with their variants.
        held_out: voices that are never trained on.
        rates: words a minute.
        pitches: eSpeak's 0 to 99.
    """

    voices: tuple[str, ...] = (
        "en-us", "en-gb", "en-us+f3", "en-gb+f2", "en-us+m3", "en-gb+m4", "en-us+Annie", "en-gb+f4", "en-us+m7", "en-gb+m1",
    )  # fmt: skip
    held_out: tuple[str, ...] = ("en-us+f1", "en-gb+m2")
    rates: tuple[int, ...] = (150, 165, 180)
    pitches: tuple[int, ...] = (40, 50, 60)


@dataclass(frozen=True)
class Shape:
    """Architecture and size of the model that is trained.

    Args:
        n_layers: in all.
        below, above: how many of them are added under and over the text model; a random start makes no difference of them.
        embedding_std: of the embedding at the start.
    """

    architecture: Literal["llama", "qwen2"] = "llama"
    d_model: int = 160
    n_layers: int = 12
    below: int = 4
    above: int = 2
    n_heads: int = 4
    n_key_value_heads: int = 4
    d_mlp: int = 384
    n_ctx: int = 1024
    tied: bool = True
    embedding_std: float = 0.08


@dataclass(frozen=True)
class Phase:
    """One stretch of training.

    Args:
        steps: optimiser steps.
        rows: sequences of a step.
        length: tokens of a sequence.
        learning_rate: at its peak, after `warm_up` steps; a cosine takes it to a tenth at the end.
        mix: chances that a row is of text, interleaved or of speech; they sum to 1.
        spelled: chance that a word of a text row comes in other pieces than the tokenizer's own.
        runs: shortest and longest run of words in one modality.
        misaligned_s: standard deviation, in seconds, of the errors of the word boundaries at which an interleaved sentence changes
            its modality.
        unmarked: chance that such a change has no marker.
        overlapped: chance that speech gives way to text in the second half of a word, and the text takes up at that word; otherwise it
            does between two words.
        text_weight: of a next id that is text in the loss; a word has seven times as many units as pieces.
        heard_words: weight of a second loss that trains the lens itself, at `supervised_layer`; 0 for every organism but
            the supervised one.
        optimiser: of the blocks' matrices; see `slm_interp.organisms.optimiser`.
        inherited: how far weights that came from the text model move, of what they would; 0 keeps them as they came.
        above: how far the blocks above the text model's move, of what they would; 0 keeps them as they are, so that what is still to be
            learned is learned below them.
        stretched: greatest distance between the positions of neighbouring tokens in the text phase (randomised positions, Ruoss et al.
            2023), so that the text model has met the pace of speech.
    """

    steps: int
    rows: int = 12
    length: int = 256
    learning_rate: float = 1.2e-3
    warm_up: int = 60
    mix: tuple[float, float, float] = (1.0, 0.0, 0.0)
    spelled: float = 0.45
    runs: tuple[int, int] = (1, 3)
    misaligned_s: float = 0.0
    unmarked: float = 0.0
    overlapped: float = 0.0
    text_weight: float = 1.0
    heard_words: float = 0.0
    supervised_layer: int = 5
    optimiser: Literal["adamw", "muon"] = "adamw"
    inherited: float = 1.0
    above: float = 1.0
    stretched: int = 1


@dataclass(frozen=True)
class Recipe:
    """An organism from nothing: world, sound, tokens, model, training.

    Args:
        name: of the folder it ships in.
        note: what sets it apart, in a line.
        text_phase: the text model it starts from, before there is any speech; None starts from random weights.
        joint_phases: one after the other, on the joint vocabulary.
        seed: of weights and batches. What is said and how it sounds depends on the world's seed.
        documents: spoken to train on.
        held_out: spoken sentences to measure on; their texts are never trained on.
        fitted_on: spoken documents the quantiser is fitted on.
        text_tokens: size of the text tokenizer.

    Raises:
        SpeechError: a joint phase that holds inherited weights where nothing is inherited, or that is stretched.
    """

    name: str
    note: str
    text_phase: Phase | None
    joint_phases: tuple[Phase, ...]
    seed: int = 0
    documents: int = 9_000
    held_out: int = 400
    fitted_on: int = 400
    text_tokens: int = 1_120
    world: World = field(default_factory=World)
    speaking: Speaking = field(default_factory=Speaking)
    quantiser: AcousticRecipe = field(default_factory=AcousticRecipe)
    shape: Shape = field(default_factory=Shape)

    def __post_init__(self) -> None:
        if self.text_phase is None and any(phase.inherited != 1 or phase.above != 1 for phase in self.joint_phases):
            raise SpeechError(
                f"Recipe {self.name!r} holds inherited weights or the blocks above them, and inherits nothing: give it a text_phase."
            )
        if any(phase.stretched != 1 for phase in self.joint_phases):
            raise SpeechError(f"Recipe {self.name!r} stretches the positions of a joint phase; only the text phase is stretched.")

    @property
    def speech_key(self) -> str:
        """The same for recipes whose spoken corpus and quantiser are the same."""
        return _key(asdict(self.world), asdict(self.speaking), asdict(self.quantiser), self.documents, self.held_out, self.fitted_on)

    @property
    def text_key(self) -> str:
        """The same for recipes that start from the same text model."""
        phase = None if self.text_phase is None else asdict(self.text_phase)
        return _key(asdict(self.world), asdict(self.shape), phase, self.text_tokens, self.seed)

    def key_until(self, joint_phase: int) -> str:
        """The same for recipes whose weights are the same after this joint phase (1 is the first)."""
        return _key(self.speech_key, self.text_key, [asdict(phase) for phase in self.joint_phases[:joint_phase]])


def _key(*choices: object) -> str:
    return hashlib.sha256(json.dumps(choices, sort_keys=True).encode()).hexdigest()[:12]
