"""Natural residuals, subspaces of equal variance and distances: against numpy, scikit-learn and spectra that are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf
from torch import Tensor

from slm_interp import hooked
from slm_interp.causal.controls.distance import distance, spread
from slm_interp.causal.controls.natural import Natural, collect, natural
from slm_interp.causal.controls.random import Key, drawn
from slm_interp.causal.controls.variance import equal_variance
from slm_interp.causal.planted import plant
from slm_interp.errors import PatchingError
from slm_interp.lenses.directions import directions_of, first_pieces
from slm_interp.model import SpeechTextModel
from slm_interp.patching.interventions import Erase
from tests.causal.controls_runs import contrast_for, planted_run, swap_of


def normal(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_variances(variances: list[float], states: int = 400) -> tuple[Natural, Tensor]:
    """States whose principal components and variances are these, exactly, far from 0; and the components."""
    white = torch.linalg.qr(torch.cat([torch.ones(states, 1, dtype=torch.float64), normal(states, len(variances))], 1)).Q[:, 1:]
    components = torch.linalg.qr(normal(len(variances), len(variances), 1)).Q
    resid = 5 + (white * (states * torch.tensor(variances, dtype=torch.float64)).sqrt()) @ components
    return Natural(resid, np.array([f"prompt {one // 10}" for one in range(states)], dtype=object), 1e9, 0), components


# -- what is natural -----------------------------------------------------------------------------------


def test_first_positions_and_massive_ones_are_kept_out() -> None:
    streams = [normal(20, 8, seed) for seed in range(3)]
    for one in streams:
        one[0] *= 100
    streams[1][7] *= 50
    found = natural(streams, ["a", "b", "c"])
    assert len(found) == 3 * 19 - 1 and found.left_out == 4
    assert list(found.group) == ["a"] * 19 + ["b"] * 18 + ["c"] * 19
    assert torch.equal(found.resid[:19], streams[0][1:])
    assert found.limit == pytest.approx(5 * float(torch.cat([one[1:] for one in streams]).norm(dim=-1).median()))
    assert found.ordinary(streams[1][[0, 6, 7]], [0, 6, 7]).tolist() == [False, True, False]


def test_states_of_other_groups_are_all_but_ones_own() -> None:
    found = natural([normal(5, 4, seed) for seed in range(3)], ["a", "b", "a"])
    assert set(found.without(["a"]).group) == {"b"} and len(found.without(["a"])) == 4
    with pytest.raises(PatchingError, match="Without 2 of its groups 0 of 12 natural states are left"):
        found.without(["a", "b"])


def test_collected_are_the_residuals_of_the_model(tiny_slm: SpeechTextModel) -> None:
    contrast = contrast_for(tiny_slm)
    found = collect(tiny_slm, [contrast.clean, contrast.corrupted], ["clean", "corrupted"], [3, 1], most=100.0)
    for layer in (1, 3):
        wanted = [hooked.residuals(tiny_slm.model, one.tokens)[layer, 1:] for one in (contrast.clean, contrast.corrupted)]
        torch.testing.assert_close(found[layer].resid, torch.cat(wanted), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("states", [9, 200])
def test_principal_components_are_those_of_numpy_with_fewer_states_than_dimensions_too(states: int) -> None:
    resid = normal(states, 24) * torch.linspace(3, 0.1, 24, dtype=torch.float64) + 7
    found = Natural(resid, np.array(["a"] * states, dtype=object), 1e9, 0).principal
    _, sizes, rows = np.linalg.svd(resid.numpy() - resid.numpy().mean(0), full_matrices=False)
    np.testing.assert_allclose(found.variances, sizes**2 / states, atol=1e-10)
    cosines = np.abs((found.components.numpy() * rows).sum(1))[: min(states - 1, 24)]
    np.testing.assert_allclose(cosines, 1, atol=1e-6)


# -- equal variance ------------------------------------------------------------------------------------

SPECTRUM = [100.0, 40.0, 20.0, 9.0, 4.0, 2.0, 1.0, 0.5, 0.1, 0.0]


def test_the_run_of_components_has_the_variance_of_the_text_subspace() -> None:
    states, components = with_variances(SPECTRUM)
    pair = torch.stack([components[1] + components[7], components[2] - 2 * components[1]])  # dependent on three components, oblique
    found = equal_variance(states, pair)
    basis = torch.linalg.qr(pair.T).Q
    wanted = float(((states.resid - states.resid.mean(0)) @ basis).square().sum()) / len(states)
    sums = [SPECTRUM[one] + SPECTRUM[one + 1] for one in range(len(SPECTRUM) - 1)]
    nearest = min(range(len(sums)), key=lambda one: abs(np.log(max(sums[one], 1e-9) / wanted)))
    assert found.first == nearest and found.wanted == pytest.approx(wanted) and found.variance == pytest.approx(sums[nearest])
    assert found.whole == pytest.approx(sum(SPECTRUM))
    torch.testing.assert_close((found.directions @ components[nearest : nearest + 2].T).abs(), torch.eye(2).double(), atol=1e-6, rtol=0)


def test_a_subspace_of_components_finds_itself_whatever_its_basis_and_dependent_directions_are_no_dimension() -> None:
    states, components = with_variances(SPECTRUM)
    for first in (0, 3, 6):
        a, b = components[first], components[first + 1]
        found = equal_variance(states, torch.stack([a + b, a - 3 * b, 2 * a]))
        assert (found.first, len(found.directions)) == (first, 2)
        assert found.overlap == pytest.approx(1) and found.variance == pytest.approx(found.wanted)


def test_nearest_is_by_ratio() -> None:
    states, components = with_variances([10.0, 1.0])
    found = equal_variance(states, (components[0] + 2**0.5 * components[1])[None])
    assert found.wanted == pytest.approx(4) and found.first == 0  # 10 is 2.5 times 4; 1 is a quarter of it


def test_variance_within_the_text_is_what_erasing_it_takes_away() -> None:
    states, _ = with_variances(SPECTRUM)
    pair = normal(2, 10, 5)
    found = equal_variance(states, pair)
    assert found.wanted / found.whole == pytest.approx(Erase(pair).variance_removed(states.resid), rel=1e-6)


def test_text_that_does_not_vary_meets_the_components_that_vary_least() -> None:
    states, components = with_variances(SPECTRUM)
    assert equal_variance(states, components[9:]).first == 9
    assert equal_variance(states, components[:1]).first == 0


def test_more_directions_than_components_are_refused() -> None:
    few = Natural(normal(3, 24), np.array(["a"] * 3, dtype=object), 1e9, 0)
    with pytest.raises(PatchingError, match="has 5 of 3 principal components"):
        equal_variance(few, normal(5, 24, 2))
    with pytest.raises(PatchingError, match="as many numbers as the stream"):
        equal_variance(few, normal(2, 23))


# -- distances -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("states", [12, 30, 500])
def test_covariance_and_distances_are_those_of_scikit_learn(states: int) -> None:
    resid = normal(states, 24) @ normal(24, 24, 1) * torch.linspace(3, 0.1, 24, dtype=torch.float64) + 7
    found = spread(Natural(resid, np.array(["a"] * states, dtype=object), 1e9, 0))
    peer = LedoitWolf().fit(resid.numpy())
    assert found.shrinkage == pytest.approx(peer.shrinkage_)
    np.testing.assert_allclose(found.factor @ found.factor.T, peer.covariance_, rtol=1e-6, atol=1e-8)
    others = normal(6, 24, 3) * 5
    np.testing.assert_allclose(found.distances(others).square(), peer.mahalanobis(others.numpy()), rtol=1e-5)


def test_an_edit_of_nothing_is_as_near_as_before_and_unlikely_directions_are_far() -> None:
    states, components = with_variances([100.0, 1.0, 0.01])
    around, stood = spread(states), states.resid[:4]
    found = distance(stood, stood, around, [1, 2, 3, 4])
    assert (found.mahalanobis, found.length, found.positions) == pytest.approx((1, 1, 4))
    likely, unlikely = (distance(stood + 3 * one, stood, around, [1, 2, 3, 4]).mahalanobis for one in (components[0], components[2]))
    assert likely < 1.5 < 3 < unlikely
    assert distance(2 * stood, stood, around, [1, 2, 3, 4]).length == pytest.approx(2)


def test_a_ratio_is_a_mean_over_positions_that_are_no_sinks() -> None:
    states, _ = with_variances([4.0, 1.0, 1.0])
    around = spread(Natural(states.resid, states.group, 50.0, 0))
    stood = torch.cat([states.resid[:2], 100 * states.resid[2:3]])
    edited = stood + 1
    found = distance(edited, stood, around, [0, 4, 5])
    alone = around.distances(edited[1:2]) / around.distances(stood[1:2])
    assert found.positions == 1 and found.mahalanobis == pytest.approx(float(alone))
    none = distance(edited[:1], stood[:1], around, [0])
    assert none.positions == 0 and np.isnan(none.mahalanobis)


def test_a_state_is_nearer_to_a_distribution_that_it_is_part_of() -> None:
    """What leaving a prompt's own residuals out is for: with 30 states in 24 dimensions a state with itself looks 1.2 times nearer, or more."""
    resid = normal(30, 24)
    states = Natural(resid, np.array([str(one) for one in range(30)], dtype=object), 1e9, 0)
    own = float(spread(states).distances(resid[:1]))
    other = float(spread(states.without(["0"])).distances(resid[:1]))
    assert other > own


