"""A sweep by plain TransformerLens hooks, one whole forward for every row of every cell: what the engine is compared with."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from slm_interp import hooked
from slm_interp.model import SpeechTextModel
from slm_interp.patching import Outcome, Read, Stretch
from slm_interp.patching.policies import Policy
from slm_interp.patching.spans import SpanPair
from slm_interp.utterance import Contrast, Utterance

SIDES = {"denoising": ("corrupted", "clean"), "noising": ("clean", "corrupted")}


def logits_of(slm: SpeechTextModel, tokens: Tensor, hooks: list[tuple[str, Any]]) -> Tensor:
    mask = torch.ones_like(tokens[None])
    with torch.no_grad():
        return slm.model.run_with_hooks(tokens[None], fwd_hooks=hooks, prepend_bos=False, attention_mask=mask)[0]


def activations(slm: SpeechTextModel, prompt: Utterance, name: str) -> Tensor:
    kept: list[Tensor] = []
    logits_of(slm, prompt.tokens, [(name, lambda value, hook: kept.append(value[0].clone()))])
    return kept[0]


def score(
    slm: SpeechTextModel, prompt: Utterance, contrast: Contrast, outcome: Outcome, hooks: list[tuple[str, Any]], reference: Any = None
) -> float:
    """The outcome of a prompt under hooks, from whole logits of one row for each continuation."""
    ids, logits = outcome.ids(slm.vocabulary), {}
    for name, units in outcome.targets(contrast).items():
        row = torch.cat([prompt.tokens, units[:-1]])
        logits[name] = logits_of(slm, row, hooks)[len(prompt) - 1 :][: len(units)][:, ids]
    return float(outcome.score(Read(logits, outcome.places(contrast, slm.vocabulary), reference)))


def reference(slm: SpeechTextModel, contrast: Contrast, outcome: Outcome) -> dict[str, Tensor] | None:
    if not outcome.reference:
        return None
    ids = outcome.ids(slm.vocabulary)
    return {
        name: logits_of(slm, torch.cat([contrast.clean.tokens, units[:-1]]), [])[len(contrast.clean) - 1 :][: len(units)][:, ids]
        for name, units in outcome.targets(contrast).items()
    }


def cell(
    slm: SpeechTextModel, contrast: Contrast, pair: SpanPair, policy: Policy, outcome: Outcome, place: tuple[str, str, int, int | None]
) -> float:
    """One cell; `place` is direction, site, layer and head."""
    direction, site, layer, head = place
    base, source = ((side, getattr(contrast, side)) for side in SIDES[direction])
    pairing = policy(Stretch(source[1], pair.of(source[0])), Stretch(base[1], pair.of(base[0])))
    name = hooked.hook_at("z" if site == "result" else site, layer)
    there, here = (activations(slm, prompt, name) for prompt in (source[1], base[1]))

    def put(value: Tensor, hook: Any) -> Tensor:
        value = value.clone()
        if site == "pattern":
            value[0, head, pairing.base, : there.shape[-1]] = there[head, pairing.source]
        elif head is None:
            value[0, pairing.base] = pairing.values(there, here)
        else:
            value[0, pairing.base, head] = pairing.values(there[:, head], here[:, head])
        return value

    return score(slm, base[1], contrast, outcome, [(name, put)], reference(slm, contrast, outcome))


def swept(
    slm: SpeechTextModel,
    contrast: Contrast,
    pairs: list[SpanPair],
    policy: Policy,
    outcome: Outcome,
    grid: tuple[str, str, list[int], list[int] | None],
) -> np.ndarray:
    """Every cell, `[layer, span, head]`; `grid` is direction, site, layers and heads."""
    direction, site, layers, heads = grid
    return np.array(
        [
            [[cell(slm, contrast, pair, policy, outcome, (direction, site, layer, head)) for head in heads or [None]] for pair in pairs]
            for layer in layers
        ]
    )
