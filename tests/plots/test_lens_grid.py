"""The grid keeps every column apart, says what it shows and stays small."""

from __future__ import annotations

import json

import numpy as np
import pytest

from slm_interp.errors import ReadoutError
from slm_interp.plots import lens_grid, lens_grid_over_time, word_runs
from slm_interp.plots.theme import cell, markup, visible
from tests.synthetic_reading import clip, dataset

UTTERANCE = clip(40)
READING = dataset(UTTERANCE, layers=6)


def test_units_that_repeat_keep_a_column_of_their_own():
    figure = lens_grid(READING)
    assert list(figure.data[0].x) == list(range(40))
    assert len(set(READING.label.values)) < 40
    assert len(set(figure.layout.xaxis.ticktext)) == 40
    assert list(figure.layout.xaxis.tickvals) == list(range(40))
    assert np.shape(figure.data[0].z) == (6, 40)


def test_layers_run_upward_and_the_axis_says_that_the_top_is_the_model_output():
    figure = lens_grid(READING)
    assert figure.layout.yaxis.range[0] < figure.layout.yaxis.range[1]
    assert figure.layout.yaxis.ticktext[0] == "0_pre"
    assert figure.layout.yaxis.ticktext[-1] == "4_post = output"
    assert "top = model output" in figure.layout.yaxis.title.text


def test_a_reading_without_the_last_layer_does_not_claim_the_model_output():
    figure = lens_grid(READING.isel(layer=slice(0, 4)))
    assert "output" not in figure.layout.yaxis.title.text
    assert "output" not in figure.layout.yaxis.ticktext[-1]


def test_colour_is_the_probability_on_text_from_zero_to_one():
    heat = lens_grid(READING).data[0]
    text = np.exp(READING.modality_log_mass.sel(modality="text").values)
    np.testing.assert_allclose(np.array(heat.z, dtype=float), text, atol=1e-4)
    assert (heat.zmin, heat.zmax) == (0.0, 1.0)


def test_entropy_ends_at_that_of_a_uniform_guess_and_rank_is_a_logarithm_with_plain_ticks():
    assert lens_grid(READING, colour="entropy").data[0].zmax == pytest.approx(np.log(READING.attrs["d_vocab"]))
    heat = lens_grid(READING, colour="rank", target=1).data[0]
    np.testing.assert_allclose(np.array(heat.z, dtype=float), np.log10(READING.target_rank.values[:, :, 1] + 1), atol=1e-4)
    assert list(heat.colorbar.ticktext) == ["1", "10", "100"]
    assert "capital" in heat.colorbar.title.text


def test_a_target_that_was_left_out_leaves_a_hole_and_not_rank_one():
    reading = READING.copy(deep=True)
    reading.target_rank[0, 3, 0] = np.nan
    heat = lens_grid(reading, colour="rank").data[0]
    assert np.isnan(np.array(heat.z, dtype=float)[0, 3])


def test_cells_print_the_best_token_of_the_modality_asked_for():
    text = lens_grid(READING, shown="text").data[0].text
    assert text[2][5] == cell(str(READING.top_label_by_modality.sel(modality="text").values[2, 5, 0]), 6)
    assert not any(token.startswith("Un") for row in text for token in row)


def test_the_same_word_said_twice_is_two_words():
    runs = word_runs(READING)
    assert [run.text for run in runs] == [word.text for word in UTTERANCE.words]
    assert [(run.start, run.stop) for run in runs] == [(word.span.start, word.span.stop) for word in UTTERANCE.words]


def test_words_stand_over_their_columns_between_their_boundaries():
    figure = lens_grid(READING)
    notes = [note for note in figure.layout.annotations if note.name == "word"]
    lines = next(trace for trace in figure.data if trace.name == "word boundaries")
    first = UTTERANCE.words[0]
    assert [note.text for note in notes] == [word.text for word in UTTERANCE.words]
    assert notes[0].x == pytest.approx((first.span.start + first.span.stop - 1) / 2)
    assert (lines.x[0], lines.x[3]) == (first.span.start - 0.5, first.span.stop - 0.5)


