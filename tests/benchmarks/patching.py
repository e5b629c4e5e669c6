"""The sweep race: TransformerLens 3.9's `patching.get_act_patch_resid_pre` and ours, on one model, in one process, with the numbers compared.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.patching --out docs/benchmarks/patching.json

Both patch the residual stream before every block at every one of 64 positions. The peer runs one whole forward for every cell; it is timed on a share of
its cells, spread over layers and positions, and counted up (`--cells` says how many, all of them with 0). Ours runs the whole grid. Rounds take
turns; times are of the processor, and each is the median. Models have true architecture and random weights: `small` is 12 layers of d_model 256 with
60,000 ids, `large` 12 layers of d_model 1,024 with 32,000. Beside each ratio stands the ceiling of `slm_interp.patching.cost`.

| prompts | differ |
|---|---|
| `everywhere` | in a third of their units, from the first on: nothing but the layer and the prefix is saved |
| `one word` | in eight units in the middle, as two sentences do that differ in a word: cells before it change nothing |

| outcome | reads |
|---|---|
| `first unit` | the difference of two logits at the last position |
| `whole word` | the difference of two log-probabilities of four units each; the peer sweeps twice, once for each continuation |
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformer_lens import patching as peer

from slm_interp import patching
from slm_interp.convert import load
from slm_interp.hooked.installed import VERSION
from slm_interp.model import SpeechTextModel
from slm_interp.patching import cost, outcomes
from slm_interp.utterance import Contrast
from tests.replicas import ROPE, text_tokenizer, write_slamkit

LENGTH, N_UNITS = 64, 500
RACES = {
    "small": [("everywhere", "first unit"), ("one word", "first unit"), ("everywhere", "whole word"), ("one word", "whole word")],
    "large": [("everywhere", "first unit"), ("one word", "first unit")],
}
SHAPES = {
    "small": {"hidden_size": 256, "intermediate_size": 704, "num_attention_heads": 4, "num_key_value_heads": 4, "ids": 60_000},
    "large": {"hidden_size": 1024, "intermediate_size": 2752, "num_attention_heads": 16, "num_key_value_heads": 4, "ids": 32_000},
}


def model_of(shape: dict[str, int], folder: Path) -> SpeechTextModel:
    """A llama of 12 layers with text, 500 units and the two markers."""
    tokenizer = text_tokenizer([f"w{number}" for number in range(shape["ids"] - N_UNITS - 3)])
    raw = {
        "model_type": "llama",
        "num_hidden_layers": 12,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "rope_parameters": ROPE,
        **{key: value for key, value in shape.items() if key != "ids"},
    }
    write_slamkit(folder, raw, vocab_size=shape["ids"], scale=0.05)
    return load(folder, text_tokenizer=tokenizer, n_units=N_UNITS, quantiser="race")


def contrast_of(slm: SpeechTextModel, prompts: str) -> Contrast:
    """Two prompts of 64 positions, and two continuations of four units."""
    drawn = torch.Generator().manual_seed(0)
    clean, other = torch.randint(0, N_UNITS, (2, LENGTH - 1), generator=drawn)
    where = torch.rand(LENGTH - 1, generator=drawn) < 1 / 3
    where[0] = True
    if prompts == "one word":
        where = (torch.arange(LENGTH - 1) >= 28) & (torch.arange(LENGTH - 1) < 36)
    corrupted = torch.where(where, other, clean)
    edges = 0.04 * torch.arange(LENGTH)
    said = [slm.speech_prompt(units, edges, quantiser="race", name=name) for units, name in ((clean, "clean"), (corrupted, "corrupted"))]
    answer, distractor = (slm.vocabulary.unit_to_id(torch.tensor(units)) for units in ([17, 4, 90, 33], [300, 5, 41, 8]))
    return Contrast(said[0], said[1], answer, distractor)


def theirs(slm: SpeechTextModel, contrast: Contrast, outcome: str, cells: pd.DataFrame) -> np.ndarray:
    """The peer at some cells."""
    clean, corrupted = contrast.clean.tokens, contrast.corrupted.tokens
    answer, distractor = contrast.answer, contrast.distractor
    speech = slm.vocabulary.mask("speech")

    def sweep(after: Tensor, metric: Callable[[Tensor], Tensor]) -> np.ndarray:
        _, cache = slm.model.run_with_cache(torch.cat([clean, after])[None], prepend_bos=False)
        tokens = torch.cat([corrupted, after])[None]
        return peer.get_act_patch_resid_pre(slm.model, tokens, cache, metric, index_axis_names=None, index_df=cells).numpy()

    def log_prob(units: Tensor) -> Callable[[Tensor], Tensor]:
        places = units - int(speech.nonzero()[0])
        return lambda logits: logits[0, LENGTH - 1 :, speech].log_softmax(-1).gather(-1, places[:, None]).sum()

    if outcome == "first unit":
        return sweep(answer[:0], lambda logits: logits[0, -1, answer[0]] - logits[0, -1, distractor[0]])
    return sweep(answer[:-1], log_prob(answer)) - sweep(distractor[:-1], log_prob(distractor))


def race(slm: SpeechTextModel, prompts: str, outcome: str, cells: int, rounds: int) -> dict[str, Any]:
    """Both ways on one model."""
    contrast, config = contrast_of(slm, prompts), slm.model.cfg
    every = pd.DataFrame([(layer, pos) for layer in range(config.n_layers) for pos in range(LENGTH)], columns=["layer", "pos"])
    chosen = every.iloc[np.linspace(0, len(every) - 1, cells or len(every)).round().astype(int)].reset_index(drop=True)
    read = outcomes.logit_difference() if outcome == "first unit" else outcomes.difference()

    def ours() -> np.ndarray:
        return patching.activation(slm, contrast, "resid_pre", "positions", outcome=read).dataset["outcome"].values[0]

    seconds: dict[str, list[float]] = {"theirs": [], "ours": []}
    found: dict[str, np.ndarray] = {}
    with torch.no_grad():
        for _ in range(rounds):
            for name, run in (("theirs", lambda: theirs(slm, contrast, outcome, chosen)), ("ours", ours)):
                start = time.process_time()
                found[name] = run()
                seconds[name].append(time.process_time() - start)
    apart = np.abs(found["ours"][chosen["layer"], chosen["pos"]] - found["theirs"]).max()
    whole, own = median(seconds["theirs"]) * len(every) / len(chosen), median(seconds["ours"])
    said = {
        "prompts": prompts,
        "outcome": outcome,
        "cells": len(every),
        "cells_of_the_peer": len(chosen),
        "seconds_of_the_peer": round(whole, 1),
        "seconds": round(own, 2),
        "times_faster": round(whole / own, 1),
        "largest_difference": float(f"{apart:.2g}"),
        "largest_effect": round(float(np.ptp(found["ours"])), 2),
    }
    if outcome == "first unit":
        top = cost.ceiling(config, changing(contrast, config.n_layers), len(every), LENGTH, N_UNITS)
        said |= {"ceiling": round(top, 1), "share_of_the_ceiling": round(whole / own / top, 2)}
    return said


def changing(contrast: Contrast, n_layers: int) -> list[tuple[int, int]]:
    """The cells that change something: at the embedding where units differ, above it from the first of them on."""
    unlike = contrast.clean.tokens != contrast.corrupted.tokens
    first = int(unlike.nonzero()[0])
    return [(layer, pos) for layer in range(n_layers) for pos in range(first, LENGTH) if layer or unlike[pos]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--cells", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shape", choices=[*SHAPES], action="append")
    given = parser.parse_args()
    torch.set_num_threads(1)
    said: dict[str, Any] = {
        "transformer-lens": VERSION,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "threads": 1,
        "rounds": given.rounds,
    }
    for name in given.shape or SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            slm = model_of(SHAPES[name], Path(folder))
        config = slm.model.cfg
        rows = [race(slm, prompts, outcome, given.cells, given.rounds) for prompts, outcome in RACES[name]]
        said[name] = {"layers": config.n_layers, "d_model": config.d_model, "ids": config.d_vocab, "positions": LENGTH, "races": rows}
        print(name, json.dumps(said[name], indent=1), flush=True)
    if given.out:
        given.out.write_text(json.dumps(said, indent=1) + "\n")


if __name__ == "__main__":
    main()
