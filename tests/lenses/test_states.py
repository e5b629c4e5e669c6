"""States: the model's own residuals at the stated position of each word; and a probe beside them as a row of a lens."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from slm_interp import hooked
from slm_interp.errors import ReadoutError
from slm_interp.lenses import collect, train_probe
from slm_interp.lenses.summary import best_ranks
from slm_interp.model import SpeechTextModel
from slm_interp.utterance import Span, Utterance, Word


def said(slm: SpeechTextModel, seed: int, texts: tuple[str, ...]) -> Utterance:
    """Words of three units each, after one unit of nobody's."""
    units = torch.randint(0, 20, (1 + 3 * len(texts),), generator=torch.Generator().manual_seed(seed))
    edges = torch.arange(len(units) + 1) * 0.04
    words = tuple(Word(text, Span(1 + 3 * i, 4 + 3 * i), 0.04 + 0.12 * i, 0.16 + 0.12 * i) for i, text in enumerate(texts))
    return slm.speech_prompt(units, edges, words, quantiser="tiny", form="bare", name=f"number {seed}")


@pytest.mark.parametrize(("position", "places"), [("last", [3, 6]), (0, [1, 4]), (2, [3, 6]), (-1, [0, 3])])
def test_states_are_the_model_s_residuals_at_the_stated_position(tiny_slm: SpeechTextModel, position: object, places: list[int]) -> None:
    utterance = said(tiny_slm, 0, ("the", "capital"))
    states = collect(tiny_slm, [utterance], position).dataset
    with torch.no_grad():
        _, cache = tiny_slm.model.run_with_cache(utterance.tokens[None], prepend_bos=False)
    for layer in (1, 2, 3):
        np.testing.assert_allclose(
            states.resid.sel(layer=layer), cache[f"blocks.{layer - 1}.hook_resid_post"][0, places].numpy(), atol=1e-6
        )
    assert states.layer.values.tolist() == [0, 1, 2, 3]
    assert states.pos.values.tolist() == places
    assert states.token.values.tolist() == utterance.tokens[places].tolist()
    assert states.attrs["position"] == position
    assert states.attrs["fingerprint"] == tiny_slm.provenance["fingerprint"]


def test_every_word_knows_its_neighbours_its_sentence_and_its_voice(tiny_slm: SpeechTextModel) -> None:
    states = collect(tiny_slm, [said(tiny_slm, 0, ("a", "b", "c")), said(tiny_slm, 1, ("d",))], layers=[2], voices=["ann", "bob"])
    assert states.labels("current").tolist() == ["a", "b", "c", "d"]
    assert states.labels("next").tolist() == ["b", "c", "", ""]
    assert states.labels("previous").tolist() == ["", "a", "b", ""]
    assert states.dataset.sentence.values.tolist() == ["a b c"] * 3 + ["d"]
    assert states.dataset.voice.values.tolist() == ["ann"] * 3 + ["bob"]
    assert states.dataset.utterance.values.tolist() == ["number 0"] * 3 + ["number 1"]
    assert states.dataset.layer.values.tolist() == [2]


def test_an_utterance_is_known_by_its_tokens_and_not_by_its_name(tiny_slm: SpeechTextModel) -> None:
    one = said(tiny_slm, 0, ("a",))
    keys = collect(tiny_slm, [one, dataclasses.replace(one, name="other"), said(tiny_slm, 1, ("a",))]).dataset.key.values
    assert keys[0] == keys[1] != keys[2]


def test_words_without_such_a_position_are_left_out_and_counted(tiny_slm: SpeechTextModel) -> None:
    utterance = said(tiny_slm, 0, ("a", "b"))
    first = dataclasses.replace(utterance, words=(Word("z", Span(0, 2), 0.0, 0.08), Word("b", Span(4, 7), 0.16, 0.28)))
    before, third = collect(tiny_slm, [first], -1), collect(tiny_slm, [first], 2)
    assert before.labels("current").tolist() == third.labels("current").tolist() == ["b"]
    assert before.dataset.attrs["left_out"] == third.dataset.attrs["left_out"] == 1
    assert before.labels("previous").tolist() == ["z"]
    with pytest.raises(ReadoutError, match=r"No word has a position 3 in 1 utterances"):
        collect(tiny_slm, [first], 3)


def test_what_cannot_be_collected_is_refused(tiny_slm: SpeechTextModel) -> None:
    utterance = said(tiny_slm, 0, ("a",))
    with pytest.raises(ReadoutError, match=r"Layers count blocks run, 0 \(embedding\) to 3 \(what the model reads\); got \[4\]"):
        collect(tiny_slm, [utterance], layers=[4])
    with pytest.raises(ReadoutError, match="1 utterances and 2 voices"):
        collect(tiny_slm, [utterance], voices=["ann", "bob"])
    with pytest.raises(ReadoutError, match="No word has a position 'last' in 0 utterances"):
        collect(tiny_slm, [])


def test_a_probe_reads_an_utterance_as_a_lens_does(tiny_slm: SpeechTextModel) -> None:
    texts = [("the", "capital", "of"), ("of", "the", "capital"), ("capital", "of", "the")]
    train = collect(tiny_slm, [said(tiny_slm, seed, texts[seed % 3]) for seed in range(12)])
    probe = train_probe(train, layers=[1, 3], penalties=(1e-2,))
    utterance = said(tiny_slm, 50, ("the", "zebra", "of"))
    read = probe.read(tiny_slm, utterance, k=2)
    assert read.target_rank.dims == ("layer", "pos", "target")
    assert read.target_word.values.tolist() == ["the", "of"]
    assert read.target_start.values.tolist() == [1, 7]
    assert read.attrs["words_without_class"] == "zebra"
    resid = hooked.residuals(tiny_slm.model, utterance.tokens)
    torch.testing.assert_close(torch.from_numpy(read.target_log_prob.sel(layer=3).values), probe.scores(resid[3], 3)[:, [2, 1]])
    assert (np.exp(read.top_log_prob.values).sum(-1) <= 1 + 1e-5).all()
    best = probe.classes[int(probe.scores(resid[1], 1)[4].argmax())]
    assert str(read.top_word.sel(layer=1).isel(pos=4, k=0).item()) == best
    ranks = probe.ranks(collect(tiny_slm, [utterance]), apart=())
    for word, place in ((0, 3), (1, 9)):
        assert (ranks.isel(word=word).values == read.target_rank.isel(pos=place, target=word).values).all()
    assert best_ranks(read).shape == (2, 2)
