"""An organism from its recipe: speak, quantise, train a text model, join the vocabularies, train on.

1. The spoken corpus and the quantiser are made (`corpus`), or read if they are in the working folder already.
2. A Llama with the rows of the text tokenizer learns lines of text (`text_phase`).
3. Rows for the units and the two markers are added, the mean of the text rows plus noise, as a slamkit model starts
   from a text model (TWIST). The joint model learns text, interleaved and speech sentences (`joint_phases`): first
   with some words of the text spelled letter by letter, then with every word whole.
4. It is measured on held-out sentences and saved in slamkit layout with its tokenizer, quantiser, manifest and samples.

A checkpoint (`training.safetensors`: weights, optimiser moments, curve) is written every so often. Batches are a
function of seed, phase and step, so a run that was stopped ends with the same weights as one that was not.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import cos, pi
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from tqdm import tqdm

from slm_interp.files import atomic_path, write_text
from slm_interp.organisms.corpus import corpus, fit_quantiser
from slm_interp.organisms.material import Material
from slm_interp.organisms.recipe import Phase, Recipe, Shape
from slm_interp.organisms.tokens import Speller, joint_vocabulary, text_tokenizer
from slm_interp.speech.acoustic import AcousticQuantiser

INITIAL_STD = 0.02
SAVE_EVERY = 100


@dataclass
class Progress:
    """How far training is: the phase (0 text, then joint), its next step, and `(phase, step, loss)` of every step so far."""

    phase: int = 0
    step: int = 0
    curve: list[tuple[int, int, float]] = field(default_factory=list)


def train_organism(
    recipe: Recipe, out: str | os.PathLike[str], resume: bool = True, device: str | None = None, processes: int | None = None
) -> Path:
    """Make an organism; everything it needs on the way is kept in `out/work`.

    Args:
        recipe: what to make; see `RECIPES`.
        out: folder for the slamkit checkpoint.
        resume: go on from `out/work` if there is something; otherwise start again there.
        device: where to train; a GPU if there is one, else the CPU.
        processes: that speak; as many as there are cores.

    Returns:
        the folder, ready to be loaded.
    """
    from slm_interp.organisms.measure import measure
    from slm_interp.organisms.slamkit_layout import save_organism

    out, work = Path(out), Path(out) / "work"
    if not resume:
        for stale in work.glob("*"):
            stale.unlink()
    quantiser = _quantiser(recipe, work, processes)
    train, held_out = corpus(recipe, quantiser, work, processes)
    tokenizer = text_tokenizer(recipe.world.lexicon)
    vocabulary = joint_vocabulary(len(tokenizer), quantiser.n_units, quantiser.hash)
    speller = Speller(tokenizer, recipe.world.lexicon)
    model, progress = fit(Material(train, speller, vocabulary), recipe, work, device or ("cuda" if torch.cuda.is_available() else "cpu"))
    write_curve(progress, out / "loss.csv")
    model = model.to("cpu", torch.bfloat16)
    measured = measure(model.float(), Material(held_out, speller, vocabulary))
    save_organism(out, model.to(torch.bfloat16), tokenizer, quantiser, recipe, measured, held_out)
    return out


def new_model(shape: Shape, rows: int, seed: int) -> Any:
    """A Llama with random weights; the same seed, the same weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=rows,
        hidden_size=shape.d_model,
        intermediate_size=shape.d_mlp,
        num_hidden_layers=shape.n_layers,
        num_attention_heads=shape.n_heads,
        num_key_value_heads=shape.n_heads,
        max_position_embeddings=shape.n_ctx,
        tie_word_embeddings=shape.tied,
        initializer_range=INITIAL_STD,
        rms_norm_eps=1e-5,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        use_cache=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def join_vocabularies(model: Any, rows: int, seed: int) -> Any:
    """Give the embedding (and an untied head) its speech rows: the mean of the rows there are, plus noise."""
    old = model.config.vocab_size
    generator = torch.Generator().manual_seed(seed)
    model.resize_token_embeddings(rows, mean_resizing=False)
    matrices = {id(matrix): matrix for matrix in (model.get_input_embeddings().weight, model.get_output_embeddings().weight)}
    with torch.no_grad():
        for matrix in matrices.values():
            noise = torch.randn(rows - old, matrix.shape[1], generator=generator) * INITIAL_STD
            matrix[old:] = matrix[:old].mean(0) + noise.to(matrix)
    return model


