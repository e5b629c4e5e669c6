"""The streamed readout against the bare matrix products and the peers that are installed, alternating in one process.

    python -m tests.benchmarks.readout --out readout.json

Rows are residual vectors; a lens over 29 layers x 512 positions reads 14,848 of them, which is the printed time
*by row* times 14,848 (rows are read in blocks of equal size, so time is linear in them). The bare product is the
best of several blockings of the same products in the same dtype, into buffers that exist already. Peak memory is
anonymous memory above what weights, residuals and the result take. `--rows 3712` measures 29 layers x 128 positions whole.

With `--peers`, what TransformerLens 4 or nnterp do with the same rows (`peer_readouts.py`) is timed too, where they are installed. "speech alone" and
"1,000 ids" read only those ids; what they skip of the product is what they save.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

from slm_interp.readout import Unembedding, modality_groups, read_out
from slm_interp.vocabulary import IdRange, JointVocabulary
from tests.benchmarks.peer_readouts import peer_readouts

D_VOCAB, N_UNITS = 152_167, 500
TEXT = D_VOCAB - N_UNITS - 2
LAYERS, FULL_ROWS = 29, 29 * 512
CLOCK = time.perf_counter
VOCABULARY = JointVocabulary(
    (
        IdRange("text", 0, TEXT),
        IdRange("speech", TEXT, TEXT + N_UNITS, codebook=0, template="<Un{}>"),
        IdRange("marker", D_VOCAB - 2, D_VOCAB - 1, template="<speech>"),
        IdRange("marker", D_VOCAB - 1, D_VOCAB, template="<text>"),
    ),
    D_VOCAB,
)


def anonymous_mib() -> float:
    """Memory of this process that no file backs."""
    found = re.search(r"Anonymous:\s+(\d+)", Path("/proc/self/smaps_rollup").read_text())
    return int(found.group(1)) / 1024 if found else float("nan")


def peak_above(run: Callable[[], object]) -> float:
    """Most anonymous memory while running, above what there was, in MiB."""
    start, done = anonymous_mib(), threading.Event()
    peak = [start]

    def watch() -> None:
        while not done.is_set():
            peak[0] = max(peak[0], anonymous_mib())
            time.sleep(0.005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    run()
    done.set()
    watcher.join()
    return peak[0] - start


def seconds(run: Callable[[], object]) -> float:
    start = CLOCK()
    run()
    return CLOCK() - start


def products(resid: torch.Tensor, weight: torch.Tensor) -> dict[str, Callable[[], None]]:
    """The same matrix products in several blockings: rows at once x all ids, and all rows x ids at once."""
    buffer = torch.empty(256, D_VOCAB, dtype=resid.dtype)

    def by_rows(size: int) -> None:
        for start in range(0, len(resid), size):
            part = resid[start : start + size]
            torch.mm(part, weight.T, out=buffer[: len(part)])

    def by_ids(size: int) -> None:
        flat = buffer.flatten()
        for start in range(0, D_VOCAB, size):
            part = weight[start : start + size]
            torch.mm(resid, part.T, out=flat[: len(resid) * len(part)].view(len(resid), len(part)))

    forms: dict[str, Callable[[], None]] = {f"{size} rows": lambda size=size: by_rows(size) for size in (64, 128, 256)}
    return {**forms, "16,384 ids": lambda: by_ids(16_384)}


def measure(d_model: int, dtype: torch.dtype, rows: int, rounds: int, peers: bool = False) -> dict[str, object]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.empty(D_VOCAB, d_model, dtype=dtype).normal_(0, 0.02, generator=generator)
    resid = torch.randn(rows, d_model, generator=generator).to(dtype)
    unembedding, groups = Unembedding(weight.T), modality_groups(VOCABULARY)
    drawn = torch.randperm(TEXT, generator=generator)
    targets, speech = drawn[:100], modality_groups(VOCABULARY, ["speech"])
    candidates = modality_groups(VOCABULARY, ["text"], drawn[:1000].tolist())
    readouts = {
        "no targets": lambda: read_out(resid, unembedding, groups, 10),
        "5 targets": lambda: read_out(resid, unembedding, groups, 10, targets[:5]),
        "100 targets": lambda: read_out(resid, unembedding, groups, 10, targets),
        "speech alone": lambda: read_out(resid, unembedding, speech, 10),
        "1,000 ids": lambda: read_out(resid, unembedding, candidates, 10, targets),
    }
    others = peer_readouts(resid, weight, targets) if peers else {}
    forms = products(resid, weight)
    seconds(forms["128 rows"])
    tried = {name: seconds(run) for name, run in forms.items()}
    best = min(tried, key=lambda name: tried[name])
    peak = peak_above(readouts["100 targets"])
    peaks = {name: peak_above(run) for name, (_, run) in others.items()}
    times: dict[str, list[float]] = {"product": [], **{name: [] for name in readouts}}
    for _ in range(rounds):
        times["product"].append(seconds(forms[best]))
        for name, run in readouts.items():
            times[name].append(seconds(run))
    times |= {name: [seconds(run) * rows / some] for name, (some, run) in others.items()}
    middle = {name: statistics.median(values) for name, values in times.items()}
    lowest = {name: min(values) for name, values in times.items()}
    return {
        "d_model": d_model,
        "dtype": str(dtype).removeprefix("torch."),
        "rows": rows,
        "best_blocking": best,
        "seconds": times,
        "ms_by_row": {name: 1000 * value / rows for name, value in middle.items()},
        "ratio": {name: value / middle["product"] for name, value in middle.items() if name != "product"},
        "ratio_of_fastest": {name: value / lowest["product"] for name, value in lowest.items() if name != "product"},
        "peak_extra_mib": peak,
        "peak_extra_mib_of_peers": peaks,
        "load_average": os.getloadavg(),
        **{
            f"seconds_for_29_layers_x_{positions}_positions": {name: LAYERS * positions * value / rows for name, value in middle.items()}
            for positions in (128, 512)
        },
    }


def table(results: list[dict]) -> str:
    lines = [
        "| d_model | dtype | bare product, ms by row | no targets | 5 targets | 100 targets | speech alone | 1,000 ids "
        "| peak extra MiB | 29 x 512 rows, 5 targets |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in results:
        names = ("no targets", "5 targets", "100 targets", "speech alone", "1,000 ids")
        cells = " | ".join(f"{one['ratio'][name]:.2f}x ({one['ratio_of_fastest'][name]:.2f}x)" for name in names)
        whole = one["seconds_for_29_layers_x_512_positions"]["5 targets"]
        lines.append(
            f"| {one['d_model']} | {one['dtype']} | {one['ms_by_row']['product']:.2f} ({one['best_blocking']}) | {cells} "
            f"| {one['peak_extra_mib']:.0f} | {whole:.0f} s{'' if one['rows'] == FULL_ROWS else ' by rows'} |"
        )
    note = (
        f"Ratios to the bare product: of medians (of the fastest of each). The last column is extrapolated from {results[0]['rows']} rows."
    )
    return "\n".join([*lines, "", note, *_peer_lines(results)])


def _peer_lines(results: list[dict]) -> list[str]:
    lines = ["", "| d_model | dtype | peer | time over the bare product | peak extra MiB |", "|---|---|---|---|---|"]
    rows = [
        f"| {one['d_model']} | {one['dtype']} | {name} | {one['ratio'][name]:.2f}x ({one['ratio_of_fastest'][name]:.2f}x) | {peak:.0f} |"
        for one in results
        for name, peak in one["peak_extra_mib_of_peers"].items()
    ]
    return lines + rows if rows else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the numbers as JSON here")
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--d-model", type=int, nargs="+", default=[3584, 896])
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--peers", action="store_true", help="time the peers that are installed too")
    parser.add_argument("--cpu-time", action="store_true", help="count processor seconds, for a busy machine; use with --threads 1")
    options = parser.parse_args()
    if options.cpu_time:
        global CLOCK
        CLOCK = time.process_time
    torch.set_num_threads(options.threads)
    results = [
        measure(d_model, getattr(torch, dtype), options.rows, options.rounds, options.peers)
        for d_model in options.d_model
        for dtype in options.dtype
    ]
    clock = "processor" if options.cpu_time else "wall-clock"
    print(
        f"{D_VOCAB:,} ids, {options.rows} rows, {options.threads} threads, {clock} time, torch {torch.__version__}, {platform.machine()}\n"
    )
    print(table(results))
    if options.out:
        options.out.write_text(
            json.dumps({"torch": torch.__version__, "threads": options.threads, "cpu_time": options.cpu_time, "results": results}, indent=1)
        )


if __name__ == "__main__":
    main()
