from __future__ import annotations

from bisect import bisect_left, bisect_right
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from slm_interp.errors import SpeechError
from slm_interp.speech.spans import heard_words, unit_slice, words_to_spans
from slm_interp.speech.units import Units
from slm_interp.speech.words import TimedWord
from slm_interp.utterance import Span, Utterance
from tests.speech import real

FRAME = Fraction(1, 25)


def units_of(*durations):
    return Units(np.arange(len(durations)), np.array(durations), 0.04)


def as_slamkit_computes_it(units, start, end):
    """The two lines of slamkit's InterleavingTokeniser, in floats."""
    unit_time = np.cumsum(units.durations) * 0.04
    return slice(bisect_left(unit_time, start), bisect_right(unit_time, end))


def as_slamkit_means_it(units, start, end):
    """The same two lines without rounding."""
    unit_time = [FRAME * int(frames) for frames in np.cumsum(units.durations)]
    return slice(bisect_left(unit_time, start), bisect_right(unit_time, end))


durations = st.lists(st.integers(1, 5), min_size=1, max_size=40)
milliseconds = st.integers(0, 3000)


def test_the_unit_across_the_start_is_in_and_the_unit_across_the_end_is_out():
    units = units_of(1, 2, 1, 3)  # ends at 0.04 0.12 0.16 0.28
    assert unit_slice(units, 0.05, 0.20) == slice(1, 3)
    assert unit_slice(units, 0.0, 0.28) == slice(0, 4)


def test_a_word_that_starts_on_an_edge_also_counts_the_unit_that_ends_there():
    units = units_of(1, 2, 1, 3)
    assert unit_slice(units, 0.12, 0.28) == slice(1, 4)
    assert unit_slice(units, 0.121, 0.28) == slice(2, 4)


def test_a_word_that_ends_on_an_edge_has_the_unit_that_ends_there():
    units = units_of(1, 2, 1, 3)
    assert unit_slice(units, 0.0, 0.12) == slice(0, 2)
    assert unit_slice(units, 0.0, 0.119) == slice(0, 1)


def test_words_that_touch_inside_a_unit_leave_no_gap_and_the_later_one_has_it():
    words = (TimedWord("a", 0.0, 0.14), TimedWord("b", 0.14, 0.28))
    assert [word.span for word in words_to_spans(words, units_of(1, 2, 1, 3))] == [Span(0, 2), Span(2, 4)]


def test_words_that_touch_on_an_edge_share_a_unit_in_slamkit_and_here_the_earlier_one_keeps_it():
    units = units_of(1, 2, 1, 3)
    words = (TimedWord("a", 0.0, 0.12), TimedWord("b", 0.12, 0.28))
    assert [unit_slice(units, word.start_s, word.end_s) for word in words] == [slice(0, 2), slice(1, 4)]
    assert [word.span for word in words_to_spans(words, units)] == [Span(0, 2), Span(2, 4)]


@pytest.mark.parametrize("frames", [3, 7, 35, 41, 47, 57, 1725])
def test_a_second_on_an_edge_counts_as_on_it_where_floats_miss_by_a_rounding_error(frames):
    units = units_of(*[1] * (frames + 1))
    assert unit_slice(units, 0.0, round(frames * 0.04, 2)) == slice(0, frames)


def test_the_floats_of_slamkit_miss_263_of_the_first_2000_edges_and_always_late():
    ends = np.cumsum(np.ones(2000, dtype=int)) * 0.04
    meant = np.array([round(frames * 0.04, 2) for frames in range(1, 2001)])
    assert (int((ends > meant).sum()), int((ends < meant).sum())) == (263, 0)


@given(durations, milliseconds, milliseconds)
def test_the_rule_is_slamkits_in_exact_arithmetic(lengths, one, other):
    units, (start, end) = units_of(*lengths), sorted((one, other))
    assert unit_slice(units, start / 1000, end / 1000) == as_slamkit_means_it(units, Fraction(start, 1000), Fraction(end, 1000))


@given(durations, milliseconds, milliseconds)
def test_the_rule_is_slamkits_own_floats_wherever_no_time_falls_on_an_edge(lengths, one, other):
    start, end = sorted(value - value % 40 + 1 + value % 39 for value in (one, other))
    units = units_of(*lengths)
    assert unit_slice(units, start / 1000, end / 1000) == as_slamkit_computes_it(units, start / 1000, end / 1000)


