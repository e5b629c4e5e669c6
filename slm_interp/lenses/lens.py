"""What a lens is, and reading an utterance with one.

A lens turns the residual stream of a layer into vectors that are ready for `W_U`; everything after that is the
one streamed readout. Layers are numbered by blocks run: layer 0 is what the embedding wrote
(`blocks.0.hook_resid_pre`), layer `l` is `blocks.{l-1}.hook_resid_post`, layer `n_layers` is what the model reads.

That is the site `resid_post`. At the other sites of a block (`hooked.SITES`) a layer is the block, from 0 to n_layers - 1:

| site | layer `l` is | called |
|---|---|---|
| `resid_post` | the stream after `l` blocks, 0 to n_layers | `0_pre`, `0_post`, ... |
| `resid_pre` | the stream before block `l`: `resid_post` of the same number, without the last | `0_pre`, `1_pre`, ... |
| `resid_mid` | the stream between attention and MLP of block `l`; not where both read the same | `0_mid`, ... |
| `attn_out`, `mlp_out` | what attention, or the MLP, of block `l` adds to the stream, alone | `0_attn_out`, ... |

What is read of `attn_out` and `mlp_out` is the output alone under a norm of its own, as if it were the whole stream. How much it adds to the
model's own logits is another question; see `attribution.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from slm_interp import hooked
from slm_interp.errors import ReadoutError, VocabularyError
from slm_interp.lenses.reading import Reading, Target, dataset_of
from slm_interp.model import SpeechTextModel
from slm_interp.readout import Readout, modality_groups, read_out
from slm_interp.utterance import Utterance, Word
from slm_interp.vocabulary import Kind

Targets: TypeAlias = Sequence[str | int | Word] | str | None

ROWS_AT_ONCE = 1024  # residual vectors that are translated together, so that short utterances fill the products


@runtime_checkable
class Lens(Protocol):
    """A way to look at residuals through the model's own unembedding."""

    @property
    def name(self) -> str:
        """What the lens is called in results."""
        ...

    @property
    def settings(self) -> dict[str, str]:
        """What a reading must say about the lens to be repeated."""
        ...

    def scores(self, resid: Float[Tensor, "*batch d_model"], layer: int) -> Float[Tensor, "*batch d_model"]:
        """Residuals of a layer as vectors ready for `W_U`, in the dtype of the model."""
        ...


@runtime_checkable
class DirectedLens(Lens, Protocol):
    """A lens that can also say along which direction of the residual stream it reads a word."""

    def directions(self, layer: int, words: Sequence[str]) -> Float[Tensor, "word d_model"]:
        """One direction a word, in float32 at least; moving a residual of that layer along it raises what the lens says of the word."""
        ...


@runtime_checkable
class VocabularyLens(DirectedLens, Protocol):
    """A directed lens that reads ids of the vocabulary, so that a word has a direction for each of its spellings."""

    def directions_of_ids(self, layer: int, ids: Sequence[int]) -> Float[Tensor, "id d_model"]:
        """One direction an id; else as `directions`."""
        ...


def hook_name(layer: int, site: str = "resid_post") -> str:
    """Where TransformerLens keeps a layer of a site."""
    return hooked.hook_at(site, layer)


def sites_of(lens: Lens) -> tuple[str, ...]:
    """Where a lens can be used: what its `sites` says, and `resid_post` alone where it says nothing.

    A lens that is trained fits the place it was trained at; the logit lens is fitted to none.
    """
    return tuple(getattr(lens, "sites", ("resid_post",)))


@dataclass(frozen=True)
class Scope:
    """What of the vocabulary a reading covers.

    Args:
        kinds: modalities to read; None is every kind but dead rows.
        ids: of those only these ids; the products with all others are skipped.
        exclude_input: leave the id at a position out of that position's softmax, lists and ranks. With tied
            embeddings the input unit otherwise reads itself out in the first layers.
    """

    kinds: tuple[Kind, ...] | None = None
    ids: tuple[int, ...] | None = None
    exclude_input: bool = False


