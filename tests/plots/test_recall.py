"""A recall is drawn with its interval and its null, and the onset is marked."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from slm_interp.errors import ReadoutError
from slm_interp.plots import recall_by_layer, recall_by_position

TABLE = pd.DataFrame(
    [
        {"layer": layer, "k": k, "recall": 0.1 * place + k / 100, "low": 0.05 * place, "high": 0.9, "null_elsewhere": 0.02 * place}
        for k in (1, 10)
        for place, layer in enumerate(["0", "1", "2", "any"])
    ]
)


def positions(relative_to: str = "onset") -> xr.Dataset:
    recall = np.arange(6.0).reshape(2, 3) / 10
    parts = {"recall": recall, "low": recall - 0.05, "high": recall + 0.05}
    shaped = {name: (("layer", "offset"), values) for name, values in parts.items()}
    null = (("null", "layer", "offset"), np.full((1, 2, 3), 0.01))
    coordinates = {"layer": [0, 1], "offset": [-1, 0, 1], "null": np.array(["shuffled"], dtype=object)}
    return xr.Dataset({**shaped, "null_recall": null}, coordinates, {"relative_to": relative_to, "k": 10})


def trace(figure, name):
    return [one for one in figure.data if one.name == name]


def test_every_layer_has_its_interval_and_its_null():
    curve, apart = trace(recall_by_layer(TABLE), "recall at 10")
    np.testing.assert_allclose(curve.y, [0.1, 0.2, 0.3])
    np.testing.assert_allclose(curve.y - curve.error_y.arrayminus, [0, 0.05, 0.1])
    np.testing.assert_allclose(curve.y + curve.error_y.array, 0.9)
    null, _ = trace(recall_by_layer(TABLE), "recall at 10, elsewhere")
    np.testing.assert_allclose(null.y, [0, 0.02, 0.04])
    assert list(apart.x) == ["any"] and not apart.showlegend


def test_the_k_is_the_one_asked_for():
    np.testing.assert_allclose(trace(recall_by_layer(TABLE, k=1), "recall at 1")[0].y, [0.01, 0.11, 0.21])
    with pytest.raises(ReadoutError, match=r"got 0 rows at k=5 of \[1, 10\]"):
        recall_by_layer(TABLE, k=5)


def test_groups_are_not_joined_into_one_curve():
    with pytest.raises(ReadoutError, match="one row a layer at one k; got 8 rows at k=10"):
        recall_by_layer(pd.concat([TABLE, TABLE]))


@pytest.mark.parametrize(("anchor", "place"), [("onset", 0), ("end", 0.5)])
def test_the_onset_is_marked_before_the_first_position_and_the_end_after_the_last(anchor, place):
    figure = recall_by_position(positions(anchor), layers=(1,))
    assert figure.layout.shapes[0].x0 == place
    assert anchor in figure.layout.xaxis.title.text
    np.testing.assert_allclose(trace(figure, "layer 1")[0].y, [0.3, 0.4, 0.5])
    np.testing.assert_allclose(trace(figure, "layer 1, shuffled")[0].y, 0.01)


def test_layers_that_are_not_there_are_refused():
    with pytest.raises(ReadoutError, match=r"of the layers \[0, 1\]; got \[1, 7\]"):
        recall_by_position(positions(), layers=(1, 7))
    with pytest.raises(ReadoutError, match="got \\[\\]"):
        recall_by_position(positions(), layers=())
