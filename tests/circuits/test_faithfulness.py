"""Faithfulness, completeness, minimality and exact path patching: their ends, and a circuit that is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from slm_interp import circuits
from slm_interp.errors import PatchingError
from slm_interp.patching import measure, outcomes
from tests.circuits.conftest import model_of


@pytest.fixture(scope="module")
def task(contrast):
    """A pair that the random model tells apart: the answer is what it says after the clean prompt, whichever that is."""
    slm = model_of("llama")
    one = contrast(slm)
    told = circuits.told_apart(circuits.Task(slm, [one], outcomes.difference())).all()
    return circuits.Task(slm, [one if told else replace(one, answer=one.distractor, distractor=one.answer)], outcomes.difference())


@pytest.fixture(scope="module")
def graph(task):
    return circuits.eap_ig(task, 3)


def test_from_nothing_to_everything(task, graph):
    everything = int(graph.real.sum())
    curve = circuits.faithfulness(task, graph, sizes=(0, 40, 200, everything))
    data = curve.dataset
    assert data["recovered"].values[[0, -1]] == pytest.approx([0, 1], abs=1e-3)
    assert data["left"].values[[0, -1]] == pytest.approx([1, 0], abs=1e-3)
    assert data["edges"].values[[0, -1]].tolist() == [0, everything]
    assert 0 < data["edges"].values[1] <= 40


def test_under_denoising_too_everything_is_the_base_run(task, graph, contrast):
    turned = circuits.Task(task.slm, task.contrasts, task.outcome, direction="denoising")
    found = circuits.outcomes_of(turned, [graph, graph.keeping(np.zeros_like(graph.real))])
    assert circuits.recovered(turned, found) == pytest.approx([1, 0], abs=1e-3)


def test_the_smallest_circuit_is_where_the_curve_stays_above(task, graph):
    curve = circuits.faithfulness(task, graph, sizes=(0, 100, 400, 800, 1200))
    data = curve.dataset.assign(recovered=("size", [0.0, 0.9, 0.5, 0.85, 1.0]))
    assert circuits.Faithfulness(data).smallest(0.8) == 800
    with pytest.raises(PatchingError, match="recovers 110% and keeps it; the most is 100%"):
        circuits.Faithfulness(data).smallest(1.1)


def test_the_recovered_fraction_is_a_ratio_of_means_over_pairs_told_apart(contrast):
    slm = model_of("llama")
    one = contrast(slm)
    flat = type(one)(one.clean, one.clean, one.answer, one.distractor)
    turned = type(one)(one.corrupted, one.clean, one.answer, one.distractor)
    task = circuits.Task(slm, [one, flat, turned], outcomes.difference())
    told = circuits.told_apart(task)
    assert told.sum() == 1 and not told[1] and told[0] != told[2]
    kept = int(np.flatnonzero(told)[0])
    clean, corrupted = (np.array(side) for side in task.baselines)
    outcome = np.full((3, 1), 99.0)
    outcome[kept] = corrupted[kept] + 0.25 * (clean - corrupted)[kept]
    assert circuits.recovered(task, outcome) == pytest.approx([0.25])
    with pytest.raises(PatchingError, match="tells none of 1 pairs apart: clean - corrupted is at most 0 nats"):
        circuits.faithfulness(circuits.Task(slm, [flat], outcomes.difference()), circuits.eap(task), sizes=(0,))


def test_an_interval_is_of_the_fraction_that_it_stands_beside(task, graph):
    """The same pair in two clusters: every draw is the estimate."""
    twice = circuits.Task(task.slm, [*task.contrasts, *task.contrasts], task.outcome)
    table = circuits.faithfulness(twice, graph, sizes=(0, 100, 400), clusters=["a", "b"]).table()
    for estimate, low, high in (("recovered", "low", "high"), ("left", "left_low", "left_high")):
        assert np.allclose(table[low], table[estimate], atol=1e-5) and np.allclose(table[high], table[estimate], atol=1e-5)


def test_saved_and_loaded_it_is_the_same(task, graph, tmp_path):
    curve = circuits.faithfulness(task, graph, sizes=(0, 100))
    curve.save(tmp_path / "curve.nc")
    again = circuits.Faithfulness.load(tmp_path / "curve.nc")
    assert again.table().equals(curve.table()) and again.dataset["told_apart"].dtype == bool
    assert "2 circuits" in repr(again) and "<table" in again._repr_html_()
    assert len(again.plot().data) == 2
    with pytest.raises(PatchingError, match="is no saved faithfulness curve"):
        circuits.Faithfulness.load(tmp_path / "nothing.nc")


def test_completeness_of_the_whole_model_is_no_gap(task, graph):
    table = circuits.completeness(task, graph.keeping(graph.real))
    assert table["gap"].abs().max() < 1e-6
    assert table.iloc[0]["of_model"] == pytest.approx(1, abs=1e-3)
    assert list(table["part"])[-1] == "all nodes" and len(table) == 2 + 15


def test_minimality_is_what_the_circuit_loses_without_a_node(task, graph):
    circuit = circuits.top_n(graph, 300)
    table = circuits.minimality(task, circuit).set_index("node")
    found = circuits.recovered(task, circuits.outcomes_of(task, [circuit, circuit.knocked_out("m0")]))
    assert table.loc["m0", "adds"] == pytest.approx(found[0] - found[1], abs=1e-4)
    assert (np.diff(table["adds"]) <= 0).all()


@pytest.mark.usefixtures("as_users_run_it")
def test_sizes_that_make_no_curve_are_refused(task, graph):
    for sizes in ((), (5, 5), (10, 5)):
        with pytest.raises(PatchingError, match="ascending, each once"):
            circuits.faithfulness(task, graph, sizes=sizes)


# -- path patching -------------------------------------------------------------------------------------


def test_a_path_into_the_logits_is_the_sender_s_change_through_the_final_norm(task, graph):
    """By hand: the last residual with the sender's source value in it, and nothing else changed."""
    from slm_interp import hooked
    from slm_interp.circuits.values import results, values_of
    from slm_interp.patching.measuring import read_of

    pair, slm = task.pairs[0], task.slm
    last = hooked.last_residuals(slm.model, pair.base.tokens)
    source, base = (values_of(slm, side.tokens) for side in (pair.source, pair.base))
    moved = last + (results(task, 1, source.z[1]) - results(task, 1, base.z[1]))[2]
    wanted = float(task.outcome.score(read_of(slm, pair.base, moved, None)).detach()) - task.baselines[0][0]
    assert circuits.through(task, graph, "a1.h2", "logits") == pytest.approx(wanted, abs=2e-4)
    assert abs(wanted) > 1e-3


