"""Random directions: as long as the change and of its rank, effects that are finite differences of plain hooks, means over cases that are a null."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from slm_interp import hooked
from slm_interp.causal.controls import edits, random
from slm_interp.causal.controls.random import Key, agreement, drawn, exact, linearised, percentile, slopes
from slm_interp.causal.planted import plant
from slm_interp.errors import PatchingError
from slm_interp.hooked.installed import MAJOR
from slm_interp.model import SpeechTextModel
from slm_interp.patching import outcomes
from slm_interp.utterance import Contrast
from tests.causal.controls_runs import SPAN, added, contrast_for, planted_run, random_change, replica, run_of, swap_of
from tests.patching.plain import score

KEY = Key(0, "case", 2)
ARCHITECTURES = ("llama", "qwen3-biases-tied", "opt", "gpt_neox")  # RMSNorm grouped, tied; LayerNorm serial and parallel
STEP, RELATIVE = (1e-4, 1e-5) if MAJOR == 3 else (1e-3, 2e-2)  # norms of 4.x are in float32


@pytest.fixture
def equal(tiny_slm: SpeechTextModel) -> Contrast:
    return contrast_for(tiny_slm)


def all_drawn(change: torch.Tensor, key: Key, draws: int) -> torch.Tensor:
    return torch.cat(list(drawn(change, key, draws)))


# -- what is drawn -------------------------------------------------------------------------------------


def test_a_draw_is_as_long_as_the_change_at_every_position_and_shares_its_directions_and_signs() -> None:
    direction = torch.randn(24, dtype=torch.float64)
    change = torch.tensor([1.0, -2.0, 0.0, 0.5], dtype=torch.float64)[:, None] * direction  # the swap of two words
    made = all_drawn(change, KEY, 60)
    assert made.shape == (60, 4, 24)
    products = made @ made.transpose(1, 2)
    torch.testing.assert_close(products, (change @ change.T).float().expand_as(products), atol=1e-4, rtol=0)


def test_changes_of_rank_three_are_replaced_by_three_orthonormal_directions() -> None:
    generator = torch.Generator().manual_seed(1)
    frame = torch.linalg.qr(torch.randn(24, 3, generator=generator, dtype=torch.float64)).Q.T
    change = torch.randn(5, 3, generator=generator, dtype=torch.float64) @ frame
    made = all_drawn(change, KEY, 60)
    torch.testing.assert_close(made @ made.transpose(1, 2), (change @ change.T).float().expand(60, -1, -1), atol=1e-4, rtol=0)
    assert all(torch.linalg.matrix_rank(one, rtol=1e-4) == 3 for one in made[:5])


def test_what_rounding_adds_to_a_change_is_no_direction_and_lengths_stay() -> None:
    change = torch.tensor([1.0, -2.0, 0.5])[:, None] * torch.randn(24) + 1e-2 * torch.randn(3, 24)
    made = all_drawn(change, KEY, 5)
    torch.testing.assert_close(made.norm(dim=-1), change.norm(dim=-1).expand(5, -1))
    assert all(torch.linalg.matrix_rank(one, rtol=1e-4) == 1 for one in made)


def test_directions_are_uniform_on_the_sphere() -> None:
    made = all_drawn(torch.eye(1, 12), KEY, 4000)[:, 0]
    assert float(made.mean(0).abs().max()) < 0.02
    torch.testing.assert_close(made.T @ made / len(made), torch.eye(12) / 12, atol=0.01, rtol=0)
    frames = torch.cat(list(random._frames(6, 2, KEY, 4000)))
    assert float(frames.mean(0).abs().max()) < 0.03  # QR alone fixes signs


def test_the_first_draws_are_the_same_however_many_are_asked_for_and_others_for_another_case_layer_or_seed() -> None:
    change = torch.randn(3, 24)
    few, many = all_drawn(change, KEY, 7), all_drawn(change, KEY, 120)
    assert torch.equal(few, many[:7])
    others = [all_drawn(change, Key(*key), 7) for key in ((0, "other", 2), (0, "case", 3), (1, "case", 2))]
    assert all(float((one - few).norm()) > 1 for one in others)
    assert not torch.equal(many[:50], many[50:100])


def test_a_change_of_nothing_has_draws_of_nothing() -> None:
    assert not all_drawn(torch.zeros(3, 24), KEY, 3).any()
    assert not linearised(torch.randn(3, 24), torch.zeros(3, 24), KEY, 3).any()


# -- their effects -------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ARCHITECTURES)
def test_linear_effects_are_finite_differences_of_plain_hooks(tmp_path: Path, variant: str) -> None:
    """Whole words of three and two units, so two rows are summed; every architecture's norm."""
    slm = replica(tmp_path, variant)
    contrast = contrast_for(slm)
    run = run_of(slm, contrast)
    sloping = slopes(run)
    assert sloping.shape == (4, 8, slm.model.cfg.d_model)
    for layer in (0, 2, 3):
        change = random_change(run, len(SPAN))
        found = linearised(sloping[layer, SPAN], change, KEY, 3)
        name = hooked.hook_at("resid_post", layer)
        for draw, own in enumerate(all_drawn(change, KEY, 3)):
            ends = [score(slm, contrast.corrupted, contrast, run.outcome, [added(name, SPAN, sign * STEP * own)]) for sign in (1, -1)]
            assert found[draw] == pytest.approx((ends[0] - ends[1]) / (2 * STEP), rel=20 * RELATIVE, abs=RELATIVE)


