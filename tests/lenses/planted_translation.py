"""Models for which the best translators are known.

`of_one_unit`: attention writes nothing, so the last residual is a function of the id alone; with fewer ids than dimensions that is an affine map
of the residual at any layer, whatever the MLPs do.

`hidden_text`: a unit writes a word, and the last block takes the word away and writes the next unit instead, for rows of one unit
repeated. Text ids write their word in directions of their own and are left alone.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor

from slm_interp import hooked
from slm_interp.model import SpeechTextModel
from tests.replicas import WORDS

CODES = 5  # words that units and texts write
WRITTEN, SAID = 3.0, 20.0


def of_one_unit(slm: SpeechTextModel) -> SpeechTextModel:
    """The tiny model without attention."""
    model = copy.deepcopy(slm.model)
    with torch.no_grad():
        for name, parameter in hooked.parameters(model).items():
            if name.endswith(("attn.W_O", "attn.b_O")):
                parameter.zero_()
    return replace(slm, model=model)


def hidden_text(slm: SpeechTextModel) -> SpeechTextModel:
    """The tiny model with these weights: dimensions 0-4 are the units' words, 5-9 the units said, 10-14 the texts' words."""
    model = copy.deepcopy(slm.model)
    width = model.cfg.d_model
    with torch.no_grad():
        parameters = hooked.parameters(model)
        for name, parameter in parameters.items():
            parameter.copy_(torch.ones_like(parameter) if name.endswith(("ln1.w", "ln2.w", "ln_final.w")) else torch.zeros_like(parameter))
        values = next(parameter for name, parameter in parameters.items() if name.startswith("blocks.2.attn") and name.endswith("W_V"))
        outputs = parameters["blocks.2.attn.W_O"]
        for code in range(CODES):
            unit, (word,) = int(slm.vocabulary.unit_to_id(torch.tensor(code))), slm.word_ids(WORDS[code])
            following = int(slm.vocabulary.unit_to_id(torch.tensor((code + 1) % CODES)))
            model.embed.W_E[unit, code] = WRITTEN
            model.embed.W_E[word, 10 + code] = WRITTEN
            model.unembed.W_U[code, word] = model.unembed.W_U[10 + code, word] = 1.0
            model.unembed.W_U[5 + code, following] = 1.0
            values[0, code, code] = 1.0  # what is read is of length sqrt(d_model) after the norm
            outputs[0, code, code] = -WRITTEN / width**0.5
            outputs[0, code, 5 + code] = SAID / width**0.5
    return replace(slm, model=model)


def repeated_units(slm: SpeechTextModel, length: int) -> list[Tensor]:
    """Rows of one unit each."""
    return [slm.vocabulary.unit_to_id(torch.full((length + extra,), code)) for code in range(CODES) for extra in range(4)]


def repeated_words(slm: SpeechTextModel, length: int) -> list[Tensor]:
    """Rows of one word each."""
    return [torch.full((length + extra,), slm.word_ids(WORDS[code])[0]) for code in range(CODES) for extra in range(4)]
