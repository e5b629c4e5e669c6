"""Policies: which positions meet, with what weights, and what is refused."""

from __future__ import annotations

import pytest
import torch

from slm_interp.errors import PatchingError, UtteranceError
from slm_interp.model import SpeechTextModel
from slm_interp.patching import Pairing, SpanPair, Stretch, norm_matched, policies, spans, word_by_word
from slm_interp.utterance import Contrast, Span


def met(contrast: Contrast, policy: policies.Policy, word: int = 1) -> Pairing:
    """The words of that number, clean into corrupted."""
    return policy(
        Stretch(contrast.clean, contrast.clean.words[word].span), Stretch(contrast.corrupted, contrast.corrupted.words[word].span)
    )


def test_equal_spans_meet_position_by_position(equal: Contrast) -> None:
    found = met(equal, policies.same)
    assert found.base.tolist() == found.source.tolist() == [3, 4, 5]
    assert torch.equal(found.weights, torch.eye(3))


def test_unequal_spans_without_a_policy_are_refused_and_the_policies_named(unequal: Contrast) -> None:
    with pytest.raises(PatchingError, match=r"3 and 5 positions.*'start_aligned', 'end_aligned', 'last_unit', 'pooled', 'warped'"):
        met(unequal, policies.policy_of(None))


@pytest.mark.parametrize(
    ("name", "base", "source"),
    [("start_aligned", [3, 4, 5], [3, 4, 5]), ("end_aligned", [5, 6, 7], [3, 4, 5]), ("last_unit", [7], [5])],
)
def test_aligned_policies_take_units_as_they_are(unequal: Contrast, name: str, base: list[int], source: list[int]) -> None:
    found = met(unequal, policies.policy_of(name))
    assert (found.base.tolist(), found.source.tolist()) == (base, source)
    assert torch.equal(found.weights, torch.eye(len(base)))


def test_pooled_writes_the_mean_everywhere(unequal: Contrast) -> None:
    found = met(unequal, policies.pooled)
    values = found.values(torch.arange(8.0)[:, None], torch.zeros(10, 1))
    assert found.base.tolist() == [3, 4, 5, 6, 7] and torch.allclose(values, torch.full((5, 1), 4.0))


def test_warped_is_linear_from_end_to_end(unequal: Contrast) -> None:
    """Five positions over three: 0, 1/4, 1/2, 3/4 and 1 of the way from position 3 to position 5."""
    assert met(unequal, policies.warped).values(torch.arange(8.0)[:, None], torch.zeros(10, 1)).flatten().tolist() == [3, 3.5, 4, 4.5, 5]


def test_warping_equal_spans_changes_nothing(equal: Contrast) -> None:
    assert torch.equal(met(equal, policies.warped).weights, torch.eye(3))


def test_warped_in_time_reads_what_sounds_at_the_same_share_of_the_word(unequal: Contrast) -> None:
    """The middles of the source units in relative time, carried through the same weights, are the middles of the base units where they overlap."""
    found = met(unequal, policies.warped_in_time)
    there, here = (policies._middles(Stretch(one, one.words[1].span)).float() for one in (unequal.clean, unequal.corrupted))
    inside = (here >= there[0]) & (here <= there[-1])
    assert inside.sum() >= 2 and torch.allclose((found.weights @ there)[inside], here[inside], atol=1e-6)
    assert not torch.allclose(found.weights, met(unequal, policies.warped).weights, atol=1e-2)


def test_time_warp_of_text_is_refused(tiny_slm: SpeechTextModel) -> None:
    text = tiny_slm.text_prompt(" the capital of france")
    stretch = Stretch(text, text.words[1].span)
    with pytest.raises(PatchingError, match="do not all take time"):
        policies.warped_in_time(stretch, stretch)


def test_word_by_word_keeps_words_apart(unequal: Contrast) -> None:
    stretches = (Stretch(one, Span(0, len(one))) for one in (unequal.clean, unequal.corrupted))
    found = word_by_word(policies.end_aligned)(*stretches)
    assert found.base.tolist() == [1, 2, 5, 6, 7, 8, 9] and found.source.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert policies.name_of(word_by_word(policies.end_aligned)) == "word_by_word(end_aligned)"


def test_word_by_word_refuses_another_number_of_words(unequal: Contrast) -> None:
    with pytest.raises(PatchingError, match="hold 3 and 2 words"):
        word_by_word(policies.pooled)(Stretch(unequal.clean, Span(0, 8)), Stretch(unequal.corrupted, Span(0, 8)))


def test_matched_norms_are_those_of_what_is_replaced(unequal: Contrast) -> None:
    source, base = torch.randn(8, 4), 10 * torch.randn(10, 4)
    found = met(unequal, norm_matched(policies.pooled))
    values = found.values(source, base)
    assert torch.allclose(values.norm(dim=-1), base[3:8].norm(dim=-1))
    assert torch.allclose(torch.nn.functional.cosine_similarity(values, source[3:6].mean(0, keepdim=True)), torch.ones(5))


@pytest.mark.parametrize(
    ("base", "weights", "says"),
    [
        ([2, 2], [[1.0], [1.0]], "ascending"),
        ([2], [[0.5]], "sum to 1"),
        ([2], [[float("nan")]], "finite"),
        ([2], [[0.5, 0.5]], "one weight"),
    ],
)
@pytest.mark.usefixtures("as_users_run_it")
def test_a_pairing_that_makes_no_sense_is_refused(base: list[int], weights: list[list[float]], says: str) -> None:
    with pytest.raises(PatchingError, match=says):
        Pairing(torch.tensor(base), torch.tensor([1]), torch.tensor(weights))


def test_an_unknown_policy_names_those_there_are() -> None:
    with pytest.raises(PatchingError, match="same, start_aligned"):
        policies.policy_of("stretched")


def test_words_meet_by_their_number_and_show_both(unequal: Contrast) -> None:
    found = spans.spans_of(unequal, "words")
    assert [pair.name for pair in found] == ["word 0", "word 1", "word 2"]
    assert found[1].label == "capital / france" and found[1].corrupted == Span(3, 8) and found[2].label == "of"


def test_between_covers_both_prompts(tiny_slm: SpeechTextModel, unequal: Contrast) -> None:
    marked = Contrast(tiny_slm.then(unequal.clean, "text"), tiny_slm.then(unequal.corrupted, "text"), unequal.answer, unequal.distractor)
    found = spans.spans_of(marked, "between")
    for side, prompt in (("clean", marked.clean), ("corrupted", marked.corrupted)):
        assert sorted(position for pair in found for position in pair.of(side)) == list(range(len(prompt)))
    assert found[-1].name == "end"


def test_positions_of_unequal_prompts_are_refused(unequal: Contrast) -> None:
    with pytest.raises(PatchingError, match="got 8 and 10"):
        spans.spans_of(unequal, "positions")


def test_a_span_past_the_end_is_refused(unequal: Contrast) -> None:
    with pytest.raises(UtteranceError, match="ends past the last of 8"):
        spans.spans_of(unequal, [SpanPair("late", Span(5, 9), Span(5, 9))])


def test_two_spans_of_one_name_are_refused(unequal: Contrast) -> None:
    pair = SpanPair("word", Span(0, 2), Span(0, 2))
    with pytest.raises(PatchingError, match="each of its own name"):
        spans.spans_of(unequal, [pair, pair])
