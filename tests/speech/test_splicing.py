"""Splicing: nothing but the word changes, its sound comes along, and rows that no model was trained on are not made."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from slm_interp.audio import Audio
from slm_interp.errors import SpeechError, UtteranceError
from slm_interp.speech.splicing import replaced, spliced_contrast
from slm_interp.utterance import Contrast, Span, Utterance, Word

RATE = 1000


def prompt(tokens: list[int], lasting: list[float], words: list[tuple[str, int, int]], name: str = "one") -> Utterance:
    edges = torch.cat([torch.zeros(1), torch.tensor(lasting).cumsum(0)])
    heard = tuple(Word(text, Span(start, stop), float(edges[start]), float(edges[stop])) for text, start, stop in words)
    samples = np.repeat(np.array(tokens, dtype=np.float32) / 100, [round(one * RATE) for one in lasting])
    return Utterance(torch.tensor(tokens), edges, heard, tuple(f"Un{one}" for one in tokens), Audio(samples, RATE), "book", "marked", name)


@pytest.fixture
def clean() -> Utterance:
    return prompt([1, 2, 3, 4, 5], [0.1, 0.2, 0.1, 0.3, 0.1], [("of", 0, 1), ("rome", 1, 3), ("is", 3, 5)])


@pytest.fixture
def corrupted() -> Utterance:
    return prompt([9, 6, 7, 8, 9], [0.2, 0.1, 0.1, 0.2, 0.4], [("of", 0, 1), ("paris", 1, 4), ("is", 4, 5)], "other")


def test_the_word_is_exchanged_with_its_units_seconds_labels_and_sound(clean: Utterance, corrupted: Utterance) -> None:
    made = replaced(clean, Span(1, 3), corrupted, Span(1, 4), "paris")
    assert made is not None
    assert made.tokens.tolist() == [1, 6, 7, 8, 4, 5]
    assert made.edges.tolist() == pytest.approx([0, 0.1, 0.2, 0.3, 0.5, 0.8, 0.9])
    assert made.labels == ("Un1", "Un6", "Un7", "Un8", "Un4", "Un5")
    assert [(word.text, word.span) for word in made.words] == [("of", Span(0, 1)), ("paris", Span(1, 4)), ("is", Span(4, 6))]
    assert (made.words[2].start_s, made.words[2].end_s) == pytest.approx((0.5, 0.9))
    assert made.audio is not None
    assert np.unique(made.audio.samples[100:500]).tolist() == pytest.approx([0.06, 0.07, 0.08])
    assert made.audio.seconds == pytest.approx(0.9)
    assert (made.quantiser, made.form) == ("book", "marked")


def test_continuations_stay_as_they_were_said(clean: Utterance, corrupted: Utterance) -> None:
    contrast = Contrast(clean, corrupted, torch.tensor([2]), torch.tensor([3]))
    made = spliced_contrast(contrast, Span(1, 3), Span(1, 4))
    assert made is not None
    assert made.clean is clean
    assert (made.answer, made.distractor) == (contrast.answer, contrast.distractor)
    assert made.corrupted.word("paris").span == Span(1, 4)


def test_a_unit_that_would_follow_itself_makes_no_splice_where_repeats_are_merged(clean: Utterance) -> None:
    meets = prompt([9, 1, 7], [0.1, 0.1, 0.1], [("of", 0, 1), ("lima", 1, 3)])
    assert replaced(clean, Span(1, 3), meets, Span(1, 3), "lima") is None
    repeating = prompt([9, 1, 7, 7], [0.1, 0.1, 0.1, 0.1], [("of", 0, 1), ("lima", 1, 3)])  # its quantiser merges none
    assert replaced(clean, Span(1, 3), repeating, Span(1, 3), "lima") is not None


def test_sound_is_left_out_where_a_part_has_none_or_another_rate(clean: Utterance, corrupted: Utterance) -> None:
    for audio in (None, Audio(np.zeros(2000, dtype=np.float32), 2 * RATE)):
        made = replaced(clean, Span(1, 3), replace(corrupted, audio=audio), Span(1, 4), "paris")
        assert made is not None
        assert made.audio is None


def test_units_of_two_quantisers_and_stretches_that_are_no_word_are_refused(clean: Utterance, corrupted: Utterance) -> None:
    with pytest.raises(SpeechError, match="one quantiser; got 'book' and 'another'"):
        replaced(clean, Span(1, 3), replace(corrupted, quantiser="another"), Span(1, 4), "paris")
    with pytest.raises(SpeechError, match="replaces a word"):
        replaced(clean, Span(1, 2), corrupted, Span(1, 4), "paris")
    with pytest.raises(UtteranceError, match="past the last"):
        replaced(clean, Span(1, 3), corrupted, Span(4, 9), "paris")
    with pytest.raises(SpeechError, match="no word of the corrupted prompt"):
        spliced_contrast(Contrast(clean, corrupted, torch.tensor([2]), torch.tensor([3])), Span(1, 3), Span(2, 4))
