from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import accumulate

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from slm_interp.audio import Audio
from slm_interp.errors import UtteranceError
from slm_interp.utterance import Contrast, Span, Utterance, Word

HOSTILE = "<script>alert('&\"')</script>"


def utterance(edges: list[float], **fields) -> Utterance:
    edges = torch.tensor(edges, dtype=torch.float64)
    return Utterance(torch.arange(len(edges) - 1), edges, **fields)


class Cells(HTMLParser):
    """The rows of a table as text, and how many columns each row spans; the other tags with their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.widths: list[int] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
            self.widths.append(0)
        if tag == "td":
            self.rows[-1].append("")
            self.widths[-1] += int(dict(attrs).get("colspan", 1))

    def handle_data(self, data):
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


# -- spans -------------------------------------------------------------------------------------------


@given(st.integers(0, 50), st.integers(1, 50), st.integers(0, 50))
def test_a_span_is_the_half_open_range_of_its_positions(start, length, by):
    span = Span(start, start + length)
    assert list(span) == list(range(start, start + length))
    assert len(span) == length
    assert start in span
    assert start + length not in span
    assert list(span.shifted(by)) == [position + by for position in span]
    assert span.checked(start + length) is span
    with pytest.raises(UtteranceError, match=f"Span {start}:{start + length} ends past the last of {start + length - 1} positions."):
        span.checked(start + length - 1)


# -- seconds -----------------------------------------------------------------------------------------

# Durations in frames of 20 ms; text and markers take none.
durations = st.lists(st.integers(0, 5), min_size=1, max_size=12)


@given(durations, st.integers(0, 100), st.data())
def test_the_position_at_a_second_sounds_then(frames, first, data):
    edges = [frame * 0.02 for frame in accumulate(frames, initial=first)]
    spoken = utterance(edges)
    if not sum(frames):
        with pytest.raises(UtteranceError, match="No position of this utterance takes time: it is text and markers alone."):
            spoken.position_at(edges[0])
        return
    inside = data.draw(st.integers(0, sum(frames) - 1))
    owner = next(i for i, end in enumerate(accumulate(frames)) if inside < end)
    assert spoken.position_at((first + inside + 0.5) * 0.02) == owner
    assert spoken.position_at((first + inside) * 0.02) == owner
    assert spoken.position_at(edges[-1]) == max(i for i, frame in enumerate(frames) if frame)


@given(durations)
def test_seconds_of_a_position_lead_back_to_it(frames):
    spoken = utterance([frame * 0.02 for frame in accumulate(frames, initial=0)])
    for position, frame in enumerate(frames):
        start, end = spoken.seconds_of(Span(position, position + 1))
        assert end - start == pytest.approx(frame * 0.02)
        if frame:
            assert spoken.position_at(start) == position
            assert spoken.position_at((start + end) / 2) == position


@given(st.integers(1, 3000))
def test_a_time_on_an_edge_belongs_to_the_position_that_starts_there_despite_rounding(frame):
    """slamkit's edges are sums of 0.04, and `35 * 0.04 > 1.4`."""
    spoken = utterance([(frame - 1) * 0.04, frame * 0.04, (frame + 1) * 0.04])
    assert spoken.position_at(round(frame * 0.04, 2)) == 1
    narrow = Utterance(spoken.tokens, spoken.edges.float())
    if frame < 100:  # float32 keeps a microsecond up to 8 s
        assert narrow.position_at(round(frame * 0.04, 2)) == 1
        assert narrow.position_at(round((frame + 1) * 0.04, 2)) == 1


@pytest.mark.parametrize("second", [0.5, 2.001, -1.0, float("nan"), float("inf")])
def test_seconds_before_the_first_edge_or_after_the_last_are_refused(second):
    sentence = f"{second} s is outside this utterance, which sounds from 1.000 to 2.000 s."
    with pytest.raises(UtteranceError, match=re.escape(sentence)):
        utterance([1.0, 1.5, 2.0]).position_at(second)


# -- what contradicts itself -------------------------------------------------------------------------

