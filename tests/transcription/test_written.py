"""What the model writes when it is asked to: against its own output, piece by piece."""

from __future__ import annotations

import copy
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from slm_interp import hooked, metrics
from slm_interp.errors import ReadoutError, UtteranceError
from slm_interp.transcription import Question, recall, written
from slm_interp.transcription.asking import targets
from slm_interp.transcription.ceilings.written import until, write
from tests.transcription import planted
from tests.transcription.planted import WORDS


@pytest.fixture
def in_pieces(monkeypatch):
    pieces = {"paris": ("see", "sea"), "france": ("is", "of")}
    monkeypatch.setitem(
        targets.SPELLINGS, "all_pieces", lambda slm, word: tuple(one for piece in pieces.get(word, (word,)) for one in slm.word_ids(piece))
    )
    return pieces


def test_the_last_layer_is_the_model_s_own_output_after_the_marker_each_piece_after_those_before_it(tiny_slm, corpus, in_pieces):
    data = written(tiny_slm, corpus, Question(spelling="all_pieces", nulls=("frequency",), draws=2)).dataset
    assert {"paris", "france"} & set(data["word_type"].values.tolist())
    marker = tiny_slm.vocabulary.marker("<text>")
    for row in range(data.sizes["word"]):
        word = data.isel(word=row)
        start = torch.cat([corpus[int(word["utterance"])].tokens[: int(word["stop"])], torch.tensor([marker])])
        texts = [str(word["word_type"].values), *word["null_word"].sel(null="frequency").values]
        ranks = [float(word["rank"][-1]), *word["null_rank"].sel(null="frequency")[:, -1].values]
        surprises = [-float(word["log_prob"][-1]), *-word["null_log_prob"].sel(null="frequency")[:, -1].values]
        for text, rank, surprise in zip(texts, ranks, surprises, strict=True):
            tokens, by_piece, costs = start, [], []
            for piece in targets.SPELLINGS["all_pieces"](tiny_slm, text):
                logits = tiny_slm.model(tokens[None], return_type="logits", prepend_bos=False)[0, -1].detach()
                by_piece.append(float(metrics.rank(logits, piece)))
                costs.append(-float(logits.log_softmax(-1)[piece]))
                tokens = torch.cat([tokens, torch.tensor([piece])])
            assert rank == max(by_piece)
            assert surprise == pytest.approx(max(costs), rel=1e-4)


def test_nothing_after_the_word_is_read(tiny_slm, corpus):
    whole = written(tiny_slm, corpus, pieces=0).dataset
    cut = [until(tiny_slm, one, one.words[2].span.stop) for one in corpus]
    assert [len(one.words) for one in cut] == [3] * 6
    alone = written(tiny_slm, cut, Question(spelling="all_pieces", nulls=("elsewhere",)), pieces=0).dataset
    np.testing.assert_allclose(alone["log_prob"], whole["log_prob"].isel(word=whole["word_index"].values < 3), rtol=1e-4)


@pytest.fixture(scope="module")
def writer(planted_slm):
    """A model that answers the marker of text with one word: the third, and after it the fourth."""
    model = copy.deepcopy(planted_slm.model)
    with torch.no_grad():
        model.embed.W_E[planted_slm.vocabulary.marker("<text>"), 2] = 1.0
        model.embed.W_E[planted_slm.word_ids(WORDS[2])[0], 3] = 1.0
        model.embed.W_E[planted_slm.word_ids(WORDS[3])[0], 20] = 1.0
        model.unembed.W_U[20, int(planted_slm.vocabulary.unit_to_id(torch.tensor(5)))] = 1.0
    return replace(planted_slm, model=model)


def test_a_model_writes_what_it_would_say_until_that_is_no_text(writer):
    heard = planted.heard(writer)
    data = written(writer, heard).dataset
    assert set(data["written"].values.tolist()) == {f"▁{WORDS[2]}▁{WORDS[3]}"}
    assert write(writer, writer.then(heard[0], "text"), 1) == f"▁{WORDS[2]}"
    capital = data["word_type"].values == WORDS[2]
    assert (data["rank"].sel(layer=3).values[capital] == 0).all() and (data["rank"].sel(layer=3).values[~capital] > 0).all()


def test_a_ceiling_is_a_table_like_any_recall_with_its_nulls(writer):
    table = recall(written(writer, planted.heard(writer), pieces=0), k=(1,))
    assert {"null_shuffled", "over_elsewhere_low", "p_frequency"} <= set(table.columns)
    by_hand = written(
        writer, planted.heard(writer), Question("given", words=dict.fromkeys(WORDS, WORDS[2]), nulls=("frequency",)), pieces=0
    )
    last = by_hand.dataset.sel(layer=3)
    assert (last["rank"] == 0).all() and (last["null_rank"] > 0).all()


@pytest.mark.usefixtures("as_users_run_it")
def test_models_that_cannot_be_asked_to_write_are_refused_with_the_reason(tiny_slm, speech_only_slm, corpus):
    with pytest.raises(ReadoutError, match="the null 'random_residuals' has no meaning here"):
        written(tiny_slm, corpus, Question(nulls=("random_residuals",)))
    with pytest.raises(ReadoutError, match=re.escape("spelling is first_piece, variants or all_pieces here; got 'every_piece'.")):
        written(tiny_slm, corpus, Question(spelling="every_piece"))
    unmarked = replace(tiny_slm, prompts=replace(tiny_slm.prompts, forms=tiny_slm.prompts.forms[1:], markers={}))
    bare = [replace(one, form="bare") for one in corpus]
    with pytest.raises(UtteranceError, match="This family has no marker that turns speech into text"):
        written(unmarked, bare)


def test_a_dead_id_is_never_written(writer):
    vocabulary = writer.vocabulary
    ranges = tuple(replace(one, kind="dead", codebook=None) if one.kind == "speech" else one for one in vocabulary.ranges)
    silent = replace(writer, vocabulary=replace(vocabulary, ranges=ranges))
    prompt = writer.then(planted.heard(writer, 1)[0], "text")
    assert hooked.logits(writer.model, prompt.tokens[None])[0, -1].argmax() == writer.word_ids(WORDS[2])[0]
    said = write(silent, replace(prompt, tokens=prompt.tokens[-1:], edges=prompt.edges[-2:], labels=prompt.labels[-1:], words=()), 3)
    assert said.startswith(f"▁{WORDS[2]}▁{WORDS[3]}") and "Un5" not in said
