"""A circuit shows every edge that was kept, upward, as wide as its effect is large and in the colour of its sign."""

from __future__ import annotations

import base64
import re
import sys
import xml.etree.ElementTree as ElementTree
from itertools import combinations, pairwise

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from slm_interp.errors import PatchingError
from slm_interp.plots.circuit import circuit
from slm_interp.plots.circuit_layout import NODE_H, NODE_W
from tests.synthetic_pictures import SPANS, circuit_tables

NODES, EDGES = circuit_tables()
LARGE = circuit_tables(layers=12, heads=8, spans=SPANS, nodes=300, edges=2000, kept=0.9)


def drawn(picture):
    return ElementTree.fromstring(picture.drawn())


def paths(picture):
    """Every edge that is drawn, by its row in the table."""
    return {int(one.get("data-edge")): one for one in drawn(picture).iter() if "data-edge" in one.attrib}


def place(picture, name, span):
    number = next(n for n, node in enumerate(picture.tables.nodes) if (node.name, node.span) == (name, span))
    return picture.places.places[number]


def ends(path):
    """Where an edge begins and ends."""
    numbers = [float(one) for one in re.findall(r"-?[\d.]+", path.get("d"))]
    return numbers[:2], numbers[-2:]


def test_every_kept_edge_is_drawn_and_no_other():
    kept = EDGES.assign(kept=[number % 3 != 0 for number in range(len(EDGES))])
    assert sorted(paths(circuit(NODES, kept))) == [number for number in range(len(EDGES)) if number % 3]
    assert len(paths(circuit(NODES, EDGES))) == len(EDGES) == 18


def test_an_edge_runs_from_its_source_to_its_target():
    picture = circuit(NODES, EDGES)
    for number, path in paths(picture).items():
        row = EDGES.iloc[number]
        (x0, y0), (x1, y1) = ends(path)
        source, target = place(picture, row.source, row.source_span), place(picture, row.target, row.target_span)
        assert (x0, y0) == pytest.approx((source[0], source[1] - NODE_H / 2), abs=0.06)
        assert y1 == pytest.approx(target[1] + NODE_H / 2, abs=0.06)
        assert x1 == pytest.approx(target[0] + {"q": -0.3, "v": 0.3}.get(row.slot, 0) * NODE_W, abs=0.06)


def test_width_grows_with_the_size_of_an_effect_whatever_its_sign():
    edges = EDGES.assign(score=[(-1) ** number * (number + 1) / 10 for number in range(len(EDGES))])
    widths = [float(paths(circuit(NODES, edges))[number].get("stroke-width")) for number in range(len(EDGES))]
    assert widths == sorted(widths) and widths[0] > 0.5 and widths[-1] == 6.0
    np.testing.assert_allclose(np.diff(widths), np.diff(widths).mean(), atol=0.011)


def test_colour_is_the_sign():
    for number, path in paths(circuit(NODES, EDGES)).items():
        assert path.get("class") == f"edge {'above' if EDGES.score[number] > 0 else 'below'}"
    style = circuit(NODES, EDGES).drawn()
    assert ".circuit .above { stroke: #2166ac; }" in style and ".circuit .below { stroke: #b2182b; }" in style


def test_higher_layers_stand_higher_and_the_mlp_of_a_layer_above_its_heads():
    picture = circuit(*LARGE)
    height: dict[tuple[float, int], list[float]] = {}
    for node, (_, y) in zip(picture.tables.nodes, picture.places.places, strict=True):
        rank = {"input": (-1, 0), "logits": (99, 0)}.get(node.kind, (node.layer, int(node.kind == "mlp")))
        height.setdefault(rank, []).append(y)
    ranks = sorted(height)
    assert len(ranks) == 26
    for lower, upper in pairwise(ranks):
        assert max(height[upper]) < min(height[lower])


def test_spans_run_from_left_to_right_in_the_order_asked_for():
    for order in (SPANS[:3], SPANS[2::-1]):
        picture = circuit(NODES, EDGES, spans=order)
        assert [column.label for column in picture.places.columns] == order
        for node, (x, _) in zip(picture.tables.nodes, picture.places.places, strict=True):
            column = picture.places.columns[order.index(node.span)]
            assert column.left <= x - NODE_W / 2 and x + NODE_W / 2 <= column.right


