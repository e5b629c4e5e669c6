"""Direct logit attribution: its frozen terms are the model's logit, its lone ones what the lens reads, and TransformerLens agrees."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from slm_interp import hooked
from slm_interp.convert import load
from slm_interp.errors import ReadoutError, VocabularyError
from slm_interp.lenses import LogitLens, attribution
from slm_interp.model import SpeechTextModel
from slm_interp.utterance import Utterance
from tests.replicas import N_UNITS, VARIANTS, write_slamkit
from tests.versions import process

NAMES = ["llama", "qwen2", "opt-untied", "gpt_neox", "gpt_neox-serial-tied"]
UNITS = torch.tensor([1, 5, 1, 13, 7, 2])
TARGETS = [3, 9, (4, 17)]


@pytest.fixture(scope="module")
def of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[SpeechTextModel, Utterance]]:
    """A speech-only replica by its architecture, biases of heads and unembedding random too, and something for it to read."""
    made: dict[str, SpeechTextModel] = {}

    def model(name: str) -> tuple[SpeechTextModel, Utterance]:
        if name not in made:
            made[name] = load(write_slamkit(tmp_path_factory.mktemp(name), VARIANTS[name]), n_units=N_UNITS)
        slm = made[name]
        return slm, slm.speech_prompt(UNITS, torch.arange(len(UNITS) + 1) / 10)

    return model


def folded(slm: SpeechTextModel) -> SpeechTextModel:
    slm = dataclasses.replace(slm, model=copy.deepcopy(slm.model))
    process(slm.model, fold_ln=True, center_writing_weights=False, center_unembed=False, fold_value_biases=False)
    return slm


def own_logits(slm: SpeechTextModel, utterance: Utterance) -> np.ndarray:
    """Of the targets above, by the model itself: [pos, target]."""
    logits = hooked.logits(slm.model, utterance.tokens[None])[0]
    return torch.stack([logits[:, 3], logits[:, 9], logits[:, 4] - logits[:, 17]], -1).numpy()


@pytest.mark.parametrize("name", NAMES)
def test_the_frozen_terms_sum_to_the_model_s_own_logit(of: Callable[..., Any], name: str) -> None:
    slm, utterance = of(name)
    found = attribution.by_component(slm, utterance, TARGETS)
    assert found.dims == ("component", "pos", "target")
    wanted = own_logits(slm, utterance)
    np.testing.assert_allclose(found.sum("component").values, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())
    assert found.attrs["remainder"] < 1e-5 * np.abs(wanted).max()
    assert ("norm_bias" in found.component.values) == name.startswith(("opt", "gpt"))


@pytest.mark.parametrize("name", NAMES)
def test_the_heads_of_a_block_sum_to_its_attention_less_the_output_bias(of: Callable[..., Any], name: str) -> None:
    slm, utterance = of(name)
    heads = attribution.by_head(slm, utterance, TARGETS)
    assert heads.dims == ("layer", "head_index", "pos", "target") and heads.shape == (3, 4, len(utterance), 3)
    whole = attribution.by_component(slm, utterance, TARGETS)
    resid = hooked.residuals(slm.model, utterance.tokens)[-1]
    formula, W_U = hooked.norm_formula(slm.model), hooked.unembedding(slm.model).W_U
    directions = formula.pull_back(torch.stack([W_U[:, 3], W_U[:, 9], W_U[:, 4] - W_U[:, 17]]))
    for block in range(3):
        b_O = hooked.parameters(slm.model)[f"blocks.{block}.attn.b_O"].detach()
        bias = (b_O @ directions.T)[None] / formula.scale(resid)[:, None]
        wanted = whole.sel(component=f"{block}_attn_out").values - bias.numpy()
        np.testing.assert_allclose(
            heads.sel(layer=block).sum("head_index").values, wanted, rtol=1e-5, atol=1e-5 * np.abs(whole.values).max()
        )
    if name in ("opt-untied", "gpt_neox"):
        assert float(bias.abs().max()) > 1e-3, "the bias must be there for the test to see it"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("site", ["attn_out", "mlp_out"])
def test_alone_a_component_gives_the_logit_that_the_lens_reads_there(of: Callable[..., Any], name: str, site: str) -> None:
    slm, utterance = of(name)
    alone = attribution.by_component(slm, utterance, [3, 9], norm="alone")
    assert not {"norm_bias", "unembed_bias"} & set(alone.component.values)
    read = LogitLens(slm).read(utterance, site=site, targets=[3, 9]).dataset.target_log_prob.values
    for block in range(3):
        part = alone.sel(component=f"{block}_{site}").values
        np.testing.assert_allclose(part[:, 0] - part[:, 1], read[block, :, 0] - read[block, :, 1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_folding_the_norm_moves_only_its_bias_into_the_unembedding_s(of: Callable[..., Any], name: str) -> None:
    slm, utterance = of(name)
    whole, after = (attribution.by_component(one, utterance, TARGETS) for one in (slm, folded(slm)))
    parts = [one for one in whole.component.values if not one.endswith("bias")]
    scale = np.abs(whole.values).max()
    np.testing.assert_allclose(whole.sel(component=parts).values, after.sel(component=parts).values, rtol=1e-4, atol=1e-4 * scale)
    biases = [
        one.sel(component=[name for name in one.component.values if name.endswith("bias")]).sum("component") for one in (whole, after)
    ]
    np.testing.assert_allclose(*(one.values for one in biases), rtol=1e-4, atol=1e-4 * scale)


@pytest.mark.parametrize("name", NAMES)
def test_transformer_lens_s_own_attribution_of_the_folded_model_agrees(of: Callable[..., Any], name: str) -> None:
    """TransformerLens leaves the norm's weight out of its directions, so it is right after `fold_ln` only; ours is right on both."""
    slm, utterance = of(name)
    bare = folded(slm)
    with torch.no_grad():
        _, cache = bare.model.run_with_cache(utterance.tokens[None], prepend_bos=False)
        stack, labels = cache.decompose_resid(return_labels=True)
        theirs = torch.stack([cache.logit_attrs(stack, tokens=3), cache.logit_attrs(stack, tokens=4, incorrect_tokens=17)], -1)[:, 0]
        heads = cache.stack_head_results()
        theirs_by_head = cache.logit_attrs(heads, tokens=3)[:, 0].reshape(3, 4, -1)
        alone = cache.apply_ln_to_stack(stack, recompute_ln=True)[:, 0] @ bare.model.W_U[:, 3] + bare.model.b_U[3]
    ours = attribution.by_component(slm, utterance, [3, (4, 17)])
    lone = attribution.by_component(slm, utterance, [3], norm="alone")
    scale = float(theirs.abs().max())
    for index, label in enumerate(labels):
        if label not in ("embed", "pos_embed"):
            np.testing.assert_allclose(ours.sel(component=label).values, theirs[index].numpy(), rtol=1e-4, atol=1e-4 * scale)
            np.testing.assert_allclose(lone.sel(component=label).values[:, 0], alone[index].numpy(), rtol=1e-3, atol=1e-4 * scale)
    embedded = theirs[[index for index, label in enumerate(labels) if label.endswith("embed")]].sum(0)
    np.testing.assert_allclose(ours.sel(component="embed").values, embedded.numpy(), rtol=1e-4, atol=1e-4 * scale)
    by_head = attribution.by_head(slm, utterance, [3]).isel(target=0).values
    np.testing.assert_allclose(by_head, theirs_by_head.numpy(), rtol=1e-4, atol=1e-4 * scale)


