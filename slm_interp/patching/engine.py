"""Every cell of a sweep over one contrast, exactly: values put in at a layer, a span and a head, and the outcome read.

1. The base prompt with its continuations is run once and kept; so is the source prompt, with what stands at the site.
2. A value that stands there already changes nothing: positions before the first difference of the prompts, and units that both have at the
   embedding. Such positions are not written, and a cell of them alone is the base run.
3. Cells are taken layer by layer. A run begins at the patched block and at the first patched position of its batch (`hooked.resume`): below and
   before it the run is the base run. Residuals are replaced as the run begins, everything else by a hook of the patched block.
4. Cells of a layer run in batches within a budget of memory, grouped by where they begin (`batching.py`).
5. Each runs its prompt once, and the continuations of the outcome go on from it.
6. Final norm and unembedding are computed at the positions that predict the continuations, for the ids that are read.

*What it costs.* Plain hooks run `L` blocks over all `T` positions of every row and unembed `V` ids at each of them. Here a cell at block `l` whose
span begins at `s` runs `L - l` blocks over `P - s` positions of the prompt, and over the units that each continuation appends; see `cost.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from slm_interp import hooked
from slm_interp.errors import PatchingError
from slm_interp.model import SpeechTextModel
from slm_interp.patching.batching import batches
from slm_interp.patching.measuring import Laid, finite, lay, logits_at
from slm_interp.patching.outcomes import Outcome, Read, narrowed
from slm_interp.patching.places import RESIDUAL, hooked_site
from slm_interp.utterance import Contrast, Utterance


@dataclass(frozen=True, eq=False)
class Patch:
    """What is put in at one span, at every layer and head of a sweep.

    Args:
        pos: positions of the base prompt, ascending.
        values: what is put there.
    """

    pos: Int[Tensor, " at"]
    values: Float[Tensor, "layer head at size"]


@dataclass(frozen=True, eq=False)
class Ran:
    """A prompt that was run, with its continuations.

    Args:
        laid: its rows.
        kept: the run.
        logits: of the run as it is, by continuation.
    """

    laid: Laid
    kept: hooked.Kept
    logits: Mapping[str, Float[Tensor, "unit id"]]


def ran(slm: SpeechTextModel, prompt: Utterance, contrast: Contrast, outcome: Outcome, names: Sequence[str] = ()) -> Ran:
    """A prompt, run once and kept.

    Args:
        names: of hooks whose values are wanted.

    Raises:
        PatchingError: as `measuring.lay`; values that are not finite.
    """
    laid = lay(slm, prompt, contrast, outcome)
    lengths = [laid.prompt] * len(laid.tokens)
    for name, row in laid.row.items():
        lengths[row] = max(lengths[row], laid.prompt + len(laid.targets[name]) - 1)
    kept = hooked.keep(slm.model, laid.tokens, lengths, laid.prompt, names)
    if kept.broken:
        raise PatchingError(
            f"Values at {kept.broken[0]} ({len(kept.broken)} such hooks) are not finite. Scan the weights: slm-interp verify."
        )
    last = [kept.stream[-1, row, laid.prompt - 1 : length] for row, length in enumerate(lengths)]
    with torch.no_grad():
        return Ran(laid, kept, _logits(slm, laid, last))


def score(outcome: Outcome, found: Ran, reference: Mapping[str, Tensor] | None) -> float:
    """The outcome of a run as it is."""
    return float(finite(outcome.score(narrowed(Read(found.logits, found.laid.targets, reference), outcome)), outcome.name))


@dataclass(frozen=True, eq=False)
class Grid:
    """What a sweep goes over.

    Args:
        site: as in `places.SITES`.
        layers: of that site.
        heads: of that site; None where it has none.
        memory: bytes that a batch of cells may take beside the model.
    """

    site: str
    layers: Sequence[int]
    heads: Sequence[int] | None
    memory: int = hooked.MEMORY

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of layers and of heads, 1 where there are none."""
        return len(self.layers), 1 if self.heads is None else len(self.heads)


def patched(
    slm: SpeechTextModel,
    base: Ran,
    patches: Sequence[Patch],
    standing: Float[Tensor, "layer head pos size"],
    grid: Grid,
    outcome: Outcome,
    reference: Mapping[str, Tensor] | None = None,
    done: Callable[[int], object] = lambda cells: None,
) -> Float[Tensor, "layer span head"]:
    """The outcome of every cell: the base run with one patch at one layer and head.

    Args:
        patches: one for each span.
        standing: what stood at the site in the base run, at the layers and heads of the grid.
        reference: the clean run's logits, where the outcome needs them.
        done: told how many cells were finished, for a bar of progress.

    Raises:
        PatchingError: an outcome that is not a finite number.
    """
    return patched_for(slm, base, patches, standing, grid, [outcome], reference, done)[..., 0].float()


