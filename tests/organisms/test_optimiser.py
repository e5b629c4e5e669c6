from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from slm_interp.errors import SpeechError
from slm_interp.organisms.material import Material
from slm_interp.organisms.network import joint_model, new_model
from slm_interp.organisms.optimiser import Optimiser, inherited_weights
from slm_interp.organisms.recipe import Phase, Recipe, Shape
from slm_interp.organisms.training import Running, fit, next_token_loss
from tests.organisms.toy import CPU

SHAPE = Shape(d_model=16, n_layers=4, below=1, above=1, n_heads=2, n_key_value_heads=2, d_mlp=24, n_ctx=64)
TEXT_ROWS, ROWS = 30, 40


def joint(shape: Shape = SHAPE) -> Any:
    return joint_model(new_model(shape, TEXT_ROWS, seed=0, n_layers=2), shape, ROWS, seed=1)


def moved(phase: Phase, shape: Shape = SHAPE, steps: int = 3) -> tuple[Any, dict[str, Tensor]]:
    """The model after some steps, and by how much each weight moved."""
    model = joint(shape)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    optimiser = Optimiser(model, phase, shape, TEXT_ROWS)
    ids = torch.randint(ROWS, (4, 20), generator=torch.Generator().manual_seed(0))
    for _ in range(steps):
        next_token_loss(model, ids).backward()
        optimiser.step(1e-2)
    return model, {name: (weight.detach() - before[name]).abs() for name, weight in model.named_parameters()}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_what_was_inherited_stays_and_all_else_moves(optimiser: Any, tied: bool) -> None:
    model, by = moved(Phase(steps=1, optimiser=optimiser, inherited=0.0), replace(SHAPE, tied=tied))
    inherited = {id(weight) for weight in inherited_weights(model, SHAPE)}
    assert len(inherited) == 2 * 9 + 1
    for name, weight in model.named_parameters():
        if id(weight) in inherited:
            assert float(by[name].max()) == 0.0, name
        elif name in ("model.embed_tokens.weight", "lm_head.weight"):
            assert float(by[name][:TEXT_ROWS].max()) == 0.0
            assert float(by[name][TEXT_ROWS:].amax(-1).min()) > 0.0
        else:
            assert float(by[name].max()) > 0.0, name


def test_a_tenth_is_a_tenth_of_the_way_at_the_first_step() -> None:
    _, whole = moved(Phase(steps=1), steps=1)
    model, tenth = moved(Phase(steps=1, inherited=0.1), steps=1)
    inherited = {id(weight) for weight in inherited_weights(model, SHAPE)}
    for name, weight in model.named_parameters():
        if id(weight) in inherited:
            torch.testing.assert_close(tenth[name], 0.1 * whole[name], rtol=1e-2, atol=1e-7)
        elif name != "model.embed_tokens.weight":
            torch.testing.assert_close(tenth[name], whole[name])
    rows = tenth["model.embed_tokens.weight"], whole["model.embed_tokens.weight"]
    torch.testing.assert_close(rows[0][:TEXT_ROWS], 0.1 * rows[1][:TEXT_ROWS], rtol=1e-2, atol=1e-7)
    torch.testing.assert_close(rows[0][TEXT_ROWS:], rows[1][TEXT_ROWS:])


def test_blocks_above_can_be_held() -> None:
    _, by = moved(Phase(steps=1, above=0.0))
    assert {name for name, far in by.items() if float(far.max()) == 0.0} == {name for name in by if name.startswith("model.layers.3.")}


def test_muon_moves_the_matrices_of_blocks_and_adamw_the_rest() -> None:
    optimiser = Optimiser(joint(), Phase(steps=1, optimiser="muon"))
    kinds = {type(part).__name__: sum(len(group["params"]) for group in part.param_groups) for part in optimiser.parts}
    assert kinds == {"AdamW": 1 + 4 * 2 + 1, "Muon": 4 * 7}


def test_a_new_phase_lets_frozen_weights_go() -> None:
    model = joint()
    Optimiser(model, Phase(steps=1, inherited=0.0), SHAPE, TEXT_ROWS)
    assert not all(weight.requires_grad for weight in model.parameters())
    Optimiser(model, Phase(steps=1), SHAPE, TEXT_ROWS)
    assert all(weight.requires_grad for weight in model.parameters())


def test_stopped_muon_with_frozen_weights_ends_where_uninterrupted_training_does(
    recipe: Recipe, material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    phases = tuple(replace(phase, optimiser="muon", inherited=kept) for phase, kept in zip(recipe.joint_phases, (0.0, 0.1), strict=True))
    other = replace(recipe, joint_phases=phases)
    straight, curve = fit(material, other, tmp_path / "straight", CPU)
    batches, original = 0, Material.joint_batch

    def batch(*arguments: Any) -> Tensor:
        nonlocal batches
        batches += 1
        if batches in (4, 9):  # within each joint phase
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(Material, "joint_batch", batch)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            fit(material, other, tmp_path / "stopped", Running("cpu", save_every=1))
    resumed, again = fit(material, other, tmp_path / "stopped", Running("cpu", save_every=1))
    assert again.curve == curve.curve
    assert all(torch.equal(one, two) for one, two in zip(straight.parameters(), resumed.parameters(), strict=True))


@pytest.mark.parametrize("phase", [{"inherited": 0.3}, {"above": 0.0}])
def test_nothing_can_be_held_where_nothing_is_inherited(recipe: Recipe, phase: dict[str, float]) -> None:
    held = (Phase(steps=1, **phase),)  # type: ignore[arg-type]
    assert replace(recipe, joint_phases=held).joint_phases == held
    with pytest.raises(SpeechError, match="inherits nothing: give it a text_phase"):
        replace(recipe, text_phase=None, joint_phases=held)


def test_only_the_text_phase_is_stretched(recipe: Recipe) -> None:
    with pytest.raises(SpeechError, match="only the text phase is stretched"):
        replace(recipe, joint_phases=(Phase(steps=1, stretched=3),))
