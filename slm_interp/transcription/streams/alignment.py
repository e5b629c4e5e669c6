"""Speech-text alignment of the residual streams: is the state of a heard word like the state of the same word read as text?

1. Each utterance is run as speech, and its words once more as text, in a prompt of text alone.
2. A word's speech state is the residual at the last position of its span; its text state that at its last piece.
3. Left out, and counted: words at attention sinks or massive activations. *Declared rule*: position 0 of a run, and positions
   whose residual is longer than `MASSIVE` times the median of its run in any layer (Sun et al. 2024, arXiv 2402.17762).
4. In each layer: retrieval of the word among all words of the corpus, in both directions (nearest by cosine after centring; a hit
   is the same word type), and linear CKA, debiased.
5. Nulls, by the same functions: the text states dealt out anew among all words (`shuffled`), or among the words of the same
   sentence (`same_sentence`), which leaves everything a sentence gives to all of its words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from slm_interp.errors import ReadoutError, VocabularyError
from slm_interp.lenses.many import residuals_of_each
from slm_interp.model import SpeechTextModel
from slm_interp.statistics import bootstrap
from slm_interp.transcription.asking.questions import corpus_hash, model_provenance, strings
from slm_interp.transcription.asking.targets import Unspelled
from slm_interp.transcription.predictability import as_text
from slm_interp.transcription.streams.similarity import cka, cosines, gram, retrieved
from slm_interp.utterance import Utterance

MASSIVE = 5.0
DIRECTIONS = ("speech_to_text", "text_to_speech")
SHUFFLES = ("shuffled", "same_sentence")
JACKKNIFED = 1.96  # standard errors on either side


@dataclass(frozen=True, eq=False)
class WordStates:
    """States of the words of a corpus in two runs.

    Args:
        speech, text: residuals after 0 to n_layers blocks.
        utterance: number of the utterance of each word.
        word_type: its text.
        left_out: how many words were left out, by reason.
    """

    speech: Float[np.ndarray, "layer word d_model"]
    text: Float[np.ndarray, "layer word d_model"]
    utterance: Int[np.ndarray, " word"]
    word_type: tuple[str, ...]
    left_out: Counter[str]


def sinks(resid: Float[Tensor, "layer pos d_model"]) -> Bool[np.ndarray, " pos"]:
    """Positions left out of comparisons, by the declared rule at the top of this file."""
    norms = resid.float().norm(dim=-1)
    massive = (norms > MASSIVE * norms.median(-1, keepdim=True).values).any(0).cpu().numpy()
    massive[0] = True
    return massive


def word_states(
    slm: SpeechTextModel, utterances: Sequence[Utterance], form: str | None = None, unspelled: Unspelled = "refuse"
) -> WordStates:
    """The states of every word, heard and read; an utterance with a word that cannot be spelled is refused or dropped whole.

    Raises:
        ReadoutError: no words left.
        VocabularyError: a model without text, or words it cannot spell.
    """
    texts: dict[int, Utterance] = {}
    counted: Counter[str] = Counter()
    for number, utterance in enumerate(utterances):
        text = _read_as_text(slm, utterance, form, unspelled) if utterance.words else None
        if text is not None:
            texts[number] = text
        elif utterance.words:
            counted["in a sentence that is not spelled"] += len(utterance.words)
    spoken, written = (_last_positions(slm, some) for some in ({number: utterances[number] for number in texts}, texts))
    words = [(number, index) for number, one in texts.items() for index in range(len(one.words))]
    kept = [one for one in words if one in spoken and one in written]
    counted["attention sink or massive activation"] = len(words) - len(kept)
    if not kept:
        raise ReadoutError(f"No word is left to compare; left out: {dict(+counted)}. Give utterances with words.")
    heard, read = (np.stack([some[one] for one in kept], 1) for some in (spoken, written))
    types = tuple(utterances[number].words[index].text for number, index in kept)
    return WordStates(heard, read, np.array([number for number, _ in kept]), types, +counted)


def _read_as_text(slm: SpeechTextModel, utterance: Utterance, form: str | None, unspelled: Unspelled) -> Utterance | None:
    """The words of an utterance as text; None where they are to be dropped."""
    try:
        return as_text(slm, [word.text for word in utterance.words], form)
    except VocabularyError:
        if unspelled == "refuse":
            raise
        return None


def _last_positions(slm: SpeechTextModel, utterances: Mapping[int, Utterance]) -> dict[tuple[int, int], Float[np.ndarray, "layer d_model"]]:
    """The residuals at the last position of each word, by utterance and word; words at sinks are not there."""
    numbers, found = list(utterances), {}
    for place, resid in residuals_of_each(slm, list(utterances.values())):
        out = sinks(resid)
        for index, word in enumerate(utterances[numbers[place]].words):
            if not out[word.span.stop - 1]:
                found[numbers[place], index] = resid[:, word.span.stop - 1].double().cpu().numpy()
    return found


def stream_alignment(
    slm: SpeechTextModel,
    utterances: Sequence[Utterance],
    form: str | None = None,
    unspelled: Unspelled = "refuse",
    draws: int = 20,
    seed: int = 0,
) -> xr.Dataset:
    """Retrieval and CKA by layer.

    Variables: `retrieval` with `low` and `high` (direction, layer), bootstrap over utterances and word types; `null_retrieval` (null,
    direction, layer); `cka` with `cka_low` and `cka_high` (layer), jackknife over utterances, since drawing words twice would make
    them alike; `null_cka` (null, layer); `null_cka_high`, the 95% quantile over draws.

    Args:
        form: of the text prompts; None is that of the training sequences.
        unspelled: refuse utterances with words that the tokenizer cannot spell, or `"drop"` and count them.
        draws: of each null.

    Raises:
        ReadoutError: no words left, fewer than 4, or fewer than one draw.
        VocabularyError: a model without text, or words it cannot spell.
        StatisticsError: words of a single utterance or type.
    """
    states = word_states(slm, utterances, form, unspelled)
    if len(states.word_type) < 4 or draws < 1:
        raise ReadoutError(
            f"Comparing streams takes 4 words or more and one draw of each null; got {len(states.word_type)}, draws={draws}."
        )
    dealt = {name: _dealt(states, name, draws, np.random.default_rng([seed, index])) for index, name in enumerate(SHUFFLES)}
    rows = [_layer(states, layer, dealt, seed) for layer in range(len(states.speech))]
    dims: dict[str, tuple[str, ...]] = dict.fromkeys(("retrieval", "low", "high"), ("direction",))
    dims |= {"null_retrieval": ("null", "direction"), "cka": (), "cka_low": (), "cka_high": ()}
    dims |= {"null_cka": ("null",), "null_cka_high": ("null",)}
    variables = {name: ((*some, "layer"), np.stack([row[name] for row in rows], -1)) for name, some in dims.items()}
    coordinates = {"layer": np.arange(len(rows)), "direction": strings(DIRECTIONS), "null": strings(SHUFFLES)}
    attrs: dict[str, Any] = {**model_provenance(slm), "corpus": corpus_hash(utterances), "draws": draws, "seed": seed}
    attrs |= {"words": len(states.word_type), "word_types": len(set(states.word_type)), "massive": MASSIVE}
    attrs |= {"left_out": ", ".join(f"{count} {reason}" for reason, count in states.left_out.items()) or "none"}
    return xr.Dataset(variables, coordinates, attrs)


def _dealt(states: WordStates, name: str, draws: int, rng: np.random.Generator) -> Int[np.ndarray, "draw word"]:
    """Which word's text state each word is given."""
    n = len(states.word_type)
    if name == "shuffled":
        return np.stack([rng.permutation(n) for _ in range(draws)])
    dealt = np.tile(np.arange(n), (draws, 1))
    for number in np.unique(states.utterance):
        rows = np.flatnonzero(states.utterance == number)
        for one in dealt:
            one[rows] = rng.permutation(rows)
    return dealt


