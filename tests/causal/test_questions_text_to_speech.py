"""From a text run into a speech run: exact on planted models, whose written and spoken words meet in one code."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slm_interp import hooked
from slm_interp.causal import Case, Words
from slm_interp.causal.questions.text_to_speech import TextToSpeech, text_to_speech
from slm_interp.errors import PatchingError
from slm_interp.model import SpeechTextModel
from slm_interp.patching import outcomes
from slm_interp.patching.interventions import Interchange
from slm_interp.patching.policies import last_unit
from slm_interp.patching.spans import SpanPair
from slm_interp.utterance import Contrast, Span
from tests.causal.asked import EXACT, heard, plain, planted, with_text
from tests.patching.conftest import contrast_of, prompt_of

FIRST = outcomes.logit_difference()
COARSE = 1e-2  # norms are matched: the constant that keeps the norm takes part


def asked(kind: str = "mediated", fraction: float | None = None, **options) -> TextToSpeech:
    model = planted(kind, fraction, n_contrasts=5)
    return text_to_speech(model.slm, [with_text(model, case) for case in heard(model, 3)], outcome=FIRST, **options)


@pytest.mark.parametrize(("kind", "fraction"), [("shadow", None), ("mediated", None), ("partial", 0.3)])
def test_a_written_word_says_what_the_spoken_one_would(kind: str, fraction: float | None) -> None:
    table = asked(kind, fraction, source_layers=[2, 3], layers=[2, 3]).table
    assert table["ceiling"].min() > 10
    assert table["other_word"].tolist() == pytest.approx(table["ceiling"].tolist(), abs=COARSE)
    assert table["same_word"].abs().max() < COARSE
    assert table["specific"].tolist() == pytest.approx((table["other_word"] - table["same_word"]).tolist())


def test_layers_that_do_not_meet_are_told_apart() -> None:
    """Text put in before the block that writes text stands there twice; after the block that reads it, it says nothing."""
    grid = {kind: asked(kind, source_layers=[0, 2], layers=[1, 2, 4]).grid("specific") for kind in ("mediated", "shadow")}
    ceiling = asked(source_layers=[2], layers=[2]).table["ceiling"].mean()
    assert grid["mediated"].loc[2, 1] == pytest.approx(2 * ceiling, rel=0.1)  # less what the last unit has among the text, once too often
    assert grid["shadow"].loc[2, 1] == pytest.approx(ceiling, abs=0.1)
    for kind in grid:
        assert grid[kind].loc[2, 4] == pytest.approx(0, abs=COARSE)
        assert grid[kind].loc[0, 2] == pytest.approx(0, abs=0.1 * ceiling)  # no word yet, but what a unit has among the text


def test_a_pair_of_layers_is_that_of_plain_hooks() -> None:
    model = planted("partial", 0.3, n_contrasts=5)
    case, outcome = with_text(model, heard(model)[0]), outcomes.difference()
    row = text_to_speech(model.slm, [case], [1], [3], outcome).table.iloc[0]
    lone = text_to_speech(model.slm, [case], [1], [3], outcome, last_unit).table.iloc[0]
    span, there = case.span.corrupted, hooked.residuals(model.slm.model, case.written.clean.tokens)[1, -1]
    here = hooked.residuals(model.slm.model, case.base.tokens)[3, span.start : span.stop]
    matched = there * here.norm(dim=-1, keepdim=True) / there.norm()
    for found, values, where in ((row, matched, span), (lone, there, [span.stop - 1])):
        hook = Interchange(values).hook("resid_post", 3, where)
        assert found["base"] + found["other_word"] == pytest.approx(plain(model.slm, case.base, case.contrast, outcome, [hook]), abs=EXACT)


def test_lengths_are_those_of_what_is_replaced(tiny_slm: SpeechTextModel) -> None:
    """On a model in which they differ; planted models keep all residuals about equally long."""
    clean, corrupted = (
        prompt_of(tiny_slm, {"the": [3, 7], word: units, "of": [0, 1]}, word)
        for word, units in (("capital", [11, 7, 5]), ("france", [2, 14]))
    )
    contrast = contrast_of(tiny_slm, clean, corrupted)
    written = Contrast(*(tiny_slm.text_prompt(f" the {word}") for word in ("capital", "france")), contrast.answer, contrast.distractor)
    spans, texts = (SpanPair("word", *(prompt.words[1].span for prompt in (one.clean, one.corrupted))) for one in (contrast, written))
    case = Case("tiny", contrast, Words("capital", "france"), spans, written=written, written_span=texts)
    row = text_to_speech(tiny_slm, [case], [2], [1], outcomes.difference()).table.iloc[0]
    there = hooked.residuals(tiny_slm.model, written.clean.tokens)[2, texts.clean.stop - 1]
    here = hooked.residuals(tiny_slm.model, corrupted.tokens)[1, list(spans.corrupted)]
    hook = Interchange(there * here.norm(dim=-1, keepdim=True) / there.norm()).hook("resid_post", 1, spans.corrupted)
    assert row["base"] + row["other_word"] == pytest.approx(plain(tiny_slm, corrupted, contrast, outcomes.difference(), [hook]), abs=1e-5)
    assert abs(float(there.norm() / here.norm(dim=-1).mean()) - 1) > 0.01


def test_the_last_piece_of_a_longer_stretch_is_taken() -> None:
    model = planted("mediated", None, n_contrasts=5)
    case = with_text(model, heard(model)[0])
    clean, corrupted = (Span(one.start - 1, one.stop) for one in (case.written_span.clean, case.written_span.corrupted))
    longer = replace(case, written_span=SpanPair("two pieces", clean, corrupted))
    found, wanted = (text_to_speech(model.slm, [one], [2], [2], FIRST).table["other_word"].item() for one in (longer, case))
    assert found == wanted > 10


def test_a_result_has_shares_and_is_saved(tmp_path) -> None:
    found = asked(source_layers=[2], layers=[2, 3])
    shares = found.shares(2, 3)
    assert float(shares["specific"].estimate) == pytest.approx(1, abs=1e-3)
    assert found.policy == "norm_matched(pooled)"
    found.save(tmp_path / "pairs.parquet")
    assert TextToSpeech.load(tmp_path / "pairs.parquet").table.equals(found.table)
    assert "source_layer" in found._repr_html_()
    with pytest.raises(PatchingError, match="other_word, same_word, specific; got 'whole'"):
        found.grid("whole")


def test_cases_without_text_prompts_are_refused() -> None:
    model = planted("mediated", None, n_contrasts=5)
    with pytest.raises(PatchingError, match="'heard 0' has none"):
        text_to_speech(model.slm, heard(model, 2))