def test_exact_effects_stand_beside_the_scores(task, graph):
    table = circuits.path_patching(task, graph, 12)
    assert len(table) == 12 and table["miss"].to_numpy() == pytest.approx((table["exact"] - table["score"]).to_numpy())
    across = graph.edges_table().query("source_span != target_span").head(1)
    row = circuits.path_patching(task, graph, across).iloc[0]
    kept = graph.real.copy()
    data = graph.dataset
    kept[
        list(data["source"].values).index(row["source"]),
        (data["target_node"].values == row["target"]) & (data["slot"].values == row["slot"]),
        graph.spans.index(row["source_span"]),
        graph.spans.index(row["target_span"]),
    ] = False
    found = circuits.outcomes_of(task, [graph.keeping(kept), graph.keeping(graph.real)])[0]
    assert row["exact"] == pytest.approx(found[0] - found[1], abs=2e-4)
    assert set(table.attrs) == {"linear", "rank"}


def test_the_input_of_one_span_alone_is_its_units_swapped(task):
    """By hand: the corrupted prompt's units in that word, at equal lengths."""
    one = task.contrasts[0]
    table = circuits.by_span(task).set_index("span")
    span = one.clean.words[1].span
    tokens = one.clean.tokens.clone()
    tokens[list(span)] = one.corrupted.tokens[list(span)]
    swapped = replace(one.clean, tokens=tokens)
    wanted = measure(task.slm, swapped, one, task.outcome) - task.baselines[0][0]
    assert table.loc["word 1", "exact"] == pytest.approx(wanted, abs=2e-4) and abs(wanted) > 1e-3
    (clean,), (corrupted,) = task.baselines
    assert table.loc["word 1", "lost"] == pytest.approx(wanted / (corrupted - clean), abs=1e-3)
    assert table.loc["word 2", "exact"] == pytest.approx(0, abs=2e-4)  # the same units in both prompts
    with pytest.raises(PatchingError, match="no 'm7'"):
        circuits.by_span(task, "m7")


@pytest.mark.usefixtures("as_users_run_it")
def test_paths_that_are_not_there_are_refused(task, graph):
    with pytest.raises(PatchingError, match="no edge from 'm2' into 'in' of 'm1': senders come before receivers"):
        circuits.through(task, graph, "m2", "m1")
    with pytest.raises(PatchingError, match="one edge or more"):
        circuits.path_patching(task, graph, 0)
    wrong = graph.edges_table().head(1).assign(source="m9")
    with pytest.raises(PatchingError, match="no such edge"):
        circuits.path_patching(task, graph, wrong)
