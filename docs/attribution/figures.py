"""The tables of docs/attribution.md from what the benchmark wrote beside this file.

python -m tests.benchmarks.attribution agreement --organism tiny
python -m tests.benchmarks.attribution agreement --organism tiny-overlapped
python -m tests.benchmarks.attribution memory
python docs/attribution/figures.py
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from slm_interp.files import write_text

HERE = Path(__file__).parent
AGREEMENT = {
    "organism": "organism",
    "site": "site",
    "method": "method",
    "pearson": "Pearson",
    "spearman_within": "Spearman within",
    "same_sign": "same sign",
    "slope": "slope",
    "found": "top 10 found",
    "worst_miss": "worst miss",
    "seconds_of_exact": "seconds, of exact",
}
MISSES = {
    "organism": "organism",
    "site": "site",
    "label": "word",
    "layer": "layer",
    "head_index": "head",
    "estimate": "AtP",
    "exact": "exact",
}
MEMORY = {
    "dtype": "dtype",
    "length": "positions",
    "way": "graph",
    "rise_MB": "resident size rose by (MB)",
    "estimate_MB": "estimate (MB)",
}


def main() -> None:
    """Three tables."""
    found, missed = (_organisms(kind) for kind in ("agreement", "misses"))
    write_text(HERE / "agreement.txt", markdown(found, AGREEMENT))
    missed = (
        missed[missed["method"] == "AtP"]
        .groupby(["organism", "site"], sort=False)
        .head(1)
        .assign(head_index=lambda one: one["head_index"].astype("Int64"))
    )
    write_text(HERE / "misses.txt", markdown(missed, MISSES))
    memory = pd.read_csv(HERE / "memory.csv")
    memory = memory.assign(way=memory["way"].map({"gradients_at": "whole", "gradients_by_block": "a block at a time"}))
    write_text(
        HERE / "memory.txt",
        markdown(memory.assign(**{name: memory[name].round().astype(int) for name in ("rise_MB", "estimate_MB")}), MEMORY),
    )


def _organisms(kind: str) -> pd.DataFrame:
    names = sorted(path.stem.removeprefix(f"{kind}-") for path in HERE.glob(f"{kind}-*.csv"))
    return pd.concat([pd.read_csv(HERE / f"{kind}-{name}.csv").assign(organism=name) for name in names], ignore_index=True)


def markdown(table: pd.DataFrame, columns: dict[str, str]) -> str:
    """A table for a page, under other names; numbers with two digits after the point."""

    def shown(value: object) -> str:
        if value is pd.NA or value != value:
            return "–"
        return f"{value:.2f}" if isinstance(value, float) else str(value)

    rows = [list(columns.values()), ["---"] * len(columns)]
    rows += [[shown(value) for value in row] for row in table[list(columns)].itertuples(index=False)]
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


if __name__ == "__main__":
    main()
