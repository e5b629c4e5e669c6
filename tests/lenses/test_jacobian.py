"""The Jacobian lens as a lens: the formula of its reading, its last layer, its directions, its files, those of TransformerLens."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformer_lens.tools.analysis import JacobianLens as Theirs

from slm_interp import hooked
from slm_interp.errors import ReadoutError
from slm_interp.lenses import (
    JacobianLens,
    JacobianRecipe,
    Lens,
    LogitLens,
    export_transformer_lens,
    fit_jacobian,
    import_transformer_lens,
)
from slm_interp.model import SpeechTextModel
from slm_interp.transcription import observe
from slm_interp.utterance import Utterance
from tests.lenses.jacobians import ROUNDING, interleaved, rows

SHORT = JacobianRecipe(skip_first_positions=2)


@pytest.fixture(scope="module")
def lens(tiny_slm: SpeechTextModel) -> JacobianLens:
    return fit_jacobian(tiny_slm, rows(tiny_slm, 2), SHORT).lens()


def identity(slm: SpeechTextModel, dtype: torch.dtype = torch.float32) -> JacobianLens:
    """A lens that moves nothing."""
    d_model, n_layers = slm.model.cfg.d_model, slm.model.cfg.n_layers
    fitted = {"n_prompts": 1, "fingerprint": str(slm.provenance.get("fingerprint", ""))}
    return JacobianLens(slm, tuple(range(n_layers)), torch.eye(d_model, dtype=dtype).repeat(n_layers, 1, 1), fitted)


def test_it_is_a_lens_and_a_corpus_can_be_observed_with_it(lens: JacobianLens, tiny_slm: SpeechTextModel, spoken: Utterance) -> None:
    assert isinstance(lens, Lens)
    words = tuple(replace(word, text=text) for word, text in zip(spoken.words, ("france", "is"), strict=True))
    other = replace(spoken, words=words, name="other")
    seen = observe(tiny_slm, [spoken, other], lens, nulls=("elsewhere",))
    assert seen.dataset.attrs["lens"] == "jacobian" and seen.dataset.attrs["jacobian"] == lens.hash
    assert seen.dataset.attrs["jacobian_n_prompts"] == "2"


def test_logits_are_unembedding_after_final_norm_of_the_moved_residual(
    lens: JacobianLens, tiny_slm: SpeechTextModel, spoken: Utterance
) -> None:
    data = lens.read(spoken, targets=range(33)).dataset
    model = tiny_slm.model
    with torch.no_grad():
        _, cache = model.run_with_cache(spoken.tokens[None], prepend_bos=False)
        for layer in (1, 2):
            moved = torch.einsum("oi,bpi->bpo", lens.jacobians[layer], cache[f"blocks.{layer - 1}.hook_resid_post"])
            expected = model.unembed(model.ln_final(moved))[0].log_softmax(-1)
            found = torch.from_numpy(data.target_log_prob.sel(layer=layer).values)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_last_layer_is_the_model_s_own_output(lens: JacobianLens, tiny_slm: SpeechTextModel, spoken: Utterance) -> None:
    last = lens.read(spoken, targets=range(33)).dataset.isel(layer=-1)
    output = hooked.logits(tiny_slm.model, spoken.tokens[None])[0].log_softmax(-1)
    torch.testing.assert_close(torch.from_numpy(last.target_log_prob.values), output, rtol=1e-6, atol=1e-6)
    assert torch.equal(lens.jacobian(3), torch.eye(24))


def test_the_identity_is_the_logit_lens(tiny_slm: SpeechTextModel, spoken: Utterance) -> None:
    own, plain = identity(tiny_slm).read(spoken).dataset, LogitLens(tiny_slm).read(spoken).dataset
    assert (own.top_id.values == plain.top_id.values).all()
    assert (own.target_rank.values == plain.target_rank.values).all()


def test_scores_of_a_bfloat16_model_are_moved_in_float32(tmp_path: Path) -> None:
    slm = interleaved(tmp_path, "llama", dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    lens = replace(identity(slm), jacobians=torch.randn(3, 24, 24, generator=generator))
    resid = torch.randn(5, 24, generator=generator).bfloat16()
    assert lens.moved(resid, 1).dtype == torch.float32
    scores = lens.scores(resid, 1)
    assert scores.dtype == torch.bfloat16
    assert torch.equal(scores, hooked.final_norm(slm.model, (resid.float() @ lens.jacobians[1].T).bfloat16()))


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_a_logit_is_a_direction_times_the_residual_over_the_scale_of_the_norm(tmp_path: Path, family: str) -> None:
    slm = interleaved(tmp_path, family, dtype=torch.float64)
    lens = fit_jacobian(slm, rows(slm, 2), SHORT).lens()
    words, layer = ["paris", "sea"], 1
    ids = [slm.word_ids(word)[0] for word in words]
    x = torch.randn(4, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    moved = lens.moved(x, layer)
    centred = moved - moved.mean(-1, keepdim=True) if family == "opt" else moved
    scale = (centred.square().mean(-1, keepdim=True) + slm.model.cfg.eps).sqrt()
    constant = hooked.final_norm(slm.model, torch.zeros_like(x)) @ hooked.unembedding(slm.model).W_U[:, ids]
    logits = lens.scores(x, layer) @ hooked.unembedding(slm.model).W_U[:, ids]
    torch.testing.assert_close(x @ lens.directions(layer, words).T / scale + constant, logits, rtol=ROUNDING, atol=ROUNDING)


def test_published_vectors_leave_the_norm_out(lens: JacobianLens, tiny_slm: SpeechTextModel) -> None:
    W_U = hooked.unembedding(tiny_slm.model).W_U
    torch.testing.assert_close(lens.vectors(2, [5, 11]), torch.stack([lens.jacobians[2].T @ W_U[:, one] for one in (5, 11)]))


@pytest.mark.usefixtures("as_users_run_it")
def test_layers_it_was_not_fitted_at_and_broken_matrices_are_refused(lens: JacobianLens, spoken: Utterance) -> None:
    some = replace(lens, layers=(1, 2), jacobians=lens.jacobians[1:])
    assert some.read(spoken).dataset.layer.values.tolist() == [1, 2, 3]
    with pytest.raises(ReadoutError, match=re.escape("fitted at layers [1, 2]; got 0. Read with layers=")):
        some.read(spoken, layers=[0, 1])
    with pytest.raises(ReadoutError, match=re.escape("The Jacobians of layers [1] are not finite")):
        replace(lens, jacobians=torch.stack([lens.jacobians[0], lens.jacobians[1] * torch.nan, lens.jacobians[2]]))
    with pytest.raises(ReadoutError, match="one matrix a layer"):
        replace(lens, layers=(0, 1))
    with pytest.raises(ReadoutError, match="mean over prompts; got 0"):
        replace(lens, fitted={**lens.fitted, "n_prompts": 0})


def test_a_saved_lens_is_the_same_lens(lens: JacobianLens, tiny_slm: SpeechTextModel, tmp_path: Path) -> None:
    lens.save(tmp_path)
    again = JacobianLens.load(tmp_path, tiny_slm)
    assert torch.equal(again.jacobians, lens.jacobians) and again.hash == lens.hash and again.settings == lens.settings
    assert "2 prompts" in repr(again) and lens.hash in again._repr_html_()


def test_another_model_and_files_that_do_not_belong_together_are_refused(
    lens: JacobianLens, tiny_slm: SpeechTextModel, tmp_path: Path
) -> None:
    lens.save(tmp_path / "lens")
    other = interleaved(tmp_path / "other", "llama", seed_scale=0.2)
    with pytest.raises(ReadoutError, match="was fitted on the model .*Fit one for it with fit_jacobian"):
        JacobianLens.load(tmp_path / "lens", other)
    described = json.loads((tmp_path / "lens" / "jacobian.json").read_text())
    described["fitted"]["n_prompts"] = 1000
    (tmp_path / "lens" / "jacobian.json").write_text(json.dumps(described))
    with pytest.raises(ReadoutError, match="do not belong together"):
        JacobianLens.load(tmp_path / "lens", tiny_slm)
    with pytest.raises(ReadoutError, match=re.escape("No jacobian.json")):
        JacobianLens.load(tmp_path, tiny_slm)


# -- TransformerLens's files -----------------------------------------------------------------------------


def test_an_exported_lens_comes_back_without_layer_0(lens: JacobianLens, tiny_slm: SpeechTextModel, tmp_path: Path) -> None:
    export_transformer_lens(lens, tmp_path / "lens.pt")
    again = import_transformer_lens(tmp_path / "lens.pt", tiny_slm)
    assert again.layers == (1, 2) and torch.equal(again.jacobians, lens.jacobians[1:])
    assert dict(again.fitted) == dict(lens.fitted)


def test_transformer_lens_reads_an_export_and_reads_out_the_same(lens: JacobianLens, tmp_path: Path) -> None:
    export_transformer_lens(lens, tmp_path / "lens.pt")
    theirs = Theirs.load(str(tmp_path / "lens.pt"))
    assert theirs.source_layers == [0, 1] and theirs.n_prompts == 2 and theirs.d_model == 24
    assert theirs.metadata["slm_interp"]["fingerprint"] == lens.fitted["fingerprint"]
    x = torch.randn(5, 24, generator=torch.Generator().manual_seed(0))
    for layer in (1, 2):
        torch.testing.assert_close(theirs.transport(x, layer - 1), lens.moved(x, layer))
    theirs.save(str(tmp_path / "back.pt"))
    half = import_transformer_lens(tmp_path / "back.pt", lens.slm)
    torch.testing.assert_close(half.jacobians, lens.jacobians[1:], rtol=2e-3, atol=1e-3)


def test_transformer_lens_s_own_reading_of_a_prompt_is_ours(lens: JacobianLens, tiny_slm: SpeechTextModel, tmp_path: Path) -> None:
    export_transformer_lens(lens, tmp_path / "lens.pt")
    tokens = rows(tiny_slm, 1, seed=3)[0]
    theirs = Theirs.load(str(tmp_path / "lens.pt")).readout(tiny_slm.model, tokens[None], return_full_logits=True)
    ours = lens.read(tokens, targets=range(33)).dataset
    for layer in (1, 2, 3):
        found = torch.from_numpy(ours.target_log_prob.sel(layer=layer).values)
        torch.testing.assert_close(found, theirs.lens_logits[layer - 1].log_softmax(-1), rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        vectors = Theirs.load(str(tmp_path / "lens.pt")).lens_vectors(tiny_slm.model, [5, 11], 1)
    torch.testing.assert_close(lens.vectors(2, [5, 11]), vectors, rtol=1e-4, atol=1e-5)


def test_files_of_the_reference_implementation_are_read_finished_or_not(tiny_slm: SpeechTextModel, tmp_path: Path) -> None:
    matrix = torch.randn(24, 24, generator=torch.Generator().manual_seed(0)).half()
    torch.save({"J": {1: matrix}, "n_prompts": 10, "source_layers": [1], "d_model": 24}, tmp_path / "done.pt")
    done = import_transformer_lens(tmp_path / "done.pt", tiny_slm)
    assert done.layers == (2,) and torch.equal(done.jacobians[0], matrix.float())
    assert done.fitted["checked"] == "width and layers alone" and done.fitted["n_prompts"] == 10
    begun = {"jacobian_sum": {1: 4 * matrix.float()}, "n_done": 4, "next_idx": 5, "source_layers": [1], "target_layer": 2, "skip_first": 16}
    torch.save(begun, tmp_path / "begun.pt")
    half = import_transformer_lens(tmp_path / "begun.pt", tiny_slm)
    assert torch.equal(half.jacobians[0], matrix.float()) and half.fitted["skip_first_positions"] == 16
    torch.save({**begun, "target_layer": 1}, tmp_path / "penultimate.pt")
    with pytest.raises(ReadoutError, match="to that of block 1; for this model of 3 blocks"):
        import_transformer_lens(tmp_path / "penultimate.pt", tiny_slm)


def test_exports_of_another_model_foreign_files_and_overflow_are_refused(
    lens: JacobianLens, tiny_slm: SpeechTextModel, tmp_path: Path
) -> None:
    export_transformer_lens(lens, tmp_path / "lens.pt")
    other = interleaved(tmp_path / "other", "llama", seed_scale=0.2)
    with pytest.raises(ReadoutError, match="Fit one for it with fit_jacobian"):
        import_transformer_lens(tmp_path / "lens.pt", other)
    with pytest.raises(ReadoutError, match="cannot hold the Jacobians of layers"):
        export_transformer_lens(replace(lens, jacobians=lens.jacobians * 1e9), tmp_path / "big.pt", torch.float16)
    assert not (tmp_path / "big.pt").exists()
    with pytest.raises(ReadoutError, match="no place for layer 0"):
        export_transformer_lens(replace(lens, layers=(0,), jacobians=lens.jacobians[:1]), tmp_path / "none.pt")
    torch.save({"W": torch.zeros(1)}, tmp_path / "foreign.pt")
    with pytest.raises(ReadoutError, match=re.escape("neither 'J' nor 'jacobian_sum'")):
        import_transformer_lens(tmp_path / "foreign.pt", tiny_slm)
    (tmp_path / "text.pt").write_text("not a file of tensors")
    with pytest.raises(ReadoutError, match="without running code"):
        import_transformer_lens(tmp_path / "text.pt", tiny_slm)
    with pytest.raises(ReadoutError, match="No file"):
        import_transformer_lens(tmp_path / "absent.pt", tiny_slm)
