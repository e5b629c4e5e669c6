"""Attribution patching: slopes that are finite differences of exact patching, exact on linear paths, at the cost that is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from slm_interp import hooked
from slm_interp.convert import load
from slm_interp.errors import PatchingError, ReadoutError
from slm_interp.hooked.installed import MAJOR, PARTIAL, run_blocks
from slm_interp.model import SpeechTextModel
from slm_interp.patching import Outcome, Stretch, norm_matched, outcomes, policies, spans
from slm_interp.patching.activation import activation
from slm_interp.patching.attribution import atp, atp_qk, atp_sites, atp_star, integrated_gradients
from slm_interp.utterance import Contrast
from tests.patching.conftest import contrast_of, prompt_of
from tests.patching.plain import activations, score
from tests.replicas import N_UNITS, VARIANTS, text_tokenizer, write_slamkit

HEADED = ("q", "k", "v", "z", "pattern")
SITES = ("resid_pre", *(() if "resid_mid" in PARTIAL else ("resid_mid",)), "resid_post", "attn_out", "mlp_out", *HEADED)
# 4.x computes norms in float32, whatever the model's own dtype is, so differences of small steps are rough there.
STEP, RELATIVE, ABSOLUTE = (1e-4, 2e-5, 1e-7) if MAJOR == 3 else (1e-3, 2e-2, 1e-2)
ARCHITECTURES = ("llama", "qwen2", "qwen3", "opt", "gpt_neox")


def replica(folder: Path, variant: str, dtype: torch.dtype) -> SpeechTextModel:
    tokenizer = text_tokenizer()
    made = write_slamkit(folder, VARIANTS[variant], vocab_size=len(tokenizer) + N_UNITS + 2, scale=0.2)
    return load(made, text_tokenizer=tokenizer, n_units=N_UNITS, quantiser="tiny", dtype=dtype)


def contrasts_for(slm: SpeechTextModel) -> tuple[Contrast, Contrast]:
    """Prompts of one length, and prompts whose words differ in length."""
    clean = prompt_of(slm, {"the": [3, 7], "capital": [11, 7, 5], "of": [0, 1]}, "clean")
    equal = prompt_of(slm, {"the": [3, 8], "france": [2, 14, 5], "of": [0, 1]}, "equal")
    longer = prompt_of(slm, {"the": [3, 8], "france": [2, 14, 5, 9, 10], "of": [0, 1]}, "longer")
    return contrast_of(slm, clean, equal), contrast_of(slm, clean, longer)


def layers_of(slm: SpeechTextModel, site: str) -> range:
    return hooked.layers_at(slm.model, site) if site in hooked.SITES else range(slm.model.cfg.n_layers)


def sites_of(slm: SpeechTextModel) -> list[str]:
    return [site for site in SITES if site != "resid_mid" or not slm.model.cfg.parallel_attn_mlp]


# -- slopes --------------------------------------------------------------------------------------------


def slope_by_hand(slm: SpeechTextModel, contrast: Contrast, site: str, layer: int, word: int, head: int | None) -> float:
    """How fast the outcome moves as one span (and head) leaves the corrupted run for the clean one: central differences, plain hooks."""
    name, base = hooked.hook_at(site, layer), contrast.corrupted
    source, there = (activations(slm, one, name) for one in (contrast.clean, base))
    pair = spans.words(contrast)[word]
    met = policies.warped(Stretch(contrast.clean, pair.clean), Stretch(base, pair.corrupted))
    axis = 1 if site == "pattern" else 0
    moved = torch.tensordot(met.weights.to(source), source.index_select(axis, met.source), dims=([1], [axis])).movedim(0, axis)
    delta = moved - there.index_select(axis, met.base)

    def outcome(step: float) -> float:
        def change(value: Tensor, hook: Any) -> Tensor:
            changed = value.clone()
            if head is None:
                changed[0, met.base] += step * delta
            elif site == "pattern":
                changed[0, head, met.base, : delta.shape[-1]] += step * delta[head]
            else:
                changed[0, met.base, head] += step * delta[:, head]
            return changed

        return score(slm, base, contrast, outcomes.difference(), [(name, change)])

    return (outcome(STEP) - outcome(-STEP)) / (2 * STEP)


@pytest.mark.parametrize("variant", ARCHITECTURES)
def test_effects_are_finite_differences_of_exact_patching_at_every_site(tmp_path: Path, variant: str) -> None:
    """In float64, against hooks written by hand; answers of three and two units, so that two rows are summed; grouped heads in llama and qwen."""
    slm = replica(tmp_path / variant, variant, torch.float64)
    equal, unequal = contrasts_for(slm)
    for number, site in enumerate(sites_of(slm)):
        contrast = equal if site == "pattern" else unequal
        found = atp(slm, contrast, site, policy="warped").effect().isel(contrast=0)
        layers, heads = list(layers_of(slm, site)), found.sizes.get("head_index", 1)
        for layer, word, head in ((layers[0], 1, number % heads), (layers[-1], number % 3, (number + 1) % heads)):
            head_ = head if site in HEADED else None
            own = found.sel(layer=layer).isel(span=word)
            estimate = float(own if head_ is None else own.isel(head_index=head))
            assert estimate == pytest.approx(slope_by_hand(slm, contrast, site, layer, word, head_), rel=RELATIVE, abs=ABSOLUTE), (
                site,
                layer,
            )


def test_key_and_value_effects_are_those_of_key_value_heads(tiny_slm: SpeechTextModel, unequal: Contrast) -> None:
    found = atp_sites(tiny_slm, unequal, ("q", "k", "v", "z"), policy="warped")
    assert {site: one.effect().sizes["head_index"] for site, one in found.items()} == {"q": 4, "k": 2, "v": 2, "z": 4}


def test_several_sites_at_once_are_the_same_numbers(tiny_slm: SpeechTextModel, unequal: Contrast) -> None:
    together = atp_sites(tiny_slm, unequal, ("resid_pre", "resid_post", "z", "result"), policy="pooled")
    for site, one in together.items():
        alone = atp(tiny_slm, unequal, site, policy="pooled")
        assert np.allclose(one.effect(), alone.effect(), atol=1e-6) and one.dataset.attrs["site"] == site
    assert np.allclose(together["z"].effect(), together["result"].effect())
    assert np.allclose(together["resid_pre"].effect().sel(layer=1), together["resid_post"].effect().sel(layer=1))


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_baselines_and_shape_are_those_of_the_exact_sweep(
    tiny_slm: SpeechTextModel, equal: Contrast, unequal: Contrast, direction: Any
) -> None:
    contrasts = {"equal": equal, "unequal": unequal}
    how: dict[str, Any] = {"site": "v", "policy": "end_aligned", "direction": direction}
    estimated, exact = atp(tiny_slm, contrasts, **how).dataset, activation(tiny_slm, contrasts, **how).dataset
    assert estimated["outcome"].dims == exact["outcome"].dims and set(estimated.coords) == set(exact.coords)
    for name in ("clean", "corrupted"):
        assert np.allclose(estimated[name], exact[name], atol=1e-4)
    for name in (*exact.coords, "label", "told_apart"):
        assert (estimated[name] == exact[name]).all()
    assert all(estimated.attrs[key] == value for key, value in exact.attrs.items())


def test_a_span_that_one_contrast_lacks_is_nan_there_alone(tiny_slm: SpeechTextModel, equal: Contrast) -> None:
    def chosen(contrast: Contrast) -> list[spans.SpanPair]:
        return list(spans.words(contrast))[: 3 if contrast is equal else 2]

    other = replace(equal, answer=equal.answer[:2])
    found = atp(tiny_slm, {"one": equal, "two": other}, "mlp_out", chosen).effect()
    assert found.sel(contrast="one").notnull().all()
    assert found.sel(contrast="two").isnull().any("layer").values.tolist() == [False, False, True]


def test_a_prompt_patched_with_itself_moves_nothing(tiny_slm: SpeechTextModel, equal: Contrast) -> None:
    itself = replace(equal, corrupted=equal.clean)
    for one in atp_sites(tiny_slm, itself, SITES).values():
        assert float(abs(one.effect()).max()) < 1e-6
    assert float(abs(atp_qk(tiny_slm, itself, "k").effect()).max()) < 1e-6


# -- cost and memory -----------------------------------------------------------------------------------


@pytest.fixture
def passes(tiny_slm: SpeechTextModel, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Counts rows that the first block is run for, and calls of the backward pass."""
    counted: Counter[str] = Counter()
    grad, block = torch.autograd.grad, tiny_slm.model.blocks[0]

    def counting(*args: Any, **kwargs: Any) -> Any:
        counted["backwards"] += 1
        return grad(*args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", counting)
    handle = block.register_forward_hook(lambda *_: counted.update(forwards=1))
    yield counted
    handle.remove()


def test_the_whole_grid_takes_two_forwards_and_one_backward(tiny_slm: SpeechTextModel, equal: Contrast, passes: Counter[str]) -> None:
    """All sites, layers, heads and nine spans, some of which overlap."""
    every = [*spans.positions(equal), *spans.words(equal)]
    found = atp_sites(tiny_slm, equal, SITES, every)
    assert passes == {"forwards": 2, "backwards": 1}
    assert len(found) == len(SITES) and found["z"].effect().sizes == {"contrast": 1, "layer": 3, "span": len(every), "head_index": 4}
    assert {one.dataset.attrs[key] for one in found.values() for key in ("forwards",)} == {2}


@pytest.mark.parametrize("site", ["q", "k"])
def test_the_softmax_takes_one_forward_more(tiny_slm: SpeechTextModel, equal: Contrast, passes: Counter[str], site: str) -> None:
    found = atp_qk(tiny_slm, equal, site)
    assert passes == {"forwards": 3, "backwards": 1} and found.dataset.attrs["forwards"] == 3


def test_block_by_block_is_the_same_numbers_with_one_forward_more(
    tiny_slm: SpeechTextModel, unequal: Contrast, passes: Counter[str]
) -> None:
    sites = tuple(site for site in SITES if site != "pattern")
    whole = atp_sites(tiny_slm, unequal, sites, policy="warped")
    passes.clear()
    blocks = atp_sites(tiny_slm, unequal, sites, policy="warped", memory=0)
    assert passes["forwards"] == (3 if MAJOR == 3 else 5)  # 4.x runs the first block for every block above it
    assert blocks["z"].dataset.attrs["forwards"] == 3
    for site in sites:
        assert np.allclose(blocks[site].effect(), whole[site].effect(), atol=1e-6, rtol=1e-5)


def most_kept(run: Any) -> int:
    """Greatest number of bytes that are kept for backward passes at a time."""
    kept = {"now": 0, "most": 0}

    class Held:
        def __init__(self, tensor: Tensor):
            self.tensor, self.bytes = tensor, tensor.numel() * tensor.element_size()
            kept["now"] += self.bytes
            kept["most"] = max(kept["most"], kept["now"])

        def __del__(self) -> None:
            kept["now"] -= self.bytes

    with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.tensor):
        run()
    return kept["most"]


