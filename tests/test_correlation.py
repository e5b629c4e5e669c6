"""Rank correlations against scipy, against least squares by hand, and against planted relations."""

from __future__ import annotations

import re

import numpy as np
import pytest

from slm_interp.correlation import detectable, fieller_interval, mid_ranks, rank_correlation, spearman
from slm_interp.errors import StatisticsError

scipy_stats = pytest.importorskip("scipy.stats")
RNG = np.random.default_rng


def few(**options):
    return {"draws": 200, **options}


@pytest.mark.parametrize("ties", [False, True])
def test_without_covariates_it_is_spearman_s(ties):
    rng = RNG(0)
    for n in (4, 14, 60):
        x, y = rng.normal(size=(2, n))
        if ties:
            x, y = np.round(x), np.round(y * 2)
        found = spearman(x, y, **few())
        assert found.rho == pytest.approx(scipy_stats.spearmanr(x, y).statistic)
        np.testing.assert_allclose(mid_ranks(x), scipy_stats.rankdata(x))
        assert found.low <= found.rho <= found.high


def test_p_is_that_of_scipy_s_permutation_test():
    rng = RNG(1)
    x = rng.normal(size=14)
    y = 0.5 * x + rng.normal(size=14)
    theirs = scipy_stats.permutation_test(
        (x,), lambda one: scipy_stats.spearmanr(one, y).statistic, permutation_type="pairings", n_resamples=2000, rng=RNG(0)
    )
    assert spearman(x, y, draws=4000).p == pytest.approx(theirs.pvalue, abs=0.02)


def test_a_partial_correlation_is_that_of_the_ranks_freed_of_the_covariate_s_ranks():
    rng = RNG(2)
    x, y, z = rng.normal(size=(3, 50))
    x, y = x + z, y - z
    (r_xy, r_xz, r_yz) = (scipy_stats.spearmanr(*two).statistic for two in ((x, y), (x, z), (y, z)))
    textbook = (r_xy - r_xz * r_yz) / np.sqrt((1 - r_xz**2) * (1 - r_yz**2))
    assert spearman(x, y, {"z": z}, **few()).rho == pytest.approx(textbook)


def test_what_a_common_cause_makes_vanishes_when_it_is_taken_out():
    rng = RNG(3)
    cause = rng.normal(size=300)
    x, y = cause + 0.5 * rng.normal(size=(2, 300))
    raw, partial = spearman(x, y, **few()), spearman(x, y, {"cause": cause}, **few())
    assert raw.low > 0.6 and raw.p < 0.01
    assert abs(partial.rho) < 0.15 and partial.low < 0 < partial.high and partial.p > 0.05


def test_a_planted_partial_correlation_is_found_behind_a_covariate_that_hides_it():
    rng = RNG(4)
    cause, link = rng.normal(size=(2, 400))
    x, y = link + 3 * cause + 0.3 * rng.normal(size=400), link - 3 * cause + 0.3 * rng.normal(size=400)
    assert spearman(x, y, **few()).rho < -0.5
    partial = spearman(x, y, {"cause": cause}, **few())
    assert partial.low > 0.3 and partial.p < 0.01


def test_two_clouds_apart_make_a_correlation_that_no_cloud_has():
    """The paper's fourteen models: those that transcribe and those that do not."""
    rng = RNG(5)
    cloud = np.repeat([0, 1], 7)
    x, y = 5 * cloud + rng.normal(size=(2, 14))
    assert spearman(x, y, **few()).p < 0.05
    within = spearman(x, y, within=cloud, **few())
    assert abs(within.rho) < 0.5 and within.p > 0.05
    by_hand = [scipy_stats.rankdata(one[cloud == part]) - 4 for part in (0, 1) for one in (x, y)]
    expected = np.corrcoef(np.concatenate(by_hand[::2]), np.concatenate(by_hand[1::2]))[0, 1]
    assert within.rho == pytest.approx(expected)


