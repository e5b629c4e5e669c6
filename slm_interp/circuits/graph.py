"""A graph of nodes and edges with scores, and which of the edges are kept: what attribution gives, selection narrows and a run takes.

The schema of `Graph.dataset`: dims `source` (what writes), `target` (what reads, slot by slot), `source_span`, `target_span`;

| variable | meaning |
|---|---|
| `score` | of an edge, in the outcome's unit; 0 where there is none |
| `kept` | whether the edge belongs to the circuit; a graph as it comes from attribution keeps all |
| `real` | whether there is such an edge |

Coordinates on `source`: `kind layer head`; on `target`: `target_node slot target_kind target_layer target_head`; on the spans: `source_label`, `target_label`.
An edge whose spans differ is one into keys or values: what stands in the source span is read from the target span.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from jaxtyping import Bool, Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from slm_interp.circuits.nodes import Shape, Target, Writer, real_edges, targets, writers
from slm_interp.circuits.task import Task
from slm_interp.errors import PatchingError, missing_extra
from slm_interp.files import atomic_path, write_text

if TYPE_CHECKING:
    from slm_interp.plots.circuit import CircuitPicture

EVERYTHING = "everything"
DIMS = ("source", "target", "source_span", "target_span")
FORMAT = 1


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes, edges, their scores, and which are kept; the schema of `dataset` stands at the top of this file."""

    dataset: xr.Dataset

    # -- what there is -----------------------------------------------------------------------------

    @property
    def shape(self) -> Shape:
        """What of the model decided the graph."""
        return Shape(**json.loads(self.dataset.attrs["shape_json"]))

    @property
    def spans(self) -> tuple[str, ...]:
        """Names of the spans."""
        return tuple(str(name) for name in self.dataset["source_span"].values)

    @property
    def scores(self) -> Float[np.ndarray, "source target source_span target_span"]:
        """Scores of all edges."""
        return np.asarray(self.dataset["score"].values)

    @property
    def real(self) -> Bool[np.ndarray, "source target source_span target_span"]:
        """Which edges there are."""
        return np.asarray(self.dataset["real"].values)

    @property
    def kept(self) -> Bool[np.ndarray, "source target source_span target_span"]:
        """Which edges are in the circuit."""
        return np.asarray(self.dataset["kept"].values)

    @property
    def size(self) -> int:
        """How many edges are kept."""
        return int(self.kept.sum())

    # -- other graphs ------------------------------------------------------------------------------

    def keeping(self, kept: Bool[np.ndarray, "source target source_span target_span"]) -> Graph:
        """The same graph with these edges kept.

        Raises:
            PatchingError: another shape, or edges that are not there.
        """
        if kept.shape != self.real.shape or kept.dtype != bool:
            raise PatchingError(f"Edges are kept by a mask of {self.real.shape}, True or False; got {kept.dtype} of {kept.shape}.")
        if (kept & ~self.real).any():
            raise PatchingError(
                f"{int((kept & ~self.real).sum())} of the edges to keep are not there: an edge leads upward and spans look back."
            )
        return Graph(self.dataset.assign(kept=(DIMS, kept)))

    def complement(self) -> Graph:
        """The same graph with the other edges kept."""
        return self.keeping(self.real & ~self.kept)

    def over_spans(self) -> Graph:
        """The same graph without regard to spans: scores summed, an edge kept if any of it was."""
        data, one = self.dataset, np.array([EVERYTHING], dtype=object)
        made = {
            "score": (DIMS, self.scores.sum((2, 3), keepdims=True)),
            "kept": (DIMS, self.kept.any((2, 3), keepdims=True)),
            "real": (DIMS, self.real.any((2, 3), keepdims=True)),
        }
        held = data.drop_dims(["source_span", "target_span"]).assign(made)
        return Graph(
            held.assign_coords(source_span=one, target_span=one, source_label=("source_span", one), target_label=("target_span", one))
        )

    def knocked_out(self, *nodes: str) -> Graph:
        """The same graph without what these nodes write: their outgoing edges dropped. A run then has their source values everywhere.

        Raises:
            PatchingError: no such node.
        """
        names = self.dataset["source"].values.tolist()
        unknown = [one for one in nodes if one not in names]
        if unknown:
            raise PatchingError(
                f"Nodes that write are called input, a3.h1 (block, head), m3; this graph has {len(names)}, and no {unknown[0]!r}."
            )
        kept = self.kept.copy()
        kept[[names.index(one) for one in nodes]] = False
        return self.keeping(kept)

    def heads_alone(self, *nodes: str) -> Graph:
        """Every edge kept but those out of other nodes than these: the circuit on the level of nodes."""
        names = self.dataset["source"].values.tolist()
        return self.keeping(self.real.copy()).knocked_out(*[one for one in names if one not in nodes])

    # -- tables ------------------------------------------------------------------------------------

    def edges_table(self, kept: bool | None = None) -> pd.DataFrame:
        """One row for each edge: source, target, slot, spans, score, kept; the strongest first.

        Args:
            kept: only those in the circuit (True), only those outside (False), or all.
        """
        chosen = self._chosen(kept)
        place = np.nonzero(chosen)
        names = [np.asarray(self.dataset[dim].values) for dim in ("source", "target_node", "source_span", "target_span")]
        table = pd.DataFrame(
            {
                "source": names[0][place[0]],
                "target": names[1][place[1]],
                "slot": self.dataset["slot"].values[place[1]],
                "source_span": names[2][place[2]],
                "target_span": names[3][place[3]],
                "score": self.scores[place],
                "kept": self.kept[place],
            }
        )
        return table.iloc[(-table["score"].abs()).argsort(kind="stable")].reset_index(drop=True)

    def nodes_table(self, kept: bool | None = None) -> pd.DataFrame:
        """One row for each node in each span: name, kind, layer, head, span, score; of the kept edges alone if `kept`.

        The score of a node is the sum over the edges out of it, to first order what changing it altogether would do; the logits, and key-value heads
        under grouped-query attention, have the sum over the edges into them.
        """
        chosen = self._chosen(kept)
        scores = np.where(chosen, self.scores, 0.0)
        writes, reads = np.any(chosen, axis=(1, 3), keepdims=True)[:, 0, :, 0], np.any(chosen, axis=(0, 2), keepdims=True)[0, :, 0]
        out, into = scores.sum((1, 3)), scores.sum((0, 2))
        found: dict[tuple[str, int], dict[str, Any]] = {}
        for number, writer in enumerate(writers(self.shape)):
            for place in np.flatnonzero(writes[number]).tolist():
                found[writer.name, place] = {**_node(writer), "span": self.spans[place], "score": out[number, place]}
        names = {writer.name for writer in writers(self.shape)}
        for number, target in enumerate(targets(self.shape)):
            for place in np.flatnonzero(reads[number]).tolist():
                row = found.setdefault((target.node, place), {**_node(target), "span": self.spans[place], "score": 0.0})
                row["score"] += 0.0 if target.node in names else into[number, place]
        return pd.DataFrame(list(found.values()), columns=["name", "kind", "layer", "head", "span", "score"])

    def _chosen(self, kept: bool | None) -> np.ndarray:
        return self.real if kept is None else self.real & (self.kept == kept)

    def to_networkx(self) -> Any:
        """The kept edges as a `networkx.MultiDiGraph` of nodes `(name, span)`; `slot`, `score` on the edges, the node table's columns on the nodes.

        Under grouped-query attention a key-value head has edges without score (`structural=True`) to the heads that share it.

        Raises:
            ImportError: networkx is not installed.
        """
        try:
            import networkx
        except ImportError as error:
            raise missing_extra("networkx", "circuits") from error
        made = networkx.MultiDiGraph(**{key: str(value) for key, value in self.dataset.attrs.items()})
        for row in self.edges_table(kept=True).itertuples():
            key = row.slot
            made.add_edge(
                (row.source, row.source_span), (row.target, row.target_span), key, slot=row.slot, score=row.score, structural=False
            )
        for target in targets(self.shape):
            for span in self.spans:
                if target.node.split(".")[-1].startswith("kv") and (target.node, span) in made:
                    for head in target.feeds:
                        made.add_edge(
                            (target.node, span), (writers(self.shape)[head].name, span), "kv", slot="kv", score=0.0, structural=True
                        )
        for row in self.nodes_table(kept=True).itertuples():
            if (row.name, row.span) in made:
                made.nodes[row.name, row.span].update(kind=row.kind, layer=row.layer, head=row.head, score=row.score)
        return made

    # -- keeping and showing it ----------------------------------------------------------------------

    def plot(self, **options: Any) -> CircuitPicture:
        """The kept edges: layers upward, spans from left to right; options as in `slm_interp.plots.circuit`."""
        from slm_interp.plots.circuit import circuit

        nodes = self.nodes_table(kept=True)
        there = [span for span in self.spans if span in set(nodes["span"])]
        return circuit(nodes, self.edges_table(kept=True), **{"spans": there, **options})

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write `graph.json` (names, settings) and `graph.safetensors` (scores, kept), each whole or not at all, the JSON last."""
        tensors = {"score": torch.from_numpy(self.scores.copy()), "kept": torch.from_numpy(self.kept.copy())}
        with atomic_path(Path(folder) / "graph.safetensors") as temporary:
            save_file(tensors, temporary)
        labels = dict(zip(self.spans, self.dataset["source_label"].values.tolist(), strict=True))
        head = {"format": FORMAT, "spans": list(self.spans), "labels": labels, "attrs": dict(self.dataset.attrs)}
        write_text(Path(folder) / "graph.json", json.dumps(head, indent=1, sort_keys=True, ensure_ascii=False) + "\n")

    @staticmethod
    def load(folder: str | os.PathLike[str]) -> Graph:
        """Read what `save` wrote.

        Raises:
            PatchingError: no such folder, files of another format, or of different graphs.
        """
        try:
            head = json.loads((Path(folder) / "graph.json").read_text(encoding="utf-8"))
            tensors = load_file(Path(folder) / "graph.safetensors")
            if head["format"] != FORMAT:
                raise PatchingError(f"A graph of format {FORMAT} was wanted; {os.fspath(folder)!r} has {head['format']!r}. Save it anew.")
            made = _assembled(head["attrs"], head["spans"], head["labels"], tensors["score"].numpy())
            return made.keeping(tensors["kept"].numpy())
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            if isinstance(error, PatchingError):
                raise
            raise PatchingError(f"{os.fspath(folder)!r} is no saved graph (graph.json and graph.safetensors): {error}") from error

    def __repr__(self) -> str:
        attrs = self.dataset.attrs
        return (
            f"Graph({self.size} of {int(self.real.sum())} edges kept, {len(writers(self.shape))} nodes, {len(self.spans)} spans, "
            f"{attrs['method']}, {attrs['direction']}, {attrs['outcome']})"
        )

    def _repr_html_(self) -> str:
        table = self.edges_table(kept=True).drop(columns="kept").head(20).to_html(index=False, float_format="{:+.3f}".format)
        told = f"The strongest edges that are kept; scores in {escape(self.dataset.attrs['unit'])}, means over contrasts."
        return f"<div><b>{escape(repr(self))}</b><p>{told}</p>{table}</div>"


def graph_of(task: Task, scores: Float[np.ndarray, "source target source_span target_span"], method: str) -> Graph:
    """Scores of all edges of a task as a graph that keeps them all."""
    provenance = {"model": dict(task.slm.provenance), "contrasts": [[one.clean.name, one.corrupted.name] for one in task.contrasts]}
    attrs = {
        "method": method,
        **task.settings,
        "contrasts": len(task.contrasts),
        "shape_json": json.dumps(vars(task.shape), sort_keys=True),
        "provenance_json": json.dumps(provenance, sort_keys=True),
    }
    return _assembled(attrs, task.span_names, task.labels, scores)


def everything(task: Task) -> Graph:
    """All edges of a task, kept and without scores: for knockouts that need none."""
    shape = real_edges(task.shape, len(task.span_names)).shape
    return graph_of(task, np.zeros(shape), "no scores")


def _assembled(attrs: Mapping[str, Any], spans: Sequence[str], labels: Mapping[str, str], scores: np.ndarray) -> Graph:
    shape, names = Shape(**json.loads(attrs["shape_json"])), list(spans)
    real = real_edges(shape, len(names))
    if scores.shape != real.shape:
        raise PatchingError(f"A graph of this model and these {len(names)} spans has {real.shape} scores; got {scores.shape}.")
    sources, read = writers(shape), targets(shape)

    def words(values: list[str]) -> np.ndarray:
        return np.array(values, dtype=object)

    shown = words([labels[name] for name in names])
    coordinates = {
        "source": words([one.name for one in sources]),
        "kind": ("source", words([one.kind for one in sources])),
        "layer": ("source", np.array([one.layer for one in sources])),
        "head": ("source", np.array([one.head for one in sources])),
        "target": words([one.name for one in read]),
        "target_node": ("target", words([one.node for one in read])),
        "slot": ("target", words([one.slot for one in read])),
        "target_kind": ("target", words([one.kind for one in read])),
        "target_layer": ("target", np.array([one.layer for one in read])),
        "target_head": ("target", np.array([one.head for one in read])),
        "source_span": words(names),
        "target_span": words(names),
        "source_label": ("source_span", shown),
        "target_label": ("target_span", shown),
    }
    variables = {"score": (DIMS, np.where(real, scores, 0.0)), "kept": (DIMS, real.copy()), "real": (DIMS, real)}
    return Graph(xr.Dataset(variables, coordinates, dict(attrs)))


def _node(one: Writer | Target) -> dict[str, Any]:
    return {"name": one.node if isinstance(one, Target) else one.name, "kind": one.kind, "layer": one.layer, "head": one.head}