def fit(material: Material, recipe: Recipe, work: Path, device: str = "cpu", save_every: int = SAVE_EVERY) -> tuple[Any, Progress]:
    """All phases, from where the checkpoint in `work` stands."""
    text_rows, all_rows = len(material.speller.tokenizer), material.vocabulary.size
    checkpoint = work / "training.safetensors"
    progress = read_progress(checkpoint)
    model = new_model(recipe.shape, text_rows if progress.phase == 0 else all_rows, recipe.seed).to(device)
    phases = (recipe.text_phase, *recipe.joint_phases)
    for number in range(progress.phase, len(phases)):
        if number > progress.phase:
            if number == 1:
                model = join_vocabularies(model, all_rows, recipe.seed + 1)
            progress.phase, progress.step = number, 0
        batch = partial(material.joint_batch if number else material.text_only_batch, phases[number], seed=(recipe.seed, 10 + number))
        _fit_phase(model, phases[number], batch, progress, checkpoint, save_every)
    return model, progress


def learning_rate(phase: Phase, step: int) -> float:
    """Linear to the peak over `warm_up` steps, then a cosine to a tenth of it at the last step."""
    if step < phase.warm_up:
        return phase.learning_rate * (step + 1) / phase.warm_up
    done = (step - phase.warm_up) / max(1, phase.steps - phase.warm_up)
    return phase.learning_rate * (0.1 + 0.45 * (1 + cos(pi * done)))


def _fit_phase(
    model: Any, phase: Phase, batch: Callable[[int], Int[Tensor, "row pos"]], progress: Progress, checkpoint: Path, save_every: int
) -> None:
    decayed = [weight for weight in model.parameters() if weight.ndim > 1]
    others = [weight for weight in model.parameters() if weight.ndim == 1]
    optimiser = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}], betas=(0.9, 0.98))
    if checkpoint.is_file() and progress.step > 0:
        read_checkpoint(checkpoint, model, optimiser)
    model.train()
    steps = range(progress.step, phase.steps)
    bar = tqdm(steps, initial=progress.step, total=phase.steps, desc=phase_name(progress.phase), mininterval=5.0)
    for step in bar:
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(phase, step)
        ids = batch(step).to(model.device)
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        progress.step = step + 1
        progress.curve.append((progress.phase, step, float(loss.detach())))
        bar.set_postfix(loss=f"{progress.curve[-1][2]:.3f}", refresh=False)
        if progress.step % save_every == 0 or progress.step == phase.steps:
            write_checkpoint(checkpoint, model, optimiser, progress)


def write_checkpoint(path: Path, model: Any, optimiser: torch.optim.Optimizer, progress: Progress) -> None:
    """Weights, moments and curve in one safetensors file, whole or not at all."""
    from safetensors.torch import save_file

    tensors = {}
    for name, weight in model.named_parameters():
        tensors[f"weight.{name}"] = weight.detach().contiguous()
        for moment in ("exp_avg", "exp_avg_sq"):
            tensors[f"{moment}.{name}"] = optimiser.state[weight][moment].contiguous()
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"progress": json.dumps(vars(progress))})


def read_progress(path: Path) -> Progress:
    """How far the checkpoint is; the very beginning where there is none."""
    from safetensors import safe_open

    if not path.is_file():
        return Progress()
    with safe_open(path, "pt") as file:
        written = json.loads(file.metadata()["progress"])
    return Progress(written["phase"], written["step"], [(int(phase), int(step), float(loss)) for phase, step, loss in written["curve"]])


def read_checkpoint(path: Path, model: Any, optimiser: torch.optim.Optimizer) -> None:
    """Put the weights into the model and the moments into the optimiser."""
    from safetensors.torch import load_file

    tensors, progress = load_file(path), read_progress(path)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(tensors[f"weight.{name}"])
            moments = {moment: tensors[f"{moment}.{name}"].to(weight.device) for moment in ("exp_avg", "exp_avg_sq")}
            optimiser.state[weight] = {"step": torch.tensor(float(progress.step)), **moments}


def phase_name(number: int) -> str:
    """`text`, `joint 1`, `joint 2`, ..."""
    return f"joint {number}" if number else "text"


def write_curve(progress: Progress, path: Path) -> None:
    """The loss of every step, as CSV."""
    rows = [f"{phase_name(phase)},{step},{loss:.5f}" for phase, step, loss in progress.curve]
    write_text(path, "\n".join(["phase,step,loss", *rows]) + "\n")


def _quantiser(recipe: Recipe, work: Path, processes: int | None) -> AcousticQuantiser:
    if not (work / "quantiser.json").is_file():
        fit_quantiser(recipe, processes).save(work)
    return AcousticQuantiser.load(work)
