"""A circuit of contrast pairs as files: scored on one half of them, asked of the other."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from slm_interp import circuits
from slm_interp.errors import PatchingError
from slm_interp.files import write_text
from slm_interp.model import SpeechTextModel
from slm_interp.organisms.contrast_spans import by_role
from slm_interp.organisms.contrasts import ContrastPair
from slm_interp.patching import outcomes

TOLD_APART = 0.5  # nats
SIZES = (0, 100, 300, 1000, 3000, 10000)


def circuit_files(
    slm: SpeechTextModel, pairs: Sequence[ContrastPair], out: str | os.PathLike[str], steps: int = 5, shown: int = 150
) -> str:
    """Score every edge by EAP-IG and write what the strongest carry.

    1. Pairs that the model tells apart by half a nat or more, in the right direction; whole words, spans by role, unequal lengths warped.
    2. Half of what the pairs are about is scored, the other half is asked.
    3. `graph/` (all scores), `edges.csv` and `circuit.html` (the strongest that hang together), `faithfulness.csv`.

    Args:
        steps: of EAP-IG.
        shown: edges asked for in the picture, before pruning.

    Returns:
        what was found, in a few lines.

    Raises:
        PatchingError: fewer than two pairs told apart in one of the halves.
    """
    folder = Path(out)
    told = circuits.told_apart(_task(slm, pairs))
    kept = [pair for pair, there in zip(pairs, told, strict=True) if there]
    first = set(list(dict.fromkeys(pair.cluster for pair in kept))[::2])
    halves = [pair for pair in kept if pair.cluster in first], [pair for pair in kept if pair.cluster not in first]
    if min(map(len, halves)) < 2:
        raise PatchingError(
            f"A circuit is scored on two pairs or more and asked of two others; of {len(pairs)} pairs this model tells {len(kept)} apart by "
            f"{TOLD_APART} nats or more, {len(halves[0])} and {len(halves[1])} in the halves. Draw more pairs, or of another kind."
        )
    here, there = (_task(slm, half) for half in halves)
    graph = circuits.eap_ig(here, steps)
    edges = int(graph.real.sum())
    sizes = [*(size for size in SIZES if size < edges), edges]
    curve = circuits.faithfulness(there, graph, sizes, clusters=[pair.cluster for pair in halves[1]]).table()
    strongest = circuits.top_n(graph, shown)
    graph.save(folder / "graph")
    write_text(folder / "edges.csv", strongest.edges_table(kept=True).to_csv(index=False, float_format="%.5f"))
    write_text(folder / "faithfulness.csv", curve.to_csv(index=False, float_format="%.4f"))
    strongest.plot(title="The strongest edges on a way from the input to the prediction").page(folder / "circuit.html")
    return (
        f"{len(kept)} of {len(pairs)} pairs told apart; scored on {len(halves[0])}, asked of {len(halves[1])}\n"
        f"{curve.round(3).to_string(index=False)}\n{strongest!r}\nwritten to {folder}"
    )


def _task(slm: SpeechTextModel, pairs: Sequence[ContrastPair]) -> circuits.Task:
    contrasts = [pair.contrast for pair in pairs]
    return circuits.Task(slm, contrasts, outcomes.difference(), by_role(pairs), "warped", told_apart=TOLD_APART)