def test_a_relation_inside_groups_is_found_though_groups_run_the_other_way():
    rng = RNG(6)
    group = np.repeat(np.arange(10), 12)
    inside = rng.normal(size=120)
    x, y = inside + 10 * group, inside - 10 * group + 0.3 * rng.normal(size=120)
    assert spearman(x, y, **few()).rho < -0.8
    assert spearman(x, y, within=group, **few()).low > 0.7


def test_items_of_a_cluster_are_no_independent_evidence():
    """Ten facts, each in twelve voices that say the same: the p and the interval are those of ten."""
    rng = RNG(7)
    facts = rng.normal(size=(2, 10))
    x, y = np.repeat(facts, 12, axis=1)
    voice = np.repeat(np.arange(10), 12)
    single, clustered = spearman(*facts, **few(draws=1000)), spearman(x, y, clusters=voice, **few(draws=1000))
    assert clustered.rho == pytest.approx(single.rho) and clustered.clusters == 10
    assert clustered.p == pytest.approx(single.p, abs=0.05)
    assert clustered.high - clustered.low == pytest.approx(single.high - single.low, abs=0.1)
    naive = spearman(x, y, **few(draws=1000))
    assert naive.high - naive.low < 0.6 * (clustered.high - clustered.low)


def test_under_no_relation_p_is_below_a_tenth_about_a_tenth_of_the_time():
    rng = RNG(8)
    cause = rng.normal(size=24)
    found = [spearman(*(cause + rng.normal(size=(2, 24))), {"cause": cause}, draws=39, seed=one).p for one in range(100)]
    assert 0.03 < np.mean(np.array(found) <= 0.1) < 0.2


def test_one_sided_p_know_the_direction():
    x = np.arange(10.0)
    assert spearman(x, x, alternative="greater", **few()).p < 0.01
    assert spearman(x, x, alternative="less", **few()).p == 1


def test_draws_in_which_nothing_varies_are_counted():
    x = np.array([0.0, 0, 0, 0, 0, 1])
    found = spearman(x, np.arange(6.0), **few())
    assert 0.2 < found.undefined < 0.5
    assert np.isnan(rank_correlation(np.zeros((4, 2)), np.zeros(4, dtype=np.int64)))


def test_what_fourteen_models_allow():
    low, high = fieller_interval(0.70, 14)
    assert (round(low, 2), round(high, 2)) == (0.25, 0.90)
    assert detectable(14) == pytest.approx(0.70, abs=0.02) and detectable(281) < 0.18
    assert fieller_interval(1.0, 14) == (1.0, 1.0)
    assert str(spearman(np.arange(5.0), np.arange(5.0), **few())).startswith("1.000 [1.000, 1.000], p = ")


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"covariates": {"z": np.arange(6.0)}}, "x or y does not vary: there is nothing to correlate."),
        ({"covariates": {"z": np.full(6, np.nan)}}, "one finite value for each of 6 items; z has 6, or some are not finite."),
        ({"clusters": [1, 1, 1, 2, 2, 2]}, "at least 4 items in 3 clusters; got 6 in 2."),
        ({"within": [1, 2]}, "6 items need 6 labels of within; got 2."),
        ({"clusters": [1, 1, 2, 2, 3, 3], "within": [1, 2, 1, 2, 1, 2]}, "A cluster lies in several groups"),
        ({"alternative": "more"}, "An alternative is two-sided, greater or less; got 'more'."),
        ({"draws": 0}, "got draws=0, level=0.95"),
    ],
)
def test_items_that_do_not_fit_are_refused_in_a_sentence(options, sentence):
    with pytest.raises(StatisticsError, match=re.escape(sentence)):
        spearman(np.arange(6.0), np.array([3.0, 1, 4, 1, 5, 9]), **options)


def test_too_few_items_are_refused():
    for function in (lambda: detectable(3), lambda: fieller_interval(0.5, 3), lambda: spearman(np.arange(3.0), np.arange(3.0))):
        with pytest.raises(StatisticsError, match="4"):
            function()
