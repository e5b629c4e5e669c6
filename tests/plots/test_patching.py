"""A heat map of a sweep says which word, which layer, which sign and how many contrasts."""

from __future__ import annotations

import json

import numpy as np
import pytest

from slm_interp.errors import PatchingError
from slm_interp.plots import heat_map
from tests.synthetic_pictures import WORDS, sweep

SWEEP = sweep()
APART = [0, 2, 3, 4]


def cells(figure, panel=0):
    return np.array([trace for trace in figure.data if trace.name != "lacking"][panel].z, dtype=float)


def recovered(dataset):
    ceiling = dataset.clean - dataset.corrupted
    return ((dataset.outcome - dataset.corrupted) / ceiling).isel(contrast=APART).mean("contrast").values


def test_cells_are_the_fraction_recovered_by_the_contrasts_that_are_told_apart():
    np.testing.assert_allclose(cells(heat_map(SWEEP)), recovered(SWEEP), rtol=1e-12)


def test_a_word_that_helps_is_above_zero_and_one_that_hurts_below_and_blue_is_above():
    figure = heat_map(SWEEP)
    assert cells(figure)[0, 2] == pytest.approx(0.9, abs=0.05)
    assert cells(figure)[0, 0] == pytest.approx(-0.1, abs=0.05)
    scale = figure.layout.coloraxis.colorscale
    assert scale[0][1] == "rgb(103,0,31)" and scale[-1][1] == "rgb(5,48,97)"


@pytest.mark.parametrize(("direction", "base"), [("denoising", "corrupted"), ("noising", "clean")])
def test_an_effect_is_the_patched_outcome_less_that_of_the_run_that_was_patched_into(direction, base):
    data = sweep(direction=direction)
    expected = (data.outcome - data[base]).mean("contrast").values
    np.testing.assert_allclose(cells(heat_map(data, value="effect")), expected, rtol=1e-12)
    assert "effect (nats)" in heat_map(data, value="effect").layout.coloraxis.colorbar.title.text


def test_an_effect_of_an_unnamed_direction_is_refused():
    with pytest.raises(PatchingError, match="which attrs\\['direction'\\] names; got 'None'"):
        heat_map(SWEEP.assign_attrs(direction="None"), value="effect")


def test_zero_is_white_and_in_the_middle_of_the_scale():
    axis = heat_map(SWEEP).layout.coloraxis
    assert axis.cmid == 0 and axis.cmin == -axis.cmax
    assert axis.cmax == pytest.approx(np.abs(recovered(SWEEP)).max())


def test_layers_run_upward_also_where_the_dataset_lists_them_downward():
    for data in (SWEEP, SWEEP.isel(layer=slice(None, None, -1))):
        figure = heat_map(data)
        low, high = figure.layout.yaxis.range
        assert low < high
        assert list(figure.layout.yaxis.ticktext) == [f"{layer}_post" for layer in range(6)]
        np.testing.assert_allclose(cells(figure), recovered(SWEEP))


def test_every_word_stands_under_its_own_column_and_repeated_words_stay_apart():
    figure = heat_map(SWEEP)
    axis = figure.layout.xaxis
    assert list(axis.ticktext) == ["the", "mayor", "of", "word 3", "speaks", "the", "river"]
    assert list(axis.tickvals) == list(figure.data[0].x) == list(range(7))
    assert cells(figure)[0].argmax() == list(axis.ticktext).index("of")
    assert figure.data[0].customdata[0][2][0] == "word 2: of"


def test_words_that_differ_between_contrasts_are_listed_under_the_pointer():
    assert heat_map(SWEEP).data[0].customdata[0][3][0] == "word 3: town0, town1, town2, town3, town4"


def test_one_contrast_shows_its_own_words_and_its_own_numbers():
    figure = heat_map(SWEEP, contrast="name 3")
    assert list(figure.layout.xaxis.ticktext) == [word if word != "paris" else "town3" for word in WORDS]
    one = SWEEP.sel(contrast="name 3")
    np.testing.assert_allclose(cells(figure), ((one.outcome - one.corrupted) / (one.clean - one.corrupted)).values)
    assert "contrast name 3, told apart" in figure.layout.title.text


def test_one_contrast_shows_only_the_spans_it_has():
    data = SWEEP.copy(deep=True)
    data["outcome"][{"contrast": 3, "span": [4, 5]}] = np.nan
    figure = heat_map(data, contrast="name 3")
    assert list(figure.layout.xaxis.ticktext) == ["the", "mayor", "of", "town3", "river"]
    assert np.isfinite(cells(figure)).all()


def test_the_title_says_how_many_contrasts_and_how_many_are_told_apart():
    text = heat_map(SWEEP).layout.title.text
    assert text == "resid_post, denoising: recovered fraction · 5 contrasts, 4 told apart"


