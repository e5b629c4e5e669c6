"""Ablation of spans: their values replaced by zeros, by the mean of their modality, or by those of other utterances.

Zeros leave the distribution that later layers know, and so do more than take information away; a mean keeps what all positions of a modality share; a
resampled position is a real one and takes away only what is this span's own (Chan et al. 2022, causal scrubbing). The run that is changed is the
clean one; `recovered` is 1 where nothing is lost and 0 where as much is lost as the corrupted prompt loses.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from slm_interp import hooked
from slm_interp.errors import PatchingError
from slm_interp.model import SpeechTextModel
from slm_interp.patching import outcomes
from slm_interp.patching.activation import cells_of, described, sweep
from slm_interp.patching.assembly import Cells
from slm_interp.patching.contrasts import Contrasts, Prepared, named, side_of
from slm_interp.patching.engine import Grid, Patch, Ran, patched, ran
from slm_interp.patching.means import Means, corpus_hash, kinds_of
from slm_interp.patching.outcomes import Outcome
from slm_interp.patching.places import check_site, heads_of, hooks_of, layers_of, standing
from slm_interp.patching.policies import Stretch, same
from slm_interp.patching.result import Sweep
from slm_interp.patching.spans import Side, Spans, spans_of
from slm_interp.utterance import Utterance


@dataclass(frozen=True, eq=False)
class Resampled:
    """Positions of other utterances, drawn for each position of a span among those of its modality.

    Args:
        corpus: the utterances that are drawn from; those with the tokens of the prompt itself are passed over.
        seed: of the draws, which also depend on the contrast's name.
        donors: different utterances that a contrast draws from, or all if there are fewer.
    """

    corpus: Sequence[Utterance]
    seed: int = 0
    donors: int = 8

    def __post_init__(self) -> None:
        if not self.corpus or self.donors < 1:
            raise PatchingError(f"Resampling needs utterances and a donor or more; got {len(self.corpus)} and donors={self.donors}.")


What: TypeAlias = Literal["zero"] | Means | Resampled


def ablation(
    slm: SpeechTextModel,
    contrasts: Contrasts,
    site: str = "resid_post",
    spans: Spans = "words",
    what: What = "zero",
    outcome: Outcome | None = None,
    side: Side = "clean",
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    memory: int = hooked.MEMORY,
    store: str | os.PathLike[str] | None = None,
) -> Sweep:
    """Take every span away at every layer of a site, one at a time, and measure the outcome.

    Args:
        what: `"zero"`, the means of `patching.means`, or `Resampled(corpus)`.
        side: whose run is changed.
        contrasts, site, spans, outcome, layers, heads, memory, store: as in `patching.activation`.

    Raises:
        PatchingError: as in `patching.activation`; means of another model, site or modality; patterns, which are zeroed alone.
        UtteranceError, VocabularyError, StoreError: as in `patching.activation`.
    """
    outcome = outcome or outcomes.difference()
    check_site(slm.model, site)
    grid = Grid(site, layers_of(slm.model, site, layers), heads_of(slm.model, site, heads), memory)
    if side not in ("clean", "corrupted"):
        raise PatchingError(f"The run that is changed is 'clean' or 'corrupted'; got {side!r}.")
    if what != "zero" and not isinstance(what, Means | Resampled):
        raise PatchingError(f"A span is ablated by 'zero', by patching.means(...), or by Resampled(corpus); got {what!r:.80}.")
    if isinstance(what, Means):
        what.check_model(slm)
    if site == "pattern" and what != "zero":
        raise PatchingError("An attention pattern is ablated by 'zero' alone: other utterances have other sources. Ablate z.")
    asked = []
    for name, contrast in named(contrasts).items():
        pairs = spans_of(contrast, spans)
        stretches = [Stretch(side_of(contrast, side), pair.of(side)) for pair in pairs]
        asked.append(Prepared(name, contrast, side, pairs, tuple(same(one, one) for one in stretches)))
        for prompt in (contrast.clean, contrast.corrupted):
            slm.check(prompt)
        outcome.places(contrast, slm.vocabulary)
    attrs = {"direction": "ablation", "base": side, "policy": said(what), **described(slm, grid, outcome)}
    return sweep(asked, grid, attrs, store, lambda one, done: _cells(slm, one, grid, outcome, what, done))


def said(what: What) -> str:
    """What a result calls an ablation: with the corpus that it draws from."""
    if isinstance(what, Means):
        return f"mean(corpus={what.corpus})"
    if isinstance(what, Resampled):
        return f"resample(corpus={corpus_hash(what.corpus)}, seed={what.seed}, donors={what.donors})"
    return "zero"


def _cells(slm: SpeechTextModel, one: Prepared, grid: Grid, outcome: Outcome, what: What, done: Callable[[int], object]) -> Cells:
    names = hooks_of(grid.site, grid.layers)
    found: dict[str, Ran] = {
        one.base: ran(slm, side_of(one.contrast, one.base), one.contrast, outcome, names),
        one.source: ran(slm, side_of(one.contrast, one.source), one.contrast, outcome),
    }
    reference = found["clean"].logits if outcome.reference else None
    base = standing(found[one.base].kept.at, grid.site, grid.layers, grid.heads)
    tokens = side_of(one.contrast, one.base).tokens
    values = _values(slm, one, tokens, base, grid, what)
    patches = [Patch(pairing.base, values[:, :, pairing.base.to(values.device)]) for pairing in one.pairings]
    return cells_of(one, patched(slm, found[one.base], patches, base, grid, outcome, reference, done), found, outcome, reference)


def _values(
    slm: SpeechTextModel, one: Prepared, tokens: Int[Tensor, " pos"], base: Float[Tensor, "layer head pos size"], grid: Grid, what: What
) -> Float[Tensor, "layer head pos size"]:
    """What is put in at every position of the prompt."""
    if what == "zero":
        return torch.zeros_like(base)
    kinds = kinds_of(slm.vocabulary, tokens)
    if isinstance(what, Means):
        return what.at(grid.site, grid.layers, grid.heads, kinds).to(base)
    assert isinstance(what, Resampled)
    return _drawn(slm, one, tokens, kinds, base, grid, what)


def _drawn(
    slm: SpeechTextModel,
    one: Prepared,
    tokens: Int[Tensor, " pos"],
    kinds: Sequence[str],
    base: Float[Tensor, "layer head pos size"],
    grid: Grid,
    what: Resampled,
) -> Float[Tensor, "layer head pos size"]:
    """A position of another utterance for every position that a span covers."""
    digest = hashlib.sha256(f"{what.seed} {one.name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") % 2**63)
    others = [own for own in what.corpus if not torch.equal(own.tokens.to(tokens), tokens)]
    donors = [others[int(number)] for number in torch.randperm(len(others), generator=generator)[: what.donors]]
    places: dict[str, list[tuple[int, int]]] = {}
    for number, donor in enumerate(donors):
        for pos, kind in enumerate(kinds_of(slm.vocabulary, slm.check(donor).tokens)):
            places.setdefault(kind, []).append((number, pos))
    values = base.clone()
    drawn: dict[int, list[tuple[int, int]]] = {}
    for pos in sorted({int(pos) for pairing in one.pairings for pos in pairing.base}):
        if kinds[pos] not in places:
            raise PatchingError(
                f"No other utterance of the corpus has a position of kind {kinds[pos]}, as position {pos} of {one.name!r} is."
            )
        among = places[kinds[pos]]
        donor_number, place = among[int(torch.randint(len(among), (1,), generator=generator))]
        drawn.setdefault(donor_number, []).append((pos, place))
    for number, pairs in drawn.items():
        at = hooked.captured(slm.model, donors[number].tokens, hooks_of(grid.site, grid.layers), [place for _, place in pairs])
        values[:, :, [pos for pos, _ in pairs]] = standing(at, grid.site, grid.layers, grid.heads)
    return values