def test_a_text_swap_of_a_planted_model_is_nearer_than_a_random_change_of_its_size() -> None:
    planted = plant("mediated", n_contrasts=16)
    prompts = [one for contrast in planted.contrasts for one in (contrast.clean, contrast.corrupted)]
    layer = planted.layers[0]
    states = collect(planted.slm, prompts, [str(number // 2) for number in range(len(prompts))], [layer])[layer]
    run, at = planted_run(planted)
    around, stood = spread(states.without(["0"])), run.standing(layer, at)
    change = swap_of(planted, run, layer, at)
    text = distance(stood + change, stood, around, at).mahalanobis
    chance = [distance(stood + one, stood, around, at).mahalanobis for one in next(iter(drawn(change, Key(0, "a", layer), 20)))]
    assert 0.8 < text < 1.5 and np.median(chance) > text
    clean = hooked.residuals(planted.slm.model, planted.contrasts[0].clean.tokens)[layer, list(planted.contrasts[0].clean.words[0].span)]
    assert distance(clean, stood, around, at).mahalanobis < 1.5


def test_equal_variance_of_a_planted_model_is_found_among_its_residuals_without_the_constant() -> None:
    planted = plant("shadow", n_contrasts=16)
    prompts = [one for contrast in planted.contrasts for one in (contrast.clean, contrast.corrupted)]
    layer = planted.layers[0]
    states = collect(planted.slm, prompts, [str(number) for number in range(len(prompts))], [layer])[layer]
    words = planted.contrasts[0].clean.words[0].text, planted.contrasts[0].corrupted.words[0].text
    found = equal_variance(states, directions_of(planted.slm, first_pieces(planted.slm, words)))
    assert len(found.directions) == 2 and found.variance == pytest.approx(found.wanted, rel=0.1) and found.whole < 100
    assert "of the variance, text" in str(found)


def test_residuals_that_say_nothing_of_a_distribution_are_refused() -> None:
    with pytest.raises(PatchingError, match="each of a group; got 1 and 2 groups"):
        natural([normal(5, 4)], ["a", "b"])
    with pytest.raises(PatchingError, match="two or more, finite; got 1"):
        natural([normal(2, 4)], ["a"])
    with pytest.raises(PatchingError, match="two or more, finite"):
        natural([torch.full((4, 4), torch.nan)], ["a"])
    still = Natural(torch.ones(5, 4), np.array(["a"] * 5, dtype=object), 1e9, 0)
    with pytest.raises(PatchingError, match="needs some that vary; these 5 do not"):
        spread(still)
    with pytest.raises(PatchingError, match="and a variance; theirs is 0"):
        equal_variance(still, torch.ones(1, 4))
    with pytest.raises(PatchingError, match="Edited residuals are finite"):
        distance(torch.full((1, 4), torch.inf), torch.ones(1, 4), spread(Natural(normal(9, 4), still.group[:1].repeat(9), 1e9, 0)), [1])
