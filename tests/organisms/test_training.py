from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import slm_interp as si
from slm_interp.organisms import RECIPES
from slm_interp.organisms.material import Material
from slm_interp.organisms.network import embeddings, joint_model, new_model
from slm_interp.organisms.progress import read_progress
from slm_interp.organisms.recipe import Phase, Recipe, Shape
from slm_interp.organisms.training import Running, fit, learning_rate, next_token_loss, prepare, stretched_positions, train_organism
from slm_interp.speech.acoustic import AcousticQuantiser
from tests.organisms.toy import CPU, MIX, as_hugging_face

STEPS = [(0, step) for step in range(4)] + [(1, step) for step in range(6)] + [(2, step) for step in range(3)]


def weights(model: Any) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def unused(*_: Any, **__: Any) -> Any:
    raise AssertionError("this was to be read, not made again")


@pytest.fixture(scope="module")
def straight(material: Material, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], Any]:
    """Weights and progress of a run that nothing interrupts."""
    model, progress = fit(material, recipe, tmp_path_factory.mktemp("straight"), CPU)
    return weights(model), progress


# -- stopped, resumed, shared ------------------------------------------------------------------------


@pytest.mark.parametrize("at", [1, 3, 5, 9, 12])
def test_stopped_and_resumed_training_ends_where_uninterrupted_training_does(
    recipe: Recipe, material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, straight: tuple[dict[str, Tensor], Any], at: int
) -> None:
    """Stopped in the text phase, on a checkpoint, between phases, within each joint phase: same bits, same curve."""
    steps = 0

    def counted(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def batch(self: Material, *arguments: Any) -> Tensor:
            nonlocal steps
            if steps == at:
                raise KeyboardInterrupt
            steps += 1
            return original(self, *arguments)

        return batch

    with monkeypatch.context() as patch:
        for name in ("text_only_batch", "joint_batch"):
            patch.setattr(Material, name, counted(getattr(Material, name)))
        with pytest.raises(KeyboardInterrupt):
            fit(material, recipe, tmp_path, Running("cpu", save_every=2))
    model, resumed = fit(material, recipe, tmp_path, Running("cpu", save_every=2))
    assert same(weights(model), straight[0])
    assert resumed.curve == straight[1].curve
    assert [(phase, step) for phase, step, _ in resumed.curve] == STEPS


def test_finished_training_is_read_again_and_its_curve_has_every_phase_in_turn(
    recipe: Recipe, work: Path, material: Material, monkeypatch: pytest.MonkeyPatch, straight: tuple[dict[str, Tensor], Any]
) -> None:
    for name in ("text_only_batch", "joint_batch"):
        monkeypatch.setattr(Material, name, unused)
    model, progress = fit(material, recipe, work, CPU)
    assert same(weights(model), straight[0])
    assert progress.curve == straight[1].curve
    assert (progress.phase, progress.step) == (2, 3)


def test_the_toy_organism_was_trained_by_the_same_steps(recipe: Recipe, toy: Path, straight: tuple[dict[str, Tensor], Any]) -> None:
    rows = (toy / "loss.csv").read_text().splitlines()
    names = ["text", "joint 1", "joint 2"]
    assert rows == ["phase,step,loss", *(f"{names[phase]},{step},{loss:.5f}" for phase, step, loss in straight[1].curve)]


def test_a_shared_working_folder_gives_speech_and_text_model_to_the_next_recipe(
    recipe: Recipe, work: Path, monkeypatch: pytest.MonkeyPatch, straight: tuple[dict[str, Tensor], Any]
) -> None:
    other = replace(recipe, joint_phases=(Phase(steps=2, rows=2, length=48, warm_up=1, mix=(0.0, 1.0, 0.0)),))
    monkeypatch.setattr(Material, "text_only_batch", unused)
    for name in ("speak", "fit_quantiser"):
        monkeypatch.setattr(f"slm_interp.organisms.corpus.{name}", unused)
    material, _, _ = prepare(other, work)
    _, progress = fit(material, other, work, CPU)
    assert progress.curve[:4] == straight[1].curve[:4]
    assert [(phase, step) for phase, step, _ in progress.curve] == [*STEPS[:4], (1, 0), (1, 1)]
    assert progress.curve[4][2] != straight[1].curve[4][2]


def test_recipes_that_begin_alike_share_their_first_phases(
    recipe: Recipe, work: Path, material: Material, monkeypatch: pytest.MonkeyPatch, straight: tuple[dict[str, Tensor], Any]
) -> None:
    other = replace(recipe, joint_phases=(recipe.joint_phases[0], replace(recipe.joint_phases[1], steps=1, warm_up=0)))
    steps: list[Phase] = []
    original = Material.joint_batch
    monkeypatch.setattr(Material, "joint_batch", lambda self, phase, *rest: (steps.append(phase), original(self, phase, *rest))[1])
    _, progress = fit(material, other, work, CPU)
    assert steps == [other.joint_phases[1]]
    assert progress.curve[:10] == straight[1].curve[:10]


def test_a_random_start_has_no_text_phase(
    recipe: Recipe, material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, straight: tuple[dict[str, Tensor], Any]
) -> None:
    monkeypatch.setattr(Material, "text_only_batch", unused)
    random = replace(recipe, text_phase=None)
    model, progress = fit(material, random, tmp_path, CPU)
    assert [(phase, step) for phase, step, _ in progress.curve] == STEPS[4:]
    assert not list(tmp_path.glob("text-*"))
    assert len(list(tmp_path.glob("joint-*"))) == 2
    assert {name: weight.shape for name, weight in weights(model).items()} == {name: one.shape for name, one in straight[0].items()}
    _, again = fit(material, random, tmp_path, CPU)
    assert again.curve == progress.curve


def test_no_two_phases_draw_the_same_rows(recipe: Recipe, material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[object, ...]] = []

    def noted(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def batch(self: Material, phase: Phase, step: int, seed: tuple[int, ...]) -> Tensor:
            drawn.append((step, seed))
            return original(self, phase, step, seed)

        return batch

    for name in ("text_only_batch", "joint_batch"):
        monkeypatch.setattr(Material, name, noted(getattr(Material, name)))
    fit(material, recipe, tmp_path, CPU)
    fit(material, replace(recipe, seed=1), tmp_path, CPU)
    assert len(set(drawn)) == len(drawn) == 2 * len(STEPS)


def test_what_is_measured_is_what_is_saved(recipe: Recipe, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights rounded to bfloat16, computed with in float32."""
    measured: list[dict[str, Tensor]] = []
    monkeypatch.setattr("slm_interp.organisms.measure.measure", lambda model, *rest: measured.append(weights(model)) or {})
    train_organism(recipe, tmp_path, work, CPU, processes=1)
    saved = as_hugging_face(tmp_path)
    assert same(measured[0], weights(saved))
    assert {weight.dtype for weight in measured[0].values()} == {torch.float32}


# -- keys --------------------------------------------------------------------------------------------


def test_recipes_of_one_world_share_their_speech(recipe: Recipe) -> None:
    some = [
        *RECIPES.values(),
        replace(RECIPES["tiny"], seed=5),
        replace(RECIPES["tiny"], text_phase=None, shape=Shape(architecture="qwen2")),
    ]
    by_world: dict[Any, set[str]] = {}
    for one in some:
        by_world.setdefault((one.world, one.speaking, one.quantiser, one.documents, one.held_out, one.fitted_on), set()).add(one.speech_key)
    assert all(len(keys) == 1 for keys in by_world.values())
    assert len(set.union(*by_world.values())) == len(by_world)


@pytest.mark.parametrize(
    ("changed", "same_speech", "same_text"),
    [
        ({"name": "other", "note": "other"}, True, True),
        ({"joint_phases": ()}, True, True),
        ({"seed": 1}, True, False),
        ({"text_phase": None}, True, False),
        ({"shape": Shape(d_model=8)}, True, False),
        ({"text_tokens": 500}, True, False),
        ({"documents": 13}, False, True),
        ({"held_out": 7}, False, True),
        ({"fitted_on": 6}, False, True),
    ],
)
def test_keys_change_with_what_they_stand_for(recipe: Recipe, changed: dict[str, Any], same_speech: bool, same_text: bool) -> None:
    other = replace(recipe, **changed)
    assert (other.speech_key == recipe.speech_key, other.text_key == recipe.text_key) == (same_speech, same_text)


def test_weights_have_one_key_until_recipes_part(recipe: Recipe) -> None:
    other = replace(recipe, joint_phases=(recipe.joint_phases[0], replace(recipe.joint_phases[1], steps=1)))
    assert other.key_until(1) == recipe.key_until(1)
    assert other.key_until(2) != recipe.key_until(2)
    assert len({recipe.key_until(number) for number in (0, 1, 2)}) == 3
    assert replace(recipe, documents=13).key_until(1) != recipe.key_until(1)


# -- the model ---------------------------------------------------------------------------------------

SHAPE = Shape(d_model=16, n_layers=4, below=1, above=1, n_heads=2, n_key_value_heads=2, d_mlp=24, n_ctx=64)


@pytest.mark.parametrize("shape", [SHAPE, replace(SHAPE, tied=False), replace(SHAPE, architecture="qwen2", n_key_value_heads=1)])
def test_a_joint_model_says_what_its_text_model_says(shape: Shape) -> None:
    text_model = new_model(shape, 300, seed=0, n_layers=2)
    joint = joint_model(text_model, shape, 400, seed=1)
    ids = torch.randint(300, (2, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(joint(input_ids=ids).logits[..., :300], text_model(input_ids=ids).logits, atol=1e-6, rtol=1e-5)
    assert len(embeddings(joint)) == (1 if shape.tied else 2)
    for both in zip(embeddings(joint), embeddings(text_model), strict=True):
        matrix, trained = (one.detach() for one in both)
        assert torch.equal(matrix[:300], trained)
        torch.testing.assert_close(matrix[300:].mean(0), trained.mean(0), atol=0.05, rtol=0)
        assert float(matrix[300:].std(0).mean()) == pytest.approx(shape.embedding_std, rel=0.2)


def test_new_models_have_the_weights_of_their_seed() -> None:
    assert same(weights(new_model(SHAPE, 30, 0)), weights(new_model(SHAPE, 30, 0)))
    assert not same(weights(new_model(SHAPE, 30, 0)), weights(new_model(SHAPE, 30, 1)))


# -- the loss ----------------------------------------------------------------------------------------


def test_the_loss_is_the_mean_over_next_ids_of_which_text_may_weigh_more() -> None:
    model = new_model(SHAPE, 40, seed=0)
    ids = torch.randint(40, (3, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        log_p = model(input_ids=ids).logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
        text = ids[:, 1:] < 25
        assert float(next_token_loss(model, ids)) == pytest.approx(float(-log_p.mean()), rel=1e-5)
        assert float(next_token_loss(model, ids)) == pytest.approx(float(model(input_ids=ids, labels=ids).loss), rel=1e-5)
        assert float(next_token_loss(model, ids, 25, 0.0)) == pytest.approx(float(-log_p[~text].mean()), rel=1e-5)
        thrice = torch.cat([log_p[text], log_p[text], log_p[text], log_p[~text]])
        assert float(next_token_loss(model, ids, 25, 3.0)) == pytest.approx(float(-thrice.mean()), rel=1e-5)


def test_a_phase_says_how_much_text_weighs(recipe: Recipe, material: Material, tmp_path: Path) -> None:
    phase = Phase(steps=1, rows=2, length=48, mix=MIX)
    random = replace(recipe, text_phase=None, joint_phases=(phase,))
    model = new_model(recipe.shape, material.vocabulary.size, recipe.seed)
    ids = material.joint_batch(phase, 0, (recipe.seed, 11))
    for weight in (1.0, 3.0):
        _, progress = fit(material, replace(random, joint_phases=(replace(phase, text_weight=weight),)), tmp_path, CPU)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            expected = next_token_loss(model, ids, len(material.speller.tokenizer), weight)
        assert progress.curve[0][2] == float(expected)


def test_stretched_positions_are_one_to_the_greatest_distance_apart_and_rows_differ() -> None:
    phase = Phase(steps=1, rows=200, length=300, stretched=10)
    positions = stretched_positions(phase, np.random.default_rng(0))
    apart = positions.diff()
    assert positions.shape == (200, 300)
    assert (int(apart.min()), int(apart.max())) == (1, 10)
    assert set(apart.amax(-1).tolist()) == set(range(1, 11))  # some rows are as they would be without
    assert torch.equal(positions, stretched_positions(phase, np.random.default_rng(0)))


def test_a_text_phase_is_told_its_positions(recipe: Recipe, material: Material, tmp_path: Path) -> None:
    """The first loss of a stretched phase is the model's at these positions, and not at others."""
    phase = Phase(steps=1, rows=2, length=48, stretched=10)
    shape = recipe.shape
    model = new_model(shape, len(material.speller.tokenizer), recipe.seed, shape.n_layers - shape.below - shape.above)
    ids = material.text_only_batch(phase, 0, (recipe.seed, 10))
    positions = stretched_positions(phase, np.random.default_rng([recipe.seed, 10, 0, 2000]))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = [float(next_token_loss(model, ids, positions=some)) for some in (positions, None)]
    _, progress = fit(material, replace(recipe, text_phase=phase, joint_phases=()), tmp_path, CPU)
    assert progress.curve[0][2] == expected[0] != expected[1]


def test_training_learns(recipe: Recipe, material: Material, tmp_path: Path) -> None:
    longer = replace(recipe, text_phase=Phase(steps=25, rows=2, length=48, warm_up=5, learning_rate=1e-2), joint_phases=())
    _, progress = fit(material, longer, tmp_path, CPU)
    losses = [loss for _, _, loss in progress.curve]
    assert np.mean(losses[-3:]) < np.mean(losses[:3]) - 1


def test_the_learning_rate_rises_to_its_peak_and_falls_to_a_tenth() -> None:
    phase = Phase(steps=100, warm_up=10, learning_rate=1.0)
    rates = [learning_rate(phase, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[10] == 1.0
    assert rates[-1] == pytest.approx(0.1, abs=0.01)


def test_checkpoints_say_how_far_they_are(recipe: Recipe, work: Path) -> None:
    text = read_progress(work / f"text-{recipe.text_key}.safetensors")
    joint = read_progress(work / f"joint-1-{recipe.key_until(1)}.safetensors")
    assert (text.phase, text.step, len(text.curve)) == (0, 4, 4)
    assert (joint.phase, joint.step, len(joint.curve)) == (1, 6, 10)
    assert read_progress(work / "none.safetensors").curve == []


# -- every shape -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "tied", "heads", "text_init"), [("qwen2", True, 1, True), ("qwen2", False, 2, False), ("llama", False, 1, True)]
)
def test_other_shapes_train_and_load_as_they_were_saved(
    recipe: Recipe, work: Path, tmp_path: Path, architecture: Any, tied: bool, heads: int, text_init: bool
) -> None:
    shape = replace(recipe.shape, architecture=architecture, tied=tied, n_key_value_heads=heads)
    phases = (Phase(steps=2, rows=2, length=48, warm_up=1, mix=MIX),)
    other = replace(recipe, shape=shape, joint_phases=phases, text_phase=phases[0] if text_init else None)
    out = train_organism(other, tmp_path / "out", work, CPU, processes=1)
    slm = si.load(out, dtype=torch.float32)
    assert slm.quantiser is not None and slm.quantiser.hash == AcousticQuantiser.load(out).hash
    assert json.loads((out / "config.json").read_text())["twist_init"] is text_init
    ids = torch.randint(slm.vocabulary.size, (1, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(slm.model(ids), as_hugging_face(out)(input_ids=ids).logits, atol=1e-4, rtol=1e-4)