def read(
    lens: Lens,
    slm: SpeechTextModel,
    utterance: Utterance | Int[Tensor, " pos"],
    layers: Sequence[int] | None = None,
    k: int = 10,
    targets: Targets = "words",
    kinds: Sequence[Kind] | None = None,
    ids: Sequence[int] | None = None,
    exclude_input: bool = False,
    site: str = "resid_post",
    memory: int = 256 * 2**20,
    stream: Float[Tensor, "layer pos d_model"] | None = None,
) -> Reading:
    """Read every layer and position of an utterance.

    Args:
        utterance: or a row of ids, which is read as it is.
        layers: blocks run, 0 (embedding) to n_layers; at a `site` other than `resid_post` blocks, from 0. None is all of them.
        k: ids to list, jointly and for each modality.
        targets: what to rank. `"words"`: the utterance's own words, each by the first piece of `" word"`, wherever
            text is read. Or words, spellings and ids.
        kinds, ids, exclude_input: see `Scope`.
        site: where in each block; the table is at the top of this file.
        memory: bytes the readout may take beyond the residuals and the result.
        stream: `hooked.stream` of this utterance at this site, where it was run already; several lenses then share one run.

    Raises:
        ReadoutError: layers, targets or a site that are not there, a site the lens is not for, residuals that are not finite.
        UtteranceError, VocabularyError: an utterance this model cannot read, words it cannot spell.
    """
    if not isinstance(utterance, Utterance):
        utterance = _bare(slm, utterance)
    slm.check(utterance)
    scope = Scope(None if kinds is None else tuple(kinds), None if ids is None else tuple(ids), exclude_input)
    chosen = _layers(layers, slm, lens, site)
    groups = modality_groups(slm.vocabulary, scope.kinds, scope.ids)
    asked, unspelled = _targets(slm, utterance, targets, "text" in groups)
    resid = _stream(slm, utterance, site, stream)[chosen]
    _refuse_non_finite(resid, chosen, site)
    distinct = sorted({one.identifier for one in asked})
    parts = []
    for part, some in _together(resid, chosen):
        ready = torch.cat([lens.scores(one, layer) for one, layer in zip(part, some, strict=True)])
        inputs = utterance.tokens.repeat(len(some)) if exclude_input else None
        parts.append(
            read_out(ready, hooked.unembedding(slm.model), groups, k, torch.tensor(distinct, dtype=torch.long), inputs, memory=memory)
        )
    columns = torch.tensor([distinct.index(one.identifier) for one in asked], dtype=torch.long)
    settings = {**lens.settings, "site": site, "exclude_input": "yes" if exclude_input else "no", "words_not_spelled": ",".join(unspelled)}
    sizes = {name: int(mask.sum()) for name, mask in groups.items()}
    return Reading(dataset_of(slm, utterance, chosen, Readout.cat(parts), columns, asked, sizes, settings))


def _stream(slm: SpeechTextModel, utterance: Utterance, site: str, there: Tensor | None) -> Float[Tensor, "layer pos d_model"]:
    if there is None:
        return hooked.stream(slm.model, utterance.tokens, site)
    wanted = (len(hooked.layers_at(slm.model, site)), len(utterance), slm.model.cfg.d_model)
    if tuple(there.shape) != wanted:
        raise ReadoutError(f"The stream of this utterance at {site} is {wanted}; got {tuple(there.shape)}. Take it from hooked.stream.")
    return there


def _bare(slm: SpeechTextModel, tokens: Int[Tensor, " pos"]) -> Utterance:
    slm.vocabulary.check_ids(tokens)
    return Utterance(tokens.long(), torch.zeros(len(tokens) + 1), labels=slm.labels(tokens), quantiser=slm.vocabulary.quantiser)


def _layers(layers: Sequence[int] | None, slm: SpeechTextModel, lens: Lens, site: str) -> list[int]:
    there = hooked.layers_at(slm.model, site)
    if site not in sites_of(lens):
        raise ReadoutError(f"The {lens.name} lens is made for {', '.join(sites_of(lens))}; got {site!r}. The logit lens reads every site.")
    if layers is None:
        return list(there)
    wrong = [layer for layer in layers if layer not in there]
    if wrong or not layers:
        last = slm.model.cfg.n_layers
        counted = (
            f"blocks run, 0 (embedding) to {last} (what the model reads)" if site == "resid_post" else f"blocks, 0 to {last - 1}, at {site}"
        )
        raise ReadoutError(f"Layers count {counted}; got {wrong[0] if wrong else 'none'}.")
    return sorted(set(layers))


def _targets(slm: SpeechTextModel, utterance: Utterance, targets: Targets, text_is_read: bool) -> tuple[list[Target], list[str]]:
    """Targets by id, and the utterance's words that have no spelling in this vocabulary."""
    if isinstance(targets, str) and targets != "words":
        raise ReadoutError(f'Targets are "words", None, or a list of words and ids; got {targets!r}. Write targets=[{targets!r}].')
    if targets != "words":
        return [_target(slm, utterance, one) for one in targets or ()], []
    words = utterance.words if text_is_read else ()
    spelled = [word for word in words if _is_spelled(slm, word.text)]
    return [_target(slm, utterance, word) for word in spelled], [word.text for word in words if word not in spelled]


def _is_spelled(slm: SpeechTextModel, word: str) -> bool:
    try:
        return bool(slm.word_ids(word))
    except VocabularyError:
        return False


def _target(slm: SpeechTextModel, utterance: Utterance, one: str | int | Word) -> Target:
    if isinstance(one, int):
        slm.vocabulary.check_ids(torch.tensor([one]))
        return Target(one, slm.label(one))
    identifier = slm.word_ids(one if isinstance(one, str) else one.text)[0]
    if isinstance(one, str):
        return Target(identifier, slm.label(identifier), one)
    span = one.span.checked(len(utterance))
    return Target(identifier, slm.label(identifier), one.text, span.start, span.stop)


def _refuse_non_finite(resid: Float[Tensor, "layer pos d_model"], layers: list[int], site: str) -> None:
    bad = ~resid.isfinite().all(-1)
    if bad.any():
        index, position = bad.nonzero()[0].tolist()
        raise ReadoutError(
            f"The residual at layer {layers[index]} ({hook_name(layers[index], site)}), position {position} is not finite "
            f"({int(bad.sum())} of {bad.numel()} such). Scan the weights: slm-interp verify."
        )


def _together(resid: Float[Tensor, "layer pos d_model"], layers: list[int]) -> list[tuple[Tensor, list[int]]]:
    step = max(1, ROWS_AT_ONCE // resid.shape[1])
    return [(resid[start : start + step], layers[start : start + step]) for start in range(0, len(layers), step)]
