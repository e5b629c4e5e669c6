"""Causal effects as numbers to draw: means and shares with intervals, from the tidy tables of a causal experiment.

The table has one row for every case, basis, layer, arm, dose and outcome: `case prompt word basis layer arm dose outcome base source value effect
half`. Arms that are of no basis have the basis ""; the band of no
basis is that of whole residuals, `band_whole` here.

A share is a ratio of means over the same cases, and its interval comes from drawing whole clusters of prompts and of
words. Cases that lack an arm do not count for it. Where every case is of one prompt and of one pair of words nothing can be drawn: the interval is NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias, get_args

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float

from slm_interp.errors import PatchingError
from slm_interp.statistics import bootstrap, ways_apart, weighted_mean

Half: TypeAlias = Literal["report", "development", "both"]
Unit: TypeAlias = Literal["share", "nats"]
COLUMNS = ("case", "prompt", "word", "basis", "layer", "arm", "dose", "outcome", "base", "source", "effect", "half")
WAYS = ("prompt", "word")
LOW, HIGH = 2.5, 97.5  # percentiles of random draws


@dataclass(frozen=True)
class Arm:
    """What one kind of change is called, where it stands among the controls, and what it is a share of.

    Args:
        label: for an axis.
        group: of controls.
        said: one sentence.
        of: the arm whose effect is its ceiling.
    """

    label: str
    group: str
    said: str
    of: str = "whole"


ARMS: Mapping[str, Arm] = MappingProxyType(
    {
        "whole": Arm("whole residual", "what carries it", "The clean run's residuals: the ceiling."),
        "text": Arm("text swap", "what carries it", "Coordinates along the lens directions of the two words exchanged, nothing else changed."),
        "complement": Arm("complement only", "what carries it", "The clean run's residuals, with the coordinates along the two words' directions left."),
        "copied": Arm("text copied", "what carries it", "The clean run's coordinates along the two words' directions, nothing else."),
        "third": Arm("third word", "other words", "As the text swap, with a matched third word in the clean word's place."),
        "specific": Arm("text less third word", "other words", "What this word does beyond a third one."),
        "phonetic": Arm("phonetic neighbour", "other words", "As the text swap, with a word that sounds alike."),
        "semantic": Arm("semantic neighbour", "other words", "As the text swap, with a word that means the like."),
        "self": Arm("itself", "other words", "The run's own residuals put back: nothing may change."),
        "other_voice": Arm("same words, other voice", "other words", "The residuals of the corrupted prompt's own words in another voice."),
        "elsewhere": Arm("another place", "places", "As the text swap, where neither word is heard."),
        "band_whole": Arm("all layers from here: whole", "places", "The whole patch at this layer and all later ones at once."),
        "band": Arm("all layers from here: text", "places", "Text coordinates at this layer and all later ones, as a share of the whole there.", "band_whole"),
        "written_whole": Arm("written: whole", "places", "The whole patch in prompts that are text."),
        "written_text": Arm("written: text swap", "places", "The text swap in prompts that are text, as a share of the whole patch there.", "written_whole"),
        "variance": Arm("equal-variance subspace", "directions", "Coordinates in a subspace of as much variance copied."),
        "erased": Arm("both words erased", "directions", "The directions of the two words projected out."),
        "read": Arm("part that is read", "directions", "The part of the text swap inside what later blocks read."),
        "unread": Arm("part that is not read", "directions", "The part of the text swap outside of what later blocks read."),
        "direct": Arm("direct path", "directions", "The part of the text swap that reaches the logits with all later blocks frozen."),
    }
)  # fmt: skip


def rows_of(table: pd.DataFrame, basis: str, outcome: str | None = None, half: Half = "report") -> pd.DataFrame:
    """The rows of one basis (and of none), one outcome and one half.

    Args:
        outcome: None where the table has one only.

    Raises:
        PatchingError: columns that are missing; a basis, outcome or half that is not there; effects that are not finite.
    """
    absent = [name for name in COLUMNS if name not in table.columns]
    if absent:
        raise PatchingError(f"A table of causal effects has {', '.join(COLUMNS)}; this one lacks {', '.join(absent)}.")
    bases, outcomes = ([one for one in dict.fromkeys(table[name]) if one] for name in ("basis", "outcome"))
    if outcome is None and len(outcomes) == 1:
        outcome = outcomes[0]
    if basis not in bases or outcome not in outcomes or half not in get_args(Half):
        raise PatchingError(
            f"A picture is of one basis of {bases}, one outcome of {outcomes} and one half of {list(get_args(Half))}; got {basis!r}, {outcome!r}, {half!r}."
        )
    kept = table[table["basis"].isin(["", basis]) & (table["outcome"] == outcome) & ((half == "both") | (table["half"] == half))]
    if kept.empty or not np.isfinite(kept[["base", "source", "effect"]].to_numpy(dtype=np.float64)).all():
        raise PatchingError(
            f"{len(kept)} effects of {basis!r}, {outcome!r}, half {half!r}: wanted one or more, all finite. Leave broken ones out by name."
        )
    return kept.assign(arm=kept["arm"].where((kept["arm"] != "band") | (kept["basis"] != ""), "band_whole"))


def at_layer(rows: pd.DataFrame, layer: int) -> pd.DataFrame:
    """The rows of one layer.

    Raises:
        PatchingError: a layer that is not there.
    """
    there = sorted(set(rows["layer"].tolist()))
    if layer not in there:
        raise PatchingError(f"No effects at layer {layer}; there are {there}.")
    return rows[rows["layer"] == layer]


def with_specific(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows, and those of a further arm `specific`: the text swap less that of a third word, in cases that have both."""
    text, third = (rows[(rows["arm"] == arm) & (rows["dose"] == 1)] for arm in ("text", "third"))
    both = text.merge(third[["case", "layer", "effect"]], on=["case", "layer"], suffixes=("", "_third"))
    apart = both.assign(arm="specific", effect=both["effect"] - both["effect_third"]).drop(columns="effect_third")
    return pd.concat([rows, apart], ignore_index=True)


