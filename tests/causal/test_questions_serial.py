"""Serial mediation: exact on planted models whose next word is the only way, identities, and plain hooks."""

from __future__ import annotations

import pytest
import torch

from slm_interp import hooked
from slm_interp.causal.questions.serial import EFFECTS, Serial, Steps, left_out, serial_mediation, steps_of
from slm_interp.errors import PatchingError, StatisticsError
from slm_interp.lenses.logit import LogitLens
from slm_interp.patching import outcomes
from slm_interp.patching.engine import Grid, Patch, patched, ran
from slm_interp.patching.interventions import CopyCoordinates, SwapCoordinates
from slm_interp.patching.places import hooks_of, standing
from tests.causal.asked import EXACT, Coded, TextThenFollowing, heard, plain, planted, said

FIRST = outcomes.logit_difference()


def asked(kind: str, fraction: float | None = None, count: int = 5) -> tuple:
    model = planted(kind, fraction, n_contrasts=count)
    return model, steps_of(heard(model, count), said(model, count))[:3]


@pytest.mark.parametrize(("kind", "fraction"), [("mediated", None), ("partial", 0.3)])
def test_the_text_of_the_heard_word_acts_by_way_of_the_next_word_where_that_is_the_only_way(kind: str, fraction: float | None) -> None:
    model, steps = asked(kind, fraction)
    found = serial_mediation(model.slm, steps, TextThenFollowing(model), [2], [4], FIRST).rows("current first", 2, "4")
    assert found["total"].tolist() == pytest.approx((model.truth.text * found["ceiling"]).tolist(), abs=EXACT)
    assert found["ceiling"].min() > 10
    assert found["direct"].abs().max() < EXACT
    assert found["alone"].tolist() == pytest.approx(found["total"].tolist(), abs=EXACT)
    assert found["random"].abs().max() < 0.2 * found["total"].min()


@pytest.mark.parametrize(
    ("kind", "fraction"), [("serial", None), ("parallel", None), ("skipped", None), ("silent", None), ("branching", 0.3)]
)
def test_the_order_of_the_phases_is_the_planted_one(kind: str, fraction: float | None) -> None:
    """By the logit lens alone, both words' text is there in all of these models."""
    model, steps = asked(kind, fraction)
    layer, (first, last) = model.layers[0], model.next_layers
    found = serial_mediation(model.slm, steps[:2], LogitLens(model.slm), [layer, first], [first, last], FIRST, draws=1)
    forward, back = found.rows("current first", layer, str(last)), found.rows("next first", first, str(last))
    ceiling = forward["ceiling"].to_numpy()
    assert ceiling.min() > 5
    for column, share in (("total", model.chain.current), ("direct", model.chain.around), ("through", model.chain.through)):
        assert (forward[column].to_numpy() / ceiling).tolist() == pytest.approx([share] * 2, abs=1e-4)
    assert (forward["alone"].to_numpy() / ceiling).tolist() == pytest.approx([model.chain.through] * 2, abs=1e-4)
    assert (back["total"].to_numpy() / ceiling).tolist() == pytest.approx([model.chain.units] * 2, abs=1e-4)


def test_nothing_goes_by_way_of_a_word_s_text_where_nobody_reads_it() -> None:
    """In these models the next word is not written as text: holding its text holds nothing."""
    model, steps = asked("mediated")
    found = serial_mediation(model.slm, steps, LogitLens(model.slm), [2, 3], [4], FIRST, draws=1)
    rows = found.table[(found.table["order"] == "current first") & (found.table["held"] == "4")]
    assert rows["total"].min() > 10
    assert rows[["through", "alone"]].abs().max().max() < EXACT


def test_in_the_reverse_order_nothing_goes_back_through_the_heard_word() -> None:
    model, steps = asked("mediated")
    found = serial_mediation(model.slm, steps, Coded(model, "following"), [4], [5], FIRST, draws=1).rows("next first", 4, "5")
    assert found["total"].tolist() == pytest.approx(found["ceiling"].tolist(), abs=EXACT)
    assert found[["through", "alone"]].abs().max().max() < EXACT


def test_a_shadow_has_no_total_effect_and_so_no_shares() -> None:
    model, steps = asked("shadow")
    found = serial_mediation(model.slm, steps, TextThenFollowing(model), [2], [4], FIRST, draws=1)
    assert found.means()["total"].estimate == pytest.approx(0, abs=EXACT)
    with pytest.raises(StatisticsError, match=r"'total' is .*not told from 0"):
        found.shares()


