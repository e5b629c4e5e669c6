"""What is measured of an utterance does not depend on who is in its batch, nor on the order in which batches run."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import xarray as xr

from slm_interp.lenses import collect, many
from slm_interp.lenses.probe import states
from slm_interp.transcription import by_position, modality, modality_mass, observe
from slm_interp.transcription.asking import questions

MEASURES = {
    "observe": lambda slm, corpus: observe(slm, corpus).dataset,
    "by_position": lambda slm, corpus: by_position(slm, corpus, offsets=range(-2, 3), k=3),
    "modality_mass": lambda slm, corpus: modality_mass(slm, corpus, draws=2),
    "modality_mass without the input": lambda slm, corpus: modality_mass(slm, corpus, exclude_input=True, draws=2),
    "collect": lambda slm, corpus: collect(slm, corpus).dataset,
}


def backwards(*arguments, **options):
    yield from reversed(list(many.residuals_of_each(*arguments, **options)))


WAYS = {
    "one at a time": partial(many.residuals_of_each, memory=0),
    "two or three at a time": partial(many.residuals_of_each, memory=60_000),
    "the longest first": backwards,
}


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("way", WAYS)
def test_a_measure_is_the_same_whatever_the_batches(tiny_slm, corpus, monkeypatch, measure, way):
    """Against all at once, the shortest first: values to 1e-5, words and order exactly."""
    together = MEASURES[measure](tiny_slm, corpus)
    for user in (questions, modality, states):
        monkeypatch.setattr(user, "residuals_of_each", WAYS[way])
    apart = MEASURES[measure](tiny_slm, corpus)
    assert list(together.variables) == list(apart.variables)
    for name, values in together.variables.items():
        if values.dtype.kind == "f":
            np.testing.assert_allclose(values.values, apart[name].values, rtol=1e-4, atol=1e-5, err_msg=str(name))
        else:
            xr.testing.assert_equal(values, apart.variables[name])


def test_utterances_come_by_length_each_with_its_own_residuals(tiny_slm, corpus):
    found = list(many.residuals_of_each(tiny_slm, corpus))
    assert sorted(number for number, _ in found) == list(range(len(corpus)))
    assert all(resid.shape[1] == len(corpus[number]) for number, resid in found)
    assert [len(corpus[number]) for number, _ in found] == sorted(map(len, corpus))
