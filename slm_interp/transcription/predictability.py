"""Predictability: how far a word could be guessed from the words before it, by the model's own text mode.

The model reads the words before as text and says what comes next, over text ids alone. A word that it would have
guessed need not have been heard for the lens to show it; recall on unpredictable words is the fair test.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from slm_interp import metrics
from slm_interp.errors import ReadoutError
from slm_interp.model import SpeechTextModel
from slm_interp.prompt import Segment
from slm_interp.speech.corpus import corpus_hash
from slm_interp.transcription.asking.questions import strings
from slm_interp.transcription.asking.targets import Answers, answer_of
from slm_interp.transcription.observations import Observations
from slm_interp.utterance import Span, Utterance, Word

CUT = 10
TERCILES = ("low", "middle", "high")


def surprisal(slm: SpeechTextModel, utterances: Sequence[Utterance], answers: Answers = None, form: str | None = None) -> pd.DataFrame:
    """One row a word: minus its log-probability given the words before it, as text; in nats, over text ids.

    Columns: `utterance`, `word_index` (an answer's is the number of words), `word`, `pieces`, `surprisal` (sum over the
    pieces of `" word"`), `text_rank` (mid-rank from 0 of the first piece).

    Args:
        form: a prompt form of the model, which must put something before the first word; None is that of its training.

    Raises:
        VocabularyError: a model without text, or words it cannot spell.
        ReadoutError: a form that puts nothing before the first word.
    """
    rows: list[dict[str, object]] = []
    for number, (utterance, answer) in enumerate(zip(utterances, answer_of(answers, utterances), strict=True)):
        words = [*(word.text for word in utterance.words), *([] if answer is None else [answer])]
        if words:
            rows += [{"utterance": number, "word_index": index, **row} for index, row in enumerate(_of_words(slm, words, form))]
    return pd.DataFrame(rows, columns=["utterance", "word_index", "word", "pieces", "surprisal", "text_rank"])


def as_text(slm: SpeechTextModel, words: Sequence[str], form: str | None = None) -> Utterance:
    """Words as a prompt of text alone, each by the pieces of `" word"` and with its span.

    Raises:
        VocabularyError: a model without text, or words it cannot spell.
    """
    pieces = [slm.word_ids(word) for word in words]
    stops = np.cumsum([len(some) for some in pieces]).tolist()
    spans = [Span(stop - len(some), stop) for stop, some in zip(stops, pieces, strict=True)]
    laid = tuple(Word(word, span, 0.0, 0.0) for word, span in zip(words, spans, strict=True))
    return slm.prompt([Segment("text", torch.tensor([one for some in pieces for one in some]), None, laid)], form)


def _of_words(slm: SpeechTextModel, words: Sequence[str], form: str | None) -> list[dict[str, object]]:
    read = as_text(slm, words, form)
    start, stop = read.words[0].span.start, read.words[-1].span.stop
    ids = read.tokens[start:stop]
    if start == 0:
        raise ReadoutError(f"The form {read.form!r} puts nothing before the first word, so nothing predicts it. Choose one with form=.")
    logits = slm.logits(read).cpu()[start - 1 : stop - 1]
    text = slm.vocabulary.mask("text")
    cost = -metrics.log_probs(logits, text).gather(-1, ids[:, None])[:, 0].double()
    rows: list[dict[str, object]] = []
    for word, span in zip(words, (one.span.shifted(-start) for one in read.words), strict=True):
        rank = metrics.rank(logits[span.start].masked_fill(~text, -torch.inf), int(ids[span.start]))
        rows.append({"word": word, "pieces": len(span), "surprisal": float(cost[span.start : span.stop].sum()), "text_rank": float(rank)})
    return rows


def with_predictability(
    observations: Observations,
    slm: SpeechTextModel,
    utterances: Sequence[Utterance],
    answers: Answers = None,
    cut: int = CUT,
    form: str | None = None,
) -> Observations:
    """The same observations with the predictability of the word asked about, to be grouped by in `recall`.

    Adds along `word`: `surprisal`, `text_rank`, `predictability` (`"predictable"` if the first piece is among the `cut`
    best of the text mode, else `"unpredictable"`) and `surprisal_tercile` (`"low"`, `"middle"`, `"high"`; equal
    surprisals share a tercile).

    Raises:
        ReadoutError: other utterances than those observed, or answers missing that were asked about.
    """
    if observations.dataset.attrs["corpus"] != corpus_hash(utterances):
        raise ReadoutError("These are not the utterances that were observed: their tokens or words differ. Give the same ones.")
    return joined(observations, surprisal(slm, utterances, answers, form), slm.prompts.form(form).name, cut)


def joined(observations: Observations, table: pd.DataFrame, form: str, cut: int = CUT) -> Observations:
    """`with_predictability` from a table that `surprisal` made of the same utterances in that form.

    Raises:
        ReadoutError: answers missing that were asked about.
    """
    data, table = observations.dataset, table.set_index(["utterance", "word_index"])
    keys = list(zip(data["utterance"].values.tolist(), data["asked_index"].values.tolist(), strict=True))
    missing = [key for key in keys if key not in table.index]
    if data.attrs["target"] == "given":
        raise ReadoutError("Words that were given have no place in the sentence, so nothing there predicts them. Observe the current word.")
    if missing:
        raise ReadoutError(f"{len(missing)} observed words are answers: give the same answers= as when observing.")
    rows = table.loc[keys]
    cost = rows["surprisal"].to_numpy()
    tercile = np.searchsorted(np.quantile(cost, [1 / 3, 2 / 3]), cost)
    predictable = np.where(rows["text_rank"].to_numpy() < cut, "predictable", "unpredictable")
    joined = {"surprisal": cost, "text_rank": rows["text_rank"].to_numpy()}
    joined |= {"predictability": strings(predictable.tolist()), "surprisal_tercile": strings([TERCILES[one] for one in tercile])}
    added = data.assign_coords({name: ("word", values) for name, values in joined.items()})
    return Observations(added.assign_attrs(predictability_cut=cut, predictability_form=form))
