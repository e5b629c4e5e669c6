"""Mass is never shown without its null."""

from __future__ import annotations

import numpy as np
import pytest

from slm_interp.errors import ReadoutError
from slm_interp.plots import modality_by_layer, uniform_mass
from tests.synthetic_reading import SIZES, clip, dataset

READING = dataset(clip(40), layers=6)


def trace(figure, name):
    return next(one for one in figure.data if one.name == name)


def test_the_null_of_a_modality_is_its_share_of_the_vocabulary():
    np.testing.assert_allclose(uniform_mass(READING), np.array(list(SIZES.values())) / sum(SIZES.values()))


def test_every_curve_stands_beside_its_null_line():
    figure = modality_by_layer(READING)
    for index, name in enumerate(SIZES):
        assert set(trace(figure, f"{name}, uniform").y) == {uniform_mass(READING)[index]}
    assert trace(figure, "entropy, uniform").y[0] == pytest.approx(np.log(sum(SIZES.values())))


def test_the_mean_is_over_the_speech_positions_alone():
    reading = READING.copy(deep=True)
    reading.modality_log_mass[:, 0, :] = np.log([0.98, 0.01, 0.01])
    speech = np.exp(reading.modality_log_mass.values[:, 1:, 0].astype(float)).mean(axis=1)
    np.testing.assert_allclose(trace(modality_by_layer(reading), "text").y, speech, rtol=1e-6)
    assert "39 speech positions" in modality_by_layer(reading).layout.title.text


def test_without_vocabulary_sizes_mass_is_refused():
    with pytest.raises(ReadoutError, match="Mass is shown with its null"):
        modality_by_layer(READING.drop_vars("modality_size"))


def test_positions_of_a_kind_that_is_not_there_are_refused():
    with pytest.raises(ReadoutError, match="No position of this reading is text; there are marker, speech"):
        modality_by_layer(READING, kind="text")
