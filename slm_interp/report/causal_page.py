"""The page of a causal experiment: the verdict first, then every number that it rests on and every control beside it, and what it cannot show."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from slm_interp.causal.cases import Case
from slm_interp.causal.effect import Effect
from slm_interp.causal.verdict import LINES, Verdict
from slm_interp.page import Answer, Block, Figure, Page, Player, Section, Table, Text
from slm_interp.plots.causal_data import ARMS, at_layer, rows_of, summary, with_specific
from slm_interp.report.causal_figures import Shown, figures_of
from slm_interp.report.causal_verdict import Judged

LEAD = (
    "A causal test: the run of a spoken prompt is changed where a word is heard, at one layer, and the change of what the model says next is measured. "
    "Effects are changes of log p(answer) − log p(distractor) over speech units, in nats; every interval is over clusters of prompts and of words."
)
NOT_SHOWN = (
    "It is about the words, prompts and voices that were asked, at single layers and at the word's own positions. Text that is spread over many layers and "
    "rebuilt is asked by editing a band of layers at once, and reported apart.\n\n"
    "“Epiphenomenal” is about the directions of this lens. What carries the word may be text in a basis that no lens here reads.\n\n"
    "“Text-mediated” says that the word's text coordinates suffice and that nothing beside them does. It does not say that the model computes with text "
    "elsewhere.\n\n"
    "“Uninformative” is no finding: it says that these cases cannot tell, and the line says why. With fewer than 40 clusters intervals are too narrow."
)
RULE = (
    "the whole patch does not exceed the least ceiling",
    "the lens does not read the word here",
    "text carries all, its complement nothing, and it is this word's text",
    "text carries nothing, its complement all",
    "text carries a part, and it is this word's text",
    "what text moves is shown neither to be nothing nor to be this word's",
    "otherwise: intervals too wide, or neither part carries the effect alone",
)
CAPTIONS = {
    "by_layer": "Shares of what tells the two prompts apart (nats, where they are not told apart), of the cases named in the title. Grey: the middle 95% of "
    "random directions as long as the text swap. Below: the share of cases in which the lens ranks the clean word first in the clean run. Being read is not "
    "being used.",
    "controls": "Every change that was made, as a share of the whole patch (nats, where there is none). Shaded: the share that counts as nothing. Filled marks "
    "decide; the others decide nothing.",
    "doses": "The text swap in other doses than 1, also away from the clean word. On the dashed line the response is in proportion to the dose.",
    "random": "Each draw is a random direction, as long at every position as the change of the text swap. Left: effects to first order. Right: the first "
    "draws run exactly.",
}
LISTENED = 6  # cases that are heard on the page
SOUND_BYTES = 3_000_000  # of all sound on it
ROWS = 500  # of the table of cases


def page_of(
    effect: Effect, judged: Judged, shown: Sequence[Shown], cases: Sequence[Case] = (), notes: str = "", more: Sequence[Section] = ()
) -> Page:
    """The page.

    Args:
        judged: of `causal_verdict.judged`.
        shown: what is drawn of each basis, of `causal_figures.shown`.
        cases: whose sound is heard, and whose words are printed; none: the table alone.
        notes: on how the cases came about, such as what was left out.
        more: sections that follow the cases.
    """
    sections = [Section("The verdict", _verdict(effect, judged), _warned(judged))]
    sections += [Section(f"By {one.basis}", _of_basis(effect, one)) for one in shown]
    sections += [Section("The cases", _cases(effect, shown, cases, notes)), *more]
    sections.append(Section("What this cannot show", [Text(NOT_SHOWN)]))
    return Page("Does text drive the speech?", sections, LEAD, dict(_provenance(effect.about)))


# ---- the verdict


def _verdict(effect: Effect, judged: Judged) -> list[Block]:
    blocks: list[Block] = [Answer(judged.word, judged.reason)]
    if judged.verdicts:
        rows = [_row(basis, judged.layers[basis], one) for basis, one in judged.verdicts.items()]
        blocks.append(Table(pd.DataFrame(rows), "Each lens by itself: shares of the whole patch with their intervals, on the report half."))
        blocks += [Text(f"{basis}: {one.reason}") for basis, one in judged.verdicts.items() if len(judged.verdicts) > 1]
    held = {one.line for one in judged.verdicts.values()}
    lines = [
        {"line": line.number, "says": line.word, "if": said, "held for": ", ".join(b for b, one in judged.verdicts.items() if one.line == line.number)}
        for line, said in zip(LINES, RULE, strict=True)
    ]  # fmt: skip
    blocks.append(
        Table(
            pd.DataFrame(lines), "The rule: the first line that holds decides. It was written before any trained model was asked.", not held
        )
    )
    blocks.append(Text(_missing(effect, judged)))
    return blocks


def _row(basis: str, layer: int, verdict: Verdict) -> dict[str, Any]:
    shares = {name: str(verdict.shares[name]) if name in verdict.shares else "" for name in ("text", "complement", "specific", "here")}
    percentile = "" if verdict.percentile is None else f"{verdict.percentile:.4g}%"
    return {
        "lens": basis,
        "layer": layer,
        "verdict": verdict.word,
        "line": verdict.line,
        "ceiling (nats)": str(verdict.ceiling),
        "lens's margin": str(verdict.evidence.means["margin"]),
        "text": shares["text"],
        "complement": shares["complement"],
        "text − third": shares["specific"],
        "text − elsewhere": shares["here"],
        "above random": percentile,
        "specific": "yes" if verdict.specific else "no",
        "cases": verdict.cases,
        "clusters": ", ".join(f"{count} {way}" for way, count in verdict.clusters.items()),
    }


def _warned(judged: Judged) -> str:
    return " ".join(judged.warnings)


def _missing(effect: Effect, judged: Judged) -> str:
    """Controls that these cases do not have, and those that were not asked for."""
    said = [f"{name} ({count} cases)" for name, count in effect.missing.items()]
    ruled = sorted({one for verdict in judged.verdicts.values() for one in verdict.missing})
    parts = [
        f"Not measured: {', '.join(ruled)}." if ruled else "",
        f"Cases that cannot have a control: {', '.join(said)}." if said else "",
        f"Controls that were not asked for: {', '.join(effect.left_out)}." if effect.left_out else "",
    ]
    return "\n\n".join(one for one in parts if one) or "No control is missing."


# ---- figures and controls


def _of_basis(effect: Effect, one: Shown) -> list[Block]:
    blocks: list[Block] = [Text(one.said)]
    blocks += [_figure(name, figure) for name, figure in figures_of(effect, one).items()]
    blocks.append(Table(_control_table(one), "Every arm and dose in numbers: means in nats, and shares of its ceiling.", folded=True))
    return blocks


def _figure(name: str, figure: go.Figure) -> Figure:
    return Figure(figure, f"{figure.layout.title.text}. {CAPTIONS[name]}", CAPTIONS[name])


def _control_table(one: Shown) -> pd.DataFrame:
    rows = with_specific(one.rows)
    means, shares = (summary(rows, list(ARMS), of) for of in (None, "ceiling"))
    there = rows.groupby(["arm", "dose"], sort=False)[["moved", "distance"]].mean()
    found = []
    for arm in ARMS:
        for mine in means[means["arm"] == arm].sort_values("dose").itertuples(index=False):
            share = shares[(shares["arm"] == arm) & (shares["dose"] == mine.dose)]
            moved, distance = there.loc[(arm, mine.dose)]
            found.append(
                {
                    "arm": ARMS[arm].label, "dose": mine.dose, "effect (nats)": _interval(mine), "cases": mine.cases,
                    "share": _interval(share.iloc[0]) if one.unit == "share" and len(share) else "",
                    "moved": "" if pd.isna(moved) or arm == "specific" else f"{moved:.3g}",
                    "distance": "" if pd.isna(distance) or arm == "specific" else f"{distance:.3g}", "what it is": ARMS[arm].said,
                }
            )  # fmt: skip
    return pd.DataFrame(found)


def _interval(row: Any) -> str:
    return f"{row.estimate:.3g}" + ("" if pd.isna(row.low) else f" [{row.low:.3g}, {row.high:.3g}]")


# ---- cases


def _cases(effect: Effect, shown: Sequence[Shown], cases: Sequence[Case], notes: str) -> list[Block]:
    table, first = _case_table(effect, shown[0], cases), shown[0]
    cut = f"; the first {ROWS} of {len(table)}, the files have all" if len(table) > ROWS else ""
    caption = f"Every case at layer {first.layer} of {first.basis}: outcome of both prompts, effects in nats{cut}."
    blocks: list[Block] = [Text(notes)] if notes else []
    blocks.append(Table(table.head(ROWS), caption, folded=len(table) > 12))
    return [*blocks, *_sounds(cases)]


def _case_table(effect: Effect, one: Shown, cases: Sequence[Case]) -> pd.DataFrame:
    words = {case.name: f"{case.words.clean} / {case.words.corrupted}" for case in cases}
    rows = at_layer(rows_of(effect.table, one.basis, one.outcome, "both"), one.layer)
    rows = rows[rows["dose"] == 1]
    wide = rows.pivot(index="case", columns="arm", values="effect")
    labels = rows.drop_duplicates("case").set_index("case")
    read = effect.reading[(effect.reading["basis"] == one.basis) & (effect.reading["layer"] == one.layer)].set_index("case")
    table = pd.DataFrame(
        {"case": labels.index, "prompt": labels["prompt"], "word": [words.get(name, labels.loc[name, "word"]) for name in labels.index]}
    )
    table = table.assign(half=labels["half"], corrupted=labels["base"], clean=labels["source"])
    for arm in ("whole", "text", "complement", "third"):
        if arm in wide:
            table[arm] = wide[arm]
    table["heard"] = ["yes" if read["heard"].get(name, False) else "no" for name in labels.index]
    table["lens's margin"] = read["margin"].reindex(labels.index)
    return table.reset_index(drop=True)


def _sounds(cases: Sequence[Case]) -> Iterator[Block]:
    """Both prompts of the first cases that have sound, as long as they fit."""
    left, heard = SOUND_BYTES, 0
    for case in cases:
        pair = [prompt.audio for prompt in (case.source, case.base)]
        size = sum(len(audio.data_uri()) for audio in pair if audio is not None)
        if None in pair or heard == LISTENED or size > left:
            continue
        left, heard = left - size, heard + 1
        for side, audio in zip(("clean", "corrupted"), pair, strict=True):
            assert audio is not None
            yield Text(f"{case.name}, {side}: {' '.join(word.text for word in (case.source if side == 'clean' else case.base).words)}")
            yield Player(audio)


def _provenance(about: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for name, value in about.items():
        if isinstance(value, Mapping):
            yield from _provenance(value, f"{before}{name} ")
        else:
            yield f"{before}{name}", value if isinstance(value, str) else json.dumps(value, default=str)
