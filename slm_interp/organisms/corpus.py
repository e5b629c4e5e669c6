"""Documents said aloud and turned into units, by as many processes as asked for.

What is said, by which voice, how fast and how high depends on the world's seed and the document's number alone, so
the corpus does not depend on how many processes made it, and organisms of one world share it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from tqdm import tqdm

from slm_interp.audio import Audio
from slm_interp.errors import SpeechError
from slm_interp.files import atomic_path
from slm_interp.organisms.recipe import Recipe, Speaking
from slm_interp.speech.acoustic import AcousticQuantiser, features, fit_features
from slm_interp.speech.audio import resample
from slm_interp.speech.synthesis import synthesise
from slm_interp.speech.units import Units
from slm_interp.speech.words import TimedWord


@dataclass(frozen=True)
class Prompt:
    """How to say something again, sample by sample: the arguments of `synthesise`."""

    text: str
    voice: str
    rate: int
    pitch: int

    def audio(self, sample_rate: int) -> tuple[Audio, tuple[TimedWord, ...]]:
        """The sound at a quantiser's rate, and its words."""
        spoken = synthesise(self.text, self.voice, self.rate, self.pitch)
        return resample(spoken.audio, sample_rate), spoken.words


@dataclass(frozen=True, eq=False)
class Spoken:
    """A sentence that was said: how, its words with their seconds, and its units."""

    prompt: Prompt
    words: tuple[TimedWord, ...]
    units: Units


Document: TypeAlias = tuple[Spoken, ...]


def prompts(documents: Sequence[Sequence[str]], voices: Sequence[str], speaking: Speaking, seed: int) -> list[list[Prompt]]:
    """A voice, a rate and a pitch for each document: one speaker tells it."""
    drawn = []
    for number, texts in enumerate(documents):
        rng = np.random.default_rng([seed, 3, number])
        voice, rate, pitch = voices[int(rng.integers(len(voices)))], int(rng.choice(speaking.rates)), int(rng.choice(speaking.pitches))
        drawn.append([Prompt(text, voice, rate, pitch) for text in texts])
    return drawn


def fit_quantiser(recipe: Recipe, processes: int | None = None) -> AcousticQuantiser:
    """The recipe's quantiser, fitted on the first training documents."""
    texts = [[one.text for one in document] for document in recipe.world.documents(recipe.fitted_on, recipe.world.seed)]
    said = [one for some in prompts(texts, recipe.speaking.voices, recipe.speaking, recipe.world.seed) for one in some]
    points = list(_map(partial(_features_of, recipe=recipe), said, processes, "fit quantiser"))
    return fit_features(np.concatenate(points), recipe.quantiser)


def speak(said: Sequence[Sequence[Prompt]], quantiser: AcousticQuantiser, processes: int | None = None) -> list[Document]:
    """Say and quantise, in order."""
    flat = iter(_map(partial(_spoken, quantiser=quantiser), [one for some in said for one in some], processes, "speak"))
    return [tuple(next(flat) for _ in some) for some in said]


def corpus(recipe: Recipe, quantiser: AcousticQuantiser, folder: Path, processes: int | None = None) -> dict[str, list[Document]]:
    """What a recipe says aloud, made once and then read from `folder`.

    Returns:
        `train`: documents. `held_out`: single sentences whose texts no document has, in the voices of training.
        `other_voices`: the same sentences in the voices that are kept from training.
    """
    world, speaking = recipe.world, recipe.speaking
    sentences = [[one.text] for one in world.held_out_sentences(recipe.held_out, world.seed)]
    wanted = {
        "train": lambda: [[one.text for one in document] for document in world.documents(recipe.documents, world.seed)],
        "held_out": lambda: sentences,
        "other_voices": lambda: sentences,
    }
    sides = {}
    for number, (name, texts) in enumerate(wanted.items()):
        path = folder / f"{name}.safetensors"
        if not path.is_file():
            voices = speaking.held_out if name == "other_voices" else speaking.voices
            save(speak(prompts(texts(), voices, speaking, world.seed + number), quantiser, processes), path)
        sides[name] = load(path, quantiser)
    return sides


def save(documents: Sequence[Document], path: str | os.PathLike[str]) -> None:
    """Write what was spoken into one safetensors file; texts and voices lie in its header."""
    from safetensors.numpy import save_file

    spoken = [one for document in documents for one in document]
    tensors: dict[str, np.ndarray] = {
        "units": np.concatenate([one.units.units for one in spoken]).astype(np.int32),
        "durations": np.concatenate([one.units.durations for one in spoken]).astype(np.int32),
        "lengths": np.array([len(one.units) for one in spoken], dtype=np.int32),
        "sentences": np.array([len(document) for document in documents], dtype=np.int32),
        "seconds": np.array([(word.start_s, word.end_s) for one in spoken for word in one.words], dtype=np.float64),
    }
    header = {"prompts": json.dumps([list(asdict(one.prompt).values()) for one in spoken]), "quantiser": spoken[0].units.quantiser or ""}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=header)


def load(path: str | os.PathLike[str], quantiser: AcousticQuantiser) -> list[Document]:
    """Read what `save` wrote.

    Raises:
        SpeechError: the units are another quantiser's.
    """
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        header = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if header["quantiser"] != quantiser.hash:
        raise SpeechError(
            f"{path} holds units of quantiser {header['quantiser']}; wanted {quantiser.hash}. Remove the file to make it again."
        )
    ends = np.cumsum(tensors["lengths"])[:-1]
    units, durations = np.split(tensors["units"], ends), np.split(tensors["durations"], ends)
    found, word = [], 0
    for number, values in enumerate(json.loads(header["prompts"])):
        texts = values[0].split()
        times = tensors["seconds"][word : word + len(texts)]
        words = tuple(TimedWord(text, float(start), float(end)) for text, (start, end) in zip(texts, times, strict=True))
        found.append(Spoken(Prompt(*values), words, Units(units[number], durations[number], quantiser.recipe.frame_s, quantiser.hash)))
        word += len(texts)
    flat = iter(found)
    return [tuple(next(flat) for _ in range(count)) for count in tensors["sentences"]]


def _features_of(prompt: Prompt, recipe: Recipe) -> np.ndarray:
    return features(prompt.audio(recipe.quantiser.sample_rate)[0], recipe.quantiser)


def _spoken(prompt: Prompt, quantiser: AcousticQuantiser) -> Spoken:
    audio, words = prompt.audio(quantiser.recipe.sample_rate)
    return Spoken(prompt, words, quantiser.encode(audio))


@contextmanager
def _mapper(processes: int) -> Iterator[Callable[..., Iterable[Any]]]:
    if processes == 1:
        yield lambda job, items: map(job, items)
        return
    with get_context("spawn").Pool(processes) as pool:
        yield lambda job, items: pool.imap(job, items, chunksize=32)


def _map(job: Callable[[Prompt], Any], items: Sequence[Prompt], processes: int | None, title: str) -> Iterator[Any]:
    with _mapper(processes or os.cpu_count() or 1) as mapped:
        yield from tqdm(mapped(job, items), total=len(items), desc=title, unit="sentence", mininterval=2.0)