def test_the_name_of_a_span_stands_under_its_own_column():
    picture = circuit(NODES, EDGES)
    labels = {one.text: float(one.get("x")) for one in drawn(picture).iter() if one.get("class") == "column-label"}
    for column in picture.places.columns:
        assert labels[column.label] == pytest.approx((column.left + column.right) / 2, abs=0.06)


def test_words_can_be_printed_in_place_of_the_names_of_spans_also_the_same_word_twice():
    picture = circuit(NODES, EDGES, spans={"of": "a", "the": "a", "mayor": "town hall"})
    assert [(column.name, column.label) for column in picture.places.columns] == [("of", "a"), ("the", "a"), ("mayor", "town hall")]
    assert [one.text for one in drawn(picture).iter() if one.get("class") == "column-label"] == ["a", "a", "town hall"]
    assert len(paths(picture)) == len(EDGES)


@pytest.mark.parametrize("tables", [(NODES, EDGES), LARGE, circuit_tables(layers=3, heads=24, spans=SPANS[:2], nodes=140, edges=50)])
def test_no_two_nodes_overlap(tables):
    places = np.array(circuit(*tables).places.places)
    apart = np.abs(places[:, None] - places[None])
    clear = (apart[..., 0] >= NODE_W) | (apart[..., 1] >= NODE_H)
    assert clear[~np.eye(len(places), dtype=bool)].all()


def test_columns_do_not_overlap_and_have_room_for_their_names():
    long = [f"{span} {'x' * 30}" for span in SPANS[:3]]
    names = dict(zip(SPANS, long, strict=False))
    picture = circuit(
        NODES.assign(span=NODES.span.map(names)),
        EDGES.assign(source_span=EDGES.source_span.map(names), target_span=EDGES.target_span.map(names)),
    )
    for left, right in combinations(picture.places.columns, 2):
        assert left.right < right.left
    assert all(column.right - column.left > 7 * len(column.label) for column in picture.places.columns)


def test_the_same_tables_give_the_same_bytes(tmp_path):
    one, other = circuit(NODES, EDGES), circuit(NODES.copy(), EDGES.copy())
    assert one.svg(tmp_path / "one.svg").read_bytes() == other.svg(tmp_path / "other.svg").read_bytes()
    assert one.page(tmp_path / "one.html").read_bytes() == other.page(tmp_path / "other.html").read_bytes()


def test_many_edges_open_with_the_strongest_and_the_picture_says_so():
    nodes, edges = LARGE
    picture = circuit(nodes, edges)
    kept = edges[edges.kept]
    strongest = kept.score.abs().sort_values(ascending=False)
    assert set(paths(picture)) == set(strongest.index[:200])
    assert (
        f"the 200 strongest of {len(kept):,} edges (|effect| ≥ {strongest.iloc[199]:.4g}); {2000 - len(kept)} not kept" in picture.drawn()
    )


def test_a_threshold_lets_in_what_reaches_it():
    sizes = EDGES.score.abs()
    middle = float(sizes.median())
    assert set(paths(circuit(NODES, EDGES, threshold=middle))) == set(sizes.index[sizes >= middle])
    assert len(paths(circuit(NODES, EDGES, threshold=float(sizes.max())))) == 1
    assert paths(circuit(NODES, EDGES, threshold=1e9)) == {}
    with pytest.raises(PatchingError, match="A threshold is a size of an effect, 0 or more; got nan"):
        circuit(NODES, EDGES, threshold=float("nan"))


def test_a_circuit_without_spans_is_one_column():
    nodes = pd.DataFrame(
        {"name": ["input", "a0.h1", "logits"], "kind": ["input", "head", "logits"], "layer": [0, 0, 0], "head": [0, 1, 0], "score": 1.0}
    )
    edges = pd.DataFrame({"source": ["input", "a0.h1"], "target": ["a0.h1", "logits"], "score": [1.0, -0.5]})
    picture = circuit(nodes, edges)
    assert len(picture.places.columns) == 1 and len(paths(picture)) == 2