def test_block_by_block_keeps_the_graph_of_one_block(tiny_slm: SpeechTextModel, equal: Contrast) -> None:
    whole, blocks = (most_kept(lambda memory=memory: atp(tiny_slm, equal, "z", memory=memory)) for memory in (2**30, 0))
    assert 0 < blocks < 0.5 * whole


def test_no_parameter_gets_a_gradient(tiny_slm: SpeechTextModel, equal: Contrast) -> None:
    atp(tiny_slm, equal, "resid_post")
    assert all(one.grad is None and one.requires_grad for one in tiny_slm.model.parameters())


def test_bfloat16_is_near_float32(tmp_path: Path) -> None:
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        slm = replica(tmp_path / str(dtype), "llama", dtype)
        found.append(atp(slm, contrasts_for(slm)[1], "z", policy="warped").effect().values.ravel())
    assert np.corrcoef(*found)[0, 1] > 0.99 and np.isfinite(found[1]).all()


# -- linear paths --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def linear_slm(tmp_path_factory: pytest.TempPathFactory) -> SpeechTextModel:
    """Attention alone, no norms, grouped heads: after the attention of the last block, logits are linear in values, and in attention itself."""
    slm = replica(tmp_path_factory.mktemp("linear"), "llama", torch.float32)
    cfg = slm.model.cfg
    fields = {name: getattr(cfg, name) for name in ("d_model", "n_layers", "n_heads", "d_head", "d_vocab", "n_ctx", "n_key_value_heads")}
    rotary = {"positional_embedding_type": "rotary", "rotary_dim": cfg.d_head, "rotary_base": 10_000.0}
    model = hooked.empty({**fields, **rotary, "attn_only": True, "normalization_type": None})
    generator = torch.Generator().manual_seed(0)
    state = {name: 0.4 * torch.randn(one.shape, generator=generator) for name, one in sorted(hooked.parameters(model).items())}
    return replace(slm, model=hooked.fill(model, state))


