"""The lines of the rule, in its order, as a table: `docs/verdict.md`, "The rule".

Each says when it holds of the evidence, which verdict it gives, and why in a sentence with the numbers that it looked at. The first that holds decides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from slm_interp.causal.evidence import Evidence, Rule
from slm_interp.statistics import Interval

Word: TypeAlias = Literal["text-mediated", "partly", "epiphenomenal", "uninformative"]
WORDS: tuple[Word, ...] = ("text-mediated", "partly", "epiphenomenal", "uninformative")


@dataclass(frozen=True)
class Line:
    """One line of the rule: when it holds, the verdict it gives, and the sentence that says so."""

    number: int
    word: Word
    holds: Callable[[Evidence, Rule], bool]
    because: Callable[[Evidence, Rule], str]


def specific(e: Evidence) -> bool:
    """Whether it is this word, here, and not any change of that size: text acts beyond a third word, elsewhere and random directions.

    Without a third word or random draws nothing is called specific; without elsewhere, the other two decide.
    """
    third, here = e.means.get("specific"), e.means.get("here")
    return third is not None and _above(third, 0.0) and (here is None or _above(here, 0.0)) and bool(e.beyond_random)


def _above(interval: Interval, bound: float) -> bool:
    return bool(interval.low > bound)


def _inside(interval: Interval, bound: float) -> bool:
    return bool(interval.low >= -bound and interval.high <= bound)


def _no_ceiling(e: Evidence, r: Rule) -> str:
    return (
        f"There is no effect to explain: the whole patch moves the outcome by {e.means['whole']} nats, not shown to be above {r.least:g}."
    )


def _not_read(e: Evidence, r: Rule) -> str:
    return f"The lens does not read the word here, so that nothing was asked of it: its margin is {e.means['margin']}, not above 0."


def _all_text(e: Evidence, r: Rule) -> str:
    return (
        f"Text carries the effect and nothing beside it does: text has {e.shares['text']} of the ceiling, above {1 - r.nothing:g}, its "
        f"complement {e.within['complement']} (at {r.narrow:.4g}), within {r.nothing:g} of 0, and {_specifically(e)}."
    )


def _shadow(e: Evidence, r: Rule) -> str:
    return (
        f"Text is a shadow: it has {e.within['text']} (at {r.narrow:.4g}) of the ceiling, within {r.nothing:g} of 0, and its complement "
        f"{e.shares['complement']}, above {1 - 2 * r.nothing:g}."
    )


def _some_text(e: Evidence, r: Rule) -> str:
    return f"Text carries {e.shares['text']} of the ceiling, above 0, its complement {e.shares['complement']}, and {_specifically(e)}."


def _not_this_word(e: Evidence, r: Rule) -> str:
    failed = "; ".join(_unspecific(e))
    return f"What text moves, {e.within['text']} of the ceiling (at {r.narrow:.4g}), is not shown to be nothing, nor to be this word's: {failed}."


def _otherwise(e: Evidence, r: Rule) -> str:
    text, rest = e.within["text"], e.shares["complement"]
    told = f"text has {text} of the ceiling (at {r.narrow:.4g}), its complement {rest}"
    if text.high < 1 - r.nothing and rest.high < 1 - 2 * r.nothing:
        return f"Neither part carries the effect alone: {told}."
    return f"The intervals are too wide: {told}."


def _specifically(e: Evidence) -> str:
    here = f", and more than elsewhere, by {e.means['here']}" if "here" in e.means else ""
    return f"it is this word that matters: it moves more than a third word, by {e.means['specific']} nats{here}, and than {_random(e)}"


def _random(e: Evidence) -> str:
    return f"{e.percentile:.4g}% of random directions"


def _unspecific(e: Evidence) -> list[str]:
    found = []
    for name, said in (("specific", "a third word"), ("here", "elsewhere")):
        interval = e.means.get(name)
        if interval is not None and not _above(interval, 0.0):
            found.append(f"more than {said} by {interval} nats, which is not above 0")
    if e.beyond_random is False:
        found.append(f"above {_random(e)} only")
    absent = [said for gone, said in (("specific" not in e.means, "a third word"), (e.beyond_random is None, "random draws")) if gone]
    if absent:
        found.append(f"it was not compared with {' and '.join(absent)}")
    return found


LINES: tuple[Line, ...] = (
    Line(1, "uninformative", lambda e, r: not _above(e.means["whole"], r.least), _no_ceiling),
    Line(2, "uninformative", lambda e, r: not _above(e.means["margin"], 0.0), _not_read),
    Line(
        3,
        "text-mediated",
        lambda e, r: _above(e.shares["text"], 1 - r.nothing) and _inside(e.within["complement"], r.nothing) and specific(e),
        _all_text,
    ),
    Line(
        4, "epiphenomenal", lambda e, r: _inside(e.within["text"], r.nothing) and _above(e.shares["complement"], 1 - 2 * r.nothing), _shadow
    ),
    Line(5, "partly", lambda e, r: specific(e) and _above(e.shares["text"], 0.0), _some_text),
    Line(6, "uninformative", lambda e, r: not _inside(e.within["text"], r.nothing) and not specific(e), _not_this_word),
    Line(7, "uninformative", lambda e, r: True, _otherwise),
)
