"""States of heard words beside states of read words, where they are planted alike and where they are not."""

from __future__ import annotations

import copy
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from slm_interp import hooked
from slm_interp.errors import ReadoutError, VocabularyError
from slm_interp.transcription import stream_alignment
from slm_interp.transcription.streams.alignment import SHUFFLES, sinks, word_states
from tests.transcription import planted
from tests.transcription.planted import SILENCE, WORDS


def reading(slm, turn: np.ndarray):
    """The planted model, whose text embedding of a word is its unit's direction, turned, and whose silence has one of its own."""
    model = copy.deepcopy(slm.model)
    with torch.no_grad():
        model.embed.W_E[int(slm.vocabulary.unit_to_id(torch.tensor(SILENCE))), 22] = 1.0
        for index, word in enumerate(WORDS):
            model.embed.W_E[slm.word_ids(word)[0]] = torch.tensor(turn[index], dtype=torch.float32)
    return replace(slm, model=model)


@pytest.fixture(scope="module")
def heard(planted_slm):
    return planted.heard(planted_slm)


def test_streams_planted_alike_are_found_alike_in_every_layer(planted_slm, heard):
    found = stream_alignment(reading(planted_slm, np.eye(24)), heard, draws=5)
    assert (found["retrieval"] == 1).all() and (found["low"] > 1 - 1e-9).all()
    np.testing.assert_allclose(found["cka"], 1, atol=1e-6)
    assert (found["null_retrieval"] < 0.35).all() and (found["null_cka_high"] < 0.5).all()
    assert found["retrieval"].dims == ("direction", "layer") and found.sizes["layer"] == 4


def test_turned_text_has_the_same_geometry_and_other_directions(planted_slm, heard):
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(24, 24)))[0]
    found = stream_alignment(reading(planted_slm, turn), heard, draws=5)
    np.testing.assert_allclose(found["cka"], 1, atol=1e-6)
    assert (found["retrieval"] < 0.5).all()


def test_a_direction_of_the_modality_changes_nothing(planted_slm, heard):
    """Text states all lie far out in one direction that no speech state has."""
    offset = np.eye(24) + 100 * np.eye(24)[20]
    found = stream_alignment(reading(planted_slm, offset), heard, draws=5)
    assert (found["retrieval"] == 1).all()
    np.testing.assert_allclose(found["cka"], 1, atol=1e-4)


def test_random_weights_are_as_alike_as_their_nulls(tiny_slm):
    rng = np.random.default_rng(0)
    utterances = [
        planted.utterance(tiny_slm, words, [rng.integers(0, 20, 3).tolist() for _ in words], 2, f"clip {number}")
        for number, words in enumerate(planted.sentences(20, 5, seed=1))
    ]
    found = stream_alignment(tiny_slm, utterances)
    assert (np.abs(found["retrieval"] - found["null_retrieval"].sel(null="shuffled")) < 0.15).all()
    assert (found["cka"] < found["null_cka_high"].sel(null="shuffled") + 0.15).all()
    assert (found["cka_low"] <= found["cka"]).all() and (found["cka"] <= found["cka_high"]).all()


def test_what_a_sentence_gives_to_all_of_its_words_is_in_the_null_of_the_same_sentence(planted_slm):
    """Sentences of one word type each: a shuffle within the sentence keeps every hit, one over the corpus does not."""
    pure = [planted.utterance(planted_slm, [word] * 4, [[WORDS.index(word)]] * 4) for word in WORDS[:6]]
    null = stream_alignment(reading(planted_slm, np.eye(24)), pure, draws=10)["null_retrieval"]
    assert (null.sel(null="same_sentence") == 1).all() and (null.sel(null="shuffled") < 0.5).all()
    assert tuple(null["null"].values) == SHUFFLES


def test_states_are_those_of_the_last_position_and_the_last_piece(tiny_slm, corpus):
    states = word_states(tiny_slm, corpus)
    row = 0
    for number, one in enumerate(corpus):
        text = tiny_slm.text_prompt("".join(f" {word.text}" for word in one.words))
        streams = [hooked.residuals(tiny_slm.model, some.tokens) for some in (one, text)]
        out = [sinks(some) for some in streams]
        for spoken, written in zip(one.words, text.words, strict=True):
            if out[0][spoken.span.stop - 1] or out[1][written.span.stop - 1]:
                continue
            assert states.word_type[row] == spoken.text and states.utterance[row] == number
            np.testing.assert_allclose(states.speech[:, row], streams[0][:, spoken.span.stop - 1], rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(states.text[:, row], streams[1][:, written.span.stop - 1], rtol=1e-4, atol=1e-5)
            row += 1
    assert row == len(states.word_type)


def test_a_massive_activation_is_left_out_and_counted(planted_slm, heard):
    """One unit writes a residual a hundred times as long, in a direction of its own."""
    slm = reading(planted_slm, np.eye(24))
    with torch.no_grad():
        slm.model.embed.W_E[int(slm.vocabulary.unit_to_id(torch.tensor(WORDS.index("rome")))), 23] = 100.0
    rome = sum(word.text == "rome" for one in heard for word in one.words)
    found = stream_alignment(slm, heard, draws=2)
    assert found.attrs["left_out"] == f"{rome} attention sink or massive activation"
    assert found.attrs["words"] == 60 - rome
    resid = torch.ones(2, 5, 3)
    resid[1, 3] = 6
    assert sinks(resid).tolist() == [True, False, False, True, False]


@pytest.mark.usefixtures("as_users_run_it")
def test_what_cannot_be_compared_is_refused(tiny_slm, speech_only_slm, corpus):
    with pytest.raises(ReadoutError, match=re.escape("No word is left to compare; left out: {}. Give utterances with words.")):
        stream_alignment(tiny_slm, [corpus[0].with_words([])])
    with pytest.raises(VocabularyError, match="no text ids"):
        stream_alignment(speech_only_slm, corpus)
    odd = planted.utterance(tiny_slm, ["a", "zyzzyva", "paris"], [[1], [2], [3]])
    with pytest.raises(VocabularyError, match="zyzzyva"):
        stream_alignment(tiny_slm, [*corpus, odd])
    assert stream_alignment(tiny_slm, [*corpus, odd], unspelled="drop", draws=1).attrs["left_out"].startswith("3 in a sentence")
    with pytest.raises(ReadoutError, match="draws=0"):
        stream_alignment(tiny_slm, corpus, draws=0)
