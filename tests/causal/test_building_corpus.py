"""Minimal pairs of corpora, and facts of one frame: found by themselves, spliced, and whatever makes none is listed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import pytest
import torch

import slm_interp as si
from slm_interp import speech
from slm_interp.causal.building import Built, corpus_pairs, fact_pairs
from slm_interp.causal.building.corpus import ALONE, PAIRED, SAME
from slm_interp.convert import load
from slm_interp.errors import PatchingError
from slm_interp.model import SpeechTextModel
from slm_interp.speech.synthesis import synthesise
from slm_interp.utterance import Span, Utterance, Word
from tests.replicas import VARIANTS, text_tokenizer, write_slamkit
from tests.speech import real

UNITS = {
    "the": [1, 2],
    "capital": [3, 4],
    "of": [5],
    "france": [6, 7, 8],
    "is": [9],
    "paris": [10, 11],
    "rome": [12, 13],
    "see": [14, 15],
    "sea": [16],
    "a": [17],
}


def sentence(slm: SpeechTextModel, text: str, name: str, otherwise: Mapping[str, list[int]] = {}) -> Utterance:
    """Every word by units of its own; some may be said otherwise."""
    said = {**UNITS, **otherwise}
    units = [unit for word in text.split() for unit in said[word]]
    words, start = [], 0
    for word in text.split():
        stop = start + len(said[word])
        words.append(Word(word, Span(start, stop), 0.04 * start, 0.04 * stop))
        start = stop
    edges = 0.04 * torch.arange(len(units) + 1)
    return slm.speech_prompt(torch.tensor(units), edges, words, quantiser="tiny", name=name)


def pairs_of(slm: SpeechTextModel, texts: Sequence[str], **options: object) -> Built:
    return corpus_pairs(slm, [sentence(slm, text, f"s{number}") for number, text in enumerate(texts)], **options)  # type: ignore[arg-type]


def reasons(built: Built, what: str) -> dict[str, str]:
    rows = built.left_out[built.left_out["what"] == what]
    return dict(zip(rows["name"], rows["why"], strict=True))


def ids(slm: SpeechTextModel, text: str) -> list[int]:
    return slm.vocabulary.unit_to_id(torch.tensor([unit for word in text.split() for unit in UNITS[word]])).tolist()


@pytest.fixture(scope="module")
def real_slm(tmp_path_factory: pytest.TempPathFactory) -> SpeechTextModel:
    """A checkpoint in SIMS's format: 500 units of mHuBERT, and a text side that spells what the recorded clips say."""
    tokenizer = text_tokenizer(sorted({word for clip in real.CLIPS for word in real.transcript(clip).split()}))
    folder = write_slamkit(tmp_path_factory.mktemp("sims") / "folder", VARIANTS["qwen2"], vocab_size=len(tokenizer) + 502)
    return load(folder, text_tokenizer=tokenizer, quantiser="mhubert")


# -- corpora -----------------------------------------------------------------------------------------


def test_sentences_that_differ_in_a_word_and_then_go_on_otherwise_are_a_pair(tiny_slm: SpeechTextModel) -> None:
    (case,) = pairs_of(tiny_slm, ["the capital of france is paris a", "the capital of rome is see the"])
    assert case.name == "s0 / s1"
    assert (case.words.clean, case.words.corrupted) == ("france", "rome")
    assert case.source.tokens[1:].tolist() == ids(tiny_slm, "the capital of france is")
    assert case.base.tokens[1:].tolist() == ids(tiny_slm, "the capital of rome is")
    assert case.contrast.answer.tolist() == ids(tiny_slm, "paris")
    assert case.contrast.distractor.tolist() == ids(tiny_slm, "see")
    assert case.source.word("france").span == case.span.clean
    assert case.base.word("rome").span == case.span.corrupted
    assert (case.prompt, case.word) == ("the capital of _ is", "france | rome")


def test_the_continuation_is_the_first_word_that_differs_after_the_gap(tiny_slm: SpeechTextModel) -> None:
    (case,) = pairs_of(tiny_slm, ["see the sea of paris", "see the capital of rome"])
    assert (case.words.clean, case.words.corrupted) == ("sea", "capital")
    assert case.contrast.answer.tolist() == ids(tiny_slm, "paris")
    with pytest.raises(PatchingError, match="No case"):
        pairs_of(tiny_slm, ["the sea rome", "the france paris"])  # one shared word before; by default two are wanted
    assert len(pairs_of(tiny_slm, ["the sea rome", "the france paris"], around=1)) == 1


def test_sentences_without_a_pair_are_listed_with_their_reason(tiny_slm: SpeechTextModel) -> None:
    built = pairs_of(
        tiny_slm,
        [
            "the capital of france is paris",
            "the capital of rome is see",
            "the capital of sea is a",  # whose partners are taken
            "see the capital of paris is a",
            "see the capital of rome is a",  # go on alike
            "a sea is rome",
        ],
    )
    assert [case.name for case in built] == ["s0 / s1"]
    assert reasons(built, "sentence") == {"s2": PAIRED, "s3": SAME, "s4": SAME, "s5": ALONE}


