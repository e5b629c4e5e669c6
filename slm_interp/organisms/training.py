"""An organism from its recipe: speak, quantise, train a text model, join the vocabularies, train on.

1. The spoken corpus and the quantiser are made (`corpus`), or read if they are in the working folder already.
2. A model with the rows of the text tokenizer learns documents of text (`text_phase`), unless the recipe starts from
   random weights.
3. Rows for the units and the two markers are added, the mean of the text rows plus noise, as a slamkit model starts
   from a text model (TWIST). The joint model learns text, interleaved and speech documents (`joint_phases`).
4. It is measured on held-out sentences and saved in slamkit layout with its tokenizer, quantiser, manifest and samples.

The working folder is shared by recipes: what two of them have in common (speech, text model) is made once. A checkpoint
is written every so often. Batches are a function of seed, phase and step, so a run that was stopped ends with the same
weights as one that was not.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from math import cos, pi
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from slm_interp.organisms.corpus import corpus, fit_quantiser
from slm_interp.organisms.material import Material
from slm_interp.organisms.network import joint_model, new_model
from slm_interp.organisms.optimiser import Optimiser
from slm_interp.organisms.progress import Progress, phase_name, read_moments, read_progress, read_weights, write_checkpoint, write_curve
from slm_interp.organisms.recipe import Phase, Recipe
from slm_interp.organisms.supervised import heard_batch, lens_loss
from slm_interp.organisms.tokens import Speller, joint_vocabulary, text_tokenizer
from slm_interp.speech.acoustic import AcousticQuantiser

TOKENIZER_DOCUMENTS = 4_000  # that the merges are learned from

Loss = Callable[[Any, int], Float[Tensor, ""]]  # of a model at a step


@dataclass(frozen=True)
class Running:
    """What may differ between two runs of a recipe.

    Args:
        device: a GPU if there is one, else the CPU, where none is given.
        save_every: steps between checkpoints.
        compiled: `torch.compile` is half as long again as quick, needs a C++ compiler, and rounds differently, so weights
            differ a little.
    """

    device: str | None = None
    save_every: int = 100
    compiled: bool = False


def train_organism(
    recipe: Recipe,
    out: str | os.PathLike[str],
    work: str | os.PathLike[str] | None = None,
    running: Running = Running(),
    processes: int | None = None,
) -> Path:
    """Make an organism. What is in the working folder already, whole or half-trained, is gone on from.

    Args:
        recipe: what to make; see `RECIPES`.
        out: folder for the slamkit checkpoint.
        work: folder for speech, text models and checkpoints, which several recipes may share; `out/work` if not given.
        running: where and how.
        processes: that speak; as many as there are cores.

    Returns:
        the folder, ready to be loaded.
    """
    from slm_interp.organisms.measure import measure
    from slm_interp.organisms.slamkit_layout import save_organism

    out, work = Path(out), Path(work or Path(out) / "work")
    material, heard, quantiser = prepare(recipe, work, processes)
    model, progress = fit(material, recipe, work, running)
    write_curve(progress, out / "loss.csv")
    model = model.to("cpu", torch.bfloat16)
    held_out = [one for document in heard["held_out"] for one in document]
    measured = measure(model.float(), material, held_out)
    save_organism(out, model.to(torch.bfloat16), material.speller.tokenizer, quantiser, recipe, measured, held_out)
    return out


def prepare(recipe: Recipe, work: Path, processes: int | None = None) -> tuple[Material, dict[str, Any], AcousticQuantiser]:
    """Everything but the model: what is read, what was said, and the codebook."""
    folder = work / f"speech-{recipe.speech_key}"
    if not (folder / "quantiser.json").is_file():
        fit_quantiser(recipe, processes).save(folder)
    quantiser = AcousticQuantiser.load(folder)
    heard = corpus(recipe, quantiser, folder, processes)
    texts = (one.text for document in recipe.world.documents(TOKENIZER_DOCUMENTS, recipe.world.seed) for one in document)
    tokenizer = text_tokenizer(texts, recipe.text_tokens)
    speller = Speller(tokenizer, recipe.world.lexicon, recipe.world.seed)
    vocabulary = joint_vocabulary(len(tokenizer), quantiser.n_units, quantiser.hash)
    return Material(recipe.world, heard["train"], speller, vocabulary), heard, quantiser


def fit(material: Material, recipe: Recipe, work: Path, running: Running = Running()) -> tuple[Any, Progress]:
    """All phases, from where the checkpoints in `work` stand."""
    text_rows, all_rows = len(material.speller.tokenizer), material.vocabulary.size
    shape, seed, progress = recipe.shape, recipe.seed, Progress()
    device = running.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if recipe.text_phase is None:
        model = new_model(shape, all_rows, seed).to(device)
    else:
        text_model = new_model(shape, text_rows, seed, shape.n_layers - shape.below - shape.above).to(device)
        checkpoint = work / f"text-{recipe.text_key}.safetensors"
        optimiser, loss = Optimiser(text_model, recipe.text_phase), text_loss(material, recipe.text_phase, seed)
        _fit_phase(text_model, recipe.text_phase, optimiser, loss, progress, checkpoint, running)
        model = joint_model(text_model.cpu(), shape, all_rows, seed + 1).to(device)
    for number, phase in enumerate(recipe.joint_phases, start=1):
        progress.phase, progress.step = number, 0
        checkpoint = work / f"joint-{number}-{recipe.key_until(number)}.safetensors"
        inherited = None if recipe.text_phase is None else shape
        optimiser, loss = Optimiser(model, phase, inherited, text_rows), joint_loss(material, phase, number, seed)
        _fit_phase(model, phase, optimiser, loss, progress, checkpoint, running)
    return model, progress


def learning_rate(phase: Phase, step: int) -> float:
    """Linear to the peak over `warm_up` steps, then a cosine to a tenth of it at the last step."""
    if step < phase.warm_up:
        return phase.learning_rate * (step + 1) / phase.warm_up
    done = (step - phase.warm_up) / max(1, phase.steps - phase.warm_up)
    return phase.learning_rate * (0.1 + 0.45 * (1 + cos(pi * done)))


def text_loss(material: Material, phase: Phase, seed: int) -> Loss:
    """The loss of a step of the text phase."""

    def loss(model: Any, step: int) -> Float[Tensor, ""]:
        positions = stretched_positions(phase, np.random.default_rng([seed, 10, step, 2000])) if phase.stretched > 1 else None
        return next_token_loss(model, material.text_only_batch(phase, step, (seed, 10)), positions=positions)

    return loss


def stretched_positions(phase: Phase, rng: np.random.Generator) -> Int[Tensor, "row pos"]:
    """Positions that are 1 to `phase.stretched` apart: each row has a greatest distance of its own, at least 1."""
    greatest = rng.integers(1, phase.stretched + 1, size=(phase.rows, 1))
    return torch.from_numpy(np.cumsum(1 + rng.integers(0, greatest, size=(phase.rows, phase.length)), axis=1) - 1)


def joint_loss(material: Material, phase: Phase, number: int, seed: int) -> Loss:
    """The loss of a step of a joint phase; the supervised organism's has a second term."""

    def loss(model: Any, step: int) -> Float[Tensor, ""]:
        batch = material.joint_batch(phase, step, (seed, 10 + number))
        following = next_token_loss(model, batch, len(material.speller.tokenizer), phase.text_weight)
        if not phase.heard_words:
            return following
        ids, labels = heard_batch(material, phase, step, (seed, 10 + number))
        return following + phase.heard_words * lens_loss(model, ids.to(model.device), labels.to(model.device), phase.supervised_layer)

    return loss