@given(durations, st.lists(st.integers(0, 400), min_size=2, max_size=12, unique=True).map(sorted))
def test_spans_are_ordered_disjoint_and_inside_their_seconds_to_within_one_unit(lengths, bounds):
    units, seconds = units_of(*lengths), [bound / 100 for bound in bounds]
    words = [TimedWord(f"w{i}", *times) for i, times in enumerate(pairwise(seconds)) if times[1] <= units.seconds]
    heard = heard_words(words, units)
    assert sorted([*heard.words, *heard.without_units], key=lambda word: word.start_s) == words
    assert heard_words(heard.words, units).without_units == ()
    edges, end = units.edges(), 0
    for word in words_to_spans(heard.words, units):
        assert end <= word.span.start < word.span.stop <= len(units)
        end = word.span.stop
        assert edges[word.span.start + 1] >= word.start_s - 1e-9  # the first unit ends in the word
        assert edges[word.span.stop] <= word.end_s + 1e-9  # and so does the last
        assert edges[word.span.start] >= word.start_s - max(lengths) * 0.04 - 1e-9
        assert edges[word.span.stop] > word.end_s - max(lengths) * 0.04 - 1e-9 or word.span.stop == len(units)


@given(durations, st.integers(0, 7))
def test_an_offset_moves_every_span_and_an_utterance_takes_them(lengths, offset):
    units = units_of(*lengths)
    words = words_to_spans((TimedWord("all", 0.0, units.seconds),), units, offset)
    assert words[0].span == Span(offset, offset + len(units))
    edges = torch.tensor([0.0] * offset + units.edges().tolist())
    utterance = Utterance(torch.arange(len(edges) - 1), edges.float(), words)
    assert utterance.seconds_of(words[0].span) == pytest.approx((0.0, units.seconds))


def test_a_word_inside_one_unit_is_refused_by_name_and_left_out_only_on_request():
    units = units_of(1, 5, 1)  # ends at 0.04 0.24 0.28
    words = (TimedWord("the", 0.0, 0.06), TimedWord("a", 0.06, 0.09), TimedWord("end", 0.09, 0.28))
    with pytest.raises(SpeechError, match=r"No unit belongs to 1 of 3 words: 'a' \(0.06 to 0.09 s\).*heard_words\(words, units\)\.words"):
        words_to_spans(words, units)
    heard = heard_words(words, units)
    assert [word.text for word in heard.words] == ["the", "end"]
    assert heard.without_units == (words[1],)
    assert [word.span for word in words_to_spans(heard.words, units)] == [Span(0, 1), Span(1, 3)]


def test_words_that_overlap_run_backwards_or_outlast_the_units_are_refused():
    units = units_of(1, 1, 1)
    with pytest.raises(SpeechError, match="'b' starts at 0.04 s, before 'a' ends at 0.06 s"):
        words_to_spans((TimedWord("a", 0.0, 0.06), TimedWord("b", 0.04, 0.12)), units)
    with pytest.raises(SpeechError, match=r"units last 0.12 s and the word 'a' ends at 0.90 s\. Are both from the same sound"):
        words_to_spans((TimedWord("a", 0.0, 0.9),), units)
    with pytest.raises(SpeechError, match="does not end before it starts"):
        unit_slice(units, 0.1, 0.05)
    with pytest.raises(SpeechError, match="0 or more; got -1"):
        words_to_spans((), units, offset=-1)


@pytest.mark.parametrize("clip", real.CLIPS)
def test_every_word_of_a_real_clip_has_slamkits_units_less_those_it_shares(clip, aligned):
    units, words = real.units(clip), aligned(clip)
    before = None
    for word, timed in zip(words_to_spans(words, units), words, strict=True):
        meant = as_slamkit_means_it(units, Fraction(round(timed.start_s * 1000), 1000), Fraction(round(timed.end_s * 1000), 1000))
        start = max(meant.start, before or 0)
        assert word.span == Span(start, meant.stop)
        assert start - meant.start in (0, 1)
        before = meant.stop
