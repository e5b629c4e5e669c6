"""How much of the outcome a circuit carries alone, how much is left without it, and what each of its parts adds.

| measure | run | is |
|---|---|---|
| *faithfulness* | with the circuit, everything else from the source run | its recovered fraction: 1 is what the model does, 0 is nothing |
| *completeness* | without the circuit, everything else as it is | recovered fraction of the rest: 0 says that nothing of the outcome goes another way |
| *minimality* | with the circuit less one node | how much of the recovered fraction the node adds |

The recovered fraction is `(mean outcome - mean corrupted) / (mean clean - mean corrupted)`, means over the pairs that the model tells apart: a
ratio of means, so that no pair's small ceiling blows it up. It may exceed 1, and be below 0: circuits of few edges can say more than the model does. It
is 1 for the clean and 0 for the corrupted prompt under both directions; under denoising the circuit works in the corrupted run and the roles are changed, so
`recovered` there is that of the corrupted outcome: 1 minus the same formula.

Wang et al. 2022 (arXiv 2211.00593) for the three; Hanna et al. 2024 (arXiv 2403.17806) for the curve over the number of edges.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Bool, Float
from tqdm import tqdm

from slm_interp import statistics
from slm_interp.circuits.graph import Graph
from slm_interp.circuits.running import MEMORY, Outside, outcomes_of
from slm_interp.circuits.selection import top_n
from slm_interp.circuits.task import Task
from slm_interp.circuits.values import Values
from slm_interp.errors import PatchingError, ReadoutError
from slm_interp.netcdf import read_dataset, write_dataset

if TYPE_CHECKING:
    import plotly.graph_objects as go

SIZES = (0, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


@dataclass(frozen=True, eq=False)
class Faithfulness:
    """Outcomes of circuits of more and more edges.

    Variables of `dataset`: `outcome`, `without` (dims `contrast size`: with the circuit, and with all but the circuit), `clean`, `corrupted`, `told_apart`
    (`contrast`), `recovered`, `low`, `high`, `left`, `left_low`, `left_high`, `edges` (`size`): the recovered fraction with the circuit and without it,
    95% intervals drawn over clusters, and how many edges are left of `size` after pruning.
    """

    dataset: xr.Dataset

    def smallest(self, share: float = 0.8) -> int:
        """The fewest edges from which on the recovered fraction stays at `share` or above.

        Raises:
            PatchingError: no circuit that was tried.
        """
        held = self.dataset["recovered"].values >= share
        stays = np.logical_and.accumulate(held[::-1])[::-1]
        if not stays.any():
            most = float(self.dataset["recovered"].max())
            raise PatchingError(f"No circuit that was tried recovers {share:.0%} and keeps it; the most is {most:.0%}. Try larger ones.")
        return int(self.dataset["size"].values[stays.argmax()])

    def table(self) -> pd.DataFrame:
        """One row for each size."""
        names = ["edges", "recovered", "low", "high", "left", "left_low", "left_high"]
        return self.dataset[names].reset_coords(drop=True).to_dataframe().reset_index()

    def plot(self, **options: Any) -> go.Figure:
        """The curve; options as in `slm_interp.plots.faithfulness`."""
        from slm_interp.plots.faithfulness import faithfulness

        return faithfulness(self.dataset, **options)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a netCDF file, whole or not at all."""
        write_dataset(self.dataset.assign(told_apart=self.dataset["told_apart"].astype("int8")), path)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Faithfulness:
        """Read a file that `save` wrote.

        Raises:
            PatchingError: no such file, or one that is no faithfulness curve.
        """
        try:
            dataset = read_dataset(path, "is no saved faithfulness curve")
        except ReadoutError as error:
            raise PatchingError(str(error)) from error
        if "recovered" not in dataset or "size" not in dataset.dims:
            raise PatchingError(f"{os.fspath(path)!r} is no saved faithfulness curve: it has no recovered fraction by size.")
        return Faithfulness(dataset.assign(told_apart=dataset["told_apart"].astype(bool)))

    def __repr__(self) -> str:
        data = self.dataset
        told = int(data["told_apart"].sum())
        return (
            f"Faithfulness({data.sizes['size']} circuits up to {int(data['edges'].max())} edges, {told} of {data.sizes['contrast']} pairs told "
            f"apart, {data.attrs['direction']}, {data.attrs['outcome']})"
        )

    def _repr_html_(self) -> str:
        note = "Recovered fraction with the circuit alone, and left without it; intervals of 95%."
        return f"<div><b>{escape(repr(self))}</b><p>{note}</p>{self.table().to_html(index=False, float_format='{:.2f}'.format)}</div>"


