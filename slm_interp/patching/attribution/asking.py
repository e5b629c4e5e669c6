"""From what a user asks to one result for each site: the contrasts prepared and checked, a method run on each, the results labelled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from slm_interp import hooked
from slm_interp.model import SpeechTextModel
from slm_interp.patching import outcomes
from slm_interp.patching.activation import check, described
from slm_interp.patching.assembly import Cells, dataset_of
from slm_interp.patching.attribution.linear import Found
from slm_interp.patching.attribution.result import Attribution
from slm_interp.patching.contrasts import Contrasts, Direction, Prepared, clusters_of, prepared
from slm_interp.patching.engine import Grid
from slm_interp.patching.measuring import finite
from slm_interp.patching.outcomes import Outcome
from slm_interp.patching.places import check_site, heads_of, layers_of
from slm_interp.patching.policies import Policy, name_of, policy_of
from slm_interp.patching.spans import Spans

MEMORY = 2 * 2**30


@dataclass(frozen=True, eq=False)
class Asked:
    """What is asked of a method.

    Args:
        prepared: the contrasts with their pairings.
        grids: layers and heads of every site.
        outcome: what is measured.
        attrs: direction and policy, for the result.
    """

    prepared: list[Prepared]
    grids: Mapping[str, Grid]
    outcome: Outcome
    attrs: Mapping[str, Any]


def asked(
    slm: SpeechTextModel,
    contrasts: Contrasts,
    sites: Sequence[str],
    how: tuple[Spans, str | Policy | None, Outcome | None, Direction],
) -> Asked:
    """The contrasts and sites, once everything is known to fit; `how` is spans, policy, outcome and direction.

    Raises:
        PatchingError: an unknown site or direction, spans or continuations that do not fit.
        ReadoutError: a site whose slope would be that of a part (`hooked.whole`).
    """
    spans, policy, outcome, direction = how
    outcome, policy = outcome or outcomes.difference(), policy_of(policy)
    grids = {}
    for site in sites:
        check_site(slm.model, site)
        hooked.whole(site)
        grids[site] = Grid(site, layers_of(slm.model, site, None), heads_of(slm.model, site, None))
    found = prepared(contrasts, spans, policy, direction)
    for one in found:
        for grid in grids.values():
            check(slm, one, grid, outcome)
    return Asked(found, grids, outcome, {"direction": direction, "base": found[0].base, "policy": name_of(policy)})


def attributed(
    slm: SpeechTextModel, ask: Asked, run: Callable[[Prepared], Mapping[str, Found]], method: Mapping[str, Any]
) -> dict[str, Attribution]:
    """One result for each site, with a bar of progress over the contrasts.

    Args:
        run: the method, for one contrast and all sites.
        method: its name and cost, for the result.
    """
    found = [run(one) for one in tqdm(ask.prepared, desc=f"attribution {' '.join(ask.grids)}", unit="contrast", disable=None)]
    return {site: _result(slm, ask, site, [one[site] for one in found], method) for site in ask.grids}


def _result(slm: SpeechTextModel, ask: Asked, site: str, found: Sequence[Found], method: Mapping[str, Any]) -> Attribution:
    grid, attrs = ask.grids[site], {**ask.attrs, **described(slm, ask.grids[site], ask.outcome), **method}

    def spread(variable: str) -> Any:
        cells = []
        for one, own in zip(ask.prepared, found, strict=True):
            effect = own.effect if variable == "outcome" else own.beside[variable]
            values = finite(effect, f"{variable} at {site}").double().cpu().numpy() + (own.base if variable == "outcome" else 0)
            ends = {one.base: own.base, one.source: own.source}
            names, labels = (tuple(getattr(pair, what) or pair.name for pair in one.pairs) for what in ("name", "label"))
            cells.append(Cells(one.name, names, labels, values, ends["clean"], ends["corrupted"], *clusters_of(one.contrast)))
        return dataset_of(cells, grid, attrs)

    dataset = spread("outcome")
    for variable, values in found[0].beside.items():
        if values.ndim == 1:
            numbers = np.stack([finite(own.beside[variable], variable).double().cpu().numpy() for own in found])
            dataset = dataset.assign({variable: (("contrast", "layer"), numbers)})
        else:
            dataset = dataset.assign({variable: spread(variable)["outcome"]})
    return Attribution(dataset)
