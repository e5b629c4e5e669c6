"""Direct logit attribution: what each part of the model adds to the logits of chosen targets, at chosen positions.

1. One forward run, in which the embedding's output, each `attn_out` and `mlp_out` (or each head's `z`), and the last `resid_post` are kept.
2. A target is a weighted sum of logits: one token, an answer minus a distractor, the mean over a modality. Its direction is the same sum of
   columns of `W_U`, pulled back through the final norm (`directions.py`).
3. *frozen*: `direction @ part / scale`, with the scale that the final norm has for the whole residual at that position. That is linear in the
   part: with `norm_bias` and `unembed_bias` the parts sum to the model's own logit. The heads of a block sum to its `attn_out` less `b_O`.
4. *alone*: the part goes through the norm by itself, biases included, as the logit lens reads it. These sum to nothing; they say what
   a part would write if it were all there is. A short vector is blown up by it: compare with *frozen* before believing it.

Elhage et al. 2021, "A mathematical framework for transformer circuits"; Wang et al. 2022 (arXiv 2211.00593) for logit differences;
TransformerLens `ActivationCache.logit_attrs`, which does the same after `fold_ln`. Parts only add *directly*: what a head does
through later layers is in their terms and not in its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
import xarray as xr
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from slm_interp import hooked
from slm_interp.errors import ReadoutError
from slm_interp.model import SpeechTextModel
from slm_interp.utterance import Utterance
from slm_interp.vocabulary import Kind

Norm: TypeAlias = Literal["frozen", "alone"]
COLUMNS_AT_ONCE = 4096  # of W_U in float32, so that a mean over a modality does not copy all of it


@dataclass(frozen=True, eq=False)
class LogitSum:
    """A weighted sum of logits.

    Args:
        name: what a result calls it.
        ids, weights: which logits, and how much of each.
    """

    name: str
    ids: Int[Tensor, " id"]
    weights: Float[Tensor, " id"]

    def __sub__(self, other: LogitSum) -> LogitSum:
        return LogitSum(f"{self.name} - {other.name}", torch.cat([self.ids, other.ids]), torch.cat([self.weights, -other.weights]))


Wanted: TypeAlias = "str | int | LogitSum | tuple[str | int, str | int]"


def mean_logit(slm: SpeechTextModel, kind: Kind) -> LogitSum:
    """The mean logit over a modality: linear, unlike its mass, which a few large logits make. Take the difference of two to compare them.

    Raises:
        ReadoutError: a kind that the vocabulary lacks.
    """
    if kind not in slm.vocabulary.kinds:
        raise ReadoutError(f"This vocabulary has {', '.join(slm.vocabulary.kinds)}; there is no {kind!r} to average.")
    ids = slm.vocabulary.mask(kind).nonzero().flatten()
    return LogitSum(f"mean {kind}", ids, torch.full((len(ids),), 1 / len(ids)))


def by_component(
    slm: SpeechTextModel, utterance: Utterance, targets: Sequence[Wanted], positions: Sequence[int] | None = None, norm: Norm = "frozen"
) -> xr.DataArray:
    """What the embedding, each attention and each MLP add to the logits of targets.

    Args:
        targets: words (first piece), ids, pairs `(answer, distractor)` for their difference, or `LogitSum`s.
        positions: from 0, or from the end if negative; None is all of them.
        norm: `"frozen"` or `"alone"`, as at the top of this file.

    Returns:
        Logits, dims (component, pos, target). Components are called as TransformerLens calls them: `embed` (positions learned by table
        included), `0_attn_out`, `0_mlp_out`, ...; with `"frozen"` also `norm_bias` and `unembed_bias`, where there are such. The coordinate
        `layer` is the block, -1 outside blocks. `attrs["remainder"]` is the greatest difference between the sum of the components and the
        residual they make, as a logit: the rounding of the stream in the model's own dtype. `"frozen"` only.

    Raises:
        ReadoutError: an option, target or position that is not there, a final norm that is not of the usual form.
        UtteranceError, VocabularyError: an utterance this model cannot read, words it cannot spell.
    """
    asked = _asked(slm, utterance, targets, positions, norm)
    places = [("embed", -1, "blocks.0.hook_resid_pre")]
    for block in range(slm.model.cfg.n_layers):
        places += [
            (hooked.label_at(site, block), block, hooked.hook_at(site, block)) for site in ("attn_out", "mlp_out") if _has(slm, site)
        ]
    last = hooked.hook_at("resid_post", slm.model.cfg.n_layers)
    kept = hooked.captured(slm.model, utterance.tokens, [hook for _, _, hook in places] + [last], asked.positions)
    resid = _finite(kept.pop(last))
    names, blocks = [name for name, _, _ in places], [block for _, block, _ in places]
    rows = [asked.logits(part, resid) for part in kept.values()]
    settings = {}
    if norm == "frozen":
        settings["remainder"] = float((asked.logits(resid, resid) - torch.stack(rows).sum(0)).abs().max())
        for name, constant in asked.constants():
            names, blocks, rows = [*names, name], [*blocks, -1], [*rows, constant.expand_as(rows[0])]
    coordinates = {"component": np.array(names, dtype=object), "layer": ("component", np.array(blocks))}
    return _labelled(slm, utterance, asked, torch.stack(rows), ("component",), coordinates, settings)


def by_head(
    slm: SpeechTextModel, utterance: Utterance, targets: Sequence[Wanted], positions: Sequence[int] | None = None, norm: Norm = "frozen"
) -> xr.DataArray:
    """What each attention head adds to the logits of targets: its `result`, `z @ W_O`, worked out here from `hook_z`.

    `b_O` belongs to no head: with `"frozen"` the heads of a block sum to its `attn_out` in `by_component` less what `b_O` adds.

    Args:
        targets, positions, norm: as in `by_component`.

    Returns:
        Logits, dims (layer, head_index, pos, target); `layer` is the block.

    Raises:
        ReadoutError: as in `by_component`; or a norm between the heads and the stream, under which they add nothing directly.
        UtteranceError, VocabularyError: an utterance this model cannot read, words it cannot spell.
    """
    asked, config = _asked(slm, utterance, targets, positions, norm), slm.model.cfg
    if getattr(config, "use_normalization_before_and_after", False):
        raise ReadoutError("This model norms what attention writes, so a head has no term of its own. Use by_component.")
    last = hooked.hook_at("resid_post", config.n_layers)
    hooks = [f"blocks.{block}.attn.hook_z" for block in range(config.n_layers)]
    kept = hooked.captured(slm.model, utterance.tokens, [*hooks, last], asked.positions)
    resid, weights = _finite(kept.pop(last)), hooked.parameters(slm.model)
    rows = torch.stack(
        [
            torch.stack([asked.logits(part, resid) for part in _results(z, weights[f"blocks.{block}.attn.W_O"])])
            for block, z in enumerate(kept.values())
        ]
    )
    coordinates = {"layer": np.arange(config.n_layers), "head_index": np.arange(config.n_heads)}
    return _labelled(slm, utterance, asked, rows, ("layer", "head_index"), coordinates, {})


def _results(z: Float[Tensor, "pos head d_head"], W_O: Float[Tensor, "head d_head d_model"]) -> Iterator[Float[Tensor, "pos d_model"]]:
    """What each head of a block writes, one after the other: all at once would be heads times the residual stream."""
    for head, weight in enumerate(W_O.detach()):
        yield einsum(hooked.widened(z[:, head]), hooked.widened(weight), "pos d_head, d_head d_model -> pos d_model")


@dataclass(frozen=True, eq=False)
class _Asked:
    """Targets as directions, and the norm they went through."""

    names: list[str]
    directions: Float[Tensor, "target d_model"]
    norm_bias: Float[Tensor, " target"]
    unembed_bias: Float[Tensor, " target"]
    positions: list[int]
    formula: hooked.NormFormula
    norm: str

    def logits(self, part: Float[Tensor, "pos d_model"], resid: Float[Tensor, "pos d_model"]) -> Float[Tensor, "pos target"]:
        """What a part of the residual gives, by the scale of the whole or of itself."""
        if self.norm == "frozen":
            return hooked.widened(part) @ self.directions.T / self.formula.scale(resid)[:, None]
        alone = hooked.widened(part) @ self.directions.T / self.formula.scale(part)[:, None]
        return alone + self.norm_bias + self.unembed_bias

    def constants(self) -> list[tuple[str, Float[Tensor, " target"]]]:
        """What no part of the residual gives, where there is any."""
        there = {"norm_bias": self.formula.bias is not None, "unembed_bias": bool(self.unembed_bias.any())}
        return [(name, getattr(self, name)) for name, present in there.items() if present]


def _asked(slm: SpeechTextModel, utterance: Utterance, targets: Sequence[Wanted], positions: Sequence[int] | None, norm: str) -> _Asked:
    if norm not in ("frozen", "alone"):
        raise ReadoutError(f"The norm of a part is 'frozen' at that of the whole residual, or its own, 'alone'; got {norm!r}.")
    if isinstance(targets, str) or not len(targets):
        raise ReadoutError(f"Targets are a list of words, ids, pairs (answer, distractor) and LogitSums, one at least; got {targets!r}.")
    slm.check(utterance)
    sums = [logit_sum(slm, one) for one in targets]
    formula, unembedding = hooked.norm_formula(slm.model), hooked.unembedding(slm.model)
    columns = torch.stack([_column(unembedding.W_U, one) for one in sums])
    biases = hooked.widened(unembedding.b_U) if unembedding.b_U is not None else columns.new_zeros(slm.vocabulary.size)
    return _Asked(
        [one.name for one in sums],
        formula.pull_back(columns),
        formula.constant(columns),
        torch.stack([(biases[one.ids.to(biases.device)] * one.weights.to(biases)).sum() for one in sums]),
        _positions(positions, len(utterance)),
        formula,
        norm,
    )


def logit_sum(slm: SpeechTextModel, wanted: Wanted) -> LogitSum:
    """A target as a weighted sum of logits: a word (its first piece), an id, or a pair (answer, distractor) for their difference.

    Raises:
        ReadoutError: something else, or a pair with itself, whose difference is nothing.
        VocabularyError: words the tokenizer cannot spell, ids outside the vocabulary.
    """
    if isinstance(wanted, LogitSum):
        slm.vocabulary.check_ids(wanted.ids)
        return wanted
    if isinstance(wanted, tuple) and len(wanted) == 2:
        answer, distractor = (logit_sum(slm, one) for one in wanted)
        if torch.equal(answer.ids, distractor.ids):
            raise ReadoutError(f"{wanted[0]!r} and {wanted[1]!r} begin with the same token {int(answer.ids)}: their logits do not differ.")
        return answer - distractor
    if isinstance(wanted, str | int):
        identifier = torch.tensor([wanted if isinstance(wanted, int) else slm.word_ids(wanted)[0]])
        slm.vocabulary.check_ids(identifier)
        return LogitSum(wanted if isinstance(wanted, str) else slm.label(wanted), identifier, torch.ones(1))
    raise ReadoutError(f"A target is a word, an id, a pair (answer, distractor) or a LogitSum; got {wanted!r}.")


def _column(W_U: Float[Tensor, "d_model d_vocab"], one: LogitSum) -> Float[Tensor, " d_model"]:
    parts = zip(one.ids.to(W_U.device).split(COLUMNS_AT_ONCE), one.weights.to(W_U.device).split(COLUMNS_AT_ONCE), strict=True)
    pieces = [hooked.widened(W_U[:, ids]) @ hooked.widened(weights).to(hooked.widened(W_U[:1, :1]).dtype) for ids, weights in parts]
    return torch.stack(pieces).sum(0)


def _positions(positions: Sequence[int] | None, length: int) -> list[int]:
    if positions is None:
        return list(range(length))
    outside = [one for one in positions if not -length <= one < length]
    if outside or not len(positions):
        raise ReadoutError(f"This utterance has positions 0 to {length - 1}; got {outside[0] if outside else 'none'}.")
    return [one % length for one in positions]


def _finite(resid: Float[Tensor, "pos d_model"]) -> Float[Tensor, "pos d_model"]:
    if not resid.isfinite().all():
        raise ReadoutError("The last residuals of this utterance are not finite. Scan the weights: slm-interp verify.")
    return resid


def _has(slm: SpeechTextModel, site: str) -> bool:
    return site != "mlp_out" or not getattr(slm.model.cfg, "attn_only", False)


def _labelled(
    slm: SpeechTextModel,
    utterance: Utterance,
    asked: _Asked,
    rows: Tensor,
    dims: tuple[str, ...],
    coordinates: dict[str, Any],
    settings: dict[str, Any],
) -> xr.DataArray:
    labels = utterance.labels or slm.labels(utterance.tokens)
    coordinates |= {
        "pos": asked.positions,
        "label": ("pos", np.array([labels[pos] for pos in asked.positions], dtype=object)),
        "target": np.array(asked.names, dtype=object),
    }
    attrs = {"norm": asked.norm, "utterance": utterance.name, "provenance_json": json.dumps(dict(slm.provenance), sort_keys=True)}
    return xr.DataArray(rows.cpu().numpy(), coordinates, (*dims, "pos", "target"), "logit", attrs | settings)
