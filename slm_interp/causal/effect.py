"""What a causal test found: `Effect`.

`Effect.table` has one row for every case, basis, layer, arm, dose and outcome:

| column | is |
|---|---|
| `case prompt word` | name of the case, and the labels by which cases depend on each other |
| `basis layer arm dose outcome` | what was put in where; arms of no basis have basis "" ; layers are blocks run |
| `base source` | the outcome of the corrupted and of the clean prompt as they are |
| `value effect` | the outcome with what was put in; less `base` |
| `moved` | length of the change over length of what stood there, mean over positions |
| `distance` | how far the changed residuals are from natural ones over how far those that stood there are (Mahalanobis), mean over positions |
| `half` | `development` or `report`: half of the clusters of words, drawn with the seed; "" where there are fewer than four |

`Effect.reading` has what each basis itself says of the words at every layer (`margin`, `rank`, `heard`; see `writing.reading_of`).

Shares are ratios of means over cases, `mean(effect of an arm) / mean(effect of the whole patch)`, with intervals from whole clusters of prompts and of words.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import pandas as pd
import xarray as xr

from slm_interp.causal import effect_files, effect_shares
from slm_interp.causal.controls.random import Agreement, agreement
from slm_interp.causal.verdict import Combined, Measured, Verdict, combined, decide
from slm_interp.errors import PatchingError, StatisticsError
from slm_interp.patching.summaries import half as first_half
from slm_interp.statistics import ways_apart

if TYPE_CHECKING:
    import plotly.graph_objects as go

Half: TypeAlias = Literal["development", "report", "both"]

CELL = ["case", "basis", "layer", "arm", "dose", "outcome"]


@dataclass(frozen=True, eq=False)
class Effect:
    """The effects of a causal test. Make one with `causal.run`, or `load`.

    Args:
        table, reading: see the top of this file.
        random: effects on the first outcome of random directions as long as the change of text at each position, to first order: `case basis layer draw`.
        random_exact: of the first of them, run; see `agreement`.
        about: settings, provenance, seed, arms that are missing or were left out.
    """

    table: pd.DataFrame
    reading: pd.DataFrame
    random: xr.DataArray | None = None
    random_exact: xr.DataArray | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(
        table: pd.DataFrame,
        reading: pd.DataFrame,
        about: Mapping[str, Any],
        random: xr.DataArray | None = None,
        random_exact: xr.DataArray | None = None,
    ) -> Effect:
        """An effect, with cases put into halves.

        Raises:
            PatchingError: two rows of one cell.
        """
        double = table.duplicated(CELL)
        if double.any():
            raise PatchingError(f"An effect has one row a cell; twice: {table.loc[double, CELL].iloc[0].to_dict()}.")
        made = table.assign(distance=table.get("distance", np.nan))
        halves = _halves(made, int(about["seed"]))
        return Effect(made.assign(half=made["case"].map(halves)), reading, random, random_exact, dict(about))

    # -- what there is -------------------------------------------------------------------------------

    @property
    def bases(self) -> tuple[str, ...]:
        """Names of the bases."""
        return tuple(str(name) for name in self.reading["basis"].unique())

    @property
    def lenses(self) -> tuple[str, ...]:
        """The bases that have a say in the verdict of several: lenses. A probe reads a word in whatever code it stands; alone it is all there is."""
        kinds = {name: self.about["bases"][name].get("kind", "lens") for name in self.bases} if "bases" in self.about else {}
        return tuple(name for name in self.bases if kinds.get(name, "lens") == "lens") or self.bases

    @property
    def layers(self) -> tuple[int, ...]:
        """Blocks run."""
        return tuple(sorted(int(layer) for layer in self.table["layer"].unique()))

    @property
    def outcomes(self) -> tuple[str, ...]:
        """Names of the outcomes, the one of the verdict first."""
        return tuple(self.about["outcomes"])

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of the arms that at least one case has."""
        return tuple(str(name) for name in self.table["arm"].unique())

    @property
    def missing(self) -> dict[str, int]:
        """Arms that were asked for, with how many cases could not have them."""
        return dict(self.about["missing"])

    @property
    def left_out(self) -> tuple[str, ...]:
        """Arms that were not asked for."""
        return tuple(self.about["left_out"])

    def effects(self, arm: str, basis: str = "", outcome: str | None = None, half: Half = "both", dose: float = 1.0) -> pd.DataFrame:
        """Effects of one arm: a row for each case, a column for each layer.

        Raises:
            PatchingError: an arm, basis, outcome or half that is not there.
        """
        self._known(arm, basis, outcome, half)
        outcome = outcome or self.outcomes[0]
        table = self.table
        asked = (table["arm"] == arm) & (table["outcome"] == outcome) & (table["dose"] == dose)
        asked &= table["basis"] == (basis if basis in set(table.loc[asked, "basis"]) else "")
        if half != "both":
            asked &= table["half"] == half
        return table[asked].pivot(index="case", columns="layer", values="effect").sort_index()

    def random_of(self, outcome: str | None = None) -> xr.DataArray | None:
        """`random`, if the outcome is the one that directions were drawn for, the first; else None."""
        return self.random if outcome in (None, self.outcomes[0]) else None

    # -- shares --------------------------------------------------------------------------------------

    def shares(
        self, arm: str, basis: str = "", outcome: str | None = None, half: Half = "report", level: float = 0.95, seed: int = 0
    ) -> pd.DataFrame:
        """`mean(effect) / mean(whole)` of an arm by layer, with an interval from whole clusters; over the cases that have the arm.

        Returns:
            `layer estimate low high items whole`; estimate and interval are NaN where the interval of the mean of the whole patch holds 0.

        Raises:
            PatchingError: as `effects`, or no case that has the arm.
            StatisticsError: too few clusters.
        """
        own = self.effects(arm, basis, outcome, half)
        return effect_shares.by_layer(own, self._ceiling(arm, outcome, half).loc[own.index], self.clusters(list(own.index)), level, seed)

    def clusters(self, cases: Sequence[str]) -> dict[str, list[str]]:
        """The labels of some cases by which they depend on each other: `prompt` and `word`, those of the two that say something (`ways_apart`)."""
        labels = self.table.drop_duplicates("case").set_index("case").loc[list(cases), ["prompt", "word"]]
        found = {way: labels[way].tolist() for way in ("prompt", "word")}
        return {way: list(own) for way, own in ways_apart(found).items()} or {"word": found["word"]}

    def chosen_layer(self, basis: str, outcome: str | None = None) -> int:
        """Where the basis speaks most for text, on the development half: the rule "Where" of `docs/verdict.md`.

        The largest mean of text less third word, among the layers at which the mean of the whole patch is at least half of its largest. Cases without a third
        word do not take part; where none has one, the mean of text is taken.

        Raises:
            PatchingError: as `effects`; cases that could not be halved.
        """
        if not (self.table["half"] == "development").any():
            raise PatchingError(
                f"Halves need four clusters of words or more; there are {self.table['word'].nunique()}. Give more cases, or name a layer."
            )
        text = self.effects("text", basis, outcome, "development")
        if "third" in self.arms:
            third = self.effects("third", basis, outcome, "development")
            text = (text - third).dropna() if len(third) else text
        whole = self.effects("whole", "", outcome, "development").mean()
        least = min(whole.max() / 2, whole.max())  # half of a negative number is more than it
        return int(text.mean()[whole >= least].idxmax())

    def control_table(
        self, basis: str | None = None, layer: int | None = None, outcome: str | None = None, half: Half = "report"
    ) -> pd.DataFrame:
        """The effect of every arm and dose at one layer, and its share with an interval (NaN as in `shares`): one row for each.

        Args:
            basis: the first where none is named.
            layer: `chosen_layer` where none is named.

        Raises:
            PatchingError, StatisticsError: as `shares` and `chosen_layer`.
        """
        basis, outcome = basis or self.bases[0], outcome or self.outcomes[0]
        layer = self.chosen_layer(basis, outcome) if layer is None else layer
        table = self.table[self.table["basis"].isin(("", basis)) & (self.table["layer"] == layer) & (self.table["outcome"] == outcome)]
        rows = []
        for arm, dose in table[["arm", "dose"]].drop_duplicates().itertuples(index=False):
            own = self.effects(arm, basis, outcome, half, dose)[layer]
            if not len(own):
                continue
            whole = self._ceiling(arm, outcome, half).loc[own.index, layer]
            row = {"arm": arm, "dose": dose, **effect_shares.at_a_layer(own.to_numpy(), whole.to_numpy(), self.clusters(list(own.index)))}
            mine = table[(table["arm"] == arm) & (table["dose"] == dose) & table["case"].isin(own.index)]
            mine = mine[mine["basis"] == mine["basis"].max()]  # of the basis, where the arm is of both
            rows.append(row | {"moved": mine["moved"].mean(), "distance": mine["distance"].mean()})
        return pd.DataFrame(rows)

    def _ceiling(self, arm: str, outcome: str | None, half: Half) -> pd.DataFrame:
        """The whole patch in the prompts that an arm is asked of."""
        return self.effects("written_whole" if arm == "written_text" else "whole", "", outcome, half)

    def agreement(self, basis: str, layer: int, half: Half = "both") -> Agreement:
        """How well first order tells the mean effects of random directions: those that were run beside the same to first order.

        Raises:
            PatchingError: no draws that were run.
        """
        self._known("text", basis, None, half)
        if self.random is None or self.random_exact is None:
            raise PatchingError("No random directions were run; ask for arms 'random_exact', or for 'full'.")
        cases = list(self.effects("text", basis, half=half).index)
        first, ran = (one.sel(case=cases, basis=basis, layer=layer).mean("case").values for one in (self.random, self.random_exact))
        return agreement(first[: len(ran)], ran)

    # -- verdicts ------------------------------------------------------------------------------------

    def reported(self, basis: str, outcome: str | None, layer: int) -> pd.DataFrame:
        """Effects of `whole text complement` and of the controls that the rule takes, at one layer of the report half: the cases that have all of them.

        A control that fewer than half of the cases have is missing; of one that more have, the cases without it are left out.
        """
        found = {name: self.effects(name, basis, outcome, "report")[layer] for name in ("whole", "text", "complement")}
        for name in ("third", "elsewhere"):
            own = self.effects(name, basis, outcome, "report") if name in self.arms else pd.DataFrame()
            if 2 * len(own) >= len(found["whole"]) and len(own):
                found[name] = own[layer]
        return pd.concat(found, axis=1, join="inner").sort_index()

    def measured(self, basis: str, outcome: str | None = None, layer: int | None = None) -> Measured:
        """What the rule is asked of: a `verdict.Measured` of the report half at the chosen layer.

        Its cases are those of `reported`. Random directions were drawn for the first outcome, and are missing for others.

        Args:
            layer: where; None chooses it on the development half.
        """
        layer = self.chosen_layer(basis, outcome) if layer is None else layer
        found = self.reported(basis, outcome, layer)
        cases = found.index
        reading = self.reading[(self.reading["basis"] == basis) & (self.reading["layer"] == layer)].set_index("case")
        arrays: dict[str, Any] = {str(name): own.to_numpy() for name, own in found.items()}
        labels = self.table.drop_duplicates("case").set_index("case").loc[cases]
        drawn, random = self.random_of(outcome), None
        if drawn is not None:
            random = drawn.sel(case=list(cases), basis=basis, layer=layer).mean("case").values.astype(np.float64)
        return Measured(
            **{"third": None, "elsewhere": None, **arrays},
            margin=reading.loc[cases, "margin"].to_numpy(dtype=np.float64),
            random=random,
            prompt=labels["prompt"].tolist(),
            word=labels["word"].tolist(),
            extras=self._extras(basis, outcome, layer, list(cases)),
        )

    def _extras(self, basis: str, outcome: str | None, layer: int, cases: Sequence[str]) -> dict[str, np.ndarray]:
        """What may warn and decides nothing, by case; NaN where a case has it not."""
        found = {}
        if "other_voice" in self.arms:
            found["other_voice"] = self.effects("other_voice", "", outcome, "report").reindex(cases)[layer].to_numpy(dtype=np.float64)
        for name, arm in (("distance", "text"), ("distance_whole", "whole")):
            at = (self.table["arm"] == arm) & (self.table["layer"] == layer) & (self.table["dose"] == 1.0)
            own = self.table[at & self.table["basis"].isin(("", basis))].drop_duplicates("case").set_index("case")["distance"]
            if own.notna().any():
                found[name] = own.reindex(cases).to_numpy(dtype=np.float64)
        return found

    def verdict(self, basis: str | None = None, outcome: str | None = None) -> Verdict | Combined:
        """The verdict by `docs/verdict.md`: of one basis, or of the lenses together; of the first outcome where none is named.

        Raises:
            PatchingError, StatisticsError: as `measured`.
        """
        names = self.bases if basis is None else (basis,)
        found = {name: self.measured(name, outcome) for name in names}
        return decide(found[names[0]]) if len(names) == 1 else combined(found, lenses=self.lenses)

    # -- kept ----------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one netCDF file, whole or not at all."""
        effect_files.write(effect_files.Parts(self.table, self.reading, self.random, self.random_exact, self.about), path)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Effect:
        """Read a file that `save` wrote.

        Raises:
            PatchingError, ReadoutError: no such file, or one that is no effect.
        """
        found = effect_files.read(path)
        return Effect(found.table, found.reading, found.random, found.random_exact, found.about)

    def plot(self, **options: Any) -> go.Figure:
        """Shares of text and complement by layer with every control; options as in `slm_interp.plots.causal`."""
        return import_module("slm_interp.plots.causal").profile(self, **options)

    def __repr__(self) -> str:
        return (
            f"Effect({self.table['case'].nunique()} cases in {self.table['prompt'].nunique()} prompts and {self.table['word'].nunique()} pairs of words; "
            f"bases {', '.join(self.bases)}; layers {self.layers[0]} to {self.layers[-1]}; arms {', '.join(self.arms)}; outcomes {', '.join(self.outcomes)})"
        )

    def _repr_html_(self) -> str:
        means = self.table[(self.table["outcome"] == self.outcomes[0]) & (self.table["dose"] == 1.0)]
        shown = means.pivot_table(index=["basis", "arm"], columns="layer", values="effect", sort=False)
        lacking = ", ".join(f"{name} ({count} cases)" for name, count in self.missing.items())
        said = f"Mean effect by layer, {self.outcomes[0]}." + (f" Cannot be had: {lacking}." if lacking else "")
        left = f"<p>Left out: {', '.join(self.left_out)}.</p>" if self.left_out else ""
        return f"<div><b>{escape(repr(self))}</b><p>{escape(said)}</p>{shown.to_html(float_format='{:.3f}'.format)}{left}</div>"

    def _known(self, arm: str, basis: str, outcome: str | None, half: str) -> None:
        asked = ((arm, "arms", self.arms), (basis, "bases", ("", *self.bases)), (outcome or self.outcomes[0], "outcomes", self.outcomes))
        for given, what, there in (*asked, (half, "halves", ("development", "report", "both"))):
            if given not in there:
                raise PatchingError(f"This effect has the {what} {', '.join(map(repr, there))}; got {given!r}.")
        own = set(self.table.loc[self.table["arm"] == arm, "basis"])
        if basis not in own and "" not in own:
            raise PatchingError(f"{arm!r} depends on the basis; name one of {', '.join(self.bases)}.")


def _halves(table: pd.DataFrame, seed: int) -> dict[str, str]:
    """The half of every case: half of the clusters of words choose, the other half reports; "" where there are fewer than four."""
    words = table.drop_duplicates("case").set_index("case")["word"]
    try:
        chooses = first_half(words.to_numpy(), seed)
    except StatisticsError:
        return dict.fromkeys(words.index, "")
    return {case: "development" if own else "report" for case, own in zip(words.index, chooses, strict=True)}
