"""Effects that are no patch of one layer: with later blocks frozen, at several layers at once, and of random directions.

1. `direct`: the change of the text swap, carried to the unembedding by the residual stream alone (`controls.direct`).
2. `band`: at the first layer of the band the text swap; at every later one that is asked, the coordinates of the two words are set to what the swap makes
   of those of the run as it is, so that what the complement rebuilds above the first edit is taken away again. Whole rows are run with plain hooks. Beside
   it, as the band of no basis, the clean run's residuals at all of these layers. A band of one layer is the text swap there.
3. `random`: directions drawn at random in place of the change of the text swap, as long at each position, to first order; the first of them run
   (`controls.random`). Of the first outcome.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from slm_interp import hooked
from slm_interp.causal.arms import ARMS, interchanged
from slm_interp.causal.cases import Case
from slm_interp.causal.controls.direct import direct
from slm_interp.causal.controls.edits import Run
from slm_interp.causal.controls.random import CHECKED, DRAWS, Key, exact, linearised, slopes
from slm_interp.causal.writing import Asked, Directions, Runs, Written, at_layer, rows_of
from slm_interp.hooked.installed import run_blocks
from slm_interp.patching.interventions.stream import Hook
from slm_interp.patching.measuring import finite, read_of
from slm_interp.patching.outcomes import Outcome, covering, narrowed, read_within


def direct_rows(asked: Asked, runs: Runs, put_in: Sequence[Written]) -> list[dict[str, Any]]:
    """Rows of `direct`, from the text swaps that were made."""
    rows, changes = [], [one for one in put_in if one.arm.name == "text" and one.dose == 1.0]
    for one in changes:
        for number, layer in enumerate(asked.layers):
            change = hooked.widened(one.values[number]) - hooked.widened(one.stands.base[number])
            found = [float(direct(_run(asked, runs, outcome), layer, one.stands.pos.tolist(), change[None])) for outcome in asked.outcomes]
            values = [base + gained for base, gained in zip(runs.ends[0], found, strict=True)]
            rows += rows_of(asked, runs, "direct", one.basis, layer, values, moved=float(one.moved[number]))
            asked.done(1)
    return rows


def band_rows(asked: Asked, case: Case, runs: Runs) -> list[dict[str, Any]]:
    """Rows of `band`: of every basis and of none, from each layer to the last one asked."""
    rows, directions, arm = [], Directions(case), ARMS["band"]
    for basis in (None, *asked.bases):
        hooks: list[Hook] = []
        for number in reversed(range(len(asked.layers))):
            layer = asked.layers[number]
            at = at_layer(asked, runs, arm, number, None if basis is None else directions(basis, layer, arm))
            made = interchanged(at) if basis is None else arm.make(at)
            where = runs.places["word"].pos.tolist()
            hooks.insert(0, made.hook("resid_post", layer, where))
            moved = float((made.size(at.there[None], None)[0] / hooked.widened(at.there).norm(dim=-1)).mean())
            rows += rows_of(asked, runs, "band", "" if basis is None else basis.name, layer, hooked_values(asked, runs, hooks), moved=moved)
            asked.done(1)
    return rows


def hooked_values(asked: Asked, runs: Runs, hooks: Sequence[Hook]) -> list[float]:
    """Every outcome of the base prompt under hooks: whole rows, run from the embedding."""
    model, laid, last = asked.slm.model, runs.base.laid, list[Tensor]()
    name = hooked.hook_at("resid_post", model.cfg.n_layers)
    with torch.no_grad():
        run_blocks(model, laid.tokens, [*hooks, (name, lambda resid, hook: last.append(resid))])
        read = read_of(asked.slm, laid, last[0], runs.reference)
        return [float(finite(one.score(narrowed(read, one)), one.name)) for one in asked.outcomes]


def random_of(asked: Asked, case: Case, runs: Runs, put_in: Sequence[Written], seed: int, run_too: bool) -> pd.DataFrame:
    """Effects of random directions on the first outcome: one row for every basis, layer and draw; `exact` is NaN for those that were not run."""
    run, parts = _run(asked, runs, asked.outcomes[0]), []
    slope = slopes(run)
    for one in put_in:
        if one.arm.name != "text" or one.dose != 1.0:
            continue
        pos = one.stands.pos.tolist()
        for number, layer in enumerate(asked.layers):
            change, key = hooked.widened(one.values[number]) - hooked.widened(one.stands.base[number]), Key(seed, case.name, layer)
            linear, ran = linearised(slope[layer, pos], change, key, DRAWS), np.full(DRAWS, np.nan, dtype=np.float32)
            if run_too:
                ran[:CHECKED] = exact(run, layer, pos, change, key, CHECKED, asked.memory, asked.done)
            made = {"basis": one.basis, "layer": layer, "draw": np.arange(DRAWS), "linear": linear.astype(np.float32), "exact": ran}
            parts.append(pd.DataFrame(made))
    return pd.concat(parts, ignore_index=True)


def _run(asked: Asked, runs: Runs, outcome: Outcome) -> Run:
    """The base run, as controls take it, for one of the outcomes that it was laid out for."""
    return Run(asked.slm, runs.base, read_within(covering(asked.outcomes), outcome), runs.reference)
