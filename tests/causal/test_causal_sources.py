"""The causal command from every source of cases, on checkpoints of three families in their full format: plan, run, kill, resumption, files, page, refusals."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from jaxtyping import config

from slm_interp import convert, speech
from slm_interp.__main__ import app
from slm_interp.causal import Effect
from slm_interp.causal.building import planted_cases, recorded_in
from slm_interp.causal.building.unit_table import unit_table
from slm_interp.causal.experiment import Plan
from slm_interp.causal.planted import plant, save
from slm_interp.errors import PatchingError, SpeechError
from slm_interp.plots.causal_data import ARMS
from slm_interp.report.causal_asking import Source, plan_of, speakers_of
from tests.causal import spoken

DTYPE = torch.float32
COUNT, KILLED_AFTER = 6, 2  # cases
SOUND = {"name": "id", "prompt": "audio", "words": "timings", "right": "fact_audio", "right_text": "fact"}
UNITS = {"name": "id", "prompt": "units", "durations": "frames", "words": "timings", "right": "fact_units", "right_text": "fact"}


def columns(mapped: dict[str, str]) -> tuple[str, ...]:
    return tuple(f"{ours}={theirs}" for ours, theirs in mapped.items())


@dataclass(frozen=True)
class Way:
    """A family, what its cases are built from, and how that is said on a command line; files go by their names in the folder of this module."""

    family: str
    contrasts: str
    columns: tuple[str, ...] = ()
    recordings: tuple[str, ...] = ()
    quantised: bool = False
    speaker: str | None = None

    def __str__(self) -> str:
        return f"{self.family}, {self.contrasts}{' by ' + ' and '.join(self.recordings) if self.recordings else ''}"


WAYS = (
    Way("slamkit", "words.csv", quantised=True),
    Way("slamkit", "words.csv", recordings=("recordings", "other_voice"), quantised=True),
    Way("slamkit", "facts.parquet", columns(SOUND), quantised=True),
    Way("slamkit", "corpus", quantised=True, speaker="^([0-9]+)-"),
    Way("slamkit", "slamkit.jsonl"),
    Way("spiritlm", "words.csv", quantised=True),
    Way("spiritlm", "words.csv", recordings=("spiritlm.jsonl",)),
    Way("spiritlm", "facts.parquet", columns(SOUND), quantised=True),
    Way("spiritlm", "corpus", quantised=True),
    Way("glm4voice", "words.csv", recordings=("glm4voice.jsonl",)),
    Way("glm4voice", "facts_glm4voice.parquet", columns(UNITS)),
    Way("glm4voice", "glm4voice.jsonl"),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that the command is given."""
    folder = tmp_path_factory.mktemp("sources")
    for family, count in spoken.N_UNITS.items():
        spoken.checkpoint(folder / family, family)
        spoken.features(folder / f"{family}.jsonl", spoken.listed(), family)
        if family != "glm4voice":
            spoken.quantiser(folder / f"{family}_quantiser", count)
    spoken.word_list(folder / "words.csv")
    spoken.facts(folder / "facts.parquet")
    spoken.facts_in_units(folder / "facts_glm4voice.parquet", "glm4voice")
    spoken.corpus(folder / "corpus", spoken.SENTENCES)
    spoken.corpus(folder / "recordings", spoken.listed())
    spoken.corpus(folder / "other_voice", spoken.listed(), spoken.VOICES[1])
    return folder


@pytest.fixture(scope="module", autouse=True)
def _read_once() -> Iterator[None]:
    """As users run it, without the shape checks of tests; checkpoints and quantisers are read by the command's own functions, once for all tests."""
    load, quantisers, read = convert.load, cache(speech.load_quantiser), dict[tuple[Any, ...], Any]()

    def loaded(path: str, text_tokenizer: Any = None, **options: Any) -> Any:
        key = (path, text_tokenizer, *(getattr(one, "hash", one) for one in options.values()))
        if key not in read:
            read[key] = load(path, text_tokenizer, **options)
        return read[key]

    config.update("jaxtyping_disable", True)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(convert, "load", loaded)
        patched.setattr(speech, "load_quantiser", quantisers)
        yield
    config.update("jaxtyping_disable", False)


