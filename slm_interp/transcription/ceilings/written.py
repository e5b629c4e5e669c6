"""Explicit read-out: the model is asked to go on in text right after a word, and what it writes is a ceiling for any lens.

1. The utterance is cut after the last position of the word, and the family's marker of text appended.
2. The rank of the word asked about at the model's output there: its first piece, or every piece, each after those before it.
3. The same of null words, each with its own pieces before; one pooling call.
4. What the model writes of itself, greedily.

Interleaved models are trained to *go on* in text where speech stops, not to repeat it: for the next word this is what the
model knows at best; for the current word it asks for something the model never did, and is a ceiling only where it was trained to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from tqdm import tqdm

from slm_interp import hooked
from slm_interp.errors import ReadoutError
from slm_interp.lenses import Lens, LogitLens
from slm_interp.model import SpeechTextModel
from slm_interp.transcription.asking.cells import COSTS, Candidate, Cells, pool, read_cells
from slm_interp.transcription.asking.questions import Asked, Question, ask, strings
from slm_interp.transcription.asking.random_residuals import RANDOM
from slm_interp.transcription.observations import Observations
from slm_interp.transcription.observe import observations
from slm_interp.utterance import Utterance

WRITTEN = 6


def written(
    slm: SpeechTextModel,
    utterances: Sequence[Utterance],
    question: Question | None = None,
    lens: Lens | None = None,
    pieces: int = WRITTEN,
) -> Observations:
    """Ranks of words where the model was asked to write, in every layer; the last layer is what it writes. For `recall`.

    Adds along `word` the coordinate `written`: the text the model writes greedily, up to `pieces` pieces or the first that is no text.

    Args:
        question: which word is asked about, with which nulls; None is the current word by all its pieces.
        lens: of the layers before the last; None is the logit lens.
        pieces: how many to write; 0 writes nothing.

    Raises:
        UtteranceError: a family without a marker of text, or utterances in a closed form.
        ReadoutError: the null of random residuals, which has no residual to change here; pieces in any order; and as in `observe`.
    """
    lens, question = lens or LogitLens(slm), question or Question(spelling="all_pieces")
    check_spelling(question)
    random = [name for name in question.nulls if name in RANDOM]
    if random:
        raise ReadoutError(f"Nothing is replaced where a model writes of itself, so the null {random[0]!r} has no meaning here.")
    prompts: list[Utterance] = []
    asked = ask(slm, utterances, question)
    shape = (len(COSTS), *asked.candidates.shape, slm.model.cfg.n_layers + 1)
    found = np.empty(shape, dtype=np.float32)
    for row, place in enumerate(tqdm(asked.places, desc="words", mininterval=5, disable=None)):
        prompt = slm.then(until(slm, utterances[place.utterance], place.span.stop), "text")
        cells, candidates = teacher_forced(asked.spelled(row), asked.question, partial(_read, slm, lens, prompt, ids_of(asked, row)))
        found[:, row] = pool(cells, range(cells.positions[0], cells.positions[-1] + 1), candidates, question.spelling)
        prompts.append(prompt)
    seen = observations(slm, utterances, lens, asked, found, [1] * len(prompts), {"window": "what the model writes after the word"})
    texts = [write(slm, prompt, pieces) for prompt in tqdm(prompts, desc="writing", mininterval=5, disable=None)]
    return Observations(seen.dataset.assign_coords(written=("word", strings(texts))))


def _read(slm: SpeechTextModel, lens: Lens, prompt: Utterance, ids: Sequence[int], source: int, before: tuple[int, ...]) -> Cells:
    """What is read from the end of a prompt on, with some pieces written after it."""
    extended = followed_by(slm, prompt, before)
    residuals = hooked.residuals(slm.model, slm.check(extended).tokens)
    return read_cells(slm, lens, residuals, range(len(prompt) - 1, len(extended)), ids)


def check_spelling(question: Question) -> None:
    """Refuse pieces in any order, where each is read after those before it."""
    if question.spelling == "every_piece":
        raise ReadoutError("What is written has an order: spelling is first_piece, variants or all_pieces here; got 'every_piece'.")


def ids_of(asked: Asked, row: int) -> list[int]:
    """The ids of all candidates of a place."""
    return sorted({identifier for kind in asked.candidates[row] for identifier in asked.words.ids[kind]})


def teacher_forced(
    candidates: Sequence[Candidate], question: Question, read: Callable[[int, tuple[int, ...]], Cells]
) -> tuple[Cells, list[Candidate]]:
    """Cells in which each piece of each candidate is read after the pieces before it, and the candidates with their sources there.

    Args:
        read: from a source and the pieces that are written already to cells of one source, whose positions are as many as the pieces.
    """
    before = [one.ids[:-1] if question.spelling == "all_pieces" else () for one in candidates]
    keys = [(one.source, some) for one, some in zip(candidates, before, strict=True)]
    distinct = list(dict.fromkeys(keys))
    parts = [read(*key) for key in distinct]
    cells = replace(parts[0], costs=np.concatenate([one.costs for one in parts], 3))
    return cells, [Candidate(one.ids, distinct.index(key)) for one, key in zip(candidates, keys, strict=True)]


def until(slm: SpeechTextModel, utterance: Utterance, stop: int) -> Utterance:
    """The utterance up to a position, with the words that end by then."""
    words = tuple(word for word in utterance.words if word.span.stop <= stop)
    tokens = utterance.tokens[:stop]
    return replace(utterance, tokens=tokens, edges=utterance.edges[: stop + 1], words=words, labels=slm.labels(tokens), audio=None)


def followed_by(slm: SpeechTextModel, utterance: Utterance, ids: tuple[int, ...]) -> Utterance:
    """The utterance with ids after it, which take no time."""
    tokens = torch.cat([utterance.tokens, torch.tensor(ids, dtype=utterance.tokens.dtype)])
    edges = torch.cat([utterance.edges, utterance.edges[-1:].repeat(len(ids))])
    return replace(utterance, tokens=tokens, edges=edges, labels=slm.labels(tokens))


def write(slm: SpeechTextModel, prompt: Utterance, pieces: int) -> str:
    """What the model writes after a prompt: the likeliest live id each time, until that is no text; smaller ids first among equals."""
    dead, text = slm.vocabulary.mask("dead"), slm.vocabulary.mask("text")
    written: list[int] = []
    for _ in range(pieces):
        tokens = slm.check(followed_by(slm, prompt, tuple(written))).tokens
        last = hooked.logits(slm.model, tokens[None])[0, -1].float().cpu().masked_fill(dead, -torch.inf)
        best = int((last == last.max()).nonzero()[0])
        if not text[best]:
            break
        written.append(best)
    return "".join(slm.labels(torch.tensor(written, dtype=torch.long)))
