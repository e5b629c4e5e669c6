"""Scores of edges: what exact patching of single edges says in the limit of small differences, and what their sums must be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from slm_interp import circuits, hooked
from slm_interp.circuits.nodes import targets
from slm_interp.errors import PatchingError
from slm_interp.hooked.installed import run_blocks
from slm_interp.patching import outcomes
from slm_interp.patching.measuring import read_of
from tests.circuits.conftest import ARCHITECTURES, model_of

EPSILON = 1e-6


@pytest.fixture(params=ARCHITECTURES)
def nearly(request):
    """A model in double precision in which the units of the corrupted prompts sound almost as the clean ones."""
    slm = model_of(request.param, dtype=torch.float64)
    before = slm.model.embed.W_E.detach().clone()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        units = slm.vocabulary.unit_to_id(torch.arange(20))
        noise = torch.randn(20, slm.model.cfg.d_model, generator=generator, dtype=torch.float64)
        middle = before[units].mean(0)
        slm.model.embed.W_E[units] = middle + EPSILON * noise
    yield slm
    with torch.no_grad():
        slm.model.embed.W_E.copy_(before)


def dropped_one_by_one(task, graph, places):
    """What the outcome of the base run changes by when one edge alone carries source values, exactly."""
    alone = []
    for place in places:
        kept = graph.real.copy()
        kept[place] = False
        alone.append(graph.keeping(kept))
    return circuits.outcomes_of(task, alone).mean(0) - circuits.outcomes_of(task, [graph])[0, 0]


def test_a_small_change_of_one_edge_changes_the_outcome_by_its_score(nearly, contrast):
    task = circuits.Task(nearly, [contrast(nearly)], outcomes.difference())
    graph = circuits.eap(task)
    strongest = np.argsort(-np.abs(graph.scores).ravel())[:40]
    by_slot = [np.argmax(np.where(graph.dataset["slot"].values[None, :, None, None] == slot, np.abs(graph.scores), -1)) for slot in "qkv"]
    places = [np.unravel_index(one, graph.real.shape) for one in (*strongest, *by_slot)]
    exact = dropped_one_by_one(task, graph, places)
    scores = np.array([graph.scores[place] for place in places])
    assert np.abs(exact).max() > EPSILON / 100
    assert exact == pytest.approx(scores, rel=1e-2, abs=np.abs(scores).max() * 1e-3)
    assert {graph.dataset["slot"].values[place[1]] for place in places} == {"q", "k", "v", "in"}


def test_edges_into_an_input_sum_to_what_its_whole_change_costs(slm, contrast):
    """With TransformerLens's own split inputs as the other source of the gradient."""
    task = circuits.Task(slm, [contrast(slm)], outcomes.difference())
    graph, pair, model = circuits.eap(task), task.pairs[0], slm.model
    streams, grads = [], {}
    for side in (pair.source, pair.base):
        kept = []
        with torch.no_grad():
            run_blocks(model, side.tokens, [("blocks.1.hook_resid_pre", lambda value, hook, kept=kept: kept.append(value))])
        streams.append(kept[0])
    model.cfg.use_split_qkv_input = True
    try:
        last = hooked.hook_at("resid_post", 3)
        with torch.enable_grad():
            keep = [(f"blocks.1.hook_{slot}_input", lambda value, hook, slot=slot: grads.update({slot: value})) for slot in "qkv"]
            run_blocks(model, pair.base.tokens, [*keep, (last, lambda value, hook: grads.update(last=value))])
            score = task.outcome.score(read_of(slm, pair.base, grads["last"], None))
            made = torch.autograd.grad(score, [grads[slot] for slot in "qkv"])
    finally:
        model.cfg.use_split_qkv_input = False
    for slot, gradient in zip("qkv", made, strict=True):
        whole = torch.einsum("rpd,rphd->h", streams[0] - streams[1], gradient)
        chosen = [number for number, one in enumerate(targets(task.shape)) if one.layer == 1 and one.slot == slot]
        assert graph.scores[:, chosen].sum((0, 2, 3)) == pytest.approx(whole.numpy(), rel=1e-3, abs=1e-4)
        assert float(whole.abs().max()) > 1e-3


def test_edges_into_the_logits_sum_to_the_change_of_the_last_residual(slm, contrast):
    task = circuits.Task(slm, [contrast(slm)], outcomes.difference())
    graph, pair = circuits.eap(task), task.pairs[0]
    source, base = (hooked.last_residuals(slm.model, side.tokens) for side in (pair.source, pair.base))
    leaf = base.clone().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(task.outcome.score(read_of(slm, pair.base, leaf, None)), leaf)
    assert graph.scores[:, -1].sum() == pytest.approx(float(((source - base) * gradient).sum()), rel=1e-3)


