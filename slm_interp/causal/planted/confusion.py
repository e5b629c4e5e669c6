"""The suite asked of models whose answer is known: its verdicts, beside those of tests that a hasty reader would make do with.

    table = confusion(seeds=range(10))      # one row for every model, basis and seed
    summary(table)                          # how often the verdict is right, and what each naive test says

1. A model of every kind and fraction is planted with every seed, and its cases are run by `causal.run` with the controls that the rule needs.
2. The rule of `Effect.verdict` says its word for each basis, and for the lenses together.
3. The word is right if it is that of the planted share: *uninformative* where there is nothing to explain, *epiphenomenal* below the share that the rule
   counts as nothing, *text-mediated* above the rest, else *partly*. A share within a hundredth of one of these bounds is refused: by the rule, nobody can tell.
4. Of the same effects, naive tests say what they would: see `NAIVE`.

Lenses read text, so the planted share is the right answer for them. A probe reads the word in whatever basis it stands, the secret code among them, and rows of
`W_E` read the units that came in: these have a verdict and no right answer.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from tqdm.auto import tqdm

from slm_interp.causal.bases import Basis, EmbeddingBasis, LensBasis, ProbeBasis
from slm_interp.causal.building.planted import planted_cases
from slm_interp.causal.effect import Effect
from slm_interp.causal.evidence import Measured, Rule
from slm_interp.causal.experiment import plan
from slm_interp.causal.planted.kinds import Verdict
from slm_interp.causal.planted.planting import Planted, plant
from slm_interp.causal.verdict import combined, decide
from slm_interp.errors import PatchingError, missing_extra
from slm_interp.lenses import LogitLens
from slm_interp.lenses.jacobian import JacobianRecipe, fit_jacobian
from slm_interp.lenses.probe import collect, train_probe
from slm_interp.patching import outcomes
from slm_interp.store import open_store

ARMS = ("whole", "text", "complement", "third", "elsewhere", "random")
FRACTIONS = (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)
KINDS = ("shadow", *FRACTIONS, "mediated", "dead")
LEARNT_FROM = 4  # prompts that a Jacobian lens is fitted on
TOGETHER = "lenses together"
MARGIN = 0.01  # a planted share nearer than this to a bound of the rule has no right answer


def _jacobian(planted: Planted) -> Basis:
    prompts = [contrast.clean for contrast in planted.contrasts[:LEARNT_FROM]]
    fit = fit_jacobian(planted.slm, prompts, JacobianRecipe(skip_first_positions=0), layers=list(planted.layers))
    return LensBasis(fit.lens(), planted.slm)


def _probe(planted: Planted) -> Basis:
    heard = [prompt for contrast in planted.contrasts for prompt in (contrast.clean, contrast.corrupted)]
    return ProbeBasis(train_probe(collect(planted.slm, heard, layers=list(planted.layers)), penalties=(1e-3,)))


LENSES: Mapping[str, Callable[[Planted], Basis]] = {
    "logit": lambda planted: LensBasis(LogitLens(planted.slm), planted.slm),
    "jacobian": _jacobian,
}
OTHERS: Mapping[str, Callable[[Planted], Basis]] = {"probe": _probe, "embedding": lambda planted: EmbeddingBasis(planted.slm)}


# -- tests that a hasty reader would make do with ----------------------------------------------------


def _t_test(values: Float[np.ndarray, " case"]) -> float:
    """p of a mean of 0, as if cases were independent.

    Raises:
        ImportError: scipy is not installed.
    """
    try:
        from scipy.stats import ttest_1samp
    except ImportError as error:
        raise missing_extra("scipy", "causal") from error
    return float(ttest_1samp(values, 0).pvalue)


def swap_differs(measured: Measured, heard: float) -> Verdict:
    """A t-test of the swap's effect against zero."""
    if np.ptp(measured.text) == 0:
        return "text-mediated" if measured.text[0] != 0 else "epiphenomenal"
    return "text-mediated" if _t_test(measured.text) < 0.05 else "epiphenomenal"


