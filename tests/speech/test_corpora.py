"""A corpus is the same utterances whatever it was kept in, and what lacks words, times or units is refused by file and line."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import datasets
import pandas as pd
import pytest
import torch

import slm_interp as si
from slm_interp.convert import load
from slm_interp.errors import SlmInterpError, SpeechError, VocabularyError
from slm_interp.model import SpeechTextModel
from slm_interp.speech import Corpus, corpus, words_to_spans
from slm_interp.utterance import Utterance
from tests.replicas import VARIANTS, text_tokenizer, write_slamkit
from tests.speech import real

CLIPS = 3
ANSWERS = ["one", "two", "three"]


@pytest.fixture(scope="module")
def slm() -> SpeechTextModel:
    return load("tiny")


@pytest.fixture(scope="module")
def heard(slm) -> list[Utterance]:
    return [sample.utterance(slm) for sample in si.organisms.samples("tiny")[:CLIPS]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Three clips with slamkit's alignments beside them, and a table of texts and answers."""
    root = tmp_path_factory.mktemp("clips")
    rows = []
    for number, sample in enumerate(si.organisms.samples("tiny")[:CLIPS]):
        (root / f"clip{number}.wav").write_bytes(sample.audio().wav_bytes())
        words = [[f" {word.text}", word.start_s, word.end_s] for word in sample.words]
        (root / f"clip{number}.json").write_text(json.dumps({"aligned_text": words}))
        rows.append({"name": f"clip{number}.wav", "text": sample.text, "answer": ANSWERS[number]})
    pd.DataFrame(rows).to_csv(root / "transcripts.csv", index=False)
    return root


@pytest.fixture(scope="module")
def table(folder) -> pd.DataFrame:
    """The same as `datasets` would keep it: sound as bytes, words as structs."""
    rows = []
    for number, sample in enumerate(si.organisms.samples("tiny")[:CLIPS]):
        words = [{"word": word.text, "start": word.start_s, "end": word.end_s} for word in sample.words]
        sound = {"bytes": (folder / f"clip{number}.wav").read_bytes(), "path": f"clip{number}.wav"}
        rows.append({"id": f"clip{number}", "prompt_audio": sound, "alignment": words, "fact": ANSWERS[number]})
    return pd.DataFrame(rows)


COLUMNS = {"name": "id", "audio": "prompt_audio", "words": "alignment", "answer": "fact"}


@pytest.fixture(scope="module")
def real_slm(tmp_path_factory) -> SpeechTextModel:
    """500 units of no declared codebook, as the recorded clips have them."""
    tokenizer = text_tokenizer()
    weights = write_slamkit(tmp_path_factory.mktemp("real"), VARIANTS["llama"], vocab_size=len(tokenizer) + 502)
    return load(weights, text_tokenizer=tokenizer)


def same(found: Corpus, wanted: list[Utterance]) -> bool:
    """Tokens, edges, and words with spans and seconds; 16-bit files round the samples, so seconds are compared and sounds are not."""
    return all(
        torch.equal(one.tokens, other.tokens) and torch.equal(one.edges, other.edges) and one.words == other.words
        for one, other in zip(found, wanted, strict=True)
    )


# -- the same whatever it was kept in --------------------------------------------------------------------


def test_a_folder_of_sounds_with_alignments_beside_them(slm, folder, heard):
    found = corpus(slm, folder)
    assert same(found, heard)
    assert found.answers == tuple(ANSWERS) and [one.name for one in found] == ["clip0", "clip1", "clip2"]
    assert all(one.audio is not None for one in found)


def test_a_table_with_mapped_columns_as_frame_parquet_folder_dataset_and_saved_dataset(slm, table, heard, tmp_path):
    (tmp_path / "parquet" / "data").mkdir(parents=True)
    table.to_parquet(tmp_path / "parquet" / "data" / "part-0.parquet")
    dataset = datasets.Dataset.from_pandas(table)
    dataset.save_to_disk(str(tmp_path / "saved"))
    for source in (table, tmp_path / "parquet" / "data" / "part-0.parquet", tmp_path / "parquet", dataset, tmp_path / "saved"):
        found = corpus(slm, source, COLUMNS)
        assert same(found, heard) and found.answers == tuple(ANSWERS)


@pytest.mark.parametrize("kind", ["triples", "lists"])
def test_words_of_a_table_may_be_triples_or_three_lists(slm, table, heard, kind):
    def kept(words):
        triples = [[one["word"], one["start"], one["end"]] for one in words]
        return triples if kind == "triples" else dict(zip(("word", "start", "end"), zip(*triples, strict=True), strict=True))

    assert same(corpus(slm, table.assign(alignment=table["alignment"].map(kept)), COLUMNS), heard)