def patched_for(
    slm: SpeechTextModel,
    base: Ran,
    patches: Sequence[Patch],
    standing: Float[Tensor, "layer head pos size"],
    grid: Grid,
    outcomes: Sequence[Outcome],
    reference: Mapping[str, Tensor] | None = None,
    done: Callable[[int], object] = lambda cells: None,
) -> Float[Tensor, "layer span head outcome"]:
    """As `patched`, for several outcomes that are read from the same runs; `base` was run with an outcome that reads all of them read (`covering`)."""
    n_layers, n_heads = grid.shape
    prompt, n_cells = base.laid.prompt, len(patches) * n_heads
    found = torch.tensor([score(one, base, reference) for one in outcomes], dtype=torch.float64).repeat(n_layers, n_cells, 1)
    for number, layer in enumerate(grid.layers):
        writes = _writes(patches, standing, number, grid)
        first = torch.full((n_cells,), prompt).scatter_reduce(0, writes.run, writes.pos, "amin")
        changed = (first < prompt).nonzero().flatten()
        most = [grid.memory // bytes_of(slm.model.cfg, base, start, layer) for start in range(prompt)]
        for batch in batches(first[changed].tolist(), prompt, most.__getitem__):
            cells = changed[batch]
            own = writes.of(cells)
            place = (grid.site, layer, int(first[cells].min()), len(cells))
            found[number, cells] = _run(slm, base, own, place, outcomes, reference).cpu().double()
            done(len(cells))
        done(n_cells - len(changed))
    named = ", ".join(one.name for one in outcomes)
    return rearrange(finite(found, named), "layer (span head) outcome -> layer span head outcome", head=n_heads)


def _writes(patches: Sequence[Patch], standing: Float[Tensor, "layer head pos size"], layer: int, grid: Grid) -> hooked.Writes:
    """What all cells of a layer put in, cells numbered span by span; positions where the same stands already are left out."""
    heads = torch.arange(grid.shape[1])
    parts = []
    for span, patch in enumerate(patches):
        values = patch.values[layer]
        unlike = (values != standing[layer][:, patch.pos.to(standing.device)].to(values)).any(-1).cpu()
        head, at = unlike.nonzero(as_tuple=True)
        own = None if grid.heads is None else torch.tensor(list(grid.heads))[head]
        parts.append(
            hooked.Writes(
                span * len(heads) + head, patch.pos[at], values[head.to(values.device), at.to(values.device)], own, grid.site == "pattern"
            )
        )
    return hooked.joined(parts)


def _run(
    slm: SpeechTextModel,
    base: Ran,
    writes: hooked.Writes,
    place: tuple[str, int, int, int],
    outcomes: Sequence[Outcome],
    reference: Mapping[str, Tensor] | None,
) -> Float[Tensor, "cell outcome"]:
    """One batch of cells; `place` is site, layer, first position and number of cells."""
    site, layer, start, cells = place
    resid = base.kept.stream[layer, 0, start : base.laid.prompt].expand(cells, -1, -1)
    with torch.no_grad():
        if site in RESIDUAL:
            last = hooked.resume(slm.model, base.kept, layer, start, writes.into(resid, start), {})
        else:
            at = hooked.written_at(hooked_site(site), layer, writes, base.kept.stream[layer, 0])
            last = hooked.resume(slm.model, base.kept, layer, start, resid, at)
        read = Read(_logits(slm, base.laid, last), base.laid.targets, reference)
        return torch.stack([one.score(narrowed(read, one)) for one in outcomes], -1)


def _logits(slm: SpeechTextModel, laid: Laid, last: Sequence[Float[Tensor, "*run _ d_model"]]) -> dict[str, Float[Tensor, "*run _ id"]]:
    """Logits of every continuation, from what stands after the last block from the end of the prompt on, by row."""
    return {name: logits_at(slm, last[row][..., : len(laid.targets[name]), :], laid.ids) for name, row in laid.row.items()}


def bytes_of(config: Any, base: Ran, start: int, layer: int) -> int:
    """About what one cell takes while it runs from a position and a block on."""
    d_model, d_mlp, n_heads, d_head = config.d_model, config.d_mlp or 0, config.n_heads, config.d_head
    longest = max(base.kept.lengths)
    here, appended = base.laid.prompt - start, longest - base.laid.prompt
    residuals = max(here, appended) * (6 * d_model + 3 * d_mlp + 3 * n_heads * d_head)
    attention = longest * n_heads * (3 * max(here, appended) + 3 * d_head)
    past = 2 * longest * (config.n_key_value_heads or n_heads) * d_head * (config.n_layers - layer if appended else 1)
    read_out = 3 * (1 + appended) * len(base.laid.ids)
    return (residuals + attention + past + read_out) * base.kept.stream.element_size()
