"""The logit lens: its last layer is the model, its other layers are the textbook formula."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch

from slm_interp import hooked
from slm_interp.errors import ReadoutError, UtteranceError, VocabularyError
from slm_interp.lenses import Lens, LogitLens
from slm_interp.lenses import lens as lens_module
from slm_interp.model import SpeechTextModel
from slm_interp.utterance import Span, Utterance, Word
from tests.versions import process


def dense_log_probs(slm: SpeechTextModel, utterance: Utterance) -> torch.Tensor:
    """The textbook formula on TransformerLens's own cache: [layer, pos, d_vocab]."""
    with torch.no_grad():
        _, cache = slm.model.run_with_cache(utterance.tokens[None], prepend_bos=False)
        names = ["blocks.0.hook_resid_pre", *(f"blocks.{layer}.hook_resid_post" for layer in range(slm.model.cfg.n_layers))]
        return torch.stack([slm.model.unembed(slm.model.ln_final(cache[name]))[0] for name in names]).log_softmax(-1)


def test_the_last_layer_is_the_model_s_own_output(tiny_slm: SpeechTextModel, spoken: Utterance) -> None:
    reading = LogitLens(tiny_slm).read(spoken, k=33, targets=range(33))
    with torch.no_grad():
        output = tiny_slm.model(spoken.tokens[None], prepend_bos=False)[0].log_softmax(-1).numpy()
    last = reading.dataset.isel(layer=-1)
    np.testing.assert_allclose(last.target_log_prob.values, output, rtol=1e-6, atol=0)
    assert (last.top_id.isel(k=0).values == output.argmax(-1)).all()


def test_every_layer_is_unembedding_after_final_norm_of_its_residual(tiny_slm: SpeechTextModel, spoken: Utterance) -> None:
    reading = LogitLens(tiny_slm).read(spoken, targets=range(33))
    dense = dense_log_probs(tiny_slm, spoken)
    np.testing.assert_allclose(reading.dataset.target_log_prob.values, dense.numpy(), rtol=1e-5, atol=1e-6)
    text = dense[..., tiny_slm.vocabulary.mask("text")].logsumexp(-1).exp()
    np.testing.assert_allclose(reading.modality_mass().sel(modality="text").values, text.numpy(), rtol=1e-5)


def test_the_opt_model_with_its_layer_norm_and_bias_agrees_too(speech_only_slm: SpeechTextModel) -> None:
    utterance = speech_only_slm.speech_prompt(torch.tensor([1, 5, 1]), torch.tensor([0.0, 0.1, 0.2, 0.3]))
    reading = LogitLens(speech_only_slm).read(utterance, targets=list(range(2, 22)))
    live = ~speech_only_slm.vocabulary.mask("dead")
    dense = dense_log_probs(speech_only_slm, utterance)
    dense = dense - dense[..., live].logsumexp(-1, keepdim=True)
    np.testing.assert_allclose(reading.dataset.target_log_prob.values, dense[..., 2:22].numpy(), rtol=1e-5, atol=1e-6)
    assert "text" not in reading.dataset.modality.values


