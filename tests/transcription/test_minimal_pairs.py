"""Minimal pairs against slamkit's own formula, and suites read by what their names say."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from slm_interp import load
from slm_interp.audio import Audio
from slm_interp.errors import ReadoutError, SpeechError
from slm_interp.speech.units import Units
from slm_interp.transcription import Choice, Pair, accuracy, forced_choice, minimal_pairs, read_choices, read_pairs, read_whole_pairs
from slm_interp.transcription.knowledge.pair_files import of_units
from tests.replicas import N_UNITS, VARIANTS, random_weights, text_tokenizer, write_slamkit

NAMES = {
    "swuggy": ("{0}_word.wav", "{1}_word.wav"),
    "sblimp": ("{0}+a_b.wav", "{1}+a_c.wav"),
    "storycloze": ("{0}_story.wav", "{1}_story.wav"),
}


@pytest.fixture(scope="module")
def source():
    """The model in transformers itself, with the weights of `tiny_slm`."""
    rows = len(text_tokenizer()) + N_UNITS + 2
    raw = {**VARIANTS["llama"], "vocab_size": rows}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**raw))
    model.load_state_dict(random_weights(raw), strict=False)
    return model.eval()


def slamkit_log_likelihood(model, tokens, mean: bool, ignore: list[int]) -> float:
    """`UnitLM.log_likelihood` and `calc_nll`, as slamkit computes them."""
    logits = model(tokens[None]).logits.detach()
    logits[:, :, ignore] = -torch.inf
    losses = torch.nn.functional.cross_entropy(logits[0, :-1], tokens[1:], reduction="none")
    return -float(losses.sum() / (len(losses) if mean else 1))


def random_units(count: int, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, N_UNITS, rng.integers(4, 9)).tolist() for _ in range(count)]


def write_tokens(path, units: dict[str, list[int]]):
    rows = [{"file_name": name, "audio_repr": "".join(f"<Un{one}>" for one in some)} for name, some in units.items()]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def suite(layout: str, count: int, seed: int = 0, folder: str = "audio/part") -> dict[str, list[int]]:
    """Files of a numbered suite, written in an order that is not theirs."""
    right, wrong = NAMES[layout]
    units = random_units(2 * count, seed)
    named = {f"{folder}/{(right, wrong)[n % 2].format(n, n)}": units[n] for n in range(2 * count)}
    return dict(sorted(named.items()))  # as text: 10 stands before 2


@pytest.mark.parametrize("normalise", ["sum", "mean"])
@pytest.mark.parametrize("among", ["joint", "speech"])
def test_pairs_score_as_slamkit_scores_them(tiny_slm, source, tmp_path, normalise, among):
    units = suite("swuggy", 6)
    pairs = read_pairs(tiny_slm, write_tokens(tmp_path / "tokens.jsonl", units), "swuggy", form="bare")
    table = minimal_pairs(tiny_slm, pairs, normalise, among)
    text = [*range(11), 31, 32]  # used_token_modality="SPEECH": text ids and the two markers
    by_number = sorted(units, key=lambda name: int(name.rsplit("/", 1)[1].split("_")[0]))  # ModellingMetricDataset
    for item in range(6):
        for column, name in zip(("log_p_right", "log_p_wrong"), by_number[2 * item : 2 * item + 2], strict=True):
            tokens = torch.tensor(units[name]) + 11
            expected = slamkit_log_likelihood(source, tokens, normalise == "mean", text if among == "speech" else [])
            assert table.loc[item, column] == pytest.approx(expected, rel=1e-4)
    assert table["name"].tolist() == [str(item) for item in range(6)]
    assert (table["correct"] == (table["margin"] > 0)).all()


def test_a_closed_form_scores_its_closing_marker_jointly_and_not_among_speech(speech_only_slm):
    one = Pair(*(of_units(speech_only_slm, units, "closed", "x") for units in ((3, 4, 5), (6, 7))), "x", "x")
    table = {among: minimal_pairs(speech_only_slm, [one], "sum", among)["log_p_right"].item() for among in ("joint", "speech")}
    logits = speech_only_slm.logits(one.right).double()
    joint = logits.log_softmax(-1)[range(4), one.right.tokens[1:]].sum()
    speech = logits[:3, 2:].log_softmax(-1)[range(3), one.right.tokens[1:4] - 2].sum()
    assert table["joint"] == pytest.approx(float(joint), rel=1e-5) and table["speech"] == pytest.approx(float(speech), rel=1e-5)


def test_a_common_prompt_cancels_in_the_sum(tiny_slm):
    prompt, right, wrong = (1, 2, 3), (4, 5), (6, 7, 8)
    whole = Pair(*(of_units(tiny_slm, (*prompt, *some), "bare", "x") for some in (right, wrong)), "x", "x")
    ids = [tiny_slm.vocabulary.unit_to_id(torch.tensor(some)) for some in (right, wrong)]
    choice = Choice(of_units(tiny_slm, prompt, "bare", "x"), *ids, "x", "x")
    for among in ("joint", "speech"):
        by_pair = minimal_pairs(tiny_slm, [whole], "sum", among)["margin"].item()
        assert by_pair == pytest.approx(forced_choice(tiny_slm, [choice], "sum", among)["margin"].item(), abs=1e-4)


def test_equal_scores_are_half_correct(planted_slm):
    one = Pair(*(of_units(planted_slm, units, "bare", "x") for units in ((13, 14), (13, 15))), "x", "x")
    assert minimal_pairs(planted_slm, [one])["correct"].item() == 0.5


@pytest.mark.parametrize("layout", list(NAMES))
def test_pairs_are_what_names_say_in_whatever_order_files_come(tiny_slm, tmp_path, layout):
    units = {**suite(layout, 12, 1, "a/x"), **suite(layout, 3, 2, "a/y")}
    pairs = read_pairs(tiny_slm, write_tokens(tmp_path / "tokens.jsonl", units), layout)
    assert [one.name for one in pairs] == [f"x/{item}" for item in range(12)] + [f"y/{item}" for item in range(3)]
    for one in pairs:
        folder, item = one.name.split("/")
        for side, number in ((one.right, 2 * int(item)), (one.wrong, 2 * int(item) + 1)):
            name = f"a/{folder}/" + NAMES[layout][number % 2].format(number, number)
            assert (side.tokens[side.tokens < 31] - 11).tolist() == units[name]
    clusters = {one.name: one.cluster for one in pairs}
    assert clusters["y/1"] == ("1" if layout == "storycloze" else "y/1")


def test_salmon_is_told_apart_by_part_and_takes_the_first_two(tiny_slm, tmp_path):
    units = dict(
        zip(
            (f"{part}/sample_{item}_{k}.wav" for part in ("gender", "rir") for item in range(11) for k in range(3)),
            random_units(66),
            strict=True,
        )
    )
    table = minimal_pairs(tiny_slm, read_pairs(tiny_slm, write_tokens(tmp_path / "t.jsonl", units), "salmon"))
    assert table["group"].tolist() == ["gender"] * 11 + ["rir"] * 11
    assert accuracy(table, by="group")["items"].tolist() == [11, 11]
    right = of_units(tiny_slm, tuple(units["rir/sample_10_0.wav"]), None, "")
    expected = minimal_pairs(tiny_slm, [Pair(right, of_units(tiny_slm, tuple(units["rir/sample_10_1.wav"]), None, ""), "x", "x")])
    assert table.set_index("name").loc["rir/10", "margin"] == pytest.approx(expected["margin"].item())


@pytest.mark.usefixtures("as_users_run_it")
def test_a_file_too_many_shifts_no_pair_and_is_refused(tiny_slm, tmp_path):
    """slamkit pairs neighbours: with `4_extra` it would ask 4 against 4, 5 against 6, 7 against 8."""
    units = {**suite("swuggy", 5), "audio/part/4_extra.wav": [1, 2, 3]}
    with pytest.raises(SpeechError, match=re.escape("4_word.wav and 4_extra.wav both claim to be the right one of item 2. Remove one.")):
        read_pairs(tiny_slm, write_tokens(tmp_path / "tokens.jsonl", units), "swuggy")
    alone = suite("swuggy", 5)
    del alone["audio/part/3_word.wav"]
    with pytest.raises(SpeechError, match=re.escape("Item 1 of '.' has no wrong file: 2_word.wav stands alone.")):
        read_pairs(tiny_slm, write_tokens(tmp_path / "tokens.jsonl", alone), "swuggy")
    with pytest.raises(SpeechError, match=re.escape("0_word.wav is not named as sblimp names its files: <number>+<anything>.")):
        read_pairs(tiny_slm, write_tokens(tmp_path / "tokens.jsonl", suite("swuggy", 1)), "sblimp")
    with pytest.raises(SpeechError, match="No layout 'blimp'; there are swuggy, sblimp, storycloze, salmon, named."):
        read_pairs(tiny_slm, tmp_path, "blimp")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SpeechError, match="There are no files to pair"):
        read_pairs(tiny_slm, tmp_path / "empty", "salmon")
    with pytest.raises(SpeechError, match="neither a folder of sounds nor a features.jsonl"):
        read_pairs(tiny_slm, tmp_path / "none.jsonl", "salmon")


class Loud:
    """A quantiser that hears how loud each 10 ms are."""

    class recipe:
        sample_rate = 16_000

    def encode(self, audio: Audio) -> Units:
        frames = np.abs(audio.samples).reshape(-1, 160).max(1)
        return Units((frames * 10).round().astype(np.int64), np.ones(len(frames), dtype=np.int64), 0.01, "tiny")


def sound(units) -> Audio:
    return Audio(np.repeat(np.asarray(units, dtype=np.float32) / 10, 160), 16_000)


def test_sounds_in_folders_are_read_as_their_units_in_a_file(tiny_slm, tmp_path):
    soundfile = pytest.importorskip("soundfile")
    rng = np.random.default_rng(0)
    names = ["x/0_right.wav", "x/1_wrong.flac", "y/2_right.wav", "y/3_wrong.wav"]
    units = {name: rng.integers(0, 10, 6).tolist() for name in names}
    for name, some in units.items():
        (tmp_path / "sounds" / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / "sounds" / name, sound(some).samples, 16_000)
    heard = read_pairs(tiny_slm, tmp_path / "sounds", "swuggy", quantiser=Loud())
    read = read_pairs(tiny_slm, write_tokens(tmp_path / "tokens.jsonl", units), "swuggy")
    rows = [{"file_name": name, "units": some, "duration": [1] * 6} for name, some in units.items()]
    (tmp_path / "features.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    featured = read_pairs(tiny_slm, tmp_path / "features.jsonl", "swuggy")
    for one, two, three in zip(heard, read, featured, strict=True):
        assert one.name == two.name == three.name and one.cluster == two.cluster
        assert one.right.tokens.tolist() == two.right.tokens.tolist() == three.right.tokens.tolist()
        assert one.wrong.tokens.tolist() == two.wrong.tokens.tolist()


COLUMNS = {"prompt": "audio", "right": "fact", "wrong": "other", "name": "id", "cluster": "about", "right_text": "yes", "wrong_text": "no"}


def facts(**changed) -> pd.DataFrame:
    made = {
        "id": ["a", "b"],
        "about": ["france", "france"],
        "audio": [[1, 2, 3], [4, 5]],
        "fact": [[6, 7], [8]],
        "other": [[9], [3, 2]],
        "yes": ["paris", "paris"],
        "no": ["rome", "rome"],
    }
    return pd.DataFrame({**made, **changed})


def test_a_table_of_facts_is_read_by_the_columns_it_is_said_to_have(tiny_slm, tmp_path):
    pytest.importorskip("pyarrow")
    facts().to_parquet(tmp_path / "facts.parquet")
    for table in (facts(), tmp_path / "facts.parquet"):
        first, second = read_choices(tiny_slm, table, COLUMNS, form="bare")
        assert (first.name, first.cluster, second.name) == ("a", "france", "b")
        assert [(one - 11).tolist() for one in (first.prompt.tokens, first.right, first.wrong)] == [[1, 2, 3], [6, 7], [9]]
    assert len(forced_choice(tiny_slm, read_choices(tiny_slm, facts(), COLUMNS))) == 2


def test_cells_may_be_strings_of_units_and_sounds_in_several_wrappings(tiny_slm, tmp_path):
    soundfile = pytest.importorskip("soundfile")
    one = sound([6, 7])
    soundfile.write(tmp_path / "one.wav", one.samples, 16_000)
    cells = [{"bytes": one.wav_bytes(), "path": None}, one.wav_bytes(), {"array": one.samples, "sampling_rate": 16_000}]
    cells += [str(tmp_path / "one.wav"), {"bytes": None, "path": str(tmp_path / "one.wav")}, "<Un6><Un7>", np.array([6, 7])]
    for cell in cells:
        (first,) = read_choices(tiny_slm, facts(fact=[cell, cell])[:1], COLUMNS, quantiser=Loud())
        assert (first.right - 11).tolist() == [6, 7]
    whole = {name: COLUMNS[name] for name in ("right", "wrong", "name")}
    (pair, _) = read_whole_pairs(tiny_slm, facts(), whole, form="bare")
    assert (pair.right.tokens - 11).tolist() == [6, 7] and pair.cluster == "a"


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("changed", "columns", "sentence"),
    [
        ({}, {"right": "fact", "wrong": "other", "name": "id"}, "missing: ['prompt'], not known: none."),
        ({}, {**COLUMNS, "answer": "fact"}, "missing: none, not known: ['answer']."),
        ({}, {**COLUMNS, "prompt": "sound"}, "the columns id, about, audio, fact, other, yes, no; wanted rows and sound."),
        ({"id": ["a", "a"]}, COLUMNS, "Two rows are named 'a'; names tell items apart."),
        ({"no": ["paris", "rome"]}, COLUMNS, "Row 'a' has 'paris' as its right and its wrong text."),
        ({"fact": [None, [1]]}, COLUMNS, "The right of 'a' is NoneType and holds no sound and no units."),
        ({"fact": [[0.5, 0.2], [1.0]]}, COLUMNS, "The right of 'a' must be units, whole numbers in a row; got float64 of shape (2,)."),
        ({"fact": ["<Un1><text> a", "<Un1>"]}, COLUMNS, "The right of 'a' has written words in it; it must be units alone."),
        ({"fact": [b"RIFF", b"RIFF"]}, COLUMNS, "The right of 'a' is 4 bytes that are no sound: "),
    ],
)
def test_tables_that_do_not_fit_are_refused_in_a_sentence(tiny_slm, changed, columns, sentence):
    with pytest.raises(SpeechError, match=re.escape(sentence)):
        read_choices(tiny_slm, facts(**changed), columns, quantiser=Loud())


def test_sound_needs_a_quantiser(tiny_slm):
    with pytest.raises(SpeechError, match="is sound, and this checkpoint carries no quantiser"):
        read_choices(tiny_slm, facts(fact=[{"array": sound([1]).samples, "sampling_rate": 16_000}] * 2), COLUMNS)


@pytest.mark.usefixtures("as_users_run_it")
def test_pairs_without_a_choice_are_refused(tiny_slm):
    same = of_units(tiny_slm, (1, 2), None, "x")
    with pytest.raises(ReadoutError, match="Pair 'x' has the same tokens twice"):
        Pair(same, same, "x", "x")
    with pytest.raises(ReadoutError, match="got 0 pairs, 'mean', 'joint'"):
        minimal_pairs(tiny_slm, [])
    short = Pair(of_units(tiny_slm, (1,), "bare", "short"), same, "x", "x")
    with pytest.raises(ReadoutError, match="Utterance 'short' has no id to score after its first one."):
        minimal_pairs(tiny_slm, [short])


def test_pairs_are_scored_alike_in_half_precision(tmp_path):
    folder = write_slamkit(tmp_path / "half", VARIANTS["llama"], vocab_size=len(text_tokenizer()) + N_UNITS + 2, dtype=torch.bfloat16)
    slm = load(folder, text_tokenizer=text_tokenizer(), n_units=N_UNITS, quantiser="tiny")
    one = Pair(*(of_units(slm, units, "bare", "x") for units in ((3, 4, 5), (6, 7))), "x", "x")
    row = minimal_pairs(slm, [one], "sum").iloc[0]
    logits = slm.logits(one.right).double()[:-1]
    assert row["log_p_right"] == pytest.approx(float(logits.log_softmax(-1)[range(len(logits)), one.right.tokens[1:]].sum()), rel=1e-6)