def test_units_of_a_table_need_no_quantiser_and_no_sound(slm, heard):
    rows = []
    for sample in si.organisms.samples("tiny")[:CLIPS]:
        units = slm.quantiser.encode(sample.audio())
        words = [[word.text, word.start_s, word.end_s] for word in sample.words]
        rows.append({"units": units.units, "durations": units.durations, "words": words})
    frame_s = slm.quantiser.encode(si.organisms.samples("tiny")[0].audio()).frame_s
    found = corpus(slm, pd.DataFrame(rows))
    assert [one.tokens.tolist() for one in found] == [one.tokens.tolist() for one in heard]
    if frame_s == 0.04:
        assert same(found, heard)


def test_slamkits_features_with_transcripts_and_sound_are_aligned(real_slm, aligned):
    found = corpus(real_slm, real.FOLDER / "features.jsonl")
    assert sorted(one.name for one in found) == list(real.CLIPS)
    for one in found:
        words, units = aligned(one.name), real.units(one.name)
        told = si.speech.heard_words(words, units)
        placed = words_to_spans(told.words, units, offset=1)  # the marker of speech comes first
        assert [(word.text, word.span) for word in one.words] == [(word.text, word.span) for word in placed]
        assert torch.equal(one.edges[1:], torch.from_numpy(units.edges()).float())
    assert sum(found.left_out.values()) == sum(
        len(si.speech.heard_words(aligned(clip), real.units(clip)).without_units) for clip in real.CLIPS
    )


def test_slamkits_own_alignments_come_first_and_tokens_take_their_times_from_features(real_slm, tmp_path):
    lines = [json.loads(line) for line in (real.FOLDER / "features.jsonl").read_text().splitlines()]
    lines[0]["aligned_text"] = [[" that", 0.2, 0.5], [" had", 0.5, 0.8]]
    (tmp_path / "features.jsonl").write_text(json.dumps(lines[0]))
    first = (real.FOLDER / "tokens.jsonl").read_text().splitlines()[0]
    (tmp_path / "tokens.jsonl").write_text(first)
    (tmp_path / "audio2.ctm").write_text("audio2 1 0.2 0.3 that\naudio2 1 0.5 0.3 had\n")
    one, other = (corpus(real_slm, tmp_path / name) for name in ("features.jsonl", "tokens.jsonl"))
    assert [word.text for word in one.utterances[0].words] == ["that", "had"]
    assert same(one, list(other)) and one.hash == other.hash


def test_utterances_in_memory_are_taken_as_they_are(slm, heard):
    found = corpus(slm, heard, answers=ANSWERS)
    assert found.utterances == tuple(heard) and found.answers == tuple(ANSWERS) and corpus(slm, found) is found


# -- kept ------------------------------------------------------------------------------------------------


def test_a_saved_corpus_is_read_back_to_the_last_edge_without_its_sound(slm, folder, tmp_path):
    found = corpus(slm, folder)
    found.save(tmp_path)
    for source in (tmp_path, tmp_path / "corpus.json"):
        again = corpus(slm, source)
        assert same(again, list(found)) and again.hash == found.hash and again.answers == found.answers
        assert [(one.name, one.form, one.quantiser, one.labels) for one in again] == [
            (one.name, one.form, one.quantiser, one.labels) for one in found
        ]
        assert again.left_out == found.left_out and again.source == found.source


def test_a_hash_tells_answers_words_and_tokens_apart(slm, heard):
    hashes = {corpus(slm, heard).hash, corpus(slm, heard, answers=ANSWERS).hash, corpus(slm, heard[:2]).hash}
    hashes |= {corpus(slm, [heard[0].with_words(heard[0].words[:-1]), *heard[1:]]).hash, corpus(slm, heard[::-1]).hash}
    assert len(hashes) == 5


def test_a_saved_corpus_that_changed_is_refused(slm, heard, tmp_path):
    path = corpus(slm, heard).save(tmp_path)
    said = json.loads(path.read_text())
    word = said["utterances"][0]["words"][0][0]
    said["utterances"][0]["words"][0][0] = word + "s"
    path.write_text(json.dumps(said))
    with pytest.raises(SpeechError, match="does not hold what was saved: its hash is"):
        corpus(slm, tmp_path)
    for broken in ('{"cut', "[]", '{"schema": "slm_interp corpus 0"}', '{"schema": "slm_interp corpus 1"}'):
        path.write_text(broken)
        with pytest.raises(SpeechError, match=r"holds no saved corpus|has schema 'slm_interp corpus 0'"):
            corpus(slm, tmp_path)


def test_a_saved_corpus_of_another_codebook_is_refused(slm, tiny_slm, heard, tmp_path):
    corpus(slm, heard).save(tmp_path)
    with pytest.raises((VocabularyError, SlmInterpError)):
        corpus(tiny_slm, tmp_path)


# -- refused ---------------------------------------------------------------------------------------------


def refused(slm: SpeechTextModel, source: object, sentence: str, **options: object) -> None:
    with pytest.raises(SpeechError, match=re.escape(sentence)):
        corpus(slm, source, **options)


