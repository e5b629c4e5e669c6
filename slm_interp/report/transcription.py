"""One command: a checkpoint and a corpus become tables, figures and one page, each number beside its null and the paper's beside ours.

Written to the folder, next to the store's own `manifest.json` and `parts/`:

| file | one row for every |
|---|---|
| `observations.parquet` | word, layer and candidate (`transcription.tidy`) |
| `recall.parquet`, `.csv` | target, jitter, predictability group, layer (and `any`) and k, with nulls (`transcription.recall`) |
| `by_position.parquet` | number by layer, position from the onset and null |
| `rise.parquet` | layer: recall after the word less before it (`transcription.rise`) |
| `mass.parquet` | number by input, layer, modality and pooling |
| `surprisal.parquet` | word, as the model's text mode foresees it |
| `table_1.csv` | target: our row and the paper's |
| `corpus.json` | the corpus as it was read; may be given as the corpus again, without aligning anew |
| `figures/` | the figures as HTML, and as PNG where kaleido and a browser are there |
| `transcription.html` | the page |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from slm_interp import organisms, speech
from slm_interp.errors import ReadoutError, SpeechError
from slm_interp.files import atomic_path, write_text
from slm_interp.lenses import Lens, LogitLens
from slm_interp.lenses.jacobian.lens import JacobianLens
from slm_interp.lenses.tuned.lens import TunedLens
from slm_interp.model import SpeechTextModel
from slm_interp.organisms import RECIPES
from slm_interp.plots import mass_by_input, recall_by_position, recall_of_target, write_png
from slm_interp.report.measuring import Asking, Measured, flat_mass, flat_positions, measure
from slm_interp.report.page import page_of
from slm_interp.speech import Corpus, Quantiser
from slm_interp.transcription import recall
from slm_interp.transcription.paper import K, PaperRow, figure_3, figure_4, nearest_row, released_row, table_1

SAVED_LENSES: Mapping[str, Callable[[str, SpeechTextModel], Lens]] = {"tuned.json": TunedLens.load, "jacobian.json": JacobianLens.load}


@dataclass(frozen=True)
class Reading:
    """How a corpus is read.

    Args:
        source: an organism's name for its samples, or whatever `speech.corpus` reads.
        columns: for tables, `ours=theirs` each.
        quantiser, form: see `speech.corpus`.
        limit: only the first so many utterances.
    """

    source: str
    columns: tuple[str, ...] = ()
    quantiser: Quantiser | None = None
    form: str | None = None
    limit: int | None = None

    def corpus(self, slm: SpeechTextModel) -> Corpus:
        """The corpus, as the model reads it.

        Raises:
            SpeechError: columns that are not `ours=theirs`, or a limit below 1; and as `speech.corpus`.
        """
        wrong = [one for one in self.columns if one.count("=") != 1]
        if wrong or (self.limit is not None and self.limit < 1):
            raise SpeechError(f"Columns are written ours=theirs and a limit is 1 or more; got {wrong[0] if wrong else self.limit!r}.")
        if self.source in organisms.names() and not Path(self.source).exists():
            said = organisms.samples(self.source)[: self.limit]
            return Corpus(tuple(one.utterance(slm, self.form) for one in said), source=f"samples of the organism {self.source}")
        columns = dict(one.split("=") for one in self.columns) or None
        return speech.corpus(slm, self.source, columns, self.quantiser, self.form).first(self.limit)


@dataclass(frozen=True, eq=False)
class Ran:
    """What a run found, in plain words, and its figures by the name of their files."""

    said: str
    figures: Mapping[str, go.Figure]

    def __str__(self) -> str:
        return self.said


def run(slm: SpeechTextModel, reading: Reading, out: Path, lens: str = "logit", asking: Asking | None = None) -> Ran:
    """The whole analysis of a corpus by a model, or what is still missing of it.

    Args:
        out: a folder of its own.
        lens: `"logit"`, or the folder of a saved tuned or Jacobian lens.

    Raises:
        StoreError: a folder that was made for something else.
    """
    asking = asking or Asking()
    corpus = reading.corpus(slm)
    looked = lens_of(slm, lens)
    measured = measure(slm, corpus, looked, asking, out)
    corpus.save(out)
    told = recalls(measured, asking)
    figures = figures_of(measured, told, asking)
    table = write(slm, corpus, looked, measured, asking, told, figures, out)
    shown = table[["target", "words", "paper", "recall", "low", "high", *(one for one in table if one.startswith("null_"))]]
    said = f"{slm!r}\n{corpus!r}\n\n{shown.round(3).to_string(index=False)}\n\nOpen {out / 'transcription.html'}"
    return Ran(said, figures)


def lens_of(slm: SpeechTextModel, lens: str) -> Lens:
    """The logit lens by its name, or a lens that was saved in a folder.

    Raises:
        ReadoutError: a folder with no lens in it, or with one of another model.
    """
    if lens == "logit":
        return LogitLens(slm)
    for file, load in SAVED_LENSES.items():
        if (Path(lens) / file).is_file():
            return load(lens, slm)
    raise ReadoutError(f"A lens is 'logit' or a folder that holds {' or '.join(SAVED_LENSES)}; got {lens!r}.")


def paper_row(slm: SpeechTextModel) -> tuple[PaperRow | None, str]:
    """The paper's row to stand beside ours, and why that one."""
    found = released_row(slm.provenance)
    if found is not None:
        return found, "the released model itself, by the name of its checkpoint"
    recipe = RECIPES.get(str(slm.provenance.get("checkpoint", "")))
    if recipe is None:
        return None, "the paper has no row for this model"
    text, interleaved, _ = recipe.joint_phases[-1].mix
    row = nearest_row(recipe.text_phase is not None, text > 0, interleaved)
    why = "the line of the paper's ablation with the same initialisation and kinds of data, the nearest share of interleaved rows; another world, another size"
    return (row, why) if row is not None else (None, "no line of the paper's ablation was trained alike")