@pytest.mark.parametrize("site", ["resid_post", "attn_out", "v", "z", "result", "pattern"])
@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_attribution_is_exact_where_the_path_is_linear(linear_slm: SpeechTextModel, site: str, direction: Any) -> None:
    """A logit difference is linear in what stands after the last softmax; before it, or a block below, it is not."""
    contrast = contrasts_for(linear_slm)[site != "pattern"]
    how: dict[str, Any] = {
        "policy": None if site == "pattern" else "warped",
        "outcome": outcomes.logit_difference(),
        "direction": direction,
    }
    own, exact = (run(linear_slm, contrast, site, **how) for run in (atp, activation))
    last = int(exact.dataset["layer"][-1])
    assert np.allclose(own.effect().sel(layer=last), exact.effect().sel(layer=last), atol=2e-5)
    assert float(abs(exact.effect().sel(layer=last)).max()) > 0.05
    below = (own.effect() - exact.effect()).sel(layer=last - 2)
    assert float(abs(below).max()) > 1e-3


@pytest.mark.parametrize("site", ["q", "k"])
@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_queries_and_keys_are_exact_through_the_softmax_where_all_after_it_is_linear(
    linear_slm: SpeechTextModel, site: str, direction: Any
) -> None:
    contrast = contrasts_for(linear_slm)[1]
    how: dict[str, Any] = {"policy": "warped", "outcome": outcomes.logit_difference(), "direction": direction}
    fixed, plain, exact = (run(linear_slm, contrast, site, **how).effect().sel(layer=2) for run in (atp_qk, atp, activation))
    assert np.allclose(fixed, exact, atol=2e-5)
    assert float(abs(plain - exact).max()) > 1e-3