def test_slopes_block_by_block_are_the_same(tiny_slm: SpeechTextModel, equal: Contrast) -> None:
    run = run_of(tiny_slm, equal)
    torch.testing.assert_close(slopes(run, memory=0), slopes(run), atol=1e-5, rtol=1e-4)


def test_exact_effects_are_those_of_plain_hooks(tiny_slm: SpeechTextModel, equal: Contrast) -> None:
    run = run_of(tiny_slm, equal)
    change, counted = random_change(run, len(SPAN)), []
    found = exact(run, 2, SPAN, change, KEY, 4, done=counted.append)
    name, base = hooked.hook_at("resid_post", 2), score(tiny_slm, equal.corrupted, equal, run.outcome, [])
    for draw, own in enumerate(all_drawn(change, KEY, 4)):
        assert found[draw] == pytest.approx(score(tiny_slm, equal.corrupted, equal, run.outcome, [added(name, SPAN, own)]) - base, abs=1e-4)
    assert sum(counted) == 4


@pytest.mark.parametrize("variant", ["llama", "opt"])
def test_small_changes_agree_and_large_ones_say_that_they_do_not(tmp_path: Path, variant: str) -> None:
    run = run_of(replica(tmp_path, variant), contrast_for(replica(tmp_path, variant)))
    sloping = slopes(run)[1, SPAN]
    for size, fits in ((0.01, True), (3.0, False)):
        change = random_change(run, len(SPAN), size)
        found = agreement(linearised(sloping, change, KEY, 50), exact(run, 1, SPAN, change, KEY))
        assert found.fits == fits, (size, str(found))
        assert ("run all draws exactly" in str(found)) == (not fits)


def test_of_a_bfloat16_model_effects_are_finite_and_correlate(tmp_path: Path) -> None:
    slm = replica(tmp_path, "llama", torch.bfloat16)
    run = run_of(slm, contrast_for(slm), outcomes.difference(units=1))
    change = random_change(run, len(SPAN), 0.3)
    found = agreement(linearised(slopes(run)[1, SPAN], change, KEY, 50), exact(run, 1, SPAN, change, KEY))
    assert found.correlation > 0.8, str(found)


def test_where_text_is_the_cause_both_nulls_agree_and_the_text_change_stands_out() -> None:
    """`mediated` in float64: a logit difference is linear in what stands at the word."""
    planted = plant("mediated", n_contrasts=1)
    run, at = planted_run(planted, outcome=outcomes.logit_difference())
    layer = planted.layers[0]
    change = swap_of(planted, run, layer, at)
    sloping = slopes(run)
    found = linearised(sloping[layer, at], change, KEY)
    beside = agreement(found[:50], exact(run, layer, at, change, KEY))
    assert beside.fits and beside.correlation > 0.999 and beside.slope == pytest.approx(1, abs=0.01)
    text = float(edits.effects(run, layer, at, change[None])[0])
    assert percentile(text, found) == 100 and text > 4 * found.std()
    assert text == pytest.approx(float((sloping[layer, at] * change).sum()), rel=1e-3)


