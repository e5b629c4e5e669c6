"""Exact path patching: what the outcome becomes when chosen edges alone carry source values, and all that follows is computed anew.

An edge from a sender to one input of a receiver (queries, keys or values of a head, an MLP, the logits) carries what the sender wrote in the
source run; every other edge carries what is written in this run. So the receiver writes something else, and whatever reads the receiver reads that: the
direct effect of the sender on this input, and all that follows from it. Wang et al. 2022 (arXiv 2211.00593), Goldowsky-Dill et al. 2023 (arXiv 2304.05969).

One run for each edge, many edges in a batch: for the edges that matter, not for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from slm_interp.circuits.faithfulness import recovered
from slm_interp.circuits.graph import Graph, everything
from slm_interp.circuits.nodes import targets
from slm_interp.circuits.running import MEMORY, outcomes_of
from slm_interp.circuits.task import Task
from slm_interp.correlation import mid_ranks, pearson
from slm_interp.errors import PatchingError


def path_patching(task: Task, graph: Graph, edges: pd.DataFrame | Sequence[int] | int, memory: int = MEMORY) -> pd.DataFrame:
    """What each edge alone does to the outcome, exactly, beside its score.

    Args:
        graph: of the task; which edges it keeps plays no part.
        edges: rows of `graph.edges_table()`, or how many of the strongest.
        memory: as in `outcomes_of`.

    Returns:
        The rows with `exact` (outcome of the base run with this edge alone patched, less that of the base run; mean over contrasts) and `miss`
        (`exact - score`). `attrs`: the `linear` and `rank` correlation of score and exact, where there are three edges or more.

    Raises:
        PatchingError: no edges, edges that are not there; as `outcomes_of`.
    """
    table = graph.edges_table()
    chosen = table.head(edges) if isinstance(edges, int) else edges if isinstance(edges, pd.DataFrame) else table.iloc[list(edges)]
    if not len(chosen):
        raise PatchingError("Path patching takes one edge or more; got none.")
    whole = graph.keeping(graph.real)
    alone = [whole] + [_without(whole, row) for row in chosen.itertuples()]
    found = outcomes_of(task, alone, memory=memory)
    made = chosen.drop(columns=["kept", "exact", "miss"], errors="ignore").reset_index(drop=True)
    made["exact"] = (found[:, 1:] - found[:, :1]).mean(0)
    made["miss"] = made["exact"] - made["score"]
    if len(made) > 2:
        sides = [made[name].to_numpy() for name in ("score", "exact")]
        made.attrs = {
            "linear": pearson(*sides),
            "rank": pearson(*(mid_ranks(one) for one in sides)),
        }
    return made


def through(task: Task, graph: Graph, sender: str, receiver: str, slot: str = "in") -> float:
    """What one sender does through one input of one receiver, in all spans at once: outcome patched less outcome of the base run, mean over contrasts.

    Args:
        sender, receiver: nodes, such as `a3.h1`, `m3`, `logits`; for keys and values under grouped-query attention a key-value head, `a3.kv0`.
        slot: `q`, `k`, `v` of a head, `in` of an MLP and of the logits.

    Raises:
        PatchingError: no such edge.
    """
    data = graph.dataset
    source = np.asarray(data["source"].values == sender)
    into = np.asarray(data["target_node"].values == receiver) & np.asarray(data["slot"].values == slot)
    path = graph.real & source[:, None, None, None] & into[None, :, None, None]
    if not path.any():
        names = ", ".join(dict.fromkeys(one.node for one in targets(graph.shape) if one.layer == graph.shape.n_layers - 1))
        raise PatchingError(
            f"There is no edge from {sender!r} into {slot!r} of {receiver!r}: senders come before receivers; the last receivers are {names}, logits."
        )
    whole = graph.keeping(graph.real)
    found = outcomes_of(task, [whole, graph.keeping(graph.real & ~path)])
    return float((found[:, 1] - found[:, 0]).mean())


def by_span(task: Task, node: str = "input") -> pd.DataFrame:
    """What one node does from each span: its source value there alone, everything else computed anew.

    With `input` this is the prompt with the units of one span taken from the other prompt, through the pairing: where is what tells the two apart?

    Returns:
        One row a span: `exact`, outcome less that of the base run, mean over contrasts; `lost`, the share of the recovered fraction that goes with it.

    Raises:
        PatchingError: no such node; no pair that is told apart.
    """
    whole = everything(task)
    place = np.asarray(whole.dataset["source"].values == node)
    whole.knocked_out(node)  # refuses what is no node
    alone = [whole.keeping(whole.real & ~(place[:, None, None, None] & _there(whole, span)[None, None, :, None])) for span in whole.spans]
    found = outcomes_of(task, [whole, *alone])
    return pd.DataFrame({"span": whole.spans, "exact": (found[:, 1:] - found[:, :1]).mean(0), "lost": 1 - recovered(task, found[:, 1:])})


def _there(graph: Graph, span: str) -> np.ndarray:
    return np.asarray(graph.dataset["source_span"].values == span)


def _without(graph: Graph, row: object) -> Graph:
    data = graph.dataset
    place = [
        np.flatnonzero(data[dim].values == getattr(row, field))
        for dim, field in (("source", "source"), ("source_span", "source_span"), ("target_span", "target_span"))
    ]
    into = np.flatnonzero(
        (data["target_node"].values == getattr(row, "target", None)) & (data["slot"].values == getattr(row, "slot", None))
    )
    if not all(len(one) == 1 for one in (*place, into)) or not graph.real[place[0][0], into[0], place[1][0], place[2][0]]:
        raise PatchingError(f"There is no such edge in this graph: {row}.")
    kept = graph.real.copy()
    kept[place[0][0], into[0], place[1][0], place[2][0]] = False
    return graph.keeping(kept)
