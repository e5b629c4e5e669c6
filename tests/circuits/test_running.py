"""Running with a circuit: everything is the base run, nothing the source run, and what lies between agrees with plain TransformerLens hooks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from slm_interp import circuits, hooked
from slm_interp.circuits.values import values_of
from slm_interp.errors import PatchingError
from slm_interp.hooked.installed import run_blocks
from slm_interp.patching import outcomes
from slm_interp.patching.measuring import lay, read_of


def blank(task):
    """A graph of a task without scores."""
    return circuits.everything(task)


def nothing(graph):
    return graph.keeping(np.zeros_like(graph.real))


def with_hooks(task, hooks):
    """The outcome of the base run of the first contrast under plain hooks."""
    pair = task.pairs[0]
    kept = []
    last = hooked.hook_at("resid_post", task.shape.n_layers)
    with torch.no_grad():
        run_blocks(task.slm.model, pair.base.tokens, [*hooks, (last, lambda value, hook: kept.append(value))])
        return float(task.outcome.score(read_of(task.slm, pair.base, kept[0], pair.reference)))


@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_with_all_edges_it_is_the_base_run_and_with_none_the_source_run(slm, contrast, direction):
    task = circuits.Task(slm, [contrast(slm)], outcomes.difference(), direction=direction)
    graph = blank(task)
    found = circuits.outcomes_of(task, [graph, nothing(graph)])[0]
    (clean,), (corrupted,) = task.baselines
    assert abs(clean - corrupted) > 0.05
    assert found == pytest.approx([clean, corrupted] if direction == "noising" else [corrupted, clean], abs=2e-4)


def test_with_no_edges_it_is_the_source_run_at_unequal_lengths_too_where_the_ends_meet(grouped, contrast):
    task = circuits.Task(grouped, [contrast(grouped, "longer")], outcomes.difference(), policy="warped")
    (_, (corrupted,)), graph = task.baselines, blank(task)
    assert circuits.outcomes_of(task, [nothing(graph)])[0, 0] == pytest.approx(corrupted, abs=2e-4)


def test_dropping_what_the_heads_of_a_block_write_is_patching_them(slm, contrast):
    task = circuits.Task(slm, [contrast(slm)], outcomes.difference())
    graph, pair = blank(task), task.pairs[0]
    source = values_of(slm, pair.source.tokens).z[1]
    patched = with_hooks(task, [("blocks.1.attn.hook_z", lambda value, hook: source)])
    heads = [f"a1.h{head}" for head in range(slm.model.cfg.n_heads)]
    assert circuits.outcomes_of(task, [graph.knocked_out(*heads)])[0, 0] == pytest.approx(patched, abs=2e-4)
    assert abs(patched - task.baselines[0][0]) > 1e-3


def test_dropping_an_mlp_in_one_span_is_patching_it_there(grouped, contrast):
    task = circuits.Task(grouped, [contrast(grouped, "longer")], outcomes.difference(), policy="pooled")
    graph, pair, kept = blank(task), task.pairs[0], blank(task).kept.copy()
    place = list(graph.dataset["source"].values).index("m0")
    kept[place, :, graph.spans.index("word 1")] = False
    here = pair.span == graph.spans.index("word 1")
    there = values_of(grouped, pair.source.tokens).mlp[0]
    mean = there[:, [3, 4, 5, 6, 7]].mean(1)

    def put(value, hook):
        value = value.clone()
        value[:, here] = mean[:, None]
        return value

    patched = with_hooks(task, [("blocks.0.hook_mlp_out", put)])
    assert int(here.sum()) == 3
    assert circuits.outcomes_of(task, [graph.keeping(kept)])[0, 0] == pytest.approx(patched, abs=2e-4)


def test_dropping_every_edge_into_a_head_is_its_source_output(grouped, contrast):
    """A head that reads nothing but source values writes what it wrote in the source run: the same as dropping all it writes."""
    task = circuits.Task(grouped, [contrast(grouped)], outcomes.difference())
    graph = blank(task)
    kept = graph.kept.copy()
    kept[:, [one.startswith("a1.") for one in graph.dataset["target_node"].values]] = False
    into = circuits.outcomes_of(task, [graph.keeping(kept)])[0, 0]
    out = circuits.outcomes_of(task, [graph.knocked_out(*(f"a1.h{head}" for head in range(4)))])[0, 0]
    assert into == pytest.approx(out, abs=2e-4)


def test_a_key_dropped_for_one_span_of_destinations_is_patched_for_those_alone(grouped, contrast):
    """By hand: source keys for rows of the scores that lie in the last word, own keys for the others."""
    task = circuits.Task(grouped, [contrast(grouped)], outcomes.difference())
    graph, pair = blank(task), task.pairs[0]
    last, middle = graph.spans.index("word 2"), graph.spans.index("word 1")
    kept = graph.kept.copy()
    kept[
        :,
        [one in ("a0.kv0", "a0.kv1") for one in graph.dataset["target_node"].values] & (graph.dataset["slot"].values == "k"),
        middle,
        last,
    ] = False
    both = []
    for side in (pair.base, pair.source):
        run_blocks(grouped.model, side.tokens, [("blocks.0.attn.hook_rot_k", lambda value, hook: both.append(value.detach()))])
    columns, rows = pair.span == middle, pair.span == last
    mixed = torch.where(columns[None, :, None, None], both[1], both[0])
    queries = []

    def scores(value, hook):
        key = mixed.repeat_interleave(2, dim=2)
        made = torch.einsum("rqhd,rkhd->rhqk", queries[0], key) / grouped.model.cfg.attn_scale
        return torch.where(rows[:, None] & (value > -1e30), made, value)

    patched = with_hooks(
        task, [("blocks.0.attn.hook_rot_q", lambda value, hook: queries.append(value)), ("blocks.0.attn.hook_attn_scores", scores)]
    )
    found = circuits.outcomes_of(task, [graph.keeping(kept), graph])[0]
    assert found[0] == pytest.approx(patched, abs=2e-4)
    assert abs(found[0] - found[1]) > 1e-3


def test_circuits_in_one_batch_are_circuits_one_by_one(grouped, contrast):
    task = circuits.Task(grouped, [contrast(grouped)], outcomes.difference())
    graph, rng = blank(task), np.random.default_rng(0)
    some = [graph.keeping(graph.real & (rng.random(graph.real.shape) < share)) for share in (0.9, 0.5, 0.2)]
    together = circuits.outcomes_of(task, some)[0]
    assert together == pytest.approx([circuits.outcomes_of(task, [one])[0, 0] for one in some], abs=2e-4)
    assert together == pytest.approx(circuits.outcomes_of(task, some, memory=1)[0], abs=2e-4)
    assert np.ptp(together) > 1e-2


def test_without_regard_to_spans_is_with_every_span_alike(grouped, contrast):
    task = circuits.Task(grouped, [contrast(grouped)], outcomes.difference())
    graph, rng = blank(task), np.random.default_rng(1)
    chosen = rng.random(graph.real.shape[:2]) < 0.5
    apart = graph.keeping(graph.real & chosen[:, :, None, None])
    assert circuits.outcomes_of(task, [apart.over_spans()])[0, 0] == pytest.approx(circuits.outcomes_of(task, [apart])[0, 0], abs=2e-4)


def test_zero_ablation_of_an_mlp_is_a_hook_that_returns_nothing(grouped, contrast):
    task = circuits.Task(grouped, [contrast(grouped)], outcomes.difference())
    patched = with_hooks(task, [("blocks.2.hook_mlp_out", lambda value, hook: value * 0)])
    found = circuits.outcomes_of(task, [blank(task).knocked_out("m2")], outside="zero")[0, 0]
    assert found == pytest.approx(patched, abs=2e-4)


def test_mean_ablation_of_a_head_is_its_mean_over_the_given_prompts(grouped, contrast):
    one = contrast(grouped)
    task = circuits.Task(grouped, [one], outcomes.difference())
    z = torch.cat([values_of(grouped, prompt.tokens[None]).z[0][0, :, 2] for prompt in (one.clean, one.corrupted)]).mean(0)

    def put(value, hook):
        value = value.clone()
        value[:, :, 2] = z
        return value

    found = circuits.outcomes_of(task, [blank(task).knocked_out("a0.h2")], outside=circuits.means(task, [one.clean, one.corrupted]))[0, 0]
    assert found == pytest.approx(with_hooks(task, [("blocks.0.attn.hook_z", put)]), abs=2e-4)


def test_positions_that_no_source_value_reaches_keep_their_own(grouped, contrast):
    """With the middle word alone in play, all edges dropped is that word's nodes patched and the other positions left as they are."""
    one = contrast(grouped)
    from slm_interp.patching import spans

    task = circuits.Task(grouped, [one], outcomes.difference(units=1), spans=[spans.words(one)[1]])
    graph = blank(task)
    assert graph.spans == ("word 1", "elsewhere")
    (clean,), _ = task.baselines
    none = circuits.outcomes_of(task, [nothing(graph)])[0, 0]
    swapped = one.clean.tokens.clone()
    span = one.clean.words[1].span
    swapped[list(span)] = one.corrupted.tokens[list(span)]
    # nodes there see the corrupted prompt; positions after it read them and write what they will
    source = values_of(grouped, lay(grouped, one.corrupted, one, task.outcome).tokens)
    here = torch.zeros(len(one.clean), dtype=torch.bool)
    here[list(span)] = True

    def put(there):
        return lambda value, hook: torch.where(here.view(1, -1, *[1] * (value.ndim - 2)), there, value)

    hooks = [("blocks.0.hook_resid_pre", put(source.input))]
    for layer in range(3):
        hooks += [(f"blocks.{layer}.attn.hook_z", put(source.z[layer])), (f"blocks.{layer}.hook_mlp_out", put(source.mlp[layer]))]
    assert none == pytest.approx(with_hooks(task, hooks), abs=2e-4) and abs(none - clean) > 1e-3


