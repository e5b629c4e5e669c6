"""CKA and retrieval: identities, and what each of them cannot see."""

from __future__ import annotations

import numpy as np
import pytest

from slm_interp.errors import StatisticsError
from slm_interp.transcription.streams.similarity import cka, cosines, gram, hsic, retrieved

RNG = np.random.default_rng


def states(n: int = 30, d: int = 12, seed: int = 0) -> np.ndarray:
    return RNG(seed).normal(size=(n, d))


def rotation(d: int, seed: int = 1) -> np.ndarray:
    return np.linalg.qr(RNG(seed).normal(size=(d, d)))[0]


def cka_of(first: np.ndarray, second: np.ndarray) -> float:
    return cka(gram(first), gram(second))


def test_cka_is_1_on_itself_and_on_any_rotated_shifted_or_scaled_copy():
    one = states()
    for other in (one, one @ rotation(12), one + 100 * RNG(2).normal(size=12), 7 * one, np.pad(one, ((0, 0), (0, 5)))):
        assert cka_of(one, other) == pytest.approx(1, abs=1e-9)
        assert cka_of(other, states(seed=3)) == pytest.approx(cka_of(one, states(seed=3)), abs=1e-6)
    assert cka_of(one, states(seed=3)) == pytest.approx(cka_of(states(seed=3), one))


def test_cka_is_that_of_the_formula_of_kornblith_once_words_are_many():
    one = states(1200, 6)
    other = one @ RNG(4).normal(size=(6, 6)) + RNG(5).normal(size=(1200, 6))
    x, y = one - one.mean(0), other - other.mean(0)
    biased = np.linalg.norm(x.T @ y) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))
    assert cka_of(one, other) == pytest.approx(biased, abs=0.01)


def test_few_words_in_many_dimensions_are_not_alike_by_being_few():
    """Where the plain estimate is above .9."""
    found, plain = [], []
    for seed in range(20):
        one, other = states(20, 300, seed), states(20, 300, seed + 100)
        found.append(cka_of(one, other))
        k, l_ = ((x - x.mean(0)) @ (x - x.mean(0)).T for x in (one, other))
        plain.append((k * l_).sum() / np.sqrt((k * k).sum() * (l_ * l_).sum()))
    assert np.mean(plain) > 0.9 and abs(np.mean(found)) < 0.05


def test_hsic_is_the_mean_over_all_quadruples_of_words():
    """Song et al. define it as a U-statistic; here it is summed by hand over 6 words."""
    from itertools import permutations

    k, l_ = gram(states(6, 4)), gram(states(6, 4, 9))
    terms = [k[i, j] * (l_[i, j] + l_[q, r] - 2 * l_[i, q]) for i, j, q, r in permutations(range(6), 4)]
    assert hsic(k, l_) == pytest.approx(np.mean(terms))


def test_what_all_states_share_does_not_make_them_alike():
    """The planted fault: without centring, a direction of the modality makes any two sets agree."""
    shared = 50 * np.eye(12)[0]
    one, other = states() + shared, states(seed=8) + shared
    assert abs(cka_of(one, other)) < 0.3
    k, l_ = one @ one.T, other @ other.T
    assert (k * l_).sum() / np.sqrt((k * k).sum() * (l_ * l_).sum()) > 0.99  # what it would be
    types = np.arange(30)
    assert retrieved(cosines(one, other), types, types).mean() < 0.2
    raw = one @ other.T / np.outer(np.linalg.norm(one, axis=1), np.linalg.norm(other, axis=1))
    assert raw.min() > 0.98 and np.abs(cosines(one, other)).max() < 0.9


def test_retrieval_needs_the_same_directions_and_cka_does_not():
    one = states()
    turned, types = one @ rotation(12), np.arange(30)
    assert retrieved(cosines(one, one), types, types).mean() == 1
    assert retrieved(cosines(one, turned), types, types).mean() < 0.3
    assert cka_of(one, turned) == pytest.approx(1)


def test_equally_similar_candidates_share_a_hit():
    similarity = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    found = retrieved(similarity, np.array([0, 1]), np.array([0, 1, 1]))
    np.testing.assert_allclose(found, [1 / 2, 2 / 3])
    np.testing.assert_allclose(retrieved(similarity, np.array([0, 1]), np.array([[0, 1, 1], [1, 1, 0]])), [[1 / 2, 2 / 3], [0, 2 / 3]])


def test_states_that_do_not_vary_have_no_cka_and_find_nothing():
    flat = np.ones((10, 4))
    assert np.isnan(cka_of(flat, states(10, 4)))
    assert (cosines(flat, states(10, 4)) == 0).all()
    with pytest.raises(StatisticsError, match="the same 4 words or more; got 3 and 3."):
        cka_of(states(3), states(3))