def next_token_loss(
    model: Any, ids: Int[Tensor, "row pos"], text_rows: int = 0, text_weight: float = 1.0, positions: Int[Tensor, "row pos"] | None = None
) -> Float[Tensor, ""]:
    """Weighted mean of the cross-entropy of the next id, in nats; ids below `text_rows` have `text_weight`, others 1.

    Args:
        positions: that the rotary embedding is told; 0, 1, 2 ... if not given.
    """
    ids = ids.to(model.device)
    following = ids[:, 1:].flatten()
    positions = None if positions is None else positions.to(model.device)
    logits = model(input_ids=ids, position_ids=positions).logits[:, :-1].flatten(0, 1).float()
    weights = torch.where(following < text_rows, text_weight, 1.0)
    return (torch.nn.functional.cross_entropy(logits, following, reduction="none") * weights).sum() / weights.sum()


def _fit_phase(
    model: Any, phase: Phase, optimiser: Optimiser, loss_at: Loss, progress: Progress, checkpoint: Path, running: Running
) -> None:
    """One phase, from its checkpoint if there is one; `progress` moves along."""
    kept = read_progress(checkpoint)
    if kept.step:
        progress.step, progress.curve = kept.step, kept.curve
        read_weights(checkpoint, model)
        read_moments(checkpoint, model, optimiser, kept.step)
    model.train()
    forward = torch.compile(model, dynamic=False) if running.compiled else model
    bar = tqdm(
        range(progress.step, phase.steps), initial=progress.step, total=phase.steps, desc=phase_name(progress.phase), mininterval=5.0
    )
    for step in bar:
        with torch.autocast(model.device.type, torch.bfloat16):
            loss = loss_at(forward, step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step(learning_rate(phase, step))
        progress.step = step + 1
        progress.curve.append((progress.phase, step, float(loss.detach())))
        bar.set_postfix(loss=f"{progress.curve[-1][2]:.3f}", refresh=False)
        if progress.step % running.save_every == 0 or progress.step == phase.steps:
            write_checkpoint(checkpoint, model, optimiser, progress)
