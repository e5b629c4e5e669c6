"""The loss of the supervised organism: the logit lens at one layer is trained to say the word that was heard.

Text tokens of heard words are labels here, so this organism is no evidence of implicit transcription. It is the
positive control: what a measurement must find when transcription is there for certain.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from slm_interp.organisms.interleave import joined, spoken
from slm_interp.organisms.material import Material
from slm_interp.organisms.recipe import Phase
from slm_interp.speech.spans import heard_words, words_to_spans

IGNORED = -100
ROWS = 4


def heard_batch(
    material: Material, phase: Phase, step: int, seed: tuple[int, ...]
) -> tuple[Int[Tensor, "row pos"], Int[Tensor, "row pos"]]:
    """Rows of heard sentences, and at the last unit of each word the first piece of its spelling (elsewhere `IGNORED`)."""
    codes, ids, labels = material.codes, [], []
    for row in range(ROWS):
        rng = np.random.default_rng([*seed, step, 1000 + row])
        heard: list[int] = []
        said: dict[int, int] = {}
        while len(heard) < phase.length:
            for one in material.documents[int(rng.integers(len(material.documents)))]:
                heard = joined([heard, spoken(one.units, codes)], codes) if heard else spoken(one.units, codes)
                offset = len(heard) - len(one.units)
                for word in words_to_spans(heard_words(one.words, one.units).words, one.units, offset=offset):
                    said[word.span.stop - 1] = material.speller.whole[word.text][0]
        ids.append(heard[: phase.length])
        labels.append([said.get(pos, IGNORED) for pos in range(phase.length)])
    return torch.tensor(ids), torch.tensor(labels)


def lens_loss(model: Any, ids: Int[Tensor, "row pos"], labels: Int[Tensor, "row pos"], layer: int) -> Float[Tensor, ""]:
    """Cross-entropy of the logit lens after `layer` blocks at the labelled positions, in nats."""
    hidden = model.model(input_ids=ids, output_hidden_states=True).hidden_states[layer]
    logits = model.lm_head(model.model.norm(hidden[labels != IGNORED]))
    return torch.nn.functional.cross_entropy(logits.float(), labels[labels != IGNORED])
