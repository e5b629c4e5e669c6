"""A sweep has the numbers of plain TransformerLens hooks, on every architecture, at every site, in both directions."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from slm_interp import hooked, patching
from slm_interp.convert import load
from slm_interp.errors import PatchingError, ReadoutError, UtteranceError
from slm_interp.hooked.installed import PARTIAL
from slm_interp.model import SpeechTextModel
from slm_interp.patching import SpanPair, norm_matched, outcomes, policies, spans
from slm_interp.utterance import Contrast, Span
from tests.patching import plain
from tests.patching.conftest import contrast_of, prompt_of
from tests.replicas import N_UNITS, VARIANTS, text_tokenizer, write_slamkit

SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "q", "k", "v", "z", "result", "pattern")


# One of each architecture, with what changes attention: groups, norms of queries and keys, windows, rotary scaling, parallel blocks.
MODELS = ("llama", "llama-llama3-rope", "qwen2", "qwen2-windows", "qwen3", "mistral-window", "opt", "gpt_neox", "gpt_neox-serial-tied")


@pytest.fixture(scope="module", params=MODELS)
def slm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SpeechTextModel:
    tokenizer = text_tokenizer()
    folder = write_slamkit(tmp_path_factory.mktemp("patched"), VARIANTS[request.param], vocab_size=len(tokenizer) + N_UNITS + 2)
    return load(folder, text_tokenizer=tokenizer, n_units=N_UNITS, quantiser="tiny")


def unequal_of(slm: SpeechTextModel) -> Contrast:
    return contrast_of(
        slm,
        prompt_of(slm, {"the": [3, 7], "capital": [11, 7, 5], "of": [0, 1]}, "clean"),
        prompt_of(slm, {"the": [3, 8], "france": [2, 14, 5, 9, 10], "of": [0, 1]}, "corrupted"),
    )


def equal_of(slm: SpeechTextModel) -> Contrast:
    one = unequal_of(slm)
    return replace(one, corrupted=prompt_of(slm, {"the": [3, 8], "france": [2, 14, 5], "of": [0, 1]}, "corrupted"))


def sites_of(slm: SpeechTextModel) -> list[str]:
    absent = getattr(slm.model.cfg, "parallel_attn_mlp", False) or "resid_mid" in PARTIAL  # a plain hook there writes to a part
    return [site for site in SITES if site != "resid_mid" or not absent]


def furthest(found: patching.Sweep, wanted: np.ndarray) -> float:
    """The largest difference over the largest value, or over 1."""
    return float(np.abs(found.dataset["outcome"].values.reshape(wanted.shape) - wanted).max() / max(1, np.abs(wanted).max()))


def heads_of(slm: SpeechTextModel, site: str) -> list[int] | None:
    return None if site in hooked.SITES else [1]


def check_site(slm: SpeechTextModel, site: str, direction: str) -> None:
    """Whole words, warped: rows of two lengths go on from the patched prompt. Patterns, which take no warp, on prompts of one length."""
    contrast, policy = (equal_of(slm), policies.same) if site == "pattern" else (unequal_of(slm), policies.warped)
    heads, layers = heads_of(slm, site), [0, 3] if site == "resid_post" else [1]
    pairs = list(spans.words(contrast))[:2]
    found = patching.activation(slm, contrast, site, pairs, policy, direction=direction, layers=layers, heads=heads)
    wanted = plain.swept(slm, contrast, pairs, policy, outcomes.difference(), (direction, site, layers, heads))
    assert furthest(found, wanted) < 1e-5, site
    assert np.ptp(wanted, 1).max() > 1e-3 or layers == [3], site
    for side in ("clean", "corrupted"):
        own = plain.score(slm, getattr(contrast, side), contrast, outcomes.difference(), [])
        assert found.dataset[side].item() == pytest.approx(own, rel=1e-5, abs=1e-5)


def test_every_site_has_the_numbers_of_plain_hooks(slm: SpeechTextModel) -> None:
    for site in sites_of(slm):
        check_site(slm, site, "denoising")


@pytest.mark.parametrize("site", [site for site in SITES if site not in PARTIAL])
def test_noising_has_the_numbers_of_plain_hooks(tiny_slm: SpeechTextModel, site: str) -> None:
    check_site(tiny_slm, site, "noising")


@pytest.mark.parametrize(
    "outcome",
    [outcomes.difference(units=1), outcomes.log_prob(among="joint"), outcomes.logit_difference(), outcomes.kl(), outcomes.rank()],
    ids=lambda outcome: outcome.name,
)
def test_every_outcome_has_the_numbers_of_plain_hooks(tiny_slm: SpeechTextModel, unequal: Contrast, outcome: patching.Outcome) -> None:
    found = patching.activation(tiny_slm, unequal, "resid_pre", policy="pooled", outcome=outcome, layers=[0, 1])
    wanted = plain.swept(tiny_slm, unequal, list(spans.words(unequal)), policies.pooled, outcome, ("denoising", "resid_pre", [0, 1], None))
    assert furthest(found, wanted) < 1e-5


@pytest.mark.parametrize("name", ["start_aligned", "end_aligned", "last_unit", "pooled", "warped_in_time", "word_by_word", "norm_matched"])
@pytest.mark.parametrize("site", ["resid_post", "v"])
def test_every_policy_has_the_numbers_of_plain_hooks(tiny_slm: SpeechTextModel, unequal: Contrast, name: str, site: str) -> None:
    policy = norm_matched(policies.pooled) if name == "norm_matched" else policies.policy_of(name)
    heads = heads_of(tiny_slm, site)
    found = patching.activation(tiny_slm, unequal, site, policy=policy, layers=[1], heads=heads)
    wanted = plain.swept(tiny_slm, unequal, list(spans.words(unequal)), policy, outcomes.difference(), ("denoising", site, [1], heads))
    assert furthest(found, wanted) < 1e-5


def test_the_memory_given_changes_no_number(tiny_slm: SpeechTextModel, equal: Contrast) -> None:
    wide, narrow = (
        patching.activation(tiny_slm, equal, "z", "positions", memory=memory).dataset["outcome"].values for memory in (2**30, 1)
    )
    assert np.abs(wide - narrow).max() < 1e-5


def test_patching_everything_recovers_everything(slm: SpeechTextModel) -> None:
    """All positions of any one layer, prompts of one length: the first unit is that of the clean run; whole words are, where the embedding is patched.

    Above it the units of a continuation that were appended have read the corrupted prompt already.
    """
    first = patching.activation(slm, equal_of(slm), "resid_post", "everything", outcome=outcomes.difference(units=1)).recovered()
    whole = patching.activation(slm, equal_of(slm), "resid_pre", "everything", layers=[0]).recovered()
    assert np.allclose(first.values, 1, atol=1e-4) and np.allclose(whole.values, 1, atol=1e-4)
    if not getattr(slm.model.cfg, "parallel_attn_mlp", False):  # what stands between attention and MLP is on the skip path too
        middle = patching.activation(slm, equal_of(slm), "resid_mid", "everything", outcome=outcomes.difference(units=1)).recovered()
        assert np.allclose(middle.values, 1, atol=1e-4)


def test_patching_a_prompt_with_itself_changes_nothing(slm: SpeechTextModel) -> None:
    one = equal_of(slm)
    itself = replace(one, clean=one.corrupted)
    for site in sites_of(slm):
        found = patching.activation(slm, itself, site, layers=[1], heads=heads_of(slm, site))
        assert np.abs(found.effect().values).max() < 2e-5, site


def test_noising_is_denoising_of_the_swapped_contrast(slm: SpeechTextModel) -> None:
    one = unequal_of(slm)
    swapped = Contrast(one.corrupted, one.clean, one.answer, one.distractor)
    for site in ("resid_post", "v"):
        noising = patching.activation(slm, one, site, policy="warped", direction="noising", layers=[1]).dataset
        denoising = patching.activation(slm, swapped, site, policy="warped", direction="denoising", layers=[1]).dataset
        assert np.allclose(noising["outcome"], denoising["outcome"], atol=1e-6)
        assert noising["clean"].item() == denoising["corrupted"].item()


def test_the_last_layer_at_the_last_position_is_the_clean_outcome_of_one_unit(slm: SpeechTextModel) -> None:
    one = unequal_of(slm)
    layer = slm.model.cfg.n_layers
    found = patching.activation(slm, one, policy="last_unit", outcome=outcomes.difference(units=1), layers=[layer])
    values = found.dataset["outcome"].values[0, 0]
    assert np.allclose(values[:-1], found.dataset["corrupted"].item(), atol=1e-5)
    assert values[-1] == pytest.approx(found.dataset["clean"].item(), abs=1e-5)


@pytest.mark.parametrize("slm", ["gpt_neox"], indirect=True)
def test_heads_of_the_last_layer_sum_to_what_attention_adds_where_it_is_read_linearly(slm: SpeechTextModel) -> None:
    """In a parallel block nothing reads what attention wrote but the final norm: with that held still the logit difference is a sum over heads."""
    one, layer = unequal_of(slm), slm.model.cfg.n_layers - 1
    still = held_still(slm, one)
    options = {"policy": "last_unit", "outcome": outcomes.logit_difference(), "layers": [layer]}
    heads, whole = (patching.activation(still, one, site, **options).effect().values for site in ("z", "attn_out"))
    assert np.allclose(heads.sum(-1), whole, rtol=1e-4, atol=1e-5)
    assert np.abs(whole[..., -1]).min() > 1e-3


def held_still(slm: SpeechTextModel, contrast: Contrast) -> SpeechTextModel:
    """The model with an identity for its final norm."""
    model = copy.deepcopy(slm.model)
    model.ln_final = torch.nn.Identity()
    return replace(slm, model=model)


def test_result_is_z(tiny_slm: SpeechTextModel, unequal: Contrast) -> None:
    z, result = (patching.activation(tiny_slm, unequal, site, policy="pooled") for site in ("z", "result"))
    assert np.array_equal(z.dataset["outcome"], result.dataset["outcome"])
    assert result.dataset["layer_label"].values[1] == "1_result" and result.dataset.sizes["head_index"] == 4


def test_keys_have_the_heads_of_their_groups(tiny_slm: SpeechTextModel, equal: Contrast) -> None:
    assert patching.activation(tiny_slm, equal, "k").dataset.sizes["head_index"] == 2


def test_a_span_that_a_contrast_lacks_is_nan(tiny_slm: SpeechTextModel, equal: Contrast, unequal: Contrast) -> None:
    def own(contrast: Contrast) -> list[SpanPair]:
        return list(spans.words(contrast))[: 3 if contrast is equal else 1]

    data = patching.activation(tiny_slm, {"three": equal, "one": unequal}, spans=own, policy="pooled").dataset
    assert data["outcome"].dims == ("contrast", "layer", "span") and data["contrast"].values.tolist() == ["three", "one"]
    assert np.isnan(data["outcome"].sel(contrast="one").values[:, 1:]).all() and data["label"].values[1].tolist() == ["the", "", ""]
    assert np.isfinite(data["outcome"].sel(contrast="three")).all() and np.isfinite(data["outcome"].values[1, :, 0]).all()


def test_bfloat16_differs_from_plain_hooks_by_its_rounding(tmp_path) -> None:
    tokenizer = text_tokenizer()
    folder = write_slamkit(tmp_path, VARIANTS["llama"], vocab_size=len(tokenizer) + N_UNITS + 2, dtype=torch.bfloat16)
    slm = load(folder, text_tokenizer=tokenizer, n_units=N_UNITS, quantiser="tiny")
    one = unequal_of(slm)
    found = patching.activation(slm, one, policy="warped", layers=[1])
    grid = ("denoising", "resid_post", [1], None)
    wanted = plain.swept(slm, one, list(spans.words(one)), policies.warped, outcomes.difference(), grid)
    assert furthest(found, wanted) < 0.05


def test_spans_of_unequal_length_without_a_policy_are_refused(tiny_slm: SpeechTextModel, unequal: Contrast) -> None:
    with pytest.raises(PatchingError, match="The spans have 3 and 5 positions. Say how they meet"):
        patching.activation(tiny_slm, unequal)


def test_a_span_past_the_end_is_refused(tiny_slm: SpeechTextModel, equal: Contrast) -> None:
    with pytest.raises(UtteranceError, match="Span 6:9 ends past the last of 8 positions"):
        patching.activation(tiny_slm, equal, spans=[SpanPair("late", Span(6, 9), Span(6, 9))])


def test_a_policy_that_reaches_past_the_end_is_refused(tiny_slm: SpeechTextModel, equal: Contrast) -> None:
    def far(source: patching.Stretch, base: patching.Stretch) -> patching.Pairing:
        return patching.Pairing(base.positions + 4, source.positions, torch.eye(len(source.span)))

    with pytest.raises(PatchingError, match=r"pairs base positions \[7, 8, 9\] of 'word 1'; the corrupted prompt has 8"):
        patching.activation(tiny_slm, equal, spans=list(spans.words(equal))[1:2], policy=far)


def test_a_continuation_that_is_no_speech_is_refused(tiny_slm: SpeechTextModel, equal: Contrast) -> None:
    with pytest.raises(PatchingError, match="The answer has id 7, which is text"):
        patching.activation(tiny_slm, replace(equal, answer=torch.tensor([7])))


@pytest.mark.parametrize("name", ["blocks.1.attn.W_Q", "blocks.0.attn.W_V", "blocks.2.mlp.W_out"])
def test_a_model_with_a_weight_that_is_no_number_is_refused(tmp_path, name: str) -> None:
    """TransformerLens zeroes attention patterns that are NaN, so logits alone would not show the first of these."""
    tokenizer = text_tokenizer()
    folder = write_slamkit(tmp_path, VARIANTS["opt"], vocab_size=len(tokenizer) + N_UNITS + 2)
    slm = load(folder, text_tokenizer=tokenizer, n_units=N_UNITS, quantiser="tiny")
    weight = hooked.parameters(slm.model)[name]
    with torch.no_grad():
        weight[(0,) * weight.ndim] = torch.nan
    with pytest.raises(PatchingError, match=r"Values at blocks\.\d.* are not finite. Scan the weights: slm-interp verify"):
        patching.activation(slm, equal_of(slm))


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"site": "resid"}, PatchingError, "Sites are resid_pre, resid_mid.*result; got 'resid'"),
        ({"direction": "clean"}, PatchingError, "A direction is 'denoising' .* got 'clean'"),
        ({"policy": "stretched"}, PatchingError, "Policies are same"),
        ({"spans": "phones"}, PatchingError, "Spans are called words"),
        ({"layers": [4]}, PatchingError, r"Layers of resid_post are 0 to 3, one or more, each once; got \[4\]"),
        ({"layers": []}, PatchingError, "one or more"),
        ({"heads": [0]}, PatchingError, "resid_post has no heads"),
        ({"site": "k", "heads": [2]}, PatchingError, "Heads of k are 0 to 1"),
    ],
)
@pytest.mark.usefixtures("as_users_run_it")
def test_what_is_not_there_is_refused(tiny_slm: SpeechTextModel, equal: Contrast, options: dict, error: type, says: str) -> None:
    with pytest.raises(error, match=says):
        patching.activation(tiny_slm, equal, **options)


def test_a_pattern_at_unequal_lengths_is_refused(tiny_slm: SpeechTextModel, unequal: Contrast) -> None:
    with pytest.raises(PatchingError, match="between prompts of one length, each position with its own; got prompts of 8 and 10"):
        patching.activation(tiny_slm, unequal, "pattern", policy="warped")


def test_norms_of_result_are_not_matched(tiny_slm: SpeechTextModel, equal: Contrast) -> None:
    with pytest.raises(PatchingError, match="Match norms at z"):
        patching.activation(tiny_slm, equal, "result", policy=norm_matched(policies.same))


def test_no_contrasts_are_refused(tiny_slm: SpeechTextModel) -> None:
    with pytest.raises(PatchingError, match="needs one contrast or more"):
        patching.activation(tiny_slm, [])


@pytest.mark.parametrize("slm", ["gpt_neox"], indirect=True)
def test_a_site_that_parallel_blocks_do_not_have_is_refused(slm: SpeechTextModel) -> None:
    with pytest.raises(ReadoutError, match="This model has no resid_mid"):
        patching.activation(slm, equal_of(slm), "resid_mid")
