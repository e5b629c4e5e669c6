"""What a sweep says: recovered and effect, flags, intervals, p, halves, tables, files; and a store that goes on."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest
import xarray as xr

from slm_interp import patching
from slm_interp.errors import PatchingError, ReadoutError, StatisticsError, StoreError
from slm_interp.model import SpeechTextModel
from slm_interp.patching import Sweep, engine, outcomes
from slm_interp.patching.contrasts import clusters_of, named
from slm_interp.utterance import Contrast


def made(values: np.ndarray, clean: list[float], corrupted: list[float], direction: str = "denoising", **coords: list[str]) -> Sweep:
    """A sweep of given outcomes, `[contrast, layer, span]`."""
    count = len(clean)
    data = xr.Dataset(
        {
            "outcome": (("contrast", "layer", "span"), values),
            "clean": ("contrast", clean),
            "corrupted": ("contrast", corrupted),
            "told_apart": ("contrast", np.abs(np.array(clean) - corrupted) >= 0.1),
            "label": (("contrast", "span"), np.full((count, values.shape[2]), "word", dtype=object)),
        },
        {
            "contrast": [f"c{number}" for number in range(count)],
            "layer": list(range(values.shape[1])),
            "span": [f"word {number}" for number in range(values.shape[2])],
            "layer_label": ("layer", [f"{number}_post" for number in range(values.shape[1])]),
            "prompt": ("contrast", coords.get("prompt", ["a _"] * count)),
            "word": ("contrast", coords.get("word", [f"w{number}" for number in range(count)])),
        },
        {
            "site": "resid_post", "direction": direction, "base": {"denoising": "corrupted", "noising": "clean"}[direction], "policy": "same",
            "outcome": "difference()", "unit": "nats", "provenance_json": "{}",
        },
    )  # fmt: skip
    return Sweep(data)


def test_recovered_is_0_at_the_corrupted_and_1_at_the_clean_outcome_in_both_directions() -> None:
    values = np.array([[[-1.0, 0.0, 3.0]]])
    for direction in ("denoising", "noising"):
        found = made(values, [3.0], [-1.0], direction)
        assert found.recovered().values.flatten().tolist() == [0, 0.25, 1]
        assert found.recovered().attrs["least"] == 0.1 and found.recovered().attrs["direction"] == direction
    assert made(values, [3.0], [-1.0]).effect().values.flatten().tolist() == [0, 1, 4]
    assert made(values, [3.0], [-1.0], "noising").effect().values.flatten().tolist() == [-4, -3, 0]


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_a_share_is_a_ratio_of_means_in_which_pairs_count_by_their_ceiling(direction: str) -> None:
    """Ceilings 4, 0.01 and -1 among others: the mean of single ratios would be far off."""
    values = np.array([2.0, 0.5, -1.0, 2.0, 2.0, 3.0]).reshape(6, 1, 1)
    found = made(values, [4.0, 0.01, -1.0, 4.0, 5.0, 4.0], [0.0, 0.0, 0.0, 1.0, 0.0, 0.0], direction)
    share = found.share()
    assert share["estimate"].item() == pytest.approx((2 + 0.5 - 1 + 1 + 2 + 3) / (4 + 0.01 - 1 + 3 + 5 + 4))
    assert share["low"].item() < share["estimate"].item() < share["high"].item() and share["items"].item() == 6


def test_a_mean_ceiling_that_is_not_told_from_0_is_no_base_for_a_share() -> None:
    found = made(np.ones((4, 1, 1)), [1.0, -1.0, 0.5, -0.4], [0.0] * 4)
    with pytest.raises(StatisticsError, match="is not told from 0, so nothing can be a share of it"):
        found.share()


def test_a_span_that_a_contrast_lacks_takes_no_part_in_its_share() -> None:
    values = np.ones((4, 1, 2))
    values[3, 0, 1] = np.nan
    found = made(values, [2.0, 2.0, 2.0, 9.0], [0.0] * 4).share()
    assert found["estimate"].values.flatten().tolist() == pytest.approx([4 / 15, 0.5]) and found["items"].values.tolist() == [4, 3]


def test_a_pair_that_is_not_told_apart_is_flagged_and_never_divided_by() -> None:
    found = made(np.ones((2, 1, 1)), [0.05, 2.0], [0.0, 0.0])
    assert np.isnan(found.recovered().values[0]).all() and found.recovered().values[1].item() == 0.5
    assert found.recovered(least=0.01).values[0].item() == 20
    assert "not told apart: c0" in repr(found) and "0.05 to 2" in repr(found)
    assert found.mean().item() == 0.5 and found.effect().values.flatten().tolist() == [1, 1]
    with pytest.raises(PatchingError, match="least=0"):
        found.recovered(least=0.0)


def test_intervals_draw_whole_clusters() -> None:
    """Twelve contrasts of three words are as wide as their three words, not as twelve."""
    words = np.repeat([0.2, 0.5, 0.8], 4)
    values = np.broadcast_to(words[:, None, None], (12, 2, 1))
    found = made(values, [1.0] * 12, [0.0] * 12, word=[f"w{word}" for word in words])
    by_word, alone = found.interval(), found.interval(clusters=[str(number) for number in range(12)])
    assert by_word["estimate"].values == pytest.approx(0.5) and by_word.attrs["level"] == 0.95
    assert int(by_word["clusters_word"][0]) == 3 and int(by_word["items"][0]) == 12
    assert (by_word["high"] - by_word["low"]).min() > 1.3 * (alone["high"] - alone["low"]).max()


def test_prompt_and_word_are_both_clustered_by_where_both_differ() -> None:
    found = made(np.ones((4, 1, 1)), [1.0] * 4, [0.0] * 4, prompt=["a _", "a _", "b _", "b _"], word=list("wxyz"))
    assert set(found.clusters()) == {"prompt", "word"} and set(made(np.ones((4, 1, 1)), [1.0] * 4, [0.0] * 4).clusters()) == {"word"}


@pytest.mark.usefixtures("as_users_run_it")
def test_p_is_exact_for_few_clusters_and_adjusted_over_all_cells() -> None:
    values = np.stack([np.ones((6, 1)), np.array([[1.0], [-1], [1], [-1], [1], [-1]])], 1)
    found = made(values, [2.0] * 6, [0.0] * 6)
    assert found.p(adjust=None).values.flatten().tolist() == [2 / 64, 1]
    assert found.p(adjust="holm").values.flatten().tolist() == [4 / 64, 1] and found.p().attrs["cells"] == 2
    with pytest.raises(PatchingError, match="holm, benjamini_hochberg"):
        found.p(adjust="bonferroni")


def test_a_layer_chosen_from_noise_is_not_the_best_in_the_other_half() -> None:
    noise = np.random.default_rng(0).normal(size=(40, 30, 10))
    table = made(noise, [1.0] * 40, [0.0] * 40).chosen_and_reported()
    assert table["chosen_on"].tolist() == ["first half", "second half"] * 10
    assert table["in_the_choice"].mean() > 0.35 and abs(table["reported"].mean()) < 0.1
    assert ((table["low"] < table["reported"]) & (table["reported"] < table["high"])).all()
    assert table["contrasts_choice"].tolist() == [20] * 20


def test_a_planted_layer_is_found_from_both_halves() -> None:
    values = np.random.default_rng(0).normal(size=(20, 8, 2), scale=0.1)
    values[:, 5, 1] += 1
    table = made(values, [1.0] * 20, [0.0] * 20).chosen_and_reported()
    assert table[table["span"] == "word 1"]["layer"].tolist() == [5, 5]
    with pytest.raises(StatisticsError, match="two clusters in each; there are 3"):
        made(values[:3], [1.0] * 3, [0.0] * 3).chosen_and_reported()


def test_a_span_that_nobody_tells_apart_has_no_mean() -> None:
    with pytest.raises(StatisticsError, match="No contrast is left at 'word 0'"):
        made(np.ones((4, 1, 1)), [0.0] * 4, [0.0] * 4).interval()


def test_a_table_has_a_row_for_every_cell_there_is() -> None:
    values = np.arange(8.0).reshape(2, 2, 2)
    values[1, :, 1] = np.nan
    table = made(values, [2.0, 1.0], [0.0, 0.0]).to_dataframe()
    assert len(table) == 6 and table["outcome"].tolist() == [0, 1, 2, 3, 4, 6]
    assert table["recovered"].tolist() == [0, 0.5, 1, 1.5, 4, 6] and {"ceiling", "label", "layer_label", "effect"} <= set(table)


def test_a_saved_sweep_is_the_same_sweep(tiny_slm: SpeechTextModel, unequal: Contrast, tmp_path) -> None:
    found = patching.activation(tiny_slm, unequal, "z", policy="pooled")
    found.save(tmp_path / "sweep.nc")
    again = Sweep.load(tmp_path / "sweep.nc")
    assert again.dataset.identical(found.dataset) and repr(again) == repr(found)
    xr.Dataset({"x": 1}).to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    with pytest.raises(PatchingError, match="is no saved sweep"):
        Sweep.load(tmp_path / "other.nc")
    with pytest.raises(ReadoutError, match="is no saved sweep"):
        Sweep.load(tmp_path / "none.nc")


def test_a_sweep_shows_itself(tiny_slm: SpeechTextModel, unequal: Contrast) -> None:
    page = patching.activation(tiny_slm, unequal, policy="last_unit")._repr_html_()
    assert "resid_post, denoising, policy last_unit: 1 contrasts x 4 layers x 3 spans" in page and "0_pre" in page and "word 2" in page


def test_a_store_goes_on_where_it_stopped(tiny_slm: SpeechTextModel, equal: Contrast, unequal: Contrast, tmp_path, monkeypatch) -> None:
    options = {"policy": "pooled", "layers": [1], "site": "v", "store": tmp_path / "store"}
    patching.activation(tiny_slm, {"one": equal}, **options)
    runs: list[str] = []
    honest = engine.ran
    module = import_module("slm_interp.patching.activation")  # the package's attribute of that name is the function
    monkeypatch.setattr(module, "ran", lambda slm, prompt, *rest: runs.append(prompt.name) or honest(slm, prompt, *rest))
    both = patching.activation(tiny_slm, {"one": equal, "two": unequal}, **options)
    assert sorted(runs) == ["clean", "corrupted"]  # of the second contrast alone
    fresh = patching.activation(tiny_slm, {"one": equal, "two": unequal}, **{**options, "store": None})
    assert both.dataset.identical(fresh.dataset)


@pytest.mark.parametrize(
    "other", [{"outcome": outcomes.log_prob()}, {"site": "k"}, {"direction": "noising"}, {"layers": [0]}, {"policy": "warped"}]
)
def test_a_store_of_other_settings_is_refused(tiny_slm: SpeechTextModel, equal: Contrast, tmp_path, other: dict) -> None:
    options = {"policy": "pooled", "layers": [1], "site": "v", "store": tmp_path / "store"}
    patching.activation(tiny_slm, equal, **options)
    with pytest.raises(StoreError, match="was made with other settings"):
        patching.activation(tiny_slm, equal, **{**options, **other})


def test_contrasts_have_names_and_what_they_cluster_by(equal: Contrast) -> None:
    assert list(named([equal, equal])) == ["clean 0", "clean 1"] and list(named(equal)) == ["clean"]
    assert clusters_of(equal) == ("the _ of", "capital | france")
