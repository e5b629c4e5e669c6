"""`SpeechTextModel` and the seam below it, on tiny models loaded through the front door."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from slm_interp import hooked
from slm_interp.errors import ConversionError, ReadoutError, UtteranceError, VocabularyError
from slm_interp.utterance import Span, Utterance

EDGES = torch.tensor([0.0, 0.04, 0.12, 0.2], dtype=torch.float64)
UNITS = torch.tensor([3, 0, 19])


@pytest.fixture
def spoken(tiny_slm) -> Utterance:
    return tiny_slm.speech_prompt(UNITS, EDGES, quantiser="tiny")


# -- ids and words -----------------------------------------------------------------------------------


def test_the_pieces_of_a_word_are_those_inside_a_sentence_with_or_without_the_space_given(tiny_slm):
    inside = tuple(tiny_slm.tokenizer(" the sea", add_special_tokens=False)["input_ids"])
    assert tiny_slm.word_ids("the") + tiny_slm.word_ids("sea") == inside
    assert tiny_slm.word_ids(" sea") == tiny_slm.word_ids("sea ") == tiny_slm.word_ids("sea")


def test_labels_are_units_markers_and_text(tiny_slm):
    ids = torch.tensor([*tiny_slm.word_ids("sea"), 11, 30, 31, 32])
    assert tiny_slm.labels(ids) == ("▁sea", "<Un0>", "<Un19>", "<speech>", "<text>")


def test_a_model_of_speech_alone_labels_its_units(speech_only_slm):
    assert speech_only_slm.labels(torch.tensor([0, 1, 2, 21])) == ("<PAD>", "<S>", "<Un0>", "<Un19>")


# -- prompts -----------------------------------------------------------------------------------------


def test_units_are_marked_or_bare_as_the_form_says(tiny_slm, speech_only_slm):
    marked = tiny_slm.speech_prompt(UNITS, EDGES, quantiser="tiny")
    assert marked.labels == ("<speech>", "<Un3>", "<Un0>", "<Un19>")
    assert (marked.form, marked.quantiser) == ("marked", "tiny")
    assert tiny_slm.speech_prompt(UNITS, EDGES, form="bare", quantiser="tiny").labels == ("<Un3>", "<Un0>", "<Un19>")
    assert speech_only_slm.speech_prompt(UNITS, EDGES).labels == ("<S>", "<Un3>", "<Un0>", "<Un19>")
    assert speech_only_slm.speech_prompt(UNITS, EDGES, form="closed").labels[-1] == "<S>"


def test_text_knows_its_words_and_their_pieces(tiny_slm):
    read = tiny_slm.text_prompt(" the capital of france")
    assert read.labels == ("<text>", "▁the", "▁capital", "▁of", "▁france")
    assert [(word.text, word.span) for word in read.words] == [
        ("the", Span(1, 2)),
        ("capital", Span(2, 3)),
        ("of", Span(3, 4)),
        ("france", Span(4, 5)),
    ]
    assert read.seconds == 0.0


def test_speech_and_text_interleave_with_markers_words_and_times(tiny_slm):
    later = tiny_slm.speech_segment(UNITS[:1], torch.tensor([0.4, 0.5], dtype=torch.float64))
    mixed = tiny_slm.prompt(
        [tiny_slm.speech_segment(UNITS, EDGES), tiny_slm.text_segment(" see sea"), later], quantiser="tiny", then="text"
    )
    assert mixed.labels == ("<speech>", "<Un3>", "<Un0>", "<Un19>", "<text>", "▁see", "▁sea", "<speech>", "<Un3>", "<text>")
    assert mixed.edges.tolist() == pytest.approx([0, 0, 0.04, 0.12, 0.2, 0.2, 0.3, 0.4, 0.4, 0.5, 0.5])


# -- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda slm: slm.word_ids("xylophone"), "The tokenizer cannot spell ' xylophone'."),
        (lambda slm: slm.word_ids("  "), "A word has letters; got '  '."),
        (lambda slm: slm.text_prompt(" see xylophone"), "The tokenizer cannot spell ' see xylophone'."),
        (lambda slm: slm.text_prompt(""), "The tokenizer cannot spell ''."),
        (lambda slm: slm.text_prompt(" see<Un3>"), "' see<Un3>' spells '<Un3>', which is speech and not text. Use speech segments"),
        (lambda slm: slm.text_prompt(" see<text>"), "' see<text>' spells '<text>', which is marker and not text."),
        (lambda slm: slm.speech_prompt(UNITS + 1, EDGES, quantiser="tiny"), "Codebook 0 has units 0..19; got 20."),
        (lambda slm: slm.speech_prompt(UNITS, EDGES, quantiser="other"), "come from quantiser tiny; these come from other."),
        (lambda slm: slm.speech_prompt(UNITS, EDGES), "come from quantiser tiny; these come from undeclared."),
        (lambda slm: slm.logits(Utterance(torch.tensor([33]), EDGES[:2])), "Ids must lie in 0..32; got 33 (1 outside)."),
        (lambda slm: slm.logits(Utterance(torch.tensor([11]), EDGES[:2], quantiser="other")), "these come from other."),
    ],
)
def test_what_the_model_cannot_read_is_refused_in_a_sentence(tiny_slm, ask, sentence):
    with pytest.raises(VocabularyError, match=re.escape(sentence)):
        ask(tiny_slm)


@pytest.mark.parametrize(
    "ask", [lambda slm: slm.word_ids("sea"), lambda slm: slm.text_prompt("<Un3>"), lambda slm: slm.text_prompt(" sea")]
)
def test_a_model_of_speech_alone_has_no_text_although_it_has_a_tokenizer(speech_only_slm, ask):
    assert speech_only_slm.tokenizer is not None
    with pytest.raises(VocabularyError, match=re.escape("This model has no text ids: it was trained on speech alone.")):
        ask(speech_only_slm)


def test_declared_units_are_refused_by_a_model_that_declares_none(speech_only_slm):
    with pytest.raises(VocabularyError, match=re.escape("come from quantiser undeclared; these come from tiny.")):
        speech_only_slm.speech_prompt(UNITS, EDGES, quantiser="tiny")


def test_text_alone_asks_for_no_quantiser(tiny_slm):
    assert tiny_slm.logits(tiny_slm.text_prompt(" see sea")).shape == (3, 33)


def test_more_positions_than_the_model_reads_are_refused(speech_only_slm):
    context = speech_only_slm.model.cfg.n_ctx
    tokens = torch.full((context + 1,), 2)
    long = Utterance(tokens, torch.arange(context + 2, dtype=torch.float64))
    sentence = f"The model reads at most {context} positions; this utterance has {context + 1}."
    with pytest.raises(UtteranceError, match=sentence):
        speech_only_slm.logits(long)
    with pytest.raises(ReadoutError, match=sentence):
        hooked.residuals(speech_only_slm.model, tokens)
    assert hooked.residuals(speech_only_slm.model, tokens[:-1]).shape[1] == context


def test_a_vocabulary_of_another_height_or_a_foreign_quantiser_makes_no_model(tiny_slm, speech_only_slm):
    with pytest.raises(VocabularyError, match="The vocabulary declares 22 ids; the embedding has 33 rows."):
        replace(tiny_slm, vocabulary=speech_only_slm.vocabulary)

    class Quantiser:
        hash = "other"

    with pytest.raises(VocabularyError, match="come from quantiser tiny; these come from other"):
        replace(tiny_slm, quantiser=Quantiser())


# -- looking at it -----------------------------------------------------------------------------------


def test_a_terminal_shows_family_architecture_sizes_and_vocabulary(tiny_slm):
    shown = repr(tiny_slm)
    assert shown.startswith("SpeechTextModel(slamkit on llama, 3 layers, d_model 24, torch.float32, JointVocabulary(33 ids: text 0..10")
    assert "from interleaved" in shown


def test_a_notebook_shows_provenance_forms_and_ranges_and_hostile_names_stay_text(tiny_slm):
    html = replace(tiny_slm, provenance={"checkpoint": "<img src=x onerror=alert(1)>", "family": "slamkit"})._repr_html_()
    assert "<img" not in html
    assert html.count("&lt;img src=x onerror=alert(1)&gt;") == 2
    assert "marked (training sequences" in html
    assert "&lt;Un{}&gt;" in html


# -- the seam ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fixture", ["tiny_slm", "speech_only_slm"])
def test_residuals_are_the_entries_of_transformer_lens_own_cache(request, fixture):
    slm = request.getfixturevalue(fixture)
    tokens = torch.tensor([1, 5, 9, 14, 5])
    stream = hooked.residuals(slm.model, tokens)
    with torch.no_grad():
        _, cache = slm.model.run_with_cache(tokens[None], prepend_bos=False)
    assert torch.equal(stream[0], cache["resid_pre", 0][0])
    for layer in range(slm.model.cfg.n_layers):
        assert torch.equal(stream[layer + 1], cache["resid_post", layer][0])
    assert len(stream) == slm.model.cfg.n_layers + 1
    assert not any(point.fwd_hooks for point in slm.model.hook_dict.values())  # nothing stays behind


@pytest.mark.parametrize("fixture", ["tiny_slm", "speech_only_slm"])
def test_the_final_norm_of_the_last_residual_through_the_unembedding_is_the_output(request, fixture):
    slm = request.getfixturevalue(fixture)
    tokens = torch.tensor([1, 5, 9, 14, 5])
    unembedding = hooked.unembedding(slm.model)
    read = hooked.final_norm(slm.model, hooked.residuals(slm.model, tokens)[-1]) @ unembedding.W_U
    read = read if unembedding.b_U is None else read + unembedding.b_U
    torch.testing.assert_close(read, hooked.logits(slm.model, tokens[None])[0])
    assert unembedding.W_U.data_ptr() == slm.model.unembed.W_U.data_ptr()


def test_logits_of_an_utterance_are_those_of_its_tokens_and_carry_no_gradient(tiny_slm, spoken):
    output = tiny_slm.logits(spoken)
    assert torch.equal(output, tiny_slm.model(spoken.tokens[None], prepend_bos=False)[0])
    assert not output.requires_grad


FIELDS = {"n_layers": 1, "d_model": 8, "n_ctx": 4, "d_head": 4, "n_heads": 2, "d_mlp": 8, "act_fn": "relu", "d_vocab": 5}


def test_an_empty_model_is_filled_with_the_very_tensors_it_is_given():
    model = hooked.empty(FIELDS)
    assert all(parameter.is_meta for parameter in model.parameters())
    state = {name: torch.randn_like(parameter, device="cpu") for name, parameter in hooked.parameters(model).items()}
    hooked.fill(model, state)
    assert all(parameter.data_ptr() == state[name].data_ptr() for name, parameter in hooked.parameters(model).items())
    assert hooked.logits(model, torch.tensor([[0, 1]])).isfinite().all()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda state: state.pop("embed.W_E"), "Parameters left unfilled: ['embed.W_E']; left over: []."),
        (lambda state: state.update(W_extra=torch.zeros(1)), "Parameters left unfilled: []; left over: ['W_extra']."),
        (
            lambda state: state.update({"embed.W_E": torch.zeros(5, 8, device="meta")}),
            "These tensors never got a value: ['embed.W_E'] (1 in all).",
        ),
    ],
)
def test_a_parameter_left_unfilled_or_left_over_is_refused(change, sentence):
    model = hooked.empty(FIELDS)
    state = {name: torch.zeros(parameter.shape) for name, parameter in hooked.parameters(model).items()}
    change(state)
    with pytest.raises(ConversionError, match=re.escape(sentence)):
        hooked.fill(model, state)
