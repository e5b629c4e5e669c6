"""Read-out knockout: exact where one head of one block reads one position, identities, and plain hooks."""

from __future__ import annotations

import pytest
import torch

from slm_interp.causal.questions.decoded_cells import Cells, development_half, peak_cells
from slm_interp.causal.questions.knockout import Knockout, by_head, knocked, knockout
from slm_interp.causal.questions.running import Bench
from slm_interp.errors import PatchingError
from slm_interp.lenses.logit import LogitLens
from slm_interp.model import SpeechTextModel
from slm_interp.patching import outcomes
from slm_interp.utterance import Contrast, Span
from tests.causal.asked import EXACT, heard, plain, planted
from tests.patching.conftest import contrast_of, prompt_of

FIRST = outcomes.logit_difference()
HOWS = pytest.mark.parametrize("how", ["renormalised", "zeroed"])


def asked(kind: str = "mediated", fraction: float | None = None) -> tuple:
    model = planted(kind, fraction, n_contrasts=5)
    cases = heard(model, 5)
    return model, cases, peak_cells(model.slm, cases[:2], LogitLens(model.slm), 3)


def test_the_word_is_decoded_best_at_its_last_unit_once_its_text_is_written() -> None:
    _, _, cells = asked()
    assert sorted(cells.chosen) == [(-1, 2), (-1, 3), (-1, 4)]
    assert cells.table.set_index(["place", "layer"])["margin"][(-2, 3)] < 0.01 * cells.table["margin"].max()
    assert "Decoded cells" in cells._repr_html_()


@HOWS
@pytest.mark.parametrize(("kind", "fraction"), [("shadow", None), ("mediated", None), ("partial", 0.3)])
def test_a_cut_of_the_decoded_cells_takes_everything_whatever_form_is_read_there(how: str, kind: str, fraction: float | None) -> None:
    model, cases, cells = asked(kind, fraction)
    found = knockout(model.slm, cases[2:4], cells, how, FIRST).table.set_index(["case", "arm"])
    for case in cases[2:4]:
        rows = found.loc[case.name]
        assert rows["ceiling"].min() > 10
        assert rows.loc["peak", "lost"] == pytest.approx(rows.loc["peak", "ceiling"], abs=EXACT)
        assert rows.loc["span", "lost"] == pytest.approx(rows.loc["peak", "ceiling"], abs=EXACT)
        assert rows.loc["rest", "lost"] == pytest.approx(0, abs=EXACT)
        assert rows.loc["matched", "lost"] == pytest.approx(0, abs=EXACT)
        assert rows.loc["matched", "cells"] == rows.loc["peak", "cells"] == 3


def test_units_of_the_continuation_are_kept_from_looking_too() -> None:
    """The second unit of the next word is read from the word anew, from the position of the first."""
    model, cases, cells = asked()
    row = knockout(model.slm, cases[2:3], cells, outcome=outcomes.difference()).table.set_index("arm").loc["peak"]
    first = knockout(model.slm, cases[2:3], cells).table.set_index("arm").loc["peak"]
    assert row["ceiling"] > first["ceiling"] + 10
    assert row["lost"] == pytest.approx(row["ceiling"], abs=EXACT)


def test_the_block_that_reads_is_the_one_after_the_layer() -> None:
    model, cases, cells = asked()
    for layer, lost in ((2, 0.0), (3, 1.0), (4, 0.0)):
        table = cells.table.assign(chosen=(cells.table["place"] == -1) & (cells.table["layer"] == layer))
        row = knockout(model.slm, cases[2:3], Cells(table, "logit"), outcome=FIRST).table.set_index("arm").loc["peak"]
        assert row["lost"] / row["ceiling"] == pytest.approx(lost, abs=EXACT)


def test_one_head_reads_at_the_cue_and_nobody_else_loses() -> None:
    model, cases, cells = asked()
    found = by_head(model.slm, cases[2:3], cells, outcome=FIRST).set_index(["block", "head"])
    assert found.loc[(3, 0), "lost"] == pytest.approx(found.loc[(3, 0), "ceiling"], abs=EXACT)
    others = found.drop(index=(3, 0))
    assert len(others) == 5
    assert others["lost"].abs().max() < EXACT
    assert found.loc[(3, 0), "mass"] == pytest.approx(1 / 4, abs=1e-3)  # one of four later positions is the cue


