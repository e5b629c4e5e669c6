"""What later blocks read: directions that nobody reads by construction, and the illusion that two splits tell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from slm_interp import hooked
from slm_interp.causal.controls.edits import effects
from slm_interp.causal.controls.natural import Natural
from slm_interp.causal.controls.random import Key, drawn
from slm_interp.causal.controls.readers import Split, what_is_read, what_varies
from slm_interp.causal.planted import plant
from slm_interp.errors import PatchingError
from slm_interp.lenses.directions import directions_of
from slm_interp.model import SpeechTextModel
from slm_interp.patching.interventions import SwapCoordinates
from tests.causal.controls_runs import SPAN, contrast_for, planted_run, replica, run_of, swap_of

READING = ("W_Q", "W_K", "_W_K", "W_V", "_W_V", "W_in", "W_gate")


def deafened(slm: SpeechTextModel, direction: Tensor, blocks: range) -> SpeechTextModel:
    """No reader of some blocks sees a direction: `w * W` is made orthogonal to it, whatever the norm weights `w` are."""
    held, unit = hooked.parameters(slm.model), direction / direction.norm()
    for name, weight in held.items():
        parts = name.split(".")
        if parts[-1] in READING and int(parts[1]) in blocks:
            norm = held[f"blocks.{parts[1]}.{'ln1' if parts[2] == 'attn' else 'ln2'}.w"][:, None]
            read = weight.data * norm
            weight.data = (read - unit[:, None] * (unit @ read)[..., None, :]) / norm
    return slm


def direction_of(slm: SpeechTextModel) -> Tensor:
    return torch.randn(slm.model.cfg.d_model, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@pytest.mark.parametrize("variant", ["llama", "qwen3-biases-tied"])
def test_a_direction_that_no_later_block_sees_is_unread_from_there_on(tmp_path: Path, variant: str) -> None:
    slm = replica(tmp_path, variant)
    direction = direction_of(slm)
    deafened(slm, direction, range(1, 3))
    found = what_is_read(slm, [0, 1, 2], energy=1.0)
    assert [found[layer].rank for layer in (0, 1, 2)] == [24, 23, 23]
    assert found[0].everything and "the split says nothing" in str(found[0])
    for layer in (1, 2):
        torch.testing.assert_close(found[layer].outside(direction), direction, atol=1e-6, rtol=0)
        assert float(found[layer].inside(direction).norm()) < 1e-6


def test_what_is_unread_does_next_to_nothing_and_what_is_left_of_it_is_the_scale_of_norms(tmp_path: Path) -> None:
    slm = replica(tmp_path, "llama")
    direction = direction_of(slm)
    direction /= direction.norm()
    deafened(slm, direction, range(1, 3))
    run = run_of(slm, contrast_for(slm))
    there = run.standing(1, SPAN)
    step = -2 * (there @ direction)[:, None] * direction  # a reflection: lengths stay, and with them the first scale that is met
    split = what_is_read(slm, [1], energy=1.0)[1]
    torch.testing.assert_close(split.outside(step), step, atol=1e-6, rtol=0)
    others = effects(run, 1, SPAN, torch.cat(list(drawn(step, Key(0, "unread", 1), 30))).double())
    assert float(effects(run, 1, SPAN, step[None]).abs()) < 0.2 * float(others.square().mean().sqrt())


@pytest.mark.parametrize("variant", ["opt", "gpt_neox"])
def test_of_a_layer_norm_the_mean_is_unread_and_moving_it_does_nothing(tmp_path: Path, variant: str) -> None:
    slm = replica(tmp_path, variant)
    width = slm.model.cfg.d_model
    found = what_is_read(slm, [0, 2], energy=1.0)
    mean = torch.ones(len(SPAN), width, dtype=torch.float64)
    for layer, own in found.items():
        assert own.rank == width - 1 and float(own.inside(mean).norm()) < 1e-6
        effect = effects(run_of(slm, contrast_for(slm)), layer, SPAN, own.outside(mean)[None])
        assert abs(float(effect[0])) < 1e-4


def test_the_row_space_is_that_of_everything_stacked_by_hand(tiny_slm: SpeechTextModel) -> None:
    """Ranked by energy, each reader alike: against numpy on matrices folded by hand."""
    held, stacked = hooked.parameters(tiny_slm.model), []
    for block in (1, 2):
        for name, weight in held.items():
            parts = name.split(".")
            if parts[-1] in READING and int(parts[1]) == block:
                rows = (weight * held[f"blocks.{block}.{'ln1' if parts[2] == 'attn' else 'ln2'}.w"][:, None]).detach().double()
                rows = rows.movedim(-2, -1).reshape(-1, 24).numpy()
                stacked.append(rows / np.linalg.norm(rows))
    assert len(stacked) == 10
    _, sizes, rows = np.linalg.svd(np.concatenate(stacked), full_matrices=False)
    shares = np.cumsum(sizes**2) / (sizes**2).sum()
    for energy in (0.5, 0.9, 0.99):
        found = what_is_read(tiny_slm, [1], energy=energy)[1]
        rank = int((shares < energy).sum()) + 1
        assert found.rank == rank
        np.testing.assert_allclose(found.basis.T @ found.basis, rows[:rank].T @ rows[:rank], atol=1e-4)


def test_readers_count_alike_however_large_their_weights_are(tmp_path: Path) -> None:
    slm = replica(tmp_path, "llama")
    before = what_is_read(slm, [0], energy=0.9)[0]
    hooked.parameters(slm.model)["blocks.1.mlp.W_in"].data *= 100
    after = what_is_read(slm, [0], energy=0.9)[0]
    assert after.rank == before.rank
    torch.testing.assert_close(after.basis.T @ after.basis, before.basis.T @ before.basis, atol=1e-6, rtol=0)


def test_columns_of_the_unembedding_read_only_where_they_are_asked_for(tiny_slm: SpeechTextModel) -> None:
    ids = [12, 15, 20]
    assert what_is_read(tiny_slm, [3])[3].rank == 0
    found = what_is_read(tiny_slm, [3], ids, energy=1.0)[3]
    assert found.rank == 3
    own = directions_of(tiny_slm, ids)
    torch.testing.assert_close(found.inside(own), own, atol=1e-4, rtol=1e-4)
    change = torch.ones(2, 24)
    torch.testing.assert_close(found.inside(change) + found.outside(change), change)
    assert abs(float((found.inside(change) * found.outside(change)).sum())) < 1e-4


@pytest.mark.parametrize(("kind", "whole"), [("mediated", 1.0), ("shadow", 0.0)])
def test_text_of_a_planted_model_is_read_where_it_is_the_cause_and_not_where_it_is_a_shadow(kind: str, whole: float) -> None:
    planted = plant(kind, n_contrasts=1)
    run, at = planted_run(planted)
    layer = planted.layers[-1]  # the last before it is read
    change = swap_of(planted, run, layer, at)
    split = what_is_read(planted.slm, [layer], energy=1.0)[layer]
    assert not split.everything
    inside = split.inside(change)
    assert float(inside.norm() / change.norm()) == pytest.approx(whole, abs=1e-3)
    text, read, unread = effects(run, layer, at, torch.stack([change, inside, split.outside(change)])).tolist()
    assert read == pytest.approx(text, abs=1e-3) and abs(unread) < 1e-3


# -- the illusion --------------------------------------------------------------------------------------


def test_the_illusion_of_makelov_et_al_is_all_dormant_and_vanishes_along_what_is_read() -> None:
    """A stream of four dimensions: 0 varies and nobody reads it, 1 is read and never varies, 2 varies and is read, 3 is nothing."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(500, 4, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 0.0, 1.0, 0.0])
    varying = what_varies(Natural(states, np.array(["a"] * 500, dtype=object), 1e9, 0))
    read = Split(torch.eye(4, dtype=torch.float64)[[1, 2]], 1.0, "read", "unread", "a readout")
    outcome = torch.tensor([0.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    first = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64)  # disconnected + dormant
    second = torch.tensor([-1.0, -1.0, 0.0, 0.5], dtype=torch.float64)
    resid = torch.tensor([[[2.0, 0.0, 1.0, 0.0]]], dtype=torch.float64)
    change = SwapCoordinates(first, second)(resid, None) - resid
    assert varying.rank == 2 and abs(float(change @ outcome)) > 1  # the patch seems to work
    assert float(varying.inside(change) @ outcome) == pytest.approx(0, abs=1e-6)
    assert float(varying.outside(change) @ outcome) == pytest.approx(float(change @ outcome))
    assert float(read.inside(change) @ outcome) == pytest.approx(
        float(change @ outcome)
    )  # splitting the change by its readers does not tell
    projected = read.inside(first)
    assert float(resid[0, 0] @ projected) == 0  # along what is read there is no coordinate to exchange


def test_what_varies_is_where_most_of_the_variance_is() -> None:
    variances = torch.tensor([50.0, 45.0, 4.5, 0.5], dtype=torch.float64)
    white = torch.linalg.qr(torch.cat([torch.ones(90, 1), torch.randn(90, 4)], 1).double()).Q[:, 1:]
    states = Natural(3 + white * (90 * variances).sqrt(), np.array(["a"] * 90, dtype=object), 1e9, 0)
    assert [what_varies(states, energy).rank for energy in (0.5, 0.9, 0.99, 1.0)] == [1, 2, 3, 4]
    change = torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.float64)
    torch.testing.assert_close(what_varies(states).outside(change), torch.tensor([[0.0, 0, 0, 4]], dtype=torch.float64), atol=1e-6, rtol=0)
    assert str(what_varies(states)) == "varying: 3 of 4 dimensions hold 0.99 of the variance of 90 natural residuals"


def test_a_bfloat16_model_is_read_too(tmp_path: Path) -> None:
    slm = replica(tmp_path, "llama", torch.bfloat16)
    found = what_is_read(slm, [1], energy=0.9)[1]
    assert 0 < found.rank < 24 and found.inside(torch.ones(1, 24, dtype=torch.bfloat16)).dtype == torch.float32


def test_layers_and_energies_that_are_none_are_refused(tiny_slm: SpeechTextModel) -> None:
    for layers in ([], [4], [-1]):
        with pytest.raises(PatchingError, match="Layers count blocks run, 0"):
            what_is_read(tiny_slm, layers)
    for energy in (0.0, 1.1, float("nan")):
        with pytest.raises(PatchingError, match="Energy is a share above 0"):
            what_is_read(tiny_slm, [1], energy=energy)
