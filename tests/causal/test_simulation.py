"""Simulated cases have the effects that were asked for; on them intervals cover, the verdict is rarely wrong, and what is done wrongly shows."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from slm_interp.causal.calibration import blocks, coverage, verdicts
from slm_interp.causal.evidence import Rule, weigh
from slm_interp.causal.simulation import SCENARIOS, Design, effects, simulate
from slm_interp.causal.verdict import decide, judge
from slm_interp.errors import StatisticsError

DENSE = Design(cases=320, prompts=40, words=40)
USUAL = Design(cases=80, prompts=40, words=40)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The script that writes the tables of docs/verdict.md."""
    path = Path(__file__).parents[2] / "docs" / "verdict" / "coverage.py"
    spec = importlib.util.spec_from_file_location("verdict_coverage", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def alarms(script: ModuleType) -> pd.DataFrame:
    """Where no layer has any effect."""
    table = script.alarms(200)
    return table[table["shape"] == "normal"].set_index(["procedure", "clusters"])


# -- the data ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("heavy", [False, True])
def test_in_many_cases_the_shares_are_the_true_ones(name, heavy):
    scenario = SCENARIOS[name]
    made = simulate(scenario, Design(20_000, 10_000, 10_000, heavy), seed=1)
    means = {column: float(values.mean()) for column, values in made.measured.columns.items()}
    truth = made.truth
    for column, share in (("text", truth.text), ("complement", truth.complement), ("specific", truth.specific)):
        assert means[column] == pytest.approx(share * truth.ceiling, abs=0.06)
    assert means["whole"] == pytest.approx(truth.ceiling, abs=0.06)
    assert means["margin"] == pytest.approx(scenario.margin, abs=0.1)


def test_a_fraction_that_leans_on_the_ceiling_is_another_share_than_the_mean_fraction():
    scenario = SCENARIOS["partial .5"]
    assert scenario.truth.text == pytest.approx(0.5)
    assert scenario.text == pytest.approx(0.5 - 0.15 * 0.5 * np.sqrt(0.25**2 + 0.35**2 + 0.4**2))


def test_cases_of_one_prompt_and_of_one_word_depend_on_each_other():
    design, rng = Design(1600, 40, 40), np.random.default_rng(2)
    prompt, word = design.labels(rng)
    whole = effects(replace(SCENARIOS["shadow"], noise=0.0), design, prompt, word, 100, rng)["whole"]
    for labels, deviation, other in ((prompt, 0.25, 0.35), (word, 0.35, 0.25)):
        means = np.stack([whole[:, labels == label].mean(1) for label in range(40)], 1)
        expected = 2**2 * (deviation**2 + (other**2 + 0.4**2) / 40)
        assert means.var(1, ddof=1).mean() == pytest.approx(expected, rel=0.1)
    assert np.bincount(prompt).tolist() == [40] * 40


def test_effects_of_a_case_go_together_and_tails_can_be_heavy():
    made = simulate(SCENARIOS["partial .5"], Design(5000, 2500, 2500, heavy=True), seed=3).measured
    assert np.corrcoef(made.text, made.third)[0, 1] > 0.5
    assert np.abs(made.margin - made.margin.mean()).max() > 6 * made.margin.std()


def test_one_seed_gives_one_experiment():
    first, again, other = (simulate(SCENARIOS["shadow"], USUAL, seed=seed).measured for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.text, again.text)
    assert not np.allclose(first.text, other.text)


# -- intervals ---------------------------------------------------------------------------------------


def test_intervals_of_means_and_shares_hold_the_truth_as_often_as_they_say_or_more():
    found = coverage(SCENARIOS["partial .5"], DENSE, repetitions=300).set_index(["kind", "quantity"])
    assert (found["covered"] >= 0.93).all(), found
    assert (found["above"] <= 0.05).all() and (found["below"] <= 0.05).all()


def test_intervals_that_ignore_prompts_or_words_or_both_are_too_narrow():
    whole = ("mean", "whole")
    held = {
        ways: coverage(SCENARIOS["shadow"], DENSE, 200, ways).set_index(["kind", "quantity"]).loc[whole, "covered"]
        for ways in ((), ("prompt",), ("word",), ("prompt", "word"))
    }
    assert held[()] < 0.75 and held[("prompt",)] < 0.85 and held[("word",)] < 0.93
    assert held[("prompt", "word")] >= 0.93


# -- verdicts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["shadow", "mediated", "partial .5", "dead", "unspecific", "off-target", "interaction", "unread lens"])
def test_with_eighty_cases_the_verdict_is_right_nearly_always(name):
    found = verdicts(SCENARIOS[name], USUAL, repetitions=60)["word"]
    assert (found == SCENARIOS[name].right).mean() >= 0.9
    if name == "unread lens":
        return  # a lens that reads nothing passes for one that does in 2.5% of experiments
    wrong = {"shadow": {"text-mediated", "partly"}, "mediated": {"epiphenomenal"}}.get(name, {"text-mediated", "epiphenomenal"})
    assert not set(found) & (wrong - {SCENARIOS[name].right})


@pytest.mark.parametrize(("name", "claim"), [("boundary .1", "epiphenomenal"), ("boundary .9", "text-mediated")])
def test_at_a_boundary_of_the_rule_the_stronger_claim_is_rare(name, claim):
    found = verdicts(SCENARIOS[name], DENSE, repetitions=100)["word"]
    assert (found == claim).mean() <= 0.05
    assert (found == "partly").mean() > 0.5


def test_with_few_cases_the_verdict_is_silent_and_not_wrong():
    found = verdicts(SCENARIOS["shadow"], Design(16, 8, 8), repetitions=60)["word"]
    assert set(found) <= {"epiphenomenal", "uninformative"} and (found == "uninformative").mean() > 0.5


def test_naive_rules_are_fooled_where_the_verdict_is_not(script):
    rates = {}
    for name in ("shadow", "off-target"):
        fooled = [script._naive(block) for block in blocks(SCENARIOS[name], USUAL, 100, Rule(), draws=2)]
        rates[name] = np.concatenate(fooled, 1).mean(1)
    assert rates["shadow"][1] > 0.95  # it can be read, so it is used
    assert rates["off-target"].min() > 0.95  # a swap that acts, and so would any other


def test_a_block_of_experiments_decides_each_as_it_would_alone():
    block = next(blocks(SCENARIOS["partial .5"], USUAL, 3, Rule()))
    measured = block.measured(2)
    together, alone = judge(measured, weigh(measured, block.drawn[:, 2], Rule()), Rule()), decide(measured)
    assert together.word == alone.word
    np.testing.assert_allclose(together.shares["text"].low, alone.shares["text"].low, atol=0.01)  # other draws


# -- the script --------------------------------------------------------------------------------------


def test_what_is_chosen_and_reported_on_the_same_cases_is_too_large_and_the_split_is_not(alarms):
    same, split = alarms.loc["best layer, same cases"], alarms.loc["best layer, halves of words"]
    assert (same["bias"] > 0.1).all() and (same["alarms"] > 0.15).all()
    assert (split["bias"].abs() < 0.05).all() and (split["alarms"] < 0.1).all()


def test_false_alarms_are_as_rare_as_promised_only_if_clusters_flip_whole_and_layers_are_counted(alarms):
    rates = alarms["alarms"].unstack()
    assert (rates.loc["one layer, clusters flipped whole"] < 0.1).all()
    assert (rates.loc["one layer, single cases flipped"] > 0.12).all()
    assert (rates.loc["any of 12 layers, p as it is"] > 0.2).all()
    assert (rates.loc["any of 12 layers, Holm"] < 0.1).all()


def test_a_small_run_of_the_script_writes_its_tables(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "ASKED", (("normal", 16, ("shadow", "dead")),))
    monkeypatch.setattr(script, "CLUSTERS", (10,))
    script.main((), repetitions=3, out=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"{part}.{end}" for part in script.SHOWN for end in ("csv", "txt"))
    confusion = pd.read_csv(tmp_path / "verdicts.csv")
    words = ["text-mediated", "partly", "epiphenomenal", "uninformative"]
    np.testing.assert_allclose(confusion[words].sum(axis=1), 1, atol=1e-3)
    found = pd.read_csv(tmp_path / "intervals.csv")
    np.testing.assert_allclose(found[["covered", "above", "below"]].sum(axis=1), 1, atol=1e-3)


# -- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: Design(4, 5, 2), "Every prompt and every word has a case; got Design(cases=4, prompts=5, words=2, heavy=False)."),
        (lambda: Design(4, 0, 2), "Every prompt and every word has a case"),
        (lambda: coverage(SCENARIOS["shadow"], USUAL, 0), "Rates need one repetition or more; got 0."),
    ],
)
@pytest.mark.usefixtures("as_users_run_it")
def test_what_cannot_be_simulated_is_refused_in_a_sentence(call, sentence):
    with pytest.raises(StatisticsError, match=re.escape(sentence)):
        call()
