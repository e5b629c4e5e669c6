"""The sites of a block: what stands at each is what the model adds up, and the lens reads it there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from slm_interp import hooked
from slm_interp.convert import load
from slm_interp.errors import ReadoutError
from slm_interp.lenses import LogitLens, read
from slm_interp.model import SpeechTextModel
from slm_interp.plots import lens_grid
from slm_interp.utterance import Utterance
from tests.replicas import N_UNITS, VARIANTS, write_slamkit

SERIAL = ["llama", "qwen2", "opt-untied", "gpt_neox-serial-tied"]
UNITS = torch.tensor([1, 5, 1, 13, 7])


@pytest.fixture(scope="module")
def of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], SpeechTextModel]:
    """A speech-only replica by its architecture."""
    made: dict[str, SpeechTextModel] = {}

    def model(name: str) -> SpeechTextModel:
        if name not in made:
            made[name] = load(write_slamkit(tmp_path_factory.mktemp(name), VARIANTS[name]), n_units=N_UNITS)
        return made[name]

    return model


def spoken(slm: SpeechTextModel) -> Utterance:
    return slm.speech_prompt(UNITS, torch.arange(len(UNITS) + 1) / 10)


@dataclass(frozen=True)
class Trained:
    """A lens of today's protocol that says nothing about sites."""

    name: str = "trained"

    @property
    def settings(self) -> dict[str, str]:
        return {"lens": self.name}

    def scores(self, resid: torch.Tensor, layer: int) -> torch.Tensor:
        return resid


