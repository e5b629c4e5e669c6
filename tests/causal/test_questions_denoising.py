"""Text-only denoising: exact where text is the only way, identities, plain hooks, and what it cannot tell."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from slm_interp import hooked
from slm_interp.causal.questions.denoising import Denoised, denoising, other_units, other_word, spoilt
from slm_interp.errors import PatchingError
from slm_interp.lenses.logit import LogitLens
from slm_interp.patching import outcomes
from slm_interp.patching.interventions import CopyCoordinates
from slm_interp.patching.spans import SpanPair
from slm_interp.utterance import Span
from tests.causal.asked import EXACT, heard, plain, planted

FIRST = outcomes.logit_difference()
KINDS = [("shadow", None), ("mediated", None), ("partial", 0.3)]


def new_onset(slm, case, generator):
    """The first unit becomes a carrier, so that no word is heard; the last one, at which attention looks, stays."""
    units = case.source.tokens[case.span.clean.start : case.span.clean.stop].clone()
    units[0] = case.source.tokens[1]
    return units


def asked(kind: str, fraction: float | None, spoil, **options) -> tuple[Denoised, float]:
    model = planted(kind, fraction, n_contrasts=5)
    found = denoising(model.slm, heard(model, 3), LogitLens(model.slm), model.lexicon.words, [2, 3], spoil, FIRST, **options)
    return found, model.truth.text


@pytest.mark.parametrize("spoil", [new_onset, other_word])
def test_text_alone_brings_back_the_planted_fraction_of_what_text_carries_and_the_complement_the_rest(spoil) -> None:
    """The coda's own embedding is among the text where no word is heard, so text and secret have ceilings of their own there."""
    tables = {kind: asked(kind, fraction, spoil)[0].table for kind, fraction in KINDS}
    wide = {kind: table.pivot(index=["case", "layer"], columns="arm", values="effect") for kind, table in tables.items()}
    ceiling = {kind: table.groupby(["case", "layer"])["ceiling"].first() for kind, table in tables.items()}
    for kind, text in (("shadow", 0.0), ("mediated", 1.0), ("partial", 0.3)):
        assert ceiling[kind].min() > 5
        assert wide[kind]["whole"].tolist() == pytest.approx(ceiling[kind].tolist(), abs=EXACT)
        assert wide[kind]["text"].tolist() == pytest.approx((text * ceiling["mediated"]).tolist(), abs=EXACT)
        assert wide[kind]["complement"].tolist() == pytest.approx(((1 - text) * ceiling["shadow"]).tolist(), abs=EXACT)
    assert tables["mediated"]["rank"].eq(16).all()
    assert (tables["mediated"]["read"] > 0).all()
    assert (tables["mediated"]["spoilt"] < 0).all()


def test_where_the_last_unit_is_replaced_text_alone_is_not_found_though_it_is_the_only_way() -> None:
    """Attention looks for the unit, not for the text; the complement has the unit, and what carriers have among the text."""

    def carriers(slm, case, generator):
        return case.source.tokens[[1, 2]]

    found, _ = asked("mediated", None, carriers)
    wide = found.table.pivot(index=["case", "layer"], columns="arm", values="effect")
    assert wide["whole"].min() > 5
    assert wide["text"].abs().max() < EXACT
    assert (wide["complement"] < 0.5 * wide["whole"]).all()


def test_a_restored_run_is_that_of_plain_hooks() -> None:
    model = planted("partial", 0.3, n_contrasts=5)
    case, lens, outcome = heard(model)[0], LogitLens(model.slm), outcomes.difference()
    found = denoising(model.slm, [case], lens, model.lexicon.words, [2], new_onset, outcome).table.set_index("arm")
    prompt, span = spoilt(case, new_onset(model.slm, case, torch.Generator())), case.span.clean
    own = hooked.residuals(model.slm.model, case.source.tokens)[2, span.start : span.stop]
    copied = CopyCoordinates(lens.directions(2, model.lexicon.words), own).hook("resid_post", 2, span)
    assert found.loc["text", "value"] == pytest.approx(plain(model.slm, prompt, case.contrast, outcome, [copied]), abs=EXACT)
    assert found.loc["text", "base"] == pytest.approx(plain(model.slm, prompt, case.contrast, outcome, []), abs=EXACT)
    assert found.loc["whole", "value"] == pytest.approx(found.loc["whole", "source"], abs=0.01)


def test_random_units_are_others_and_never_repeat_their_neighbours() -> None:
    model = planted("mediated", n_contrasts=5)
    case, generator = heard(model)[0], torch.Generator().manual_seed(0)
    speech = model.slm.vocabulary.mask("speech")
    for _ in range(50):
        prompt = spoilt(case, other_units(model.slm, case, generator))
        assert (prompt.tokens[1:] != prompt.tokens[:-1]).all()
        there = slice(case.span.clean.start, case.span.clean.stop)
        assert (prompt.tokens[there] != case.source.tokens[there]).all()
        assert speech[prompt.tokens[there]].all()


def test_a_word_that_is_read_all_the_same_or_never_was_is_left_out_and_named() -> None:
    model = planted("mediated", n_contrasts=5)
    cases = heard(model, 2)
    wrong = replace(cases[1], words=replace(cases[1].words, clean=cases[1].words.corrupted, corrupted=cases[1].words.clean), name="other")
    found = denoising(model.slm, [cases[0], wrong], LogitLens(model.slm), model.lexicon.words, [3], new_onset)
    assert list(found.left_out) == ["other"]
    assert "is not what 'logit' reads" in found.left_out["other"]

    def off_the_word(slm, case, generator):
        units = case.source.tokens[list(case.span.clean)].clone()
        units[-1] = case.source.tokens[1]
        return units

    longer = replace(
        cases[0], span=SpanPair("more", *(Span(one.start, one.stop + 1) for one in (cases[0].span.clean, cases[0].span.corrupted)))
    )
    with pytest.raises(PatchingError, match="is still read, or a unit follows itself, in every one of 3 spoilt prompts"):
        denoising(model.slm, [longer], LogitLens(model.slm), model.lexicon.words, [3], off_the_word, tries=3)

    def twice_the_same(slm, case, generator):
        return case.source.tokens[[1, 1]]

    with pytest.raises(PatchingError, match="or a unit follows itself"):
        denoising(model.slm, cases[:1], LogitLens(model.slm), model.lexicon.words, [3], twice_the_same)

    def itself(slm, case, generator):
        return case.source.tokens[list(case.span.clean)]

    with pytest.raises(PatchingError, match="replaced by as many others"):
        denoising(model.slm, cases, LogitLens(model.slm), model.lexicon.words, [3], itself)
    with pytest.raises(PatchingError, match="No case could be spoilt"):
        denoising(model.slm, [wrong], LogitLens(model.slm), model.lexicon.words, [3], new_onset)


def test_a_result_has_shares_and_is_saved(tmp_path) -> None:
    found, _ = asked("partial", 0.3, other_word)
    shares = found.shares(layer=3)
    assert float(shares["text"].estimate) == pytest.approx(0.3, abs=1e-4)
    assert float(shares["complement"].estimate) == pytest.approx(0.7, abs=1e-4)
    with pytest.raises(PatchingError, match="choose one with layer="):
        found.shares()
    found.save(tmp_path / "denoised.parquet")
    assert Denoised.load(tmp_path / "denoised.parquet").table.equals(found.table)
    assert "Text-only denoising" in found._repr_html_()
