"""Loading at full size: a random checkpoint of a family's true shape, ours against transformers and TransformerLens.

    python -m tests.benchmarks.full_size write sims-7b DIR
    python -m tests.benchmarks.full_size measure DIR --out results.json

Each way of loading runs in a process of its own, twice: with the files dropped from memory first, where the system
allows it, and once more. The memory above what the imports took is sampled every 10 ms. A process that brings the
machine's free memory below 4 GB is ended, and the result says so.
"""

from __future__ import annotations

import argparse
import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.benchmarks.full_size.watch import drop_caches, status_gb, watched
from tests.benchmarks.full_size.ways import WAYS, base_config, lacking


def measure(folder: Path, ways: list[str]) -> dict[str, Any]:
    """Cold (files not in memory, where that can be had) and warm, each way."""
    files = [path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin")]
    config = base_config(folder)
    report: dict[str, Any] = {
        "checkpoint": {
            "gb": round(sum(path.stat().st_size for path in files) / 1e9, 3),
            "files": len(files),
            "kind": files[0].suffix,
            "model_type": config["model_type"],
            "rows": config["vocab_size"],
            "layers": config["num_hidden_layers"],
            "dtype": "bfloat16",
        },
        "machine": {"cores": os.cpu_count(), "memory_gb": round(status_gb("/proc/meminfo", "MemTotal")["MemTotal"], 1)},
        "versions": {name: version(name) for name in ("torch", "transformers", "transformer-lens", "safetensors")},
        "ways": {way: WAYS[way][0] for way in ways},
        "results": {},
    }
    for way in ways:
        report["results"][way] = lacking(way, folder) or cold_and_warm(way, folder)
        print(json.dumps({way: report["results"][way]}, indent=1), flush=True)
    return report


def cold_and_warm(way: str, folder: Path) -> dict[str, Any]:
    """None where the system did not let us drop its caches, or where a second run would only end as the first."""
    load = {"load_average_at_start": round(os.getloadavg()[0], 1)}
    cold = watched(way, folder) if drop_caches() else None
    return {**load, "cold": cold, "warm": None if cold and "ended" in cold else watched(way, folder)}


def main() -> None:
    """Parse and do."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    writing = actions.add_parser("write", help="sims-3b, sims-7b, spiritlm or glm-4-voice: 6 to 19 GB")
    writing.add_argument("shape")
    writing.add_argument("folder", type=Path)
    measuring = actions.add_parser("measure")
    measuring.add_argument("folder", type=Path)
    measuring.add_argument("--ways", nargs="+", choices=list(WAYS), default=[way for way in WAYS if way != "slm_interp_float32"])
    measuring.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.action == "write":
        from tests.benchmarks.full_size.files import write
        from tests.benchmarks.full_size.shapes import SHAPES

        if options.shape not in SHAPES:
            parser.error(f"no shape {options.shape!r}; choose from {', '.join(SHAPES)}")
        write(options.folder, SHAPES[options.shape])
    else:
        report = json.dumps(measure(options.folder, options.ways), indent=1)
        print(report) if options.out is None else options.out.write_text(report + "\n")


if __name__ == "__main__":
    main()