@pytest.mark.usefixtures("as_users_run_it")
def test_bad_circuits_are_refused(grouped, contrast):
    task = circuits.Task(grouped, [contrast(grouped)], outcomes.difference())
    graph = blank(task)
    with pytest.raises(PatchingError, match="one circuit or more"):
        circuits.outcomes_of(task, [])
    with pytest.raises(PatchingError, match="'source' values, 'zero'"):
        circuits.outcomes_of(task, [graph], outside="mean")
    with pytest.raises(PatchingError, match="spans of its task"):
        circuits.outcomes_of(circuits.Task(grouped, task.contrasts, task.outcome, spans="words"), [graph])
    with pytest.raises(PatchingError, match="are not there: an edge leads upward"):
        graph.keeping(np.ones_like(graph.real))
    with pytest.raises(PatchingError, match=r"no 'a9.h9'"):
        graph.knocked_out("a9.h9")


@pytest.mark.usefixtures("as_users_run_it")
def test_bad_tasks_are_refused(grouped, contrast):
    one = contrast(grouped, "longer")
    with pytest.raises(PatchingError, match="one contrast or more"):
        circuits.Task(grouped, [], outcomes.difference())
    with pytest.raises(PatchingError, match="'noising' .* got 'up'"):
        replace(circuits.Task(grouped, [one], outcomes.difference()), direction="up")
    with pytest.raises(PatchingError, match="Say how they meet"):
        _ = circuits.Task(grouped, [one], outcomes.difference()).pairs
    from slm_interp.patching import norm_matched, policies, spans

    with pytest.raises(PatchingError, match="norm-matched"):
        _ = circuits.Task(grouped, [one], outcomes.difference(), policy=norm_matched(policies.pooled)).pairs
    twice = [replace(pair, name=f"{pair.name} {number}") for number in (1, 2) for pair in spans.words(one)[:1]]
    with pytest.raises(PatchingError, match="do not overlap"):
        _ = circuits.Task(grouped, [one], outcomes.difference(), spans=twice, policy="warped").pairs
