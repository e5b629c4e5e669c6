"""Does decodability go with knowledge? Across the items of one model, and across models.

The paper (arXiv 2606.22473) correlates Recall@10 with knowledge over 14 models in two clusters. With n = 14 a rank correlation of .70
has the interval .25 to .90 (Fisher's z), and one below .71 is found less than four times in five. Over the items of one model there
are many more points, and the question is sharper: of the facts this model was asked, are those it knows those it transcribes?

Items are joined by name, never by position.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from slm_interp.correlation import detectable, fieller_interval, spearman
from slm_interp.errors import ReadoutError
from slm_interp.transcription.observations import Observations
from slm_interp.transcription.recall import VARIABLE, Ranks

EXTRA = ("surprisal", "span_length")


def by_item(
    observations: Observations, knowledge: pd.DataFrame, k: int = 10, layer: int | None = None, ranks: Ranks = "joint"
) -> pd.DataFrame:
    """One row an item that was both observed and asked: `name`, `cluster`, `margin`, `correct`, and how decodable its words are.

    `recall`: share of its words among the k best. `decodability`: mean over its words of minus the log of 1 + rank, which does not
    stop at k. `null_recall`, `null_decodability`: the same of null words, all nulls and draws together, a covariate: what an utterance
    gives to any word. `words`, and where they were observed the means of `surprisal` and `span_length`.

    Args:
        observations: of utterances named as the items.
        knowledge: from `forced_choice` or `minimal_pairs`.
        layer: blocks run; None is the best layer of each word, and of each null word.

    Raises:
        ReadoutError: no item in both, unnamed or equally named utterances, names that repeat, an unknown layer, k or ranks.
    """
    if ranks not in VARIABLE or k < 1:
        raise ReadoutError(f"Decodability needs a k from 1 up and ranks joint or text; got k={k}, ranks={ranks!r}.")
    data = observations.dataset
    if layer is not None and layer not in data["layer"].values:
        raise ReadoutError(f"There is no layer {layer}; layers count blocks run, {data['layer'].values.tolist()}.")
    own, null = (data[name] for name in (VARIABLE[ranks], f"null_{VARIABLE[ranks]}"))
    own, null = (one.min("layer") if layer is None else one.sel(layer=layer) for one in (own, null))
    words = pd.DataFrame(
        {
            "name": data["utterance_name"].values,
            "utterance": data["utterance"].values,
            "recall": (own.values < k).astype(np.float64),
            "decodability": -np.log1p(own.values),
            "null_recall": (null.values < k).mean((0, 1)),
            "null_decodability": -np.log1p(null.values).mean((0, 1)),
            **{name: data[name].values for name in EXTRA if name in data.coords},
        }
    )
    if (words["name"] == "").any() or (words.groupby("name")["utterance"].nunique() > 1).any() or knowledge["name"].duplicated().any():
        raise ReadoutError("Items are joined by name: every utterance and every choice needs a name of its own.")
    items = words.drop(columns="utterance").groupby("name", sort=False).mean().join(words.groupby("name").size().rename("words"))
    asked = knowledge.set_index("name")[["cluster", "margin", "correct"]]
    joined = asked.join(items, how="inner").reset_index()
    if not len(joined):
        raise ReadoutError(
            f"No item was both observed and asked: observed are {list(items.index[:3])} ..., asked {list(asked.index[:3])} .... "
            "Name utterances as the choices are named."
        )
    left_out = {"only_observed": len(items) - len(joined), "only_asked": len(asked) - len(joined)}
    joined.attrs = {**data.attrs, **left_out, "k": k, "layer": "any" if layer is None else layer, "ranks": ranks}
    return joined


def by_model(recalls: Mapping[str, pd.DataFrame], accuracies: Mapping[str, pd.DataFrame], k: int = 10, layer: str = "any") -> pd.DataFrame:
    """One row a model: `model`, `recall`, each null's recall and what is over it, `accuracy`.

    Args:
        recalls: tables of `recall`, by model.
        accuracies: tables of `accuracy` without groups, by model.

    Raises:
        ReadoutError: other models in one than in the other, or a table without that k and layer, or with groups.
    """
    if set(recalls) != set(accuracies):
        raise ReadoutError(
            f"Recall and accuracy must be of the same models; these have only one: {sorted(set(recalls) ^ set(accuracies))}."
        )
    rows: list[dict[str, Any]] = []
    for model, table in recalls.items():
        found, accuracy = table[(table["k"] == k) & (table["layer"].astype(str) == layer)], accuracies[model]
        if len(found) != 1 or len(accuracy) != 1:
            raise ReadoutError(
                f"Model {model!r} needs one row with k={k}, layer {layer!r} and one accuracy; got {len(found)}, {len(accuracy)}."
            )
        nulls = [name for name in found if name.startswith("null_") or (name.startswith("over_") and not name.endswith(("_low", "_high")))]
        rows.append({"model": model, **found.iloc[0][["recall", *nulls]].to_dict(), "accuracy": float(accuracy["accuracy"].iloc[0])})
    return pd.DataFrame(rows)


def correlate(
    table: pd.DataFrame,
    x: str = "decodability",
    y: str = "margin",
    covariates: Sequence[str] = (),
    within: str | None = None,
    clusters: str | None = None,
    **options: Any,
) -> pd.DataFrame:
    """One row: rank correlation of two columns, with its clustered interval, permutation p, and what n allows.

    Columns: `x`, `y`, `covariates`, `within`, `n`, `clusters`, `rho`, `low`, `high`, `p`, `undefined`; `fieller_low` and
    `fieller_high`, the interval by Fisher's z of as many independent items as there are clusters, and `detectable`, the rho that
    so many would find four times in five at 5%.

    Args:
        covariates: columns both are freed of, such as `null_decodability`, `words` or `surprisal`.
        within: column of groups inside which alone differences count, such as whether a model was trained on interleaved data.
        clusters: column of items that belong together, such as `cluster`.
        options: of `correlation.spearman`.

    Raises:
        ReadoutError: columns that are not there.
        StatisticsError: as in `correlation.spearman`.
    """
    wanted = [x, y, *covariates, *(one for one in (within, clusters) if one is not None)]
    missing = [one for one in wanted if one not in table]
    if missing:
        raise ReadoutError(f"No column {missing[0]!r} to correlate; there are {', '.join(map(str, table.columns))}.")
    found = spearman(
        table[x].to_numpy(dtype=np.float64),
        table[y].to_numpy(dtype=np.float64),
        {name: table[name].to_numpy(dtype=np.float64) for name in covariates},
        None if within is None else table[within].to_numpy(),
        None if clusters is None else table[clusters].to_numpy(),
        **options,
    )
    independent = max(found.clusters - len(covariates), 4)
    low, high = fieller_interval(found.rho, independent, found.level)
    said = {"x": x, "y": y, "covariates": ", ".join(covariates), "within": within or "", "n": found.n, "clusters": found.clusters}
    numbers = {"rho": found.rho, "low": found.low, "high": found.high, "p": found.p, "undefined": found.undefined}
    row = pd.DataFrame([{**said, **numbers, "fieller_low": low, "fieller_high": high, "detectable": detectable(independent)}])
    row.attrs = dict(table.attrs)
    return row
