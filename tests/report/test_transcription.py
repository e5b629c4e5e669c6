"""The transcription command: the numbers are those of the functions it calls, it goes on where it was stopped, and it refuses another question."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import slm_interp as si
from slm_interp import LogitLens, transcription
from slm_interp.__main__ import app
from slm_interp.convert import load
from slm_interp.errors import ReadoutError, SpeechError, StoreError
from slm_interp.model import SpeechTextModel
from slm_interp.report import Asking, Reading, asking_of, measuring, run
from slm_interp.report import transcription as command
from slm_interp.speech import Corpus
from slm_interp.store import Store
from slm_interp.transcription.paper import TABLE_1, figure_2, nearest_row

ASKING = Asking(k=(1, 10), draws=2, jitter=1)
CLIPS = 5


@pytest.fixture(scope="module")
def slm() -> SpeechTextModel:
    return load("tiny")


@pytest.fixture(scope="module")
def spoken(slm, tmp_path_factory) -> Path:
    """Five sample sentences with an answer each, as a saved corpus; parts of two utterances."""
    samples = si.organisms.samples("tiny")[:CLIPS]
    answers = tuple(one.words[0].text for one in samples)
    folder = tmp_path_factory.mktemp("corpus")
    Corpus(tuple(one.utterance(slm) for one in samples), answers).save(folder)
    return folder


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(measuring, "BLOCK", 2)
    monkeypatch.setattr(measuring, "OFFSETS", range(-2, 4))


@pytest.fixture(scope="module")
def whole(slm, spoken, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(measuring, "BLOCK", 2)
        patched.setattr(measuring, "OFFSETS", range(-2, 4))
        run(slm, Reading(str(spoken)), out, asking=ASKING)
    return out


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# -- the numbers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["current", "next", "answer"])
def test_recalls_are_those_of_the_functions(slm, spoken, whole, target):
    corpus = Corpus.load(slm, spoken)
    seen = transcription.observe(slm, list(corpus), target=target, draws=2, answers=corpus.answers)
    wanted = transcription.recall(seen, k=(1, 10))
    table = pd.read_parquet(whole / "recall.parquet")
    found = table[(table["target"] == target) & (table["jitter"] == 0) & (table["group"] == "all")].reset_index(drop=True)
    pd.testing.assert_frame_equal(found[list(wanted)], wanted, check_exact=False, atol=1e-9)


def test_observations_are_one_row_for_every_word_layer_and_candidate(slm, whole):
    rows = pd.read_parquet(whole / "observations.parquet")
    assert not rows.duplicated(["target", "place", "null", "draw", "layer"]).any()
    words = rows[["target", "place"]].drop_duplicates()
    assert len(rows) == len(words) * (1 + 3 * 2) * (slm.model.cfg.n_layers + 1)
    assert set(rows["target"]) == {"current", "next", "answer"}


def test_the_jittered_recall_is_that_of_moved_boundaries(slm, spoken, whole):
    corpus = Corpus.load(slm, spoken)
    seen = transcription.observe(slm, list(corpus), draws=2, jitter=1, answers=corpus.answers)
    table = pd.read_parquet(whole / "recall.parquet")
    found = table[table["jitter"] == 1].reset_index(drop=True)
    wanted = transcription.recall(seen, k=(1, 10))
    np.testing.assert_allclose(found["recall"], wanted["recall"])


def test_groups_are_those_of_predictability(slm, spoken, whole):
    corpus = Corpus.load(slm, spoken)
    seen = transcription.observe(slm, list(corpus), draws=2, answers=corpus.answers)
    wanted = transcription.recall(
        transcription.with_predictability(seen, slm, list(corpus), corpus.answers), k=(1, 10), by="predictability"
    )
    table = pd.read_parquet(whole / "recall.parquet")
    found = table[(table["target"] == "current") & (table["group"] != "all")]
    assert set(found["group"]) == set(wanted["predictability"])
    np.testing.assert_allclose(
        found.sort_values(["group", "k", "layer"])["recall"], wanted.sort_values(["predictability", "k", "layer"])["recall"]
    )


def test_tidy_tables_hold_the_datasets_they_were_made_of(slm, spoken, whole):
    corpus = list(Corpus.load(slm, spoken))
    mass = figure_2(slm, corpus, draws=2)
    xr.testing.assert_allclose(measuring.mass_of(pd.read_parquet(whole / "mass.parquet")), mass, rtol=1e-6)
    at = transcription.by_position(slm, corpus, offsets=range(-2, 4), question=ASKING.question("current", None))
    back = measuring.positions_of(pd.read_parquet(whole / "by_position.parquet"))
    for name, values in at.data_vars.items():
        np.testing.assert_allclose(back[name].transpose(*values.dims).values, values.values, rtol=1e-6)
    assert list(back["null"].values) == list(at["null"].values)


def test_speech_and_text_input_are_those_of_modality_mass(slm, spoken):
    corpus = list(Corpus.load(slm, spoken))
    found = figure_2(slm, corpus, draws=2)
    read = [slm.text_prompt(" " + " ".join(word.text for word in one.words)) for one in corpus]
    for given, some in (("speech", corpus), ("text", read)):
        np.testing.assert_allclose(found["mass"].sel(input=given), transcription.modality_mass(slm, some, draws=2)["mass"])
    text = found["mass"].sel(modality="text", pooling="max")
    assert float(text.sel(input="text").mean()) > float(text.sel(input="speech").mean())


# -- the page and the paper ------------------------------------------------------------------------------


def test_the_page_and_the_table_show_the_papers_row_beside_ours(slm, whole):
    table = pd.read_csv(whole / "table_1.csv")
    text, interleaved, _ = si.organisms.RECIPES["tiny"].joint_phases[-1].mix
    row = nearest_row(True, text > 0, interleaved)
    assert row is not None and list(table["paper"]) == pytest.approx([row.current / 100, row.next / 100, row.answer / 100])
    assert set(table["paper_model"]) == {row.model}
    page = (whole / "transcription.html").read_text()
    for sentence in (row.model, "What this cannot show", "Heard or guessed?", "secondary summaries", str(slm.provenance["fingerprint"])):
        assert sentence in page
    assert "http://" not in re.sub(r"http://www\.w3\.org|<script>.*?</script>", "", page, flags=re.DOTALL)


def test_the_released_model_stands_beside_its_own_row(slm):
    released = replace(slm, provenance={**slm.provenance, "checkpoint": "slprl/SIMS-Llama3.2-3B"})
    row, why = command.paper_row(released)
    assert row is TABLE_1[0] and "released model itself" in why
    assert command.paper_row(replace(slm, provenance={"checkpoint": "slprl/SIMS-7B"}))[0] is None


def test_every_figure_is_there_and_draws_its_nulls(whole):
    names = {path.stem for path in (whole / "figures").glob("*.html")}
    assert names == {"figure_2_mass", "figure_3_current", "figure_3_next", "figure_4_answer", "by_position"}
    for name in names:
        html = (whole / "figures" / f"{name}.html").read_text()
        assert "plotly.min.js" in html and ("random vectors" if name == "figure_2_mass" else "elsewhere") in html
    assert (whole / "figures" / "plotly.min.js").stat().st_size > 1_000_000


# -- stopped and gone on with ----------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [5])
def test_stopped_after_some_parts_it_goes_on_and_writes_the_same_files(slm, spoken, whole, tmp_path, monkeypatch, parts):
    """Tables and page to the byte; nothing that is done is done again."""
    honest, written = Store.write, []

    def stopping(self, key, frame):
        if len(written) == parts:
            raise KeyboardInterrupt
        honest(self, key, frame)
        written.append(key)

    monkeypatch.setattr(Store, "write", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(slm, Reading(str(spoken)), tmp_path, asking=ASKING)
    monkeypatch.setattr(Store, "write", lambda self, key, frame: (written.append(key), honest(self, key, frame)))
    run(slm, Reading(str(spoken)), tmp_path, asking=ASKING)
    assert len(written) == len(set(written)) == 4 * 3 + 4
    assert files_of(tmp_path) == files_of(whole)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"draws": 3}, "draws is 2 there and 3 here"),
        ({"k": (1,)}, "k is [1, 10] there and [1] here"),
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"spelling": "variants"}, 'spelling is "first_piece" there and "variants" here'),
    ],
)
def test_a_folder_of_another_question_is_refused(slm, spoken, whole, change, sentence):
    with pytest.raises(StoreError, match=re.escape(sentence)):
        run(slm, Reading(str(spoken)), whole, asking=replace(ASKING, **change))


def test_a_folder_of_another_corpus_or_model_or_lens_is_refused(slm, spoken, whole):
    with pytest.raises(StoreError, match="corpus is"):
        run(slm, Reading(str(spoken), limit=4), whole, asking=ASKING)
    other = replace(slm, provenance={**slm.provenance, "fingerprint": "0"})
    with pytest.raises(StoreError, match='fingerprint is ".*" there and "0" here'):
        run(other, Reading(str(spoken)), whole, asking=ASKING)
    settings = measuring.settings_of(slm, Corpus.load(slm, spoken), LogitLens(slm, final_norm=False), ASKING)
    assert settings["lens"] != measuring.settings_of(slm, Corpus.load(slm, spoken), LogitLens(slm), ASKING)["lens"]


def test_a_saved_lens_is_loaded_and_its_settings_are_part_of_the_question(slm, spoken, tmp_path):
    from slm_interp.lenses.tuned.lens import TunedLens

    TunedLens.untrained(slm).save(tmp_path / "lens")
    lens = command.lens_of(slm, str(tmp_path / "lens"))
    corpus = Corpus.load(slm, spoken)
    assert isinstance(lens, TunedLens)
    assert measuring.settings_of(slm, corpus, lens, ASKING)["lens"] != measuring.settings_of(slm, corpus, LogitLens(slm), ASKING)["lens"]


# -- asked wrongly ---------------------------------------------------------------------------------------


def test_what_cannot_be_read_is_refused(slm, tmp_path):
    with pytest.raises(ReadoutError, match=r"A lens is 'logit' or a folder that holds tuned\.json or jacobian\.json; got"):
        command.lens_of(slm, str(tmp_path))
    with pytest.raises(SpeechError, match="Columns are written ours=theirs and a limit is 1 or more; got 'words'"):
        Reading("x", columns=("words",)).corpus(slm)
    with pytest.raises(SpeechError, match="limit is 1 or more; got 0"):
        Reading("tiny", limit=0).corpus(slm)
    with pytest.raises(ReadoutError, match="ranks is one of joint, text; got 'all'"):
        asking_of(ranks="all")


def test_the_command_line_passes_on_what_was_asked(monkeypatch, tmp_path, capsys):
    from slm_interp import convert, report

    asked: dict[str, object] = {}
    monkeypatch.setattr(convert, "load", lambda *arguments, **options: "a model")

    def instead(slm, reading, out, lens, asking):
        asked.update(slm=slm, reading=reading, out=out, lens=lens, asking=asking)
        return command.Ran("found", {})

    monkeypatch.setattr(report, "run", instead)
    arguments = ["transcription", "tiny", "speech.parquet", "--out", str(tmp_path), "--k", "5", "--jitter", "2", "--nulls", "shuffled"]
    with pytest.raises(SystemExit) as ended:
        app([*arguments, "--column", "words=alignment", "--limit", "3", "--lens", "folder", "--no-pictures"])
    assert ended.value.code == 0 and capsys.readouterr().out == "found\n"
    assert asked == {
        "slm": "a model",
        "reading": Reading("speech.parquet", ("words=alignment",), limit=3),
        "out": tmp_path,
        "lens": "folder",
        "asking": Asking(k=(5,), nulls=("shuffled",), jitter=2),
    }


def test_samples_of_an_organism_are_a_corpus_by_its_name(slm):
    found = Reading("tiny", limit=2).corpus(slm)
    assert len(found) == 2 and found.source == "samples of the organism tiny"
    assert json.loads(json.dumps(found.hash)) == Reading("tiny", limit=2).corpus(slm).hash
