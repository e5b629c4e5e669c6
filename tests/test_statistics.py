"""Clustered intervals and tests on data whose truth is known, and identities of the draws."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from slm_interp.errors import StatisticsError
from slm_interp.statistics import (
    benjamini_hochberg,
    bootstrap,
    cluster_weights,
    equivalent,
    holm,
    paired_difference,
    permutation,
    sign_flip,
    ways_apart,
)


def clustered(rng: np.random.Generator, clusters: int = 40, size: int = 8, effect: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Items of one cluster share as much noise as each has alone."""
    labels = np.repeat(np.arange(clusters), size)
    return effect + rng.normal(size=clusters)[labels] + rng.normal(size=clusters * size), labels


# -- intervals ---------------------------------------------------------------------------------------


def test_clustered_intervals_cover_the_truth_and_those_that_ignore_clusters_do_not():
    rng = np.random.default_rng(1)
    covered = np.zeros(2)
    for trial in range(300):
        values, labels = clustered(rng)
        for way, clusters in enumerate((labels, np.arange(len(values)))):
            found = bootstrap(values, clusters, draws=400, seed=trial)
            covered[way] += found.low <= 0.5 <= found.high
    assert 0.90 <= covered[0] / 300 <= 0.99
    assert covered[1] / 300 < 0.80


def test_two_ways_of_clustering_cover_where_either_alone_does_not():
    rng = np.random.default_rng(2)
    covered = {"both": 0, "rows": 0}
    row, column = (grid.ravel() for grid in np.meshgrid(np.arange(20), np.arange(20), indexing="ij"))
    for trial in range(200):
        values = rng.normal(size=20)[row] + 2 * rng.normal(size=20)[column] + rng.normal(size=400)
        both = bootstrap(values, {"rows": row, "columns": column}, draws=400, seed=trial)
        rows = bootstrap(values, row, draws=400, seed=trial)
        covered["both"] += both.low <= 0 <= both.high
        covered["rows"] += rows.low <= 0 <= rows.high
    assert covered["both"] / 200 >= 0.9
    assert covered["rows"] / 200 < 0.75


def test_a_cluster_is_drawn_whole_and_as_many_clusters_are_drawn_as_there_are():
    codes = np.array([0, 0, 1, 2, 2, 2])
    weights = cluster_weights({"cluster": codes}, 200, np.random.default_rng(0))
    assert (weights[:, 0] == weights[:, 1]).all() and (weights[:, 3] == weights[:, 5]).all()
    assert (weights[:, [0, 2, 3]].sum(1) == 3).all()


def test_two_ways_are_drawn_independently_and_multiply():
    row, column = np.repeat([0, 1, 2], 4), np.tile([0, 1, 2, 3], 3)
    weights = cluster_weights({"rows": row, "columns": column}, 300, np.random.default_rng(0)).reshape(300, 3, 4)
    np.testing.assert_array_equal(weights[:, 0, 0] * weights[:, 2, 3], weights[:, 0, 3] * weights[:, 2, 0])
    np.testing.assert_array_equal(weights.sum((1, 2)), 12)


def test_two_names_of_one_clustering_count_once_and_a_single_label_not_at_all():
    ways = {"prompt": ["a", "a", "b", "c"], "word": [1, 1, 2, 3], "voice": ["x"] * 4, "speaker": ["p", "p", "p", "q"]}
    assert ways_apart(ways) == {"prompt": ways["prompt"], "speaker": ways["speaker"]}
    values = np.array([0.0, 1.0, 5.0, 2.0])
    once, twice = (bootstrap(values, own, seed=0) for own in (ways_apart({"a": [0, 0, 1, 2], "b": [0, 0, 1, 2]}), {"a": [0, 0, 1, 2]}))
    assert (once.low, once.high) == (twice.low, twice.high)


def test_draws_that_hit_nothing_are_drawn_again():
    codes = np.array([0, 1])
    weights = cluster_weights({"one": codes, "other": codes}, 200, np.random.default_rng(0))
    assert weights.any(1).all()


def test_many_values_at_once_have_the_intervals_each_has_alone():
    rng = np.random.default_rng(3)
    values, labels = rng.normal(size=(50, 2, 3)), rng.integers(0, 9, 50)
    together = bootstrap(values, labels, seed=5)
    alone = bootstrap(values[:, 1, 2], labels, seed=5)
    assert together.estimate.shape == (2, 3)
    for name in ("estimate", "low", "high"):
        np.testing.assert_allclose(getattr(together, name)[1, 2], getattr(alone, name))
    np.testing.assert_allclose(together.estimate, values.mean(0))


@given(st.floats(-3, 3), st.floats(0.1, 5))
def test_intervals_move_and_stretch_with_their_values(shift, scale):
    values, labels = clustered(np.random.default_rng(4), clusters=6)
    plain, moved = bootstrap(values, labels, draws=50), bootstrap(shift + scale * values, labels, draws=50)
    np.testing.assert_allclose(moved.low, shift + scale * plain.low)
    np.testing.assert_allclose(moved.high, shift + scale * plain.high)


def test_another_statistic_is_drawn_by_the_same_weights():
    values, labels = clustered(np.random.default_rng(5))
    found = bootstrap(values, labels, lambda items, weights: weights @ (items**2) / weights.sum(1))
    assert found.estimate == pytest.approx((values**2).mean())
    assert found.low < found.estimate < found.high
    assert found.clusters == {"cluster": 40}


