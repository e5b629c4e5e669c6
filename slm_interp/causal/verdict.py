"""The verdict of a causal test: the rule of `docs/verdict.md`, as a pure function of arrays.

    verdict = decide(Measured(whole=..., text=..., complement=..., margin=..., random=..., prompt=..., word=..., third=..., elsewhere=...))
    verdict.word        # text-mediated, partly, epiphenomenal or uninformative
    print(verdict)      # the line of the rule that held, its numbers, what was missing

1. `evidence` turns effects into intervals, all from the same draws of clusters.
2. The first of `LINES` that holds decides. They are the lines of the rule, in its order.
3. With several lenses, `combined` asks each again at a stricter level before any of them may say that text drives the speech.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import numpy as np

from slm_interp.causal.evidence import FEW, Evidence, Measured, Rule, evidence
from slm_interp.causal.rule import LINES, WORDS, Word, specific
from slm_interp.errors import StatisticsError
from slm_interp.statistics import Interval

__all__ = ["LINES", "WORDS", "Combined", "Measured", "Rule", "Verdict", "combined", "decide"]

NAMED = {
    "whole": "whole patch, the ceiling (nats)",
    "margin": "the lens's own margin",
    "text": "text",
    "complement": "complement",
    "third": "third word",
    "elsewhere": "elsewhere",
    "specific": "text less third word",
    "here": "text less elsewhere",
}


@dataclass(frozen=True, eq=False)
class Verdict:
    """One of four words, the line of the rule that gave it, and every number that the rule looked at.

    Args:
        word: text-mediated, partly, epiphenomenal or uninformative.
        reason: the line in words, with its numbers.
        line: its number in `docs/verdict.md`.
        evidence: intervals of means (nats) and shares.
        specific: whether text acts beyond a third word, elsewhere and random directions.
        cases: how many.
        warnings: what to think of before believing it; they decide nothing.
        missing: controls that these cases do not have.
        rule: the numbers it was decided with.
    """

    word: Word
    reason: str
    line: int
    evidence: Evidence
    specific: bool
    cases: int
    warnings: tuple[str, ...]
    missing: tuple[str, ...]
    rule: Rule

    @property
    def shares(self) -> Mapping[str, Interval]:
        """Shares of the ceiling: text, complement, and `third`, `elsewhere`, `specific` (text less third), `here` (text less elsewhere) if measured."""
        return self.evidence.shares

    @property
    def ceiling(self) -> Interval:
        """The mean effect of the whole patch, in nats."""
        return self.evidence.means["whole"]

    @property
    def percentile(self) -> float | None:
        """Of the mean effect of text among random draws, in percent."""
        return self.evidence.percentile

    @property
    def clusters(self) -> Mapping[str, int]:
        """How many there are, by way of clustering."""
        return self.evidence.clusters

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists, ready for JSON."""
        e, r = self.evidence, self.rule
        return {
            "verdict": self.word,
            "reason": self.reason,
            "line": self.line,
            "specific": self.specific,
            "means": {name: _plain(each) for name, each in e.means.items()},
            "shares": {name: _plain(each) for name, each in e.shares.items()},
            "within": {name: _plain(each) for name, each in e.within.items()},
            "percentile": e.percentile,
            "cases": self.cases,
            "clusters": dict(e.clusters),
            "warnings": list(self.warnings),
            "missing": list(self.missing),
            "rule": {"nothing": r.nothing, "least": r.least, "level": r.level, "draws": r.draws, "seed": r.seed},
        }

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {name}s" for name, count in self.clusters.items())
        return "\n".join(
            [
                f"{self.word} (line {self.line} of the rule): {self.reason}",
                f"{self.cases} cases, {counts}; {_numbers(self.rule)}.",
                *(f"Warning: {warning}" for warning in self.warnings),
                *([f"Not measured: {', '.join(self.missing)}."] if self.missing else []),
            ]
        )

    def __repr__(self) -> str:
        text = f", text {self.shares['text']}, complement {self.shares['complement']}" if self.shares else ""
        return f"Verdict({self.word}, line {self.line}{text}, ceiling {self.ceiling} nats)"

    def _repr_html_(self) -> str:
        rows = {**{name: self.evidence.means[name] for name in ("whole", "margin")}, **self.shares}
        cells = "".join(
            f"<tr><td>{NAMED[name]}</td><td>{float(each.estimate):.3g}</td><td>{float(each.low):.3g} to {float(each.high):.3g}</td></tr>"
            for name, each in rows.items()
        )
        head = f"<tr><th>share of the ceiling, unless said</th><th>estimate</th><th>{self.rule.level:.4g} interval</th></tr>"
        first, *others = str(self).split("\n")
        notes = "".join(f"<p>{escape(other)}</p>" for other in others)
        return f"<div><p><b>{escape(self.word)}</b>{escape(first[len(self.word) :])}</p><table>{head}{cells}</table>{notes}</div>"


def decide(measured: Measured, rule: Rule | None = None) -> Verdict:
    """The verdict on one lens at one layer: the first line of the rule that holds.

    Raises:
        StatisticsError: too few random draws for their percentile.
    """
    rule = rule or Rule()
    return judge(measured, evidence(measured, rule), rule)


def judge(measured: Measured, found: Evidence, rule: Rule) -> Verdict:
    """The first line of the rule that holds of evidence that was already drawn."""
    line = next(line for line in LINES if line.holds(found, rule))
    return Verdict(
        line.word,
        line.because(found, rule),
        line.number,
        found,
        specific(found),
        len(measured.whole),
        _warnings(measured, found, rule),
        measured.missing,
        rule,
    )


