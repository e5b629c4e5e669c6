"""Speaking out: flips and slopes that are known, on tables made up and on planted models."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from slm_interp import causal
from slm_interp.causal.questions.speaking_out import SpeakingOut, slope_of, speaking_out
from slm_interp.errors import PatchingError, StatisticsError
from slm_interp.lenses.logit import LogitLens
from slm_interp.patching import outcomes
from tests import synthetic_causal
from tests.causal.asked import EXACT, Coded, heard, planted, said


def made_up(effect: np.ndarray, margin: np.ndarray, base: float = -4.0, source: float = 4.0) -> SpeakingOut:
    n = len(effect)
    table = pd.DataFrame(
        {
            "case": [str(one) for one in range(n)],
            "prompt": [str(one % 5) for one in range(n)],
            "word": [str(one % 8) for one in range(n)],
            "basis": "logit",
            "layer": 3,
            "arm": "text",
            "dose": 1.0,
            "outcome": "difference",
            "base": base,
            "source": source,
            "value": base + effect,
            "effect": effect,
        }
    )
    return SpeakingOut(table, pd.DataFrame({"case": table["case"], "basis": "logit", "layer": 3, "margin": margin}))


def test_a_flip_is_a_change_of_sign_and_not_a_large_effect() -> None:
    found = made_up(np.array([5.0, 3.0, 4.5, -9.0] * 10), np.arange(40.0)).flips().iloc[0]
    assert found["flips"] == 0.5
    assert 0.05 < found["low"] < 0.5 < found["high"] < 0.95
    assert found["cases"] == 40


def test_cases_that_cannot_flip_are_not_counted() -> None:
    own = made_up(np.full(10, 5.0), np.arange(10.0))
    table = own.table.assign(source=np.where(np.arange(10) < 8, 4.0, -1.0))
    assert replace(own, table=table).flips().iloc[0][["cases", "of"]].tolist() == [8, 10]
    with pytest.raises(PatchingError, match="None of 10 cases has prompts with outcomes of two signs"):
        made_up(np.full(10, 5.0), np.arange(10.0), source=-1.0).flips()


def test_the_slope_is_that_of_least_squares_and_its_interval_covers_it() -> None:
    margin = np.random.default_rng(0).normal(size=120)
    effect = 0.7 * margin + 0.3 * np.random.default_rng(1).normal(size=120)
    found = made_up(effect, margin).slope()
    assert float(found.estimate) == pytest.approx(np.polyfit(margin, effect, 1)[0])
    assert found.low < 0.7 < found.high
    assert found.high - found.low < 0.4


def test_weights_of_a_slope_are_copies_of_items() -> None:
    values = np.random.default_rng(0).normal(size=(5, 2))
    times = [3, 0, 1, 2, 1]
    weighed = slope_of(values, np.array([times], dtype=float))
    assert weighed[0] == pytest.approx(np.polyfit(*np.repeat(values, times, 0).T, 1)[0])


def test_margins_that_do_not_vary_have_no_slope() -> None:
    with pytest.raises(StatisticsError, match="same margin"):
        made_up(np.arange(10.0), np.full(10, 2.0)).slope()


def test_rows_that_are_not_there_are_refused_and_several_are_not_mixed() -> None:
    own = made_up(np.arange(40.0), np.arange(40.0))
    with pytest.raises(PatchingError, match="arm = 'erased'; there are: 'text'"):
        own.slope(of="erased")
    twice = replace(own, table=pd.concat([own.table, own.table.assign(outcome="other")]))
    with pytest.raises(PatchingError, match="more than one outcome"):
        twice.slope()
    assert float(twice.slope(outcome="other").estimate) == pytest.approx(1.0)
    with pytest.raises(PatchingError, match="no prompt"):
        SpeakingOut(own.table.drop(columns="prompt"), own.reading)


@pytest.mark.parametrize(("kind", "flips"), [("shadow", 0.0), ("mediated", 1.0)])
def test_a_swap_of_the_heard_word_turns_every_sign_or_none(kind: str, flips: float) -> None:
    model = planted(kind, n_contrasts=5)
    effect = causal.run(model.slm, heard(model), LogitLens(model.slm), layers=[2, 3], arms=["text", "complement"])
    found = speaking_out(effect)
    shown = found.flips(layer=3, outcome=effect.outcomes[0]).set_index("arm")["flips"]
    assert shown.to_dict() == {"whole": 1.0, "text": flips, "complement": 1.0 - flips}
    assert (found.reading["margin"] > 0).all()
    assert "flips" in found._repr_html_()


def test_what_is_said_next_turns_with_its_own_code_and_not_with_text_that_nobody_wrote() -> None:
    model, outcome = planted("mediated", n_contrasts=5), outcomes.logit_difference()
    coded, lens = (
        speaking_out(causal.run(model.slm, said(model), basis, layers=[4], arms=["text"], outcome=outcome))
        for basis in (Coded(model, "following"), LogitLens(model.slm))
    )
    rows = coded.rows("text", 4)
    assert rows["effect"].tolist() == pytest.approx((rows["source"] - rows["base"]).tolist(), abs=EXACT)
    there = lens.rows("text", 4)  # the last block over, text reaches the units' columns of W_U themselves, a little
    assert (there["effect"].abs() < 0.01 * (there["source"] - there["base"])).all()


def test_the_band_of_a_basis_is_not_mixed_with_that_of_whole_residuals() -> None:
    found = speaking_out(synthetic_causal.effect(share=0.3, bases=("logit", "tuned")))
    rows = found.rows("band", 3, "tuned")
    assert set(rows["basis"]) == {"tuned"} and rows["case"].is_unique
    assert rows["effect"].mean() < 0.5 * found.rows("whole", 3, "tuned")["effect"].mean()


def test_a_result_is_saved_and_read_again(tmp_path) -> None:
    own = made_up(np.arange(10.0), np.arange(10.0))
    own.save(tmp_path)
    assert SpeakingOut.load(tmp_path).table.equals(own.table)
    with pytest.raises(PatchingError, match="no saved result"):
        SpeakingOut.load(tmp_path / "none")
