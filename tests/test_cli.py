"""The command line as a user meets it: what it prints, what it leaves, how it exits."""

import json
import re

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from slm_interp import organisms
from slm_interp.__main__ import app
from slm_interp.circuits import Graph
from slm_interp.convert import load
from slm_interp.convert.families import families
from slm_interp.lenses import Aim, TunedLens
from slm_interp.patching import Sweep
from slm_interp.speech.corpus import Corpus
from slm_interp.utterance import Span, Word
from tests.replicas import N_UNITS, VARIANTS, write_slamkit


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        app(list(arguments))
    said = capsys.readouterr()
    return int(stopped.value.code or 0), said.out, said.err


@pytest.fixture(scope="module")
def replica(tmp_path_factory):
    return write_slamkit(tmp_path_factory.mktemp("replica"), VARIANTS["qwen2"])


def test_inspect_says_what_a_checkpoint_is(capsys, replica):
    code, out, _ = run(capsys, "inspect", str(replica), "--n-units", str(N_UNITS))
    assert code == 0
    for said in ("slamkit", "qwen2", "<Un{}>", "opened (slamkit's build_prompt", "zero by definition"):
        assert said in out


def test_verify_prints_the_report_and_exits_with_0_when_it_passes(capsys, replica):
    code, out, _ = run(capsys, "verify", str(replica), "--n-units", str(N_UNITS))
    assert code == 0
    assert out.startswith("PASSED")


def test_verify_exits_with_1_when_a_difference_exceeds_the_bound(capsys, replica):
    code, out, _ = run(capsys, "verify", str(replica), "--n-units", str(N_UNITS), "--bound=-1")
    assert code == 1
    assert out.startswith("FAILED")


def test_what_is_refused_is_one_line_and_exit_code_2(capsys, tmp_path):
    code, out, err = run(capsys, "inspect", str(tmp_path / "nothing"))
    assert code == 2
    assert out == ""
    assert re.fullmatch(r"slm-interp: .*is no folder, no packaged organism \(random, tiny, .*\) and no hub id \(owner/name\)\.\n", err)


def test_a_damaged_checkpoint_is_refused_by_every_command_that_reads_one(capsys, tmp_path, replica):
    for item in replica.iterdir():
        (tmp_path / item.name).write_bytes(item.read_bytes()[:-100] if item.suffix == ".safetensors" else item.read_bytes())
    for command in (["inspect"], ["verify"]):
        code, _, err = run(capsys, *command, str(tmp_path), "--n-units", str(N_UNITS))
        assert code == 2
        assert "is truncated or no safetensors file" in err


MINE = """
name = "mine"
licence = "my own"
[[units]]
template = "<Un{}>"
count = 256
[markers]
speech = "<speech>"
text = "<text>"
[[forms]]
name = "marked"
marked = true
note = "as I trained it"
"""


@pytest.fixture(scope="module")
def undeclared(tmp_path_factory):
    """The organism without slamkit's wrapper, which no family recognises, and the file that declares it."""
    folder = tmp_path_factory.mktemp("undeclared")
    packaged = load("tiny")
    config = json.loads((packaged.folder / "config.json").read_text())["base_config"]
    (folder / "config.json").write_text(json.dumps(config))
    tensors = load_file(packaged.folder / "model.safetensors")
    save_file({name.removeprefix("lm."): tensor for name, tensor in tensors.items()}, folder / "model.safetensors")
    packaged.tokenizer.save_pretrained(folder)
    (folder / "mine.toml").write_text(MINE)
    return folder


