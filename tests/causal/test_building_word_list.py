"""Word lists on checkpoints of three families in their full format: eSpeak and recordings say them, splices differ in the word, and what fails is listed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import slm_interp as si
from slm_interp import speech
from slm_interp.causal.building import Built, espeak, recorded, word_list
from slm_interp.causal.building.speakers import Recording
from slm_interp.convert import load
from slm_interp.errors import PatchingError, SpeechError
from slm_interp.model import SpeechTextModel
from slm_interp.speech.acoustic import AcousticQuantiser
from slm_interp.speech.hubert import HubertQuantiser, HubertRecipe
from slm_interp.speech.quantiser import Quantiser
from slm_interp.speech.synthesis import synthesise
from tests.family_replicas import write_replica
from tests.replicas import VARIANTS, text_tokenizer, write_slamkit
from tests.speech.test_hubert import tiny

FRAME = "the capital of {word} is"
ROWS = pd.DataFrame(
    [
        (FRAME, "peru", "italy", "lima", "rome"),
        (FRAME, "spain", "peru", "madrid", "lima"),
        (FRAME, "italy", "spain", "rome", "madrid"),
    ],
    columns=["frame", "clean", "corrupted", "answer", "distractor"],
)
WORDS = "the capital of peru italy spain is lima rome madrid".split()


@pytest.fixture(scope="module")
def acoustic() -> AcousticQuantiser:
    return si.load("tiny").quantiser


@pytest.fixture(scope="module")
def hubert(tmp_path_factory: pytest.TempPathFactory) -> HubertQuantiser:
    """mHuBERT as a user gives it: a folder with weights and centroids; here its own states on some sentences."""
    folder, model = tmp_path_factory.mktemp("hubert"), tiny()
    model.save_pretrained(folder)
    bare = HubertQuantiser(model, np.zeros((12, 32)), HubertRecipe(layer=3, n_units=12))
    said = [
        speech.resample(synthesise(f"the capital of {word} is {answer}").audio, 16_000)
        for _, word, _, answer, _ in ROWS.itertuples(index=False)
    ]
    states = np.concatenate([bare.features(one).numpy() for one in said])
    np.save(folder / "centroids.npy", states)
    recipe = HubertRecipe(layer=3, n_units=len(states))
    return HubertQuantiser.load(folder, folder / "centroids.npy", recipe)


def replica(folder: Path, quantiser: AcousticQuantiser | HubertQuantiser) -> SpeechTextModel:
    tokenizer = text_tokenizer(WORDS)
    write_slamkit(folder, VARIANTS["qwen2"], vocab_size=len(tokenizer) + quantiser.n_units + 2)
    return load(folder, text_tokenizer=tokenizer, n_units=quantiser.n_units, quantiser=quantiser.hash)


@pytest.fixture(scope="module")
def slamkit(tmp_path_factory: pytest.TempPathFactory, acoustic: AcousticQuantiser) -> SpeechTextModel:
    return replica(tmp_path_factory.mktemp("slamkit") / "folder", acoustic)


@pytest.fixture(scope="module", params=["slamkit", "spiritlm", "glm4voice"])
def family(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, acoustic: AcousticQuantiser, hubert: HubertQuantiser
) -> tuple[SpeechTextModel, Quantiser, str | None]:
    """A model, what makes its units, and the form of an open prompt."""
    if request.param == "slamkit":
        return replica(tmp_path_factory.mktemp("sims") / "folder", hubert), hubert, None
    folder = write_replica(tmp_path_factory.mktemp(request.param) / "folder", request.param)
    return load(folder, quantiser=acoustic.hash), acoustic, "stream" if request.param == "glm4voice" else None


@pytest.fixture(scope="module")
def built(family: tuple[SpeechTextModel, Quantiser, str | None]) -> Built:
    slm, quantiser, form = family
    return word_list(slm, ROWS, espeak(slm, quantiser, form=form), espeak(slm, quantiser, "en-gb+f2", form=form))


def lost(cases: Built, what: str) -> dict[str, str]:
    rows = cases.left_out[cases.left_out["what"] == what]
    return dict(zip(rows["name"], rows["why"], strict=True))


def test_every_row_is_a_case_or_is_listed(built: Built) -> None:
    names = {f"the capital of _ is: {row.clean} / {row.corrupted}" for row in ROWS.itertuples()}
    assert {case.name for case in built} | set(lost(built, "case")) == names
    assert len(built) >= 2


def test_prompts_are_ones_that_the_model_reads_and_differ_in_the_word_alone(
    family: tuple[SpeechTextModel, Quantiser, str | None], built: Built
) -> None:
    slm, _, _ = family
    units = slm.vocabulary.mask("speech")
    for case in built:
        clean, corrupted = case.span.clean, case.span.corrupted
        for prompt, span, word in ((case.source, clean, case.words.clean), (case.base, corrupted, case.words.corrupted)):
            assert slm.check(prompt) is prompt
            assert units[prompt.tokens[span.start : span.stop]].all()
            assert prompt.word(word).span == span
            assert [one.text for one in prompt.words] == f"the capital of {word} is".split()
        assert case.source.tokens[: clean.start].tolist() == case.base.tokens[: corrupted.start].tolist()
        assert case.source.tokens[clean.stop :].tolist() == case.base.tokens[corrupted.stop :].tolist()
        assert units[case.contrast.answer].all() and units[case.contrast.distractor].all()
        assert case.prompt == "the capital of _ is"


def test_continuations_are_the_units_of_the_answer_in_its_own_sentence(
    family: tuple[SpeechTextModel, Quantiser, str | None], built: Built
) -> None:
    slm, quantiser, form = family
    answers = dict(zip(ROWS["clean"], ROWS["answer"], strict=True))
    for case in built:
        for word, ids in ((case.words.clean, case.contrast.answer), (case.words.corrupted, case.contrast.distractor)):
            said = espeak(slm, quantiser, form=form)(f"the capital of {word} is {answers[word]}").utterance
            span = said.words[-1].span
            assert said.words[-1].text == answers[word]
            assert ids.tolist() == said.tokens[span.start : span.stop].tolist()


def test_the_prompts_are_written_and_the_words_stand_where_it_says(
    family: tuple[SpeechTextModel, Quantiser, str | None], built: Built
) -> None:
    slm, _, _ = family
    for case in built:
        written = case.as_text()
        assert written is not None
        span = written.span.clean
        assert tuple(written.source.tokens[span.start : span.stop].tolist()) == slm.word_ids(case.words.clean)
        assert not slm.vocabulary.mask("speech")[written.source.tokens].any()
        if slm.provenance["family"] != "glm4voice":
            assert int(written.source.tokens[-1]) == slm.prompts.markers["speech"]


def test_another_voice_says_the_corrupted_prompt(built: Built) -> None:
    for case in built:
        assert case.other_voice is not None
        assert [word.text for word in case.other_voice.prompt.words] == [word.text for word in case.base.words]
        assert case.other_voice.prompt.word(case.words.corrupted).span == case.other_voice.span
        assert case.other_voice.prompt.tokens.tolist() != case.base.tokens.tolist()


def test_a_third_word_stands_in_the_frame_and_asks_for_something_else(slamkit: SpeechTextModel, acoustic: AcousticQuantiser) -> None:
    for case in word_list(slamkit, ROWS, espeak(slamkit, acoustic)):
        (rest,) = {"peru", "italy", "spain"} - {case.words.clean, case.words.corrupted}
        assert case.words.third == rest  # in this list every country has a capital of its own
    asking = pd.concat([ROWS[:1], pd.DataFrame([{**ROWS.iloc[1].to_dict(), "answer": "lima", "distractor": "rome", "carrier": "madrid"}])])
    built = word_list(slamkit, asking, espeak(slamkit, acoustic))  # now spain asks for lima too
    assert built[0].words.third is None
    assert built[0].name in lost(built, "third")


def test_words_that_are_given_are_taken_or_refused_by_name(slamkit: SpeechTextModel, acoustic: AcousticQuantiser) -> None:
    row = {**ROWS.iloc[0].to_dict(), "carrier": "madrid"}
    built = word_list(slamkit, pd.DataFrame([{**row, "third": "spain", "phonetic": "italy"}]), espeak(slamkit, acoustic))
    assert built[0].words.third == "spain"
    assert built[0].words.phonetic is None
    assert lost(built, "phonetic")[built[0].name] == "both are 'italy'"


def test_rows_that_cannot_be_said_spelled_or_told_apart_are_listed(slamkit: SpeechTextModel, acoustic: AcousticQuantiser) -> None:
    rows = [
        (FRAME, "peru", "narnia", "lima", "rome", "madrid"),
        (FRAME, "peru", "peru", "lima", "rome", "madrid"),
        (FRAME, "spain", "italy", "madrid", "madrid", "lima"),
        ("all of {word} is", "italy", "spain", "rome", "madrid", ""),
        (FRAME, "peru", "italy", "lima", "rome", "madrid"),
    ]
    table = pd.DataFrame(rows, columns=[*ROWS.columns, "carrier"])
    reasons = lost(word_list(slamkit, table, espeak(slamkit, acoustic)), "case")
    assert reasons["the capital of _ is: peru / narnia"] == "the tokenizer cannot spell 'narnia'"
    assert reasons["the capital of _ is: peru / peru"] == "both words are 'peru'"
    assert "give a carrier" in reasons["all of _ is: italy / spain"]


def test_recordings_are_taken_by_their_text_and_those_that_lack_are_listed(slamkit: SpeechTextModel, acoustic: AcousticQuantiser) -> None:
    def said(text: str) -> Recording:
        spoken = synthesise(text)
        return spoken.audio, spoken.words

    texts = [f"the capital of {word} is {answer}" for word in ("peru", "italy") for answer in ("lima", "rome", "madrid")]
    table = pd.concat([ROWS[:1].assign(carrier="madrid"), ROWS[2:].assign(carrier="lima")])
    built = word_list(slamkit, table, recorded(slamkit, {text: said(text) for text in texts}, acoustic))
    by_espeak = word_list(slamkit, table, espeak(slamkit, acoustic))
    assert [case.name for case in built] == ["the capital of _ is: peru / italy"]
    assert built[0].base.tokens.tolist() == by_espeak[0].base.tokens.tolist()
    assert "There is no recording of 'the capital of spain is lima'" in lost(built, "case")["the capital of _ is: italy / spain"]


def test_a_word_inside_one_unit_is_written_all_the_same(slamkit: SpeechTextModel, acoustic: AcousticQuantiser) -> None:
    def say_without_of(text: str) -> Recording:
        spoken = synthesise(text)
        return spoken.audio, [replace(one, end_s=one.start_s) if one.text == "of" else one for one in spoken.words]

    texts = [f"the capital of {word} is {answer}" for word in ("peru", "italy") for answer in ("lima", "rome", "madrid")]
    speaker = recorded(slamkit, {text: say_without_of(text) for text in texts}, acoustic)
    (case,) = word_list(slamkit, ROWS[:1].assign(carrier="madrid"), speaker)
    assert [word.text for word in case.base.words] == "the capital italy is".split()
    assert case.written is not None and case.written_span is not None
    assert [word.text for word in case.written.corrupted.words] == "the capital of italy is".split()
    span = case.written_span.corrupted
    assert tuple(case.written.corrupted.tokens[span.start : span.stop].tolist()) == slamkit.word_ids("italy")


def test_a_file_is_read_as_the_table_it_was_written_from(slamkit: SpeechTextModel, acoustic: AcousticQuantiser, tmp_path: Path) -> None:
    ROWS.to_csv(tmp_path / "words.csv", index=False)
    built = word_list(slamkit, tmp_path / "words.csv", espeak(slamkit, acoustic))
    assert [case.name for case in built] == [case.name for case in word_list(slamkit, ROWS, espeak(slamkit, acoustic))]
    with pytest.raises(PatchingError, match="no CSV file"):
        word_list(slamkit, tmp_path / "nowhere.csv", espeak(slamkit, acoustic))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows.drop(columns="answer"), "missing: .'answer'"),
        (lambda rows: rows.assign(colour="red"), "not known: .'colour'"),
        (lambda rows: rows.assign(frame="the capital is"), "Row 0 .* one {word} between blanks"),
        (lambda rows: rows.assign(clean="new york"), "Row 0 .* of several words: .'clean'"),
        (lambda rows: rows.assign(answer=None), "Row 0 .* empty: .'answer'"),
    ],
)
def test_tables_of_another_shape_are_refused(
    slamkit: SpeechTextModel, acoustic: AcousticQuantiser, change: Callable[[pd.DataFrame], pd.DataFrame], said: str
) -> None:
    with pytest.raises(PatchingError, match=said):
        word_list(slamkit, change(ROWS), espeak(slamkit, acoustic))


def test_a_list_without_a_single_case_says_why(slamkit: SpeechTextModel, acoustic: AcousticQuantiser) -> None:
    with pytest.raises(PatchingError, match=r"No case could be built from a list of 1 rows: of 1, the tokenizer cannot spell 'oz' \(1\)"):
        word_list(
            slamkit,
            pd.DataFrame([(FRAME, "oz", "italy", "lima", "rome", "madrid")], columns=[*ROWS.columns, "carrier"]),
            espeak(slamkit, acoustic),
        )


def test_a_speaker_needs_a_quantiser(slamkit: SpeechTextModel) -> None:
    with pytest.raises(SpeechError, match="carries no quantiser"):
        espeak(slamkit)
