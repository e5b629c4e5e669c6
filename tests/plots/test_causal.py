"""Pictures of causal effects say the shares that the tables hold, with their intervals, and refuse what they cannot draw."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from slm_interp.errors import PatchingError
from slm_interp.plots.causal import controls, doses, effects_by_layer, profile
from slm_interp.plots.causal_answers import confusion, judges_of, serial_order, shares_table
from slm_interp.plots.causal_data import ARMS, interval, told_apart
from slm_interp.plots.causal_random import percentile, random_directions
from slm_interp.statistics import Interval, bootstrap, ratio_of_means
from tests import synthetic_causal as made

TABLE = made.effects()
RANDOM = made.random_draws(TABLE)
READING = made.heard(TABLE)
REPORT = TABLE[TABLE["half"] == "report"]


def rows(arm, layer, table=REPORT, dose=1.0):
    return table[(table["arm"] == arm) & (table["layer"] == layer) & (table["dose"] == dose)]


def trace(figure, name):
    (found,) = [one for one in figure.data if one.name == name]
    return found


# -- by layer ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arm", ["whole", "text", "complement", "third", "elsewhere"])
def test_a_line_is_the_mean_effect_over_what_tells_the_prompts_apart_on_the_reported_half(arm):
    line = trace(effects_by_layer(TABLE, RANDOM, READING, "logit"), ARMS[arm].label)
    wanted = [rows(arm, layer)["effect"].mean() / (rows(arm, layer)["source"] - rows(arm, layer)["base"]).mean() for layer in made.LAYERS]
    np.testing.assert_allclose(line.y, wanted)
    np.testing.assert_array_equal(line.x, made.LAYERS)


def test_the_bars_of_a_line_are_the_interval_over_prompts_and_words():
    line, own = trace(effects_by_layer(TABLE, RANDOM, READING, "logit"), "text swap"), rows("text", 3).sort_values("case")
    both = np.stack([own["effect"], own["source"] - own["base"]], 1)
    found = bootstrap(both, {"prompt": own["prompt"].tolist(), "word": own["word"].tolist()}, ratio_of_means)
    np.testing.assert_allclose(line.y[3] - line.error_y.arrayminus[3], found.low[0])
    np.testing.assert_allclose(line.y[3] + line.error_y.array[3], found.high[0])


def test_the_ribbon_is_the_middle_of_the_means_of_the_draws_over_cases():
    figure = effects_by_layer(TABLE, RANDOM, READING, "logit", unit="nats")
    means = RANDOM.sel(basis="logit", case=list(dict.fromkeys(REPORT["case"]))).mean("case")
    low, high = (np.percentile(means.values.astype(float), one, axis=1) for one in (2.5, 97.5))
    np.testing.assert_allclose(figure.data[0].y, low, rtol=1e-4)
    np.testing.assert_allclose(trace(figure, "random directions, middle 95% of 1,000").y, high, rtol=1e-4)
    assert len(effects_by_layer(TABLE, None, READING, "logit").data) == len(figure.data) - 2


def test_the_lower_panel_is_the_share_of_cases_that_the_lens_hears():
    line = trace(effects_by_layer(TABLE, RANDOM, READING, "logit"), "heard")
    own = READING[READING["case"].isin(REPORT["case"])]
    np.testing.assert_allclose(line.y, own.groupby("layer")["heard"].mean())
    assert line.yaxis == "y2"


def test_the_chosen_layer_is_marked_and_one_that_is_not_there_is_refused():
    figure = effects_by_layer(TABLE, RANDOM, READING, "logit", layer=3)
    assert figure.layout.xaxis2.ticktext[3] == "<b>3</b><br>chosen"
    assert {shape.x0 for shape in figure.layout.shapes if shape.line.dash == "dash"} == {3}
    with pytest.raises(PatchingError, match=r"No effects at layer 9; there are \[0, 1, 2, 3, 4, 5, 6\]"):
        effects_by_layer(TABLE, RANDOM, READING, "logit", layer=9)


def test_lines_differ_in_dash_and_mark_not_in_colour_alone():
    lines = [one for one in effects_by_layer(TABLE, RANDOM, READING, "logit").data if one.error_y.array is not None and one.yaxis == "y"]
    assert len({one.line.dash for one in lines}) == 4 and len({one.marker.symbol for one in lines}) == 5 == len(lines)


def test_halves_are_kept_apart_and_both_together_can_be_drawn():
    found = {
        half: trace(effects_by_layer(TABLE, None, READING, "logit", half=half), "text swap").y[3] for half in ("report", "development")
    }
    assert found["report"] != found["development"]
    both = trace(effects_by_layer(TABLE, None, READING, "logit", half="both"), "text swap")
    assert both.y[3] == pytest.approx(rows("text", 3, TABLE)["effect"].mean() / (TABLE["source"] - TABLE["base"]).mean())


def test_a_case_set_of_one_cluster_has_no_interval_and_says_none():
    alone = TABLE.assign(prompt="one", word="one")
    line = trace(effects_by_layer(alone, None, READING, "logit"), "text swap")
    assert np.isfinite(line.y.astype(float)).all() and np.isnan(line.error_y.array.astype(float)).all()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"basis": "tuned"},
            "one basis of ['logit'], one outcome of ['onset'] and one half of ['report', 'development', 'both']; got 'tuned'",
        ),
        ({"outcome": "word"}, "got 'logit', 'word', 'report'"),
        ({"half": "best"}, "got 'logit', 'onset', 'best'"),
        ({"unit": "bits"}, "Effects are drawn as one of share, nats; got 'bits'."),
    ],
)
def test_what_is_not_there_is_refused(change, sentence, as_users_run_it):
    with pytest.raises(PatchingError, match=re.escape(sentence)):
        effects_by_layer(TABLE, RANDOM, READING, **{"basis": "logit", **change})


def test_a_table_of_another_form_and_effects_that_are_no_numbers_are_refused():
    with pytest.raises(PatchingError, match=r"this one lacks effect, half\."):
        doses(TABLE.drop(columns=["effect", "half"]), "logit", 3)
    with pytest.raises(PatchingError, match="all finite"):
        doses(TABLE.assign(effect=np.nan), "logit", 3)


def test_a_profile_is_the_picture_of_an_experiment_at_its_chosen_layer():
    class Experiment:
        table, reading = TABLE, READING

        def random_of(self, outcome=None):
            return RANDOM

        def chosen_layer(self, basis, outcome=None):
            return {"logit": 2}[basis]

    assert profile(Experiment()).to_json() == effects_by_layer(TABLE, RANDOM, READING, "logit", 2).to_json()
    assert profile(Experiment(), layer=4, unit="nats").layout.xaxis2.ticktext[4] == "<b>4</b><br>chosen"


# -- controls, doses, draws ----------------------------------------------------------------------------------


def test_every_arm_is_a_dot_at_its_share_of_the_whole_patch():
    figure = controls(TABLE, RANDOM, "logit", 3)
    own = REPORT[(REPORT["layer"] == 3) & (REPORT["dose"] == 1)]
    effects = own.groupby(["arm", own["basis"] == ""])["effect"].mean()
    whole, ceilings = effects["whole", True], {"written_text": effects["written_whole", True], "band": effects["band", True]}
    for arm in made.ARMS:
        effect = effects["band" if arm == "band_whole" else arm, arm in made.OF_NO_BASIS]
        assert trace(figure, arm).x[0] == pytest.approx(effect / ceilings.get(arm, whole)), arm
    specific = (rows("text", 3).set_index("case")["effect"] - rows("third", 3).set_index("case")["effect"]).mean()
    assert trace(figure, "specific").x[0] == pytest.approx(specific / whole)


def test_every_dot_stands_on_the_row_of_its_name():
    figure = controls(TABLE, RANDOM, "logit", 3)
    names = dict(zip(figure.layout.yaxis.tickvals, figure.layout.yaxis.ticktext, strict=True))
    for one in figure.data:
        assert names[one.y[0]] == ("random directions" if one.name == "random" else ARMS[one.name].label)


def test_what_counts_as_nothing_is_shaded_in_shares_alone():
    (shaded,) = [one for one in controls(TABLE, RANDOM, "logit", 3, nothing=0.2).layout.shapes if one.yref == "y domain" and one.fillcolor]
    assert (shaded.x0, shaded.x1) == (-0.2, 0.2)
    bare = controls(TABLE, RANDOM, "logit", 3, unit="nats")
    assert not [one for one in bare.layout.shapes if one.yref == "y domain" and one.fillcolor]
    assert trace(bare, "text").x[0] == pytest.approx(rows("text", 3)["effect"].mean())


def test_an_arm_that_few_cases_have_is_a_share_of_their_own_ceiling():
    few = set(REPORT["case"].unique()[:10])
    table = TABLE[(TABLE["arm"] != "other_voice") | TABLE["case"].isin(few)]
    dot = trace(controls(table, None, "logit", 3), "other_voice")
    own = rows("whole", 3)[rows("whole", 3)["case"].isin(few)]["effect"].mean()
    assert dot.x[0] == pytest.approx(rows("other_voice", 3)[rows("other_voice", 3)["case"].isin(few)]["effect"].mean() / own)
    assert "10 cases" in dot.hovertemplate


def test_doses_stand_on_the_outcome_with_a_straight_line_through_dose_one():
    figure = doses(TABLE, "logit", 3)
    line, straight = trace(figure, "text swap"), trace(figure, "in proportion to dose 1")
    base = rows("text", 3)["base"].mean()
    wanted = {dose: base + rows("text", 3, dose=dose)["effect"].mean() for dose in (-1.0, -0.5, 0.5, 1.0, 2.0)} | {0.0: base}
    assert dict(zip(line.x, line.y, strict=True)) == pytest.approx(wanted)
    np.testing.assert_allclose(straight.y, base + np.array([-1, 2]) * (wanted[1.0] - base))
    levels = {shape.y0 for shape in figure.layout.shapes}
    assert levels == {base, rows("text", 3)["source"].mean()}
    with pytest.raises(PatchingError, match="goes through dose 1"):
        doses(TABLE[(TABLE["arm"] != "text") | (TABLE["dose"] != 1)], "logit", 3)


def test_the_histogram_holds_every_draw_once_and_text_has_its_percentile():
    figure = random_directions(TABLE, RANDOM, "logit", 3, made.exact_draws(RANDOM))
    assert int(np.sum(figure.data[0].y)) == 1000
    assert "100.0th percentile" in figure.layout.title.text
    exact = figure.data[-1]
    cases = list(dict.fromkeys(REPORT["case"]))
    np.testing.assert_allclose(exact.x, RANDOM.sel(case=cases, basis="logit", layer=3).mean("case")[:50], rtol=1e-4)
    assert len(random_directions(TABLE, RANDOM, "logit", 3).data) == 1


def test_a_percentile_counts_ties_half():
    assert percentile(np.array([0.0, 1.0, 2.0, 3.0]), 2.5) == 75 and percentile(np.zeros(10), 0.0) == 50


def test_more_exact_draws_than_there_are_draws_are_refused():
    with pytest.raises(PatchingError, match="the first of the 20 linear ones; got 50"):
        random_directions(TABLE, RANDOM.isel(draw=slice(20)), "logit", 3, made.exact_draws(RANDOM))


def test_prompts_that_no_effect_tells_apart_are_known():
    assert told_apart(REPORT) and not told_apart(made.effects(ceiling=0.0, cases=12))


def test_a_mean_of_one_cluster_has_no_interval():
    labels = pd.DataFrame({"prompt": ["a"] * 3, "word": ["b"] * 3})
    estimate, low, high = interval(labels, np.array([1.0, 2.0, 3.0]))
    assert estimate == 2 and np.isnan(low) and np.isnan(high)


# -- answers -------------------------------------------------------------------------------------------------

JUDGED = pd.DataFrame(
    [(judge, kind, truth, truth if judge == "rule" else "text-mediated")
     for judge in ("rule", "naive") for kind, truth in (("shadow", "epiphenomenal"), ("dead", "uninformative")) for _ in range(3)],
    columns=["judge", "kind", "truth", "verdict"],
)  # fmt: skip


def test_a_cell_counts_models_and_the_right_one_of_each_row_is_framed():
    figure = confusion(JUDGED)
    np.testing.assert_array_equal(figure.data[0].text, [[0, 0, 3, 0], [0, 0, 0, 3]])
    np.testing.assert_array_equal(figure.data[1].text, [[3, 0, 0, 0], [3, 0, 0, 0]])
    frames = {(round(one.x0 + 0.47), round(one.y0 + 0.45)) for one in figure.layout.shapes}
    assert frames == {(2, 0), (3, 1)}


@pytest.mark.parametrize("wrong", [JUDGED.assign(verdict="causal"), JUDGED.assign(kind="one"), JUDGED[:0], JUDGED.drop(columns="judge")])
def test_verdicts_that_are_none_of_the_four_and_kinds_of_two_truths_are_refused(wrong):
    with pytest.raises(PatchingError):
        confusion(wrong)


def test_the_table_of_planted_models_gives_a_panel_for_the_rule_and_one_for_each_naive_test():
    rows = [
        ("shadow", 0.0, "logit", "epiphenomenal", "epiphenomenal", "text-mediated"),
        ("partial", 0.35, "logit", "partly", "partly", "text-mediated"),
        ("dead", np.nan, "probe", "", "uninformative", "text-mediated"),
    ]
    table = pd.DataFrame(rows, columns=["kind", "share", "basis", "right", "verdict", "naive: decodable, so used"])
    figure = confusion(judges_of(table, "logit"))
    assert [one.text for one in figure.layout.annotations] == ["the rule", "naive: decodable, so used"]
    assert list(figure.layout.yaxis.ticktext) == ["shadow", "partial 0.35"]
    np.testing.assert_array_equal(figure.data[0].text, [[0, 0, 1, 0], [0, 1, 0, 0]])
    np.testing.assert_array_equal(figure.data[1].text, [[1, 0, 0, 0], [1, 0, 0, 0]])
    with pytest.raises(PatchingError, match=r"known for \['logit'\]; got 'probe'"):
        judges_of(table, "probe")


def test_intervals_by_group_and_arm_become_bars():
    one = Interval(np.array(0.8), np.array(0.7), np.array(0.9), 0.95, {"word": 4})
    table = shares_table({"current first": {"total": one}, "next first": {"total": one, "direct": one}})
    assert list(table["group"] + " " + table["arm"]) == ["current first total", "next first total", "next first direct"]
    np.testing.assert_allclose(trace(serial_order(table), "total").error_y.array, 0.1)


def test_bars_stand_in_their_groups_with_their_intervals():
    table = pd.DataFrame(
        [("first", "total", 0.8, 0.7, 0.9), ("first", "direct", 0.1, 0.0, 0.2), ("reverse", "total", 0.3, 0.2, 0.5)],
        columns=["group", "arm", "estimate", "low", "high"],
    )
    figure = serial_order(table)
    np.testing.assert_allclose(trace(figure, "total").y, [0.8, 0.3])
    np.testing.assert_allclose(trace(figure, "total").error_y.array, [0.1, 0.2])
    assert np.isnan(trace(figure, "direct").y[1]) and list(trace(figure, "direct").x) == ["first", "reverse"]
    with pytest.raises(PatchingError, match="Bars need one row each"):
        serial_order(table[:0])