def test_an_end_without_a_span_means_the_only_node_of_that_name():
    edges = pd.concat(
        [EDGES, EDGES.iloc[:1].assign(source="input", source_span="the", target="logits", target_span=None, slot="in", score=9.0)]
    )
    picture = circuit(NODES, edges)
    assert picture.tables.nodes[picture.tables.edges[-1].target].name == "logits"
    edges = edges.assign(source_span=None)
    with pytest.raises(PatchingError, match="names 'input', which is no node. Nodes of that name: \\['the', 'mayor', 'of'\\]"):
        circuit(NODES, edges)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"target": "a9.h9"}, "names 'a9.h9' at 'the', which is no node"),
        ({"score": float("nan")}, "has a score that is not a finite number: nan"),
        ({"slot": "z"}, "goes into one of q, k, v, in; got 'z'"),
        ({"source": "logits", "source_span": "of"}, "does not go upward"),
    ],
)
def test_edges_that_mean_nothing_are_refused(change, sentence):
    row = EDGES.iloc[:1].assign(target_span="the" if "target" in change else EDGES.target_span[0], **change)
    with pytest.raises(PatchingError, match=sentence):
        circuit(NODES, pd.concat([EDGES, row]))


def test_tables_that_do_not_fit_are_refused():
    with pytest.raises(PatchingError, match="table of nodes lacks kind; it has name"):
        circuit(NODES.drop(columns="kind"), EDGES)
    with pytest.raises(PatchingError, match="is there twice"):
        circuit(pd.concat([NODES, NODES.iloc[:1]]), EDGES)
    with pytest.raises(PatchingError, match="A node is one of input, head, mlp, logits; 'input' is 'neuron'"):
        circuit(NODES.assign(kind="neuron"), EDGES)
    with pytest.raises(PatchingError, match="Spans name every span of the nodes once"):
        circuit(NODES, EDGES, spans=SPANS[:2])
    with pytest.raises(PatchingError, match="A circuit has nodes; got none"):
        circuit(NODES.iloc[:0], EDGES.iloc[:0])
    with pytest.raises(PatchingError, match="at most 20,000 edges; got 20,016"):
        circuit(NODES, pd.concat([EDGES] * 1112))


def test_names_are_text_and_not_markup():
    nodes = NODES.assign(span=NODES.span.replace("the", "<b>&"))
    edges = EDGES.assign(source_span=EDGES.source_span.replace("the", "<b>&"), target_span=EDGES.target_span.replace("the", "<b>&"))
    picture = circuit(nodes, edges, title="</script><img src=x>")
    assert "<img" not in picture.drawn() and "<img" not in picture.html()
    assert "<b>&" in [one.text for one in drawn(picture).iter()]


def test_a_picture_is_made_of_the_same_drawing(monkeypatch, tmp_path):
    seen = []

    def written(figure, path, **_options):
        seen.append(figure)
        path.write_bytes(b"picture")

    monkeypatch.setitem(sys.modules, "kaleido", object())
    monkeypatch.setattr(go.Figure, "write_image", written)
    picture = circuit(NODES, EDGES)
    picture.png(tmp_path / "circuit.png")
    root = drawn(picture)
    assert (seen[0].layout.width, seen[0].layout.height) == (float(root.get("width")), float(root.get("height")))
    assert base64.b64decode(seen[0].layout.images[0].source.split(",")[1]).decode() == picture.drawn()


def test_key_value_heads_stand_below_the_heads_of_their_layer_and_are_told_from_them():
    heads = pd.DataFrame(
        {
            "name": ["input", "a0.h0", "a0.kv0", "m0"],
            "kind": ["input", "head", "head", "mlp"],
            "layer": 0,
            "head": [0, 0, 0, 0],
            "score": 1.0,
        }
    )
    edges = pd.DataFrame(
        {"source": ["input", "input", "a0.h0"], "target": ["a0.kv0", "a0.h0", "m0"], "slot": ["v", "q", "in"], "score": 1.0}
    )
    picture = circuit(heads, edges)
    input_, head, shared, mlp = (y for _, y in picture.places.places)
    assert mlp < head < shared < input_
    assert [one.text for one in drawn(picture).iter() if one.tag.endswith("text") and one.text and "0" in one.text][-3:] == [
        "0.0",
        "0.kv0",
        "m0",
    ]