def test_overlapping_spans_and_matched_norms_go_through_the_softmax_alike(linear_slm: SpeechTextModel) -> None:
    contrast = contrasts_for(linear_slm)[1]
    every = [*spans.words(contrast), *spans.whole(contrast)]
    for site in ("q", "k"):
        how: dict[str, Any] = {"spans": every, "policy": norm_matched(policies.warped), "outcome": outcomes.logit_difference()}
        fixed, exact = (run(linear_slm, contrast, site, **how).effect().sel(layer=2) for run in (atp_qk, activation))
        assert np.allclose(fixed, exact, atol=2e-5)


def test_saturated_attention_hides_from_slopes_and_not_from_the_softmax(linear_slm: SpeechTextModel) -> None:
    """Keys blown up, attention is all on one position: slopes at queries vanish, though patching them moves attention elsewhere."""
    model, contrast = linear_slm.model, contrasts_for(linear_slm)[1]
    keys = next(one for name, one in hooked.parameters(model).items() if name.startswith("blocks.2.") and name.endswith("W_K"))
    how: dict[str, Any] = {"policy": "warped", "outcome": outcomes.logit_difference()}
    own = keys.detach().clone()
    with torch.no_grad():
        keys.mul_(20)
        fixed, plain, exact = (run(linear_slm, contrast, "q", **how).effect().sel(layer=2) for run in (atp_qk, atp, activation))
        keys.copy_(own)
    assert float(abs(exact).max()) > 0.05 and np.allclose(fixed, exact, atol=1e-4)
    assert float(abs(plain).max()) < 0.02 * float(abs(exact).max())