def test_one_seed_gives_one_interval_and_a_higher_level_a_wider_one():
    values, labels = clustered(np.random.default_rng(6))
    first, again, wide = bootstrap(values, labels), bootstrap(values, labels), bootstrap(values, labels, level=0.99)
    assert (first.low, first.high) == (again.low, again.high)
    assert wide.low < first.low and first.high < wide.high
    assert re.fullmatch(r"0\.\d+ \[0\.\d+, 0\.\d+\]", str(first))


def test_a_paired_difference_forgets_what_both_share():
    values, labels = clustered(np.random.default_rng(7))
    found = paired_difference(values + 0.25, values, labels)
    assert found.low == pytest.approx(0.25) and found.high == pytest.approx(0.25)


# -- tests -------------------------------------------------------------------------------------------


def test_with_few_clusters_every_pattern_of_signs_is_tried_once():
    values, labels = np.ones(6), [0, 0, 1, 1, 2, 2]
    assert sign_flip(values, labels) == 2 / 8
    assert sign_flip(values, labels, "greater") == 1 / 8
    assert sign_flip(values, labels, "less") == 1.0
    assert sign_flip(-values, labels, "less") == 1 / 8


def test_drawn_signs_give_the_p_of_all_signs():
    values, labels = clustered(np.random.default_rng(8), clusters=12, effect=0.4)
    assert sign_flip(values, labels, draws=4095) == pytest.approx(float(sign_flip(values, labels, draws=4096)), abs=0.02)


def test_false_alarms_are_as_rare_as_promised_only_if_clusters_flip_whole():
    rng = np.random.default_rng(9)
    alarms = np.zeros(2)
    for trial in range(300):
        values, labels = clustered(rng, clusters=20, effect=0.0)
        alarms += [sign_flip(values, each, draws=199, seed=trial) <= 0.05 for each in (labels, np.arange(len(values)))]
    assert alarms[0] / 300 <= 0.09
    assert alarms[1] / 300 > 0.2


def test_no_p_is_zero_and_no_difference_is_certain():
    values, labels = np.ones(60), np.arange(60)
    assert sign_flip(values, labels, draws=99) == 1 / 100
    assert sign_flip(np.zeros(60), labels, draws=99) == 1.0


def test_the_largest_p_of_several_ways_is_given():
    values, labels = np.ones(60), np.arange(60)
    assert sign_flip(values, {"fine": labels, "coarse": labels // 20}) == 2 / 8


def test_exchanging_what_is_compared_exchanges_the_alternatives():
    rng = np.random.default_rng(10)
    first, second, labels = rng.normal(size=(30, 2)), rng.normal(size=(30, 2)), np.repeat(np.arange(10), 3)
    np.testing.assert_allclose(permutation(first, second, labels, "greater"), permutation(second, first, labels, "less"))


def test_equivalence_is_shown_by_narrow_data_within_the_bound_alone():
    rng = np.random.default_rng(11)
    labels = np.arange(60)
    assert equivalent(rng.normal(0, 0.1, 60), 0.2, labels)
    assert not equivalent(rng.normal(0, 3.0, 60), 0.2, labels)  # no effect seen is not no effect
    assert not equivalent(rng.normal(0.5, 0.1, 60), 0.2, labels)


# -- multiplicity ------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_adjusted_p_keep_their_order_and_never_shrink(p):
    p = np.array(p)
    for adjust in (holm, benjamini_hochberg):
        adjusted = adjust(p)
        assert (adjusted >= p - 1e-15).all() and (adjusted <= 1).all()
        assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0).all()
    np.testing.assert_allclose(benjamini_hochberg(p), stats.false_discovery_control(p))


def test_holm_multiplies_the_smallest_by_all_and_each_next_by_one_less():
    np.testing.assert_allclose(holm(np.array([0.03, 0.01, 0.5, 0.04])), [0.09, 0.04, 0.5, 0.09])


# -- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: bootstrap(np.zeros(0), []), "There are no items to draw from."),
        (lambda: bootstrap(np.array([0.0, np.nan]), [0, 1]), "Values must be finite; 1 of 2 are not. Leave such items out by name first."),
        (lambda: bootstrap(np.zeros(3), [0, 1]), "3 items need 3 labels by cluster; got 2."),
        (
            lambda: bootstrap(np.zeros(3), {"voice": "aaa"}),
            "All 3 items are of one voice: nothing is known about how another voice would differ.",
        ),
        (lambda: bootstrap(np.zeros(2), {}), "labels of at least one way of clustering; got none"),
        (lambda: bootstrap(np.zeros(2), "ab", draws=0), "at least one draw and a level between 0 and 1; got draws=0, level=0.95."),
        (lambda: sign_flip(np.zeros(2), "aa"), "All 2 items are of one cluster"),
        (lambda: sign_flip(np.zeros(2), "ab", "bigger"), "An alternative is two-sided, greater or less; got 'bigger'."),
        (lambda: permutation(np.zeros(2), np.zeros(3), "ab"), "Paired values have one shape; got (2,) and (3,)."),
        (lambda: equivalent(np.zeros(2), 0.0, "ab"), "Equivalence needs a positive bound; got 0.0."),
        (lambda: holm(np.array([0.2, np.nan])), "Adjusting needs at least one p, all in 0..1; got [0.2 nan]."),
    ],
)
@pytest.mark.usefixtures("as_users_run_it")
def test_what_says_nothing_is_refused_in_a_sentence(call, sentence):
    with pytest.raises(StatisticsError, match=re.escape(sentence)):
        call()