@pytest.mark.parametrize("name", SERIAL)
def test_each_site_holds_what_the_block_adds_up(of: Callable[[str], SpeechTextModel], name: str) -> None:
    slm = of(name)
    at = {site: hooked.stream(slm.model, spoken(slm).tokens, site) for site in hooked.SITES}
    torch.testing.assert_close(at["resid_pre"], at["resid_post"][:-1], rtol=0, atol=0)
    torch.testing.assert_close(at["resid_mid"], at["resid_pre"] + at["attn_out"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(at["resid_post"][1:], at["resid_mid"] + at["mlp_out"], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(at["attn_out"], at["mlp_out"], atol=0.1)


def test_in_parallel_both_outputs_are_added_to_what_was_before_the_block(of: Callable[[str], SpeechTextModel]) -> None:
    slm = of("gpt_neox")
    at = {site: hooked.stream(slm.model, spoken(slm).tokens, site) for site in hooked.SITES if site != "resid_mid"}
    torch.testing.assert_close(at["resid_post"][1:], at["resid_pre"] + at["attn_out"] + at["mlp_out"], rtol=1e-5, atol=1e-5)
    with pytest.raises(ReadoutError, match=r"has no resid_mid: its attention and its MLP both read .* Read resid_pre, attn_out or mlp_out"):
        LogitLens(slm).read(spoken(slm), site="resid_mid")


def test_the_default_is_the_stream_after_each_block_and_its_last_row_the_model(tiny_slm: SpeechTextModel, spoken: Utterance) -> None:
    plain, named = (LogitLens(tiny_slm).read(spoken, **options).dataset for options in ({}, {"site": "resid_post"}))
    assert plain.identical(named) and plain.attrs["site"] == "resid_post"
    output = hooked.logits(tiny_slm.model, spoken.tokens[None])[0].log_softmax(-1)
    last = LogitLens(tiny_slm).read(spoken, targets=range(33)).dataset.target_log_prob.isel(layer=-1)
    np.testing.assert_allclose(last.values, output.numpy(), rtol=1e-6)


def test_before_a_block_is_after_the_one_before_it(tiny_slm: SpeechTextModel, spoken: Utterance) -> None:
    lens = LogitLens(tiny_slm)
    before, after = lens.read(spoken, site="resid_pre").dataset, lens.read(spoken).dataset
    assert before.layer.values.tolist() == [0, 1, 2] and before.layer_label.values.tolist() == ["0_pre", "1_pre", "2_pre"]
    np.testing.assert_allclose(before.target_log_prob.values, after.target_log_prob.values[:-1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("site", ["resid_mid", "attn_out", "mlp_out"])
def test_a_site_is_read_through_norm_and_unembedding_of_what_stands_there(tiny_slm: SpeechTextModel, spoken: Utterance, site: str) -> None:
    data = LogitLens(tiny_slm).read(spoken, site=site, targets=range(33)).dataset
    with torch.no_grad():
        _, cache = tiny_slm.model.run_with_cache(spoken.tokens[None], prepend_bos=False)
        rows = [tiny_slm.model.unembed(tiny_slm.model.ln_final(cache[f"blocks.{block}.hook_{site}"]))[0] for block in range(3)]
    np.testing.assert_allclose(data.target_log_prob.values, torch.stack(rows).log_softmax(-1).numpy(), rtol=1e-5, atol=1e-5)
    assert data.hook.values.tolist() == [f"blocks.{block}.hook_{site}" for block in range(3)]
    assert data.layer_label.values.tolist() == [f"{block}_{site.removeprefix('resid_')}" for block in range(3)]
    assert data.attrs["site"] == site


def test_chosen_blocks_are_the_same_rows_of_the_whole_reading(tiny_slm: SpeechTextModel, spoken: Utterance) -> None:
    whole, some = (LogitLens(tiny_slm).read(spoken, site="mlp_out", layers=layers).dataset for layers in (None, [2, 0]))
    assert some.layer.values.tolist() == [0, 2] and some.layer_label.values.tolist() == ["0_mlp_out", "2_mlp_out"]
    np.testing.assert_allclose(some.entropy.values, whole.entropy.sel(layer=[0, 2]).values, rtol=1e-5)


def test_a_reading_elsewhere_says_so_and_claims_no_output(tiny_slm: SpeechTextModel, spoken: Utterance) -> None:
    reading = LogitLens(tiny_slm).read(spoken, site="attn_out")
    assert "logit lens of attn_out, " in repr(reading)
    figure = lens_grid(reading.dataset)
    assert figure.layout.meta["slm"]["title"].startswith("Logit lens of attn_out")
    assert "output" not in figure.layout.yaxis.title.text and figure.layout.yaxis.ticktext[-1] == "2_attn_out"
    assert "of " not in repr(LogitLens(tiny_slm).read(spoken)).split(",")[0]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"site": "attn"}, "A model is read at resid_pre, resid_mid, resid_post, attn_out, mlp_out; got 'attn'"),
        ({"site": "resid_mid", "layers": [3]}, "Layers count blocks, 0 to 2, at resid_mid; got 3"),
        ({"site": "resid_pre", "layers": [-1]}, "at resid_pre; got -1"),
        ({"site": "mlp_out", "layers": []}, "got none"),
    ],
)
def test_what_is_not_there_is_refused(tiny_slm: SpeechTextModel, spoken: Utterance, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ReadoutError, match=sentence):
        LogitLens(tiny_slm).read(spoken, **options)


def test_a_lens_that_says_nothing_about_sites_is_for_the_stream_after_a_block(tiny_slm: SpeechTextModel, spoken: Utterance) -> None:
    assert read(Trained(), tiny_slm, spoken).dataset.sizes["layer"] == 4
    with pytest.raises(ReadoutError, match="The trained lens is made for resid_post; got 'attn_out'. The logit lens reads every site"):
        read(Trained(), tiny_slm, spoken, site="attn_out")


def test_a_place_that_nothing_passes_is_refused(tiny_slm: SpeechTextModel, spoken: Utterance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slm_interp.hooked.sites.run_blocks", lambda *arguments: None)
    with pytest.raises(ReadoutError, match=r"Nothing passed blocks.0.hook_resid_pre \(4 such hooks\)"):
        hooked.residuals(tiny_slm.model, spoken.tokens)
