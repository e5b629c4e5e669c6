"""A reading: its labels, its look-ups, and that a file gives it back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from slm_interp.errors import ReadoutError
from slm_interp.lenses import LogitLens, Reading
from slm_interp.model import SpeechTextModel
from slm_interp.utterance import Span, Utterance, Word


@pytest.fixture
def reading(tiny_slm: SpeechTextModel, spoken: Utterance) -> Reading:
    return LogitLens(tiny_slm).read(spoken, k=4, targets=[*spoken.words, "rome", 15])


def test_every_dimension_says_what_it_counts(reading: Reading, spoken: Utterance) -> None:
    data = reading.dataset
    assert dict(data.sizes) == {"layer": 4, "pos": 7, "k": 4, "modality": 3, "target": 4}
    assert data.layer_label.values.tolist() == ["0_pre", "0_post", "1_post", "2_post"]
    assert data.hook.values.tolist()[:2] == ["blocks.0.hook_resid_pre", "blocks.0.hook_resid_post"]
    assert data.label.values.tolist() == list(spoken.labels)
    assert data.kind.values.tolist() == ["marker", *["speech"] * 5, "marker"]
    assert data.word.values.tolist() == ["", "the", "the", "capital", "capital", "capital", ""]
    assert data.word_index.values.tolist() == [-1, 0, 0, 1, 1, 1, -1]
    np.testing.assert_allclose(data.end_s.values - data.start_s.values, spoken.edges.diff().numpy(), atol=1e-7)
    assert data.modality.values.tolist() == ["text", "speech", "marker"]
    assert int(data.modality_size.sum()) == 33
    assert data.top_id.dims == ("layer", "pos", "k")
    assert data.top_id_by_modality.dims == ("layer", "pos", "modality", "k")


def test_masses_of_the_modalities_sum_to_one(reading: Reading) -> None:
    np.testing.assert_allclose(reading.modality_mass().sum("modality").values, 1, rtol=1e-6)
    assert reading.entropy().dims == ("layer", "pos")


def test_labels_go_with_their_ids_and_modalities(reading: Reading, tiny_slm: SpeechTextModel) -> None:
    data = reading.dataset
    for name in ("top", "top_{}_by_modality"):
        ids = data[name.format("id") if "{}" in name else "top_id"].values.ravel()
        labels = data[name.format("label") if "{}" in name else "top_label"].values.ravel()
        assert all(label == ("" if one < 0 else tiny_slm.label(int(one))) for one, label in zip(ids, labels, strict=True))
    markers = data.sel(modality="marker")
    assert (markers.top_id_by_modality.isel(k=slice(2, None)) == -1).all()
    assert set(markers.top_label_by_modality.isel(k=slice(2)).values.ravel()) == {"<speech>", "<text>"}


def test_a_target_in_the_list_has_the_rank_of_its_place(reading: Reading) -> None:
    data = reading.dataset
    for target in range(data.sizes["target"]):
        place = (data.top_id == data.target_id[target]).argmax("k").where((data.top_id == data.target_id[target]).any("k"))
        rank = data.target_rank.isel(target=target)
        assert (place.isnull() | (place == rank)).all()
        assert ((rank >= 4) == place.isnull()).all()


def test_ranks_are_found_by_word_spelling_id_and_list(reading: Reading, spoken: Utterance) -> None:
    data = reading.dataset
    assert reading.rank_of("capital").target.values.tolist() == [1]
    assert reading.rank_of(spoken.words[1]).target.values.tolist() == [1]
    assert reading.rank_of(15).target.values.tolist() == [3]
    both = reading.rank_of(["rome", spoken.words[0]])
    assert both.dims == ("layer", "pos", "target")
    assert both.target_word.values.tolist() == ["rome", "the"]
    assert (reading.log_prob_of(15).values[..., 0] == data.target_log_prob.values[..., 3]).all()


def test_words_said_twice_are_told_apart_by_their_span(tiny_slm: SpeechTextModel, spoken: Utterance) -> None:
    twice = spoken.with_words((Word("the", Span(1, 3), 0.0, 0.12), Word("the", Span(4, 6), 0.2, 0.4)))
    reading = LogitLens(tiny_slm).read(twice)
    assert reading.rank_of(twice.words[1]).target.values.tolist() == [1]
    assert reading.rank_of(twice.words).target_start.values.tolist() == [1, 4]


@pytest.mark.parametrize("what", ["paris", 14, Word("the", Span(2, 3), 0.0, 0.1)])
def test_what_was_no_target_is_refused_with_the_way_out(reading: Reading, what: str | int | Word) -> None:
    with pytest.raises(
        ReadoutError, match=r"was no target of this reading; its targets are \['the', 'capital', 'rome', ''\]. Read again with targets="
    ):
        reading.rank_of(what)


def test_the_top_of_a_cell_is_a_table(reading: Reading) -> None:
    table = reading.top(layer=3, pos=1)
    assert list(table.columns) == ["id", "label", "log_prob", "prob"]
    assert table.index.tolist() == [1, 2, 3, 4]
    assert table["prob"].is_monotonic_decreasing


def test_the_dataframe_has_a_row_for_every_layer_position_and_target(
    reading: Reading, tiny_slm: SpeechTextModel, spoken: Utterance
) -> None:
    frame = reading.to_dataframe()
    assert len(frame) == 4 * 7 * 4
    assert {"layer", "pos", "target", "target_word", "target_rank", "entropy", "text_mass", "speech_mass", "top_label", "word"} <= set(
        frame.columns
    )
    assert len(LogitLens(tiny_slm).read(spoken, targets=None).to_dataframe()) == 4 * 7


def test_a_saved_reading_comes_back_the_same(reading: Reading, tmp_path: Path) -> None:
    path = tmp_path / "reading.nc"
    reading.save(path)
    xr.testing.assert_identical(Reading.load(path).dataset, reading.dataset)
    assert list(tmp_path.iterdir()) == [path]


def test_a_reading_without_targets_comes_back_too(tiny_slm: SpeechTextModel, spoken: Utterance, tmp_path: Path) -> None:
    reading = LogitLens(tiny_slm).read(spoken, targets=None)
    reading.save(tmp_path / "reading.nc")
    assert Reading.load(tmp_path / "reading.nc").dataset.sizes["target"] == 0


def test_what_is_no_saved_reading_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.nc").write_text("not a reading")
    with pytest.raises(ReadoutError, match="is no saved reading"):
        Reading.load(tmp_path / "notes.nc")
    xr.Dataset(attrs={"schema": 99}).to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    with pytest.raises(ReadoutError, match="A reading has schema 1; this dataset has 99"):
        Reading.load(tmp_path / "other.nc")


def test_a_failed_save_leaves_the_old_file(reading: Reading, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "reading.nc"
    reading.save(path)
    before = path.read_bytes()

    def fail(self: xr.Dataset, target: Path, **options: object) -> None:
        Path(target).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(xr.Dataset, "to_netcdf", fail)
    with pytest.raises(OSError, match="disk full"):
        reading.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_provenance_says_lens_rule_checkpoint_and_versions(reading: Reading, tiny_slm: SpeechTextModel) -> None:
    attrs = reading.dataset.attrs
    assert (attrs["lens"], attrs["final_norm"], attrs["exclude_input"], attrs["kinds"]) == ("logit", "on", "no", "text,speech,marker")
    assert "half of the other ids with an equal logit" in attrs["tie_rule"]
    assert json.loads(attrs["provenance_json"]) == dict(tiny_slm.provenance)
    assert {"torch", "transformer-lens"} <= set(json.loads(attrs["versions_json"]))
    assert attrs["utterance"] == "spoken"
    assert attrs["quantiser"] == "tiny"


def test_a_reading_shows_itself(reading: Reading) -> None:
    assert repr(reading) == "Reading(logit lens, final norm on, 4 layers x 7 positions, text, speech, marker, 4 targets, of 'spoken')"
    assert "2_post" in reading._repr_html_()