def test_alone_a_head_is_read_by_its_own_scale(of: Callable[..., Any]) -> None:
    slm, utterance = of("qwen2")
    frozen, alone = (attribution.by_head(slm, utterance, [3], norm=norm).values for norm in ("frozen", "alone"))
    resid, weights = hooked.residuals(slm.model, utterance.tokens)[-1], hooked.parameters(slm.model)
    z = hooked.captured(slm.model, utterance.tokens, ["blocks.1.attn.hook_z"])["blocks.1.attn.hook_z"]
    result = z[:, 2] @ weights["blocks.1.attn.W_O"][2].detach()
    with torch.no_grad():
        read = slm.model.unembed(slm.model.ln_final(result[None]))[0, :, 3]
    np.testing.assert_allclose(alone[1, 2, :, 0], read.numpy(), rtol=1e-4, atol=1e-5)
    formula = hooked.norm_formula(slm.model)
    ratio = (formula.scale(resid) / formula.scale(result)).numpy()
    np.testing.assert_allclose(alone[1, 2, :, 0], frozen[1, 2, :, 0] * ratio, rtol=1e-4, atol=1e-5)


def test_chosen_positions_are_the_same_rows_and_minus_one_is_the_last(tiny_slm: SpeechTextModel, spoken: Utterance) -> None:
    for by in (attribution.by_component, attribution.by_head):
        whole, some = by(tiny_slm, spoken, ["the"]), by(tiny_slm, spoken, ["the"], positions=[2, -1])
        assert some.pos.values.tolist() == [2, 6]
        np.testing.assert_allclose(some.values, whole.sel(pos=[2, 6]).values, rtol=1e-5, atol=1e-6)
        assert some.label.values.tolist() == [spoken.labels[2], spoken.labels[6]]


