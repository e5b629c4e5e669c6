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
from slm_interp.causal.experiment import Plan
from slm_interp.plots.causal_data import ARMS
from slm_interp.report.causal_asking import Source, plan_of
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
