"""Which positions belong to a word."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from slm_interp.errors import UtteranceError
from slm_interp.transcription.asking.windows import before, end_and_after, from_end, jittered, named, offset, span_and_after
from slm_interp.utterance import Span, Utterance, Word

SPAN = Span(4, 7)


@pytest.mark.parametrize(
    ("window", "positions"),
    [
        ("span", [4, 5, 6]),
        ("first", [4]),
        ("last", [6]),
        (span_and_after(0), [4, 5, 6]),
        (span_and_after(2), [4, 5, 6, 7, 8]),
        (span_and_after(9), [4, 5, 6, 7, 8, 9]),
        (offset(0), [4]),
        (offset(3), [7]),
        (offset(-1), [3]),
        (offset(-5), []),
        (offset(6), []),
        (from_end(0), [6]),
        (from_end(1), [7]),
        (from_end(4), []),
        (before(3), [1, 2, 3]),
        (before(5), []),
        (end_and_after(3), [6, 7, 8]),
        (end_and_after(5), []),
    ],
)
def test_a_window_names_positions_inside_the_utterance_only(window, positions):
    assert list(named(window).positions(SPAN, 10)) == positions


def test_unknown_windows_are_refused_by_name():
    with pytest.raises(UtteranceError, match=re.escape("No window 'whole'; there are span, first, last, and the functions")):
        named("whole")
    with pytest.raises(UtteranceError, match="counted from 0; got -1"):
        span_and_after(-1)


def test_jitter_moves_boundaries_by_no_more_than_asked_and_leaves_no_word_empty():
    words = tuple(Word("a", Span(3 * index, 3 * index + (index % 3) + 1), 0.0, 0.0) for index in range(20))
    spoken = Utterance(torch.arange(60), torch.zeros(61), words)
    moved = [jittered(spoken, 2, np.random.default_rng(seed)) for seed in range(40)]
    starts = np.array([[new.start - old.start for new, old in zip(one, spoken.spans, strict=True)] for one in moved])
    stops = np.array([[new.stop - old.stop for new, old in zip(one, spoken.spans, strict=True)] for one in moved])
    assert set(np.unique(starts[:, 1:])) == {-2, -1, 0, 1, 2}
    assert set(np.unique(stops)) >= {-2, -1, 0, 1, 2}  # a stop yields where the start would pass it
    assert all(span.stop <= 60 for one in moved for span in one)


def test_no_jitter_leaves_the_spans_as_they_are():
    spoken = Utterance(torch.arange(5), torch.zeros(6), (Word("a", Span(1, 3), 0.0, 0.0),))
    assert jittered(spoken, 0, np.random.default_rng(0)) == spoken.spans