class Terminal(StringIO):
    """Where progress is shown."""

    def isatty(self) -> bool:
        return True


def run(*asked: str) -> tuple[int, str, str]:
    said, told = StringIO(), Terminal()
    with redirect_stdout(said), redirect_stderr(told), pytest.raises(SystemExit) as ended:
        app(list(asked))
    return int(ended.value.code or 0), said.getvalue(), told.getvalue()


def asked(way: Way, place: Path) -> tuple[str, ...]:
    """The command line, but for the folder that is written to."""
    line = ["causal", str(place / way.family), str(place / way.contrasts), "--no-pictures", "--count", str(COUNT)]
    line += ["--text-tokenizer", str(place / way.family / "text")] if way.family == "slamkit" else []
    line += ["--form", "stream"] if way.family == "glm4voice" else []
    line += ["--quantiser", str(place / f"{way.family}_quantiser")] if way.quantised else []
    line += ["--n-units", "120"] if way.family == "slamkit" and not way.quantised else []
    line += [part for one in way.columns for part in ("--column", one)]
    line += [part for one in way.recordings for part in ("--recordings", str(place / one))]
    return (*line, *(["--speaker", way.speaker] if way.speaker else []))


@dataclass(frozen=True, eq=False)
class Answered:
    """A run that was killed, and the one that went on."""

    way: Way
    out: Path
    said: str
    shown: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    page_when_killed: bool


@pytest.fixture(scope="module", params=WAYS, ids=str)
def answered(request: pytest.FixtureRequest, place: Path, tmp_path_factory: pytest.TempPathFactory) -> Answered:
    out, own, ran = tmp_path_factory.mktemp("out"), Plan._run_one, list[str]()

    def counted(self: Plan, case: Any, rest: Any) -> Any:
        if self.slm.provenance["family"] == request.param.family and len(ran) == stop:
            raise RuntimeError("killed")
        ran.append(case.name)
        return own(self, case, rest)

    line = (*asked(request.param, place), "--out", str(out))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Plan, "_run_one", counted)
        stop = KILLED_AFTER
        with redirect_stdout(StringIO()), pytest.raises(RuntimeError, match="killed"):
            app(list(line))
        before, page = tuple(ran), (out / "index.html").exists()
        stop = -1
        code, said, shown = run(*line)
    assert code == 0, shown
    return Answered(request.param, out, said, shown, before, tuple(ran[len(before) :]), page)


def whole(way: Way, place: Path) -> Effect:
    """The same by functions, without a folder."""
    carried = speech.load_quantiser(place / f"{way.family}_quantiser") if way.quantised else None
    text = str(place / "slamkit" / "text") if way.family == "slamkit" else None
    units = 120 if way.family == "slamkit" and not way.quantised else None
    slm = convert.load(str(place / way.family), text, family=None, n_units=units, quantiser=carried, dtype=DTYPE)
    form = "stream" if way.family == "glm4voice" else None
    recordings = tuple(str(place / one) for one in way.recordings)
    source = Source(
        str(place / way.contrasts), COUNT, columns=way.columns, quantiser=carried, form=form, recordings=recordings, speaker=way.speaker
    )
    return plan_of(slm, source.cases(slm), "logit", "quick", None, "onset", 0, "warped").run()


# -- the way through ---------------------------------------------------------------------------------


def test_what_will_be_run_and_its_cost_are_printed_then_a_bar_runs_then_the_verdict_is_said(answered: Answered) -> None:
    parts = ("Built(", "Leaves out: ", "Cost: ", "forwards of prompts", "uninformative (line ", f"Open {answered.out / 'index.html'}")
    places = [answered.said.index(part) for part in parts]
    assert places == sorted(places)
    assert "causal: " in answered.shown and "cell/s" in answered.shown and "100%" in answered.shown


