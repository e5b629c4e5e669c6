"""Made-up causal effects by the schema of `Effect`: for tests of pictures and pages, which need no model."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import xarray as xr

from slm_interp.causal import Effect

LAYERS = tuple(range(7))
DOSES = (-1.0, -0.5, 0.5, 2.0)
# Share of the whole effect that each arm has where the text share is t: at the peak of the layers.
ARMS = {
    "whole": lambda t: 1.0,
    "text": lambda t: t,
    "copied": lambda t: 0.95 * t,
    "complement": lambda t: 1 - t,
    "third": lambda t: 0.5 * t,
    "phonetic": lambda t: 0.6 * t,
    "semantic": lambda t: 0.55 * t,
    "self": lambda t: 0.0,
    "other_voice": lambda t: 0.02,
    "elsewhere": lambda t: 0.01,
    "variance": lambda t: 0.08,
    "erased": lambda t: 0.4 * t,
    "read": lambda t: 0.98 * t,
    "unread": lambda t: 0.02 * t,
    "direct": lambda t: 0.0,
    "band": lambda t: 1.05 * t,
    "band_whole": lambda t: 1.1,
    "written_whole": lambda t: 1.3,
    "written_text": lambda t: 1.2,
}
OF_NO_BASIS = ("whole", "band_whole", "self", "other_voice", "written_whole")


def effects(share: float = 0.6, ceiling: float = 2.0, cases: int = 48, bases: tuple[str, ...] = ("logit",), seed: int = 0) -> pd.DataFrame:
    """`Effect.table`: the whole patch fades over the layers, text carries `share` of it; eight prompts, twelve pairs of words."""
    generator, rows = np.random.default_rng(seed), []
    for case in range(cases):
        gap = max(0.0, generator.normal(ceiling, 0.25 * ceiling)) + generator.normal(0, 0.02)
        base = generator.normal(-1, 0.3)
        for layer, arm, basis in product(LAYERS, ARMS, bases):
            if arm in OF_NO_BASIS and basis != bases[0]:
                continue
            fade = 1 / (1 + np.exp(2.2 * (layer - 4.2)))
            own = ARMS[arm](share) * fade * (1 if arm in OF_NO_BASIS else min(1.0, layer / 3))
            for dose in (1.0, *(DOSES if arm == "text" else ())):
                effect = dose * own * gap * (1 - 0.08 * max(0.0, dose - 1)) + generator.normal(0, 0.05)
                rows.append(
                    {
                        "case": f"case {case}",
                        "prompt": f"prompt {case % 8}",
                        "word": f"word {case // 8} | word {case % 2}",
                        "basis": "" if arm in OF_NO_BASIS else basis,
                        "layer": layer,
                        "arm": "band" if arm == "band_whole" else arm,  # told from the other by its basis
                        "dose": dose,
                        "outcome": "onset",
                        "base": base,
                        "source": base + gap,
                        "value": base + effect,
                        "effect": effect,
                        "moved": abs(dose) * 0.2,
                        "distance": 1.0 + 0.1 * abs(dose),
                        "half": "report" if case % 2 else "development",
                    }
                )
    return pd.DataFrame(rows)


def random_draws(table: pd.DataFrame, draws: int = 1000, spread: float = 0.06, seed: int = 1) -> xr.DataArray:
    """`Effect.random`: as many draws of random directions, each a small effect that cases have in common."""
    generator = np.random.default_rng(seed)
    cases, bases = list(dict.fromkeys(table["case"])), [one for one in dict.fromkeys(table["basis"]) if one]
    shared = generator.normal(0, spread, (1, len(bases), len(LAYERS), draws))
    own = generator.normal(0, spread, (len(cases), len(bases), len(LAYERS), draws))
    coords = {"case": cases, "basis": bases, "layer": list(LAYERS), "draw": np.arange(draws)}
    return xr.DataArray((shared + own).astype(np.float32), coords, ("case", "basis", "layer", "draw"), "effect")


def exact_draws(random: xr.DataArray, draws: int = 50) -> xr.DataArray:
    """`Effect.random_exact`: the first draws as runs would give them, a little off the linear ones."""
    first = random.isel(draw=slice(0, draws))
    return first * 0.97 + np.random.default_rng(2).normal(0, 0.004, first.shape).astype(np.float32)


def heard(table: pd.DataFrame, share: float = 0.8) -> pd.DataFrame:
    """`Effect.reading`: the lens reads the word of most cases from layer 2 on."""
    generator, rows = np.random.default_rng(3), []
    for name in dict.fromkeys(table["case"]):
        for layer, basis in product(LAYERS, [one for one in dict.fromkeys(table["basis"]) if one]):
            reads = generator.random() < (share if layer >= 2 else 0.1)
            margin, rank = generator.normal(3.0 if reads else 0.0, 0.5), 0 if reads else int(generator.integers(1, 16))
            rows.append({"case": name, "basis": basis, "layer": layer, "margin": margin, "rank": rank, "heard": reads})
    return pd.DataFrame(rows)


def effect(share: float = 0.6, ceiling: float = 2.0, cases: int = 48, bases: tuple[str, ...] = ("logit",)) -> Effect:
    """A whole experiment."""
    table = effects(share, ceiling, cases, bases)
    random = random_draws(table)
    about = {"outcomes": ["onset"], "seed": 0, "missing": {"other_voice": 3}, "left_out": ["band"], "provenance": {"checkpoint": "made up"}}
    return Effect(table, heard(table), random, exact_draws(random), about)
