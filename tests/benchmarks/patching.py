"""The sweep race: TransformerLens 3.9's `patching.get_act_patch_resid_pre` and ours, on one model, in one process, with the numbers compared.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.patching --out docs/benchmarks/patching.json

Both patch the residual stream before every block at every one of 64 positions and read the difference of two logits at the last. The peer runs one whole
forward for every cell; it is timed on a share of its cells, spread over layers and positions, and counted up (`--cells` says how many, all of them with
0). Ours runs the whole grid. Rounds take turns; each time is the median. Models have true architecture and random weights: `small` is 12 layers
of d_model 256 with 60,000 ids, `large` 12 layers of d_model 1,024 with 32,000. Beside each ratio stands the ceiling of `slm_interp.patching.cost`.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformer_lens import patching as peer

from slm_interp import patching
from slm_interp.convert import load
from slm_interp.hooked.installed import VERSION
from slm_interp.model import SpeechTextModel
from slm_interp.patching import cost, outcomes
from slm_interp.utterance import Contrast, Utterance
from tests.replicas import ROPE, text_tokenizer, write_slamkit

LENGTH, N_UNITS = 64, 500
SHAPES = {
    "small": {"hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4, "num_key_value_heads": 4, "ids": 60_000},
    "large": {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_key_value_heads": 4, "ids": 32_000},
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


def contrast_of(slm: SpeechTextModel) -> Contrast:
    """Two prompts of 64 positions that differ in a third of their units, and two units."""
    drawn = torch.Generator().manual_seed(0)
    clean = torch.randint(0, N_UNITS, (LENGTH - 1,), generator=drawn)
    corrupted = torch.where(
        torch.rand(LENGTH - 1, generator=drawn) < 1 / 3, torch.randint(0, N_UNITS, (LENGTH - 1,), generator=drawn), clean
    )
    corrupted[0] = (clean[0] + 1) % N_UNITS
    edges = 0.04 * torch.arange(LENGTH)
    prompts: list[Utterance] = [
        slm.speech_prompt(units, edges, quantiser="race", name=name) for units, name in ((clean, "clean"), (corrupted, "corrupted"))
    ]
    answer, distractor = (slm.vocabulary.unit_to_id(torch.tensor([unit])) for unit in (17, 300))
    return Contrast(*prompts, answer, distractor)


def race(shape: dict[str, int], cells: int, rounds: int) -> dict[str, Any]:
    """Both ways on one model."""
    with tempfile.TemporaryDirectory() as folder:
        slm = model_of(shape, Path(folder))
    contrast, config = contrast_of(slm), slm.model.cfg
    answer, distractor = int(contrast.answer[0]), int(contrast.distractor[0])
    with torch.no_grad():
        _, cache = slm.model.run_with_cache(contrast.clean.tokens[None], prepend_bos=False)
    every = pd.DataFrame([(layer, pos) for layer in range(config.n_layers) for pos in range(LENGTH)], columns=["layer", "pos"])
    chosen = every.iloc[np.linspace(0, len(every) - 1, cells or len(every)).round().astype(int)].reset_index(drop=True)

    def theirs() -> torch.Tensor:
        return peer.get_act_patch_resid_pre(
            slm.model,
            contrast.corrupted.tokens[None],
            cache,
            lambda logits: logits[0, -1, answer] - logits[0, -1, distractor],
            index_axis_names=None,
            index_df=chosen,
        )

    def ours() -> np.ndarray:
        found = patching.activation(slm, contrast, "resid_pre", "positions", outcome=outcomes.logit_difference())
        return found.dataset["outcome"].values[0]

    seconds: dict[str, list[float]] = {"theirs": [], "ours": []}
    found: dict[str, Any] = {}
    with torch.no_grad():
        for _ in range(rounds):
            for name, run in (("theirs", theirs), ("ours", ours)):
                start = time.perf_counter()
                found[name] = run()
                seconds[name].append(time.perf_counter() - start)
    apart = np.abs(found["ours"][chosen["layer"], chosen["pos"]] - found["theirs"].numpy()).max()
    whole = median(seconds["theirs"]) * len(every) / len(chosen)
    ceiling = cost.ceiling(config, range(config.n_layers), range(LENGTH), LENGTH, N_UNITS)
    return {
        "d_model": config.d_model,
        "ids": config.d_vocab,
        "layers": config.n_layers,
        "positions": LENGTH,
        "cells": len(every),
        "cells_of_the_peer": len(chosen),
        "seconds_of_the_peer": round(whole, 2),
        "seconds": round(median(seconds["ours"]), 3),
        "times_faster": round(whole / median(seconds["ours"]), 1),
        "ceiling": round(ceiling, 1),
        "share_of_the_ceiling": round(whole / median(seconds["ours"]) / ceiling, 2),
        "largest_difference": float(f"{apart:.2g}"),
        "largest_effect": round(float(np.ptp(found["ours"])), 3),
    }


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
        said[name] = race(SHAPES[name], given.cells, given.rounds)
        print(name, json.dumps(said[name], indent=1), flush=True)
    if given.out:
        given.out.write_text(json.dumps(said, indent=1) + "\n")


if __name__ == "__main__":
    main()
