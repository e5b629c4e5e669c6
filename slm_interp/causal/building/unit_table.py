"""Cases from a table of units: prompts and continuations as a quantiser gave them, for whoever made contrasts elsewhere.

| column | holds |
|---|---|
| `name` | of the case; must be its own |
| `clean_units`, `corrupted_units` | both prompts: numbers of units, with blanks between them |
| `clean_span`, `corrupted_span` | where the word is heard in each, as first unit and the one after the last: `3:5` |
| `answer_units`, `distractor_units` | what follows each |
| `clean`, `corrupted` | the two words |
| `third`, `phonetic`, `semantic` | words for controls, or nothing |
| `elsewhere` | a stretch of the corrupted prompt where neither word is heard, or nothing |
| `prompt`, `word` | labels by which cases depend on each other, or nothing |

`unit_table` writes what `unit_cases` reads. Seconds are not told: units count as 40 ms each. Another voice and prompts that are text do not fit into a
table of units.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from slm_interp.causal.building.cases_built import Built, LeftOut
from slm_interp.causal.cases import Case, Words
from slm_interp.errors import PatchingError, SlmInterpError
from slm_interp.model import SpeechTextModel
from slm_interp.patching.spans import SpanPair
from slm_interp.utterance import Contrast, Span, Utterance, Word

UNIT_S = 0.04
WANTED = (
    "name", "clean_units", "corrupted_units", "clean_span", "corrupted_span", "answer_units", "distractor_units", "clean", "corrupted",
)  # fmt: skip
MAY = ("third", "phonetic", "semantic", "elsewhere", "prompt", "word")


def unit_cases(slm: SpeechTextModel, table: pd.DataFrame | str | os.PathLike[str], form: str | None = None) -> Built:
    """One case a row.

    Args:
        slm: whose units they are.
        table: with the columns above; or a CSV file.
        form: prompt form; one that leaves prompts open.

    Raises:
        PatchingError: columns that are missing or not known, a row that cannot be read, by its number.
    """
    data = table if isinstance(table, pd.DataFrame) else pd.read_csv(table, dtype=str, keep_default_na=False)
    absent, unknown = [one for one in WANTED if one not in data], [str(one) for one in data if one not in (*WANTED, *MAY)]
    if absent or unknown:
        raise PatchingError(
            f"A table of units has the columns {', '.join(WANTED)}, and may have {', '.join(MAY)}; missing: {', '.join(absent) or 'none'}, "
            f"not known: {', '.join(unknown) or 'none'}."
        )
    rows = data.fillna("").astype(str).to_dict("records")
    cases = tuple(_numbered(slm, number, row, form) for number, row in enumerate(rows, 1))
    return Built(cases, LeftOut().table(), f"a table of {len(data)} rows of units")


def unit_table(slm: SpeechTextModel, cases: Sequence[Case]) -> pd.DataFrame:
    """Cases as such a table. Prompts are speech alone, after whatever opens them.

    Raises:
        PatchingError: a prompt that is not one stretch of units.
    """
    rows = []
    for case in cases:
        offsets = {side: _offset(slm, prompt, case.name) for side, prompt in (("clean", case.source), ("corrupted", case.base))}
        rows.append(
            {
                "name": case.name,
                "clean_units": _units(slm, case.source.tokens[offsets["clean"] :]),
                "corrupted_units": _units(slm, case.base.tokens[offsets["corrupted"] :]),
                "clean_span": _stretch(case.span.clean.shifted(-offsets["clean"])),
                "corrupted_span": _stretch(case.span.corrupted.shifted(-offsets["corrupted"])),
                "answer_units": _units(slm, case.contrast.answer),
                "distractor_units": _units(slm, case.contrast.distractor),
                "clean": case.words.clean,
                "corrupted": case.words.corrupted,
                "third": case.words.third or "",
                "phonetic": case.words.phonetic or "",
                "semantic": case.words.semantic or "",
                "elsewhere": "" if case.elsewhere is None else _stretch(case.elsewhere.shifted(-offsets["corrupted"])),
                "prompt": case.prompt,
                "word": case.word,
            }
        )
    return pd.DataFrame(rows, columns=[*WANTED, *MAY])


def _numbered(slm: SpeechTextModel, number: int, row: Mapping[str, str], form: str | None) -> Case:
    try:
        return _case(slm, row, form)
    except (SlmInterpError, ValueError) as error:
        raise PatchingError(f"Row {number} of the table of units, {row['name']!r}: {error}") from error


def _case(slm: SpeechTextModel, row: Mapping[str, str], form: str | None) -> Case:
    clean, corrupted = (_prompt(slm, row, side, form) for side in ("clean", "corrupted"))
    answer, distractor = (slm.vocabulary.unit_to_id(_numbers(row, f"{side}_units")) for side in ("answer", "distractor"))
    shift = corrupted.words[0].span.start - _span(row, "corrupted_span").start
    near = {name: row[name] or None for name in ("third", "phonetic", "semantic") if name in row}
    return Case(
        row["name"],
        Contrast(clean, corrupted, answer, distractor),
        Words(row["clean"], row["corrupted"], **near),
        SpanPair("word", clean.words[0].span, corrupted.words[0].span),
        elsewhere=_span(row, "elsewhere").shifted(shift) if row.get("elsewhere") else None,
        prompt=row.get("prompt", ""),
        word=row.get("word", ""),
    )


def _prompt(slm: SpeechTextModel, row: Mapping[str, str], side: str, form: str | None) -> Utterance:
    units, span = _numbers(row, f"{side}_units"), _span(row, f"{side}_span")
    edges = UNIT_S * torch.arange(len(units) + 1, dtype=torch.float32)
    if not span.stop <= len(units):
        raise PatchingError(f"{side}_span {row[f'{side}_span']} is past the end of {len(units)} units")
    heard = Word(row[side], span, float(edges[span.start]), float(edges[span.stop]))
    prompt = slm.speech_prompt(units, edges, [heard], quantiser=slm.vocabulary.quantiser, form=form, name=f"{row['name']}, {side}")
    return slm.check(prompt)


def _numbers(row: Mapping[str, str], column: str) -> Int[Tensor, " unit"]:
    found = row[column].split()
    if not found or not all(one.isdigit() for one in found):
        raise PatchingError(f"{column} are numbers of units with blanks between them; got {row[column]!r:.60}")
    return torch.tensor([int(one) for one in found])


def _span(row: Mapping[str, Any], column: str) -> Span:
    found = re.fullmatch(r"(\d+):(\d+)", row[column].strip())
    if found is None:
        raise PatchingError(f"{column} is written first:stop, such as 3:5; got {row[column]!r:.60}")
    return Span(int(found[1]), int(found[2]))


def _stretch(span: Span) -> str:
    return f"{span.start}:{span.stop}"


def _offset(slm: SpeechTextModel, prompt: Utterance, name: str) -> int:
    """Where the units of a prompt begin; they go on to its end."""
    speech = slm.vocabulary.mask("speech")[prompt.tokens]
    start = int(speech.float().argmax())
    if not speech[start:].all():
        raise PatchingError(f"A table of units holds prompts that are one stretch of units to their end; {name!r} has one that is not.")
    return start


def _units(slm: SpeechTextModel, ids: Int[Tensor, " id"]) -> str:
    return " ".join(str(int(unit)) for unit in slm.vocabulary.id_to_unit(ids))