def write(
    slm: SpeechTextModel,
    corpus: Corpus,
    lens: Lens,
    measured: Measured,
    asking: Asking,
    told: pd.DataFrame,
    figures: Mapping[str, go.Figure],
    out: Path,
) -> pd.DataFrame:
    """Tables, figures and page of what was measured; returns our row of the paper's table.

    Args:
        told: of `recalls`.
        figures: of `figures_of`.
    """
    row, why = paper_row(slm)
    first = table_1(measured.observed, k=min(asking.k, key=lambda one: abs(one - K)), ranks=asking.ranks, beside=row)
    tables = {
        "observations": measured.rows,
        "recall": told,
        "by_position": flat_positions(measured.positions),
        "mass": flat_mass(measured.mass),
        **({} if measured.rise is None else {"rise": measured.rise}),
        **({} if measured.surprisal is None else {"surprisal": measured.surprisal}),
    }
    for name, table in tables.items():
        _parquet(out / f"{name}.parquet", table)
    for name, table in (("recall", tables["recall"]), ("table_1", first)):
        write_text(out / f"{name}.csv", table.to_csv(index=False, float_format="%.6g"))
    write_figures(figures, out / "figures")
    said = {**asdict(asking), "k": list(asking.k), "nulls": list(asking.nulls)}
    source = {
        **{f"model {name}": value for name, value in slm.provenance.items()},
        **{f"lens {name}": value for name, value in lens.settings.items()},
        **{f"asked {name}": value for name, value in said.items()},
        "corpus": corpus.hash,
    }
    page_of(corpus, measured, first, why, told, figures, source).write(out / "transcription.html")
    return first


def recalls(measured: Measured, asking: Asking) -> pd.DataFrame:
    """All recall tables under one another: columns `target`, `jitter`, `group` (`all`, `predictable`, `unpredictable`), then those of `recall`."""
    observed = measured.observed
    curves = [figure_3(observed["current"], observed["next"], asking.k, asking.ranks)]
    curves += [figure_4(observed["answer"], asking.k, asking.ranks)] if "answer" in observed else []
    found = [one.assign(jitter=0, group="all") for one in curves]
    for target, seen in observed.items():
        if "predictability" in seen.dataset.coords:
            for group, part in _groups(seen):
                found.append(recall(part, asking.k, ranks=asking.ranks).assign(target=target, jitter=0, group=group))
    if measured.jittered is not None:
        moved = recall(measured.jittered, asking.k, ranks=asking.ranks)
        found.append(moved.assign(target="current", jitter=asking.jitter, group="all"))
    whole = pd.concat(found, ignore_index=True)
    whole.attrs = {}
    front = ["target", "jitter", "group"]
    return whole[[*front, *(one for one in whole if one not in front)]]


def _groups(seen: Any) -> list[tuple[str, Any]]:
    """Predictable and unpredictable words, each where it has two utterances and two types to draw from."""
    found = []
    for group in ("predictable", "unpredictable"):
        part = seen.dataset.isel(word=(seen.dataset["predictability"].values == group).nonzero()[0])
        if min(len(set(part[way].values.tolist())) for way in ("utterance", "word_type")) > 1:
            found.append((group, type(seen)(part)))
    return found


def figures_of(measured: Measured, table: pd.DataFrame, asking: Asking) -> dict[str, go.Figure]:
    """The pictures, by the name of their files.

    Args:
        table: of `recalls`.
    """
    curves = table[(table["group"] == "all") & (table["jitter"] == 0)]
    k = min(asking.k, key=lambda one: abs(one - K))
    found = {
        "figure_2_mass": mass_by_input(measured.mass),
        "figure_3_current": recall_of_target(curves, "current", k),
        "figure_3_next": recall_of_target(curves, "next", k),
    }
    if "answer" in measured.observed:
        found["figure_4_answer"] = recall_of_target(curves, "answer", k)
    inner = measured.positions["recall"].max("offset")
    best = int(inner["layer"].values[inner.values.argmax()])
    last = int(measured.positions["layer"].values[-1])
    return {**found, "by_position": recall_by_position(measured.positions, sorted({0, best, last}))}


def write_figures(figures: Mapping[str, go.Figure], folder: Path) -> None:
    """Each figure as HTML, beside one copy of plotly.js."""
    write_text(folder / "plotly.min.js", get_plotlyjs())
    for name, figure in figures.items():
        write_text(folder / f"{name}.html", figure.to_html(include_plotlyjs="directory", div_id=name, validate=False))


def write_pictures(figures: Mapping[str, go.Figure], folder: Path) -> str:
    """Each figure as PNG, if they can be drawn here (some seconds each); says in a sentence whether they could."""
    try:
        for name, figure in figures.items():
            write_png(figure, folder / f"{name}.png")
    except (ImportError, RuntimeError) as error:
        return f"No pictures: {error}"
    return f"Pictures: {folder}"


def _parquet(path: Path, table: pd.DataFrame) -> None:
    bare = table.copy(deep=False)
    bare.attrs = {}
    with atomic_path(path) as temporary:
        bare.to_parquet(temporary, engine="pyarrow", index=False)