def test_hover_tells_place_seconds_word_and_the_best_tokens_of_each_modality():
    heat = lens_grid(READING).data[0]
    place, text, speech, marker, rank = heat.customdata[3][4]
    word = READING.word.values[4]
    assert f"position 4 · {READING.start_s.values[4]:.2f}–{READING.end_s.values[4]:.2f} s · “{word}”" in place
    assert text.startswith(f"{np.exp(READING.modality_log_mass.values[3, 4, 0]):.1%}: ")
    assert text.count(" | ") == 4
    assert speech.count("Un") == 5
    assert marker.count("speech") == 1
    assert rank.endswith(f"rank {int(READING.target_rank_in_modality.values[3, 4, 1]) + 1:,} of its kind")
    assert all(f"%{{customdata[{field}]}}" in heat.hovertemplate for field in range(5))


def test_a_position_that_takes_no_time_says_so():
    assert "takes no time" in lens_grid(READING).data[0].customdata[0][0][0]


def test_tokens_that_look_like_markup_are_printed_and_not_obeyed():
    assert markup("</script><img onerror=x>") == "&lt;/script&gt;&lt;img onerror=x&gt;"
    heat = lens_grid(READING).data[0]
    assert not any("<" in field for row in heat.customdata for column in row for field in column)
    assert not any("<" in token for row in heat.text for token in row)


def test_a_token_that_spells_an_entity_is_not_decoded():
    assert cell("&lt;", 6) == "&amp;lt;"
    assert cell(" R&D", 6) == "R&D"


def test_a_unit_goes_without_its_brackets_where_room_is_short_and_a_marker_does_not():
    assert [cell(token, 6) for token in ("<Un246>", "[Hu12]", "<speech>", "< 5>")] == ["Un246", "Hu12", "‹spee…", "‹ 5›"]


def test_ranks_with_ties_are_shown_as_halves():
    reading = READING.copy(deep=True)
    start = int(reading.target_start[1])
    reading.target_rank_in_modality[2, start, 1] = 1.5
    reading.target_rank_in_modality[3, start, 1] = np.nan
    fields = lens_grid(reading).data[0].customdata
    assert fields[2][start][-1] == "heard word ·capital: rank 2.5 of its kind"
    assert fields[3][start][-1] == "heard word ·capital: not ranked here"


def test_white_space_in_tokens_can_be_seen():
    assert [visible(token) for token in (" cat", "cat", "\n", " ", "a\tb", "cat ")] == ["·cat", "cat", "↵", "·", "a⇥b", "cat·"]


def test_over_time_a_column_is_as_wide_as_it_sounds_and_silent_positions_are_left_out():
    figure = lens_grid_over_time(READING)
    edges = np.array(figure.data[0].x, dtype=float)
    np.testing.assert_allclose(np.diff(edges), (READING.end_s - READING.start_s).values[1:], atol=1e-9)
    assert np.shape(figure.data[0].z) == (6, 39)
    assert figure.layout.meta["slm"]["columns"] == list(range(1, 40))


def test_a_text_prompt_has_no_time_axis():
    silent = READING.assign_coords(end_s=READING.start_s)
    with pytest.raises(ReadoutError, match="No position of this reading takes time"):
        lens_grid_over_time(silent)


def test_every_column_of_120_positions_has_room_for_its_token_and_512_fit_a_page():
    roomy, long = lens_grid(dataset(clip(120), layers=2)), lens_grid(dataset(clip(512), layers=2))
    assert roomy.layout.width >= 120 * 40
    assert roomy.data[0].texttemplate == "%{text}"
    assert long.layout.width is None
    assert long.data[0].texttemplate is None
    assert len(long.layout.xaxis.tickvals) <= 40


def test_a_figure_of_11_by_60_cells_takes_less_than_half_a_megabyte():
    assert len(lens_grid(dataset(clip(60), layers=11)).to_json()) < 500_000


def test_every_choice_of_a_menu_brings_a_whole_grid():
    colour, cells = lens_grid(READING).layout.updatemenus
    assert [button.label for button in cells.buttons] == [
        "cells: best token",
        "cells: best text token",
        "cells: best speech token",
        "cells: best marker token",
    ]
    assert len(colour.buttons) == 5
    for button in colour.buttons:
        assert np.shape(button.args[0]["z"][0]) == (6, 40)
        json.dumps(button.args)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"colour": "loudness"}, "coloured by one of text_mass, .*got 'loudness'"),
        ({"shown": "music"}, "best token of any, text, speech, marker; got 'music'"),
        ({"colour": "rank", "target": 99}, "ranks 12 targets; wanted number 99"),
    ],
)
def test_a_wrong_option_is_answered_with_what_there_is(options, sentence):
    with pytest.raises(ReadoutError, match=sentence):
        lens_grid(READING, **options)
