"""Attribution patching beside exact patching: agreement and cost on the organisms, memory on a random model of middle size.

    python -m tests.benchmarks.attribution agreement --organism tiny
    python -m tests.benchmarks.attribution memory

`agreement` patches name contrasts exactly and attributes them by every method, one site after the other, in one run: `agreement-ORGANISM.csv` has
a row for each site and method (columns as in `slm_interp.patching.attribution.agreement`) with the forwards and backwards of a contrast and the seconds as a
share of the exact sweep's; `misses-ORGANISM.csv` the worst misses. `memory` takes the gradients of AtP in a process of its own for each way and reads
the greatest resident size. All write to docs/attribution.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import slm_interp as si
from slm_interp import hooked
from slm_interp.organisms.contrasts import contrasts
from slm_interp.organisms.world import World
from slm_interp.patching import activation, attribution

SITES = ("resid_post", "attn_out", "mlp_out", "z", "q", "k", "v")
METHODS = {
    "AtP": attribution.atp,
    "AtP, QK fix": attribution.atp_qk,
    "AtP*": attribution.atp_star,
    "integrated, 8": attribution.integrated_gradients,
}
ONLY = {
    "AtP, QK fix": ("q", "k"),
    "integrated, 8": ("resid_post", "attn_out", "mlp_out"),
}  # the other sites have heads, which would share one path
POLICY = "warped"


def agreement(organism: str, count: int, folder: Path, sites: Sequence[str] = SITES) -> None:
    """The two tables of an organism; sites that are not asked for stay as they are there."""
    slm = si.load(organism, dtype=torch.float32)
    asked = {pair.name: pair.contrast for pair in contrasts(slm, World(seed=0), "names", count)}
    rows, missed = [], []
    for site in sites:
        start = time.perf_counter()
        exact = activation(slm, asked, site, "words", POLICY)
        seconds = time.perf_counter() - start
        for name, method in METHODS.items():
            if site not in ONLY.get(name, SITES):
                continue
            start = time.perf_counter()
            found = method(slm, asked, site, "words", POLICY)
            share = (time.perf_counter() - start) / seconds
            table = attribution.agreement({name: found}, exact)
            attrs = found.dataset.attrs
            rows.append(
                table.assign(
                    forwards=attrs["forwards"],
                    backwards=attrs["backwards"],
                    seconds_of_exact=share,
                    cells_a_contrast=table["cells"] / count,
                )
            )
            missed.append(attribution.worst_misses(found, exact, 3).assign(method=name, site=site))
        print(pd.concat(rows).query("site == @site").round(3).to_string(index=False), flush=True)
        for kind, made in (("agreement", rows), ("misses", missed)):
            update(folder / f"{kind}-{organism}.csv", pd.concat(made))


def update(path: Path, made: pd.DataFrame) -> None:
    """Write rows in the place of those of the same sites, in the order of `SITES`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    there = pd.read_csv(path) if path.is_file() else made.head(0)
    whole = pd.concat([there[~there["site"].isin(made["site"])], made])
    whole.sort_values("site", key=lambda site: site.map(SITES.index), kind="stable").round(4).to_csv(path, index=False)


def random_model(dtype: torch.dtype) -> hooked.HookedTransformer:
    """A llama of 12 blocks, d_model 512, 8 heads over 2 key-value heads; random weights."""
    sizes = {
        "d_model": 512,
        "n_layers": 12,
        "n_heads": 8,
        "n_key_value_heads": 2,
        "d_head": 64,
        "d_mlp": 1408,
        "d_vocab": 2000,
        "n_ctx": 2048,
    }
    kind = {"act_fn": "silu", "normalization_type": "RMS", "final_rms": True, "gated_mlp": True, "eps": 1e-6, "dtype": dtype}
    model = hooked.empty({**sizes, **kind, "positional_embedding_type": "rotary", "rotary_dim": 64, "rotary_base": 10_000.0})
    generator = torch.Generator().manual_seed(0)
    state = {name: (0.02 * torch.randn(one.shape, generator=generator)).to(dtype) for name, one in hooked.parameters(model).items()}
    return hooked.fill(model, state)


def peak(length: int, way: str, dtype: str) -> None:
    """Run the gradients of AtP at `z` of two rows, and print how far the resident size rose, in MB."""
    model = random_model(getattr(torch, dtype))
    names = [hooked.hook_at("z", layer) for layer in range(model.cfg.n_layers)]
    tokens = torch.randint(0, 2000, (2, length), generator=torch.Generator().manual_seed(1))

    def score(last: torch.Tensor) -> torch.Tensor:
        return hooked.normed(model, last)[:, -1].float().logsumexp(-1).sum()

    hooked.values_at(model, tokens, names, lambda _, value: None)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    if way != "forward":
        getattr(hooked, way)(model, tokens, names, score, lambda _, value, slope: float((value * slope).float().sum()))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    estimate = hooked.graph_bytes(model.cfg, 2, length) * (model.cfg.n_layers if way == "gradients_at" else 1)
    print(
        json.dumps(
            {
                "way": way,
                "length": length,
                "dtype": dtype,
                "rise_MB": (after - before) / 1024,
                "estimate_MB": estimate / 2**20,
                "seconds": time.perf_counter() - start,
            }
        )
    )


def memory(lengths: tuple[int, ...], folder: Path) -> None:
    """Both ways at several lengths, each in a process of its own."""
    rows: list[dict[str, Any]] = []
    for dtype in ("float32", "bfloat16"):
        for length in lengths:
            for way in ("gradients_at", "gradients_by_block"):
                command = [
                    sys.executable,
                    "-m",
                    "tests.benchmarks.attribution",
                    "peak",
                    "--length",
                    str(length),
                    "--way",
                    way,
                    "--dtype",
                    dtype,
                ]
                rows.append(
                    json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=600).stdout.splitlines()[-1])
                )
                print(rows[-1], flush=True)
    pd.DataFrame(rows).round(2).to_csv(folder / "memory.csv", index=False)


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("agreement", "memory", "peak"))
    parser.add_argument("--organism", default="tiny")
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--sites", nargs="+", choices=SITES, default=SITES)
    parser.add_argument("--out", type=Path, default=Path("docs/attribution"))
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--way", default="gradients_at")
    parser.add_argument("--dtype", default="float32")
    asked = parser.parse_args()
    if asked.what == "agreement":
        agreement(asked.organism, asked.count, asked.out, asked.sites)
    elif asked.what == "memory":
        memory((256,), asked.out)
    else:
        peak(asked.length, asked.way, asked.dtype)


if __name__ == "__main__":
    main()
