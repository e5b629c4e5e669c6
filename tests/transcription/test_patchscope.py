"""Residuals of speech put into a text prompt: identities, and a model that is known."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from slm_interp import LogitLens, hooked, load
from slm_interp.errors import ReadoutError, VocabularyError
from slm_interp.transcription import Question, TargetPrompt, observe, patchscope, recall
from slm_interp.transcription.asking import targets
from tests.replicas import N_UNITS, VARIANTS, text_tokenizer, write_slamkit
from tests.transcription import planted

PROMPT = TargetPrompt(" see see sea sea the")
FEW = Question(nulls=("elsewhere", "random_residuals"), draws=2)


@pytest.mark.parametrize("variant", ["llama", "qwen2-mha-tied", "gpt_neox", "opt"])
def test_a_residual_put_back_where_it_was_changes_nothing_and_another_one_changes_what_follows(tmp_path, variant):
    folder = write_slamkit(tmp_path / variant, VARIANTS[variant], vocab_size=len(text_tokenizer()) + N_UNITS + 2)
    slm = load(folder, text_tokenizer=text_tokenizer(), n_units=N_UNITS, quantiser="tiny")
    tokens = torch.tensor([3, 1, 12, 14, 9, 20])
    own = hooked.residuals(slm.model, tokens)
    layers = len(own)
    many = tokens.expand(layers, -1)
    at = torch.full((layers,), 2)
    same = hooked.last_residuals(slm.model, many, hooked.Patches(torch.arange(layers), at, own[:, 2]))
    torch.testing.assert_close(same, own[-1].expand_as(same), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(hooked.last_residuals(slm.model, tokens[None])[0], own[-1])
    other = hooked.last_residuals(slm.model, many, hooked.Patches(torch.arange(layers), at, own[:, 4]))
    torch.testing.assert_close(other[:, :2], own[-1, :2].expand(layers, -1, -1), rtol=1e-4, atol=1e-5)  # nothing before it changes
    torch.testing.assert_close(other[-1, 2], own[-1, 4])  # after the last block it is what is read
    assert (other[:-1, 3:] - own[-1, 3:]).abs().amax((1, 2)).min() > 1e-3  # before that, everything after it changes
    torch.testing.assert_close(other[-1, 3:], own[-1, 3:], rtol=1e-4, atol=1e-5)


def test_each_sequence_has_its_own_patch(tiny_slm):
    tokens = torch.tensor([[3, 1, 12, 14], [5, 6, 7, 8]])
    vectors = torch.randn(2, 24, generator=torch.Generator().manual_seed(0))
    both = hooked.last_residuals(tiny_slm.model, tokens, hooked.Patches(torch.tensor([1, 2]), torch.tensor([0, 3]), vectors))
    for row, (layer, pos) in enumerate(((1, 0), (2, 3))):
        alone = hooked.last_residuals(
            tiny_slm.model, tokens[row : row + 1], hooked.Patches(torch.tensor([layer]), torch.tensor([pos]), vectors[row : row + 1])
        )
        torch.testing.assert_close(both[row], alone[0], rtol=1e-4, atol=1e-5)


def test_after_the_last_block_at_the_end_of_the_prompt_it_is_the_logit_lens(tiny_slm, corpus):
    """With the placeholder last and nothing left to compute, whatever is put there is read as the lens reads it."""
    n_layers = tiny_slm.model.cfg.n_layers
    scoped = patchscope(tiny_slm, corpus, PROMPT, FEW, at_layer=n_layers).dataset
    lensed = observe(tiny_slm, corpus, window="last", nulls=FEW.nulls, draws=2).dataset
    for name in ("rank", "rank_in_text"):
        np.testing.assert_array_equal(scoped[name], lensed[name])
        np.testing.assert_array_equal(scoped[f"null_{name}"].sel(null="elsewhere"), lensed[f"null_{name}"].sel(null="elsewhere"))
    as_taken = patchscope(tiny_slm, corpus, PROMPT, FEW).dataset
    np.testing.assert_array_equal(as_taken["rank"].sel(layer=n_layers), lensed["rank"].sel(layer=n_layers))
    assert (as_taken["rank"].sel(layer=1) != lensed["rank"].sel(layer=1)).any()


def test_a_word_by_all_its_pieces_is_read_after_the_pieces_before(tiny_slm, corpus, monkeypatch):
    pieces = {"paris": ("see", "sea"), "france": ("is", "of")}
    spell = lambda slm, word: tuple(one for piece in pieces.get(word, (word,)) for one in slm.word_ids(piece))  # noqa: E731
    monkeypatch.setitem(targets.SPELLINGS, "all_pieces", spell)
    question = Question(nulls=("random_residuals",), draws=1, spelling="all_pieces")
    data = patchscope(tiny_slm, corpus, PROMPT, question).dataset
    row = data["word_type"].values.tolist().index("paris")
    word = data.isel(word=row)
    resid = hooked.residuals(tiny_slm.model, corpus[int(word["utterance"])].tokens)[:, int(word["stop"]) - 1]
    prompt = tiny_slm.text_prompt(PROMPT.text).tokens
    for layer in range(4):
        name = "blocks.0.hook_resid_pre" if layer == 0 else f"blocks.{layer - 1}.hook_resid_post"

        def put(value, hook, layer=layer):
            value[:, len(prompt) - 1] = resid[layer]
            return value

        ranks, written = [], []
        for piece in spell(tiny_slm, "paris"):
            tokens = torch.cat([prompt, torch.tensor(written, dtype=torch.long)])[None]
            logits = tiny_slm.model.run_with_hooks(tokens, return_type="logits", fwd_hooks=[(name, put)], prepend_bos=False)[0, -1]
            ranks.append(float((logits > logits[piece]).sum() + ((logits == logits[piece]).sum() - 1) / 2))
            written.append(piece)
        assert float(word["rank"].sel(layer=layer)) == max(ranks)


def test_a_planted_word_is_read_out_of_its_residual_and_a_null_is_not(planted_slm):
    heard = planted.heard(planted_slm)
    table = recall(patchscope(planted_slm, heard, PROMPT, Question(nulls=("shuffled", "random_residuals"))), k=(1,))
    by_layer = table[table["layer"] != "any"]
    assert (by_layer["recall"] == 1).all() and (by_layer["null_shuffled"] == 0).all() and (by_layer["null_random_residuals"] < 0.15).all()
    first = patchscope(planted_slm, heard, PROMPT, Question(nulls=("shuffled",)), window="first")
    assert (recall(first, k=(1,))["recall"] == 0).all()


def test_the_placeholder_may_stand_before_the_end(tiny_slm, corpus):
    early = patchscope(tiny_slm, corpus[:2], TargetPrompt(" see see sea sea the is", placeholder=-2), FEW).dataset
    late = patchscope(tiny_slm, corpus[:2], TargetPrompt(" see see sea sea the is"), FEW).dataset
    assert (early["rank"] != late["rank"]).any()
    n_layers = tiny_slm.model.cfg.n_layers
    alone = early["log_prob"].sel(layer=n_layers)
    logits = tiny_slm.logits(tiny_slm.text_prompt(" see see sea sea the is"))[-1].log_softmax(-1)
    ids = [tiny_slm.word_ids(str(word))[0] for word in early["word_type"].values]
    np.testing.assert_allclose(alone, logits[ids].numpy(), rtol=1e-4)  # put in after the last block it reaches nothing


def test_half_precision_is_patched_as_it_is(tmp_path, corpus):
    folder = write_slamkit(tmp_path / "half", VARIANTS["llama"], vocab_size=len(text_tokenizer()) + N_UNITS + 2, dtype=torch.bfloat16)
    slm = load(folder, text_tokenizer=text_tokenizer(), n_units=N_UNITS, quantiser="tiny")
    scoped = patchscope(slm, corpus, PROMPT, FEW, at_layer=3).dataset
    reading = observe(slm, corpus, LogitLens(slm), window="last", nulls=FEW.nulls, draws=2).dataset
    np.testing.assert_array_equal(scoped["rank"], reading["rank"])


@pytest.mark.usefixtures("as_users_run_it")
def test_prompts_windows_and_layers_that_do_not_fit_are_refused(tiny_slm, corpus):
    with pytest.raises(VocabularyError, match="cannot spell"):
        patchscope(tiny_slm, corpus)
    with pytest.raises(ReadoutError, match=re.escape("choose a window of one position; span has up to 4.")):
        patchscope(tiny_slm, corpus, PROMPT, window="span")
    with pytest.raises(ReadoutError, match=re.escape("after 0 to 3 blocks; got at_layer=4.")):
        patchscope(tiny_slm, corpus, PROMPT, at_layer=4)
    with pytest.raises(ReadoutError, match=re.escape("has 5 words; got placeholder=5.")):
        patchscope(tiny_slm, corpus, TargetPrompt(PROMPT.text, 5))
    tokens = torch.tensor([[1, 2]])
    with pytest.raises(
        ReadoutError, match=re.escape("A patch goes to a layer in 0..3 and a position in 0..1; got layers [4], positions [0].")
    ):
        hooked.last_residuals(tiny_slm.model, tokens, hooked.Patches(torch.tensor([4]), torch.tensor([0]), torch.zeros(1, 24)))
    with pytest.raises(ReadoutError, match="1 sequences take one patch each; got 2 layers"):
        hooked.last_residuals(tiny_slm.model, tokens, hooked.Patches(torch.tensor([1, 2]), torch.tensor([0]), torch.zeros(1, 24)))
