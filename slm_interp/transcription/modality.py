"""Modality mass: on which modality the probability lies in each layer while a word is heard, beside what would lie there anyway.

A uniform distribution over 128,256 text and 502 speech ids puts 99.6% on text. So beside the mass stand: the entropy;
log-odds per token, which are 0 for a uniform distribution whatever the sizes; the mass that random vectors of the same
norms give through the same lens; and the mass when text and speech own equally many ids, drawn at random.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor

from slm_interp import hooked
from slm_interp.errors import ReadoutError
from slm_interp.lenses import Lens, LogitLens
from slm_interp.lenses.many import residuals_of_each
from slm_interp.model import SpeechTextModel
from slm_interp.readout import Readout, modality_groups, read_out
from slm_interp.statistics import bootstrap
from slm_interp.transcription.asking.questions import provenance, strings
from slm_interp.transcription.asking.random_residuals import like
from slm_interp.transcription.asking.windows import jittered
from slm_interp.utterance import Utterance

POOLINGS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "max": lambda values: values.max(1),
    "mean": lambda values: values.mean(1),
    "last": lambda values: values[:, -1],
}
MATCHED = ("text", "speech")


def modality_mass(
    slm: SpeechTextModel,
    utterances: Sequence[Utterance],
    lens: Lens | None = None,
    exclude_input: bool = False,
    draws: int = 5,
    seed: int = 0,
    jitter: int = 0,
) -> xr.Dataset:
    """Mass by layer and modality, pooled over each word's span and then averaged over words (the paper: the maximum over the span).

    Variables, with dims (layer, modality, pooling): `mass` with `low` and `high` (bootstrap over utterances and word types);
    `log_odds` of a token of the modality against one of any other, in nats, with `log_odds_low` and `log_odds_high`;
    `random_mass`, `random_log_odds`, the same of random vectors. With dims (layer, matched,
    pooling): `size_matched_mass`, of `draws` random choices of equally many text and speech ids. With dims (layer, pooling):
    `entropy` in nats, `random_entropy`. `uniform_mass` (modality) is each modality's share of the ids.

    Args:
        utterances: speech or text, with words; a span's positions are what is pooled.
        exclude_input: leave the id at a position out of its softmax; with tied embeddings it otherwise reads itself out.
        draws: of the size-matched choice.
        jitter: move word boundaries by up to so many positions at random.

    Raises:
        ReadoutError: no words, a model without text or speech, fewer than one draw.
        StatisticsError: words of a single utterance or a single type.
    """
    lens = lens or LogitLens(slm)
    groups = modality_groups(slm.vocabulary)
    if not set(MATCHED) <= set(groups) or draws < 1:
        raise ReadoutError(
            f"Modality mass compares text with speech over one draw or more; this model has {', '.join(groups)}, draws={draws}."
        )
    matched = matched_groups(groups, draws, seed)
    rng = np.random.default_rng([seed, 0])
    spans = [jittered(one, jitter, rng) for one in utterances]
    found: dict[int, list[dict[str, np.ndarray]]] = {}
    for number, resid in residuals_of_each(slm, utterances):
        utterance = utterances[number]
        tokens = utterance.tokens if exclude_input else None
        noise = like(resid, torch.Generator().manual_seed(int(np.random.SeedSequence([seed, number]).generate_state(1)[0])))
        arrays = _arrays(slm, lens, resid, tokens, groups, matched) | _random(slm, lens, noise, tokens, groups)
        found[number] = [{name: pooled(values[:, span.start : span.stop]) for name, values in arrays.items()} for span in spans[number]]
    words = [word for number in range(len(utterances)) for word in found[number]]
    if not words:
        raise ReadoutError("These utterances have no words to pool over. Align them first.")
    return _dataset(
        slm,
        lens,
        utterances,
        groups,
        words,
        {"exclude_input": "yes" if exclude_input else "no", "draws": draws, "seed": seed, "jitter": jitter},
    )


def pooled(values: Float[np.ndarray, "layer pos *what"]) -> Float[np.ndarray, "layer *what pooling"]:
    """A stretch of positions by each of the `POOLINGS`."""
    return np.stack([pool(values) for pool in POOLINGS.values()], -1)


def matched_groups(groups: Mapping[str, Bool[Tensor, " d_vocab"]], draws: int, seed: int) -> list[dict[str, Bool[Tensor, " d_vocab"]]]:
    """Text and speech with as many ids as the smaller of them has, drawn at random."""
    rng = np.random.default_rng([seed, 1])
    ids = {name: groups[name].nonzero().flatten().numpy() for name in MATCHED}
    size = min(len(some) for some in ids.values())
    return [{name: _mask(rng.choice(some, size, replace=False), len(groups[name])) for name, some in ids.items()} for _ in range(draws)]


def _mask(ids: np.ndarray, size: int) -> Bool[Tensor, " d_vocab"]:
    return torch.zeros(size, dtype=torch.bool).index_fill(0, torch.from_numpy(ids), True)


def _read(
    slm: SpeechTextModel, lens: Lens, resid: Float[Tensor, "layer pos d_model"], tokens: Tensor | None, groups: Mapping[str, Tensor]
) -> Readout:
    ready = torch.cat([lens.scores(one, layer) for layer, one in enumerate(resid)])
    inputs = None if tokens is None else repeat(tokens, "pos -> (layer pos)", layer=len(resid))
    return read_out(ready, hooked.unembedding(slm.model), groups, 1, exclude=inputs)


def _arrays(
    slm: SpeechTextModel,
    lens: Lens,
    resid: Float[Tensor, "layer pos d_model"],
    tokens: Tensor | None,
    groups: Mapping[str, Tensor],
    matched: Sequence[Mapping[str, Tensor]],
) -> dict[str, np.ndarray]:
    layers = len(resid)
    found = _read(slm, lens, resid, tokens, groups)
    equal = torch.stack([_read(slm, lens, resid, tokens, one).log_mass.exp() for one in matched]).mean(0)
    rows = {"mass": found.log_mass.exp(), "log_odds": log_odds(found, groups), "size_matched_mass": equal, "entropy": found.entropy}
    return {name: _by_layer(values, layers) for name, values in rows.items()}


def _random(
    slm: SpeechTextModel, lens: Lens, resid: Float[Tensor, "layer pos d_model"], tokens: Tensor | None, groups: Mapping[str, Tensor]
) -> dict[str, np.ndarray]:
    found = _read(slm, lens, resid, tokens, groups)
    rows = {"random_mass": found.log_mass.exp(), "random_log_odds": log_odds(found, groups), "random_entropy": found.entropy}
    return {name: _by_layer(values, len(resid)) for name, values in rows.items()}


def _by_layer(values: Tensor, layers: int) -> np.ndarray:
    return rearrange(values, "(layer pos) ... -> layer pos ...", layer=layers).double().cpu().numpy()


def log_odds(found: Readout, groups: Mapping[str, Tensor]) -> Float[Tensor, "row modality"]:
    """Log of the mean probability of a token of the modality over that of a token of any other."""
    sizes = torch.tensor([int(mask.sum()) for mask in groups.values()], device=found.log_sum_exp.device)
    columns = []
    for index, own in enumerate(found.log_sum_exp.T):
        others = [other for other in range(len(sizes)) if other != index]
        rest = found.log_sum_exp[:, others].logsumexp(-1)
        columns.append((own - sizes[index].log()) - (rest - sizes[others].sum().log()))
    return torch.stack(columns, -1)


def _dataset(
    slm: SpeechTextModel,
    lens: Lens,
    utterances: Sequence[Utterance],
    groups: Mapping[str, Tensor],
    words: Sequence[Mapping[str, np.ndarray]],
    settings: Mapping[str, Any],
) -> xr.Dataset:
    stacked = {name: np.stack([word[name] for word in words]) for name in words[0]}
    labels = [(number, word.text) for number, one in enumerate(utterances) for word in one.words]
    clusters = dict(zip(("utterance", "word_type"), zip(*labels, strict=True), strict=True))
    interval, odds = (bootstrap(stacked[name], clusters, seed=int(settings["seed"])) for name in ("mass", "log_odds"))
    dims = {
        name: ("layer", "pooling") if values.ndim == 3 else ("layer", "matched" if name.startswith("size") else "modality", "pooling")
        for name, values in stacked.items()
    }
    variables = {name: (dims[name], values.mean(0)) for name, values in stacked.items()}
    variables |= {"low": (dims["mass"], interval.low), "high": (dims["mass"], interval.high)}
    variables |= {"log_odds_low": (dims["mass"], odds.low), "log_odds_high": (dims["mass"], odds.high)}
    sizes = np.array([int(mask.sum()) for mask in groups.values()], dtype=np.float64)
    coordinates = {"modality": strings(list(groups)), "matched": strings(MATCHED), "pooling": strings(list(POOLINGS))}
    coordinates |= {"layer": np.arange(stacked["mass"].shape[1])}
    attrs = {**provenance(slm, lens, utterances), **settings, "words": len(words)}
    return xr.Dataset({**variables, "uniform_mass": ("modality", sizes / sizes.sum())}, coordinates, attrs)