def faithfulness(
    task: Task,
    graph: Graph,
    sizes: Sequence[int] = SIZES,
    select: Callable[[Graph, int], Graph] = top_n,
    outside: Outside | Sequence[Values] = "source",
    clusters: Sequence[str] | None = None,
    memory: int = MEMORY,
) -> Faithfulness:
    """Outcomes with and without circuits of more and more edges.

    Scores that were made on the same contrasts flatter the circuit: attribute on one half and ask the other.

    Args:
        graph: whose scores rank the edges.
        sizes: edges before pruning, ascending; sizes beyond the graph's are cut to it.
        select: `top_n`, `greedy`, or a function of a graph and a number.
        outside, memory: as in `outcomes_of`.
        clusters: one label a contrast, for the intervals; None is every contrast by itself.

    Raises:
        PatchingError: no sizes, or sizes that do not grow; no pair told apart; as `outcomes_of`.
    """
    whole = int(graph.real.sum())
    tried = sorted({min(size, whole) for size in sizes})
    if not tried or list(sizes) != sorted(set(sizes)):
        raise PatchingError(f"Sizes are numbers of edges, ascending, each once; got {list(sizes)}.")
    chosen = [select(graph, size) for size in tqdm(tried, desc="selecting", unit="circuit", disable=len(tried) < 40)]
    outcome = outcomes_of(task, chosen, outside, memory)
    without = outcomes_of(task, [one.complement() for one in chosen], outside, memory)
    clean, corrupted = (np.array(side) for side in task.baselines)
    told = told_apart(task)
    labels = np.arange(len(clean)) if clusters is None else np.asarray(clusters)
    bands = [_band(task, one, labels) for one in (outcome, without)]
    names = [f"{one.clean.name or number}" for number, one in enumerate(task.contrasts)]
    variables = {
        "outcome": (("contrast", "size"), outcome),
        "without": (("contrast", "size"), without),
        **{name: ("contrast", values) for name, values in (("clean", clean), ("corrupted", corrupted), ("told_apart", told))},
        **dict(zip(("recovered", "low", "high"), (("size", one) for one in bands[0]), strict=True)),
        **dict(zip(("left", "left_low", "left_high"), (("size", one) for one in bands[1]), strict=True)),
        "edges": ("size", np.array([one.size for one in chosen])),
    }
    attrs = {
        **task.settings,
        "method": graph.dataset.attrs["method"],
        "select": getattr(select, "__name__", repr(select)),
        "outside": outside if isinstance(outside, str) else "given values",
        "provenance_json": json.dumps(dict(task.slm.provenance), sort_keys=True),
    }
    return Faithfulness(xr.Dataset(variables, {"size": np.array(tried), "label": ("contrast", np.array(names, dtype=object))}, attrs))


def told_apart(task: Task) -> Bool[np.ndarray, " contrast"]:
    """Which pairs the model tells apart: `clean - corrupted` of the outcome is at least `task.told_apart`."""
    clean, corrupted = (np.array(side) for side in task.baselines)
    return clean - corrupted >= task.told_apart