def test_a_third_word_is_of_the_frame_where_it_can_be(tiny_slm: SpeechTextModel) -> None:
    built = pairs_of(tiny_slm, ["the capital of france is paris", "the capital of rome is see", "the capital of sea is a"])
    assert built[0].words.third == "sea"
    asking = pairs_of(tiny_slm, ["the capital of france is paris", "the capital of rome is see", "the capital of sea is paris"])
    assert asking[0].words.third != "sea"  # it asks for the answer
    assert "third of its frame" in set(asking.left_out["what"])


def test_speakers_are_kept_apart(tiny_slm: SpeechTextModel) -> None:
    texts = ["the capital of france is paris", "the capital of rome is see", "the capital of sea is a"]
    (case,) = pairs_of(tiny_slm, texts, speakers=["anna", "ben", "anna"])
    assert case.name == "s0 / s2"


def test_a_splice_that_would_repeat_a_unit_is_listed(tiny_slm: SpeechTextModel) -> None:
    one = sentence(tiny_slm, "see of france is paris", "s0")
    other = sentence(tiny_slm, "see of rome is see", "s1", {"of": [18], "rome": [5, 13]})  # begins with what `of` is in the other
    fine = [sentence(tiny_slm, text, name) for text, name in (("the sea of paris is a", "s2"), ("the sea of see is the", "s3"))]
    built = corpus_pairs(tiny_slm, [one, other, *fine])
    assert [case.name for case in built] == ["s2 / s3"]
    assert reasons(built, "case") == {"s0 / s1": "a unit would follow itself where the splice meets the prompt"}
    assert reasons(built, "sentence") == {"s0": PAIRED, "s1": PAIRED}


def test_recorded_speech_with_real_units_gives_pairs_that_differ_in_the_word_alone(real_slm: SpeechTextModel) -> None:
    """A clip is cut into stretches of four words; where two of them begin alike but for a word, they are a pair."""
    audio, units = real.sound("audio2"), real.units("audio2")
    words = speech.words_to_spans(speech.align(audio, real.transcript("audio2")), units)
    ids, edges = torch.from_numpy(units.units).long(), torch.from_numpy(units.edges()).float()
    heard = real_slm.speech_prompt(ids, edges, words, audio, "mhubert", name="clip")
    stretches = [stretch(heard, start, start + 4) for start in range(len(heard.words) - 3)]
    built = corpus_pairs(real_slm, stretches, around=1)
    assert len(built) >= 3
    assert 2 * len(built) + len(reasons(built, "sentence")) == len(stretches)
    for case in built:
        clean, corrupted = case.span.clean, case.span.corrupted
        assert real_slm.vocabulary.mask("speech")[case.base.tokens[1:]].all()
        assert case.source.tokens[: clean.start].tolist() == case.base.tokens[: corrupted.start].tolist()
        assert case.source.tokens[clean.stop :].tolist() == case.base.tokens[corrupted.stop :].tolist()
        assert case.base.audio is not None and case.base.audio.seconds == pytest.approx(
            case.base.seconds - float(case.base.edges[0]), abs=0.01
        )


def stretch(whole: Utterance, first: int, last: int) -> Utterance:
    """Some words of an utterance, behind its marker, by themselves."""
    begin, end = whole.words[first].span.start, whole.words[last - 1].span.stop
    zero = float(whole.edges[begin])
    words = [Word(one.text, one.span.shifted(1 - begin), max(0.0, one.start_s - zero), one.end_s - zero) for one in whole.words[first:last]]
    edges = torch.cat([torch.zeros(1).to(whole.edges), whole.edges[begin : end + 1] - zero])
    audio = None if whole.audio is None else whole.audio.slice(zero, float(whole.edges[end]))
    tokens = torch.cat([whole.tokens[:1], whole.tokens[begin:end]])
    return Utterance(tokens, edges, tuple(words), (), audio, whole.quantiser, whole.form, f"{whole.name} {first}")


def test_utterances_without_names_or_words_and_missing_speakers_are_refused(tiny_slm: SpeechTextModel) -> None:
    with pytest.raises(PatchingError, match="each of its own name"):
        corpus_pairs(tiny_slm, [sentence(tiny_slm, "the capital of", "s"), sentence(tiny_slm, "the capital is", "s")])
    with pytest.raises(PatchingError, match="1 without words"):
        corpus_pairs(tiny_slm, [sentence(tiny_slm, "the capital of", "s").with_words(())])
    with pytest.raises(PatchingError, match="1 utterances need as many speakers; got 2"):
        pairs_of(tiny_slm, ["the capital of"], speakers=["a", "b"])


# -- fact tables -------------------------------------------------------------------------------------


