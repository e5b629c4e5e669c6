"""The causal command: its verdict, tables and page are those of the functions it calls; it goes on where it was stopped, and refuses other questions."""

from __future__ import annotations

import json
import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from slm_interp import causal
from slm_interp.__main__ import app
from slm_interp.causal import Effect
from slm_interp.causal.building import planted_cases
from slm_interp.causal.building.unit_table import unit_cases, unit_table
from slm_interp.causal.planted import plant, save
from slm_interp.convert import load
from slm_interp.errors import PatchingError
from slm_interp.report import causal_page
from slm_interp.report.causal_asking import Source, bases_of, dtype_of, layers_of
from slm_interp.report.causal_figures import figures_of, shown
from slm_interp.report.causal_verdict import judged
from tests import synthetic_causal as made

CASES = 8


@pytest.fixture(scope="module")
def planted():
    return plant("partial", 0.4, n_contrasts=CASES)


@pytest.fixture(scope="module")
def folder(planted, tmp_path_factory) -> Path:
    """A planted model as a checkpoint, and its contrasts as a CSV."""
    place = tmp_path_factory.mktemp("planted")
    save(planted, place / "model")
    unit_table(planted.slm, planted_cases(planted)).to_csv(place / "contrasts.csv", index=False)
    return place


@pytest.fixture(scope="module")
def asked(planted, folder):
    """The command line, but for the folder that is written to."""
    layers = ("--layers", "2-3", "--no-pictures", "--n-units", str(planted.lexicon.n_units))
    return ("causal", str(folder / "model"), str(folder / "contrasts.csv"), *layers, "--out")


@pytest.fixture(scope="module")
def whole(asked, tmp_path_factory) -> Path:
    out, said = tmp_path_factory.mktemp("whole"), StringIO()
    with redirect_stdout(said), pytest.raises(SystemExit) as ended:
        app([*asked, str(out)])
    assert not ended.value.code
    (out / "said.txt").write_text(said.getvalue(), encoding="utf-8")
    return out


