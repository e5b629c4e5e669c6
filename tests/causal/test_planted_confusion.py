"""The suite on models whose answer is known: right where naive tests are fooled."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest

from slm_interp.causal.evidence import Measured, Rule
from slm_interp.causal.planted import plant
from slm_interp.causal.planted.confusion import LENSES, NAIVE, OTHERS, TOGETHER, Size, confusion, right_word, summary
from slm_interp.errors import PatchingError, StoreError

SMALL = Size(cases=16, n_words=12, d_model=80, noise=0.02)
LOGIT = {"logit": LENSES["logit"]}


@cache
def table(kind: str | float) -> pd.DataFrame:
    return confusion([0], [kind], LOGIT, SMALL)


def of(kind: str) -> pd.Series:
    return table(0.5 if kind == "partial" else kind).iloc[0]


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("shadow", "epiphenomenal"),
        ("partial", "partly"),
        ("mediated", "text-mediated"),
        ("dead", "uninformative"),
        ("parallel", "text-mediated"),
    ],
)
def test_the_verdict_is_that_of_the_planted_share(kind, word):
    assert of(kind)["verdict"] == of(kind)["right"] == word


def test_the_share_is_in_its_interval_and_the_complement_has_the_rest():
    for kind, share in (("shadow", 0.0), ("partial", 0.5), ("mediated", 1.0)):
        row = of(kind)
        assert row["low"] - 0.05 <= share <= row["high"] + 0.05
        assert row["text"] == pytest.approx(share, abs=0.1) and row["text"] + row["complement"] == pytest.approx(1, abs=1e-3)


def test_naive_tests_call_a_shadow_a_cause():
    assert of("shadow")["naive: decodable, so used"] == of("shadow")["naive: whole patch is large"] == "text-mediated"
    assert of("partial")["naive: swap differs from 0"] == "text-mediated"
    assert of("dead")["naive: decodable, so used"] == "text-mediated"


def test_a_summary_counts_verdicts_and_what_is_right():
    both = pd.concat([table("shadow"), table("dead")])
    whole = pd.concat([both, both.assign(verdict="uninformative", seed=1)])
    found = summary(whole).set_index("kind")
    assert found.loc["shadow", ["models", "epiphenomenal", "uninformative", "text-mediated"]].tolist() == [2, 1, 1, 0]
    assert found.loc["shadow", "correct"] == 0.5 and found.loc["dead", "correct"] == 1.0
    assert found.loc["shadow", "naive: decodable, so used"] == 2


def test_several_lenses_have_a_verdict_together_and_other_bases_no_right_one():
    bases = {**LENSES, "embedding": OTHERS["embedding"]}
    found = confusion([0], ["shadow"], bases, replace(SMALL, cases=12)).set_index("basis")
    assert found.index.tolist() == ["logit", "jacobian", "embedding", TOGETHER]
    assert found["right"].tolist() == ["epiphenomenal", "epiphenomenal", "", "epiphenomenal"]
    assert set(found["verdict"]) == {"epiphenomenal"}


def test_a_run_goes_on_where_it_was_and_refuses_another_size(tmp_path):
    size = Size(cases=8, n_words=9, d_model=64)
    first = confusion([0], ["dead"], LOGIT, size, store=tmp_path)
    again = confusion([0], ["dead"], LOGIT, size, store=tmp_path)
    pd.testing.assert_frame_equal(first, again)
    with pytest.raises(StoreError, match="size"):
        confusion([0], ["dead"], LOGIT, Size(cases=9, n_words=9, d_model=64), store=tmp_path)


@pytest.mark.parametrize(("fraction", "word"), [(0.05, "epiphenomenal"), (0.2, "partly"), (0.8, "partly"), (0.95, "text-mediated")])
def test_the_right_word_is_that_of_the_rule(fraction, word):
    assert right_word(plant("partial", fraction, n_contrasts=1), Rule()) == word


@pytest.mark.parametrize("fraction", [0.1, 0.095, 0.9])
def test_a_share_at_a_bound_of_the_rule_is_refused(fraction):
    with pytest.raises(PatchingError, match="is a bound of the rule, which counts 0.1 as nothing"):
        right_word(plant("partial", fraction, n_contrasts=1), Rule())


def test_naive_tests_say_what_they_would_of_numbers_made_up():
    noise = np.random.default_rng(0).normal(size=40)
    cases = [str(number) for number in range(40)]
    made = Measured(1 + 0.1 * noise, 0.3 * noise, np.ones(40), np.ones(40), None, cases, cases)
    said = {name: test(made, heard=0.9) for name, test in NAIVE.items()}
    assert list(said.values()) == ["epiphenomenal", "text-mediated", "text-mediated"]
    unheard = {name: test(made, heard=0.1) for name, test in NAIVE.items()}
    assert list(unheard.values()) == ["epiphenomenal", "uninformative", "uninformative"]
