"""The same word asked of random vectors: pooled as the word itself, through the same lens."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from slm_interp import LogitLens, hooked
from slm_interp.readout import modality_groups, read_out
from slm_interp.transcription import Question, by_position, observe, recall, rise
from slm_interp.transcription.asking import questions
from slm_interp.transcription.asking.random_residuals import like, mixed, noises
from tests.transcription import planted

NULL = "random_residuals"


def test_random_vectors_have_the_norms_and_no_direction_of_the_residuals(tiny_slm, corpus):
    resid = hooked.residuals(tiny_slm.model, corpus[0].tokens)
    drawn = like(resid, torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn.norm(dim=-1), resid.norm(dim=-1))
    assert drawn.flatten(0, 1).mean(0).norm() / drawn.norm(dim=-1).mean() < 0.3
    narrow = like(resid.bfloat16(), torch.Generator().manual_seed(0))
    assert narrow.dtype == torch.bfloat16
    torch.testing.assert_close(narrow.float().norm(dim=-1), resid.norm(dim=-1), rtol=0.02, atol=0)


def ranks_at_random(slm, utterance, number: int, ids: list[int], draws: int) -> np.ndarray:
    """Ranks of ids in random vectors, read by hand: [draw, layer, pos, id]."""
    lens, resid = LogitLens(slm), hooked.residuals(slm.model, utterance.tokens)
    noise = noises([NULL], draws, 0, number)
    found = np.empty((draws, len(resid), len(utterance), len(ids)))
    for layer, one in enumerate(resid):
        for draw, drawn in enumerate(noise):
            ready = lens.scores(drawn(one), layer)
            found[draw, layer] = read_out(
                ready, hooked.unembedding(slm.model), modality_groups(slm.vocabulary), 1, torch.tensor(ids)
            ).target_rank
    return found


def pooled_as_the_word(slm, utterances, data) -> None:
    """The null of random residuals is the best rank over the word's own window, as the word's is."""
    types = sorted(set(data["word_type"].values.tolist()))
    ids = [slm.word_ids(one)[0] for one in types]
    for number, one in enumerate(utterances):
        expected = ranks_at_random(slm, one, number, ids, data.sizes["draw"])
        for row in np.flatnonzero(data["utterance"].values == number):
            word = data.isel(word=row)
            here = expected[:, :, int(word["start"]) : int(word["stop"]), types.index(str(word["word_type"].values))].min(2)
            np.testing.assert_array_equal(word["null_rank"].sel(null=NULL), here)


@pytest.fixture(scope="module")
def whole(tiny_slm):
    """Utterances whose every position belongs to a word, so that noise is drawn for all of them."""
    rng = np.random.default_rng(0)
    return [
        planted.utterance(tiny_slm, words, [rng.integers(0, 20, rng.integers(2, 5)).tolist() for _ in words])
        for words in planted.sentences(4, 5, seed=1)
    ]


def drop_marker(slm, utterance):
    """Words from the first position on."""
    from dataclasses import replace

    from slm_interp.utterance import Span

    first = utterance.words[0]
    return replace(utterance, words=(replace(first, span=Span(0, first.span.stop)), *utterance.words[1:]))


def test_a_word_is_asked_of_random_vectors_over_its_own_window(tiny_slm, whole):
    utterances = [drop_marker(tiny_slm, one) for one in whole]
    data = observe(tiny_slm, utterances, nulls=[NULL], draws=3).dataset
    assert (data["null_word"] == data["word_type"]).all()
    pooled_as_the_word(tiny_slm, utterances, data)


def test_a_null_that_is_pooled_in_another_way_is_found_out(tiny_slm, whole, monkeypatch):
    """Planted: every candidate but the word itself takes its mean over the window instead of its best."""
    utterances = [drop_marker(tiny_slm, one) for one in whole]
    pool = questions.pool

    def divergent(cells, window, candidates, spelling):
        each = np.stack([pool(cells, range(one, one + 1), candidates, spelling) for one in window])
        return np.concatenate([each[:, :, :1].min(0), each[:, :, 1:].mean(0)], 1)

    monkeypatch.setattr(questions, "pool", divergent)
    data = observe(tiny_slm, utterances, nulls=[NULL], draws=3).dataset
    with pytest.raises(AssertionError):
        pooled_as_the_word(tiny_slm, utterances, data)


def test_a_word_and_all_its_nulls_go_through_one_call(tiny_slm, corpus, monkeypatch):
    calls, pool = [], questions.pool

    def listening(cells, window, candidates, spelling):
        calls.append(candidates)
        return pool(cells, window, candidates, spelling)

    monkeypatch.setattr(questions, "pool", listening)
    data = observe(tiny_slm, corpus, nulls=["shuffled", NULL], draws=4).dataset
    assert len(calls) == data.sizes["word"]
    assert all([one.source for one in candidates] == [0] * 5 + [1, 2, 3, 4] for candidates in calls)
    assert all({one.ids for one in candidates[5:]} == {candidates[0].ids} for candidates in calls)


def test_another_null_changes_nothing_of_this_one_and_the_seed_changes_it(tiny_slm, corpus):
    alone, both = (observe(tiny_slm, corpus, nulls=nulls).dataset for nulls in ([NULL], ["elsewhere", NULL]))
    assert (alone["null_rank"].sel(null=NULL) == both["null_rank"].sel(null=NULL)).all()
    np.testing.assert_array_equal(observe(tiny_slm, corpus, nulls=["elsewhere"]).dataset["null_rank"][0], both["null_rank"][0])
    other = observe(tiny_slm, corpus, nulls=[NULL], seed=1).dataset
    assert (other["null_rank"] != alone["null_rank"]).any() and (other["rank"] == alone["rank"]).all()


def test_what_random_vectors_are_depends_on_no_utterance_before(tiny_slm, corpus):
    both, swapped = (observe(tiny_slm, some, nulls=[NULL]).dataset for some in (corpus[:2], [corpus[0], corpus[3]]))
    np.testing.assert_array_equal(both["null_rank"][..., :6, :], swapped["null_rank"][..., :6, :])


def test_a_planted_word_is_found_and_in_random_vectors_it_is_not(planted_slm):
    heard = planted.heard(planted_slm)
    table = recall(observe(planted_slm, heard, window="last", nulls=[NULL]), k=(1,))
    assert (table["recall"] == 1).all()
    by_layer = table[table["layer"] != "any"]
    assert (by_layer[f"null_{NULL}"] < 0.15).all() and (by_layer[f"over_{NULL}_low"] > 0.8).all()
    best_of_four = table.set_index("layer").loc["any", f"null_{NULL}"]
    assert by_layer[f"null_{NULL}"].max() < best_of_four < 0.4
    question = Question(nulls=(NULL,))
    at = by_position(planted_slm, heard, None, range(-1, 1), "end", k=1, question=question)
    assert (at["over"].sel(null=NULL, offset=0) > 0.8).all() and (at["over"].sel(null=NULL, offset=-1) < 0.1).all()
    assert (rise(planted_slm, heard, k=1, question=question)["heard_null"].abs() < 0.2).all()


def test_mixed_residuals_have_the_norms_and_the_covariance_of_the_utterance(tiny_slm, corpus):
    resid = hooked.residuals(tiny_slm.model, corpus[0].tokens)[:, :6]  # six positions: five directions of 24
    drawn = mixed(resid, torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn.norm(dim=-1), resid.norm(dim=-1))
    centred = resid - resid.mean(1, keepdim=True)
    both = torch.cat([centred, drawn], 1)
    assert torch.linalg.matrix_rank(both, rtol=1e-4).tolist() == torch.linalg.matrix_rank(centred, rtol=1e-4).tolist()
    assert torch.linalg.matrix_rank(torch.cat([centred, like(resid, torch.Generator().manual_seed(0))], 1), rtol=1e-4).min() > 5
    many = torch.cat([torch.nn.functional.normalize(mixed(resid[1], torch.Generator().manual_seed(one)), dim=-1) for one in range(400)])
    found, wanted = (one.T @ one for one in (many, centred[1]))
    assert torch.corrcoef(torch.stack([found.flatten(), wanted.flatten()]))[0, 1] > 0.9
    assert (mixed(torch.ones(1, 3, 4), torch.Generator()) == 0).all()


def test_both_random_nulls_stand_side_by_side_and_neither_changes_the_other(tiny_slm, corpus):
    both = observe(tiny_slm, corpus, nulls=["mixed_residuals", "shuffled", NULL], draws=2).dataset
    for name in ("mixed_residuals", NULL):
        alone = observe(tiny_slm, corpus, nulls=[name], draws=2).dataset
        np.testing.assert_array_equal(alone["null_rank"][0], both["null_rank"].sel(null=name)[..., : alone.sizes["word"], :])
    assert (both["null_rank"].sel(null=NULL) != both["null_rank"].sel(null="mixed_residuals")).any()


def test_a_word_that_is_heard_is_found_less_often_in_a_mixture(planted_slm):
    table = recall(observe(planted_slm, planted.heard(planted_slm), window="last", nulls=["mixed_residuals"]), k=(1,))
    by_layer = table[table["layer"] != "any"]
    assert (by_layer["recall"] == 1).all() and (by_layer["over_mixed_residuals_low"] > 0.3).all()