def fact(name: str, prompt: str, right: str, voice: str = "en-us", alone: bool = False) -> dict[str, object]:
    """A row as the published set has it: sounds as bytes, words of the prompt with their seconds."""
    said, answer = synthesise(prompt, voice), synthesise(right, voice)
    words = [{"word": word.text, "start": word.start_s, "end": word.end_s} for word in said.words]
    sounds = [{"bytes": one.audio.wav_bytes(), "path": None} for one in (said, answer)]
    return {
        "id": name,
        "prompt_audio": sounds[0],
        "alignment": words,
        "correct_audio": sounds[1],
        "fact": right,
        "speaker": voice,
        "prompt_text": prompt,
    }


COLUMNS = {"name": "id", "prompt": "prompt_audio", "words": "alignment", "right": "correct_audio", "right_text": "fact"}
FACTS = (
    ("france", "the capital of france is", "paris"),
    ("italy", "the capital of italy is", "rome"),
    ("spain", "the capital of spain is", "madrid"),
    ("snow", "the colour of snow is", "white"),
    ("grass", "the colour of grass is", "green"),
    ("moon", "the moon is far", "away"),
)


@pytest.fixture(scope="module")
def organism() -> SpeechTextModel:
    return si.load("tiny", dtype=torch.float32)


@pytest.fixture(scope="module")
def facts() -> pd.DataFrame:
    return pd.DataFrame([fact(*row) for row in FACTS])


def test_facts_of_one_frame_meet_and_the_others_are_listed(organism: SpeechTextModel, facts: pd.DataFrame) -> None:
    built = fact_pairs(organism, facts, COLUMNS)
    made = {case.name for case in built} | set(reasons(built, "case"))
    assert made == {
        "the capital of _ is: france / italy",
        "the capital of _ is: italy / spain",
        "the capital of _ is: spain / france",
        "the colour of _ is: grass / snow",
    }
    assert reasons(built, "item") == {"moon": "no other item has its prompt with one other word and another answer"}


def test_each_prompt_asks_for_its_own_fact_and_differs_in_the_word_alone(organism: SpeechTextModel, facts: pd.DataFrame) -> None:
    answers = dict(zip(facts["prompt_text"].str.split().str[3], facts["fact"], strict=True))
    for case in fact_pairs(organism, facts, COLUMNS):
        clean, corrupted = case.span.clean, case.span.corrupted
        assert case.source.tokens[: clean.start].tolist() == case.base.tokens[: corrupted.start].tolist()
        assert case.source.tokens[clean.stop :].tolist() == case.base.tokens[corrupted.stop :].tolist()
        assert organism.check(case.base).word(case.words.corrupted).span == corrupted
        for word, ids in ((case.words.clean, case.contrast.answer), (case.words.corrupted, case.contrast.distractor)):
            units = organism.quantiser.encode(speech.resample(synthesise(answers[word]).audio, 16_000)).units
            assert ids.tolist() == organism.vocabulary.unit_to_id(torch.from_numpy(units).long()).tolist()


def test_a_third_country_stands_in_the_frame_and_has_another_capital(organism: SpeechTextModel, facts: pd.DataFrame) -> None:
    for case in fact_pairs(organism, facts[:3], COLUMNS):
        (rest,) = {"france", "italy", "spain"} - {case.words.clean, case.words.corrupted}
        assert case.words.third in (rest, None) or len(organism.word_ids(rest)) != len(organism.word_ids(case.words.clean))


def test_facts_of_two_voices_do_not_meet_where_voices_are_told(organism: SpeechTextModel, facts: pd.DataFrame) -> None:
    mixed = pd.DataFrame(
        [fact("france", "the capital of france is", "paris"), fact("italy", "the capital of italy is", "rome", "en-gb+f2")]
    )
    assert len(fact_pairs(organism, mixed, COLUMNS)) == 1
    with pytest.raises(PatchingError, match="No case"):
        fact_pairs(organism, mixed, {**COLUMNS, "voice": "speaker"})


def test_units_in_place_of_sound_are_taken_for_continuations(organism: SpeechTextModel, facts: pd.DataFrame) -> None:
    units = [organism.quantiser.encode(speech.resample(synthesise(text).audio, 16_000)).units for text in facts["fact"]]
    built = fact_pairs(organism, facts.assign(correct_audio=[list(map(int, one)) for one in units]), COLUMNS)
    assert [case.contrast.answer.tolist() for case in built] == [
        case.contrast.answer.tolist() for case in fact_pairs(organism, facts, COLUMNS)
    ]


def test_columns_that_are_missing_or_not_known_are_refused(organism: SpeechTextModel, facts: pd.DataFrame) -> None:
    for columns, said in (
        ({**COLUMNS, "wrong": "fact"}, "not known: .'wrong'"),
        ({key: one for key, one in COLUMNS.items() if key != "right"}, "missing: .'right'"),
        ({**COLUMNS, "right": "nowhere"}, "not in the table: .'nowhere'"),
    ):
        with pytest.raises(PatchingError, match=said):
            fact_pairs(organism, facts, columns)