def test_killed_half_way_it_goes_on_to_the_same_effect_to_the_bit(answered: Answered, place: Path) -> None:
    assert len(answered.before) == KILLED_AFTER and not answered.page_when_killed
    cases = pd.read_csv(answered.out / "cases.csv")["name"]
    assert [*answered.before, *answered.after] == list(cases)
    effect = whole(answered.way, place)
    for name, table in (("effects", effect.table), ("reading", effect.reading)):
        pd.testing.assert_frame_equal(pd.read_parquet(answered.out / f"{name}.parquet"), table, check_exact=True, check_dtype=False)
    again = Effect.load(answered.out / "effect.nc")
    assert again.random is not None and effect.random is not None
    np.testing.assert_array_equal(again.random.values, effect.random.values)


def test_the_page_opens_with_the_verdict_and_every_control_stands_beside_it(answered: Answered) -> None:
    page = Shown()
    page.feed((answered.out / "index.html").read_text(encoding="utf-8"))
    page.close()
    assert page.open == [] and page.strong[0] == "uninformative"
    effect = Effect.load(answered.out / "effect.nc")
    for arm in effect.table["arm"].unique():
        assert ARMS[arm].label in page.cells, arm
    assert "above random" in page.cells
    beside = " ".join(page.text)
    assert all(name in beside for name in (*effect.missing, *effect.left_out))
    assert json.loads((answered.out / "verdict.json").read_text())["verdict"] == "uninformative"
    figures = {one.stem for one in (answered.out / "figures").glob("*.html")}
    assert {"by_layer", "controls", "random"} <= figures
    assert all((answered.out / "figures" / f"{one}.json").stat().st_size > 1_000 for one in figures)


class Shown(HTMLParser):
    """What a page says: texts, cells of tables, what is set in bold; and elements that were not closed."""

    VOID = frozenset("meta link br hr img input source col".split())

    def __init__(self) -> None:
        super().__init__()
        self.open, self.text, self.cells, self.strong = list[str](), list[str](), set[str](), list[str]()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.open += [] if tag in self.VOID else [tag]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] in ("script", "style"):
            return
        self.text.append(data)
        if self.open[-1] in ("td", "th"):
            self.cells.add(data.strip())
        if self.open[-1] == "strong":
            self.strong.append(data.strip())


# -- where the answer is known ---------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "word"), [("mediated", "text-mediated"), ("shadow", "epiphenomenal")])
def test_a_planted_model_in_slamkits_layout_gets_its_verdict_from_a_table_of_units(kind: str, word: str, tmp_path: Path) -> None:
    planted = plant(kind, d_model=64, n_words=9, n_contrasts=10)
    save(planted, tmp_path / "model")
    unit_table(planted.slm, planted_cases(planted)).to_csv(tmp_path / "units.csv", index=False)
    files = (str(tmp_path / "model"), str(tmp_path / "units.csv"))
    code, said, _ = run(
        "causal", *files, "--layers", "2-3", "--n-units", str(planted.lexicon.n_units), "--no-pictures", "--out", str(tmp_path / "out")
    )
    found, page = json.loads((tmp_path / "out" / "verdict.json").read_text()), Shown()
    page.feed((tmp_path / "out" / "index.html").read_text(encoding="utf-8"))
    assert code == 0 and f"{word} (line " in said
    assert page.strong[0] == found["verdict"] == planted.truth.verdict == word
    assert found["shares"]["text"]["estimate"] == pytest.approx(planted.fraction, abs=1e-3)


# -- what cases are --------------------------------------------------------------------------------------