def test_folding_the_norms_changes_no_probability(tiny_slm: SpeechTextModel, spoken: Utterance) -> None:
    folded = dataclasses.replace(tiny_slm, model=copy.deepcopy(tiny_slm.model))
    process(folded.model, fold_ln=True, center_writing_weights=False, center_unembed=False, fold_value_biases=False)
    assert not torch.equal(folded.model.W_U, tiny_slm.model.W_U)
    ours, theirs = (LogitLens(one).read(spoken, targets=range(33)).dataset for one in (tiny_slm, folded))
    np.testing.assert_allclose(ours.target_log_prob.values, theirs.target_log_prob.values, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(ours.modality_log_mass.values, theirs.modality_log_mass.values, rtol=2e-5, atol=2e-5)
    assert (ours.target_rank.values == theirs.target_rank.values).all()


def test_without_final_norm_the_residual_meets_the_unembedding_as_it_is(tiny_slm: SpeechTextModel, spoken: Utterance) -> None:
    lens = LogitLens(tiny_slm, final_norm=False)
    reading = lens.read(spoken, targets=range(33))
    resid = hooked.residuals(tiny_slm.model, spoken.tokens)
    bare = (resid @ tiny_slm.model.W_U + tiny_slm.model.b_U).log_softmax(-1).detach()
    np.testing.assert_allclose(reading.dataset.target_log_prob.values, bare.numpy(), rtol=1e-5, atol=1e-4)
    assert reading.dataset.attrs["final_norm"] == "off"


def test_bfloat16_weights_are_read_as_the_model_computes_them(tiny_slm: SpeechTextModel, spoken: Utterance) -> None:
    model = copy.deepcopy(tiny_slm.model)
    model.cfg.dtype = torch.bfloat16
    half = dataclasses.replace(tiny_slm, model=model.to(torch.bfloat16))
    reading = LogitLens(half).read(spoken, targets=range(33))
    output = hooked.logits(half.model, spoken.tokens[None])[0].float().log_softmax(-1)
    np.testing.assert_allclose(reading.dataset.target_log_prob.isel(layer=-1).values, output.numpy(), rtol=1e-6, atol=1e-6)
    assert reading.dataset.attrs["dtype"] == "bfloat16"


@pytest.mark.parametrize("rows", [1, 7, 13, 1024])
def test_how_many_layers_are_read_at_once_changes_nothing(
    tiny_slm: SpeechTextModel, spoken: Utterance, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = LogitLens(tiny_slm).read(spoken, exclude_input=True).dataset
    monkeypatch.setattr(lens_module, "ROWS_AT_ONCE", rows)
    parts = LogitLens(tiny_slm).read(spoken, exclude_input=True).dataset
    assert (whole.top_id.values == parts.top_id.values).all()
    np.testing.assert_allclose(whole.target_log_prob.values, parts.target_log_prob.values, rtol=1e-6, atol=1e-6)


def test_chosen_layers_are_the_same_rows_of_the_whole_reading(tiny_slm: SpeechTextModel, spoken: Utterance) -> None:
    whole, some = LogitLens(tiny_slm).read(spoken).dataset, LogitLens(tiny_slm).read(spoken, layers=[3, 1]).dataset
    assert some.layer.values.tolist() == [1, 3]
    assert some.hook.values.tolist() == ["blocks.0.hook_resid_post", "blocks.2.hook_resid_post"]
    np.testing.assert_allclose(some.entropy.values, whole.entropy.sel(layer=[1, 3]).values, rtol=1e-5)


def test_excluding_the_input_removes_each_position_s_own_id_and_no_other(tiny_slm: SpeechTextModel, spoken: Utterance) -> None:
    inputs = spoken.tokens.tolist()
    data = LogitLens(tiny_slm).read(spoken, k=33, targets=inputs[:2], exclude_input=True).dataset
    for pos, own in enumerate(inputs):
        seen = data.top_id.sel(pos=pos).values
        assert not (seen == own).any()
        assert ((seen >= 0).sum(-1) == 32).all()
    assert data.target_rank.sel(pos=0, target=0).isnull().all()
    assert data.target_rank.sel(pos=0, target=1).notnull().all()
    full = dense_log_probs(tiny_slm, spoken)
    full[:, range(len(inputs)), inputs] = -torch.inf
    expected = full.log_softmax(-1)[:, 0, inputs[1]]
    np.testing.assert_allclose(data.target_log_prob.sel(pos=0, target=1).values, expected.numpy(), rtol=1e-5, atol=1e-6)


def test_reading_speech_alone_renormalises_over_units(tiny_slm: SpeechTextModel, spoken: Utterance) -> None:
    units = tiny_slm.vocabulary.mask("speech")
    data = LogitLens(tiny_slm).read(spoken, kinds=["speech"], targets=units.nonzero().flatten().tolist()).dataset
    dense = dense_log_probs(tiny_slm, spoken)[..., units].log_softmax(-1)
    np.testing.assert_allclose(data.target_log_prob.values, dense.numpy(), rtol=1e-5, atol=1e-6)
    assert data.modality.values.tolist() == ["speech"]
    assert LogitLens(tiny_slm).read(spoken, kinds=["speech"]).dataset.sizes["target"] == 0


def test_the_words_of_the_utterance_are_the_targets_by_their_first_piece(tiny_slm: SpeechTextModel, spoken: Utterance) -> None:
    data = LogitLens(tiny_slm).read(spoken).dataset
    assert data.target_id.values.tolist() == [tiny_slm.word_ids("the")[0], tiny_slm.word_ids("capital")[0]]
    assert data.target_word.values.tolist() == ["the", "capital"]
    assert data.target_start.values.tolist() == [1, 3]


def test_words_the_tokenizer_cannot_spell_are_named_and_left_out(tiny_slm: SpeechTextModel, spoken: Utterance) -> None:
    strange = spoken.with_words((Word("the", Span(1, 3), 0.0, 0.12), Word("zebra", Span(3, 6), 0.12, 0.4)))
    data = LogitLens(tiny_slm).read(strange).dataset
    assert data.target_word.values.tolist() == ["the"]
    assert data.attrs["words_not_spelled"] == "zebra"
    with pytest.raises(VocabularyError, match="cannot spell ' ?zebra'"):
        LogitLens(tiny_slm).read(spoken, targets=["zebra"])


def test_a_bare_row_of_ids_is_read_as_it_is(tiny_slm: SpeechTextModel, spoken: Utterance) -> None:
    bare = LogitLens(tiny_slm).read(spoken.tokens, targets=["the"]).dataset
    np.testing.assert_array_equal(bare.entropy.values, LogitLens(tiny_slm).read(spoken, targets=["the"]).dataset.entropy.values)
    assert bare.label.values.tolist() == list(spoken.labels)


def test_a_residual_that_is_not_finite_is_named_by_layer_and_position(tiny_slm: SpeechTextModel, spoken: Utterance) -> None:
    broken = dataclasses.replace(tiny_slm, model=copy.deepcopy(tiny_slm.model))
    with torch.no_grad():
        broken.model.blocks[1].mlp.W_out[:] = torch.nan
    with pytest.raises(ReadoutError, match=r"residual at layer 2 \(blocks.1.hook_resid_post\), position 0 is not finite \(14 of 28 such\)"):
        LogitLens(broken).read(spoken)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"layers": [0, 4]}, r"Layers count blocks run, 0 \(embedding\) to 3 \(what the model reads\); got 4"),
        ({"layers": [-1]}, "got -1"),
        ({"layers": []}, "got none"),
        ({"targets": "the"}, r"got 'the'. Write targets=\['the'\]"),
        ({"kinds": ["text"], "targets": [20]}, "Target 20 is not among the ids that are read"),
        ({"k": 0}, "at least 1; got 0"),
    ],
)
def test_what_a_lens_cannot_read_is_refused_with_a_sentence(
    tiny_slm: SpeechTextModel, spoken: Utterance, options: dict, sentence: str
) -> None:
    with pytest.raises(ReadoutError, match=sentence):
        LogitLens(tiny_slm).read(spoken, **options)


def test_targets_and_spans_that_are_not_there_are_refused(tiny_slm: SpeechTextModel, spoken: Utterance) -> None:
    with pytest.raises(VocabularyError, match=r"Ids must lie in 0..32; got 33"):
        LogitLens(tiny_slm).read(spoken, targets=[33])
    with pytest.raises(UtteranceError, match="ends past the last of 7 positions"):
        LogitLens(tiny_slm).read(spoken, targets=[Word("the", Span(2, 9), 0.0, 0.1)])


def test_units_of_another_quantiser_are_refused(tiny_slm: SpeechTextModel, spoken: Utterance) -> None:
    with pytest.raises(VocabularyError, match="quantiser"):
        LogitLens(tiny_slm).read(dataclasses.replace(spoken, quantiser="another"))


def test_a_logit_lens_is_a_lens(tiny_slm: SpeechTextModel) -> None:
    assert isinstance(LogitLens(tiny_slm), Lens)
