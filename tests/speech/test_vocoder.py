"""The unit vocoder: what it says is heard as the units it was told to say."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from slm_interp.audio import Audio
from slm_interp.errors import SpeechError
from slm_interp.speech import AcousticQuantiser, AcousticRecipe, Units, UnitVocoder, merged, resample, synthesise
from slm_interp.speech.vocoder import griffin_lim, log_spectrogram, sound_of, spectral_convergence, spectrogram

TEXTS = (
    "the capital of france is paris",
    "a cat sleeps beside the river",
    "seven small birds follow the old king",
    "my brother sells red apples",
)
HOP = 160


def said(text: str) -> Audio:
    return resample(synthesise(text).audio, 16_000)


@lru_cache(maxsize=1)
def fitted() -> tuple[AcousticQuantiser, UnitVocoder]:
    sounds = [said(text) for text in TEXTS]
    quantiser = AcousticQuantiser.fit(sounds, AcousticRecipe(n_units=32))
    return quantiser, UnitVocoder.fit(sounds, quantiser, 32)


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=samples) * 0.1


# -- what is said --------------------------------------------------------------------------------------


def test_what_is_said_is_heard_as_the_units_it_was_said_from() -> None:
    """Chance is what a shuffled string gets; a sentence that fitting never met counts too."""
    quantiser, vocoder = fitted()
    for text in (*TEXTS, "the old cat follows a small king"):
        units = quantiser.encode(said(text))
        wanted, heard = np.repeat(units.units, units.durations), quantiser.frames(vocoder.audio(units, iterations=15))
        chance = (np.bincount(wanted, minlength=32) / len(wanted)) @ (np.bincount(heard, minlength=32) / len(heard))
        assert (wanted == heard).mean() > 0.6
        assert chance < 0.15


def test_a_sound_lasts_as_long_as_its_units() -> None:
    quantiser, vocoder = fitted()
    for durations in ([1], [3, 1, 2], [1] * 9):
        units = Units(np.arange(len(durations)), np.array(durations), 0.04, quantiser.hash)
        assert len(vocoder.audio(units, iterations=1).samples) == 640 * sum(durations)


def test_merged_and_unmerged_units_sound_the_same() -> None:
    quantiser, vocoder = fitted()
    frames = np.array([4, 4, 4, 7, 7, 1])
    whole = Units(frames, np.ones_like(frames), 0.04, quantiser.hash)
    np.testing.assert_array_equal(vocoder.audio(whole, 5).samples, vocoder.audio(merged(frames, 0.04, quantiser.hash), 5).samples)


def test_the_same_seed_gives_the_same_samples_and_another_seed_others() -> None:
    quantiser, vocoder = fitted()
    units = quantiser.encode(said("red apples"))
    first, again, other = (vocoder.audio(units, 5, seed=seed).samples for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_the_spectrum_of_a_unit_is_the_mean_over_its_windows() -> None:
    quantiser, vocoder = fitted()
    sounds = [said(text) for text in TEXTS]
    windows, owners = [], []
    for sound in sounds:
        frames = quantiser.frames(sound)
        length = 640 * len(frames)
        windows.append(log_spectrogram(np.pad(sound.samples, (0, 640))[:length].astype(np.float64), HOP))
        owners.append(np.repeat(frames, 4))
    for unit in (0, 5, 31):
        mean = np.concatenate(windows)[np.concatenate(owners) == unit].mean(0)
        np.testing.assert_allclose(vocoder.log_power[unit], mean, rtol=2e-3, atol=1e-2)


def test_a_held_unit_is_as_loud_in_every_bin_as_it_was_heard() -> None:
    quantiser, vocoder = fitted()
    for unit in (0, 5, 31):
        sound = vocoder.audio(Units(np.array([unit]), np.array([25]), 0.04, quantiser.hash))
        slope, level = np.polyfit(vocoder.log_power[unit].astype(float), log_spectrogram(sound.samples.astype(float), HOP).mean(0), 1)
        assert 0.8 < slope < 1.2, (slope, level)


def test_units_without_durations_last_as_long_as_they_did_on_average() -> None:
    quantiser, vocoder = fitted()
    runs = [quantiser.encode(said(text)) for text in TEXTS]
    units, durations = (np.concatenate([getattr(one, name) for one in runs]) for name in ("units", "durations"))
    timed = vocoder.timed(np.arange(32))
    for unit in range(32):
        assert abs(timed.durations[unit] - durations[units == unit].mean()) <= 0.501
    assert (timed.quantiser, timed.frame_s) == (quantiser.hash, 0.04)
    assert timed.durations.max() > 1
    assert len(vocoder.audio(vocoder.timed(np.array([3, 9, 3])), iterations=0).samples) == 640 * timed.durations[[3, 9, 3]].sum()


# -- the projections -----------------------------------------------------------------------------------


@pytest.mark.parametrize("hop", [160, 80, 34])
def test_a_sound_comes_back_from_its_own_spectrogram(hop: int) -> None:
    samples = noise(hop * 25)
    np.testing.assert_allclose(sound_of(spectrogram(samples, hop), hop), samples, atol=1e-10)


def test_a_window_is_centred_on_its_hop() -> None:
    for hop in (0, 7, 24):
        samples = np.zeros(25 * HOP)
        samples[hop * HOP + HOP // 2] = 1.0
        assert int(log_spectrogram(samples, HOP).sum(1).argmax()) == hop


def test_the_sound_of_a_spectrum_is_the_nearest_there_is() -> None:
    """Least squares: no change of the sound brings its spectrogram nearer to a spectrum that no sound has."""
    rng = np.random.default_rng(0)
    spectrum = spectrogram(noise(HOP * 12), HOP) * np.exp(2j * np.pi * rng.random((12, 201)))
    spectrum[:, [0, -1]] = spectrum[:, [0, -1]].real

    def distance(samples: np.ndarray) -> float:
        return whole(spectrogram(samples, HOP) - spectrum)

    def whole(difference: np.ndarray) -> float:
        """The norm over all 400 bins of the two-sided transform."""
        return float((np.abs(difference[:, 1:-1]) ** 2).sum() * 2 + (np.abs(difference[:, [0, -1]]) ** 2).sum())

    nearest = sound_of(spectrum, HOP)
    for seed in range(20):
        assert distance(nearest) < distance(nearest + 0.01 * noise(HOP * 12, seed))


def test_without_momentum_the_distance_never_grows_and_with_it_the_end_is_nearer() -> None:
    quantiser, vocoder = fitted()
    units = quantiser.encode(said(TEXTS[0]))
    magnitude = np.exp(np.repeat(np.repeat(vocoder.log_power[units.units].astype(float), units.durations, axis=0), 4, axis=0) / 2)
    plain = [spectral_convergence(griffin_lim(magnitude, HOP, steps, momentum=0.0), magnitude, HOP) for steps in range(9)]
    assert (np.diff(plain) <= 1e-3).all()
    assert plain[-1] < plain[0] / 2
    slow, fast = (spectral_convergence(griffin_lim(magnitude, HOP, 40, momentum=one), magnitude, HOP) for one in (0.0, 0.99))
    assert fast < 0.9 * slow


def test_a_magnitude_that_a_sound_has_is_reached() -> None:
    magnitude = np.abs(spectrogram(np.sin(np.arange(HOP * 30) * 0.3), HOP))
    assert spectral_convergence(griffin_lim(magnitude, HOP, 200), magnitude, HOP) < 0.05


# -- files ---------------------------------------------------------------------------------------------


def test_what_was_saved_comes_back_and_is_small(tmp_path: Path) -> None:
    quantiser, vocoder = fitted()
    vocoder.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vocoder.json", "vocoder.safetensors"]
    assert (tmp_path / "vocoder.safetensors").stat().st_size < 32 * 201 * 2 + 500
    back = UnitVocoder.load(tmp_path)
    units = quantiser.encode(said("red apples"))
    assert back.hash == vocoder.hash
    np.testing.assert_array_equal(back.audio(units, 3).samples, vocoder.audio(units, 3).samples)
    np.testing.assert_array_equal(back.timed(units.units).durations, vocoder.timed(units.units).durations)


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpeechError, match=r"No vocoder.json"):
        UnitVocoder.load(tmp_path)
    fitted()[1].save(tmp_path)
    described = json.loads((tmp_path / "vocoder.json").read_text())
    (tmp_path / "vocoder.json").write_text(json.dumps({**described, "quantiser": "another"}))
    with pytest.raises(SpeechError, match="do not belong together"):
        UnitVocoder.load(tmp_path)


# -- what is refused -----------------------------------------------------------------------------------


def test_units_of_another_quantiser_or_of_none_are_refused() -> None:
    _, vocoder = fitted()
    for quantiser, frame_s in (("another", 0.04), (None, 0.04), (vocoder.quantiser, 0.02)):
        with pytest.raises(SpeechError, match=f"speaks units of quantiser {vocoder.quantiser} with frames of 0.04 s"):
            vocoder.audio(Units(np.array([1]), np.array([2]), frame_s, quantiser))


def test_units_that_were_never_heard_are_refused_by_number() -> None:
    quantiser, _ = fitted()
    silence = Audio(np.zeros(6400, dtype=np.float32), 16_000)
    deaf = UnitVocoder.fit([silence], quantiser, 32)
    heard = int(quantiser.frames(silence)[0])
    assert deaf.unheard == tuple(one for one in range(32) if one != heard)
    strange = (heard + 1) % 32
    with pytest.raises(SpeechError, match=rf"Units \[{strange}\] were never heard when this vocoder was fitted"):
        deaf.audio(Units(np.array([heard, strange]), np.array([1, 1]), 0.04, quantiser.hash))
    with pytest.raises(SpeechError, match="were never heard"):
        deaf.timed(np.array([strange]))
    with pytest.raises(SpeechError, match=r"Units lie in 0..31; got 0 to 32"):
        deaf.timed(np.array([0, 32]))


def test_what_it_cannot_be_fitted_on_is_refused() -> None:
    quantiser, vocoder = fitted()
    with pytest.raises(SpeechError, match="fitted on sounds; got none"):
        UnitVocoder.fit([], quantiser, 32)
    with pytest.raises(SpeechError, match="its codebook was said to have 2 units"):
        UnitVocoder.fit([said(TEXTS[0])], quantiser, 2)
    with pytest.raises(SpeechError, match="16000 Hz"):
        UnitVocoder.fit([Audio(np.zeros(4000, dtype=np.float32), 22_050)], quantiser, 32)
    with pytest.raises(SpeechError, match="Spectra and durations must be finite"):
        replace(vocoder, log_power=np.full_like(vocoder.log_power, np.nan))
    with pytest.raises(SpeechError, match="spectra of 100 bins"):
        replace(vocoder, log_power=vocoder.log_power[:, :100])


@pytest.mark.parametrize("options", [{"iterations": -1}, {"momentum": 1.0}, {"momentum": -0.1}])
def test_iterations_and_momentum_out_of_range_are_refused(options: dict) -> None:
    with pytest.raises(SpeechError, match="Griffin-Lim runs 0 or more iterations"):
        griffin_lim(np.ones((3, 201)), HOP, **options)
