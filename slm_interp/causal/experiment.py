"""A causal test of many cases: what is asked, and running it.

    plan = causal.plan(slm, cases, [si.LogitLens(slm), probe])   # checked, with its cost, before anything is run
    effect = plan.run("results")                                 # or at once: causal.run(slm, cases, bases, store="results")

1. Everything that would be refused later is refused here: words without a spelling, words that share a direction, spans that do not meet, arms and layers
   that are not there.
2. Cases are run one by one (`writing.py`), layers x arms x bases in one pass of the engine each.
3. A case that is done is a part of the store; killed and started again, the run goes on with the next one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from tqdm.auto import tqdm

from slm_interp import hooked
from slm_interp.causal.arms import ARMS, CHECKS, Arm, arms_of
from slm_interp.causal.background import Background
from slm_interp.causal.bases import Basis, basis_of
from slm_interp.causal.beside import band_rows, direct_rows, random_of
from slm_interp.causal.cases import Case, checked_cases
from slm_interp.causal.controls.random import CHECKED
from slm_interp.causal.cost import Cost, cost_of
from slm_interp.causal.effect import Effect
from slm_interp.causal.writing import Asked, elsewhere_of, pairing_of, reading_of, run_of, table_of, written
from slm_interp.errors import PatchingError, ReadoutError, VocabularyError
from slm_interp.hooked.installed import VERSION
from slm_interp.model import SpeechTextModel
from slm_interp.patching import outcomes as known_outcomes
from slm_interp.patching.interventions import SwapCoordinates
from slm_interp.patching.outcomes import Outcome, covering
from slm_interp.patching.policies import Policy, name_of, policy_of
from slm_interp.store import Store, open_store

PARTS = ("reading", "random", "table")  # written in this order; with the last the case is done
NO_DRAWS = pd.DataFrame({"basis": pd.Series(dtype=str), "layer": pd.Series(dtype=int), "draw": pd.Series(dtype=int)}).assign(
    linear=0.0, exact=0.0
)


@dataclass(frozen=True, eq=False)
class Plan:
    """A causal test that was checked. Make one with `plan`."""

    slm: SpeechTextModel
    cases: tuple[Case, ...]
    bases: tuple[Basis, ...]
    layers: tuple[int, ...]
    arms: tuple[Arm, ...]
    checks: tuple[str, ...]
    policy: Policy
    outcomes: tuple[Outcome, ...]
    seed: int

    @property
    def candidates(self) -> tuple[str, ...]:
        """The words that a basis ranks: all that the cases exchange."""
        return tuple(sorted({word for case in self.cases for word in (case.words.clean, case.words.corrupted)}))

    @property
    def missing(self) -> dict[str, int]:
        """Arms asked for, with how many cases cannot have them."""
        counts = {arm.name: sum(not arm.has(case) for case in self.cases) for arm in self.arms}
        return {name: count for name, count in counts.items() if count}

    @property
    def left_out(self) -> tuple[str, ...]:
        """Arms that were not asked for."""
        asked = {*(arm.name for arm in self.arms), *self.checks}
        return tuple(name for name in (*ARMS, *CHECKS) if name not in asked)

    def cells(self, case: Case) -> int:
        """How many values are put in for a case, over all layers."""
        each = len(self.bases)
        own = sum(len(arm.doses) * (each + (arm.how == "band") if arm.of_basis else 1) for arm in self.arms if arm.has(case))
        return len(self.layers) * (own + (CHECKED * each if "random_exact" in self.checks else 0))

    @cached_property
    def background(self) -> Background:
        """What controls are told of all prompts."""
        return Background(self.slm, self.cases, self.layers, covering(self.outcomes).ids(self.slm.vocabulary).tolist())

    @cached_property
    def cost(self) -> Cost:
        """What it takes, from formulas and one timed forward."""
        return cost_of(self.slm, [(case, self.cells(case)) for case in self.cases], self.layers, covering(self.outcomes))

    @property
    def settings(self) -> dict[str, Any]:
        """What the numbers depend on; of the model its fingerprint, as paths and versions may differ."""
        return {
            "fingerprint": self.slm.provenance.get("fingerprint", ""),
            "dtype": str(self.slm.model.cfg.dtype),
            "bases": {basis.name: dict(basis.settings) for basis in self.bases},
            "layers": list(self.layers),
            "arms": [*(arm.name for arm in self.arms), *self.checks],
            "background": self.background.hash if {"variance", "distance"} & {*(arm.name for arm in self.arms), *self.checks} else "",
            "seed": self.seed if "random" in self.checks else 0,
            "policy": name_of(self.policy),
            "outcomes": [one.name for one in self.outcomes],
            "candidates": sha256("\n".join(self.candidates).encode()).hexdigest()[:16],
        }

    @property
    def about(self) -> dict[str, Any]:
        """Settings and provenance, as an effect keeps them."""
        return {
            **self.settings,
            "units": {one.name: one.unit for one in self.outcomes},
            "seed": self.seed,
            "missing": self.missing,
            "left_out": list(self.left_out),
            "provenance": dict(self.slm.provenance),
            "versions": {"transformer-lens": VERSION, "torch": torch.__version__},
        }

    def run(self, store: str | os.PathLike[str] | None = None, memory: int = hooked.MEMORY) -> Effect:
        """Run every case that the store does not have yet.

        Args:
            store: a folder that parts are written to as they are done, and gone on with.
            memory: bytes that a batch of runs may take beside the model.

        Raises:
            PatchingError: values or outcomes that are not finite.
            StoreError: a folder made with other settings.
        """
        parts = None if store is None else open_store(store, self.settings, self.about["versions"])
        found: dict[str, list[pd.DataFrame]] = {name: [] for name in PARTS}
        with tqdm(total=sum(map(self.cells, self.cases)), desc="causal", unit="cell", disable=None) as bar:
            asked = Asked(self.slm, self.layers, self.bases, self.outcomes, self.background, memory, "distance" in self.checks, bar.update)
            for case in self.cases:
                for name, frame in self._once(parts, case, asked).items():
                    found[name].append(frame)
        whole = {name: pd.concat(frames, ignore_index=True) for name, frames in found.items()}
        random, exact = draws_of(whole["random"])
        return Effect.of(whole["table"], whole["reading"], self.about, random, exact)

    def _once(self, parts: Store | None, case: Case, asked: Asked) -> dict[str, pd.DataFrame]:
        """The tables of a case, from the store where they are there."""
        key = key_of(case, self.policy)
        if parts is not None and f"{key} {PARTS[-1]}" in parts:
            asked.done(self.cells(case))
            return {name: labelled(parts.read(f"{key} {name}"), case) for name in PARTS}
        made = self._run_one(case, asked)
        for name in PARTS if parts is not None else ():
            assert parts is not None
            parts.write(f"{key} {name}", made[name])
        return {name: labelled(frame, case) for name, frame in made.items()}

    def _run_one(self, case: Case, asked: Asked) -> dict[str, pd.DataFrame]:
        arms, names = [arm for arm in self.arms if not arm.written], {arm.name for arm in self.arms}
        runs = run_of(asked, case, self.policy)
        put_in = list(written(asked, case, runs, arms))
        tables = [table_of(asked, case, runs, put_in)]
        if "direct" in names:
            tables.append(pd.DataFrame(direct_rows(asked, runs, put_in)))
        if "band" in names:
            tables.append(pd.DataFrame(band_rows(asked, case, runs)))
        as_text, on_text = case.as_text(), [replace(arm, needs="") for arm in self.arms if arm.written]
        if as_text is not None and on_text:
            read = replace(asked, distance=False)  # natural residuals are those of the prompts that are heard
            text_runs = run_of(read, as_text, self.policy)
            tables.append(table_of(read, as_text, text_runs, list(written(read, as_text, text_runs, on_text))))
        random = NO_DRAWS
        if "random" in self.checks:
            random = random_of(asked, case, runs, put_in, self.seed, "random_exact" in self.checks)
        return {
            "table": pd.concat(tables, ignore_index=True),
            "reading": reading_of(asked, case, runs, self.candidates),
            "random": random,
        }

    def __repr__(self) -> str:
        missing = ", ".join(f"{name} ({count} of {len(self.cases)} cases)" for name, count in self.missing.items())
        left = f"; leaves out: {', '.join(self.left_out)}" if self.left_out else ""
        return (
            f"Plan({len(self.cases)} cases, bases {', '.join(basis.name for basis in self.bases)}, layers {self.layers[0]} to {self.layers[-1]}; "
            f"arms {', '.join([*(arm.name for arm in self.arms), *self.checks])}; {self.cost}"
            f"{f'; cannot have: {missing}' if missing else ''}{left})"
        )

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{arm.name}</td><td>{escape(arm.says)}</td><td>{len(self.cases) - self.missing.get(arm.name, 0)}</td></tr>"
            for arm in self.arms
        )
        return (
            f"<div><b>{escape(repr(self.cost))}</b><table><tr><th>arm</th><th>writes</th><th>cases</th></tr>{rows}</table>"
            f"<p>Leaves out: {', '.join(self.left_out) or 'nothing'}.</p></div>"
        )


def plan(
    slm: SpeechTextModel,
    cases: Sequence[Case],
    bases: Any,
    layers: Sequence[int] | None = None,
    arms: str | Sequence[str] = "quick",
    policy: str | Policy | None = None,
    outcome: Outcome | Sequence[Outcome] | None = None,
    seed: int = 0,
) -> Plan:
    """What would be run, checked, with its cost.

    Args:
        cases: each of its own name.
        bases: a lens, a probe or another basis, or several; each of its own name.
        layers: of `resid_post`, blocks run, 1 to n_layers; None is all but the last, after which only the last position of a prompt reaches the outcome.
        arms: `"quick"`, `"full"`, or names in `arms.ARMS`.
        policy: how spans of unequal length meet; None takes spans of one length alone.
        outcome: one or more, read from the same runs; None is the difference over the first unit and that over whole words. Verdicts are of the first.
        seed: of the halves.

    Raises:
        PatchingError: anything that a run would refuse, with the case that it is about.
        VocabularyError, UtteranceError: prompts this model cannot read.
    """
    found = checked_cases(cases)
    given = (bases,) if hasattr(bases, "name") else tuple(bases)
    asked = (
        (outcome,) if isinstance(outcome, Outcome) else tuple(outcome or (known_outcomes.difference(units=1), known_outcomes.difference()))
    )
    covering(asked)
    made = Plan(slm, found, _bases(slm, given), _layers(slm, layers), *arms_of(arms), policy_of(policy), asked, seed)
    for case in found:
        _check(made, case)
    return made


def run(
    slm: SpeechTextModel,
    cases: Sequence[Case],
    bases: Any,
    store: str | os.PathLike[str] | None = None,
    memory: int = hooked.MEMORY,
    **options: Any,
) -> Effect:
    """Run a causal test: `plan(slm, cases, bases, **options).run(store, memory)`; options and errors as there."""
    return plan(slm, cases, bases, **options).run(store, memory)


def key_of(case: Case, policy: Policy) -> str:
    """The name of a case, and a hash over everything of it that decides its numbers."""
    pairing, words, voice = pairing_of(case, policy), case.words, case.other_voice
    said: list[Any] = [(words.clean, words.corrupted, words.third, words.phonetic, words.semantic), str(case.span), str(case.elsewhere)]
    said += [pairing.base.tolist(), pairing.source.tolist(), pairing.weights.tolist(), pairing.match_norms]
    said += [] if voice is None else [voice.prompt.tokens.tolist(), str(voice.span)]
    for contrast in (case.contrast, case.written):
        ids = () if contrast is None else (contrast.clean.tokens, contrast.corrupted.tokens, contrast.answer, contrast.distractor)
        said.append([own.tolist() for own in ids])
    said.append(str(case.written_span))
    return f"{case.name} {sha256(repr(said).encode()).hexdigest()[:12]}"


def labelled(frame: pd.DataFrame, case: Case) -> pd.DataFrame:
    """A part with the labels of its case in front."""
    made = frame.copy()
    for place, (name, value) in enumerate((("case", case.name), ("prompt", case.prompt), ("word", case.word))):
        made.insert(place, name, value)
    return made


def draws_of(frame: pd.DataFrame) -> tuple[xr.DataArray | None, xr.DataArray | None]:
    """Random draws of all cases as arrays, `case basis layer draw`: to first order, and those of them that were run."""
    if not len(frame):
        return None, None
    dims = ["case", "basis", "layer", "draw"]
    sizes = [frame[dim].drop_duplicates().to_numpy() for dim in dims]
    shape = [len(own) for own in sizes]
    linear, exact = (
        xr.DataArray(frame[what].to_numpy(np.float32).reshape(shape), dict(zip(dims, sizes, strict=True)), dims, what)
        for what in ("linear", "exact")
    )
    ran = int(np.isfinite(exact.values).all((0, 1, 2)).sum())
    return linear, exact.isel(draw=slice(0, ran)) if ran else None


def _bases(slm: SpeechTextModel, given: Sequence[Any]) -> tuple[Basis, ...]:
    made = tuple(basis_of(one, slm) for one in given)
    names = [basis.name for basis in made]
    if not made or len(set(names)) < len(names) or not all(names):
        raise PatchingError(f"A causal test asks one basis or more, each of its own name; got {names}.")
    return made


def _layers(slm: SpeechTextModel, layers: Sequence[int] | None) -> tuple[int, ...]:
    last = slm.model.cfg.n_layers
    chosen = sorted(set(range(1, last) if layers is None else layers))
    if not chosen or chosen[0] < 1 or chosen[-1] > last:
        raise PatchingError(
            f"Causal tests are asked after 1 to {last} blocks, of one layer or more; got {chosen}. At the embedding nothing has been computed: a whole "
            "patch there is the clean prompt itself."
        )
    return tuple(chosen)


def _check(made: Plan, case: Case) -> None:
    """Refuse a case that would be refused later, by its name."""
    slm = made.slm
    contrasts = [case.contrast] + ([] if case.written is None else [case.written])
    for contrast in contrasts:
        for prompt in (contrast.clean, contrast.corrupted):
            slm.check(prompt)
        covering(made.outcomes).places(contrast, slm.vocabulary)
    elsewhere_of(case, pairing_of(case, made.policy))
    if case.other_voice is not None and any(arm.place == "voice" for arm in made.arms):
        pairing_of(case, made.policy, case.other_voice)
    as_text = case.as_text()
    if as_text is not None and any(arm.written for arm in made.arms):
        pairing_of(as_text, made.policy)
    for basis in made.bases:
        for arm in made.arms:
            if arm.of_basis and arm.has(case):
                _independent(case, basis, made.layers[0], arm.first_word(case))
        for one in (case.words.clean, case.words.third):
            if one is not None and one != case.words.clean:
                _independent(case, basis, made.layers[0], one, case.words.clean)


def _independent(case: Case, basis: Basis, layer: int, first: str, second: str | None = None) -> None:
    other = second or case.words.corrupted
    try:
        SwapCoordinates(*basis.pairs(layer, first, other))
    except (PatchingError, ReadoutError, VocabularyError) as error:
        raise PatchingError(
            f"Case {case.name!r}: {first!r} and {other!r} cannot be exchanged in the basis {basis.name!r}: {error} Leave the case out, or choose other words."
        ) from error