def test_recordings_that_eSpeak_made_are_the_cases_that_eSpeak_says(place: Path) -> None:
    """Whatever the case and the punctuation of their transcripts; and a second recording is the other voice."""
    carried = speech.load_quantiser(place / "slamkit_quantiser")
    slm = convert.load(str(place / "slamkit"), str(place / "slamkit" / "text"), quantiser=carried)
    words = str(place / "words.csv")
    by_espeak = Source(words, quantiser=carried).cases(slm)
    recordings = (str(place / "recordings"), str(place / "other_voice"))
    recorded = Source(words, quantiser=carried, recordings=recordings).cases(slm)
    assert [case.name for case in recorded] == [case.name for case in by_espeak]
    for one, other in zip(recorded, by_espeak, strict=True):
        assert one.base.tokens.tolist() == other.base.tokens.tolist() and one.words == other.words and one.span == other.span
        assert (one.other_voice is None) == (other.other_voice is None)
        if one.other_voice is not None and other.other_voice is not None:
            assert one.other_voice.prompt.tokens.tolist() == other.other_voice.prompt.tokens.tolist()
    assert sum(case.other_voice is not None for case in recorded) >= 3


def test_a_recording_is_found_whatever_its_case_and_punctuation_and_its_words_are_called_as_asked(place: Path, tmp_path: Path) -> None:
    slm = convert.load(str(place / "spiritlm"))
    text = spoken.SENTENCES[0]
    written = text.capitalize() + "."
    spoken.features(tmp_path / "said.jsonl", [text], "spiritlm")
    record = json.loads((tmp_path / "said.jsonl").read_text())
    record["aligned_text"] = [[f" {word}", *times] for word, (_, *times) in zip(written.split(), record["aligned_text"], strict=True)]
    (tmp_path / "said.jsonl").write_text(json.dumps(record))
    say = recorded_in(slm, tmp_path / "said.jsonl")
    assert [word.text for word in say(text).utterance.words] == text.split()
    with pytest.raises(SpeechError, match="There is no recording of 'now say sea' in"):
        say("now say sea")
    (tmp_path / "said.jsonl").write_text("\n".join(json.dumps({**record, "file_name": name}) for name in ("a.wav", "b.wav")))
    with pytest.raises(SpeechError, match=f"line 1 and .*line 2 both say '{text}'. Keep the one"):
        recorded_in(slm, tmp_path / "said.jsonl")


def test_facts_in_units_are_the_facts_that_were_heard(place: Path, tmp_path: Path) -> None:
    """Of one quantiser: the same prompts, spans and answers, whether the table holds sounds or what it makes of them."""
    carried = speech.load_quantiser(place / "slamkit_quantiser")
    slm = convert.load(str(place / "slamkit"), str(place / "slamkit" / "text"), quantiser=carried)
    table = pd.read_parquet(place / "facts.parquet")
    made = [carried.encode(speech.resample(spoken.said(prompt).audio, 16_000)) for prompt in table["id"]]
    units = table.drop(columns=["audio", "fact_audio"]).assign(
        units=[one.units.tolist() for one in made],
        frames=[one.durations.tolist() for one in made],
        fact_units=[carried.encode(speech.resample(spoken.said(fact).audio, 16_000)).units.tolist() for fact in table["fact"]],
    )
    units.to_parquet(tmp_path / "units.parquet")
    heard = Source(str(place / "facts.parquet"), columns=columns(SOUND), quantiser=carried).cases(slm)
    told = Source(str(tmp_path / "units.parquet"), columns=columns(UNITS)).cases(slm)
    for one, other in zip(heard, told, strict=True):
        assert (one.name, one.words, one.span, one.elsewhere) == (other.name, other.words, other.span, other.elsewhere)
        for mine, theirs in zip(*([each.source.tokens, each.base.tokens, each.contrast.answer] for each in (one, other)), strict=True):
            assert mine.tolist() == theirs.tolist()


def test_sentences_of_two_speakers_meet_only_where_nobody_tells_them_apart(place: Path, tmp_path: Path) -> None:
    slm = convert.load(str(place / "spiritlm"))
    spoken.features(tmp_path / "said.jsonl", spoken.SENTENCES[:4], "spiritlm")
    records = [json.loads(line) for line in (tmp_path / "said.jsonl").read_text().splitlines()]
    for number, record in enumerate(records):
        record["file_name"] = f"{'ab'[number % 2]}-{number}.flac"
    (tmp_path / "said.jsonl").write_text("\n".join(map(json.dumps, records)))
    together, apart = (Source(str(tmp_path / "said.jsonl"), speaker=one).cases(slm) for one in (None, "^([ab])-"))
    assert [case.name for case in together] == ["a-0 / b-1", "a-2 / b-3"]
    assert [case.name for case in apart] == ["a-0 / a-2", "b-1 / b-3"]
    heard = speech.corpus(slm, tmp_path / "said.jsonl")
    for wrong, sentence in (("[", "'\\[' is none: unterminated"), ("^x", "has 0 groups and is not in 4 of 4 names, such as 'a-0'")):
        with pytest.raises(PatchingError, match=sentence):
            speakers_of(heard, wrong)