def _warnings(measured: Measured, e: Evidence, rule: Rule) -> tuple[str, ...]:
    """What is printed beside a verdict and decides nothing."""
    found = [
        f"{count} {name}s are fewer than {FEW} clusters: the intervals are too narrow." for name, count in e.clusters.items() if count < FEW
    ]
    single = [name for name, labels in (("prompt", measured.prompt), ("word", measured.word)) if len(set(labels)) == 1]
    found += [f"All cases are of one {name}: how another {name} would differ is not in the intervals." for name in single]
    whole, extras = measured.whole, measured.extras
    if "other_voice" in extras and e.shares:
        there = np.isfinite(extras["other_voice"])
        share = float(extras["other_voice"][there].mean() / whole[there].mean()) if there.any() else 0.0
        if abs(share) > 2 * rule.nothing:
            found.append(
                f"Another voice of the same words moves {share:.2g} of the ceiling, beyond {2 * rule.nothing:g}: not all of it is the word."
            )
    if {"distance", "distance_whole"} <= set(extras):
        there = np.isfinite(extras["distance"]) & np.isfinite(extras["distance_whole"])
        ratio = float(extras["distance"][there].mean() / extras["distance_whole"][there].mean()) if there.any() else 0.0
        if ratio > 2:
            found.append(f"Edited residuals are {ratio:.3g} times as far from natural ones as those of the whole patch, more than twice.")
    return tuple(found)


def _numbers(rule: Rule) -> str:
    return f"nothing is below {rule.nothing:g} of the ceiling, the least ceiling {rule.least:g} nats, intervals of {rule.level:.4g} from {rule.draws} draws"


def _plain(interval: Interval) -> dict[str, float]:
    return {"estimate": float(interval.estimate), "low": float(interval.low), "high": float(interval.high), "level": interval.level}


@dataclass(frozen=True, eq=False)
class Combined:
    """What several lenses say together.

    Args:
        word, reason: together.
        verdicts: of each basis, those beside the lenses too.
        strict: of each lens that has a say, at the level at which one of several may say that text drives the speech.
    """

    word: Word
    reason: str
    verdicts: Mapping[str, Verdict]
    strict: Mapping[str, Verdict]

    @property
    def lenses(self) -> str:
        """Those that have a say."""
        return f"{len(self.strict)} lens{'es' if len(self.strict) > 1 else ''}"

    @property
    def warnings(self) -> tuple[str, ...]:
        """Of every lens, each once, with the lenses that have it."""
        said: dict[str, list[str]] = {}
        for basis, verdict in self.verdicts.items():
            for warning in verdict.warnings:
                said.setdefault(warning, []).append(basis)
        return tuple(f"{warning} ({', '.join(bases)})" for warning, bases in said.items())

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists, ready for JSON."""
        return {
            "verdict": self.word,
            "reason": self.reason,
            "lenses": {basis: verdict.to_dict() for basis, verdict in self.verdicts.items()},
            "strict": {basis: verdict.to_dict() for basis, verdict in self.strict.items()},
        }

    def __str__(self) -> str:
        each = [f"{basis}: {verdict}" for basis, verdict in self.verdicts.items()]
        return "\n".join([f"{self.word}, by {self.lenses}: {self.reason}", *each])

    def _repr_html_(self) -> str:
        each = "".join(f"<p><i>{escape(basis)}</i></p>{verdict._repr_html_()}" for basis, verdict in self.verdicts.items())
        return f"<div><p><b>{escape(self.word)}</b>, by {self.lenses}: {escape(self.reason)}</p>{each}</div>"


def combined(measured_by_basis: Mapping[str, Measured], rule: Rule | None = None, lenses: Collection[str] | None = None) -> Combined:
    """The verdict of several lenses: "Several lenses" in `docs/verdict.md`.

    Args:
        lenses: those of the bases that have a say together; the others' verdicts stand beside. None is all.

    *text-mediated* or *partly* if some lens says so at level `1 - (1 - level) / number of lenses`; *epiphenomenal* if every lens that reads the word says
    so; otherwise *uninformative*.

    Raises:
        StatisticsError: no lens, one that was not measured, or as in `decide`.
    """
    rule = rule or Rule()
    asked = list(measured_by_basis if lenses is None else lenses)
    if not asked:
        raise StatisticsError("Together is asked of one lens or more; got none.")
    if unknown := sorted(set(asked) - set(measured_by_basis)):
        raise StatisticsError(
            f"Together is asked of lenses that were measured, {_listed(list(measured_by_basis))}; got {_listed(unknown)}."
        )
    strict_rule = replace(rule, level=1 - (1 - rule.level) / len(asked))
    verdicts = {basis: decide(measured, rule) for basis, measured in measured_by_basis.items()}
    strict = {basis: decide(measured_by_basis[basis], strict_rule) for basis in asked}
    for word in ("text-mediated", "partly"):
        saying = [basis for basis, verdict in strict.items() if verdict.word == word]
        if saying:
            return Combined(word, f"{_listed(saying)} at level {strict_rule.level:.4g}.", verdicts, strict)
    reading = {basis: verdict for basis, verdict in verdicts.items() if basis in strict and bool(verdict.evidence.means["margin"].low > 0)}
    if not reading:
        return Combined("uninformative", "No lens reads the word.", verdicts, strict)
    others = [basis for basis, verdict in reading.items() if verdict.word != "epiphenomenal"]
    if not others:
        return Combined("epiphenomenal", f"Every lens that reads the word says so: {_listed(list(reading))}.", verdicts, strict)
    said = "; ".join(f"{basis} says {verdicts[basis].word} at level {rule.level:.4g}" for basis in others)
    return Combined("uninformative", f"Not every lens that reads the word says that text is a shadow: {said}.", verdicts, strict)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
