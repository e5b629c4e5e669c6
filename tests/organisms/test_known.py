"""What an organism knows: the same question asked in sound and in writing, of facts that are true in its world."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import slm_interp as si
from slm_interp.model import SpeechTextModel
from slm_interp.organisms import known as module
from slm_interp.organisms.contrasts import ContrastPair, contrasts
from slm_interp.organisms.known import WAYS, choices, known, written_choices
from slm_interp.organisms.world import World
from slm_interp.transcription import forced_choice

WORLD = World(seed=0)
COUNT = 4


@pytest.fixture(scope="module")
def slm() -> SpeechTextModel:
    return si.load("tiny")


@pytest.fixture(scope="module")
def made(slm: SpeechTextModel) -> dict[str, list[ContrastPair]]:
    return {kind: contrasts(slm, WORLD, kind, COUNT, seed=3) for kind in ("names", "facts", "homophones")}


def test_a_kind_with_two_prompts_asks_twice(slm: SpeechTextModel, made: dict[str, list[ContrastPair]]) -> None:
    for kind, pairs in made.items():
        asked = choices(pairs)
        twice = kind != "facts"
        assert len(asked) == COUNT * (2 if twice else 1)
        assert len({one.name for one in asked}) == len(asked)
        first = pairs[0].contrast
        assert asked[0].prompt is first.clean and asked[0].right is first.answer and asked[0].wrong is first.distractor
        if twice:
            assert asked[1].prompt is first.corrupted and asked[1].right is first.distractor and asked[1].wrong is first.answer
        if kind == "homophones":
            continue
        assert [one.cluster.split()[0] for one in asked[:: 1 + twice]] == [pair.word_clean.text for pair in pairs]
    answered = forced_choice(slm, choices(made["facts"]))
    assert answered["name"].tolist() == [pair.name for pair in made["facts"]]
    assert np.isfinite(answered["margin"]).all()


def test_the_same_question_in_writing(slm: SpeechTextModel, made: dict[str, list[ContrastPair]]) -> None:
    pairs = made["names"]
    marker = slm.vocabulary.marker("<text>")
    spoken, dictated, read = (WAYS[way](slm, pairs) for way in ("spoken", "dictated", "read"))
    assert [one.name for one in spoken] == [one.name for one in dictated] == [one.name for one in read]
    for heard, asked, written, pair in zip(spoken[::2], dictated[::2], read[::2], pairs, strict=True):
        assert asked.prompt.tokens.tolist() == [*heard.prompt.tokens.tolist(), marker]
        assert [word.text for word in written.prompt.words] == [word.text for word in heard.prompt.words]
        assert written.prompt.tokens[0] == marker and slm.vocabulary.mask("text")[written.prompt.tokens[1:]].all()
        assert tuple(asked.right.tolist()) == tuple(written.right.tolist()) == slm.word_ids(pair.answer)
        assert tuple(asked.wrong.tolist()) == slm.word_ids(pair.distractor)


def test_the_answers_are_true_in_the_world(made: dict[str, list[ContrastPair]]) -> None:
    for pair in made["names"]:
        name, category = pair.cluster.split(" | ")[0].split()
        values = {WORLD.facts[one.split()[0], category].value for one in pair.plan.about}
        assert {pair.answer, pair.distractor} == values
        assert WORLD.facts[pair.word_clean.text, category].value == pair.answer and name


def test_what_is_read_is_known_by_whom_it_was_told(slm: SpeechTextModel) -> None:
    """The packaged organism read the facts of two sides thousands of times, and those of the third never."""
    found = known(slm, WORLD, 12, sides=("read", "withheld")).set_index(["side", "way", "score"])
    assert found.loc[("read", "read", "paired"), "accuracy"] >= 0.9
    assert found.loc[("withheld", "read", "paired"), "high"] < 0.9
    assert (found["low"] <= found["accuracy"]).all() and (found["accuracy"] <= found["high"]).all()
    assert found.loc[("read", "spoken", "single"), "items"] == 24 and found.loc[("read", "spoken", "paired"), "items"] == 12


def test_spoken_answers_are_weighed_among_speech_and_written_ones_among_text(slm: SpeechTextModel, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, bool]] = []

    def watched(slm: SpeechTextModel, asked: Any, among: str) -> pd.DataFrame:
        seen.append((among, bool(slm.vocabulary.mask("text")[asked[0].right].all())))
        return forced_choice(slm, asked, among=among)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "transcription", SimpleNamespace(**{**vars(si.transcription), "forced_choice": watched}))
    known(slm, WORLD, 2, sides=("heard",))
    assert seen == [("speech", False), ("text", True), ("text", True)]


def test_a_model_without_text_cannot_be_asked_in_writing(made: dict[str, list[ContrastPair]], speech_only_slm: SpeechTextModel) -> None:
    with pytest.raises(si.errors.VocabularyError, match="no text ids"):
        written_choices(speech_only_slm, made["names"], "text")
    with pytest.raises(si.errors.UtteranceError, match="no marker that turns speech into text"):
        speech_only_slm.then(speech_only_slm.speech_prompt(torch.arange(4), torch.arange(5.0)), "text")


def test_going_on_in_another_modality_takes_a_marker_and_no_time(slm: SpeechTextModel, made: dict[str, list[ContrastPair]]) -> None:
    heard = made["names"][0].contrast.clean
    asked = slm.then(heard, "text")
    assert len(asked) == len(heard) + 1 and asked.seconds == heard.seconds and asked.words == heard.words
    assert asked.labels[-1] == "<text>" and torch.equal(asked.tokens[:-1], heard.tokens)