# -- what is refused -------------------------------------------------------------------------------------

SLAMKIT, QUANTISED, PLAIN = ("--text-tokenizer", "slamkit/text"), ("--quantiser", "slamkit_quantiser"), ("--n-units", "120")
REFUSED = {
    "a column is called otherwise": (("slamkit", "next.csv", *SLAMKIT, *QUANTISED), "missing: ['answer'], not known: ['next']. Rename them; on the"),
    "neither words nor units": (("slamkit", "other.csv", *SLAMKIT, *QUANTISED), "or a table of units, with name, clean_units"),
    "a mapped column is not there": (("slamkit", "words.csv", *SLAMKIT, *QUANTISED, "--column", "answer=next"), "has no column next; it has frame, clean"),
    "no quantiser": (("slamkit", "words.csv", *SLAMKIT, *PLAIN), "carries no quantiser, so give --quantiser FOLDER"),
    "no quantiser for recordings": (("slamkit", "words.csv", *SLAMKIT, *PLAIN, "--recordings", "recordings"), "0000.wav: its units are made from sound, and"),
    "no quantiser for a corpus": (("glm4voice", "corpus"), "on the command line --quantiser FOLDER; or give units"),
    "eSpeak for a model whose tokenizer is not read": (("glm4voice", "words.csv"), "(Spirit LM, GLM-4-Voice), make the units with the model's code"),
    "a quantiser of another model": (("glm4voice", "words.csv", *QUANTISED), "The quantiser has 120 units: is it the one that this model was trained with?"),
    "facts without columns": (("slamkit", "facts.parquet", *SLAMKIT, *QUANTISED), "Spoken facts are named by --column name=..., prompt=..."),
    "facts without words": (("slamkit", "facts.parquet", *SLAMKIT, *QUANTISED, "--column", "right=fact_audio"), "'right_text', 'words or text']"),
    "no minimal pair": (("slamkit", "alone", *SLAMKIT, *QUANTISED), "no two of one speaker begin alike but for one word, sharing 2 words, and go on"),
    "units of another rate": (("glm4voice", "slamkit.jsonl"), "this model has 12.5 a second, none merged. Durations are counted in frames of 0.04 s"),
    "recordings of something else": (("slamkit", "corpus", *SLAMKIT, *QUANTISED, "--recordings", "recordings"), "Recordings say the sentences of a"),
    "speakers of a list": (("slamkit", "words.csv", *SLAMKIT, *QUANTISED, "--speaker", "(x)"), "Speakers are told apart in corpora"),
}  # fmt: skip


@pytest.fixture(scope="module")
def wrong(place: Path) -> Path:
    """Beside what is right: a list with a column of another name, one of another kind, sentences without a pair."""
    words = pd.read_csv(place / "words.csv")
    words.rename(columns={"answer": "next"}).to_csv(place / "next.csv", index=False)
    words[["clean", "corrupted"]].to_csv(place / "other.csv", index=False)
    spoken.corpus(place / "alone", [spoken.SENTENCES[0], "he wrote the book"])
    return place


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_asked_is_refused_with_what_to_do(what: str, wrong: Path, tmp_path: Path) -> None:
    asked_for, sentence = REFUSED[what]
    line = [str(wrong / one) if (wrong / one).exists() else one for one in asked_for]
    code, _, told = run("causal", *line, "--out", str(tmp_path / "out"), "--no-pictures")
    assert code == 2 and sentence in told and not (tmp_path / "out").exists(), told