def test_a_checkpoint_of_a_declared_family_goes_through_every_command(capsys, undeclared, spoken, tmp_path):
    declared = ("--family", str(undeclared / "mine.toml"))
    code, _, err = run(capsys, "inspect", str(undeclared))
    assert code == 2 and "No family recognises this checkpoint" in err
    code, out, _ = run(capsys, "inspect", str(undeclared), *declared)
    assert code == 0 and "marked (as I trained it)" in out
    code, out, _ = run(capsys, "verify", str(undeclared), *declared)
    assert code == 0 and "(mine on llama)" in out
    carried = ("--quantiser", str(organisms.path("tiny")))
    page, wav = tmp_path / "page.html", str(spoken[0] / "clip.wav")
    code, out, _ = run(capsys, "lens", str(undeclared), wav, "--transcript", spoken[1].text, *declared, *carried, "--out", str(page))
    assert code == 0 and page.exists() and "likeliest tokens somewhere in its span" in out


def test_a_family_of_another_name_is_refused_by_every_command(capsys, undeclared, spoken):
    for command in (["inspect", str(undeclared)], ["verify", str(undeclared)], ["lens", str(undeclared), str(spoken[0] / "clip.wav")]):
        code, _, err = run(capsys, *command, "--family", "mine")
        assert code == 2 and "No family 'mine'; there are anygpt, " in err


def test_the_families_are_listed_with_units_forms_and_licence(capsys):
    code, out, _ = run(capsys, "families")
    assert code == 0 and [line.split(":")[0] for line in out.splitlines()] == list(families())
    assert "slamkit: 500 <Un{}>; forms opened, closed, marked, bare. slamkit's own" in out
    assert "spiritlm_expressive: 501 [Hu{}], 64 [Pi{}], 100 [St{}]; forms marked, bare. FAIR" in out
    assert "soda: 8 x 2048 {:c}; forms document, open. Apache 2.0." in out


def test_slamkit_lists_the_forms_that_it_has(speech_only_slm, tiny_slm):
    made = {form.name for slm in (speech_only_slm, tiny_slm) for form in slm.prompts.forms}
    assert made == set(families()["slamkit"].forms)


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    """A held-out sentence as a WAV file, its text, and its word times as slamkit JSON."""
    folder = tmp_path_factory.mktemp("spoken")
    sample = organisms.samples("tiny")[1]
    (folder / "clip.wav").write_bytes(sample.audio().wav_bytes())
    words = [[f" {word.text}", word.start_s, word.end_s] for word in sample.words]
    (folder / "clip.json").write_text(json.dumps({"file_name": "clip.wav", "text": f" {sample.text}", "aligned_text": words}))
    return folder, sample


def test_lens_turns_a_recording_and_its_transcript_into_a_page(capsys, spoken, tmp_path):
    folder, sample = spoken
    page = tmp_path / "page.html"
    code, out, _ = run(capsys, "lens", "tiny", str(folder / "clip.wav"), "--transcript", sample.text, "--out", str(page))
    assert code == 0
    assert "likeliest tokens somewhere in its span" in out
    assert all(word.text in page.read_text() for word in sample.words)


def test_lens_takes_word_times_from_a_file(capsys, spoken, tmp_path):
    folder, _ = spoken
    page = tmp_path / "page.html"
    code, _, _ = run(capsys, "lens", "tiny", str(folder / "clip.wav"), "--alignment", str(folder / "clip.json"), "--out", str(page))
    assert code == 0
    assert page.stat().st_size > 1_000_000


def test_lens_refuses_another_transcript_and_leaves_no_page(capsys, spoken, tmp_path):
    folder, _ = spoken
    page = tmp_path / "page.html"
    wrong = "nothing of what is written here was ever said in this recording at all"
    code, _, err = run(capsys, "lens", "tiny", str(folder / "clip.wav"), "--transcript", wrong, "--out", str(page))
    assert code == 2
    assert err.startswith("slm-interp: ")
    assert list(tmp_path.iterdir()) == []