def test_of_a_shadow_the_text_change_is_less_than_random_ones() -> None:
    planted = plant("shadow", n_contrasts=1)
    run, at = planted_run(planted, outcome=outcomes.logit_difference())
    layer = planted.layers[0]
    change = swap_of(planted, run, layer, at)
    found = linearised(slopes(run)[layer, at], change, KEY)
    text = float(edits.effects(run, layer, at, change[None])[0])
    assert abs(text) < 0.01 * found.std() and 20 < percentile(text, found) < 80


def test_of_a_dead_model_all_effects_are_nothing_and_fit() -> None:
    planted = plant("dead", n_contrasts=1)
    run, at = planted_run(planted)
    change = torch.randn(len(at), 128, dtype=torch.float64)
    found = agreement(linearised(slopes(run)[2, at], change, KEY, 50), exact(run, 2, at, change, KEY))
    assert found.fits and found.largest_error < 1e-4


def test_means_over_cases_of_one_draw_shrink_as_independent_ones_do() -> None:
    slope, change = torch.randn(3, 48), torch.randn(1, 48).expand(3, -1) * torch.tensor([[1.0], [2.0], [-1.0]])
    cases = np.stack([linearised(slope, change, Key(0, f"case {number}", 1)) for number in range(25)])
    assert cases.mean(0).std() == pytest.approx(cases.std() / 5, rel=0.15)


# -- what is said of them ------------------------------------------------------------------------------


def test_agreement_is_the_regression_of_exact_on_linear() -> None:
    linear = np.linspace(-1, 1, 50)
    found = agreement(linear, 1.1 * linear + 0.2)
    assert (found.correlation, found.slope, found.offset) == pytest.approx((1, 1.1, 0.2)) and found.largest_error == pytest.approx(0.3)
    assert found.fits


@pytest.mark.parametrize("exact_effects", [lambda x: 1.3 * x, lambda x: 0.7 * x, lambda x: x + 0.5, lambda x: -x, lambda x: x * 0 + 0.3])
def test_another_slope_an_offset_or_no_relation_do_not_fit(exact_effects: object) -> None:
    linear = np.linspace(-1, 1, 50)
    assert not agreement(linear, exact_effects(linear)).fits  # type: ignore[operator]


def test_percentiles_count_ties_half() -> None:
    null = np.array([0.0, 1.0, 1.0, 2.0])
    assert [percentile(observed, null) for observed in (-1.0, 1.0, 1.5, 3.0)] == [0, 50, 75, 100]


def test_what_cannot_be_a_null_is_refused(tiny_slm: SpeechTextModel, equal: Contrast, as_users_run_it: None) -> None:
    run = run_of(tiny_slm, equal)
    with pytest.raises(PatchingError, match="one finite vector for each position"):
        linearised(torch.ones(3, 24), torch.ones(2, 24), KEY)
    with pytest.raises(PatchingError, match="of whose numbers 1 are not finite"):
        linearised(torch.ones(1, 24), torch.tensor([[torch.nan, *[1.0] * 23]]), KEY)
    with pytest.raises(PatchingError, match="one draw or more; got draws=0"):
        linearised(torch.ones(2, 24), torch.ones(2, 24), KEY, 0)
    with pytest.raises(PatchingError, match="Layers count blocks run, 0"):
        exact(run, 4, SPAN, torch.ones(3, 24), KEY)
    with pytest.raises(PatchingError, match="ascending, each once; got \\[3, 2, 4\\]"):
        exact(run, 1, [3, 2, 4], torch.ones(3, 24), KEY)
    with pytest.raises(PatchingError, match="three draws or more"):
        agreement(np.ones(2), np.ones(2))
    with pytest.raises(PatchingError, match="percentile is of a finite effect"):
        percentile(np.nan, np.ones(3))
    with pytest.raises(PatchingError, match="has no gradient"):
        slopes(run_of(tiny_slm, equal, outcomes.rank()))