def summary(
    rows: pd.DataFrame, arms: Sequence[str], of: Literal["apart", "ceiling"] | None, level: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """Means or shares: one row for every layer, arm and dose, with `estimate low high cases`. Arms that no case has are left out.

    Args:
        of: "apart" takes shares of `source - base`, what tells the two prompts apart; "ceiling" shares of the arm that each arm is measured by (see
            `ARMS`), at the same layer; None gives means of the effect itself.
    """
    wide = rows.pivot(index="case", columns=["layer", "arm", "dose"], values="effect").astype(np.float64)
    labels = rows.drop_duplicates("case").set_index("case").loc[wide.index]
    columns = [one for one in wide.columns if one[1] in arms and (of != "ceiling" or (one[0], ARMS[one[1]].of, 1.0) in wide.columns)]
    values, below = wide[columns].to_numpy(), None
    if of == "apart":
        below = np.repeat((labels["source"] - labels["base"]).to_numpy(dtype=np.float64)[:, None], len(columns), axis=1)
    elif of == "ceiling":
        below = wide[[(layer, ARMS[arm].of, 1.0) for layer, arm, _ in columns]].to_numpy()
    there = np.isfinite(values) & (True if below is None else np.isfinite(below))
    alike: dict[bytes, list[int]] = {}
    for number in range(len(columns)):
        alike.setdefault(there[:, number].tobytes(), []).append(number)
    found = []
    for own in alike.values():
        cases = there[:, own[0]]
        if cases.any():
            three = intervals(labels[cases], values[np.ix_(cases, own)], None if below is None else below[np.ix_(cases, own)], level, seed)
            found += [(number, *columns[number], *map(float, one), int(cases.sum())) for number, one in zip(own, three.T, strict=True)]
    return pd.DataFrame([one[1:] for one in sorted(found)], columns=["layer", "arm", "dose", "estimate", "low", "high", "cases"])


def intervals(
    labels: pd.DataFrame,
    values: Float[np.ndarray, "case column"],
    below: Float[np.ndarray, "case column"] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> Float[np.ndarray, "3 column"]:
    """Estimate, low and high of the mean of each column, or of its ratio to the mean of the column in `below`; NaN limits where cases are of one cluster.

    Args:
        labels: with columns `prompt` and `word`.
    """
    joined = np.concatenate([values, np.ones_like(values) if below is None else below], 1)
    ways = ways_apart({way: labels[way].tolist() for way in WAYS})
    with np.errstate(divide="ignore", invalid="ignore"):
        if not ways:
            estimate = _ratios(joined, np.ones((1, len(joined))))[0]
            return np.stack([estimate, np.full_like(estimate, np.nan), np.full_like(estimate, np.nan)])
        found = bootstrap(joined, ways, _ratios, level=level, seed=seed)
    return np.stack([found.estimate, found.low, found.high])


def interval(labels: pd.DataFrame, values: Float[np.ndarray, " case"]) -> tuple[float, float, float]:
    """`intervals` of one mean."""
    estimate, low, high = intervals(labels, values[:, None])[:, 0].tolist()
    return estimate, low, high


def _ratios(joined: Float[np.ndarray, "case both"], weights: Float[np.ndarray, "draw case"]) -> Float[np.ndarray, "draw column"]:
    """Means of the first half of the columns over those of the second half."""
    means = weighted_mean(joined, weights)
    here = means.shape[1] // 2
    return means[:, :here] / means[:, here:]


def told_apart(rows: pd.DataFrame) -> bool:
    """Whether the mean of `source - base` is told from 0, so that shares of it mean something."""
    cases = rows.drop_duplicates("case")
    estimate, low, _ = interval(cases, (cases["source"] - cases["base"]).to_numpy(dtype=np.float64))
    return low > 0 if np.isfinite(low) else estimate > 0


def draws_of(random: xr.DataArray, rows: pd.DataFrame, basis: str) -> Float[np.ndarray, "layer draw"]:
    """The mean effect of every random direction over the cases of these rows, layers in order.

    Raises:
        PatchingError: other dimensions, or a basis or cases that the draws lack.
    """
    if set(random.dims) != {"case", "basis", "layer", "draw"}:
        raise PatchingError(f"Random draws have the dimensions case, basis, layer and draw; got {sorted(map(str, random.dims))}.")
    wanted, there = list(dict.fromkeys(rows["case"])), set(random["case"].values.tolist())
    absent = [one for one in wanted if one not in there]
    if absent or basis not in random["basis"].values.tolist():
        raise PatchingError(
            f"Random draws are of {random['basis'].values.tolist()} and lack {absent[:3]}; wanted {basis!r} of {len(wanted)} cases."
        )
    chosen = random.sel(basis=basis, case=wanted).sortby("layer").transpose("case", "layer", "draw").values.astype(np.float64)
    return np.nanmean(chosen, 0)
