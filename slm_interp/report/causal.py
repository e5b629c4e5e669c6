"""One command: a checkpoint and contrasts become a verdict, tables, figures and one page, with every control beside the effect.

Written to the folder, next to the store's own `manifest.json` and `parts/`:

| file | holds |
|---|---|
| `effects.parquet` | `Effect.table`: one row for every case, basis, layer, arm, dose and outcome |
| `reading.parquet` | what each lens reads of the words at every layer |
| `random.nc` | effects of random directions, and of those that were run exactly, where some were drawn |
| `effect.nc` | all of these, for `causal.Effect.load` |
| `cases.csv`, `left_out.csv` | the cases and their controls; what could not be had, and why |
| `verdict.json` | the verdict with every number that it rests on, the chosen layers, provenance |
| `figures/` | the figures as HTML and JSON, and as PNG where kaleido and a browser are there |
| `sounds/` | what the model says before and after each intervention, a folder for each case that is heard: units, WAV files |
| `index.html` | the page |

A case that is done is a part of the store: killed and started again with the same options, the run goes on with the next one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from slm_interp.causal.building.cases_built import Built
from slm_interp.causal.effect import Effect
from slm_interp.causal.experiment import Plan
from slm_interp.files import atomic_path, write_text
from slm_interp.netcdf import write_dataset
from slm_interp.report.causal_figures import figures_of, shown
from slm_interp.report.causal_listening import Listening, heard, section_of, write_sounds
from slm_interp.report.causal_page import page_of
from slm_interp.report.causal_verdict import Judged, judged
from slm_interp.report.transcription import write_figures


@dataclass(frozen=True, eq=False)
class Tested:
    """What a causal test found, in plain words, and its figures by the name of their files."""

    said: str
    figures: Mapping[str, go.Figure]

    def __str__(self) -> str:
        return self.said


def announced(plan: Plan, built: Built) -> str:
    """What will be run, what it costs and what it leaves out."""
    missing = [f"{name} ({count} of {len(plan.cases)})" for name, count in plan.missing.items()]
    lines = [
        f"{built!r}",
        f"Lenses {', '.join(basis.name for basis in plan.bases)}; layers {', '.join(map(str, plan.layers))}; outcome {plan.outcomes[0].name}.",
        f"Arms: {', '.join([*(arm.name for arm in plan.arms), *plan.checks])}.",
        f"Cases that cannot have an arm: {', '.join(missing) or 'none'}.",
        f"Leaves out: {', '.join(plan.left_out) or 'nothing'}.",
        f"Cost: {plan.cost}.",
    ]
    return "\n".join(lines)


def causal_files(plan: Plan, built: Built, out: Path, listening: Listening | None = None) -> Tested:
    """Run what the folder does not have yet, and write everything.

    Args:
        listening: cases that are heard, at the layer that is shown of the first basis.

    Raises:
        StoreError: a folder that was made with other settings.
    """
    effect = plan.run(out)
    found, drawn = judged(effect), shown(effect)
    several = len(drawn) > 1
    figures = {f"{name}_{one.basis}" if several else name: figure for one in drawn for name, figure in figures_of(effect, one).items()}
    _tables(effect, built, out)
    _verdict(found, effect, out)
    write_figures(figures, out / "figures")
    for name, figure in figures.items():
        write_text(out / "figures" / f"{name}.json", figure.to_json(validate=False))
    said = [] if listening is None else heard(plan, drawn[0], listening)
    write_sounds(said, out / "sounds")
    more = [] if listening is None else [section_of(said, listening)]
    page_of(effect, found, drawn, built.cases, _notes(built), more).write(out / "index.html")
    where = "; ".join(f"{basis} at layer {layer}" for basis, layer in found.layers.items())
    return Tested(f"{found}\n{f'Asked of {where}.' if where else 'No layer was chosen.'}\n\nOpen {out / 'index.html'}", figures)


def _tables(effect: Effect, built: Built, out: Path) -> None:
    for name, table in (("effects", effect.table), ("reading", effect.reading)):
        with atomic_path(out / f"{name}.parquet") as temporary:
            table.to_parquet(temporary, engine="pyarrow", index=False)
    drawn: dict[str, xr.DataArray] = {}
    if effect.random is not None:
        drawn["random"] = effect.random.drop_attrs()
    if effect.random_exact is not None:
        drawn["random_exact"] = effect.random_exact.drop_attrs().rename(draw="draw_run")
    if drawn:
        write_dataset(xr.Dataset(drawn), out / "random.nc")
    effect.save(out / "effect.nc")
    for name, table in (("cases", built.table), ("left_out", built.left_out)):
        write_text(out / f"{name}.csv", table.to_csv(index=False))


def _verdict(found: Judged, effect: Effect, out: Path) -> None:
    said = {**found.to_dict(), "about": dict(effect.about)}
    write_text(out / "verdict.json", json.dumps(_finite(said), indent=1, sort_keys=True, default=str, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    """Numbers that are none as null: JSON knows no NaN."""
    if isinstance(value, Mapping):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not pd.notna(value) else value


def _notes(built: Built) -> str:
    lost = built.left_out.groupby(["what", "why"], sort=False).size()
    rows: Sequence[str] = [f"{count} x {what}: {why}" for (what, why), count in lost.items()]
    return f"{built!r}." + ("".join(f"\n\nLeft out: {row}." for row in rows[:12]))