def test_a_prompt_against_itself_has_no_scores(slm, contrast):
    one = contrast(slm)
    same = type(one)(one.clean, one.clean, one.answer, one.distractor)
    assert np.abs(circuits.eap(circuits.Task(slm, [same], outcomes.difference())).scores).max() == 0


def test_scores_are_means_over_contrasts(grouped, contrast):
    pairs = [contrast(grouped), contrast(grouped, "longer")]
    apart = [circuits.eap(circuits.Task(grouped, [one], outcomes.difference(), policy="warped")).scores for one in pairs]
    together = circuits.eap(circuits.Task(grouped, pairs, outcomes.difference(), policy="warped"))
    assert together.scores == pytest.approx(np.mean(apart, 0), abs=1e-5)


def test_more_steps_come_nearer_to_the_whole_change(contrast):
    """Completeness of integrated gradients: edges out of the input sum to clean - corrupted as the steps grow (the input is all that differs)."""
    slm = model_of("llama", 1.0)
    task = circuits.Task(slm, [contrast(slm)], outcomes.difference(), spans="everything")
    (clean,), (corrupted,) = task.baselines
    off = []
    for steps in (1, 4, 64):
        graph = circuits.eap_ig(task, steps)
        # what the input changes altogether: every path from it, whose first edges those out of the input are
        off.append(abs(graph.scores[0].sum() - (corrupted - clean)))
    assert off[2] < 0.05 * abs(clean - corrupted) and off[2] < off[1] < off[0]


def test_one_step_of_inputs_takes_the_gradient_at_the_corrupted_input(grouped, contrast):
    """Gradients at the corrupted prompt: those of denoising, where it is the base; differences point the other way."""
    one = contrast(grouped)
    noising = circuits.eap_ig(circuits.Task(grouped, [one], outcomes.difference()), 1)
    denoising = circuits.eap(circuits.Task(grouped, [one], outcomes.difference(), direction="denoising"))
    assert noising.scores == pytest.approx(-denoising.scores, rel=1e-4, abs=1e-4)
    assert np.abs(noising.scores - circuits.eap(circuits.Task(grouped, [one], outcomes.difference())).scores).max() > 0.1


def test_one_step_of_activations_is_the_gradient_of_the_clean_run_where_nothing_is_cut(grouped, contrast):
    """With step 1 of 1 every node is replaced by its own clean value: only ways through it are missing, and edges into the logits go through none."""
    task = circuits.Task(grouped, [contrast(grouped)], outcomes.difference())
    assert circuits.eap_ig_activations(task, 1).scores[:, -1] == pytest.approx(circuits.eap(task).scores[:, -1], abs=1e-5)


def test_zero_ablation_scores_what_an_edge_is_worth_at_all(grouped, contrast):
    one = contrast(grouped)
    same = type(one)(one.clean, one.clean, one.answer, one.distractor)
    graph = circuits.zero_ablation(circuits.Task(grouped, [same], outcomes.difference()))
    task = circuits.Task(grouped, [one], outcomes.difference())
    base = hooked.last_residuals(grouped.model, task.pairs[0].base.tokens)
    leaf = base.clone().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(task.outcome.score(read_of(grouped, task.pairs[0].base, leaf, None)), leaf)
    assert graph.scores[:, -1].sum() == pytest.approx(float(-(base * gradient).sum()), rel=1e-3, abs=1e-4)


@pytest.mark.usefixtures("as_users_run_it")
def test_what_has_no_gradient_is_refused(grouped, contrast):
    with pytest.raises(PatchingError, match=r"'rank\(units=1\)' has no gradient"):
        circuits.eap(circuits.Task(grouped, [contrast(grouped)], outcomes.rank()))
    with pytest.raises(PatchingError, match="one step or more; got 0"):
        circuits.eap_ig(circuits.Task(grouped, [contrast(grouped)], outcomes.difference()), 0)


def test_a_half_precision_model_has_nearly_the_same_scores(contrast):
    pairs = [
        circuits.eap(circuits.Task(one, [contrast(one)], outcomes.difference()))
        for one in (model_of("llama", 1.0), model_of("llama", 1.0, torch.bfloat16))
    ]
    wide, narrow = (graph.scores[graph.real] for graph in pairs)
    assert np.corrcoef(wide, narrow)[0, 1] > 0.99