def test_a_clip_without_words_or_transcript_is_refused_by_its_file(slm, folder, tmp_path):
    shutil.copy(folder / "clip0.wav", tmp_path)
    refused(
        slm,
        tmp_path,
        f"{tmp_path / 'clip0.wav'} has no words with their seconds, and no transcript. Put clip0.TextGrid, .ctm or .json beside",
    )


def test_a_damaged_line_is_refused_by_its_number(real_slm, tmp_path):
    first, second = (real.FOLDER / "features.jsonl").read_text().splitlines()[:2]
    path = tmp_path / "features.jsonl"
    path.write_text(first + "\n" + second[:50])
    refused(real_slm, path, f"{path}, line 2 is not JSON")
    path.write_text(first)
    refused(real_slm, path, f"{path}, line 1 has no words with their seconds, and no transcript.")
    record = json.loads(first)
    path.write_text(json.dumps({**record, "aligned_text": [[" that", 0.5, 0.2]]}))
    refused(real_slm, path, f"{path}, line 1, aligned_text[0] must be a word with its start and end in seconds")
    path.write_text(json.dumps({**record, "aligned_text": [[" that", 0.2, 99.0]]}))
    refused(real_slm, path, f"{path}, line 1: ")


def test_tokens_without_features_or_with_others_are_refused(real_slm, tmp_path):
    shutil.copy(real.FOLDER / "tokens.jsonl", tmp_path)
    refused(real_slm, tmp_path / "tokens.jsonl", "not how long they last. Put its features.jsonl beside it.")
    lines = (real.FOLDER / "features.jsonl").read_text().splitlines()
    record = json.loads(lines[0])
    record["units"][0] += 1
    (tmp_path / "features.jsonl").write_text("\n".join([json.dumps(record), *lines[1:]]))
    (tmp_path / "transcripts.json").write_text("{}")
    refused(
        real_slm,
        tmp_path / "tokens.jsonl",
        f"{tmp_path / 'tokens.jsonl'}, line 1: the units of '../example_data/audio/audio2.flac' are not those of",
    )


def test_columns_that_are_not_there_are_refused(slm, table):
    refused(slm, table, "columns= maps audio or units, and words or text", columns={"audio": "sound", "words": "alignment"})
    refused(slm, table, "got nothing.", columns=None)
    refused(slm, table, "columns= maps", columns={**COLUMNS, "voice": "id"})


def test_rows_are_named_in_what_is_refused(slm, table):
    refused(slm, table.assign(fact=["one", " ", "three"]), "the table, row 1: answer must be written words; got ' '.", columns=COLUMNS)
    broken = table.assign(alignment=[*table["alignment"][:2], [{"word": "x", "start": 0.3}]])
    refused(slm, broken, "the table, row 2, alignment[0] must be a word with its start and end in seconds", columns=COLUMNS)
    silent = table.assign(prompt_audio=[None, *table["prompt_audio"][1:]])
    refused(slm, silent, "the table, row 0: sound is bytes, a path, or an array with its sampling_rate; got None.", columns=COLUMNS)
    noise = table.assign(prompt_audio=[{"bytes": b"noise", "path": None}, *table["prompt_audio"][1:]])
    refused(slm, noise, "the table, row 0: 5 bytes that are no sound", columns=COLUMNS)


def test_answers_for_some_clips_only_are_refused(slm, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "some")
    rows = pd.read_csv(folder / "transcripts.csv")
    rows.assign(answer=["one", "", "three"]).to_csv(tmp_path / "some" / "transcripts.csv", index=False)
    refused(slm, tmp_path / "some", "clip1.wav has no answer and others have (1 of 3 lack theirs). Give all or none.")


def test_what_is_no_corpus_is_refused(slm, heard, tmp_path):
    refused(slm, tmp_path, "holds no .wav, .flac, .ogg and no .parquet.")
    refused(slm, tmp_path / "absent", "is no corpus: give a folder of sounds")
    refused(slm, [], "A corpus has one utterance or more; memory gives none.")
    refused(slm, [heard[0], heard[0]], "Two utterances of memory are named")
    refused(slm, [heard[0].with_words(())], "1 utterances of memory have no words")
    refused(slm, heard, "3 utterances need as many answers, none blank, or no answers at all; got 2.", answers=["a", "b"])


def test_units_from_sound_take_a_quantiser(real_slm, folder):
    refused(real_slm, folder, "its units are made from sound, and this checkpoint carries no quantiser. Pass quantiser=")


def test_a_saved_dataset_without_the_package_says_what_to_install(slm, table, tmp_path, monkeypatch):
    datasets.Dataset.from_pandas(table).save_to_disk(str(tmp_path))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=re.escape("pip install 'slm-interp[datasets]'")):
        corpus(slm, tmp_path, COLUMNS)