def decodable(measured: Measured, heard: float) -> Verdict:
    """The basis ranks the heard word first in most cases, so it is used."""
    return "text-mediated" if heard > 0.5 else "uninformative"


def patch_is_large(measured: Measured, heard: float) -> Verdict:
    """A whole patch where the word is decodable has an effect (a t-test again), so the word read there has it."""
    return "text-mediated" if heard > 0.5 and _t_test(measured.whole) < 0.05 else "uninformative"


NAIVE: Mapping[str, Callable[[Measured, float], Verdict]] = {
    "swap differs from 0": swap_differs,
    "decodable, so used": decodable,
    "whole patch is large": patch_is_large,
}


# -- the table ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Size:
    """How large models and case sets are.

    Args:
        cases: contrasts of a model; half of them choose the layer, half are reported.
        n_words, d_model: of the model.
        noise: as in `plant`.
    """

    cases: int = 80
    n_words: int = 20
    d_model: int = 128
    noise: float = 0.05


def confusion(
    seeds: Iterable[int],
    kinds: Sequence[str | float] = KINDS,
    bases: Mapping[str, Callable[[Planted], Basis]] = LENSES,
    size: Size | None = None,
    rule: Rule | None = None,
    store: str | os.PathLike[str] | None = None,
) -> pd.DataFrame:
    """Verdicts on planted models.

    Args:
        seeds: of models.
        kinds: names of kinds, serial ones among them, or fractions of the text path.
        bases: by name, made from a model: `LENSES`, `OTHERS` or the caller's own.
        size: of models and case sets; the noise of serial kinds is 0.
        rule: whose bounds say which word is right.
        store: a folder to go on in, model by model.

    Returns:
        `kind share noise seed basis right verdict line text low high complement ceiling layer heard seconds`, and a column for each naive test. `right` is
        empty for a basis that is no lens; `seconds` are of the model, all its bases together.

    Raises:
        PatchingError: as `plant`; a share at a bound of the rule; no bases.
        StoreError: a folder made with other settings.
    """
    size, rule, numbers = size or Size(), rule or Rule(), list(seeds)
    settings = {"size": str(size), "rule": str(rule), "bases": sorted(bases)}
    parts = None if store is None else open_store(store, settings)
    found = []
    for seed, kind in tqdm([(seed, kind) for seed in numbers for kind in kinds], desc="planted models", unit="model", disable=None):
        key = f"{kind} {seed}"
        if parts is not None and key in parts:
            found.append(parts.read(key))
            continue
        frame = pd.DataFrame(list(_rows(kind, seed, bases, size, rule)))
        if parts is not None:
            parts.write(key, frame)
        found.append(frame)
    return pd.concat(found, ignore_index=True)


def right_word(planted: Planted, rule: Rule) -> Verdict:
    """The word of the rule for the planted share.

    Raises:
        PatchingError: a share so near to a bound of the rule that no word is right.
    """
    share = planted.fraction
    if share is None:
        return "uninformative"
    if min(abs(share - rule.nothing), abs(1 - share - rule.nothing)) < MARGIN:
        raise PatchingError(
            f"A planted share of {share:g} is a bound of the rule, which counts {rule.nothing:g} as nothing. Plant another."
        )
    if share < rule.nothing:
        return "epiphenomenal"
    return "text-mediated" if share > 1 - rule.nothing else "partly"


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """How often each verdict is given, by kind and basis, and how often each naive test says that text drives the speech.

    Returns:
        `kind share noise basis models right correct`, a column for each of the four words, and one for each naive test; counts and shares of models. `correct`
        is NaN where no word is right.
    """
    words = ("text-mediated", "partly", "epiphenomenal", "uninformative")
    rows = []
    for keys, own in table.groupby(["kind", "share", "noise", "basis", "right"], sort=False, dropna=False):
        kind, share, noise, basis, right = keys
        row: dict[str, Any] = {"kind": kind, "share": share, "noise": noise, "basis": basis, "models": len(own), "right": right}
        row["correct"] = float((own["verdict"] == right).mean()) if right else np.nan
        row |= {word: int((own["verdict"] == word).sum()) for word in words}
        row |= {f"naive: {name}": int((own[f"naive: {name}"] == "text-mediated").sum()) for name in NAIVE}
        rows.append(row)
    return pd.DataFrame(rows)