def test_the_baselines_the_outcome_and_the_policy_are_printed():
    note = next(one for one in heat_map(SWEEP).layout.annotations if one.name == "note").text.replace("<br>", " ")
    assert f"clean {float(SWEEP.clean.mean()):.4g}, corrupted {float(SWEEP.corrupted.mean()):.4g}" in note
    assert "log-probability difference" in note and "policy: last" in note


def test_where_no_contrast_is_told_apart_nothing_is_divided():
    flat = SWEEP.assign(told_apart=SWEEP.told_apart & False)
    with pytest.raises(PatchingError, match="None of these 5 contrasts is told apart"):
        heat_map(flat)
    assert "0 told apart" in heat_map(flat, value="effect").layout.title.text


def test_without_a_flag_only_equal_baselines_are_not_told_apart():
    data = SWEEP.drop_vars("told_apart").copy(deep=True)
    data["corrupted"][{"contrast": 2}] = data.clean[2]
    assert "5 contrasts, 4 told apart" in heat_map(data).layout.title.text
    assert np.isfinite(cells(heat_map(data))).all()


def test_a_span_that_some_contrasts_lack_is_the_mean_of_the_others_and_one_that_all_lack_is_grey():
    data = SWEEP.copy(deep=True)
    data["outcome"][{"contrast": 3, "span": 1}] = np.nan
    data["outcome"][{"span": 4}] = np.nan
    figure = heat_map(data)
    expected = recovered(data)
    np.testing.assert_allclose(cells(figure)[:, 1], expected[:, 1])
    assert figure.data[0].customdata[0][1][2] == 3 and figure.data[0].customdata[0][0][2] == 4
    assert np.isnan(cells(figure)[:, 4]).all()
    lacking = next(trace for trace in figure.data if trace.name == "lacking")
    assert np.isfinite(np.array(lacking.z, dtype=float)).sum(0).tolist() == [0, 0, 0, 0, 6, 0, 0]


def test_heads_have_a_panel_for_each_span_with_head_by_layer():
    data = sweep(heads=4)
    figure = heat_map(data)
    assert [note.text for note in figure.layout.annotations if note.name != "note"][2:4] == ["of", "word 3"]
    assert len(figure.data) == 7
    expected = ((data.outcome - data.corrupted) / (data.clean - data.corrupted)).isel(contrast=APART).mean("contrast")
    for panel in range(7):
        np.testing.assert_allclose(cells(figure, panel), expected.isel(span=panel).transpose("layer", "head_index").values)
    assert figure.data[2].customdata[0][3][0] == "word 2: of · head 3"


def test_sites_stand_beside_each_other_on_one_scale():
    data = sweep(sites=("resid_pre", "attn_out", "mlp_out"))
    figure = heat_map(data)
    assert [note.text for note in figure.layout.annotations if note.name != "note"] == ["resid_pre", "attn_out", "mlp_out"]
    assert {trace.coloraxis for trace in figure.data} == {"coloraxis"}
    assert cells(figure, 1)[0, 2] == pytest.approx(0.4 * cells(figure, 0)[0, 2], rel=1e-9)
    assert cells(figure, 2)[0, 2] == pytest.approx(-0.2 * cells(figure, 0)[0, 2], rel=1e-9)
    assert figure.layout.title.text.startswith("denoising: ")


def test_any_variable_by_layer_can_be_shown():
    data = SWEEP.assign(attribution=-SWEEP.outcome)
    np.testing.assert_allclose(cells(heat_map(data, value="attribution")), -SWEEP.outcome.mean("contrast").values)


def test_names_are_text_and_not_markup():
    data = SWEEP.copy(deep=True)
    data["label"][:, 1] = "<b>x</b>"
    assert heat_map(data).layout.xaxis.ticktext[1] == "&lt;b&gt;x&lt;/b&gt;"


def test_long_sweeps_fit_their_page():
    wide = SWEEP.isel(span=[number % 7 for number in range(120)]).assign_coords(span=np.arange(120))
    assert heat_map(wide).layout.width < 1500
    assert len(json.loads(heat_map(wide).to_json())["data"]) == 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"value": "recoverd"}, "one of recovered, effect, outcome; got 'recoverd'"),
        ({"contrast": "name 9"}, "No contrast 'name 9'; there are \\['name 0'"),
    ],
)
def test_what_is_not_there_is_refused(options, sentence):
    with pytest.raises(PatchingError, match=sentence):
        heat_map(SWEEP, **options)


def test_broken_datasets_are_refused():
    with pytest.raises(PatchingError, match="takes contrast x layer x span.*got \\['contrast', 'layer'\\]"):
        heat_map(SWEEP.isel(span=0), value="outcome")
    broken = SWEEP.copy(deep=True)
    broken["outcome"][0, 0, 0] = np.inf
    with pytest.raises(PatchingError, match="1 of 210 values of 'recovered' are infinite"):
        heat_map(broken)