def test_shares_are_of_the_ceiling_and_of_the_total() -> None:
    model, steps = asked("partial", 0.3)
    found = serial_mediation(model.slm, steps, TextThenFollowing(model), [2], [4], FIRST, draws=1).shares()
    assert float(found["total"].estimate) == pytest.approx(0.3, abs=1e-4)
    assert float(found["total"].low) <= 0.3 + 1e-4
    assert float(found["direct"].estimate) == pytest.approx(0, abs=1e-4)
    assert float(found["through"].estimate) == pytest.approx(1, abs=1e-4)


def test_one_hold_is_that_of_an_edit_of_a_single_layer_by_the_engine() -> None:
    """The whole stream of the swapped run at the held layer, with the hold worked out beside it, put into the base run there."""
    model, steps = asked("partial", 0.3)
    basis, one, outcome = TextThenFollowing(model), steps[0], outcomes.difference(units=1)
    found = serial_mediation(model.slm, [one], basis, [2], [3, 4], outcome, draws=1).rows("current first", 2, "4")
    case, words, span = one.heard, one.said.words, one.heard.span.corrupted
    base = ran(model.slm, case.base, case.contrast, outcome, hooks_of("resid_post", [2, 4]))
    there = standing(base.kept.at, "resid_post", [2, 4], None)[:, 0]
    swap = SwapCoordinates(*basis.pairs(2, case.words.clean, case.words.corrupted)).hook("resid_post", 2, span)
    kept: list[torch.Tensor] = []
    with torch.no_grad():
        model.slm.model.run_with_hooks(
            case.base.tokens[None],
            fwd_hooks=[swap, (hooked.hook_at("resid_post", 4), lambda value, hook: kept.append(value))],
            prepend_bos=False,
        )
    end = one.said.span.corrupted
    hold = CopyCoordinates(torch.cat(basis.pairs(4, words.clean, words.corrupted)), there[1, end.start : end.stop])
    values = hold(kept[0], end)
    patch = Patch(torch.arange(len(case.base)), values[None])
    by_engine = float(patched(model.slm, base, [patch], there[None, 1:], Grid("resid_post", [4], None), outcome))
    assert float(found["direct"].iloc[0] + found["base"].iloc[0]) == pytest.approx(by_engine, abs=EXACT)


def test_whole_words_are_those_of_plain_hooks() -> None:
    model, steps = asked("partial", 0.3)
    basis, one, outcome = TextThenFollowing(model), steps[1], outcomes.difference()
    row = serial_mediation(model.slm, [one], basis, [2], [4], outcome, draws=1).rows("current first", 2, "4").iloc[0]
    case, end = one.heard, one.said.span.corrupted
    own = hooked.residuals(model.slm.model, case.base.tokens)[4, end.start : end.stop]
    swap = SwapCoordinates(*basis.directions(2, [case.words.clean, case.words.corrupted])).hook("resid_post", 2, case.span.corrupted)
    hold = CopyCoordinates(basis.directions(4, [one.said.words.clean, one.said.words.corrupted]), own).hook("resid_post", 4, end)
    base, swapped, both = (plain(model.slm, case.base, case.contrast, outcome, hooks) for hooks in ([], [swap], [swap, hold]))
    assert row["total"] == pytest.approx(swapped - base, abs=EXACT)
    assert row["direct"] == pytest.approx(both - base, abs=EXACT)
    assert abs(row["direct"]) > 0.5  # the second unit looks back at the word itself: not held


def test_steps_are_of_one_contrast_and_of_other_words() -> None:
    model, steps = asked("mediated")
    with pytest.raises(PatchingError, match="of one contrast"):
        Steps(steps[0].heard, steps[1].said)
    with pytest.raises(PatchingError, match="shares one of them"):
        Steps(steps[0].heard, steps[0].heard)
    with pytest.raises(PatchingError, match="has the prompts"):
        steps_of([steps[0].heard], [steps[1].said])
    assert left_out(heard(model, 5), said(model, 5))["heard 2"] == "'falcon' is heard and said next"
    with pytest.raises(PatchingError, match="held above the swap"):
        serial_mediation(model.slm, steps, LogitLens(model.slm), [4], [3, 4])


def test_a_result_is_saved_shown_and_read_again(tmp_path) -> None:
    model, steps = asked("mediated")
    found = serial_mediation(model.slm, steps, TextThenFollowing(model), [2], [4], FIRST, draws=1)
    found.save(tmp_path / "serial.parquet")
    again = Serial.load(tmp_path / "serial.parquet")
    assert again.table.equals(found.table)
    assert again.outcome == found.outcome
    assert "through" in found._repr_html_()
    assert set(EFFECTS) <= set(found.table.columns)
