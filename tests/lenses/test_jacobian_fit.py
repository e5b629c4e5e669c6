"""The estimator of the Jacobian lens: its definition, its positions, TransformerLens's own; going on where it was cut off."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from slm_interp import hooked
from slm_interp.errors import ReadoutError
from slm_interp.lenses import JacobianRecipe, fit_jacobian
from slm_interp.lenses.jacobian import fit as module
from slm_interp.lenses.jacobian.fit import jacobians_of
from slm_interp.model import SpeechTextModel
from tests.lenses.jacobians import FAMILIES, ROUNDING, break_weights, by_definition, every_derivative, interleaved, rows, silence_blocks
from tests.replicas import WORDS

SHORT = JacobianRecipe(skip_first_positions=2)


@pytest.fixture(scope="module", params=FAMILIES)
def wide(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SpeechTextModel:
    """Each family in float64."""
    return interleaved(tmp_path_factory.mktemp("wide") / request.param, request.param, dtype=torch.float64)


def test_each_matrix_sums_derivatives_over_targets_and_averages_them_over_sources(wide: SpeechTextModel) -> None:
    (tokens,) = rows(wide, 1, length=6)
    found = jacobians_of(wide, tokens, [0, 2], SHORT)
    valid = [2, 3, 4]
    for matrix, layer in zip(found, (0, 2), strict=True):
        derivative = every_derivative(wide, tokens, layer)
        assert derivative[3, :, 5].abs().max() == 0, "attention is causal"
        torch.testing.assert_close(matrix, by_definition(derivative, valid, valid), rtol=ROUNDING, atol=ROUNDING)


def test_the_mean_over_prompts_weighs_each_alike_whatever_its_length(tiny_slm: SpeechTextModel) -> None:
    prompts = [*rows(tiny_slm, 2), *rows(tiny_slm, 1, length=14, seed=1)]
    lens = fit_jacobian(tiny_slm, prompts, SHORT).lens()
    single = torch.stack([jacobians_of(tiny_slm, one, [0, 1, 2], SHORT) for one in prompts])
    torch.testing.assert_close(lens.jacobians, single.mean(0), rtol=1e-6, atol=1e-6)


def test_positions_can_be_those_of_speech_as_sources_and_those_of_text_as_targets(tiny_slm: SpeechTextModel) -> None:
    units, words = tiny_slm.vocabulary.unit_to_id(torch.tensor([3, 7, 3])), torch.tensor([tiny_slm.word_ids(one)[0] for one in WORDS[:4]])
    marker = torch.tensor([tiny_slm.prompts.markers["text"]])
    tokens = torch.cat([words[:1], units, marker, words, units[:2]])
    found = jacobians_of(tiny_slm, tokens, [1], JacobianRecipe("speech", "text", skip_first_positions=0))
    derivative = every_derivative(tiny_slm, tokens, 1)
    torch.testing.assert_close(found[0], by_definition(derivative, [1, 2, 3], [0, 5, 6, 7, 8]), rtol=1e-4, atol=1e-4)


def test_a_model_whose_blocks_add_nothing_has_the_identity_at_every_layer(tmp_path: Path) -> None:
    for family in FAMILIES:
        slm = interleaved(tmp_path / family, family, dtype=torch.float64)
        silence_blocks(slm)
        lens = fit_jacobian(slm, rows(slm, 2), SHORT).lens()
        assert torch.equal(lens.jacobians, torch.eye(slm.model.cfg.d_model, dtype=torch.float64).expand_as(lens.jacobians))


@pytest.mark.parametrize("dim_batch", [1, 5, 24, 100])
def test_how_many_output_dimensions_go_together_changes_nothing(tiny_slm: SpeechTextModel, dim_batch: int) -> None:
    (tokens,) = rows(tiny_slm, 1)
    eight = jacobians_of(tiny_slm, tokens, [0, 2], SHORT, dim_batch=8)
    torch.testing.assert_close(jacobians_of(tiny_slm, tokens, [0, 2], SHORT, dim_batch), eight, rtol=1e-5, atol=1e-5)


def test_what_stands_after_the_greatest_length_changes_nothing(tiny_slm: SpeechTextModel) -> None:
    (tokens,) = rows(tiny_slm, 1, length=12)
    recipe = JacobianRecipe(skip_first_positions=2, max_seq_len=7)
    assert torch.equal(jacobians_of(tiny_slm, tokens, [0], recipe), jacobians_of(tiny_slm, tokens[:7], [0], recipe))


def test_some_layers_are_the_same_matrices_as_among_all(tiny_slm: SpeechTextModel) -> None:
    (tokens,) = rows(tiny_slm, 1)
    torch.testing.assert_close(jacobians_of(tiny_slm, tokens, [2], SHORT)[0], jacobians_of(tiny_slm, tokens, [0, 1, 2], SHORT)[2])


def test_parameters_ask_for_gradients_afterwards_as_before_and_have_none(tmp_path: Path) -> None:
    slm = interleaved(tmp_path, "llama")
    parameters = list(nn.Module.parameters(slm.model))
    for parameter in parameters[::2]:
        parameter.requires_grad_(False)
    before = [parameter.requires_grad for parameter in parameters]
    assert any(before) and not all(before)
    jacobians_of(slm, rows(slm, 1)[0], [0], SHORT)
    assert [parameter.requires_grad for parameter in parameters] == before
    assert all(parameter.grad is None for parameter in parameters)


def test_the_same_numbers_as_transformer_lens_s_own_fit(tmp_path: Path) -> None:
    from transformer_lens.tools.analysis import JacobianLens as Theirs

    prompts = ["".join(f" {WORDS[(start + step * start) % 10]}" for step in range(9 + start)) for start in range(1, 4)]
    for family in FAMILIES:
        slm = interleaved(tmp_path / family, family)
        tokens = [slm.text_segment(prompt).ids for prompt in prompts]
        theirs = Theirs.fit(slm.model, prompts, corpus="made up", skip_first_positions=3, show_progress=False)
        ours = fit_jacobian(slm, tokens, JacobianRecipe(skip_first_positions=3)).lens()
        assert theirs.source_layers == [0, 1] and theirs.n_prompts == 3
        for layer in theirs.source_layers:
            torch.testing.assert_close(ours.jacobian(layer + 1), theirs.jacobians[layer], rtol=1e-4, atol=1e-4)


def test_a_bfloat16_model_is_averaged_in_float32(tmp_path: Path) -> None:
    narrow, plain = interleaved(tmp_path / "narrow", "llama", 0.1, dtype=torch.bfloat16), interleaved(tmp_path / "plain", "llama", 0.1)
    fit = fit_jacobian(narrow, rows(narrow, 3), SHORT)
    exact = fit_jacobian(plain, rows(plain, 3), SHORT).lens().jacobians
    assert fit.sums.dtype == torch.float32
    assert (fit.lens().jacobians - exact).norm() < 0.02 * exact.norm()
    single = jacobians_of(narrow, rows(narrow, 1)[0], [0], SHORT)
    assert not torch.equal(single, single.bfloat16().float()), "means over positions are not rounded to bfloat16"


def test_a_fit_that_was_cut_off_goes_on_to_the_same_bits(
    tiny_slm: SpeechTextModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, seen = rows(tiny_slm, 7), []

    def failing(*arguments: object) -> torch.Tensor:
        if len(seen) == 4:
            raise KeyboardInterrupt
        seen.append(arguments)
        return jacobians_of(*arguments)

    whole = fit_jacobian(tiny_slm, prompts, SHORT)
    with monkeypatch.context() as patch:
        patch.setattr(module, "jacobians_of", failing)
        with pytest.raises(KeyboardInterrupt):
            fit_jacobian(tiny_slm, prompts, SHORT, folder=tmp_path, save_every=3)
    counted = []
    monkeypatch.setattr(module, "jacobians_of", lambda *arguments: counted.append(arguments) or jacobians_of(*arguments))
    fit = fit_jacobian(tiny_slm, prompts, SHORT, folder=tmp_path, save_every=3)
    assert len(counted) == 4, "three of seven prompts were saved"
    assert torch.equal(fit.sums, whole.sums) and fit.counts == whole.counts == (4, 3)
    assert sorted(fit.snapshots) == sorted(whole.snapshots) == [1, 2]
    for each in (1, 2):
        for one, other in zip(fit.at(each), whole.at(each), strict=True):
            assert torch.equal(one, other)
    assert not list(tmp_path.glob(".*"))
    assert fit.lens().hash == whole.lens().hash


def test_a_finished_fit_is_read_back_without_a_backward_run(
    tiny_slm: SpeechTextModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fit_jacobian(tiny_slm, rows(tiny_slm, 3), SHORT, folder=tmp_path)
    monkeypatch.setattr(module, "jacobians_of", None)
    assert fit_jacobian(tiny_slm, rows(tiny_slm, 3), SHORT, folder=tmp_path).lens().hash == first.lens().hash
    with safe_open(tmp_path / "sums.safetensors", "pt") as file:
        assert json.loads(file.metadata()["choices"])["skip_first_positions"] == 2


@pytest.mark.parametrize("other", ["prompts", "recipe", "layers"])
def test_a_folder_in_which_something_else_was_begun_is_refused(tiny_slm: SpeechTextModel, tmp_path: Path, other: str) -> None:
    fit_jacobian(tiny_slm, rows(tiny_slm, 2), SHORT, folder=tmp_path)
    prompts = rows(tiny_slm, 2, seed=5) if other == "prompts" else rows(tiny_slm, 2)
    recipe = JacobianRecipe(skip_first_positions=3) if other == "recipe" else SHORT
    with pytest.raises(ReadoutError, match="holds a fit begun with .* or give another folder"):
        fit_jacobian(tiny_slm, prompts, recipe, layers=[1] if other == "layers" else None, folder=tmp_path)


def test_prompts_without_a_position_are_left_out_and_counted(tiny_slm: SpeechTextModel) -> None:
    prompts = [*rows(tiny_slm, 1), *rows(tiny_slm, 1, length=3), *rows(tiny_slm, 1, seed=1)]
    fit = fit_jacobian(tiny_slm, prompts, SHORT)
    assert fit.fitted["left_out"] == 1 and fit.counts == (1, 1)
    assert torch.equal(fit.sums, fit_jacobian(tiny_slm, [prompts[0], prompts[2]], SHORT).sums)


def test_prompts_that_are_all_too_short_for_the_published_positions_are_refused(tiny_slm: SpeechTextModel) -> None:
    with pytest.raises(ReadoutError, match=re.escape("None of 2 prompts has a position for JacobianRecipe(sources='all'")):
        fit_jacobian(tiny_slm, rows(tiny_slm, 2, length=17))
    assert sum(fit_jacobian(tiny_slm, rows(tiny_slm, 1, length=18)).counts) == 1, "16 are skipped, and the last"


@pytest.mark.usefixtures("as_users_run_it")
def test_unknown_positions_layers_and_lengths_are_refused(tiny_slm: SpeechTextModel) -> None:
    with pytest.raises(ReadoutError, match="all, speech, text; got 'words'"):
        JacobianRecipe(sources="words")
    with pytest.raises(ReadoutError, match="max_seq_len=16 positions have none"):
        JacobianRecipe(max_seq_len=16)
    with pytest.raises(ReadoutError, match=re.escape("to the last one, 3, from which it is the identity; got [3]")):
        fit_jacobian(tiny_slm, rows(tiny_slm, 2), SHORT, layers=[3])


def test_gradients_that_are_not_finite_are_refused_by_layer(tmp_path: Path) -> None:
    slm = interleaved(tmp_path, "llama")
    break_weights(slm)
    with pytest.raises(ReadoutError, match=re.escape("Gradients from layers [0, 1, 2] are not finite")):
        fit_jacobian(slm, rows(slm, 2), SHORT)


def test_a_model_in_training_mode_is_refused(tmp_path: Path) -> None:
    slm = interleaved(tmp_path, "llama")
    slm.model.train()
    with pytest.raises(ReadoutError, match="Call model.eval()"):
        fit_jacobian(slm, rows(slm, 2), SHORT)


def test_residuals_with_a_graph_are_the_residuals(tiny_slm: SpeechTextModel) -> None:
    (tokens,) = rows(tiny_slm, 1)
    with hooked.frozen(tiny_slm.model):
        stream = hooked.differentiable_residuals(tiny_slm.model, tokens[None].repeat(2, 1), first=1)
    torch.testing.assert_close(torch.stack(stream).detach()[:, 1], hooked.residuals(tiny_slm.model, tokens)[1:])
    assert stream[0].is_leaf and all(one.requires_grad for one in stream)
