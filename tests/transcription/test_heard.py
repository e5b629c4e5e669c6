"""Heard, not guessed: the layer is chosen on other utterances than it is reported on, and an organism that hears differs from one that cannot."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pandas as pd
import pytest

import slm_interp as si
from slm_interp import transcription
from slm_interp.organisms import RECIPES, ablation

module = import_module("slm_interp.transcription.heard")  # the package gives the function that name


@pytest.fixture(scope="module")
def supervised() -> tuple[si.SpeechTextModel, list[si.Utterance]]:
    slm = si.load("tiny-supervised")
    return slm, ablation.heard_sentences(slm, RECIPES["tiny-supervised"], 16)


@pytest.fixture(scope="module")
def table(supervised: tuple[si.SpeechTextModel, list[si.Utterance]]) -> pd.DataFrame:
    return transcription.heard(*supervised)


def test_the_supervised_organism_hears_beside_the_layer_it_was_trained_at_and_rises_there(table: pd.DataFrame) -> None:
    layer = RECIPES["tiny-supervised"].joint_phases[-1].supervised_layer
    rows = table[table["ranks"] == "joint"].set_index("measure")
    assert abs(rows.loc["heard", "layer"] - layer) <= 1 and rows.loc["rise", "layer"] == rows.loc["heard", "layer"]
    assert rows.loc["heard", "over_low"] > 0.3 and rows.loc["rise", "low"] > 0.3
    assert rows.loc["earliest", "layer"] <= layer


def test_the_layer_is_chosen_on_even_utterances_and_reported_on_odd_ones(
    supervised: tuple[si.SpeechTextModel, list[si.Utterance]], monkeypatch: pytest.MonkeyPatch
) -> None:
    slm, utterances = supervised
    halves: list[set[int]] = []
    whole = module.recall

    def watched(observations: transcription.Observations, *args: object, **options: object) -> pd.DataFrame:
        halves.append(set(np.unique(observations.dataset["utterance"].values % 2).tolist()))
        return whole(observations, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "recall", watched)
    transcription.heard(slm, utterances, ranks=("text",))
    assert halves == [{0}, {1}, {0, 1}]


def test_only_words_that_were_not_foreseen_are_counted(
    table: pd.DataFrame, supervised: tuple[si.SpeechTextModel, list[si.Utterance]]
) -> None:
    slm, utterances = supervised
    cost = transcription.surprisal(slm, utterances)
    unforeseen = cost[cost["text_rank"] >= 10]
    counted = table.set_index(["ranks", "measure"])["n"]
    assert counted.loc[("joint", "earliest")] <= len(unforeseen)
    assert counted.loc[("joint", "heard")] <= (unforeseen["utterance"] % 2 == 1).sum()
    assert counted.loc[("joint", "heard")] > 0.8 * (unforeseen["utterance"] % 2 == 1).sum()


def test_speech_alone_is_above_its_null_nowhere() -> None:
    slm = si.load("tiny-speech")
    found = transcription.heard(slm, ablation.heard_sentences(slm, RECIPES["tiny-speech"], 16), ranks=("joint",)).set_index("measure")
    assert found.loc["earliest", "layer"] == -1
    assert found.loc["heard", "over_low"] <= 0
