"""Tokens to the same held-out KL: our trainer against the published optimiser, run by the `tuned-lens` package itself.

    python -m tests.benchmarks.tuned_lens --work out/tuned --out docs/benchmarks/tuned_lens.json

needs an environment with this package and `tuned-lens==0.2.0 torchdata==0.9.0 simple-parsing flatten-dict datasets` (not with
TransformerLens 4.x, where that package cannot look at any model). Speech, and the translators of the published run at every tenth step, are
kept in the working folder, so that a second call goes on.

1. A shipped organism (Llama, V = 1,378) in float32; rows of 256 ids of its own world: text, interleaved, speech, a third each.
2. The peer's `Train.execute` (its loop, its loss under bfloat16 autocast, `create_optim` and `create_scheduler` with their defaults), with
   as many steps as published (250) and fewer tokens a step than the published 2^18: fewer tokens a step only help it in what is counted here.
3. The trainer of this package on the first rows of the same list, twice through, with its defaults; it looks at the held-out rows after every
   second step and never stops early, so that the curve is whole; what it reports is the map of that step, not the best so far.
4. Both are measured by one function on rows of sentences that neither saw, in float32: KL to the model's own output, mean over positions and
   layers. The plateau is the peer's last KL; it *needs* the tokens after which it is within 1% of that.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor

import slm_interp as si
from slm_interp.files import write_text
from slm_interp.lenses.tuned.data import Rows
from slm_interp.lenses.tuned.data import rows_of as rows_of_sequences
from slm_interp.lenses.tuned.divergence import head_of
from slm_interp.lenses.tuned.progress import Progress
from slm_interp.lenses.tuned.training import EVERYTHING, Run, TunedRecipe
from slm_interp.organisms import RECIPES, path
from slm_interp.organisms.corpus import load, prompts, save, speak
from slm_interp.organisms.material import Material
from slm_interp.organisms.tokens import Speller
from slm_interp.speech.acoustic import AcousticQuantiser

LENGTH = 256
SEED = 77
EVERY = 10  # steps between two looks at the published run
SHARES = (1 / 3, 1 / 3, 1 / 3)  # text, interleaved, speech
PLATEAU = 1.01


def main() -> None:
    """Run both and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--organism", default="tiny")
    parser.add_argument("--documents", type=int, default=2000, help="spoken for training")
    parser.add_argument("--held-rows", type=int, default=16)
    parser.add_argument("--steps", type=int, default=250, help="of the published optimiser")
    parser.add_argument("--tokens-per-step", type=int, default=2**12, help="of the published optimiser")
    parser.add_argument("--our-rows", type=int, default=160, help="the first of the same rows that we train on")
    parser.add_argument("--passes", type=int, default=2)
    parser.add_argument("--layers", type=int, nargs="*", help="to compare; all if none is named")
    parser.add_argument("--look-every", type=int, default=2, help="of our steps")
    parser.add_argument("--work", type=Path, default=Path("out/tuned"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only-peer", action="store_true", help="keep its translators and stop")
    asked = parser.parse_args()
    slm = si.load(asked.organism, dtype=torch.float32)
    train, held = (rows_of(asked, slm, side) for side in ("train", "held"))
    peer = published(asked, slm, train)
    if asked.only_peer:
        return
    found = compare(asked, slm, train, held, peer)
    print(json.dumps({key: value for key, value in found.items() if key != "curves"}, indent=1))
    if asked.out:
        write_text(asked.out, json.dumps(found, indent=1) + "\n")


# -- what both read ------------------------------------------------------------------------------------


def rows_of(asked: argparse.Namespace, slm: si.SpeechTextModel, side: str) -> list[Int[Tensor, " pos"]]:
    """Rows of ids: of training documents, or of sentences that no training document has."""
    recipe, quantiser = RECIPES[asked.organism], AcousticQuantiser.load(path(asked.organism))
    world, speaking = recipe.world, recipe.speaking
    file = asked.work / (f"train-{asked.documents}.safetensors" if side == "train" else "held.safetensors")
    if not file.is_file():
        sentences = (
            world.documents(asked.documents, world.seed)
            if side == "train"
            else [[one] for one in world.held_out_sentences(400, world.seed)]
        )
        texts = [[one.text for one in document] for document in sentences]
        save(speak(prompts(texts, speaking.voices, speaking, world.seed + (side == "held")), quantiser, 1), file)
    material = Material(world, load(file, quantiser), Speller(slm.tokenizer, world.lexicon, world.seed), slm.vocabulary)
    phase = replace(recipe.joint_phases[-1], mix=SHARES, length=LENGTH)
    wanted = asked.steps * asked.tokens_per_step // LENGTH if side == "train" else asked.held_rows
    seed = (SEED + (side == "held"),)
    return [row for step in range(-(-wanted // phase.rows)) for row in material.joint_batch(phase, step, seed)][:wanted]


# -- the published optimiser ---------------------------------------------------------------------------


def published(asked: argparse.Namespace, slm: si.SpeechTextModel, rows: list[Int[Tensor, " pos"]]) -> dict[int, dict[str, Tensor]]:
    """Translators of `tuned-lens` by the steps taken, from the working folder or trained now."""
    folder = asked.work / f"published-{asked.organism}-{asked.steps}x{asked.tokens_per_step}"
    if not (folder / f"{asked.steps}.safetensors").is_file():
        run_published(asked, plain_copy(slm), rows, folder)
    return {int(file.stem): load_file(file) for file in sorted(folder.glob("*.safetensors"), key=lambda one: int(one.stem))}


def plain_copy(slm: si.SpeechTextModel) -> Path:
    """The organism as a Hugging Face folder without slamkit's wrapper, as the peer loads it."""
    folder = Path(tempfile.mkdtemp())
    wrapper = json.loads((slm.folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**wrapper["base_config"], "vocab_size": wrapper["vocab_size"]}))
    tensors = {name.removeprefix("lm."): tensor for name, tensor in load_file(slm.folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def run_published(asked: argparse.Namespace, checkpoint: Path, rows: list[Int[Tensor, " pos"]], folder: Path) -> None:
    """The peer's own training loop on our rows. Its data loading is left out, and its logging keeps the translators."""
    from transformers import AutoModelForCausalLM
    from tuned_lens import TunedLens
    from tuned_lens.scripts import ingredients
    from tuned_lens.scripts.train_loop import State, Train

    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval().requires_grad_(False)
    at_once = max(1, min(8, asked.tokens_per_step // LENGTH))
    start = time.process_time()

    class Published(Train):
        def setup(self) -> tuple[State, Any, int]:
            lens = TunedLens.from_model(model)
            optimiser = self.opt.create_optim(list(lens.parameters()))
            scheduler = self.opt.create_scheduler(optimiser, self.num_steps)
            batches = ({"input_ids": torch.stack(rows[i : i + at_once])} for i in range(0, len(rows), at_once))
            keep(lens, 0)
            return State(batches, lens, optimiser, scheduler, None, 1.0), model, self.calculate_gradient_accumulation_steps(LENGTH)

        def _log(self, opt: Any, step: int, losses: Any, tuned_lens: TunedLens, nats_to_bpb: float) -> None:
            if (step + 1) % EVERY == 0 or step < EVERY:
                keep(tuned_lens, step + 1)

    def keep(lens: TunedLens, step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: tensor.clone() for name, tensor in lens.layer_translators.state_dict().items()}
        save_file(state, folder / f"{step}.safetensors", metadata={"seconds": str(time.process_time() - start)})

    Published(
        model=ingredients.Model(name=str(checkpoint)),
        data=ingredients.Data(),
        opt=ingredients.Optimizer(),
        dist=ingredients.Distributed(per_gpu_batch_size=at_once),
        output=folder / "last",
        num_steps=asked.steps,
        tokens_per_step=asked.tokens_per_step,
    ).execute()


# -- both, measured alike ------------------------------------------------------------------------------


def compare(
    asked: argparse.Namespace,
    slm: si.SpeechTextModel,
    train: list[Int[Tensor, " pos"]],
    held: list[Int[Tensor, " pos"]],
    peer: dict[int, dict[str, Tensor]],
) -> dict[str, Any]:
    """Held-out KL of both by positions, and after how many the peer's plateau is reached."""
    ours_read = train[: asked.our_rows]
    layers, head = asked.layers or list(range(slm.model.cfg.n_layers)), head_of(slm, EVERYTHING.ids(slm.vocabulary))
    run = Run(
        slm,
        EVERYTHING,
        TunedRecipe(passes=asked.passes, look_every=asked.look_every, patience=1000),
        layers,
        *(rows_of_ids(slm, some) for some in (ours_read, held)),
        head,
    )
    theirs = [
        {"step": step, "positions": step * asked.tokens_per_step, "kl": kl.tolist(), "mean": float(kl.mean())}
        for step, kl in ((step, held_out_kl(run, state)) for step, state in peer.items())
    ]
    start = time.process_time()
    progress = run.fitted(None)
    seconds = time.process_time() - start
    ours = our_curve(run, progress)
    plateau = theirs[-1]["mean"]
    needed = next(one for one in theirs if one["mean"] <= PLATEAU * plateau)
    reached = next((one for one in ours if one["mean"] <= plateau), None)
    return {
        "organism": asked.organism,
        "versions": {name: version(name) for name in ("torch", "tuned-lens", "transformers", "transformer-lens")},
        "rows": {"length": LENGTH, "held_out_positions": sum(len(one) for one in held)},
        "published": {"steps": asked.steps, "tokens_per_step": asked.tokens_per_step, "plateau": plateau, "needed": needed["positions"]},
        "ours": {
            "reached": reached,
            "best": min(ours, key=lambda one: one["mean"]),
            "cpu_seconds_in_all": round(seconds, 1),
        },
        "ratio": None
        if reached is None
        else {
            "positions run through the model": round(needed["positions"] / reached["processed"], 1),
            "different positions": round(needed["positions"] / reached["unique"], 1),
        },
        "by_layer": [by_layer(layers, place, theirs, ours) for place in range(len(layers))],
        "curves": {"published": theirs, "ours": ours},
    }


def by_layer(layers: list[int], place: int, theirs: list[dict[str, Any]], ours: list[dict[str, Any]]) -> dict[str, Any]:
    """The same comparison of one layer alone; None where our rows do not reach the peer's last KL."""
    last = theirs[-1]["kl"][place]
    needed = next(one["positions"] for one in theirs if one["kl"][place] <= PLATEAU * last)
    reached = next((one for one in ours if one["kl"][place] <= last), None)
    return {
        "layer": layers[place],
        "published": last,
        "needed": needed,
        "ours_best": min(one["kl"][place] for one in ours),
        "reached": None if reached is None else reached["processed"],
        "ratio": None if reached is None else round(needed / reached["processed"], 1),
    }


def rows_of_ids(slm: si.SpeechTextModel, rows: list[Int[Tensor, " pos"]]) -> Rows:
    """Rows of the trainer, all of whose positions count."""
    return rows_of_sequences(slm, rows, EVERYTHING)


def held_out_kl(run: Run, state: dict[str, Tensor]) -> Float[Tensor, " layer"]:
    """KL(model || lens) by layer of translators in the peer's layout, by the function that looks at ours."""
    progress = Progress.new(len(run.layers), run.slm.model.cfg.d_model, torch.device("cpu"), torch.float32)
    progress.constant.fill_(1.0)
    for place, layer in enumerate(run.layers):
        progress.map[place] = torch.cat([state[f"{layer}.weight"], state[f"{layer}.bias"][:, None]], 1)
    run._look(progress, range(len(run.layers)))
    return torch.tensor([kl for _, _, _, modality, kl in progress.looks if modality == "all"])


def our_curve(run: Run, progress: Progress) -> list[dict[str, Any]]:
    """Held-out KL at every look; a layer that has stopped keeps its last."""
    looks = [(step, seen, layer, kl) for step, seen, layer, modality, kl in progress.looks if modality == "all"]
    now: dict[int, float] = {}
    curve: dict[tuple[int, int], list[float]] = {}
    for step, seen, layer, kl in looks:
        now[layer] = kl
        curve[step, seen] = [now[one] for one in sorted(now)]
    first = next(seen for step, seen in curve if seen)
    return [
        {
            "step": step,
            "processed": seen,
            "unique": min(run.train.positions, max(min(seen, first), seen - first)),
            "kl": kl,
            "mean": sum(kl) / len(kl),
        }
        for (step, seen), kl in curve.items()
    ]


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    main()
