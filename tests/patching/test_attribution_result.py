"""What attribution gives back: agreement with an exact sweep, what is missed, files, pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from slm_interp.errors import PatchingError, ReadoutError
from slm_interp.model import SpeechTextModel
from slm_interp.patching import Attribution, Sweep, activation
from slm_interp.patching.attribution import agreement, atp, atp_qk, atp_star, integrated_gradients, worst_misses
from slm_interp.utterance import Contrast


def sweep_of(effects: list[list[float]], **attrs: Any) -> xr.Dataset:
    """Two layers of a contrast for each row, as many spans as it takes; the base outcome is 1."""
    values = np.array(effects).reshape(len(effects), 2, -1)
    spans = [f"word {number}" for number in range(values.shape[-1])]
    said = {"site": "mlp_out", "direction": "denoising", "base": "corrupted", "policy": "same", "outcome": "difference()", "unit": "nats"}
    return xr.Dataset(
        {
            "outcome": (("contrast", "layer", "span"), 1 + values),
            "clean": ("contrast", np.full(len(effects), 3.0)),
            "corrupted": ("contrast", np.full(len(effects), 1.0)),
            "told_apart": ("contrast", np.full(len(effects), True)),
            "label": (("contrast", "span"), np.array([spans] * len(effects), dtype=object)),
        },
        {
            "contrast": [f"pair {number}" for number in range(len(effects))],
            "layer": [0, 1],
            "span": spans,
            "layer_label": ("layer", ["0_mlp_out", "1_mlp_out"]),
        },
        {**said, "method": "AtP", "forwards": 2, "backwards": 1, "provenance_json": "{}", **attrs},
    )


TRUTH = [[2.0, -1.0, 0.1, 0.0, 0.5, -0.2], [1.0, 3.0, 0.3, -0.4, 0.0, 0.2]]


def test_estimates_that_are_right_agree_wholly() -> None:
    row = agreement(Attribution(sweep_of(TRUTH)), Sweep(sweep_of(TRUTH)), top=2).iloc[0]
    for column in ("pearson", "spearman", "pearson_within", "spearman_within", "same_sign", "slope", "found"):
        assert row[column] == pytest.approx(1), column
    assert row["worst_miss"] == 0 and row["cells"] == 12


def test_half_the_effect_is_a_slope_of_a_half_and_nothing_else() -> None:
    row = agreement(Attribution(sweep_of([[one / 2 for one in own] for own in TRUTH])), Sweep(sweep_of(TRUTH))).iloc[0]
    assert (row["slope"], row["pearson"], row["same_sign"]) == pytest.approx((0.5, 1, 1))


def test_a_missed_cell_and_a_wrong_sign_are_counted() -> None:
    """The greatest effect of the second contrast is put at 0, and the second greatest of the first has the other sign."""
    guessed = [[2.0, 1.0, 0.1, 0.0, 0.5, -0.2], [1.0, 0.0, 0.3, -0.4, 0.0, 0.2]]
    own, exact = Attribution(sweep_of(guessed)), Sweep(sweep_of(TRUTH))
    row = agreement(own, exact, top=1).iloc[0]
    sizes = np.abs(np.array(TRUTH)).sum()
    assert row["worst_miss"] == 3 and row["found"] == 0.5
    assert row["same_sign"] == pytest.approx((sizes - 3 - 1) / sizes)
    missed = worst_misses(own, exact, 2)
    assert missed[["contrast", "layer", "span", "estimate", "exact"]].values.tolist() == [
        ["pair 1", 0, "word 1", 0.0, 3.0],
        ["pair 0", 0, "word 1", 1.0, -1.0],
    ]


def test_a_method_without_signs_is_compared_by_size() -> None:
    data = sweep_of([[0.0] * 6, [0.0] * 6]).assign(magnitude=abs(sweep_of(TRUTH)["outcome"] - 1))
    row = agreement(Attribution(data), Sweep(sweep_of(TRUTH))).iloc[0]
    assert row["pearson"] == pytest.approx(1) and np.isnan(row["same_sign"]) and row["found"] == 1


def test_correlation_within_contrasts_is_not_carried_by_their_size() -> None:
    """One contrast has effects a hundred times as great, in the wrong order."""
    truth = [[100.0, 101.0, 102.0, 103.0, 104.0, 105.0], [0.5, 0.4, 0.3, 0.2, 0.1, 0.0]]
    guessed = [row[::-1] for row in truth]
    row = agreement(Attribution(sweep_of(guessed)), Sweep(sweep_of(truth))).iloc[0]
    assert row["pearson"] > 0.99 and row["pearson_within"] == pytest.approx(-1)


def test_unlike_runs_are_not_compared() -> None:
    with pytest.raises(PatchingError, match="direction 'denoising' and 'noising'"):
        agreement(Attribution(sweep_of(TRUTH)), Sweep(sweep_of(TRUTH, direction="noising")))
    with pytest.raises(PatchingError, match="other cells"):
        agreement(Attribution(sweep_of(TRUTH)), Sweep(sweep_of(TRUTH).isel(layer=[0])))
    lacking = sweep_of(TRUTH)
    lacking["outcome"][0, :, 2] = np.nan
    with pytest.raises(PatchingError, match="lack other spans"):
        agreement(Attribution(sweep_of(TRUTH)), Sweep(lacking))


def test_spans_that_a_contrast_lacks_are_no_cells() -> None:
    data = sweep_of(TRUTH)
    data["outcome"][0, :, 2] = np.nan
    assert agreement(Attribution(data), Sweep(data)).iloc[0][["cells", "pearson", "found"]].tolist() == pytest.approx([10, 1, 1])


def test_methods_side_by_side_on_a_model(tiny_slm: SpeechTextModel, unequal: Contrast) -> None:
    exact = activation(tiny_slm, unequal, "k", policy="warped")
    methods = {name: run(tiny_slm, unequal, "k", policy="warped") for name, run in (("AtP", atp), ("QK fix", atp_qk), ("AtP*", atp_star))}
    table = agreement(methods, exact).set_index("method")
    assert list(table.index) == list(methods) and table[["pearson", "found"]].notnull().to_numpy().all()
    assert np.isnan(table.loc["AtP*", "same_sign"])


def test_a_result_is_saved_and_read_again(tiny_slm: SpeechTextModel, unequal: Contrast, tmp_path: Path) -> None:
    for method in (atp_star, integrated_gradients):
        found = method(tiny_slm, unequal, "z", policy="pooled")
        found.save(tmp_path / "found.nc")
        again = Attribution.load(tmp_path / "found.nc")
        xr.testing.assert_identical(again.dataset, found.dataset)
        assert repr(again) == repr(found)
        assert found.dataset.attrs["method"] in repr(found) and "estimated" in repr(found)


def test_another_file_is_refused(tiny_slm: SpeechTextModel, equal: Contrast, tmp_path: Path) -> None:
    activation(tiny_slm, equal, "mlp_out").save(tmp_path / "sweep.nc")
    with pytest.raises(PatchingError, match="is no saved attribution"):
        Attribution.load(tmp_path / "sweep.nc")
    with pytest.raises(ReadoutError, match="is no saved attribution"):
        Attribution.load(tmp_path / "missing.nc")


def test_a_page_says_that_they_are_estimates_and_which_are_greatest(tiny_slm: SpeechTextModel, unequal: Contrast) -> None:
    found = atp(tiny_slm, unequal, "mlp_out", policy="warped")
    html = found._repr_html_()
    assert "2 forwards and 1 backwards" in html and "Estimates" in html and "denoising" in html
    best = found.best(3)
    assert best["score"].is_monotonic_decreasing and len(best) == 3
    assert best["score"].iloc[0] == pytest.approx(float(abs(found.effect()).max()))


def test_estimates_serve_as_a_sweep(tiny_slm: SpeechTextModel, equal: Contrast) -> None:
    found = atp(tiny_slm, equal, "resid_post")
    assert np.allclose(found.sweep.effect(), found.effect())
    recovered = found.recovered(1e-9)
    assert np.allclose(recovered * found.ceiling, found.effect().transpose(*recovered.dims), atol=1e-5)
