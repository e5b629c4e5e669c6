"""One test in several models: verdicts side by side, and what they differ by."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from slm_interp import causal
from slm_interp.causal.across import ALL, Across
from slm_interp.causal.effect import Effect
from slm_interp.errors import PatchingError, StatisticsError
from slm_interp.plots.causal_models import forest
from tests.synthetic_causal import effect

SHARES = {"driven": 1.0, "shadowed": 0.0, "silent": 0.0}
BASIS = "logit"


@pytest.fixture(scope="module")
def effects() -> dict[str, Effect]:
    return {name: effect(share, ceiling=0.0 if name == "silent" else 2.0) for name, share in SHARES.items()}


@pytest.fixture(scope="module")
def found(effects: dict[str, Effect]) -> Across:
    return causal.across(effects)


def test_every_model_has_the_verdict_that_it_has_alone(found: Across, effects: dict[str, Effect]) -> None:
    assert found.models == tuple(SHARES)
    for name, own in effects.items():
        lines = found.table[found.table["model"] == name].set_index("basis")
        alone = own.verdict(BASIS)
        assert (lines.loc[BASIS, "verdict"], lines.loc[BASIS, "line"], lines.loc[ALL, "verdict"]) == (
            alone.word,
            alone.line,
            own.verdict().word,
        )
        assert lines.loc[BASIS, "ceiling"] == float(alone.ceiling.estimate)
        if alone.shares:
            assert lines.loc[BASIS, "direct"] + lines.loc[BASIS, "later"] == pytest.approx(lines.loc[BASIS, "text"])
            assert lines.loc[BASIS, "direct"] == pytest.approx(0, abs=0.02)  # none was made up
            assert lines.loc[BASIS, "text_low"] == float(alone.shares["text"].low)
    silent = found.table.set_index(["model", "basis"]).loc[("silent", BASIS)]
    assert silent["line"] == 1 and silent[["text", "complement"]].isna().all()


def test_models_differ_by_what_was_planted_and_a_model_from_itself_by_nothing(found: Across, effects: dict[str, Effect]) -> None:
    share = found.difference("driven", "shadowed", BASIS)
    assert 0.9 < share.low < float(share.estimate) < share.high < 1.1
    specific = {name: effects[name].measured(BASIS).columns["specific"].mean() for name in ("driven", "shadowed")}
    apart = found.difference("shadowed", "driven", BASIS, "specific", "nats")
    assert float(apart.estimate) == pytest.approx(specific["shadowed"] - specific["driven"]) and apart.high < -0.5
    whole = {name: own.measured(BASIS).whole.mean() for name, own in effects.items()}
    assert float(found.difference("driven", "silent", BASIS, "whole", "nats").estimate) == pytest.approx(whole["driven"] - whole["silent"])
    same = found.difference("driven", "driven", BASIS, "text", "nats")  # the same clusters are drawn for both
    assert (float(same.estimate), float(same.low), float(same.high)) == (0.0, 0.0, 0.0)


def test_parts_of_texts_share_are_of_the_cases_that_the_verdict_is_about() -> None:
    """Where a case lacks a control that most have, the verdict leaves it out, and so do the parts."""
    whole = effect(0.6)
    lacking = whole.table["case"].isin([f"case {number}" for number in range(1, 20)]) & (whole.table["arm"] == "elsewhere")
    larger = whole.table["effect"].where(
        ~whole.table["case"].isin([f"case {number}" for number in range(1, 20)]), 5 * whole.table["effect"]
    )
    some = replace(whole, table=whole.table.assign(effect=larger)[~lacking])
    row = causal.across({"some": some}).table.set_index("basis").loc[BASIS]
    assert row["cases"] == 14
    assert row["direct"] + row["later"] == pytest.approx(row["text"])


def test_models_that_were_asked_other_cases_are_drawn_apart(effects: dict[str, Effect]) -> None:
    own = effects["driven"]
    assert own.random is not None
    few = list(own.table["case"].unique()[:-6])
    table, reading = (one[one["case"].isin(few)] for one in (own.table.drop(columns="half"), own.reading))
    fewer = Effect.of(table, reading, own.about, own.random.sel(case=few))
    apart = causal.across({"all": effects["driven"], "some": fewer}).difference("all", "some", BASIS, "whole", "nats")
    assert apart.low < 0 < apart.high


def test_what_cannot_be_compared_is_refused_in_a_sentence(found: Across, as_users_run_it: None) -> None:
    with pytest.raises(StatisticsError, match="not told from 0 in 'silent'"):
        found.difference("driven", "silent", BASIS)
    with pytest.raises(PatchingError, match="got 'nobody' by"):
        found.difference("driven", "nobody", BASIS)
    with pytest.raises(PatchingError, match="was measured by whole, text.*got 'spelling'"):
        found.difference("driven", "shadowed", BASIS, "spelling")
    with pytest.raises(PatchingError, match="in 'share' or 'nats'; got 'bits'"):
        found.difference("driven", "shadowed", BASIS, unit="bits")  # type: ignore[arg-type]
    with pytest.raises(PatchingError, match="effects of one test or more"):
        causal.across({})


def test_the_forest_has_a_mark_for_every_share_and_the_words_beside(found: Across) -> None:
    figure = found.plot()
    text = next(trace for trace in figure.data if trace.name == "text swap")
    single = found.table[found.table["basis"] != ALL]
    assert np.allclose(np.array(text.x, float), single["text"].to_numpy(float), equal_nan=True)
    assert [one.text for one in figure.layout.annotations][-len(single) :] == single["verdict"].tolist()
    assert "driven" in found._repr_html_()
    with pytest.raises(PatchingError, match="this one lacks model, basis"):
        forest(found.table[["verdict"]])
