"""Lenses side by side: each as it reads alone, the distances as the dense formula has them, the probe among its own words."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from slm_interp import hooked, metrics
from slm_interp.errors import ReadoutError
from slm_interp.lenses import Comparison, LogitLens, WordProbe, collect, compare, read, train_probe
from slm_interp.lenses.comparison import COMPARED
from slm_interp.model import SpeechTextModel
from slm_interp.plots import lens_differences
from slm_interp.readout import Unembedding, divergence
from slm_interp.utterance import Span, Utterance, Word
from tests.benchmarks.readout import anonymous_mib
from tests.replicas import N_UNITS

WORDS = ["the", "capital", "of", "france"]


@dataclass(frozen=True, eq=False)
class Shifted:
    """A lens that reads the residual after adding a fixed vector: linear, different at every layer, for one site."""

    slm: SpeechTextModel
    name: str = "shifted"

    @property
    def settings(self) -> dict[str, str]:
        return {"lens": self.name}

    def scores(self, resid: torch.Tensor, layer: int) -> torch.Tensor:
        push = torch.linspace(-1, 1, resid.shape[-1]) * (self.slm.model.cfg.n_layers - layer) / 2
        return hooked.final_norm(self.slm.model, resid + push)


def dense(slm: SpeechTextModel, lens: Any, utterance: Utterance) -> torch.Tensor:
    """Logits of every cell, the way nobody should: [layer, pos, d_vocab]."""
    resid = hooked.residuals(slm.model, utterance.tokens)
    ready = torch.stack([lens.scores(one, layer) for layer, one in enumerate(resid)])
    return (ready @ slm.model.unembed.W_U + slm.model.unembed.b_U).detach()


@pytest.fixture
def lenses(tiny_slm: SpeechTextModel) -> dict[str, Any]:
    return {"logit": LogitLens(tiny_slm), "bare": LogitLens(tiny_slm, final_norm=False), "shifted": Shifted(tiny_slm)}


def test_each_lens_says_what_it_says_alone(tiny_slm: SpeechTextModel, spoken: Utterance, lenses: dict[str, Any]) -> None:
    found = compare(tiny_slm, spoken, lenses)
    assert found.lenses == ("logit", "bare", "shifted")
    for name in ("logit", "bare"):
        alone = lenses[name].read(spoken, k=1).dataset
        for variable in COMPARED:
            np.testing.assert_array_equal(found.dataset[variable].sel(lens=name).values, alone[variable].values)
    assert found.dataset.attrs["reference"] == "logit" and "final_norm" not in found.dataset.attrs
    assert '"final_norm": "off"' in found.dataset.attrs["lenses_json"]


def test_the_model_runs_once_for_all_lenses(
    tiny_slm: SpeechTextModel, spoken: Utterance, lenses: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, stream = [], hooked.stream
    monkeypatch.setattr(hooked, "stream", lambda *arguments: runs.append(arguments) or stream(*arguments))
    compare(tiny_slm, spoken, lenses)
    assert len(runs) == 1


def test_the_stream_of_another_site_or_utterance_is_refused(tiny_slm: SpeechTextModel, spoken: Utterance) -> None:
    shorter = hooked.stream(tiny_slm.model, spoken.tokens[:-1])
    for stream in (shorter, hooked.stream(tiny_slm.model, spoken.tokens, "resid_mid")):
        with pytest.raises(ReadoutError, match=rf"The stream of this utterance at resid_post is \(4, {len(spoken)}, 24\); got"):
            read(LogitLens(tiny_slm), tiny_slm, spoken, stream=stream)


def test_distances_are_those_of_the_dense_formula(tiny_slm: SpeechTextModel, spoken: Utterance, lenses: dict[str, Any]) -> None:
    data = compare(tiny_slm, spoken, lenses).dataset
    logits = {name: dense(tiny_slm, lens, spoken) for name, lens in lenses.items()}
    output = hooked.logits(tiny_slm.model, spoken.tokens[None])[0]
    for one in lenses:
        for other in lenses:
            wanted = metrics.kl_divergence(logits[one], logits[other])
            np.testing.assert_allclose(data.kl.sel(lens=one, other=other).values, wanted.numpy(), rtol=1e-4, atol=1e-5)
            same = logits[one].argmax(-1) == logits[other].argmax(-1)
            assert (data.same_top.sel(lens=one, other=other).values == same.numpy()).all()
        wanted = metrics.kl_divergence(output.expand_as(logits[one]), logits[one])
        np.testing.assert_allclose(data.kl_from_output.sel(lens=one).values, wanted.numpy(), rtol=1e-4, atol=1e-5)
    assert float(data.kl_from_output.sel(lens="logit").isel(layer=-1).max()) < 1e-6
    assert float(data.kl.sel(lens="logit", other="bare").max()) > 0.1, "lenses must differ for the test to see it"


def test_a_modality_and_no_input_are_the_scope_of_the_distances_too(
    tiny_slm: SpeechTextModel, spoken: Utterance, lenses: dict[str, Any]
) -> None:
    data = compare(tiny_slm, spoken, lenses, kinds=["speech"], exclude_input=True).dataset
    among = tiny_slm.vocabulary.mask("speech")
    one, other = (dense(tiny_slm, lenses[name], spoken).double() for name in ("logit", "shifted"))
    for pos, own in enumerate(spoken.tokens.tolist()):
        seen = among.clone()
        seen[own] = False
        wanted = metrics.kl_divergence(one[:, pos], other[:, pos], seen)
        np.testing.assert_allclose(data.kl.sel(lens="logit", other="shifted", pos=pos).values, wanted.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n_lenses", [2, 3])
def test_the_streamed_divergence_is_that_of_the_whole_distributions_in_blocks_of_any_size(dtype: torch.dtype, n_lenses: int) -> None:
    generator = torch.Generator().manual_seed(0)
    W_U = torch.randn(16, 700, generator=generator).to(dtype)
    b_U = torch.randn(700, generator=generator).to(dtype)
    ready = [torch.randn(9, 16, generator=generator).to(dtype) for _ in range(n_lenses)]
    groups = {"a": torch.arange(700) < 130, "b": torch.arange(700) >= 200}
    seen = groups["a"] | groups["b"]
    inputs = torch.arange(9) * 20
    logits = [torch.addmm(b_U, one, W_U).float() for one in ready]
    for memory in (2**28, 2**25 + (n_lenses + 3) * 2**22 + 4 * n_lenses * 768 * W_U.element_size()):  # all nine rows at once, or four
        found = divergence(ready, Unembedding(W_U, b_U), groups, inputs, memory)
        assert found.shape == (n_lenses, n_lenses, 9)
        for row in range(9):
            among = seen.clone()
            among[inputs[row]] = False
            wanted = torch.stack(
                [torch.stack([metrics.kl_divergence(p[row].double(), q[row].double(), among) for q in logits]) for p in logits]
            )
            torch.testing.assert_close(found[..., row], wanted.float(), rtol=1e-4, atol=1e-5)
    with pytest.raises(ReadoutError, match="MiB are too little: one row of .* lenses takes"):
        divergence(ready, Unembedding(W_U, b_U), groups, inputs, 2**20)
    with pytest.raises(ReadoutError, match=r"row by row; got .*9, 4\]"):
        divergence([*ready[:-1], ready[-1][:4]], Unembedding(W_U, b_U), groups)
    with pytest.raises(ReadoutError, match="not finite"):
        divergence([*ready[:-1], ready[-1] * torch.nan], Unembedding(W_U, b_U), groups)


def test_distances_stay_within_their_budget_of_memory() -> None:
    lenses, rows, d_vocab, budget = 3, 600, 40_000, 96 * 2**20
    weight, ready = torch.randn(d_vocab, 64), [torch.randn(rows, 64) for _ in range(lenses)]
    groups = {"text": torch.arange(d_vocab) < 39_000, "speech": torch.arange(d_vocab) >= 39_000}
    divergence([one[:2] for one in ready], Unembedding(weight.T), groups)
    assert lenses * rows * d_vocab * 4 > 2 * budget
    before, peak, done = anonymous_mib(), [0.0], threading.Event()

    def watch() -> None:
        while not done.is_set():
            peak[0] = max(peak[0], anonymous_mib())
            time.sleep(0.002)

    thread = threading.Thread(target=watch)
    thread.start()
    divergence(ready, Unembedding(weight.T), groups, memory=budget)
    done.set()
    thread.join()
    assert peak[0] - before < budget / 2**20


def test_at_another_site_the_layers_are_blocks_and_the_output_is_still_the_model_s(tiny_slm: SpeechTextModel, spoken: Utterance) -> None:
    both = {"logit": LogitLens(tiny_slm), "bare": LogitLens(tiny_slm, final_norm=False)}
    data = compare(tiny_slm, spoken, both, site="resid_mid").dataset
    assert data.layer_label.values.tolist() == ["0_mid", "1_mid", "2_mid"] and data.attrs["site"] == "resid_mid"
    middle = hooked.stream(tiny_slm.model, spoken.tokens, "resid_mid")
    with torch.no_grad():
        read = tiny_slm.model.unembed(tiny_slm.model.ln_final(middle))
    output = hooked.logits(tiny_slm.model, spoken.tokens[None])[0]
    wanted = metrics.kl_divergence(output.expand_as(read), read)
    np.testing.assert_allclose(data.kl_from_output.sel(lens="logit").values, wanted.numpy(), rtol=1e-4, atol=1e-5)


# -- a probe beside them -------------------------------------------------------------------------------


def said(slm: SpeechTextModel, seed: int, texts: tuple[str, ...]) -> Utterance:
    """Words of two random units each."""
    units = torch.from_numpy(np.random.default_rng(seed).integers(0, N_UNITS, 2 * len(texts)))
    edges = torch.arange(len(units) + 1) * 0.02
    words = tuple(Word(text, Span(2 * i, 2 * i + 2), 0.04 * i, 0.04 * (i + 1)) for i, text in enumerate(texts))
    return slm.speech_prompt(units, edges, words, quantiser="tiny", name=f"clip {seed}")


@pytest.fixture(scope="module")
def probe(tiny_slm: SpeechTextModel) -> WordProbe:
    train = collect(tiny_slm, [said(tiny_slm, seed, tuple(WORDS[(seed + i) % 4] for i in range(3))) for seed in range(12)], layers=[0, 2])
    return train_probe(train, penalties=(1e-2,))


def test_lenses_and_probe_are_ranked_among_the_same_words(tiny_slm: SpeechTextModel, probe: WordProbe, lenses: dict[str, Any]) -> None:
    utterance = said(tiny_slm, 50, ("france", "rome", "the"))
    found = compare(tiny_slm, utterance, lenses, probe=probe)
    data = found.dataset
    assert data.reader.values.tolist() == ["logit", "bare", "shifted", "probe"] and data.attrs["candidates"] == 4
    assert "beside a probe of 4 words" in repr(found)
    alone = probe.read(tiny_slm, utterance)
    np.testing.assert_array_equal(data.candidate_rank.sel(reader="probe", layer=[0, 2], target=[0, 2]).values, alone.target_rank.values)
    assert data.candidate_rank.sel(reader="probe", layer=[1, 3]).isnull().all()
    assert data.candidate_rank.sel(target=1).isnull().all(), "rome is no class of the probe"
    classes = [tiny_slm.word_ids(word)[0] for word in probe.classes]
    among = dense(tiny_slm, lenses["logit"], utterance)[..., classes]
    own = among[..., [probe.classes.index("france")]]
    wanted = (among > own).sum(-1) + ((among == own).sum(-1) - 1) / 2
    np.testing.assert_array_equal(data.candidate_rank.sel(reader="logit", target=0).values, wanted.numpy())
    assert float(data.target_rank.sel(lens="logit").max()) > 3, "ranks among all ids are another thing and keep their own variable"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"lenses": ["logit"]}, r"takes two lenses or more, by name; got \['logit'\]"),
        ({"lenses": ["logit", "heard"]}, "'heard' is a word probe: it reads its own classes and no vocabulary. Give it as probe="),
        ({"site": "attn_out", "lenses": ["logit", "bare"]}, "A word probe is made for resid_post; got 'attn_out'"),
        ({"rename": "probe"}, "'probe' is what the probe is called beside the lenses"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    tiny_slm: SpeechTextModel, spoken: Utterance, probe: WordProbe, lenses: dict[str, Any], change: dict[str, Any], sentence: str
) -> None:
    everything = {**lenses, "heard": probe, "probe": lenses["shifted"]}
    names = ["logit", "probe"] if "rename" in change else change["lenses"]
    with pytest.raises(ReadoutError, match=sentence):
        compare(tiny_slm, spoken, {name: everything[name] for name in names}, probe=probe, site=change.get("site", "resid_post"))


def test_a_lens_for_one_site_is_refused_at_another(tiny_slm: SpeechTextModel, spoken: Utterance, lenses: dict[str, Any]) -> None:
    with pytest.raises(ReadoutError, match="The shifted lens is made for resid_post; got 'mlp_out'"):
        compare(tiny_slm, spoken, lenses, site="mlp_out")


# -- to look at ----------------------------------------------------------------------------------------


def test_differences_are_one_lens_less_another_of_what_is_a_number(
    tiny_slm: SpeechTextModel, spoken: Utterance, lenses: dict[str, Any]
) -> None:
    found = compare(tiny_slm, spoken, lenses)
    change = found.difference("entropy", "shifted")
    np.testing.assert_allclose(change.values, (found.dataset.entropy.sel(lens="shifted") - found.dataset.entropy.sel(lens="logit")).values)
    assert found.difference("target_log_prob", "bare", "shifted").dims == ("layer", "pos", "target")
    with pytest.raises(ReadoutError, match="there is no 'tuned'"):
        found.difference("entropy", "tuned")
    with pytest.raises(ReadoutError, match="Lenses differ in .*target_rank.*; got 'top_id'"):
        found.difference("top_id", "bare")


def test_a_comparison_is_saved_shown_and_comes_back(
    tiny_slm: SpeechTextModel, probe: WordProbe, lenses: dict[str, Any], tmp_path: Path
) -> None:
    found = compare(tiny_slm, said(tiny_slm, 50, ("france", "the")), lenses, probe=probe)
    found.save(tmp_path / "compared.nc")
    back = Comparison.load(tmp_path / "compared.nc")
    assert back.dataset.equals(found.dataset) and back.lenses == found.lenses
    assert "Comparison(logit | bare | shifted: 4 layers" in back._repr_html_()
    table = back.by_layer()
    assert len(table) == 12 and table[table["lens"] == "logit"]["same_top_as_logit"].eq(1).all()
    LogitLens(tiny_slm).read(said(tiny_slm, 50, ("the",))).save(tmp_path / "reading.nc")
    with pytest.raises(ReadoutError, match="is no saved comparison: it has no lenses"):
        Comparison.load(tmp_path / "reading.nc")
    with pytest.raises(ReadoutError, match="is no saved comparison"):
        Comparison.load(tmp_path / "absent.nc")


@pytest.mark.parametrize("colour", ["text_mass", "top_probability", "entropy", "rank", "kl_from_output"])
def test_the_picture_has_a_panel_for_each_lens_and_one_for_each_difference_about_zero(
    tiny_slm: SpeechTextModel, spoken: Utterance, lenses: dict[str, Any], colour: str
) -> None:
    found = compare(tiny_slm, spoken, lenses)
    figure = found.plot(colour=colour)
    heats = [trace for trace in figure.data if trace.type == "heatmap"]
    assert [trace.name for trace in heats] == ["logit lens", "bare lens", "shifted lens", "bare less logit", "shifted less logit"]
    assert [trace.coloraxis for trace in heats] == ["coloraxis"] * 3 + ["coloraxis2"] * 2
    for trace, base in ((heats[3], heats[1]), (heats[4], heats[2])):
        np.testing.assert_allclose(np.array(trace.z, float), np.array(base.z, float) - np.array(heats[0].z, float), atol=2e-4)
    apart = figure.layout.coloraxis2
    assert apart.cmid == 0 and apart.cmin == -apart.cmax and apart.colorscale[0][1] == "rgb(103,0,31)"
    assert [note.text for note in figure.layout.annotations if note.name == "word"] == ["the", "capital"]
    assert apart.colorbar.title.text.endswith("blue is more than logit")


def test_colours_that_are_not_there_are_refused(tiny_slm: SpeechTextModel, spoken: Utterance, lenses: dict[str, Any]) -> None:
    data = compare(tiny_slm, spoken, lenses).dataset
    with pytest.raises(ReadoutError, match="compared by one of text_mass, .*kl_from_output; got 'loudness'"):
        lens_differences(data, colour="loudness")
    with pytest.raises(ReadoutError, match="ranks 2 targets; wanted number 7"):
        lens_differences(data, colour="rank", target=7)
