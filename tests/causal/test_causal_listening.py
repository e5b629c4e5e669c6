"""The page of a causal experiment, heard: its sounds are those of `causal.continuations`, in the voice that was given or one that could be fitted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import slm_interp as si
from slm_interp import causal
from slm_interp.__main__ import app
from slm_interp.causal import Continuations, Effect
from slm_interp.causal.building.cases_built import Built
from slm_interp.errors import PatchingError, VocabularyError
from slm_interp.lenses.logit import LogitLens
from slm_interp.model import SpeechTextModel
from slm_interp.report import causal_listening
from slm_interp.report.causal_asking import Source
from slm_interp.report.causal_figures import shown
from slm_interp.report.causal_listening import Listening, listening, section_of
from slm_interp.speech.vocoder import UnitVocoder

ORGANISM, KIND, LAYERS, UNITS = "tiny-overlapped", "next-foreseen", (5, 8), 10


@pytest.fixture(scope="module")
def slm() -> SpeechTextModel:
    return si.load(ORGANISM, dtype=torch.float32)


@pytest.fixture(scope="module")
def built(slm: SpeechTextModel) -> Built:
    return Source(KIND, 2).cases(slm)


@pytest.fixture(scope="module")
def voice(slm: SpeechTextModel) -> UnitVocoder:
    """One that knows every unit but two, which are never heard in either prompt of the first case."""
    durations = np.ones(slm.vocabulary.n_units(), dtype=np.float16)
    durations[[54, 221]] = 0
    spectra = np.random.default_rng(0).normal(-6, 1, (len(durations), 201)).astype(np.float16)
    return UnitVocoder(spectra, durations, str(slm.vocabulary.quantiser), 640, 16_000)


@pytest.fixture(scope="module")
def out(voice: UnitVocoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command, with the first of two cases to be heard."""
    place = tmp_path_factory.mktemp("heard")
    voice.save(place / "voice")
    asked = ["causal", ORGANISM, KIND, "--count", "2", "--layers", ",".join(map(str, LAYERS)), "--no-pictures", "--out", str(place / "out")]
    patch = pytest.MonkeyPatch()
    patch.setattr(causal_listening, "UNITS", UNITS)
    with pytest.raises(SystemExit) as ended:
        app([*asked, "--listen", "1", "--vocoder", str(place / "voice")])
    patch.undo()
    assert not ended.value.code
    return place / "out"


def test_the_sounds_are_those_of_the_function_and_each_has_a_player(
    out: Path, slm: SpeechTextModel, built: Built, voice: UnitVocoder
) -> None:
    layer = shown(Effect.load(out / "effect.nc"))[0].layer
    found = causal.continuations(slm, built[0], LogitLens(slm), layer, units=UNITS, policy="warped", avoid=voice.unheard).listen(voice)
    back = Continuations.load(out / "sounds" / "1")
    pd.testing.assert_frame_equal(back.table, found.table)
    assert not (out / "sounds" / "2").exists() and found.runs == ("corrupted", "clean", "whole", "text", "complement")
    page = (out / "index.html").read_text()
    assert page.count("<audio") == 4 + len(found.runs)  # both prompts of two cases, and every run
    for run in found.runs:
        sound = found.audio_with_prompt(run)
        assert sound.data_uri() in page and (out / "sounds" / "1" / f"{run}_with_prompt.wav").read_bytes() == sound.wav_bytes()


def test_units_that_the_voice_does_not_know_are_not_said_and_the_page_says_so(out: Path) -> None:
    said = Continuations.load(out / "sounds" / "1")
    assert said.about["avoid"] == [54, 221] and not said.table["unit"].isin([54, 221]).any()
    assert "it knows 254 of 256 units" in (out / "index.html").read_text()


def test_a_prompt_with_units_that_the_voice_does_not_know_is_left_out_of_its_sound_and_the_page_says_so(
    out: Path, voice: UnitVocoder, tmp_path: Path
) -> None:
    found = Continuations.load(out / "sounds" / "1")
    prompts = found.prompts.copy()
    prompts.loc[prompts["prompt"] == "clean", "unit"] = 54
    found = replace(found, prompts=prompts).listen(voice)
    assert found.speaks_prompt("whole") and not found.speaks_prompt("clean")
    texts = [block.text for block in section_of([found], Listening(1, voice)).blocks if hasattr(block, "text")]
    assert [text for text in texts if "without its prompt" in text] == [
        "clean: the clean prompt, nothing changed; without its prompt, which has units that the voice never heard"
    ]
    found.save(tmp_path)
    assert (tmp_path / "clean.wav").exists() and not (tmp_path / "clean_with_prompt.wav").exists()


def test_a_voice_is_fitted_on_the_sound_that_is_at_hand(slm: SpeechTextModel, built: Built) -> None:
    found = listening(slm, built, "some folder", 1, None)
    assert found is not None and found.vocoder.quantiser == slm.vocabulary.quantiser
    heard = {int(one) for case in built for prompt in (case.source, case.base) for one in slm.quantiser.encode(prompt.audio).units}  # type: ignore[union-attr]
    assert heard == set(range(256)) - set(found.vocoder.unheard)


def test_the_voice_of_an_organism_has_heard_its_held_out_sentences_too(
    slm: SpeechTextModel, built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(causal_listening, "SENTENCES", 4)
    alone, more = (listening(slm, built, checkpoint, 1, None) for checkpoint in ("some folder", ORGANISM))
    assert alone is not None and more is not None and set(more.vocoder.unheard) < set(alone.vocoder.unheard)


def test_where_no_voice_can_be_had_that_is_said_before_anything_is_run(slm: SpeechTextModel, built: Built, voice: UnitVocoder) -> None:
    assert listening(slm, built, ORGANISM, 0, None) is None
    with pytest.raises(PatchingError, match="carries no quantiser to fit one with: give --quantiser, or --vocoder"):
        listening(replace(slm, quantiser=None), built, ORGANISM, 1, None)
    silent = [
        replace(case, contrast=replace(case.contrast, clean=replace(case.source, audio=None), corrupted=replace(case.base, audio=None)))
        for case in built
    ]
    with pytest.raises(PatchingError, match="no prompt of these cases has any"):
        listening(slm, Built(tuple(silent), built.left_out), "some folder", 1, None)
    for count, folder in ((-1, None), (0, "voice")):
        with pytest.raises(PatchingError, match="--listen is a number of cases"):
            listening(slm, built, ORGANISM, count, folder)


def test_a_saved_voice_of_other_units_is_refused(slm: SpeechTextModel, built: Built, voice: UnitVocoder, tmp_path: Path) -> None:
    replace(voice, quantiser="other").save(tmp_path)
    with pytest.raises(VocabularyError, match="these come from other"):
        listening(slm, built, ORGANISM, 1, tmp_path)
