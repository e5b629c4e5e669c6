"""What a builder gives: its cases, and a line for everything that it left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import overload

import pandas as pd

from slm_interp.causal.cases import Case, checked_cases
from slm_interp.errors import PatchingError

CASE = "case"  # what is left out when nothing of a case can be had


@dataclass(frozen=True, eq=False)
class Built(Sequence[Case]):
    """Cases, in order, and what was left out; it is taken wherever a sequence of cases is.

    Args:
        cases: each of its own name.
        left_out: one row for each case, and each control of a case, that could not be had: `name` of the case, `what` ("case" or the control), `why`.
        source: what they were built from, for people.

    Raises:
        PatchingError: no cases; the commonest reason is said. Two cases of one name.
    """

    cases: tuple[Case, ...]
    left_out: pd.DataFrame
    source: str = ""

    def __post_init__(self) -> None:
        if not self.cases:
            whole = self.left_out[self.left_out["what"] == CASE]
            whole = whole if len(whole) else self.left_out  # items and sentences that no case was made of
            reasons = "; ".join(f"{why} ({count})" for why, count in whole["why"].value_counts().head(3).items())
            raise PatchingError(f"No case could be built from {self.source or 'this'}: of {len(whole)}, {reasons or 'none was asked for'}.")
        checked_cases(self.cases)

    def __len__(self) -> int:
        return len(self.cases)

    @overload
    def __getitem__(self, index: int) -> Case: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Case, ...]: ...
    def __getitem__(self, index: int | slice) -> Case | tuple[Case, ...]:
        return self.cases[index]

    def __iter__(self) -> Iterator[Case]:
        return iter(self.cases)

    @property
    def table(self) -> pd.DataFrame:
        """One row a case: its words, where they are, how long, its labels, and which controls it has."""
        return pd.DataFrame([_row(case) for case in self.cases])

    def __repr__(self) -> str:
        lost = self.left_out.groupby("what").size()
        said = ", ".join(f"{what}: {count}" for what, count in lost.items())
        return f"Built({len(self)} cases from {self.source or 'memory'}; left out: {said or 'nothing'})"

    def _repr_html_(self) -> str:
        return f"<div><b>{escape(repr(self))}</b>{self.table.to_html(index=False)}{self.left_out.to_html(index=False)}</div>"


@dataclass(frozen=True, eq=False)
class LeftOut:
    """Collects lines of what was left out, while cases are built."""

    rows: list[tuple[str, str, str]] = field(default_factory=list)

    def add(self, name: str, what: str, why: str) -> None:
        """Note that something of a case cannot be had."""
        self.rows.append((name, what, why))

    def table(self) -> pd.DataFrame:
        """The lines, in order."""
        return pd.DataFrame(self.rows, columns=["name", "what", "why"])


def _row(case: Case) -> dict[str, object]:
    words = case.words
    return {
        "name": case.name,
        "clean": words.clean,
        "corrupted": words.corrupted,
        "third": words.third,
        "phonetic": words.phonetic,
        "semantic": words.semantic,
        "span_clean": len(case.span.clean),
        "span_corrupted": len(case.span.corrupted),
        "positions": len(case.base),
        "units_answer": len(case.contrast.answer),
        "units_distractor": len(case.contrast.distractor),
        "elsewhere": case.elsewhere is not None,
        "other_voice": case.other_voice is not None,
        "written": case.written is not None,
        "prompt": case.prompt,
        "word": case.word,
    }
