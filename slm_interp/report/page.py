"""The page of the transcription command: what was asked, the paper's row, figures with nulls, heard or guessed, and what it cannot show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from slm_interp.page import Block, Figure, Page, Section, Table, Text
from slm_interp.report.measuring import Measured
from slm_interp.speech import Corpus

LEAD = (
    "Implicit transcription: the claim that on speech input an interleaved model's middle layers spell the spoken word as text (arXiv 2606.22473). "
    "Every share below stands beside what other words get at the same place by the same rule, with an interval over utterances and word types."
)
NOT_SHOWN = (
    "That what can be read is used: that takes interventions.\n\n"
    "That a word was heard, where the text before it foretells it: look at the unpredictable words, and at recall before the onset.\n\n"
    "That a word which no layer shows is not there: it may be there in another basis; a probe tells.\n\n"
    "Mass on text is not the presence of words: a flat distribution puts each modality's share of the vocabulary there; look at the dotted lines.\n\n"
    "The paper's numbers come from secondary summaries, and the numbering of its figures is inferred. It gives neither nulls nor intervals, and does "
    "not say which piece of a word counts, whether ranks are joint, and whether the final norm is applied."
)
CAPTIONS = {
    "figure_2_mass": "Greatest mass over each word's span, mean over words. Bars: interval. Dotted: random vectors of the same norms. "
    "Dashed: text when text and speech own equally many ids.",
    "figure_3_current": "Any position of the word's own span. Dotted: other words at the same place. Right: the best layer of each word.",
    "figure_3_next": "The word after the one that is heard, at any position of the heard one's span.",
    "figure_4_answer": "The answer, at any position of the prompt's last word.",
    "by_position": "Recall at single positions from the word's onset: what is decodable before the line has not been heard yet.",
}


def page_of(
    corpus: Corpus,
    measured: Measured,
    table_1: pd.DataFrame,
    why: str,
    recall: pd.DataFrame,
    figures: Mapping[str, go.Figure],
    source: Mapping[str, Any],
) -> Page:
    """The page.

    Args:
        table_1: our row with the paper's beside it, and
        why: that one.
        recall: of all targets, groups and jitters.
        figures: by name.
        source: provenance, printed at the foot.
    """
    shown = [_figure(figures, name) for name in CAPTIONS if name in figures and name != "by_position"]
    sections = [
        Section("What was asked", [Text(_asked(corpus, measured, source))]),
        Section("Any layer, any position: the paper's score", [Table(_shares(table_1), f"The paper's numbers: {why}.")]),
        Section("By layer", shown),
        Section("Heard or guessed?", _heard(measured, recall, figures)),
        Section("All recalls", [Table(_shares(recall), "Every target, group, layer and k.", folded=True)]),
        Section("What this cannot show", [Text(NOT_SHOWN)]),
    ]
    return Page("Is it heard?", sections, LEAD, source)


def _asked(corpus: Corpus, measured: Measured, source: Mapping[str, Any]) -> str:
    reasons = {target: ", ".join(f"{count} {why}" for why, count in seen.left_out.items()) for target, seen in measured.observed.items()}
    counted = "; ".join(f"{target}: {why or 'none'}" for target, why in reasons.items())
    absent = "".join(f"\n\nNot measured: {name}. {reason}" for name, reason in measured.notes.items())
    return (
        f"{corpus!r}.\n\nLens: {source.get('lens lens', '?')}. A word counts as decoded at k if it is among the k best at any position of its span; "
        f"a null word is asked at the same positions and pooled by the same call.\n\nWords left out by target: {counted}.{absent}"
    )


def _heard(measured: Measured, recall: pd.DataFrame, figures: Mapping[str, go.Figure]) -> list[Block]:
    blocks: list[Block] = [_figure(figures, "by_position")]
    groups = recall[(recall["layer"] == "any") & (recall["group"] != "all")]
    if len(groups):
        blocks.append(
            Table(_shares(groups), "By whether the model's own text mode has the word among its ten best. Best layer of each word.")
        )
    moved = recall[(recall["layer"] == "any") & (recall["target"] == "current") & (recall["group"] == "all")]
    if measured.jittered is not None:
        blocks.append(
            Table(_shares(moved), "The current word with its boundaries as they are, and moved at random by up to so many positions.")
        )
    if measured.rise is not None:
        blocks.append(
            Table(
                measured.rise.round(3),
                "After the word's end less before its onset, over windows of one length; below 0 nothing was heard.",
                folded=True,
            )
        )
    return blocks


def _figure(figures: Mapping[str, go.Figure], name: str) -> Figure:
    title = figures[name].layout.title.text
    return Figure(figures[name], f"{title}. {CAPTIONS[name]}", CAPTIONS[name])


def _shares(table: pd.DataFrame) -> pd.DataFrame:
    """Recall, interval and nulls of a table, rounded; p and the differences stay in the files."""
    kept = [name for name in table if not str(name).startswith(("over_", "p_", "holm_"))]
    return table[kept].round(3)