def recovered(task: Task, outcome: Float[np.ndarray, "contrast circuit"]) -> Float[np.ndarray, " circuit"]:
    """The recovered fraction of circuits, over the pairs that are told apart; 1 is the base run's outcome.

    Raises:
        PatchingError: no pair is told apart, so that there is nothing to recover.
    """
    base, source = _sides(task)
    told = _told(task)
    return (outcome[told].mean(0) - source[told].mean()) / (base[told].mean() - source[told].mean())


def completeness(task: Task, circuit: Graph, nodes: Sequence[str] | None = None, memory: int = MEMORY) -> pd.DataFrame:
    """The circuit and the whole model, each less the same part: if the circuit is complete they fall alike (Wang et al. 2022, section 4.2).

    Args:
        nodes: that are taken away; None is all of the circuit.

    Returns:
        One row for nothing, each node, and all of them together (`part`): `of_circuit`, `of_model`, recovered fractions, and `gap`, their difference.

    Raises:
        PatchingError: as `recovered` and `outcomes_of`.
    """
    whole, nodes = circuit.keeping(circuit.real), _nodes(circuit) if nodes is None else list(nodes)
    parts = [(), *((node,) for node in nodes), tuple(nodes)]
    runs = [one.knocked_out(*part) for part in parts for one in (circuit, whole)]
    found = recovered(task, outcomes_of(task, runs, memory=memory)).reshape(len(parts), 2)
    names = ["nothing", *nodes, "all nodes"]
    return pd.DataFrame({"part": names, "of_circuit": found[:, 0], "of_model": found[:, 1], "gap": found[:, 0] - found[:, 1]})


def minimality(task: Task, circuit: Graph, nodes: Sequence[str] | None = None, memory: int = MEMORY) -> pd.DataFrame:
    """What each node adds: recovered fraction of the circuit less that of the circuit without the node; the one that adds most first.

    Args:
        nodes: that are asked about; None is all of the circuit.

    Raises:
        PatchingError: as `recovered` and `outcomes_of`.
    """
    nodes = _nodes(circuit) if nodes is None else list(nodes)
    found = recovered(task, outcomes_of(task, [circuit, *(circuit.knocked_out(node) for node in nodes)], memory=memory))
    table = pd.DataFrame({"node": nodes, "without": found[1:], "adds": found[0] - found[1:]})
    return table.sort_values("adds", ascending=False, ignore_index=True)


def _nodes(circuit: Graph) -> list[str]:
    """Nodes that write into the circuit, the input left out: without it nothing of the base run is left."""
    held = np.any(circuit.kept, axis=(1, 2, 3))
    return [str(name) for name, there in zip(circuit.dataset["source"].values, held, strict=True) if there and name != "input"]


def _sides(task: Task) -> tuple[np.ndarray, np.ndarray]:
    clean, corrupted = (np.array(side) for side in task.baselines)
    return (clean, corrupted) if task.base_side == "clean" else (corrupted, clean)


def _told(task: Task) -> np.ndarray:
    told = told_apart(task)
    if not told.any():
        ceilings = np.subtract(*(np.array(side) for side in task.baselines))
        raise PatchingError(
            f"The model tells none of {len(told)} pairs apart: clean - corrupted is at most {ceilings.max():.3g} {task.outcome.unit}, and "
            f"{task.told_apart} is asked. There is nothing for a circuit to recover; choose other pairs or another outcome."
        )
    return told


def _band(task: Task, outcome: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Recovered fractions with intervals over clusters; no interval where there is one cluster."""
    base, source = _sides(task)
    told = _told(task)
    estimate = recovered(task, outcome)
    if len(np.unique(labels[told])) < 2:
        return estimate, np.full_like(estimate, np.nan), np.full_like(estimate, np.nan)
    values = np.concatenate([outcome - source[:, None], (base - source)[:, None]], 1)[told]

    band = statistics.bootstrap(values, labels[told].tolist(), statistics.ratio_of_means)
    return estimate, band.low, band.high
