from __future__ import annotations

import re
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from slm_interp.errors import UtteranceError
from slm_interp.prompt import PromptForm, PromptFormat, Segment, lay_out
from slm_interp.utterance import Span, Utterance, Word

SPEECH, TEXT, BOS, EOS = 100, 101, 102, 103
MARKED = PromptForm("marked", opening=(BOS,), marked=True, note="training")
BARE = PromptForm("bare", closing=(EOS,), note="units alone")
FORMAT = PromptFormat((MARKED, BARE), {"speech": SPEECH, "text": TEXT}, repeated=True)


def speech(ids: list[int], edges: list[float], words: tuple[Word, ...] = ()) -> Segment:
    return Segment("speech", torch.tensor(ids), torch.tensor(edges, dtype=torch.float64), words)


def text(ids: list[int], words: tuple[Word, ...] = ()) -> Segment:
    return Segment("text", torch.tensor(ids), None, words)


# "see" is heard, "the sea" (three pieces) is read where it was cut out, "is" is heard.
SEE = speech([1, 2], [0.2, 0.3, 0.5], (Word("see", Span(0, 2), 0.2, 0.5),))
THE_SEA = text([50, 51, 52], (Word("the", Span(0, 1), 0.0, 0.0), Word("sea", Span(1, 3), 0.0, 0.0)))
IS = speech([3], [0.8, 0.9], (Word("is", Span(0, 1), 0.8, 0.9),))


def test_markers_stand_before_every_change_of_modality_the_first_included():
    laid = lay_out(FORMAT, MARKED, [SEE, THE_SEA, IS])
    assert laid.ids.tolist() == [BOS, SPEECH, 1, 2, TEXT, 50, 51, 52, SPEECH, 3]


def test_text_shares_the_time_of_the_speech_it_replaces_and_markers_take_none():
    laid = lay_out(FORMAT, MARKED, [SEE, THE_SEA, IS])
    #                           BOS  <s>  1    2    <t>  50   51   52   <s>  3    end
    expected = torch.tensor([0.2, 0.2, 0.2, 0.3, 0.5, 0.5, 0.6, 0.7, 0.8, 0.8, 0.9], dtype=torch.float64)
    torch.testing.assert_close(laid.edges, expected)


def test_words_keep_their_positions_and_read_words_the_instant_at_which_those_begin():
    laid = lay_out(FORMAT, MARKED, [SEE, THE_SEA, IS])
    assert [(word.text, word.span) for word in laid.words] == [
        ("see", Span(2, 4)),
        ("the", Span(5, 6)),
        ("sea", Span(6, 8)),
        ("is", Span(9, 10)),
    ]
    times = [(word.start_s, word.end_s) for word in laid.words]
    assert times == [(0.2, 0.5), (0.5, 0.5), (pytest.approx(0.6), pytest.approx(0.6)), (0.8, 0.9)]


def test_the_bare_form_has_no_markers_and_the_closing_takes_no_time():
    laid = lay_out(FORMAT, BARE, [SEE, THE_SEA])
    assert laid.ids.tolist() == [1, 2, 50, 51, 52, EOS]
    assert laid.edges.tolist() == [0.2, 0.3, 0.5, 0.5, 0.5, 0.5, 0.5]


def test_neighbours_of_one_modality_join_without_a_marker():
    assert lay_out(FORMAT, MARKED, [text([50]), text([51])]).ids.tolist() == [BOS, TEXT, 50, 51]


def test_where_nothing_stands_for_a_gap_the_position_before_lasts_until_the_speech_goes_on():
    assert lay_out(FORMAT, BARE, [SEE, IS]).edges.tolist() == [0.2, 0.3, 0.8, 0.9, 0.9]


def test_the_modality_to_go_on_in_is_marked_even_after_the_same_one():
    assert lay_out(FORMAT, MARKED, [SEE], then="speech").ids.tolist() == [BOS, SPEECH, 1, 2, SPEECH]
    assert lay_out(FORMAT, BARE, [SEE], then="text").ids.tolist() == [1, 2, TEXT, EOS]


def test_text_alone_stands_at_second_0():
    laid = lay_out(FORMAT, MARKED, [THE_SEA])
    assert laid.edges.tolist() == [0.0] * 6