def _rows(
    kind: str | float, seed: int, bases: Mapping[str, Callable[[Planted], Basis]], size: Size, rule: Rule
) -> Iterator[dict[str, Any]]:
    """One model: a row for every basis, and one for the lenses together."""
    began = time.perf_counter()
    planted = _planted(kind, seed, size)
    right = right_word(planted, rule)
    effect = _effect(planted, {name: make(planted) for name, make in bases.items()})
    about = {
        "kind": planted.kind,
        "share": np.nan if planted.fraction is None else planted.fraction,
        "noise": planted.truth.noise,
        "seed": seed,
    }
    rows = [
        {**about, "basis": name, "right": right if name in LENSES else "", **_judged(effect, given, rule)}
        for name, given in zip(bases, effect.bases, strict=True)
    ]
    lenses = [given for name, given in zip(bases, effect.bases, strict=True) if name in LENSES]
    if len(lenses) > 1:
        rows.append({**about, "basis": TOGETHER, "right": right, **_together(effect, lenses, rule)})
    seconds = time.perf_counter() - began
    yield from ({**row, "seconds": seconds} for row in rows)


def _planted(kind: str | float, seed: int, size: Size) -> Planted:
    name, fraction = (kind, None) if isinstance(kind, str) else ("partial", float(kind))
    noise = size.noise if name in ("shadow", "mediated", "partial", "dead") else 0.0
    return plant(name, fraction, seed, size.d_model, size.n_words, size.cases, torch.float64, noise)


def _effect(planted: Planted, bases: Mapping[str, Basis]) -> Effect:
    cases = planted_cases(planted)
    asked = plan(planted.slm, cases, list(bases.values()), list(planted.layers), ARMS, outcome=outcomes.difference(units=1))
    return replace(asked, arms=tuple(replace(arm, doses=(1.0,)) for arm in asked.arms)).run()


def _judged(effect: Effect, basis: str, rule: Rule) -> dict[str, Any]:
    """The verdict on one basis, and what naive tests say of the same numbers."""
    measured, layer = effect.measured(basis), effect.chosen_layer(basis)
    verdict = decide(measured, rule)
    reading = effect.reading[(effect.reading["basis"] == basis) & (effect.reading["layer"] == layer)]
    heard = float(reading["heard"].mean())
    text, rest = verdict.shares.get("text"), verdict.shares.get("complement")
    return {
        "verdict": verdict.word,
        "line": verdict.line,
        "text": np.nan if text is None else float(text.estimate),
        "low": np.nan if text is None else float(text.low),
        "high": np.nan if text is None else float(text.high),
        "complement": np.nan if rest is None else float(rest.estimate),
        "ceiling": float(verdict.ceiling.estimate),
        "layer": layer,
        "heard": heard,
        **{f"naive: {name}": test(measured, heard) for name, test in NAIVE.items()},
    }


def _together(effect: Effect, lenses: Sequence[str], rule: Rule) -> dict[str, Any]:
    """The verdict of all lenses; a naive reader of several lenses believes any of them."""
    judged = combined({name: effect.measured(name) for name in lenses}, rule)
    each = [_judged(effect, name, rule) for name in lenses]
    naive = {
        f"naive: {name}": next(
            (one[f"naive: {name}"] for one in each if one[f"naive: {name}"] == "text-mediated"), each[0][f"naive: {name}"]
        )
        for name in NAIVE
    }
    empty = dict.fromkeys(("text", "low", "high", "complement"), np.nan)
    return {
        "verdict": judged.word,
        "line": 0,
        **empty,
        "ceiling": each[0]["ceiling"],
        "layer": -1,
        "heard": max(one["heard"] for one in each),
        **naive,
    }
