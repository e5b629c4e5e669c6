from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_interp.audio import Audio
from slm_interp.errors import SpeechError
from slm_interp.speech.acoustic import AcousticQuantiser, AcousticRecipe, features, fit_features
from slm_interp.speech.audio import resample
from slm_interp.speech.synthesis import synthesise
from slm_interp.speech.units import Units, merged

RECIPE = AcousticRecipe(n_units=16)


def said(text: str, voice: str = "en-us", pitch: int = 50) -> Audio:
    return resample(synthesise(text, voice, pitch=pitch).audio, 16_000)


@pytest.fixture(scope="module")
def quantiser() -> AcousticQuantiser:
    return AcousticQuantiser.fit([said("the capital of france is paris"), said("a cat sleeps beside the river", "en-us+f3")], RECIPE)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40))
def test_merging_loses_no_frame_and_leaves_no_equal_neighbours(frames: list[int]) -> None:
    units = merged(np.array(frames), 0.04, "q")
    assert np.repeat(units.units, units.durations).tolist() == frames
    assert (units.units[1:] != units.units[:-1]).all()
    assert units.edges()[0] == 0
    assert units.edges()[-1] == pytest.approx(len(frames) * 0.04)
    assert len(units.edges()) == len(units) + 1
    again = units.merged()
    assert again.units.tolist() == units.units.tolist()
    assert again.durations.tolist() == units.durations.tolist()
    assert (units.quantiser, units.frames) == ("q", len(frames))


def test_merging_adds_durations_and_does_not_count_units() -> None:
    assert Units(np.array([5, 5, 7]), np.array([2, 3, 1]), 0.04).merged().durations.tolist() == [5, 1]


@pytest.mark.parametrize(
    ("units", "durations", "frame_s", "sentence"),
    [
        ([1, 2], [1], 0.04, r"Each unit has one duration; got shapes \(2,\) and \(1,\)"),
        ([], [], 0.04, "There are no units"),
        ([1, -1], [1, 1], 0.04, "Units are numbered from 0; got -1"),
        ([1, 2], [1, 0], 0.04, "A unit lasts at least one frame; got a duration of 0"),
        ([1], [1], 0.0, "A frame lasts a positive number of seconds; got 0.0"),
    ],
)
def test_units_that_cannot_be_are_refused(units: list[int], durations: list[int], frame_s: float, sentence: str) -> None:
    with pytest.raises(SpeechError, match=sentence):
        Units(np.array(units, dtype=int), np.array(durations, dtype=int), frame_s)


@given(st.integers(321, 9000))
def test_edges_end_within_half_a_frame_of_the_sound(quantiser: AcousticQuantiser, samples: int) -> None:
    audio = Audio(np.random.default_rng(samples).normal(size=samples).astype(np.float32) * 0.1, 16_000)
    assert abs(quantiser.encode(audio).edges()[-1] - audio.seconds) <= 0.02 + 1e-9


def test_a_frame_lasts_40_ms() -> None:
    assert (RECIPE.frame, RECIPE.frame_s) == (640, 0.04)


def test_a_click_sounds_in_the_frame_it_is_in() -> None:
    """Frames neither lead nor lag: the loudest frame is the one that holds the click."""
    for frame in (0, 7, 24):
        samples = np.zeros(25 * 640, dtype=np.float32)
        samples[frame * 640 + 320] = 1.0
        assert int(features(Audio(samples, 16_000), RECIPE)[:, 0].argmax()) == frame


def test_loudness_and_voice_channel_cancel_in_the_utterance_mean() -> None:
    """A gain shifts the log spectrum by a constant, which the mean takes away; noise keeps clear of the floor."""
    noise = np.random.default_rng(0).normal(size=16_000).astype(np.float32)
    quiet, loud = (features(Audio(noise * gain, 16_000), RECIPE) for gain in (np.float32(0.1), np.float32(0.5)))
    np.testing.assert_allclose(quiet, loud, atol=2e-3)


def test_different_sounds_get_different_units_and_the_same_sound_the_same(quantiser: AcousticQuantiser) -> None:
    first, again, other = (quantiser.encode(said(text)).units.tolist() for text in ("see the moon", "see the moon", "four dark logs"))
    assert first == again != other
    assert len(set(first)) > 3


def test_the_nearest_centroid_names_the_unit(quantiser: AcousticQuantiser) -> None:
    audio = said("the river is quiet")
    points = features(audio, RECIPE) / quantiser.scale
    nearest = ((points[:, None] - quantiser.centroids[None]) ** 2).sum(-1).argmin(1)
    assert quantiser.frames(audio).tolist() == nearest.tolist()


def test_fitting_is_a_function_of_sounds_and_seed() -> None:
    sounds = [said("a cat sleeps"), said("a dog runs")]
    assert AcousticQuantiser.fit(sounds, RECIPE).hash == AcousticQuantiser.fit(sounds, RECIPE).hash
    assert AcousticQuantiser.fit(sounds, RECIPE).hash != AcousticQuantiser.fit(sounds, replace(RECIPE, seed=1)).hash


def test_what_was_saved_comes_back(quantiser: AcousticQuantiser, tmp_path: Path) -> None:
    quantiser.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["quantiser.json", "quantiser.safetensors"]
    back = AcousticQuantiser.load(tmp_path)
    assert back.hash == quantiser.hash
    assert len(back.hash) == 16
    assert back.recipe == RECIPE
    assert back.encode(said("hello")).units.tolist() == quantiser.encode(said("hello")).units.tolist()


def test_a_moved_centroid_makes_another_codebook(quantiser: AcousticQuantiser) -> None:
    moved = quantiser.centroids.copy()
    moved[0, 0] += 1e-3
    assert AcousticQuantiser(RECIPE, moved, quantiser.scale).hash != quantiser.hash
    assert AcousticQuantiser(replace(RECIPE, n_bands=41), quantiser.centroids, quantiser.scale).hash != quantiser.hash


def test_files_that_do_not_belong_together_are_refused(quantiser: AcousticQuantiser, tmp_path: Path) -> None:
    with pytest.raises(SpeechError, match=r"No quantiser.json"):
        AcousticQuantiser.load(tmp_path)
    quantiser.save(tmp_path)
    described = json.loads((tmp_path / "quantiser.json").read_text())
    (tmp_path / "quantiser.json").write_text(json.dumps({**described, "n_bands": 41}))
    with pytest.raises(SpeechError, match="do not belong together"):
        AcousticQuantiser.load(tmp_path)
    (tmp_path / "quantiser.json").write_text(json.dumps({**described, "kind": "hubert"}))
    with pytest.raises(SpeechError, match="of kind 'hubert'"):
        AcousticQuantiser.load(tmp_path)


def test_sound_it_cannot_take_is_refused(quantiser: AcousticQuantiser) -> None:
    with pytest.raises(SpeechError, match="16000 Hz"):
        quantiser.encode(Audio(np.zeros(1000, dtype=np.float32), 22_050))
    with pytest.raises(SpeechError, match="less than half a frame"):
        quantiser.encode(Audio(np.zeros(300, dtype=np.float32), 16_000))
    with pytest.raises(SpeechError, match="16 units need at least as many frames; got 5"):
        fit_features(np.zeros((5, 26), dtype=np.float32), RECIPE)
    with pytest.raises(SpeechError, match="finite"):
        AcousticQuantiser(RECIPE, np.full((16, 26), np.nan, dtype=np.float32), quantiser.scale)


def test_silence_is_a_unit_like_any_other(quantiser: AcousticQuantiser) -> None:
    assert len(quantiser.encode(Audio(np.zeros(6400, dtype=np.float32), 16_000))) == 1
