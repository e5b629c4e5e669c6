"""What kind of head each one is, measured on speech: whose attention it has, and what it writes.

| function | measures | its null |
|---|---|---|
| `previous_unit` | attention to the position before, mean over speech positions | an even share of what can be seen, `1 / (i + 1)` |
| `induction` | attention to the unit after the last time this one was said, on a random row said twice | an even share |
| `gathering` | attention of a word's last unit to the rest of its own span | spans of the same lengths elsewhere in the utterance, drawn many times |
| `writes_word` | logit of the current word's text row, written at its own span | the other words of the utterance at the same positions |
| `writes_next_unit` | logit of the unit that comes next | the mean over all units |

All results have dims `layer head_index` and variables `score`, `null` and `over` (their difference, with `low` and `high`, an interval of 95% drawn
over utterances, where there are two or more). Writing is *direct*: the head's own term of the logit, with the final norm's scale of the whole
residual (`lenses/attribution.py`); what later layers make of it is in their terms.

Induction: Olsson et al. 2022 (arXiv 2209.11895). A random row is no speech, and a model of speech has seldom met an exact repetition.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from slm_interp import hooked, statistics
from slm_interp.errors import PatchingError
from slm_interp.lenses.attribution import by_head, logit_sum, mean_logit
from slm_interp.model import SpeechTextModel
from slm_interp.utterance import Utterance

SHUFFLES = 20


def previous_unit(slm: SpeechTextModel, utterances: Sequence[Utterance]) -> xr.Dataset:
    """Attention to the position before, over positions of speech.

    Raises:
        PatchingError: no utterances, or one without speech after its first position.
    """
    scores, nulls = [], []
    for utterance in _some(utterances):
        at = [place for place in slm.vocabulary.mask("speech")[utterance.tokens].nonzero().flatten().tolist() if place > 0]
        if not at:
            raise PatchingError(f"Attention to the unit before takes speech after the first position; {utterance!r} has none.")
        pattern = patterns(slm, utterance)
        scores.append(pattern[:, :, at, [place - 1 for place in at]].mean(-1))
        nulls.append(np.full(scores[-1].shape, np.mean([1 / (place + 1) for place in at])))
    return _measured(slm, "attention to the position before", scores, nulls)


def induction(slm: SpeechTextModel, length: int = 25, rows: int = 10, seed: int = 0) -> xr.Dataset:
    """Attention to the unit after the last time this one was said, in random rows of different units said twice.

    Raises:
        PatchingError: rows longer than the model reads or than there are units, or none.
    """
    units = slm.vocabulary.mask("speech").nonzero().flatten()
    if rows < 1 or not 2 <= length <= min(len(units), (slm.model.cfg.n_ctx - 4) // 2):
        most = min(len(units), (slm.model.cfg.n_ctx - 4) // 2)
        raise PatchingError(
            f"A row said twice has 2 to {most} different units in this model, and there is one row or more; got {length} and {rows}."
        )
    generator = torch.Generator().manual_seed(seed)
    before = _opening(slm)
    scores, nulls = [], []
    for _ in range(rows):
        once = units[torch.randperm(len(units), generator=generator)[:length]]
        tokens = torch.cat([before, once, once])
        again = range(len(before) + length, len(tokens))
        pattern = _patterns(slm, tokens)
        scores.append(pattern[:, :, list(again), [place - length + 1 for place in again]].mean(-1))
        nulls.append(np.full(scores[-1].shape, np.mean([1 / (place + 1) for place in again])))
    return _measured(slm, "attention to the unit after the last time", scores, nulls)


def gathering(slm: SpeechTextModel, utterances: Sequence[Utterance], shuffles: int = SHUFFLES, seed: int = 0) -> xr.Dataset:
    """Attention of a word's last unit to the rest of its own span, against spans of the same lengths put elsewhere.

    `percentile` is the share of draws that the score exceeds, draw by draw over all words: 1 is above all of them. `reach` is the
    share that even attention would give.

    Raises:
        PatchingError: no utterances, or no word of two units or more among them.
    """
    rng = np.random.default_rng(seed)
    scores, nulls, even = [], [], []
    for utterance in _some(utterances):
        spans = [word.span for word in utterance.words if len(word.span) > 1 and _speech(slm, utterance, word.span.start)]
        if not spans:
            continue
        pattern = patterns(slm, utterance)
        inside = np.cumsum(np.pad(pattern, ((0, 0), (0, 0), (0, 0), (1, 0))), -1)  # attention to all positions before each
        stops, lengths = np.array([span.stop for span in spans]), np.array([len(span) for span in spans])
        own = _share(inside, stops, lengths)
        drawn = [_share(inside, rng.integers(lengths, len(utterance), endpoint=True), lengths) for _ in range(shuffles)]
        scores.append(own.mean(-1))
        nulls.append(np.stack([one.mean(-1) for one in drawn]))
        even.append(np.mean((lengths - 1) / stops))
    if not scores:
        raise PatchingError("Gathering is measured on words of two units or more; these utterances have none.")
    found = _measured(slm, "attention of a word's last unit to its span", scores, [one.mean(0) for one in nulls])
    draws = np.mean(nulls, 0)
    dims = ("layer", "head_index")
    return found.assign(
        percentile=(dims, (np.mean(scores, 0) > draws).mean(0)), null_95=(dims, np.quantile(draws, 0.95, axis=0))
    ).assign_attrs(reach=float(np.mean(even)), shuffles=shuffles)


def writes_word(slm: SpeechTextModel, utterances: Sequence[Utterance]) -> xr.Dataset:
    """Which heads write the transcription: each one's term of the logit of the current word's first piece, mean over its span and over words.

    The null is the same term for the other words of the utterance at the same positions, so what a head adds to every word is taken out.

    Raises:
        PatchingError: no utterances, or none with two different words.
    """
    scores, nulls = [], []
    for utterance in _some(utterances):
        words = [word for word in utterance.words if _speech(slm, utterance, word.span.start)]
        pieces = {slm.word_ids(word.text)[0] for word in words}
        if len(pieces) < 2:
            continue
        ids = sorted(pieces)
        written = np.asarray(by_head(slm, utterance, ids).values)  # layer head pos target
        own, other = [], []
        for word in words:
            column = ids.index(slm.word_ids(word.text)[0])
            there = written[:, :, word.span.start : word.span.stop].mean(2)
            own.append(there[..., column])
            other.append(np.delete(there, column, -1).mean(-1))
        scores.append(np.mean(own, 0))
        nulls.append(np.mean(other, 0))
    if not scores:
        raise PatchingError(
            "Writing of words is measured against the other words of the utterance; no utterance has two different spoken words."
        )
    return _measured(slm, "logit of the current word's text row", scores, nulls)


def writes_next_unit(slm: SpeechTextModel, utterances: Sequence[Utterance]) -> xr.Dataset:
    """Which heads write speech: each one's term of the logit of the unit that comes next, against its mean over all units.

    Raises:
        PatchingError: no utterances, or one in which no unit comes next.
    """
    scores, nulls = [], []
    for utterance in _some(utterances):
        following = utterance.tokens[1:]
        at = slm.vocabulary.mask("speech")[following].nonzero().flatten().tolist()
        if not at:
            raise PatchingError(f"Writing of units takes an utterance with speech after its first position; {utterance!r} has none.")
        ids = sorted({int(following[place]) for place in at})
        targets = [*(logit_sum(slm, one) for one in ids), mean_logit(slm, "speech")]
        written = np.asarray(by_head(slm, utterance, targets, at).values)
        column = [ids.index(int(following[place])) for place in at]
        scores.append(written[:, :, range(len(at)), column].mean(-1))
        nulls.append(written[..., -1].mean(-1))
    return _measured(slm, "logit of the next unit", scores, nulls)


def patterns(slm: SpeechTextModel, utterance: Utterance) -> Float[np.ndarray, "layer head dest source"]:
    """Attention of every head over an utterance."""
    return _patterns(slm, slm.check(utterance).tokens)


def _patterns(slm: SpeechTextModel, tokens: Tensor) -> Float[np.ndarray, "layer head dest source"]:
    names = [hooked.hook_at("pattern", layer) for layer in range(slm.model.cfg.n_layers)]
    return torch.stack(list(hooked.captured(slm.model, tokens, names).values())).float().cpu().numpy()


def _share(
    inside: Float[np.ndarray, "layer head dest source_and_one"], stops: np.ndarray, lengths: np.ndarray
) -> Float[np.ndarray, "layer head word"]:
    """Attention of the last position of each span to the rest of it."""
    last = stops - 1
    return inside[:, :, last, last] - inside[:, :, last, stops - lengths]


def _speech(slm: SpeechTextModel, utterance: Utterance, position: int) -> bool:
    return slm.vocabulary.kind_of(int(utterance.tokens[position])) == "speech"


def _opening(slm: SpeechTextModel) -> Tensor:
    """What the family puts before speech."""
    unit = torch.zeros(1, dtype=torch.long)
    prompt = slm.speech_prompt(unit, torch.tensor([0.0, 0.04]), quantiser=slm.vocabulary.quantiser)
    at = slm.vocabulary.mask("speech")[prompt.tokens].nonzero().flatten()
    return prompt.tokens[: int(at[0])]


def _some(utterances: Sequence[Utterance]) -> Sequence[Utterance]:
    if not len(utterances):
        raise PatchingError("Heads are measured on one utterance or more; got none.")
    return utterances


def _measured(slm: SpeechTextModel, what: str, scores: Sequence[np.ndarray], nulls: Sequence[np.ndarray]) -> xr.Dataset:
    """Means over utterances, and an interval of the difference."""
    dims, over = ("layer", "head_index"), np.stack(scores) - np.stack(nulls)
    if not np.isfinite(over).all():
        raise PatchingError(f"Some of the heads' {what} are not finite. Scan the weights: slm-interp verify.")
    variables = {"score": (dims, np.mean(scores, 0)), "null": (dims, np.mean(nulls, 0)), "over": (dims, over.mean(0))}
    if len(scores) > 1:
        band = statistics.bootstrap(over, np.arange(len(over)).tolist())
        variables |= {"low": (dims, band.low), "high": (dims, band.high)}
    coordinates = {"layer": np.arange(over.shape[1]), "head_index": np.arange(over.shape[2])}
    return xr.Dataset(variables, coordinates, {"measures": what, "utterances": len(scores)})