# -- GradDrop ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("site", [site for site in SITES if site in ("z", "mlp_out", "resid_post", "resid_mid")])
def test_dropping_a_block_is_cutting_what_it_adds_out_of_the_graph(tiny_slm: SpeechTextModel, unequal: Contrast, site: str) -> None:
    """Against `detach` in hooks written by hand: mean absolute effect with one block after the other cut."""
    layers = tiny_slm.model.cfg.n_layers
    found = atp_star(tiny_slm, unequal, site, policy="end_aligned")
    by_hand = []
    for dropped in range(layers):
        adds = {hooked.hook_at(part, dropped) for part in ("attn_out", "mlp_out")}

        def cut(model: Any, tokens: Any, names: Any, score: Any, keep: Any, adds: Any = adds) -> Any:
            values: dict[str, Tensor] = {}

            def hook_for(name: str) -> Any:
                def hook_(value: Tensor, hook: Any) -> Tensor:
                    values[name] = value if value.requires_grad else value.detach().requires_grad_()
                    return values[name].detach() if name in adds else values[name]

                return hook_

            last = f"blocks.{layers - 1}.hook_resid_post"
            every = dict.fromkeys(["blocks.0.hook_resid_pre", *names, *adds, last])
            with hooked.frozen(model), torch.enable_grad():
                run_blocks(model, tokens, [(name, hook_for(name)) for name in every])
                slopes = torch.autograd.grad(score(values[last]), [values[name] for name in names], materialize_grads=True)
            return None, {name: keep(name, values[name].detach(), one) for name, one in zip(names, slopes, strict=True)}

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(hooked, "gradients_at", cut)
            by_hand.append(abs(atp(tiny_slm, unequal, site, policy="end_aligned").effect()))
    own = layers if site.startswith("resid") else layers - 1
    assert np.allclose(found.dataset["magnitude"], sum(by_hand) / own, rtol=1e-4, atol=1e-6)
    assert np.allclose(found.effect(), atp(tiny_slm, unequal, site, policy="end_aligned").effect(), rtol=1e-4, atol=1e-6)
    assert float(abs(by_hand[0] - by_hand[2]).max()) > 1e-3


def test_with_the_softmax_dropping_keeps_the_corrected_sign(tiny_slm: SpeechTextModel, unequal: Contrast) -> None:
    star, fixed = atp_star(tiny_slm, unequal, "k", policy="warped"), atp_qk(tiny_slm, unequal, "k", policy="warped")
    assert np.allclose(star.effect(), fixed.effect(), atol=1e-6) and (star.dataset["magnitude"] >= 0).all()


# -- integrated gradients ------------------------------------------------------------------------------


@pytest.mark.parametrize("site", [site for site in SITES if site in ("resid_post", "resid_mid", "k", "z")])
@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_integrated_gradients_sum_to_what_moving_everything_does(
    tiny_slm: SpeechTextModel, unequal: Contrast, site: str, direction: Any
) -> None:
    """`joint` is the exact patch of the whole; the rest falls with the square of the steps."""
    how: dict[str, Any] = {"policy": "warped", "direction": direction}
    rest = []
    for steps in (16, 128):
        found = integrated_gradients(tiny_slm, unequal, site, steps=steps, **how)
        whole = found.effect().sum([dim for dim in found.effect().dims if dim in ("span", "head_index")])
        rest.append(float(abs(whole - found.dataset["joint"]).max()))
    assert rest[1] < 0.02 * float(abs(found.dataset["joint"]).max()) and rest[1] < rest[0] / 3, rest
    everything = activation(tiny_slm, unequal, site, spans="everything", policy=policies.word_by_word(policies.warped), direction=direction)
    if "head_index" not in everything.effect().dims:
        assert np.allclose(found.dataset["joint"], everything.effect().isel(span=0), atol=1e-4)


def test_a_single_span_at_the_residual_stream_goes_to_the_exact_patch(tiny_slm: SpeechTextModel, unequal: Contrast) -> None:
    word = [spans.words(unequal)[1]]
    own = integrated_gradients(tiny_slm, unequal, "resid_post", word, "warped", steps=256).effect()
    assert np.allclose(own, activation(tiny_slm, unequal, "resid_post", word, "warped").effect(), atol=5e-3)


def test_steps_in_batches_are_the_same_numbers(tiny_slm: SpeechTextModel, equal: Contrast) -> None:
    together, apart = (integrated_gradients(tiny_slm, equal, "pattern", steps=3, memory=memory).effect() for memory in (2**30, 0))
    assert np.allclose(together, apart, atol=1e-6)


def test_kl_from_the_clean_run_can_be_integrated_from_there(tiny_slm: SpeechTextModel, equal: Contrast) -> None:
    found = integrated_gradients(tiny_slm, equal, "resid_post", outcome=outcomes.kl(), direction="noising", steps=32)
    assert float(found.dataset["clean"][0]) == pytest.approx(0, abs=1e-6)
    assert np.allclose(found.effect().sum("span"), found.dataset["joint"], atol=1e-2) and float(found.dataset["joint"].max()) > 0.01


# -- refusals ------------------------------------------------------------------------------------------


def test_an_outcome_that_counts_is_refused(tiny_slm: SpeechTextModel, equal: Contrast) -> None:
    for method in (atp, atp_star, integrated_gradients):
        with pytest.raises(PatchingError, match=r"'rank\(units=1\)' has no gradient"):
            method(tiny_slm, equal, "z", outcome=outcomes.rank())