@HOWS
def test_blocking_nothing_changes_nothing(how: str) -> None:
    model, cases, _ = asked()
    bench = Bench(model.slm, cases[0].base, cases[0].contrast, FIRST)
    for places in ({}, {3: []}):
        assert knocked(model.slm, places, [8, 9], how) == []
    assert bench.value(knocked(model.slm, {3: [4]}, [5], how, {})) == bench.own.value


@pytest.fixture
def tiny_contrast(tiny_slm: SpeechTextModel) -> Contrast:
    texts = {
        "clean": {"the": [3, 7], "capital": [11, 7, 5], "of": [0, 1]},
        "corrupted": {"the": [3, 8], "france": [2, 14, 5], "of": [0, 1]},
    }
    return contrast_of(tiny_slm, *(prompt_of(tiny_slm, words, name) for name, words in texts.items()))


@HOWS
def test_a_cut_is_that_of_plain_hooks_on_a_model_with_shared_keys(tiny_slm: SpeechTextModel, tiny_contrast: Contrast, how: str) -> None:
    """The last unit of the word, hidden in block 1 from all that follows, the continuation's units included."""
    span, outcome = tiny_contrast.clean.words[1].span, outcomes.difference()
    value, name = {"renormalised": (-torch.inf, "attn.hook_attn_scores"), "zeroed": (0.0, "attn.hook_pattern")}[how]

    def hide(activation: torch.Tensor, hook: object) -> torch.Tensor:
        activation = activation.clone()
        activation[:, :, span.stop :, span.stop - 1] = value
        return activation

    bench = Bench(tiny_slm, tiny_contrast.clean, tiny_contrast, outcome)
    found = bench.value(knocked(tiny_slm, {1: [span.stop - 1]}, list(range(span.stop, bench.length)), how))
    assert found == pytest.approx(plain(tiny_slm, tiny_contrast.clean, tiny_contrast, outcome, [(f"blocks.1.{name}", hide)]), abs=1e-5)
    assert found != pytest.approx(bench.own.value, abs=1e-5)


def test_short_words_lack_the_first_places() -> None:
    _, _, cells = asked()
    table = cells.table.assign(
        chosen=[place == -2 and layer == 3 for place, layer in zip(cells.table["place"], cells.table["layer"], strict=True)]
    )
    assert Cells(table, "logit").within(Span(4, 6)) == {3: [4]}
    assert Cells(table, "logit").within(Span(4, 5)) == {}


def test_halves_share_no_pair_of_words() -> None:
    model = planted("mediated", n_contrasts=16)
    one, other = development_half(heard(model, 16))
    assert len(one) + len(other) == 16
    assert not {case.word for case in one} & {case.word for case in other}


def test_shares_and_files(tmp_path) -> None:
    model, cases, cells = asked()
    found = knockout(model.slm, cases[2:], cells, outcome=FIRST)
    shares = found.shares().set_index("arm")
    assert shares.loc["peak", "lost"] == pytest.approx(1, abs=1e-5)
    assert shares.loc["peak", "low"] == pytest.approx(1, abs=1e-5)
    found.save(tmp_path / "knockout.parquet")
    assert Knockout.load(tmp_path / "knockout.parquet").table.equals(found.table)
    assert "renormalised" in found._repr_html_()


@pytest.mark.usefixtures("as_users_run_it")
def test_what_cannot_be_cut_is_refused() -> None:
    model, cases, cells = asked()
    with pytest.raises(PatchingError, match="0 to 4, which a block reads"):
        peak_cells(model.slm, cases, LogitLens(model.slm), 1, [5])
    with pytest.raises(PatchingError, match="have 10 cells"):
        peak_cells(model.slm, cases[:1], LogitLens(model.slm), 11)
    with pytest.raises(PatchingError, match="'renormalised' after a cut, or 'zeroed'"):
        knockout(model.slm, cases[:1], cells, "removed")
