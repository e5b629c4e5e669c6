"""How far a word could be guessed from the words before it, as text."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from slm_interp.errors import ReadoutError, VocabularyError
from slm_interp.prompt import PromptForm, PromptFormat
from slm_interp.transcription import observe, recall, surprisal, with_predictability
from tests.transcription import planted


def test_surprisal_is_what_the_model_reading_text_gives_the_word(tiny_slm, corpus):
    table = surprisal(tiny_slm, corpus)
    assert len(table) == 36 and (table["pieces"] == 1).all()
    text = tiny_slm.vocabulary.mask("text")
    for number, spoken in enumerate(corpus):
        rows = table[table["utterance"] == number]
        assert rows["word"].tolist() == [word.text for word in spoken.words]
        for index, word in enumerate(spoken.words):
            before = "".join(f" {one.text}" for one in spoken.words[:index])
            prompt = tiny_slm.text_prompt(before).tokens if before else torch.tensor([tiny_slm.vocabulary.marker("<text>")])
            logits = tiny_slm.model(prompt[None], return_type="logits", prepend_bos=False)[0, -1, text].detach()
            (identifier,) = tiny_slm.word_ids(word.text)
            assert rows["surprisal"].iloc[index] == pytest.approx(-float(logits.log_softmax(-1)[identifier]), rel=1e-4)
            assert rows["text_rank"].iloc[index] == int((logits > logits[identifier]).sum())


def test_the_pieces_of_a_word_add_up(tiny_slm, corpus, monkeypatch):
    whole = surprisal(tiny_slm, corpus[:1])
    spelled = type(tiny_slm).word_ids

    def in_two(slm, word):
        return spelled(slm, "see") + spelled(slm, "sea") if word == "together" else spelled(slm, word)

    monkeypatch.setattr(type(tiny_slm), "word_ids", in_two)
    apart = surprisal(tiny_slm, [planted.utterance(tiny_slm, ["of", "see", "sea"], [[1], [2], [3]])])
    joined = surprisal(tiny_slm, [planted.utterance(tiny_slm, ["of", "together"], [[1], [2]])])
    assert joined["pieces"].tolist() == [1, 2]
    assert joined["surprisal"].iloc[1] == pytest.approx(apart["surprisal"].iloc[1:].sum())
    assert joined["text_rank"].iloc[1] == apart["text_rank"].iloc[1]
    assert len(whole) == 6


@pytest.mark.parametrize(("target", "ahead"), [("current", 0), ("next", 1)])
def test_the_word_that_is_asked_about_is_the_one_whose_predictability_is_joined(tiny_slm, corpus, target, ahead):
    found = with_predictability(observe(tiny_slm, corpus, target=target), tiny_slm, corpus, cut=3).dataset
    table = surprisal(tiny_slm, corpus).set_index(["utterance", "word_index"])
    for row in range(found.sizes["word"]):
        word = found.isel(word=row)
        said = table.loc[(int(word["utterance"]), int(word["word_index"]) + ahead)]
        assert said["word"] == str(word["word_type"].values)
        assert float(word["surprisal"]) == said["surprisal"]
        assert str(word["predictability"].values) == ("predictable" if said["text_rank"] < 3 else "unpredictable")


def test_terciles_hold_about_a_third_each_in_order_and_never_part_equals(tiny_slm, corpus):
    found = with_predictability(observe(tiny_slm, corpus), tiny_slm, corpus).dataset
    parts = [found["surprisal"].values[found["surprisal_tercile"].values == name] for name in ("low", "middle", "high")]
    assert all(10 <= len(part) <= 14 for part in parts)
    assert parts[0].max() < parts[1].min() and parts[1].max() < parts[2].min()


def test_recall_can_be_asked_by_predictability_and_survives_the_file(tiny_slm, corpus, tmp_path):
    found = with_predictability(observe(tiny_slm, corpus), tiny_slm, corpus, cut=5)
    found.save(tmp_path / "joined.nc")
    table = recall(type(found).load(tmp_path / "joined.nc"), k=(5,), by="predictability")
    assert set(table["predictability"]) == {"predictable", "unpredictable"}
    assert table.groupby("predictability")["words"].first().sum() == 36


def test_answers_are_words_after_the_last(tiny_slm, corpus):
    answers = ["rome", "paris", "see"] * 2
    found = observe(tiny_slm, corpus, target="answer", answers=answers)
    joined = with_predictability(found, tiny_slm, corpus, answers).dataset
    table = surprisal(tiny_slm, corpus, answers)
    np.testing.assert_array_equal(joined["surprisal"], table.loc[table["word_index"] == 6, "surprisal"])
    with pytest.raises(ReadoutError, match="6 observed words are answers: give the same answers="):
        with_predictability(found, tiny_slm, corpus)


def test_other_utterances_than_those_observed_are_refused(tiny_slm, corpus):
    with pytest.raises(ReadoutError, match=re.escape("These are not the utterances that were observed")):
        with_predictability(observe(tiny_slm, corpus), tiny_slm, corpus[::-1])


def test_a_form_that_opens_with_the_first_word_and_a_model_without_text_are_refused(tiny_slm, speech_only_slm, corpus):
    bare = replace(tiny_slm, prompts=PromptFormat((PromptForm("bare"),)))
    with pytest.raises(
        ReadoutError, match="The form 'bare' puts nothing before the first word, so nothing predicts it. Choose one with form=."
    ):
        surprisal(bare, corpus)
    with pytest.raises(VocabularyError, match="no text ids"):
        surprisal(speech_only_slm, corpus)
