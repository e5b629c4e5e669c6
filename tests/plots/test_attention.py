"""Attention keeps its rows, its numbers within half a step, and its words."""

from __future__ import annotations

import json
import re
import sys
import urllib.request

import numpy as np
import pytest
import torch

from slm_interp.errors import ReadoutError
from slm_interp.plots import attention_by_word, attention_heads, attention_view
from slm_interp.plots.attention_data import attention_of, by_word, cut, error_of, grouped_labels, pack, unpack
from slm_interp.utterance import Span, Word
from tests.synthetic_pictures import incompressible, peaked, spoken

LABELS, WORDS = spoken(40)
PATTERN = peaked(4, 40)


@pytest.mark.parametrize("pattern", [PATTERN, incompressible(3, 40), np.full((2, 40, 40), 1 / 40, np.float32)])
def test_packing_is_undone_within_half_a_step_of_the_largest_of_each_row(pattern):
    heads, count, _ = pattern.shape
    back = unpack(pack(pattern), heads, count, not np.triu(pattern, 1).any())
    assert (np.abs(back - pattern) <= pattern.max(-1, keepdims=True) / 510 + 1e-7).all()
    assert np.abs(back - pattern).max() <= error_of(pattern) + 1e-7
    np.testing.assert_allclose(back.max(-1), pattern.max(-1), rtol=1e-6)


def test_a_causal_mask_halves_what_is_written():
    raw = incompressible(2, 64)
    full = (raw + np.triu(raw.transpose(0, 2, 1), 1)) / 2
    assert len(pack(full)) > 1.8 * len(pack(raw))


@pytest.mark.parametrize(("make", "most"), [(peaked, 2_000_000), (incompressible, 5_000_000)])
def test_28_heads_by_512_positions_fit_in_five_megabytes(make, most):
    labels, words = spoken(512)
    assert attention_view(make(28, 512), labels, words).data_bytes <= most


def test_tensors_and_arrays_give_the_same_page():
    page = attention_view(PATTERN, LABELS, WORDS)
    assert attention_view(torch.tensor(PATTERN), LABELS, WORDS).html() == page.html()
    attention_view(torch.tensor(PATTERN).bfloat16(), LABELS, WORDS)


def test_the_page_says_how_far_a_number_may_be_off():
    assert f"off by more than {PATTERN.max() / 510:.2g}" in attention_view(PATTERN, LABELS, WORDS).html()


def test_a_transposed_pattern_is_refused():
    with pytest.raises(ReadoutError, match="rows of a pattern are destinations.*looks only ahead.*give its transpose"):
        attention_view(PATTERN.transpose(0, 2, 1), LABELS, WORDS)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda pattern: pattern[:, :5], r"as many destinations as sources; got shape \(4, 5, 40\)"),
        (lambda pattern: pattern * np.nan, "finite and not below 0"),
        (lambda pattern: -pattern, "finite and not below 0"),
        (lambda pattern: 2 * pattern, "rows of a pattern are destinations and sum to 1; here one sums to 2"),
        (lambda pattern: pattern[:, :39, :39], "need as many names and labels; got 4 and 40"),
    ],
)
def test_what_is_no_attention_is_refused(change, sentence):
    with pytest.raises(ReadoutError, match=sentence):
        attention_of(change(PATTERN), LABELS)


def test_words_that_overlap_or_run_past_the_end_are_refused():
    with pytest.raises(ReadoutError, match="'b' has 3:6"):
        attention_of(PATTERN, LABELS, (Word("a", Span(2, 5), 0.0, 0.0), Word("b", Span(3, 6), 0.0, 0.0)))
    with pytest.raises(ReadoutError, match="'c' has 38:41"):
        attention_of(PATTERN, LABELS, (Word("c", Span(38, 41), 0.0, 0.0),))


def test_groups_cover_every_position_once_and_bear_the_words():
    groups = attention_of(PATTERN, LABELS, WORDS).groups
    assert [position for group in groups for position in range(group.start, group.stop)] == list(range(40))
    assert {(group.text, group.start, group.stop) for group in groups} >= {(word.text, word.span.start, word.span.stop) for word in WORDS}


def test_by_word_sums_sources_and_averages_destinations():
    attention = attention_of(PATTERN, LABELS, WORDS)
    pooled = by_word(attention)
    np.testing.assert_allclose(pooled.pattern.sum(-1), 1, atol=1e-5)
    late, early = (next(n for n, group in enumerate(attention.groups) if group.start == WORDS[place].span.start) for place in (4, 1))
    rows, columns = slice(WORDS[4].span.start, WORDS[4].span.stop), slice(WORDS[1].span.start, WORDS[1].span.stop)
    np.testing.assert_allclose(pooled.pattern[2, late, early], PATTERN[2, rows, columns].sum(-1).mean(), rtol=1e-5)
    assert pooled.pattern[2, early, late] == 0
    assert pooled.labels[late] == WORDS[4].text


