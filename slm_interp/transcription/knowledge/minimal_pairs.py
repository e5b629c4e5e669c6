"""Minimal pairs: of two whole utterances, is the right one likelier? As slamkit scores sWUGGY, sBLIMP, StoryCloze and SALMon.

The score of an utterance is the log-probability of each of its ids after the first, teacher-forced, summed or averaged over the
ids that are scored. slamkit (`UnitLM.log_likelihood`, `calc_nll`) takes the mean and, unless `used_token_modality` is set, the
softmax over the whole vocabulary: the defaults here. A pair counts 1 if the right one scores higher, .5 if they are equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor
from tqdm import tqdm

from slm_interp import metrics
from slm_interp.errors import ReadoutError
from slm_interp.model import SpeechTextModel
from slm_interp.transcription.asking.questions import model_provenance
from slm_interp.transcription.knowledge.choices import CHANCE, Among, Normalise
from slm_interp.utterance import Utterance


@dataclass(frozen=True, eq=False)
class Pair:
    """Two utterances, of which one is right.

    Args:
        name: of the item.
        cluster: items that belong together, such as one story in several voices.
        group: the part of the suite it belongs to, to be told apart by `accuracy(table, by="group")`.

    Raises:
        ReadoutError: the same tokens twice.
    """

    right: Utterance
    wrong: Utterance
    name: str
    cluster: str
    group: str = ""

    def __post_init__(self) -> None:
        if torch.equal(self.right.tokens, self.wrong.tokens):
            raise ReadoutError(f"Pair {self.name!r} has the same tokens twice: there is nothing to choose.")


def minimal_pairs(slm: SpeechTextModel, pairs: Sequence[Pair], normalise: Normalise = "mean", among: Among = "joint") -> pd.DataFrame:
    """One row a pair, with the columns of `forced_choice` and `group`; for `accuracy`.

    Args:
        normalise: the `"mean"` over scored ids (slamkit), or their `"sum"`, in which the shorter utterance has less to lose.
        among: ids that probabilities are normalised over; with `"speech"` or `"text"` only ids of that kind are scored, and
            markers are read but not scored.

    Raises:
        ReadoutError: no pairs, unknown options, or an utterance with nothing to score after its first id.
        UtteranceError, VocabularyError: an utterance this model cannot read.
    """
    if not pairs or normalise not in get_args(Normalise) or among not in get_args(Among):
        raise ReadoutError(
            f"Minimal pairs need pairs, normalise sum or mean, among speech, text or joint; got {len(pairs)} pairs, {normalise!r}, {among!r}."
        )
    mask = ~slm.vocabulary.mask("dead") if among == "joint" else slm.vocabulary.mask(among)
    rows = []
    for one in tqdm(pairs, desc="pairs", mininterval=5, disable=None):
        right, wrong = (whole_log_prob(slm, side, mask, normalise) for side in (one.right, one.wrong))
        correct = 1.0 if right > wrong else CHANCE if right == wrong else 0.0
        about = {"name": one.name, "cluster": one.cluster, "group": one.group}
        rows.append({**about, "log_p_right": right, "log_p_wrong": wrong, "margin": right - wrong, "correct": correct})
    table = pd.DataFrame(rows)
    table.attrs = {**model_provenance(slm), "normalise": normalise, "among": among, "scored": "whole utterances"}
    return table


def whole_log_prob(slm: SpeechTextModel, utterance: Utterance, mask: Bool[Tensor, " d_vocab"], normalise: Normalise) -> float:
    """Log-probability of the ids of an utterance that are in the mask, each after all before it; the first id has none."""
    following = utterance.tokens[1:]
    scored = mask[following]
    if not scored.any():
        raise ReadoutError(f"Utterance {utterance.name!r} has no id to score after its first one.")
    logits = slm.logits(utterance)[:-1].cpu()[scored]
    total = float(metrics.sequence_log_prob(logits.double(), following[scored].long(), mask))
    return total / int(scored.sum()) if normalise == "mean" else total