def _layer(states: WordStates, layer: int, dealt: dict[str, np.ndarray], seed: int) -> dict[str, Any]:
    speech, text = states.speech[layer], states.text[layer]
    numbers: dict[str, int] = {}
    types = np.array([numbers.setdefault(word, len(numbers)) for word in states.word_type])
    clusters = {"utterance": states.utterance, "word_type": types}
    similarity = cosines(speech, text)
    hits = np.stack([retrieved(one, types, types) for one in (similarity, similarity.T)], -1)
    interval = bootstrap(hits, clusters, seed=seed)
    null = [[retrieved(one, types, types[order]).mean() for one in (similarity, similarity.T)] for order in dealt.values()]
    heard, read = gram(speech), gram(text)
    nulls = np.array([[cka(heard, read[np.ix_(one, one)]) for one in order] for order in dealt.values()])
    low, high = _jackknife(heard, read, states.utterance)
    return {
        "retrieval": interval.estimate,
        "low": interval.low,
        "high": interval.high,
        "null_retrieval": np.array(null),
        "cka": np.array(cka(heard, read)),
        "cka_low": np.array(low),
        "cka_high": np.array(high),
        "null_cka": nulls.mean(1),
        "null_cka_high": np.quantile(nulls, 0.95, axis=1),
    }


def _jackknife(first: np.ndarray, second: np.ndarray, clusters: np.ndarray) -> tuple[float, float]:
    """CKA less and more 1.96 standard errors of leaving each cluster out (Efron & Stein 1981); NaN where too little would be left."""
    whole, parts = cka(first, second), []
    for one in np.unique(clusters):
        rows = np.flatnonzero(clusters != one)
        if len(rows) < 4:
            return np.nan, np.nan
        parts.append(cka(first[np.ix_(rows, rows)], second[np.ix_(rows, rows)]))
    spread = np.array(parts) - np.mean(parts)
    error = float(np.sqrt((len(parts) - 1) / len(parts) * (spread @ spread)))
    return whole - JACKKNIFED * error, whole + JACKKNIFED * error