def test_a_cut_keeps_the_positions_of_its_spans_with_their_labels_and_words():
    part = cut(attention_of(PATTERN, LABELS, WORDS), [WORDS[3].span, Span(0, 2)])
    kept = [0, 1, *WORDS[3].span]
    np.testing.assert_array_equal(part.pattern, PATTERN[:, kept][:, :, kept])
    assert list(part.labels) == ["<speech>" if position == 0 else LABELS[position].strip("<>") for position in kept]
    assert [(group.text, group.start, group.stop) for group in part.groups][-1] == (WORDS[3].text, 2, 8)
    assert grouped_labels(part)[2] == f"{WORDS[3].text}: {part.labels[2]}"
    with pytest.raises(ReadoutError, match="spans within its 40 positions"):
        cut(attention_of(PATTERN, LABELS, WORDS), [Span(38, 41)])


def shown_by_circuitsvis(page):
    """The numbers and labels that the page hands to CircuitsVis."""
    call = page.html().rindex("CircuitsVis.render(")
    return json.loads(re.search(r"AttentionHeads,\s*(\{.*?\})\s*\)\s*</script>", page.html()[call:], re.DOTALL)[1])


def test_circuitsvis_is_given_rows_as_destinations_the_words_and_four_digits():
    props = shown_by_circuitsvis(attention_heads(PATTERN, LABELS, WORDS, ["0.0", "0.1", "1.0", "1.1"]))
    np.testing.assert_allclose(np.array(props["attention"]), PATTERN, atol=5.1e-5)
    assert props["tokens"][2] == f"{WORDS[0].text}: {LABELS[2].strip('<>')}"
    assert props["tokens"][3] == LABELS[3].strip("<>")
    assert props["attentionHeadNames"] == ["0.0", "0.1", "1.0", "1.1"]
    assert props["maskUpperTri"] is True


def test_circuitsvis_by_word_has_one_row_a_word():
    page = attention_by_word(PATTERN, LABELS, WORDS)
    groups = attention_of(PATTERN, LABELS, WORDS).groups
    assert shown_by_circuitsvis(page)["tokens"] == [group.text for group in groups]
    with pytest.raises(ReadoutError, match="needs words with their spans"):
        attention_by_word(PATTERN, LABELS, ())


def test_what_would_be_many_megabytes_of_text_is_refused():
    labels, words = spoken(512)
    pattern = np.broadcast_to(np.eye(512, dtype=np.float32), (8, 512, 512))
    with pytest.raises(ReadoutError, match="8 heads by 512 are 2,097,152. Choose heads or spans, or use attention_view"):
        attention_heads(pattern, labels, words)


def test_a_cut_says_how_much_of_the_attention_it_shows():
    page = attention_heads(PATTERN, LABELS, WORDS, spans=[word.span for word in WORDS[:3]])
    kept = [position for word in WORDS[:3] for position in word.span]
    share = PATTERN[:, kept][:, :, kept].sum(-1).mean()
    assert f"{share:.0%} falls on positions shown here" in page.html()
    assert "falls on positions" not in attention_heads(PATTERN, LABELS, WORDS).html()


def test_showing_a_figure_asks_nothing_of_a_network(monkeypatch):
    def refused(*_arguments, **_options):
        raise AssertionError("a figure asked for a network")

    monkeypatch.setattr(urllib.request, "urlopen", refused)
    monkeypatch.setattr("socket.socket.connect", refused)
    for page in (attention_heads(PATTERN, LABELS, WORDS), attention_view(PATTERN, LABELS, WORDS)):
        shown = page._repr_html_()
        assert shown.startswith("<iframe") and "unpkg.com" not in shown


def test_the_same_attention_gives_the_same_page(tmp_path):
    for make in (attention_heads, attention_view):
        one, other = make(PATTERN, LABELS, WORDS), make(PATTERN, LABELS, WORDS)
        assert one.html() == other.html()
        assert one.page(tmp_path / "attention.html").read_text(encoding="utf-8") == one.html()


def test_without_circuitsvis_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "circuitsvis", None)
    monkeypatch.setitem(sys.modules, "circuitsvis.attention", None)
    with pytest.raises(ImportError, match=r"circuitsvis is needed here.*slm-interp\[notebooks\]"):
        attention_heads(PATTERN, LABELS, WORDS)