# Turns of speech (frames of 20 ms for each unit, then a pause in frames) and text (pieces).
turns = st.lists(
    st.one_of(
        st.tuples(st.just("speech"), st.lists(st.integers(1, 5), min_size=1, max_size=5), st.integers(0, 10)),
        st.tuples(st.just("text"), st.integers(1, 5), st.just(0)),
    ),
    min_size=1,
    max_size=6,
)


@given(turns, st.sampled_from([MARKED, BARE]), st.sampled_from([None, "speech", "text"]))
def test_any_interleaving_keeps_every_unit_at_its_own_time_and_every_word_on_its_own_ids(plan, form, then):
    segments, frame, unit, when = [], 0, 0, {}
    for modality, content, pause in plan:
        if modality == "text":
            ids = list(range(200 + unit, 200 + unit + content))
            segments.append(text(ids, (Word(f"t{unit}", Span(0, content), 0.0, 0.0),)))
            unit += content
            continue
        frame += pause
        edges = [frame]
        for one in content:
            edges.append(edges[-1] + one)
        ids = list(range(200 + unit, 200 + unit + len(content)))
        when.update({one: edges[i] * 0.02 for i, one in enumerate(ids)})
        segments.append(speech(ids, [edge * 0.02 for edge in edges], (Word(f"s{unit}", Span(0, len(ids)), 0.0, 1.0),)))
        frame, unit = edges[-1], unit + len(content)
    laid = lay_out(FORMAT, form, segments, then)
    whole = Utterance(laid.ids, laid.edges, laid.words)  # shapes, order of edges and words
    assert [one for one in whole.tokens.tolist() if one >= 200] == list(range(200, 200 + unit))
    for position, one in enumerate(whole.tokens.tolist()):
        if one in when:
            assert whole.edges[position].item() == pytest.approx(when[one])
        elif one < 200 and form is MARKED:
            assert whole.edges[position] == whole.edges[position + 1], "a marker or BOS took time"
    for word in whole.words:
        assert whole.tokens[word.span.start].item() == 200 + int(word.text[1:])
        if word.text[0] == "t":
            assert word.start_s == word.end_s == whole.edges[word.span.start].item()
    changes = 1 + sum(before[0] != after[0] for before, after in pairwise(plan))
    markers = [one for one in whole.tokens.tolist() if one in (SPEECH, TEXT)]
    assert len(markers) == (changes if form.marked else 0) + (then is not None)


def test_the_default_form_is_the_first_and_others_are_found_by_name():
    assert FORMAT.form(None) is MARKED
    assert FORMAT.form("bare") is BARE


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: FORMAT.form("loud"), "No prompt form 'loud'; there are marked (training), bare (units alone)."),
        (lambda: PromptFormat(()), "A family has at least one prompt form, each with a name of its own; got []."),
        (lambda: PromptFormat((BARE, BARE)), "each with a name of its own; got ['bare', 'bare']."),
        (lambda: PromptFormat((MARKED,)), "A marked form needs a marker for speech, for text, or one between them."),
        (lambda: text([]), "A segment of text has at least one id; got none. Leave it out."),
        (
            lambda: Segment("text", torch.tensor([1]), torch.tensor([0.0, 1.0])),
            "Speech segments have edges in seconds, text segments have none.",
        ),
        (lambda: Segment("speech", torch.tensor([1])), "Speech segments have edges in seconds"),
        (lambda: speech([1, 2], [0.0, 1.0]), "2 units need 3 edges; got (2,)."),
        (lambda: lay_out(FORMAT, BARE, []), "A prompt needs at least one segment."),
        (
            lambda: lay_out(PromptFormat((BARE,)), BARE, [SEE], then="text"),
            "This family has no marker that turns speech into text; it has markers none",
        ),
        (lambda: lay_out(FORMAT, BARE, [IS, SEE]), "Speech must run forwards: a segment starts at 0.200 s, before 0.900 s."),
        (lambda: lay_out(FORMAT, BARE, [text([50], (Word("sea", Span(0, 2), 0.0, 0.0),))]), "Span 0:2 ends past the last of 1 positions."),
    ],
)
def test_what_cannot_be_laid_out_is_refused_in_a_sentence(make, sentence):
    with pytest.raises(UtteranceError, match=re.escape(sentence)):
        make()