def run(capsys, *asked: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        app(list(asked))
    told = capsys.readouterr()
    return int(ended.value.code or 0), told.out, told.err


# -- the numbers -----------------------------------------------------------------------------------------


def test_the_files_hold_what_a_causal_run_gives(planted, folder, whole):
    slm = load(folder / "model", n_units=planted.lexicon.n_units, dtype=torch.float32)
    cases = unit_cases(slm, folder / "contrasts.csv")
    effect = causal.run(slm, cases, bases_of(slm, "logit"), layers=[2, 3], policy="warped")
    kept = ["case", "basis", "layer", "arm", "dose", "outcome"]
    both = [one.sort_values(kept).reset_index(drop=True) for one in (pd.read_parquet(whole / "effects.parquet"), effect.table)]
    pd.testing.assert_frame_equal(*both, check_dtype=False)
    again = Effect.load(whole / "effect.nc")
    assert effect.random is not None and again.random is not None
    np.testing.assert_array_equal(again.random.values, effect.random.values)
    assert json.loads((whole / "verdict.json").read_text())["reason"] == effect.verdict("logit").reason


def test_a_planted_mixture_gets_its_verdict_and_its_share(planted, whole):
    said = json.loads((whole / "verdict.json").read_text())
    assert said["verdict"] == planted.truth.verdict == "partly"
    assert said["shares"]["text"]["estimate"] == pytest.approx(planted.fraction, abs=1e-3)
    assert said["layers"]["logit"] in planted.layers and said["about"]["policy"] == "warped"


def test_the_plan_is_printed_with_its_cost_before_the_verdict(whole):
    said = (whole / "said.txt").read_text()
    places = [
        said.index(part) for part in (f"{CASES} cases from a table", "Leaves out: ", "Cost: ", "multiply-adds", "partly (line 5", "Open ")
    ]
    assert places == sorted(places)


def test_killed_and_started_again_it_goes_on_and_writes_the_same_files(capsys, asked, whole, tmp_path, monkeypatch):
    own, ran = causal.experiment.Plan._run_one, []

    def killed(self, case, *rest):
        if len(ran) == 3:
            raise KeyboardInterrupt
        ran.append(case.name)
        return own(self, case, *rest)

    monkeypatch.setattr(causal.experiment.Plan, "_run_one", killed)
    run(capsys, *asked, str(tmp_path))
    assert not (tmp_path / "index.html").exists() and len(ran) == 3
    monkeypatch.setattr(causal.experiment.Plan, "_run_one", lambda self, case, *rest: (ran.append(case.name), own(self, case, *rest))[1])
    code, _, _ = run(capsys, *asked, str(tmp_path))
    assert code == 0 and len(ran) == len(set(ran)) == CASES
    for name in ("verdict.json", "effects.parquet", "reading.parquet", "cases.csv", "index.html", "figures/by_layer.json"):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes(), name


def test_a_folder_of_another_question_is_refused(capsys, asked, whole):
    code, _, err = run(capsys, *asked, str(whole), "--policy", "last_unit")
    assert code == 2 and 'policy is "warped" there and "last_unit" here' in err


def test_an_organism_asked_of_few_pairs_gets_a_page_that_says_why_there_is_no_verdict(capsys, tmp_path):
    code, out, _ = run(
        capsys, "causal", "tiny-overlapped", "names", "--count", "2", "--layers", "5", "--out", str(tmp_path), "--no-pictures"
    )
    assert code == 0 and "no verdict: Halves need four clusters of words or more" in out
    said, page = json.loads((tmp_path / "verdict.json").read_text()), (tmp_path / "index.html").read_text()
    assert said["verdict"] == "no verdict" and "it looks better than it is" in page and page.count("<audio") == 4


# -- the page --------------------------------------------------------------------------------------------


def shown_page(effect: Effect, cases=()):
    return causal_page.page_of(effect, judged(effect), shown(effect), cases).html()


def test_the_page_says_the_verdict_first_then_its_line_its_warnings_and_what_is_missing():
    effect = made.effect()
    page, verdict = shown_page(effect), effect.verdict("logit")
    places = [
        page.index(part)
        for part in ("fewer than 40 clusters", "<strong>partly</strong>", f"Line {verdict.line} of the rule", "band.", "By logit</h2>")
    ]
    assert places == sorted(places)
    for part in (
        "other_voice (3 cases)",
        "What this cannot show",
        "made up",
        str(verdict.shares["text"]),
        str(verdict.shares["complement"]),
    ):
        assert part in page, part
    assert "http://" not in re.sub(r"http://www\.w3\.org|<script>.*?</script>", "", page, flags=re.DOTALL)


def test_a_row_of_a_lens_has_every_share_under_its_own_name():
    verdict = made.effect().verdict("logit")
    row = causal_page._row("logit", 3, verdict)
    named = {"text": "text", "complement": "complement", "text − third": "specific", "text − elsewhere": "here"}
    assert {name: row[name] for name in named} == {name: str(verdict.shares[share]) for name, share in named.items()}
    assert (row["ceiling (nats)"], row["lens's margin"]) == (str(verdict.ceiling), str(verdict.evidence.means["margin"]))


def test_every_lens_has_a_section_and_a_row_and_together_they_have_one_verdict():
    effect = made.effect(bases=("logit", "tuned"))
    page, both = shown_page(effect), effect.verdict()
    assert f"<strong>{both.word}</strong>" in page and "By logit" in page and "By tuned" in page
    assert page.count('data-figure="') == 8


def test_a_page_of_prompts_that_are_not_told_apart_is_in_nats_and_says_uninformative():
    effect = made.effect(ceiling=0.0)
    assert judged(effect).word == "uninformative"
    (one,) = shown(effect)
    assert one.unit == "nats" and figures_of(effect, one)["controls"].layout.xaxis.title.text == "effect (nats)"
    assert "<strong>uninformative</strong>" in shown_page(effect)


def test_the_layer_is_the_chosen_one_and_the_half_the_one_that_did_not_choose():
    effect = made.effect()
    (one,) = shown(effect)
    assert one.layer == effect.chosen_layer("logit") and set(one.rows["half"]) == {"report"} and set(one.rows["layer"]) == {one.layer}


def test_the_table_of_cases_holds_their_effects(planted):
    effect = made.effect()
    table = causal_page._case_table(effect, shown(effect)[0], ())
    text = effect.effects("text", "logit")[shown(effect)[0].layer]
    assert len(table) == effect.table["case"].nunique()
    np.testing.assert_allclose(table.set_index("case")["text"].loc[text.index], text)


def test_a_page_without_sound_is_smaller_than_its_bound():
    assert len(shown_page(made.effect(bases=("logit", "tuned"))).encode()) < 6_000_000


# -- what is asked ---------------------------------------------------------------------------------------


def test_a_table_of_units_read_back_gives_the_same_cases(planted):
    cases = planted_cases(planted)
    back = unit_cases(planted.slm, unit_table(planted.slm, cases))
    for one, other in zip(cases, back, strict=True):
        for side in ("clean", "corrupted"):
            assert getattr(one.contrast, side).tokens.tolist() == getattr(other.contrast, side).tokens.tolist()
            assert getattr(one.span, side) == getattr(other.span, side)
        assert (one.contrast.answer.tolist(), one.contrast.distractor.tolist()) == (
            other.contrast.answer.tolist(),
            other.contrast.distractor.tolist(),
        )
        assert (one.name, one.words, one.elsewhere, one.prompt, one.word) == (
            other.name,
            other.words,
            other.elsewhere,
            other.prompt,
            other.word,
        )


@pytest.mark.parametrize(
    ("column", "value", "sentence"),
    [
        ("clean_units", "3 x", "Row 2 of the table of units, .*: clean_units are numbers of units with blanks between them; got '3 x'"),
        ("answer_units", "", "answer_units are numbers of units"),
        ("clean_span", "3-5", "clean_span is written first:stop, such as 3:5; got '3-5'"),
        ("corrupted_span", "8:99", "corrupted_span 8:99 is past the end of 9 units"),
        ("clean_units", "900 901 902 903 904 905", "Row 2 .*unit"),
        ("elsewhere", "3:5", "Elsewhere is off the word"),
    ],
)
def test_a_row_that_cannot_be_read_is_refused_by_its_number(planted, column, value, sentence):
    table = unit_table(planted.slm, planted_cases(planted)).head(3)
    table.loc[1, column] = value
    with pytest.raises(PatchingError, match=sentence):
        unit_cases(planted.slm, table)


def test_a_table_with_other_columns_is_refused(planted):
    table = unit_table(planted.slm, planted_cases(planted)).drop(columns="clean").assign(loud="yes")
    with pytest.raises(PatchingError, match=r"missing: clean, not known: loud\."):
        unit_cases(planted.slm, table)


def test_layers_are_numbers_and_ranges():
    assert layers_of("3,6-8, 7") == [3, 6, 7, 8] and layers_of(None) is None
    for wrong in ("", "3-", "a", "1-2-3"):
        with pytest.raises(PatchingError, match="Layers are written as numbers and ranges"):
            layers_of(wrong)


def test_lenses_are_named_with_commas_between_them_and_a_spelling_after(planted):
    assert [one.name for one in bases_of(planted.slm, "logit, embedding")] == ["logit", "embedding"]
    assert bases_of(planted.slm, "logit:variants")[0].spelling == "variants"
    with pytest.raises(PatchingError, match="asks one lens or more"):
        bases_of(planted.slm, " , ")


def test_what_is_neither_a_kind_nor_there_is_refused(planted):
    with pytest.raises(
        PatchingError, match="Contrasts are one of names, neighbours, homophones, .* or a file or folder that is there; got 'nothing.csv'"
    ):
        Source("nothing.csv").cases(planted.slm)
    with pytest.raises(PatchingError, match="a count is 1 or more"):
        Source("names", count=0).cases(planted.slm)
    with pytest.raises(PatchingError, match="Numbers are one of float32, float64, bfloat16, stored; got 'float8'"):
        dtype_of("float8")


def test_at_most_so_many_cases_of_a_file_are_taken_and_the_others_are_listed(planted, folder):
    found = Source(str(folder / "contrasts.csv"), count=3).cases(planted.slm)
    assert len(found) == 3 and len(found.left_out) == CASES - 3
    assert set(found.left_out["why"]) == {"only the first 3 were asked for"}
