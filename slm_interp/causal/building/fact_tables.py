"""Cases from a table of spoken facts, such as `slprl/common-sense-facts-audio`: items of one frame against each other.

| name here | the column that it is mapped to holds |
|---|---|
| `name` | of the item |
| `prompt` | sound of the prompt, as Hugging Face's `datasets` keep it, or the path of a file; or a list of units |
| `durations` | where prompts are units, how many frames of 40 ms each lasts; one, if it is not mapped |
| `words` | its words with their seconds; or `text`, its transcript, which is aligned by force |
| `right` | the true continuation: sound, or units (`transcription.knowledge.fact_tables.units_of`) |
| `right_text` | what it says |
| `voice` | who speaks; where it is mapped, only items of one voice are paired |

1. Two items are of one frame if their prompts differ in one word: "the capital of France is", "the capital of Italy is". They are found by themselves.
2. Within a frame every item is the clean one once, and the item after it (in the order of names) the corrupted one; two items make one case.
3. The answer is the clean item's true continuation and the distractor the other's. That is the wrong continuation of the same category that the
   corrupted prompt asks for; the table's own counterfactual is asked for by neither prompt, and is not used.
4. Prompts were recorded up to their end, and continuations by themselves: the sound of a prompt gives its answer away less than in a whole
   sentence, and what joins them is a cut that no model was trained on. The corrupted word is spliced into the clean prompt.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

from slm_interp.causal.building.cases_built import Built, LeftOut
from slm_interp.causal.building.sentences import Given, Side, Stock, assembled, opened, side_of
from slm_interp.causal.cases import Case
from slm_interp.errors import PatchingError
from slm_interp.model import SpeechTextModel
from slm_interp.speech.corpora import corpus
from slm_interp.speech.quantiser import Quantiser
from slm_interp.transcription.knowledge.fact_tables import table_of, units_of
from slm_interp.utterance import Utterance

WANTED, MAY = ("name", "prompt", "right", "right_text"), ("words", "text", "durations", "voice")


@dataclass(frozen=True, eq=False)
class _Item:
    """A prompt, and its row in the table."""

    prompt: Utterance
    row: Mapping[str, object]

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(word.text for word in self.prompt.words)

    @property
    def answer(self) -> str:
        return str(self.row["right_text"]).strip()


def fact_pairs(
    slm: SpeechTextModel,
    table: pd.DataFrame | str | os.PathLike[str],
    columns: Mapping[str, str],
    quantiser: Quantiser | None = None,
    form: str | None = None,
) -> Built:
    """Cases of items that ask one thing of two words. Items that meet no other are listed (`item`).

    Args:
        slm: the model.
        table: or the path of a Parquet file.
        columns: from the names above to the table's own.
        quantiser: makes units of sound; None is the one that the checkpoint carries.
        form: prompt form; what closes it is left away, since units are to follow.

    Raises:
        PatchingError: columns that are missing or not known, no pair at all.
        SpeechError: cells that cannot be read.
    """
    data = table if isinstance(table, pd.DataFrame) else table_of(table)
    _refuse(data, columns)
    items, left_out = _items(slm, data, columns, quantiser, form), LeftOut()
    frames = _frames(items)
    spoken = Counter(text for item in items for text in item.texts)
    cases, met = list[Case](), set[str]()
    for (words, gap, _), members in frames.items():
        asks: dict[str, set[str]] = defaultdict(set)
        for item in members:
            asks[item.texts[gap]].add(item.answer)
        for clean, corrupted in _ring(members):
            met |= {clean.prompt.name, corrupted.prompt.name}
            sides = [_side(slm, item, gap, quantiser) for item in (clean, corrupted)]
            name = f"{' '.join(words)}: {clean.prompt.name} / {corrupted.prompt.name}"
            made = assembled(slm, name, (sides[0], sides[1]), Stock(asks, spoken), Given(), left_out)
            cases += [] if made is None else [made]
    for item in items:
        if item.prompt.name not in met:
            left_out.add(item.prompt.name, "item", "no other item has its prompt with one other word and another answer")
    return Built(tuple(cases), left_out.table(), f"a table of {len(items)} facts")


def _items(
    slm: SpeechTextModel, data: pd.DataFrame, columns: Mapping[str, str], quantiser: Quantiser | None, form: str | None
) -> list[_Item]:
    kind = "units" if isinstance(data[columns["prompt"]].iloc[0], list | tuple | np.ndarray) else "audio"
    if kind == "audio" and "durations" in columns:
        raise PatchingError("Durations belong to prompts that are units, and these are sounds. Leave the column away.")
    prompts = {kind: columns["prompt"], **{one: columns[one] for one in ("name", "words", "text", "durations") if one in columns}}
    read = corpus(slm, data, prompts, quantiser, form)
    rows = data[list(columns.values())].itertuples(index=False, name=None)
    return [_Item(opened(slm, prompt), dict(zip(columns, row, strict=True))) for prompt, row in zip(read, rows, strict=True)]


def _side(slm: SpeechTextModel, item: _Item, gap: int, quantiser: Quantiser | None) -> Side:
    units = units_of(slm, item.row["right"], quantiser, f"right of {item.prompt.name!r}")
    return side_of(item.prompt, gap, slm.vocabulary.unit_to_id(units), item.answer)


def _frames(items: Sequence[_Item]) -> dict[tuple[tuple[str, ...], int, str], list[_Item]]:
    """Items by what is said around one of their words, its number, and the voice; in the order of their names."""
    found: dict[tuple[tuple[str, ...], int, str], list[_Item]] = defaultdict(list)
    for item in sorted(items, key=lambda item: item.prompt.name):
        texts = item.texts
        for gap in range(len(texts)):
            if len(texts) > 1:
                found[(*texts[:gap], "_", *texts[gap + 1 :]), gap, str(item.row.get("voice", ""))].append(item)
    return {key: members for key, members in found.items() if len(members) > 1}


def _ring(members: Sequence[_Item]) -> list[tuple[_Item, _Item]]:
    """Each with the next, and the last with the first where there are three or more; those that say or ask the same are no pair."""
    pairs = [*pairwise(members), *([(members[-1], members[0])] if len(members) > 2 else [])]
    gaps = [[one != other for one, other in zip(a.texts, b.texts, strict=True)] for a, b in pairs]
    return [(a, b) for (a, b), apart in zip(pairs, gaps, strict=True) if any(apart) and a.answer != b.answer]


def _refuse(data: pd.DataFrame, columns: Mapping[str, str]) -> None:
    missing = [one for one in (*WANTED, *(() if {"words", "text"} & set(columns) else ("words or text",))) if one not in columns]
    strange = [one for one in columns if one not in (*WANTED, *MAY)]
    absent = [one for one in columns.values() if one not in data]
    if missing or strange or absent or not len(data):
        raise PatchingError(
            f"Columns are mapped from {', '.join(WANTED)}, words or text, and durations and voice where there are such; missing: {missing or 'none'}, "
            f"not known: {strange or 'none'}, not in the table: {absent or 'none'}; the table has {len(data)} rows and "
            f"{', '.join(map(str, data.columns))}."
        )
