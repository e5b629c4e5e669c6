"""Activation patching over spans: what each stretch of speech carries at each layer, exactly.

1. A contrast has a clean and a corrupted prompt. The run that is changed is the *base*, the one that values come from the *source*: denoising puts clean
   values into the corrupted run (are they sufficient?), noising corrupted ones into the clean run (are they necessary?).
2. Spans of both prompts meet under one name (`spans.py`); what their positions exchange says a policy (`policies.py`).
3. Every cell of layer x span (x head) is one run of the base with one span's values replaced, computed by `engine.py`.
4. `recovered = (patched - corrupted) / (clean - corrupted)` in both directions.

Meng et al. 2022 (arXiv 2202.05262), Vig et al. 2020 (arXiv 2004.12265); the words denoising and noising as Heimersheim & Nanda 2024 (arXiv 2404.15255).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from tqdm.auto import tqdm

from slm_interp import hooked
from slm_interp.errors import PatchingError
from slm_interp.hooked.installed import VERSION
from slm_interp.model import SpeechTextModel
from slm_interp.patching import outcomes
from slm_interp.patching.assembly import Cells, dataset_of
from slm_interp.patching.contrasts import Contrasts, Direction, Prepared, alike_until, clusters_of, prepared, side_of
from slm_interp.patching.engine import Grid, Patch, Ran, patched, ran, score
from slm_interp.patching.outcomes import Outcome
from slm_interp.patching.places import RESULT, check_site, heads_of, hooks_of, layers_of, standing
from slm_interp.patching.policies import Policy, name_of, policy_of
from slm_interp.patching.result import Sweep
from slm_interp.patching.spans import Spans
from slm_interp.store import Store, open_store


def activation(
    slm: SpeechTextModel,
    contrasts: Contrasts,
    site: str = "resid_post",
    spans: Spans = "words",
    policy: str | Policy | None = None,
    outcome: Outcome | None = None,
    direction: Direction = "denoising",
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    memory: int = hooked.MEMORY,
    store: str | os.PathLike[str] | None = None,
) -> Sweep:
    """Patch every span at every layer of a site, one at a time, and measure the outcome.

    Args:
        contrasts: one, several, or several by name.
        site: `resid_pre resid_mid resid_post attn_out mlp_out`, or by head `q k v z result pattern`.
        spans: `"words"`, `"positions"`, `"everything"`, `"between"`, pairs, or a function of a contrast; see `spans.py`.
        policy: how spans of unequal length meet; None takes spans of one length alone.
        outcome: what is measured; None is `outcomes.difference()`.
        direction: clean values into the corrupted run (`"denoising"`), or the reverse.
        layers: of the site, as `hooked.layers_at` counts; None is all.
        heads: of the site; None is all. `k` and `v` have key-value heads.
        memory: bytes that a batch of cells may take beside the model and the two runs.
        store: a folder that parts are written to as they are done, and gone on with.

    Raises:
        PatchingError: an unknown site or direction, layers or heads that are not there, spans of unequal length without a policy, continuations
            that the outcome cannot read, values that are not finite.
        UtteranceError, VocabularyError: a span past the end, prompts this model cannot read.
        StoreError: a folder made with other settings.
    """
    outcome, policy = outcome or outcomes.difference(), policy_of(policy)
    check_site(slm.model, site)
    grid = Grid(site, layers_of(slm.model, site, layers), heads_of(slm.model, site, heads), memory)
    asked = prepared(contrasts, spans, policy, direction)
    for one in asked:
        check(slm, one, grid, outcome)
    attrs = {"direction": direction, "base": asked[0].base, "policy": name_of(policy), **described(slm, grid, outcome)}
    return sweep(asked, grid, attrs, store, lambda one, done: _cells(slm, one, grid, outcome, done))


def sweep(
    asked: Sequence[Prepared],
    grid: Grid,
    attrs: dict[str, Any],
    store: str | os.PathLike[str] | None,
    run: Callable[[Prepared, Callable[[int], object]], Cells],
) -> Sweep:
    """Run every contrast that a store does not have yet, with a bar of progress over all cells."""
    parts = None if store is None else open_store(store, _settings(attrs), attrs["versions_json"])
    n_layers, n_heads = grid.shape
    total = sum(len(one.pairs) for one in asked) * n_layers * n_heads
    with tqdm(total=total, desc=f"patching {grid.site}", unit="cell", disable=None) as bar:
        cells = [_once(parts, one, lambda one=one: run(one, bar.update)) for one in asked]  # type: ignore[misc]
    return Sweep(dataset_of(cells, grid, attrs))


def _once(parts: Store | None, one: Prepared, run: Callable[[], Cells]) -> Cells:
    if parts is not None and one.key in parts:
        return Cells.of(one.name, parts.read(one.key))
    found = run()
    if parts is not None:
        parts.write(one.key, found.frame())
    return found


def check(slm: SpeechTextModel, one: Prepared, grid: Grid, outcome: Outcome) -> None:
    """Refuse what would be refused later, before anything is run."""
    for prompt in (one.contrast.clean, one.contrast.corrupted):
        slm.check(prompt)
    outcome.places(one.contrast, slm.vocabulary)
    if grid.site == RESULT and any(pairing.match_norms for pairing in one.pairings):
        raise PatchingError("Norms of `result` are not matched: its patch is put in at z, whose norms are others. Match norms at z.")
    if grid.site != "pattern":
        return
    lengths = [len(prompt) for prompt in (one.contrast.clean, one.contrast.corrupted)]
    if lengths[0] != lengths[1] or any(not pairing.one_to_one or pairing.base.ne(pairing.source).any() for pairing in one.pairings):
        raise PatchingError(
            f"An attention pattern is from position to position, so it is patched between prompts of one length, each position with its own; "
            f"got prompts of {lengths[0]} and {lengths[1]} positions ({one.name}). Patch z, which has no sources."
        )


def _cells(slm: SpeechTextModel, one: Prepared, grid: Grid, outcome: Outcome, done: Callable[[int], object]) -> Cells:
    names = hooks_of(grid.site, grid.layers)
    found: dict[str, Ran] = {
        side: ran(slm, side_of(one.contrast, side), one.contrast, outcome, names) for side in dict.fromkeys((one.base, one.source))
    }
    reference = found["clean"].logits if outcome.reference else None
    source, base = (standing(found[side].kept.at, grid.site, grid.layers, grid.heads) for side in (one.source, one.base))
    alike = alike_until(one.contrast)
    if grid.site != "pattern":
        source[:, :, :alike] = base[:, :, :alike]  # one computation, rounded twice where the prompts differ in length
    patches = [Patch(pairing.base, pairing.values(source, base)) for pairing in one.pairings]
    values = patched(slm, found[one.base], patches, base, grid, outcome, reference, done)
    return cells_of(one, values, found, outcome, reference)


def cells_of(one: Prepared, values: Any, found: dict[str, Ran], outcome: Outcome, reference: Any) -> Cells:
    """The cells of a contrast with its two baselines."""
    clean, corrupted = (score(outcome, found[side], reference) for side in ("clean", "corrupted"))
    names, labels = (tuple(getattr(pair, what) or pair.name for pair in one.pairs) for what in ("name", "label"))
    return Cells(one.name, names, labels, values.double().numpy(), clean, corrupted, *clusters_of(one.contrast))


def described(slm: SpeechTextModel, grid: Grid, outcome: Outcome) -> dict[str, Any]:
    """What every result says of where it comes from."""
    return {
        "site": grid.site,
        "layers": list(grid.layers),
        "heads": [] if grid.heads is None else list(grid.heads),
        "outcome": outcome.name,
        "unit": outcome.unit,
        "provenance_json": dict(slm.provenance),
        "versions_json": {"transformer-lens": VERSION, "torch": torch.__version__},
    }


def _settings(attrs: dict[str, Any]) -> dict[str, Any]:
    """What the numbers depend on; of the model its fingerprint, as paths and versions may differ."""
    own = {key: value for key, value in attrs.items() if key not in ("provenance_json", "versions_json")}
    return {**own, "fingerprint": attrs["provenance_json"].get("fingerprint", "")}
