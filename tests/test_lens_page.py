"""The page of a lens: every clip with its sound, grid, curves, words and the sentence that sums it up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from slm_interp.lenses.page import Clip, lens_page, provenance_of, word_table
from slm_interp.page import Figure, Player, Table, Text
from tests.synthetic_reading import clip, dataset

UTTERANCE = clip(40)
READING = dataset(UTTERANCE, layers=6)


def test_a_clip_has_summary_player_waveform_grid_curves_and_words_in_that_order():
    (section,) = lens_page([Clip("One", UTTERANCE, READING, "Out of domain.")]).sections
    assert [type(block) for block in section.blocks] == [Text, Player, Figure, Figure, Figure, Table]
    assert (section.title, section.note) == ("One", "Out of domain.")
    assert "a uniform guess would put 90%" in section.blocks[0].text


def test_an_utterance_without_sound_has_neither_player_nor_waveform():
    (section,) = lens_page([Clip("One", replace(UTTERANCE, audio=None), READING)]).sections
    assert [type(block) for block in section.blocks] == [Text, Figure, Figure, Table]


def test_the_word_table_gives_the_best_rank_inside_the_span_of_the_word_alone():
    reading = READING.copy(deep=True)
    reading.target_rank_in_modality[:] = 50
    reading.target_rank_in_modality[2, int(reading.target_start[1]), 1] = 6
    reading.target_rank_in_modality[3, int(reading.target_stop[1]), 1] = 0
    row = word_table(reading).iloc[1]
    assert (row["word"], row["best rank"], row["at layer"], row["at position"]) == ("capital", "7", "1_post", int(reading.target_start[1]))


def test_a_word_that_was_not_ranked_anywhere_says_so():
    reading = READING.copy(deep=True)
    reading.target_rank_in_modality[:, :, 0] = np.nan
    assert word_table(reading).iloc[0]["best rank"] == "not ranked"


def test_the_foot_names_checkpoint_lens_and_versions():
    foot = provenance_of(READING)
    assert foot["checkpoint"] == "made-up"
    assert foot["lens"] == "logit"
    assert foot["numpy"] == "made-up"
    assert lens_page([Clip("One", UTTERANCE, READING)]).provenance == foot
