"""The graph: its tables, its selections, and what is kept on disk."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from slm_interp import circuits
from slm_interp.circuits.nodes import Shape, real_edges, targets, writers
from slm_interp.errors import PatchingError
from slm_interp.patching import outcomes
from tests.circuits.conftest import model_of


@pytest.fixture(scope="module")
def graph(contrast):
    slm = model_of("llama")
    return circuits.eap(circuits.Task(slm, [contrast(slm)], outcomes.difference()))


def test_nodes_are_heads_and_mlps_and_targets_their_inputs_apart(graph):
    shape = graph.shape
    assert (shape.n_heads, shape.n_key_value_heads) == (4, 2)
    assert len(writers(shape)) == 1 + 3 * 5 and len(targets(shape)) == 3 * (4 + 2 + 2 + 1) + 1
    assert [one.name for one in targets(shape)][:9] == [
        "a0.h0<q>", "a0.h1<q>", "a0.h2<q>", "a0.h3<q>", "a0.kv0<k>", "a0.kv1<k>", "a0.kv0<v>", "a0.kv1<v>", "m0",
    ]  # fmt: skip
    assert [writers(shape)[one].name for one in targets(shape)[5].feeds] == ["a0.h2", "a0.h3"]


def test_edges_lead_upward_and_only_keys_and_values_look_back(graph):
    table = graph.edges_table()
    across = table[table["source_span"] != table["target_span"]]
    assert set(across["slot"]) == {"k", "v"}
    order = {name: number for number, name in enumerate(graph.spans)}
    assert all(order[row.source_span] < order[row.target_span] for row in across.itertuples())
    assert not ((table["source"] == "m1") & table["target"].str.startswith(("a1.", "m1"))).any()
    assert ((table["source"] == "a1.h0") & (table["target"] == "m1")).any()


def test_in_a_parallel_block_the_mlp_does_not_read_its_heads():
    shape = Shape(2, 2, 2, True, False)
    names, read = [one.name for one in writers(shape)], [one.name for one in targets(shape)]
    real = real_edges(shape, 1)[..., 0, 0]
    assert not real[names.index("a1.h0"), read.index("m1")] and real[names.index("a0.h0"), read.index("m1")]


def test_tables_have_every_edge_once_and_nodes_sum_what_leaves_them(graph):
    table = graph.edges_table()
    assert len(table) == graph.real.sum() and not table.duplicated(["source", "target", "slot", "source_span", "target_span"]).any()
    assert (table["score"].abs().diff().dropna() <= 1e-12).all()
    nodes = graph.nodes_table().set_index(["name", "span"])["score"]
    own = table[(table["source"] == "m0") & (table["source_span"] == "word 1")]["score"].sum()
    assert nodes["m0", "word 1"] == pytest.approx(own, abs=1e-6)
    assert set(graph.nodes_table()["kind"]) == {"input", "head", "mlp", "logits"}


def test_pruning_leaves_only_edges_on_a_way_from_input_to_logits(graph):
    """Against networkx's own reachability."""
    import networkx

    for size in (30, 100, 400):
        strongest = graph.real & (np.abs(graph.scores) >= np.sort(np.abs(graph.scores[graph.real]))[-size])
        rough, left = graph.keeping(strongest).to_networkx(), circuits.top_n(graph, size)
        starts = [node for node in rough if node[0] == "input"]
        ends = [node for node in rough if node[0] == "logits"]
        down = set(starts).union(*(networkx.descendants(rough, node) for node in starts))
        up = set(ends).union(*(networkx.ancestors(rough, node) for node in ends))
        wanted = {(a, b, key) for a, b, key, data in rough.edges(keys=True, data=True) if a in down and b in up and not data["structural"]}
        found = {(a, b, key) for a, b, key, data in left.to_networkx().edges(keys=True, data=True) if not data["structural"]}
        assert found == wanted
    assert 0 < left.size < 400


def test_a_pruned_edge_changes_no_outcome(graph, contrast):
    slm = model_of("llama")
    task = circuits.Task(slm, [contrast(slm)], outcomes.difference())
    rough = graph.keeping(graph.real & (np.abs(graph.scores) >= np.sort(np.abs(graph.scores[graph.real]))[-150]))
    left = circuits.pruned(rough)
    assert left.size < rough.size
    found = circuits.outcomes_of(task, [rough, left])[0]
    assert found[0] == pytest.approx(found[1], abs=2e-4)


def test_greedy_takes_only_edges_that_lead_on(graph):
    found = circuits.greedy(graph, 60)
    assert 0 < found.size <= 60
    assert (found.kept == circuits.pruned(found).kept).all()
    first = graph.edges_table().query("target == 'logits'").iloc[0]
    one = circuits.greedy(graph, 1).edges_table(kept=True)
    assert len(one) == (first["source"] == "input")  # the strongest edge into the logits, which is no whole way unless the input wrote it
    assert circuits.greedy(graph, int(graph.real.sum())).size == graph.real.sum()


def test_all_edges_are_the_whole_graph(graph):
    assert circuits.top_n(graph, int(graph.real.sum())).size == graph.real.sum()
    assert circuits.top_n(graph, 0).size == 0


@pytest.mark.usefixtures("as_users_run_it")
def test_more_edges_than_there_are_are_refused(graph):
    for choose in (circuits.top_n, circuits.greedy):
        with pytest.raises(PatchingError, match=r"0 to 1670 edges of this graph; got 1671"):
            choose(graph, 1671)


def test_over_spans_sums(graph):
    whole = graph.over_spans()
    assert whole.scores[..., 0, 0] == pytest.approx(graph.scores.sum((2, 3)), abs=1e-5)
    assert whole.spans == ("everything",)


def test_complement_and_knockout_divide_the_edges(graph):
    part = circuits.top_n(graph, 50)
    assert not (part.kept & part.complement().kept).any() and part.size + part.complement().size == graph.real.sum()
    assert not graph.knocked_out("m1").kept[list(graph.dataset["source"].values).index("m1")].any()


def test_saved_and_loaded_it_is_the_same(graph, tmp_path):
    part = circuits.top_n(graph, 50)
    part.save(tmp_path / "circuit")
    again = circuits.Graph.load(tmp_path / "circuit")
    assert again.dataset.identical(part.dataset)
    assert sorted(path.name for path in (tmp_path / "circuit").iterdir()) == ["graph.json", "graph.safetensors"]


def test_what_is_no_saved_graph_is_refused(graph, tmp_path):
    with pytest.raises(PatchingError, match="is no saved graph"):
        circuits.Graph.load(tmp_path)
    graph.save(tmp_path)
    head = (tmp_path / "graph.json").read_text()
    (tmp_path / "graph.json").write_text(head.replace('"word 2"', '"word 1"', 1))
    with pytest.raises(PatchingError, match="is no saved graph"):
        circuits.Graph.load(tmp_path)
    (tmp_path / "graph.json").write_text(head.replace('"format": 1', '"format": 2'))
    with pytest.raises(PatchingError, match="format 1 was wanted"):
        circuits.Graph.load(tmp_path)


def test_without_networkx_the_sentence_says_what_to_install(graph, monkeypatch):
    monkeypatch.setitem(sys.modules, "networkx", None)
    with pytest.raises(ImportError, match=r"networkx is needed here .*slm-interp\[circuits\]"):
        graph.to_networkx()


def test_it_shows_itself(graph):
    assert "1670 of 1670 edges kept, 16 nodes, 5 spans" in repr(graph)
    assert "<table" in graph._repr_html_()
