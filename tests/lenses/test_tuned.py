"""The tuned lens itself: the logit lens before training, the model at the last layer, and files that fit together."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from slm_interp import hooked
from slm_interp.errors import ReadoutError
from slm_interp.lenses import Aim, DirectedLens, Lens, LogitLens, TunedLens
from slm_interp.lenses.directions import directions_of, first_pieces
from slm_interp.model import SpeechTextModel
from slm_interp.utterance import Utterance


def made(slm: SpeechTextModel, layers: tuple[int, ...] = (0, 1, 2), size: float = 0.3) -> TunedLens:
    """A lens with random translators that says it was trained."""
    d_model, generator = slm.model.cfg.d_model, torch.Generator().manual_seed(0)
    weight = size * torch.randn(len(layers), d_model, d_model, generator=generator) / d_model**0.5
    bias = size * torch.randn(len(layers), d_model, generator=generator)
    return TunedLens(slm, layers, weight, bias, Aim("speech", "joint"), {"corpus": "0123456789abcdef", "positions": 512})


def half(slm: SpeechTextModel) -> SpeechTextModel:
    model = copy.deepcopy(slm.model)
    model.cfg.dtype = torch.bfloat16
    return dataclasses.replace(slm, model=model.to(torch.bfloat16))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("which", ["tiny_slm", "speech_only_slm"])
def test_before_training_it_is_the_logit_lens_bit_for_bit(which: str, dtype: torch.dtype, request: pytest.FixtureRequest) -> None:
    slm: SpeechTextModel = request.getfixturevalue(which)
    slm = half(slm) if dtype == torch.bfloat16 else slm
    lens, resid = TunedLens.untrained(slm), torch.randn(4, 9, slm.model.cfg.d_model).to(dtype)
    assert isinstance(lens, Lens) and isinstance(lens, DirectedLens)
    assert lens.name == "tuned[untrained]"
    for layer in range(slm.model.cfg.n_layers + 1):
        assert lens.scores(resid, layer).dtype == dtype
        assert torch.equal(lens.scores(resid, layer), LogitLens(slm).scores(resid, layer))


def test_the_last_layer_is_the_model_s_own_output_whatever_was_trained(tiny_slm: SpeechTextModel, spoken: Utterance) -> None:
    data = made(tiny_slm).read(spoken, k=33, targets=range(33)).dataset
    output = hooked.logits(tiny_slm.model, spoken.tokens[None])[0].log_softmax(-1).numpy()
    np.testing.assert_allclose(data.isel(layer=-1).target_log_prob.values, output, rtol=1e-6, atol=0)
    assert not np.allclose(
        data.isel(layer=0).target_log_prob.values, LogitLens(tiny_slm).read(spoken, targets=range(33)).dataset.target_log_prob[0]
    )


def test_a_layer_is_read_by_the_textbook_formula(tiny_slm: SpeechTextModel, spoken: Utterance) -> None:
    lens = made(tiny_slm)
    resid = hooked.residuals(tiny_slm.model, spoken.tokens)
    with torch.no_grad():
        translated = resid[1] + resid[1] @ lens.weight[1].T + lens.bias[1]
        dense = tiny_slm.model.unembed(tiny_slm.model.ln_final(translated[None]))[0].log_softmax(-1)
    data = lens.read(spoken, targets=range(33)).dataset
    np.testing.assert_allclose(data.sel(layer=1).target_log_prob.values, dense.numpy(), rtol=1e-5, atol=1e-6)


def test_a_result_says_what_was_trained_on_what(tiny_slm: SpeechTextModel, spoken: Utterance) -> None:
    lens = made(tiny_slm)
    attrs = lens.read(spoken).dataset.attrs
    assert attrs["lens"] == "tuned[speech positions, joint vocabulary]"
    assert (attrs["positions"], attrs["among"], attrs["weighting"]) == ("speech", "joint", "position")
    assert (attrs["tuned"], attrs["corpus"]) == (lens.hash, "0123456789abcdef")
    assert str(Aim("all", "text", "modality")) == "all positions, equal shares, text vocabulary"
    assert lens.hash in lens._repr_html_()


def test_some_layers_can_have_translators_and_only_these_are_read(tiny_slm: SpeechTextModel, spoken: Utterance) -> None:
    lens = made(tiny_slm, layers=(0, 2))
    assert lens.read(spoken).dataset.layer.values.tolist() == [0, 2, 3]
    with pytest.raises(ReadoutError, match=r"translators at layers \[0, 2\], and layer 3 needs none; got 1"):
        lens.read(spoken, layers=[1])


def test_a_direction_is_the_gradient_of_its_word_s_logit_but_for_the_norm_s_own_division(tiny_slm: SpeechTextModel) -> None:
    """Along the residual itself the norm divides a change away; beside it the gradient is the direction over the deviation."""
    lens, d_model = made(tiny_slm), tiny_slm.model.cfg.d_model
    resid = torch.randn(d_model, requires_grad=True)
    translated = resid + lens.weight[1] @ resid + lens.bias[1]
    deviation = (translated.square().mean() + tiny_slm.model.cfg.eps).sqrt()
    unit = (translated / deviation).detach()
    (identifier,) = tiny_slm.word_ids("capital")
    logit = tiny_slm.model.unembed(tiny_slm.model.ln_final(translated[None, None]))[0, 0, identifier]
    (gradient,) = torch.autograd.grad(logit, resid)
    straight = directions_of(tiny_slm, first_pieces(tiny_slm, ["the", "capital"]))[1]
    beside = straight - unit * (straight * unit).mean()
    expected = (beside + lens.weight[1].T @ beside) / deviation.detach()
    torch.testing.assert_close(gradient, expected.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(lens.directions(1, ["the", "capital"])[1], straight + lens.weight[1].T @ straight, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(lens.directions(3, ["capital"])[0], straight, rtol=0, atol=0)


# -- files ---------------------------------------------------------------------------------------------


def test_what_was_saved_comes_back(tiny_slm: SpeechTextModel, tmp_path: Path) -> None:
    lens = made(tiny_slm)
    lens.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tuned.json", "tuned.safetensors"]
    back = TunedLens.load(tmp_path, tiny_slm)
    assert (back.hash, back.name, back.settings) == (lens.hash, lens.name, lens.settings)
    assert torch.equal(back.weight, lens.weight) and torch.equal(back.bias, lens.bias)


def test_another_model_and_damaged_files_are_refused(tiny_slm: SpeechTextModel, tmp_path: Path) -> None:
    with pytest.raises(ReadoutError, match=r"No tuned.json"):
        TunedLens.load(tmp_path, tiny_slm)
    made(tiny_slm).save(tmp_path)
    other = dataclasses.replace(tiny_slm, provenance={**tiny_slm.provenance, "fingerprint": "another"})
    with pytest.raises(ReadoutError, match=r"this is another .* Train one for it with train_tuned"):
        TunedLens.load(tmp_path, other)
    said = json.loads((tmp_path / "tuned.json").read_text())
    for change in ({"aim": {**said["aim"], "positions": "text"}}, {"trained": {}}):
        (tmp_path / "tuned.json").write_text(json.dumps({**said, **change}))
        with pytest.raises(ReadoutError, match="do not belong together"):
            TunedLens.load(tmp_path, tiny_slm)
    (tmp_path / "tuned.json").write_text(json.dumps(said))
    made(tiny_slm, size=0.2).save(tmp_path / "other")
    (tmp_path / "other" / "tuned.safetensors").rename(tmp_path / "tuned.safetensors")
    with pytest.raises(ReadoutError, match="do not belong together"):
        TunedLens.load(tmp_path, tiny_slm)


def test_what_is_no_lens_is_refused_with_a_sentence(tiny_slm: SpeechTextModel, as_users_run_it: None) -> None:
    lens = made(tiny_slm)
    for change, sentence in (
        ({"layers": (0, 1, 3)}, r"layers 0 \(embedding\) to 2, ascending; got \[0, 1, 3\]. Layer 3 is the model's own output"),
        ({"layers": (1, 0, 2)}, "ascending"),
        ({"layers": ()}, "ascending"),
        ({"weight": lens.weight[:2]}, r"need weights \(3, 24, 24\) and biases \(3, 24\); got \(2, 24, 24\)"),
        ({"bias": lens.bias.index_fill(0, torch.tensor(1), torch.nan)}, r"translator of layer 1 is not finite \(1 such layers\)"),
    ):
        with pytest.raises(ReadoutError, match=sentence):
            dataclasses.replace(lens, **change)
    for words, sentence in (
        ({"positions": "units"}, "positions is one of all, speech, text; got 'units'"),
        ({"among": "dead"}, "among is one of joint, speech, text"),
        ({"weighting": "word"}, "weighting is one of position, modality"),
        ({"positions": "speech", "weighting": "modality"}, "needs positions of both"),
    ):
        with pytest.raises(ReadoutError, match=sentence):
            Aim(**words)
