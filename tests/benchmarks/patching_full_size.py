"""A small grid, attribution of every cell and the scores of every edge, on a model of full size, on CPU in bfloat16: seconds and memory.

python -m tests.benchmarks.full_size write sims-3b DIR       # 6.4 GB
OMP_NUM_THREADS=1 python -m tests.benchmarks.patching_full_size DIR --out docs/benchmarks/patching_full_size.json
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

from slm_interp import circuits, patching
from slm_interp.convert import load
from slm_interp.patching import outcomes
from slm_interp.utterance import Contrast, Span, Utterance, Word
from tests.benchmarks.full_size.watch import status_gb

LAYERS = (7, 14, 21, 28)


class Peak:
    """The most anonymous memory while it is open, looked at every 20 ms."""

    def __enter__(self) -> Peak:
        self.gb, self._stop = 0.0, threading.Event()
        self._watch = threading.Thread(target=self._look)
        self._watch.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._watch.join()

    def _look(self) -> None:
        while not self._stop.wait(0.02):
            self.gb = max(self.gb, status_gb("/proc/self/status", "RssAnon")["RssAnon"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    start = time.process_time()
    slm = load(given.folder, text_tokenizer=given.folder / "text_tokenizer", quantiser="race")
    loaded = time.process_time() - start
    drawn = torch.Generator().manual_seed(0)
    units = torch.randint(0, 500, (24,), generator=drawn)
    words = [Word(f"w{number}", Span(8 * number, 8 * number + 8), 0.32 * number, 0.32 * (number + 1)) for number in range(3)]

    def prompt(own: torch.Tensor, name: str) -> Utterance:
        return slm.speech_prompt(own, 0.04 * torch.arange(25), words, quantiser="race", name=name)

    other = units.clone()
    other[8:16] = torch.randint(0, 500, (8,), generator=drawn)
    answer, distractor = (slm.vocabulary.unit_to_id(torch.tensor(own)) for own in ([17, 4, 90], [300, 5, 41]))
    contrast = Contrast(prompt(units, "clean"), prompt(other, "corrupted"), answer, distractor)
    steps: dict[str, Callable[[], object]] = {
        "exact, 4 layers x 3 words": lambda: patching.activation(slm, contrast, "resid_post", outcome=outcomes.difference(), layers=LAYERS),
        "attribution, every layer, head and word at z": lambda: patching.attribution.atp(slm, contrast, "z"),
        "scores of every edge between spans (EAP), first unit": lambda: circuits.eap(
            circuits.Task(slm, [contrast], outcomes.difference(units=1))
        ),
    }
    said: dict[str, object] = {
        "checkpoint_gb": round(sum(path.stat().st_size for path in given.folder.glob("*.safetensors")) / 1e9, 2),
        "positions": len(contrast.clean),
        "seconds_to_load": round(loaded, 1),
        "anonymous_gb_before": round(status_gb("/proc/self/status", "RssAnon")["RssAnon"], 2),
    }
    for name, step in steps.items():
        with Peak() as peak:
            start = time.process_time()
            found = step()
            said[name] = {"seconds": round(time.process_time() - start, 1), "peak_anonymous_gb": round(peak.gb, 2), "found": repr(found)}
    said["peak_gb_with_mapped_weights"] = round(status_gb("/proc/self/status", "VmHWM")["VmHWM"], 2)
    print(json.dumps(said, indent=1))
    if given.out:
        given.out.write_text(json.dumps(said, indent=1) + "\n")


if __name__ == "__main__":
    main()