def test_words_are_first_pieces_pairs_are_differences_and_kinds_are_means(tiny_slm: SpeechTextModel, spoken: Utterance) -> None:
    text, speech = (attribution.mean_logit(tiny_slm, kind) for kind in ("text", "speech"))
    found = attribution.by_component(tiny_slm, spoken, ["paris", "rome", ("paris", "rome"), text, text - speech])
    assert found.target.values.tolist() == ["paris", "rome", "paris - rome", "mean text", "mean text - mean speech"]
    np.testing.assert_allclose(found.isel(target=2).values, (found.isel(target=0) - found.isel(target=1)).values, rtol=1e-4, atol=1e-5)
    logits = hooked.logits(tiny_slm.model, spoken.tokens[None])[0]
    means = [logits[:, tiny_slm.vocabulary.mask(kind)].mean(-1).numpy() for kind in ("text", "speech")]
    total = found.sum("component")
    np.testing.assert_allclose(total.isel(target=3).values, means[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(total.isel(target=4).values, means[0] - means[1], rtol=1e-4, atol=1e-5)
    ids = [tiny_slm.word_ids(word)[0] for word in ("paris", "rome")]
    np.testing.assert_allclose(total.values[:, :2], logits[:, ids].numpy(), rtol=1e-4, atol=1e-5)


def test_in_bfloat16_the_terms_sum_to_the_logit_up_to_rounding_and_the_remainder_says_how_much(
    tiny_slm: SpeechTextModel, spoken: Utterance
) -> None:
    model = copy.deepcopy(tiny_slm.model)
    model.cfg.dtype = torch.bfloat16
    half = dataclasses.replace(tiny_slm, model=model.to(torch.bfloat16))
    found = attribution.by_component(half, spoken, [3, 9])
    assert found.dtype == np.float32 and 1e-5 < found.attrs["remainder"] < 0.5
    wanted = hooked.logits(half.model, spoken.tokens[None])[0][:, [3, 9]].float().numpy()
    np.testing.assert_allclose(found.sum("component").values, wanted, atol=found.attrs["remainder"] + 0.02 * np.abs(wanted).max())


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"norm": "own"}, ReadoutError, "'frozen' at that of the whole residual, or its own, 'alone'; got 'own'"),
        ({"positions": [7]}, ReadoutError, "positions 0 to 6; got 7"),
        ({"positions": []}, ReadoutError, "positions 0 to 6; got none"),
        ({"targets": "the"}, ReadoutError, "Targets are a list of .* one at least; got 'the'"),
        ({"targets": []}, ReadoutError, "one at least"),
        ({"targets": [("the", "the")]}, ReadoutError, "'the' and 'the' begin with the same token"),
        ({"targets": [2.5]}, ReadoutError, r"a pair \(answer, distractor\) or a LogitSum; got 2.5"),
        ({"targets": ["zebra"]}, VocabularyError, "cannot spell ' ?zebra'"),
        ({"targets": [33]}, VocabularyError, "got 33"),
    ],
)
@pytest.mark.usefixtures("as_users_run_it")
def test_what_cannot_be_attributed_is_refused(
    tiny_slm: SpeechTextModel, spoken: Utterance, options: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        attribution.by_component(tiny_slm, spoken, **{"targets": ["the"], **options})


def test_a_kind_that_is_not_there_has_no_mean(speech_only_slm: SpeechTextModel) -> None:
    with pytest.raises(ReadoutError, match="there is no 'text' to average"):
        attribution.mean_logit(speech_only_slm, "text")


def test_residuals_that_are_not_finite_are_refused(tiny_slm: SpeechTextModel, spoken: Utterance) -> None:
    broken = dataclasses.replace(tiny_slm, model=copy.deepcopy(tiny_slm.model))
    with torch.no_grad():
        broken.model.blocks[1].mlp.W_out[:] = torch.nan
    for by in (attribution.by_component, attribution.by_head):
        with pytest.raises(ReadoutError, match="last residuals of this utterance are not finite"):
            by(broken, spoken, ["the"])