def test_the_recipes_are_listed_and_an_unknown_one_is_refused(capsys, tmp_path):
    code, out, _ = run(capsys, "organism", "list")
    assert code == 0
    assert out.startswith("tiny (ships): text-initialised, interleaved. llama, 12 layers, d_model 160, 1500 + 1100 + 2000 steps, seed 0")
    assert [line.split()[0].rstrip(":") for line in out.splitlines()] == list(organisms.RECIPES)
    code, _, err = run(capsys, "organism", "train", "huge", "--out", str(tmp_path / "out"))
    assert code == 2
    assert "No recipe 'huge'; there are: tiny, " in err
    assert not (tmp_path / "out").exists()


def test_the_demo_says_what_it_found_and_which_page_to_open(capsys, tmp_path):
    code, out, _ = run(capsys, "demo", "--out", str(tmp_path))
    assert code == 0
    assert "Synthesised speech, held out" in out
    assert "Recorded speech, out of domain: chapter one mrs rachel lynde is surprised" in out
    assert out.rstrip().endswith(f"Open {tmp_path / 'lens.html'}")
    assert [item.name for item in tmp_path.iterdir()] == ["lens.html"]


def test_tune_trains_a_lens_that_says_what_it_was_trained_on_and_goes_on_where_it_was_stopped(capsys, replica, tmp_path):
    slm = load(replica, n_units=N_UNITS)
    edges, generator = torch.arange(41) * 0.04, torch.Generator().manual_seed(0)
    units = [torch.randint(N_UNITS, (40,), generator=generator) for _ in range(6)]
    words = (Word("here", Span(0, 40), 0.0, 1.6),)
    Corpus(tuple(slm.speech_prompt(one, edges, words, name=str(number)) for number, one in enumerate(units))).save(tmp_path / "corpus")
    asked = ("tune", str(replica), str(tmp_path / "corpus"), "--out", str(tmp_path / "lens"), "--n-units", str(N_UNITS), "--passes", "1")
    code, out, _ = run(capsys, *asked, "--positions", "speech")
    assert code == 0
    assert "tuned[speech positions, joint vocabulary]" in out
    assert TunedLens.load(tmp_path / "lens", slm).aim == Aim("speech")
    code, _, err = run(capsys, *asked)
    assert code == 2
    assert "is the training of another lens" in err


def test_tune_refuses_an_aim_that_is_none(capsys, replica, tmp_path, as_users_run_it):
    code, _, err = run(capsys, "tune", str(replica), str(tmp_path), "--out", str(tmp_path), "--positions", "units")
    assert code == 2
    assert "one of all, speech, text; got 'units'" in err


def test_patch_sweeps_contrasts_and_leaves_the_result_and_a_table(capsys, tmp_path):
    code, out, _ = run(capsys, "patch", "tiny", "--count", "2", "--out", str(tmp_path / "sweep.nc"))
    found = Sweep.load(tmp_path / "sweep.nc")
    assert code == 0 and out.startswith("Sweep(resid_post, denoising, policy end_aligned: 2 contrasts x 13 layers")
    assert len(pd.read_csv(tmp_path / "sweep.csv")) == int(found.dataset["outcome"].notnull().sum())


def test_circuit_scores_one_half_of_the_contrasts_and_asks_the_other(capsys, tmp_path):
    code, out, _ = run(capsys, "circuit", "tiny-blurred", "--count", "16", "--steps", "1", "--out", str(tmp_path))
    curve = pd.read_csv(tmp_path / "faithfulness.csv")
    assert code == 0 and "told apart; scored on" in out
    assert abs(curve["recovered"].iloc[0]) < 1e-3 and abs(curve["recovered"].iloc[-1] - 1) < 1e-3
    assert Graph.load(tmp_path / "graph").real.sum() == curve["edges"].iloc[-1] and (tmp_path / "circuit.html").stat().st_size > 10_000


def test_a_circuit_of_pairs_that_are_not_told_apart_is_refused(capsys, tmp_path):
    code, _, err = run(capsys, "circuit", "tiny-speech", "--count", "3", "--steps", "1", "--out", str(tmp_path / "circuit"))
    assert code == 2 and "asked of two others" in err and not (tmp_path / "circuit").exists()
