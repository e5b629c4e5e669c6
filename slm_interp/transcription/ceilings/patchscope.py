"""Patchscopes (Ghandeharioun et al. 2024, arXiv 2401.06102): the model itself says, in text, what a residual of speech holds.

1. The residual at one position of a word, after each number of blocks, is taken from the run on speech.
2. It is put into a text prompt of the model in the place of a placeholder, after as many blocks, or after a fixed number.
   The prompt shows a few words that repeat themselves, so that the model says what stands in the placeholder.
3. The rank of the word asked about at the output at the prompt's end: its first piece, or every piece, each after those before it.
4. The same of null words, and of random residuals of the same norms in the same place; one pooling call.

A prompt that ends with the placeholder has, at the last layer, nothing left to compute: there it is the logit lens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm import tqdm

from slm_interp import hooked
from slm_interp.errors import ReadoutError
from slm_interp.lenses import LogitLens
from slm_interp.model import SpeechTextModel
from slm_interp.transcription.asking.cells import COSTS, Cells, costs_of, pool
from slm_interp.transcription.asking.questions import Question, ask
from slm_interp.transcription.asking.random_residuals import Noise, noises
from slm_interp.transcription.asking.targets import Place
from slm_interp.transcription.asking.windows import Window, named
from slm_interp.transcription.ceilings.written import check_spelling, followed_by, ids_of, teacher_forced
from slm_interp.transcription.observations import Observations
from slm_interp.transcription.observe import observations
from slm_interp.utterance import Utterance


@dataclass(frozen=True)
class TargetPrompt:
    """A text prompt with a placeholder, as the model reads it.

    Args:
        text: as it stands in the model's text; where words carry a leading space in training, so must the first one here.
        placeholder: number of the word (between blanks) whose last position takes the residual; the last one by default.
        form: prompt form; None is that of the training sequences.
    """

    text: str = " cat -> cat; hello -> hello; ?"
    placeholder: int = -1
    form: str | None = None


def patchscope(
    slm: SpeechTextModel,
    utterances: Sequence[Utterance],
    prompt: TargetPrompt | None = None,
    question: Question | None = None,
    window: Window | str = "last",
    at_layer: int | None = None,
) -> Observations:
    """Ranks of words at the output of the target prompt, by the layer the residual was taken from. For `recall`.

    Args:
        prompt: the target; None is the identity prompt of the paper, in words of English.
        question: which word is asked about, with which nulls; None is the current word by its first piece.
        window: of one position: which of a word's residuals is read.
        at_layer: blocks run before the residual is put into the prompt; None is as many as where it was taken.

    Raises:
        ReadoutError: a window of several positions, a layer or placeholder that is not there; and as in `written` and `observe`.
        VocabularyError: a model without text, or a prompt its tokenizer cannot spell.
    """
    prompt, question, window, lens = prompt or TargetPrompt(), question or Question(), named(window), LogitLens(slm)
    check_spelling(question)
    target, place_of = _target(slm, prompt)
    asked = ask(slm, utterances, question)
    asked = asked.only(_one_position(asked.places, utterances, window), "empty window")
    if not asked.places:
        raise ReadoutError(f"The window {window.name} has no position at any word of this corpus.")
    layers = slm.model.cfg.n_layers + 1
    if at_layer is not None and not 0 <= at_layer < layers:
        raise ReadoutError(f"A residual is put into the prompt after 0 to {layers - 1} blocks; got at_layer={at_layer}.")
    into = torch.arange(layers) if at_layer is None else torch.full((layers,), at_layer)
    found = np.empty((len(COSTS), *asked.candidates.shape, layers), dtype=np.float32)
    places = list(enumerate(asked.places))
    for number, some in groupby(tqdm(places, desc="words", mininterval=5, disable=None), lambda one: one[1].utterance):
        stream = _stream(slm, utterances[number], noises(question.nulls, question.draws, question.seed, number))
        for row, place in some:
            (position,) = window.positions(place.span, len(utterances[number]))
            read = partial(_read, slm, target, place_of, into, ids_of(asked, row), stream[:, :, position])
            cells, candidates = teacher_forced(asked.spelled(row), question, read)
            found[:, row] = pool(cells, range(len(cells.positions)), candidates, question.spelling)
    said = {"window": window.name, "target_prompt": prompt.text, "placeholder": prompt.placeholder, "lens": "patchscope"}
    return observations(
        slm, utterances, lens, asked, found, [1] * len(asked.places), {**said, "at_layer": "as taken" if at_layer is None else at_layer}
    )


def _target(slm: SpeechTextModel, prompt: TargetPrompt) -> tuple[Utterance, int]:
    target = slm.check(slm.text_prompt(prompt.text, form=prompt.form, name="target prompt"))
    if not -len(target.words) <= prompt.placeholder < len(target.words):
        raise ReadoutError(f"The target prompt {prompt.text!r} has {len(target.words)} words; got placeholder={prompt.placeholder}.")
    if slm.prompts.form(prompt.form).closing or slm.prompts.form(prompt.form).closed:
        raise ReadoutError(
            f"The form {target.form!r} closes its prompts; what follows a target prompt is read at its end. Choose an open one."
        )
    return target, target.words[prompt.placeholder].span.stop - 1


def _one_position(places: Sequence[Place], utterances: Sequence[Utterance], window: Window) -> Bool[np.ndarray, " place"]:
    counts = np.array([len(window.positions(one.span, len(utterances[one.utterance]))) for one in places])
    if (counts > 1).any():
        raise ReadoutError(f"A patch is one residual: choose a window of one position; {window.name} has up to {counts.max()}.")
    return counts == 1


def _stream(slm: SpeechTextModel, utterance: Utterance, noise: Sequence[Noise]) -> Float[Tensor, "source layer pos d_model"]:
    """Residuals of an utterance: the model's own, then those of each random draw."""
    resid = hooked.residuals(slm.model, slm.check(utterance).tokens)
    return torch.stack([resid, *(draw(resid) for draw in noise)])


def _read(
    slm: SpeechTextModel,
    target: Utterance,
    pos: int,
    into: Int[Tensor, " layer"],
    ids: Sequence[int],
    vectors: Float[Tensor, "source layer d_model"],
    source: int,
    before: tuple[int, ...],
) -> Cells:
    """What the model says at the end of the target, with some pieces written after it: one run, a sequence for each layer."""
    tokens = slm.check(followed_by(slm, target, before)).tokens
    layers = len(into)
    patches = hooked.Patches(into, torch.full((layers,), pos), vectors[source])
    last = hooked.last_residuals(slm.model, repeat(tokens, "pos -> layer pos", layer=layers), patches)[:, len(target) - 1 :]
    ready = LogitLens(slm).scores(rearrange(last, "layer pos d_model -> (layer pos) d_model"), slm.model.cfg.n_layers)
    costs = rearrange(costs_of(slm, ready, ids), "cost (layer pos) id -> cost layer pos 1 id", layer=layers)
    return Cells(tuple(range(last.shape[1])), tuple(ids), costs.float().cpu().numpy())