def test_an_outcome_that_is_flat_at_the_base_is_refused(tiny_slm: SpeechTextModel, equal: Contrast) -> None:
    with pytest.raises(PatchingError, match="at the clean run its gradient is 0"):
        atp(tiny_slm, equal, "z", outcome=outcomes.kl(), direction="noising")
    assert float(abs(atp(tiny_slm, equal, "z", outcome=outcomes.kl()).effect()).max()) > 0


def test_an_outcome_that_is_no_number_is_refused(tiny_slm: SpeechTextModel, equal: Contrast) -> None:
    broken = Outcome("broken", lambda read: read.log_prob("answer") * torch.nan, "nats", ("answer",))
    with pytest.raises(PatchingError, match="broken are not finite"):
        atp(tiny_slm, equal, "z", outcome=broken)


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    slm = replica(tmp_path, "llama", torch.float32)
    queries = hooked.parameters(slm.model)["blocks.1.attn.W_Q"]
    with torch.no_grad():
        queries.fill_(torch.nan)
    with pytest.raises(PatchingError, match="not finite"):
        atp(slm, contrasts_for(slm)[0], "z")


def test_a_model_in_training_is_refused(tiny_slm: SpeechTextModel, equal: Contrast) -> None:
    tiny_slm.model.train()
    try:
        with pytest.raises(ReadoutError, match="evaluation mode"):
            atp(tiny_slm, equal, "z")
    finally:
        tiny_slm.model.eval()


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        ({"site": "mlp_in"}, "Sites are resid_pre, .*got 'mlp_in'"),
        ({"site": "z", "direction": "both"}, "'denoising' .*got 'both'"),
        ({"site": "result", "policy": norm_matched(policies.same)}, "Match norms at z"),
    ],
)
@pytest.mark.usefixtures("as_users_run_it")
def test_what_exact_patching_refuses_is_refused_alike(tiny_slm: SpeechTextModel, equal: Contrast, ask: dict[str, Any], says: str) -> None:
    for method in (atp, activation):
        with pytest.raises(PatchingError, match=says):
            method(tiny_slm, equal, **ask)


def test_a_site_whose_slope_is_that_of_a_part_is_refused_on_4(tiny_slm: SpeechTextModel, equal: Contrast) -> None:
    with pytest.raises(ReadoutError, match="resid_mid reaches the MLP alone"):
        atp(tiny_slm, equal, "resid_mid")


def test_attention_between_unequal_prompts_is_refused(tiny_slm: SpeechTextModel, unequal: Contrast) -> None:
    with pytest.raises(PatchingError, match="prompts of 8 and 10"):
        atp(tiny_slm, unequal, "pattern", policy="warped")


def test_other_sites_do_not_go_through_the_softmax(tiny_slm: SpeechTextModel, equal: Contrast) -> None:
    with pytest.raises(PatchingError, match="the site is 'q' or 'k'; got 'v'"):
        atp_qk(tiny_slm, equal, "v")


def test_spans_that_overlap_cannot_all_move_at_once(tiny_slm: SpeechTextModel, equal: Contrast) -> None:
    every = [*spans.words(equal), *spans.whole(equal)]
    with pytest.raises(PatchingError, match="position 1 is in 'word 0' and 'everything'"):
        integrated_gradients(tiny_slm, equal, "z", every)


def test_no_steps_are_refused(tiny_slm: SpeechTextModel, equal: Contrast) -> None:
    with pytest.raises(PatchingError, match="steps=0"):
        integrated_gradients(tiny_slm, equal, "z", steps=0)


def test_a_model_of_one_block_has_nothing_to_drop(linear_slm: SpeechTextModel) -> None:
    cfg = linear_slm.model.cfg
    fields = {name: getattr(cfg, name) for name in ("d_model", "n_heads", "d_head", "d_vocab", "n_ctx")}
    model = hooked.empty({**fields, "n_layers": 1, "attn_only": True, "normalization_type": None, "positional_embedding_type": "standard"})
    state = {name: torch.zeros(one.shape) for name, one in hooked.parameters(model).items()}
    one = replace(linear_slm, model=hooked.fill(model, state))
    with pytest.raises(PatchingError, match="one block alone"):
        atp_star(one, contrasts_for(linear_slm)[0], "z")
