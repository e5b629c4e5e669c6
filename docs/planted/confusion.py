"""Write `confusion.csv`, `confusion.txt`: verdicts of the causal suite on planted models, beside those of naive tests.

    python docs/planted/confusion.py --seeds 10 --store folder

Run from the repository's root. With a store it goes on where it was cut off; seeds are done one after another, every kind of each.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from slm_interp.causal.planted import SERIAL
from slm_interp.causal.planted.confusion import KINDS, LENSES, OTHERS, Size, confusion, summary

HERE = Path(__file__).parent
EXACT = (*KINDS, *(kind for kind in SERIAL if kind != "branching"))
HALF = Size(cases=40, n_words=16)
CHOSEN = ("shadow", 0.5, "mediated", "dead")
SHORT = {"text-mediated": "mediated", "epiphenomenal": "shadow", "uninformative": "uninf.", "right": "right", "models": "models"}


def said(table: pd.DataFrame) -> str:
    """The confusion table of some models, and what it took."""
    shown = summary(table).rename(columns={**SHORT, **{name: name.removeprefix("naive: ") for name in table.columns if "naive" in name}})
    seconds = table.drop_duplicates(["kind", "share", "noise", "seed"])["seconds"]
    return (
        f"{shown.to_string(index=False, float_format='{:.2f}'.format, na_rep='-')}\n\n"
        f"{len(seconds)} models, {seconds.median():.0f} s each (median, wall clock, one thread of a shared machine), {seconds.sum() / 60:.0f} min in all.\n"
    )


def main() -> None:
    """Run what is asked and write both files."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--seeds", type=int, default=10)
    asked.add_argument("--large-seeds", type=int, default=10, help="with 80 cases, a quarter of a minute each")
    asked.add_argument("--few-seeds", type=int, default=2, help="without noise and serial kinds, and with several bases")
    asked.add_argument("--store", default=None)
    options = asked.parse_args()
    logging.getLogger().setLevel(logging.ERROR)
    with TemporaryDirectory() as temporary:
        folder = Path(options.store or temporary)
        logit = {"logit": LENSES["logit"]}
        noisy = confusion(range(options.large_seeds), KINDS, logit, Size(), store=folder / "noisy")
        half = confusion(range(options.seeds), KINDS, logit, HALF, store=folder / "half")
        exact = confusion(range(options.few_seeds), EXACT, logit, replace(HALF, noise=0.0), store=folder / "exact")
        several = confusion(range(options.few_seeds), CHOSEN, {**LENSES, **OTHERS}, HALF, store=folder / "several")
    parts = {
        "Logit lens, with noise, 80 cases": noisy,
        "The same with 40 cases": half,
        "Logit lens, without noise: every case has the planted share": exact,
        "Several lenses with noise; and a probe and rows of W_E, which are no lenses, so that no word is right": several,
    }
    pd.concat(parts, names=["part"]).reset_index(level="part").to_csv(HERE / "confusion.csv", index=False, float_format="%.5g")
    head = "Models by kind and planted share of the text path; how many got each verdict, and how many each naive test calls text-mediated.\n\n"
    (HERE / "confusion.txt").write_text(head + "\n\n".join(f"{name}\n\n{said(table)}" for name, table in parts.items() if len(table)))
    print((HERE / "confusion.txt").read_text())


if __name__ == "__main__":
    main()