TOKENS, EDGES = torch.arange(3), torch.tensor([0.0, 0.1, 0.2, 0.3])


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Span(2, 2), "A span is half-open and not empty, 0 <= start < stop; got start=2, stop=2."),
        (lambda: Span(-1, 2), "got start=-1, stop=2"),
        (lambda: Span(0, 2).shifted(-1), "got start=-1, stop=1"),
        (lambda: Word("  ", Span(0, 1), 0.0, 1.0), "A word has letters; got blank text."),
        (lambda: Word("sea", Span(0, 1), 2.0, 1.0), "Word 'sea' must start at or after 0 s and not end before it starts; got 2.0 to 1.0."),
        (lambda: Word("sea", Span(0, 1), -1.0, 1.0), "got -1.0 to 1.0"),
        (lambda: Word("sea", Span(0, 1), float("nan"), 1.0), "got nan to 1.0"),
        (lambda: Word("sea", Span(0, 1), 0.0, float("inf")), "got 0.0 to inf"),
        (
            lambda: Utterance(TOKENS[None], EDGES),
            "An utterance is one row of tokens, shape (pos,); got shape (1, 3). Take one row of the batch.",
        ),
        (lambda: Utterance(TOKENS[:0], EDGES[:1]), "An utterance has at least one token; got none."),
        (lambda: Utterance(TOKENS, EDGES[1:]), "3 tokens need 4 edges; got shape (3,)."),
        (lambda: Utterance(TOKENS, EDGES.flip(0)), "Edges are seconds that start at or after 0 and never run backwards."),
        (lambda: Utterance(TOKENS, EDGES - 1), "Edges are seconds that start at or after 0"),
        (lambda: Utterance(TOKENS, EDGES * torch.nan), "Edges are seconds that start at or after 0"),
        (lambda: Utterance(TOKENS, EDGES, labels=("a",)), "3 tokens need 3 labels or none; got 1."),
        (lambda: Utterance(TOKENS, EDGES, (Word("sea", Span(2, 4), 0.0, 0.1),)), "Span 2:4 ends past the last of 3 positions."),
        (
            lambda: Utterance(TOKENS, EDGES, (Word("a", Span(0, 2), 0.0, 0.1), Word("sea", Span(1, 3), 0.1, 0.2))),
            "Words must be in order and not overlap; 'sea' starts at 1, before 2.",
        ),
        (lambda: Utterance(TOKENS, EDGES).seconds_of(Span(1, 4)), "Span 1:4 ends past the last of 3 positions."),
        (
            lambda: Contrast(Utterance(TOKENS, EDGES, quantiser="one"), Utterance(TOKENS, EDGES, quantiser="two"), TOKENS, TOKENS),
            "Clean and corrupted must come from one quantiser; got 'one' and 'two'.",
        ),
        (
            lambda: Contrast(Utterance(TOKENS, EDGES), Utterance(TOKENS, EDGES), TOKENS, TOKENS[:0]),
            "A contrast needs at least one unit of answer and of distractor.",
        ),
    ],
)
def test_what_contradicts_itself_is_refused_in_a_sentence(make, sentence):
    with pytest.raises(UtteranceError, match=re.escape(sentence)):
        make()


def test_a_word_is_found_by_its_text_only_if_it_is_the_only_one():
    words = tuple(Word(text, Span(i, i + 1), 0.0, 0.0) for i, text in enumerate(["a", "sea", "a"]))
    spoken = Utterance(TOKENS, EDGES, words)
    assert spoken.word("sea") is words[1]
    with pytest.raises(
        UtteranceError, match=re.escape("Wanted exactly one word 'a'; found 2 among ['a', 'sea', 'a']. Pick it from .words by index.")
    ):
        spoken.word("a")
    with pytest.raises(UtteranceError, match="Wanted exactly one word 'rome'; found 0"):
        spoken.word("rome")


def test_other_words_leave_everything_else_as_it_is():
    spoken = utterance([0.0, 0.1], quantiser="one", name="clip")
    renamed = spoken.with_words([Word("sea", Span(0, 1), 0.0, 0.1)])
    assert renamed.tokens is spoken.tokens
    assert (renamed.quantiser, renamed.name, renamed.spans) == ("one", "clip", (Span(0, 1),))


# -- looking at it -----------------------------------------------------------------------------------

SPOKEN = Utterance(
    tokens=torch.tensor([31, 12, 13, 14, 12]),
    edges=torch.tensor([0.0, 0.0, 0.04, 0.12, 0.2, 0.24]),
    words=(Word("see", Span(1, 3), 0.0, 0.12), Word("sea", Span(4, 5), 0.2, 0.24)),
    labels=("<speech>", "<Un1>", "<Un2>", "<Un3>", "<Un1>"),
    audio=Audio(np.zeros(240, dtype=np.float32), 1000),
    quantiser="one",
    form="marked",
    name="clip",
)


def test_a_terminal_shows_words_length_seconds_form_and_quantiser():
    assert repr(SPOKEN) == "Utterance(clip: 'see sea', 5 positions, 0.24 s, form marked, quantiser one, with audio)"
    assert repr(utterance([0.0, 0.1])) == "Utterance('no words', 1 positions, 0.10 s, form undeclared, quantiser undeclared)"


def test_a_notebook_shows_words_over_units_over_seconds_and_a_player():
    cells = Cells(SPOKEN._repr_html_())
    assert cells.rows == [
        ["", "see", "", "sea"],
        ["<speech>", "<Un1>", "<Un2>", "<Un3>", "<Un1>"],
        ["0.00", "0.00", "0.04", "0.12", "0.20"],
    ]
    assert cells.widths == [5, 5, 5]  # a word stands over exactly its own units
    (player,) = [attributes for tag, attributes in cells.tags if tag == "audio"]
    assert "controls" in player
    assert player["src"].startswith("data:audio/wav;base64,")


def test_a_notebook_shows_no_player_without_sound():
    assert "<audio" not in utterance([0.0, 0.1])._repr_html_()


def test_hostile_words_labels_names_and_forms_stay_text():
    html = utterance(
        [0.0, 0.1, 0.2], words=(Word(HOSTILE, Span(0, 1), 0.0, 0.1),), labels=(HOSTILE, "b"), name=HOSTILE, form=HOSTILE
    )._repr_html_()
    cells = Cells(html)
    assert {tag for tag, _ in cells.tags} == {"div", "b", "table", "tr", "td"}
    assert cells.rows[0][0] == cells.rows[1][0] == HOSTILE
    assert html.count("&lt;script&gt;") == 4
