"""The direction of a word is what the unembedding reads it along: exactly, for every residual, with the norm's own scale."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch

from slm_interp import hooked
from slm_interp.errors import ReadoutError, VocabularyError
from slm_interp.lenses import DirectedLens, LogitLens, directions_of
from slm_interp.model import SpeechTextModel
from tests.versions import process

WORDS = ["the", "capital", "see"]


def residuals(slm: SpeechTextModel, rows: int = 40) -> torch.Tensor:
    """Of very different lengths, so that a scale that is a little wrong would show."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.logspace(-4, 2, rows)[:, None]
    return (lengths * (torch.randn(rows, slm.model.cfg.d_model, generator=generator) + 0.5)).to(slm.model.cfg.dtype)


def logits(slm: SpeechTextModel, resid: torch.Tensor, ids: list[int]) -> torch.Tensor:
    """By the model's own modules."""
    with torch.no_grad():
        return slm.model.unembed(slm.model.ln_final(resid[None]))[0][:, ids]


@pytest.mark.parametrize("which", ["tiny_slm", "speech_only_slm"], ids=["RMSNorm", "LayerNorm with bias"])
@pytest.mark.parametrize("folded", [False, True], ids=["as loaded", "folded"])
def test_a_logit_is_the_direction_times_the_residual_over_the_norm_s_scale_and_a_constant(
    which: str, folded: bool, request: pytest.FixtureRequest
) -> None:
    slm = request.getfixturevalue(which)
    if folded:
        slm = dataclasses.replace(slm, model=copy.deepcopy(slm.model))
        process(slm.model, fold_ln=True, center_writing_weights=False, center_unembed=False, fold_value_biases=False)
    ids = [3, 9, 20]
    resid, norm = residuals(slm), hooked.norm_formula(slm.model)
    directions = directions_of(slm, ids)
    read = logits(slm, resid, ids)
    without_constant = (resid @ directions.T) / norm.scale(resid)[:, None]
    constant = read - without_constant
    torch.testing.assert_close(constant, constant[:1].expand_as(constant), rtol=0, atol=2e-5)
    W_U, b_U = hooked.unembedding(slm.model).W_U, hooked.unembedding(slm.model).b_U
    torch.testing.assert_close(constant[0], norm.constant(W_U[:, ids].T) + b_U[ids], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("which", ["tiny_slm", "speech_only_slm"], ids=["RMSNorm", "LayerNorm with bias"])
def test_moving_a_residual_without_changing_its_scale_changes_the_logit_by_the_direction_alone(
    which: str, request: pytest.FixtureRequest
) -> None:
    slm = request.getfixturevalue(which)
    norm, ids = hooked.norm_formula(slm.model), [3, 9, 20]
    generator = torch.Generator().manual_seed(2)
    resid, other = torch.randn(2, 8, slm.model.cfg.d_model, generator=generator)
    moved = other * (norm.scale(resid) / norm.scale(other))[:, None]
    torch.testing.assert_close(norm.scale(moved), norm.scale(resid), rtol=1e-5, atol=1e-6)
    change = logits(slm, moved, ids) - logits(slm, resid, ids)
    torch.testing.assert_close(change, ((moved - resid) @ directions_of(slm, ids).T) / norm.scale(resid)[:, None], rtol=1e-4, atol=1e-4)


def test_directions_of_words_are_those_of_their_first_pieces_and_of_the_layers_all_the_same(tiny_slm: SpeechTextModel) -> None:
    lens = LogitLens(tiny_slm)
    found = lens.directions(1, WORDS)
    torch.testing.assert_close(found, directions_of(tiny_slm, [tiny_slm.word_ids(word)[0] for word in WORDS]), rtol=0, atol=0)
    torch.testing.assert_close(found, lens.directions(3, WORDS), rtol=0, atol=0)
    assert found.shape == (3, tiny_slm.model.cfg.d_model) and isinstance(lens, DirectedLens)


def test_without_the_final_norm_directions_are_columns_of_the_unembedding(tiny_slm: SpeechTextModel) -> None:
    bare = LogitLens(tiny_slm, final_norm=False).directions(0, WORDS)
    ids = [tiny_slm.word_ids(word)[0] for word in WORDS]
    torch.testing.assert_close(bare, tiny_slm.model.unembed.W_U[:, ids].T.detach())
    assert not torch.allclose(bare, LogitLens(tiny_slm).directions(0, WORDS))


def test_directions_of_a_bfloat16_model_are_float32(tiny_slm: SpeechTextModel) -> None:
    model = copy.deepcopy(tiny_slm.model)
    model.cfg.dtype = torch.bfloat16
    half = dataclasses.replace(tiny_slm, model=model.to(torch.bfloat16))
    found = directions_of(half, [3, 9])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, directions_of(tiny_slm, [3, 9]), rtol=0.02, atol=0.01)


def test_a_norm_that_is_not_what_the_config_says_is_refused(tiny_slm: SpeechTextModel) -> None:
    wrong = dataclasses.replace(tiny_slm, model=copy.deepcopy(tiny_slm.model))
    wrong.model.cfg.normalization_type = "LN"
    with pytest.raises(ReadoutError, match=r"final norm of this model is not what its config says \(LN, eps 1e-06\): it differs by"):
        directions_of(wrong, [3])
    wrong.model.cfg.normalization_type = "BN"
    with pytest.raises(ReadoutError, match="should be one of LN, LNPre, RMS, RMSPre, or none; this model has 'BN'"):
        directions_of(wrong, [3])


def test_capped_logits_are_refused(tiny_slm: SpeechTextModel) -> None:
    capped = dataclasses.replace(tiny_slm, model=copy.deepcopy(tiny_slm.model))
    capped.model.cfg.output_logits_soft_cap = 30.0
    with pytest.raises(ReadoutError, match="caps its logits after the unembedding"):
        directions_of(capped, [3])


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda lens: lens.directions(4, WORDS), ReadoutError, r"0 \(embedding\) to 3 \(what the model reads\); got 4"),
        (lambda lens: lens.directions(0, ["zebra"]), VocabularyError, "cannot spell ' ?zebra'"),
        (lambda lens: directions_of(lens.slm, [33]), VocabularyError, "got 33"),
    ],
)
def test_layers_words_and_ids_that_are_not_there_are_refused(
    tiny_slm: SpeechTextModel, call: Any, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        call(LogitLens(tiny_slm))
