"""On which modality the probability lies, and the nulls beside it."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from slm_interp import LogitLens
from slm_interp.errors import ReadoutError
from slm_interp.transcription import modality_mass
from tests.transcription import planted


@pytest.fixture(scope="module")
def measured(tiny_slm, corpus):
    return modality_mass(tiny_slm, corpus)


@pytest.mark.parametrize("exclude_input", [False, True])
def test_mass_is_pooled_over_each_span_and_then_averaged_over_words(tiny_slm, corpus, exclude_input):
    found = modality_mass(tiny_slm, corpus, exclude_input=exclude_input)
    by_word = {"max": [], "mean": [], "last": []}
    entropies = []
    for spoken in corpus:
        reading = LogitLens(tiny_slm).read(spoken, exclude_input=exclude_input)
        for word in spoken.words:
            mass = reading.modality_mass().isel(pos=list(word.span)).transpose("layer", "modality", "pos").values
            by_word["max"].append(mass.max(-1))
            by_word["mean"].append(mass.mean(-1))
            by_word["last"].append(mass[..., -1])
            entropies.append(reading.entropy().isel(pos=list(word.span)).mean("pos").values)
    for pooling, values in by_word.items():
        np.testing.assert_allclose(found["mass"].sel(pooling=pooling), np.mean(values, 0), rtol=1e-4)
    np.testing.assert_allclose(found["entropy"].sel(pooling="mean"), np.mean(entropies, 0), rtol=1e-4)


def test_mass_of_all_modalities_is_1_on_average_and_more_where_each_takes_its_best_position(measured):
    np.testing.assert_allclose(measured["mass"].sel(pooling=["mean", "last"]).sum("modality"), 1, rtol=1e-5)
    assert (measured["mass"].sel(pooling="max").sum("modality") > 1).all()
    np.testing.assert_allclose(measured["random_mass"].sel(pooling="mean").sum("modality"), 1, rtol=1e-5)
    assert (measured["low"] <= measured["mass"]).all() and (measured["mass"] <= measured["high"]).all()


def test_where_all_ids_are_alike_mass_is_a_matter_of_sizes_and_nothing_else_is(planted_slm):
    silent = [planted.utterance(planted_slm, ["a", word], [[planted.SILENCE] * 3, [planted.SILENCE]]) for word in ("the", "of")]
    found = modality_mass(planted_slm, silent)
    np.testing.assert_allclose(found["uniform_mass"], [11 / 33, 20 / 33, 2 / 33])
    for pooling in ("max", "mean", "last"):
        np.testing.assert_allclose(found["mass"].sel(pooling=pooling), [found["uniform_mass"].values] * 4, rtol=1e-5)
    np.testing.assert_allclose(found["log_odds"], 0, atol=1e-5)
    np.testing.assert_allclose(found["size_matched_mass"], 0.5, rtol=1e-5)
    np.testing.assert_allclose(found["entropy"], np.log(33), rtol=1e-5)


def test_size_matched_text_and_speech_have_the_ids_of_the_smaller_and_no_other(tiny_slm):
    from slm_interp.readout import modality_groups
    from slm_interp.transcription.modality import matched_groups

    drawn = matched_groups(modality_groups(tiny_slm.vocabulary), 4, seed=0)
    for one in drawn:
        assert {name: int(mask.sum()) for name, mask in one.items()} == {"text": 11, "speech": 11}
        assert all((mask <= tiny_slm.vocabulary.mask(name)).all() for name, mask in one.items())
    assert len({tuple(one["speech"].tolist()) for one in drawn}) > 1


def test_random_vectors_have_the_norms_of_the_residuals(tiny_slm, corpus):
    from slm_interp import hooked
    from slm_interp.transcription.asking.random_residuals import like

    resid = hooked.residuals(tiny_slm.model, corpus[0].tokens)
    drawn = like(resid, torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn.norm(dim=-1), resid.norm(dim=-1))
    cosine = torch.nn.functional.cosine_similarity(drawn.flatten(0, 1), resid.flatten(0, 1))
    assert cosine.mean().abs() < 0.1


def test_a_unit_that_reads_itself_out_is_speech_until_the_input_is_left_out(planted_slm):
    """Give every unit a direction of its own that `W_U` reads as that unit, ten times as loud as the word."""
    import copy
    from dataclasses import replace

    model = copy.deepcopy(planted_slm.model)
    units = planted_slm.vocabulary.unit_to_id(torch.arange(10))
    with torch.no_grad():
        for index, identifier in enumerate(units.tolist()):
            model.embed.W_E[identifier, 12 + index] = 10.0
            model.unembed.W_U[12 + index, identifier] = 1.0
    echo = replace(planted_slm, model=model)
    heard = [planted.utterance(echo, words, [[planted.WORDS.index(word)] for word in words]) for words in planted.sentences(4, 4)]
    speech = [modality_mass(echo, heard, exclude_input=out)["mass"].sel(modality="speech", pooling="mean") for out in (False, True)]
    assert (speech[0] > 0.75).all()
    assert (speech[1] < 0.65).all()


def test_read_text_can_be_measured_too(tiny_slm):
    read = [tiny_slm.text_prompt(text) for text in (" the capital of france", " see the sea")]
    assert modality_mass(tiny_slm, read).attrs["words"] == 7


def test_there_must_be_words_and_two_modalities(tiny_slm, speech_only_slm, corpus):
    with pytest.raises(ReadoutError, match="no words to pool over. Align them first."):
        modality_mass(tiny_slm, [corpus[0].with_words([])])
    with pytest.raises(
        ReadoutError, match=re.escape("compares text with speech over one draw or more; this model has speech, marker, draws=5.")
    ):
        modality_mass(speech_only_slm, corpus)


def test_a_boundary_that_is_moved_takes_in_other_positions(planted_slm):
    """The one position that reads as a word lies at the end of its span: mass on text is at its greatest there."""
    heard = planted.heard(planted_slm)
    still, moved, again = (modality_mass(planted_slm, heard, jitter=by) for by in (0, 1, 1))
    last = {"modality": "text", "pooling": "last", "layer": 1}
    assert (moved["mass"].sel(last) < still["mass"].sel(last) - 0.02).item()
    assert moved.equals(again) and moved.attrs["jitter"] == 1


def test_log_odds_have_an_interval_and_those_of_random_vectors_beside_them(measured):
    assert (measured["log_odds_low"] <= measured["log_odds"]).all() and (measured["log_odds"] <= measured["log_odds_high"]).all()
    assert measured["random_log_odds"].dims == measured["log_odds"].dims
