"""Spoken knowledge: does the model find the true continuation likelier than a false one?

Two-way forced choice, as in sWUGGY, sBLIMP, spoken StoryCloze and the common-sense facts of arXiv 2606.22473: correct
if `log p(right | prompt) > log p(wrong | prompt)` over the whole continuation, half correct if equal.

Spoken continuations differ by many nats in how easily they are said at all, which drowns what little a small model knows.
Where two prompts have each other's continuations, `paired` adds both margins: what either costs by itself cancels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from slm_interp import hooked, metrics
from slm_interp.errors import ReadoutError
from slm_interp.model import SpeechTextModel
from slm_interp.statistics import bootstrap, sign_flip
from slm_interp.transcription.asking.questions import model_provenance
from slm_interp.utterance import Utterance

Normalise = Literal["sum", "mean"]
Among = Literal["speech", "text", "joint"]
CHANCE = 0.5


@dataclass(frozen=True, eq=False)
class Choice:
    """A prompt and two continuations as ids of the joint vocabulary.

    Args:
        name: of the item.
        cluster: items that belong together, such as those about one fact in several voices.

    Raises:
        ReadoutError: an empty continuation, or two that are the same.
    """

    prompt: Utterance
    right: Int[Tensor, " right_pos"]
    wrong: Int[Tensor, " wrong_pos"]
    name: str
    cluster: str

    def __post_init__(self) -> None:
        if not len(self.right) or not len(self.wrong):
            raise ReadoutError(f"Choice {self.name!r} needs at least one id of each continuation.")
        if torch.equal(self.right, self.wrong):
            raise ReadoutError(f"Choice {self.name!r} has the same continuation twice: there is nothing to choose.")


def forced_choice(slm: SpeechTextModel, choices: Sequence[Choice], normalise: Normalise = "sum", among: Among = "speech") -> pd.DataFrame:
    """One row an item: `name`, `cluster`, `log_p_right`, `log_p_wrong` (nats, teacher-forced), `margin`, `correct` (0, .5, 1).

    Args:
        normalise: `"sum"` over the continuation, or its `"mean"` per id (slamkit). The paper does not say which.
        among: ids that probabilities are normalised over: `"speech"`, `"text"`, or `"joint"` for all but dead rows.

    Raises:
        ReadoutError: no choices, unknown options, or a continuation with ids outside `among`.
        UtteranceError: a prompt and continuation longer than the model reads.
    """
    if not choices or normalise not in get_args(Normalise) or among not in get_args(Among):
        raise ReadoutError(
            f"A forced choice needs choices, normalise sum or mean, among speech, text or joint; got {len(choices)} choices, {normalise!r}, {among!r}."
        )
    mask = ~slm.vocabulary.mask("dead") if among == "joint" else slm.vocabulary.mask(among)
    rows = []
    for one in choices:
        right, wrong = (_log_prob(slm, one, ids, mask, normalise, among) for ids in (one.right, one.wrong))
        correct = 1.0 if right > wrong else CHANCE if right == wrong else 0.0
        rows.append(
            {
                "name": one.name,
                "cluster": one.cluster,
                "log_p_right": right,
                "log_p_wrong": wrong,
                "margin": right - wrong,
                "correct": correct,
            }
        )
    table = pd.DataFrame(rows)
    table.attrs = {**model_provenance(slm), "normalise": normalise, "among": among}
    return table


def paired(table: pd.DataFrame, choices: Sequence[Choice]) -> pd.DataFrame:
    """Choices two by two, whose continuations are each other's: one row a pair, correct if the margins sum to more than 0.

    log p(A | a) - log p(B | a) + log p(B | b) - log p(A | b): an interaction, in which the continuations' own ease cancels.

    Args:
        table: of `forced_choice`.
        choices: what it was asked, the two of a pair one after the other.

    Returns:
        columns as of `forced_choice` that make sense of a pair: `name`, `cluster`, `margin`, `correct`.

    Raises:
        ReadoutError: a table of other choices, or neighbours that are no pair.
    """
    if [one.name for one in choices] != list(table["name"]):
        raise ReadoutError("The table must be what forced_choice made of these choices, in their order.")
    if len(choices) % 2:
        raise ReadoutError(f"Pairs are two choices each; got {len(choices)} choices.")
    rows = []
    for number in range(0, len(choices), 2):
        one, other = choices[number], choices[number + 1]
        if not (torch.equal(one.right, other.wrong) and torch.equal(one.wrong, other.right)):
            raise ReadoutError(
                f"Choices {one.name!r} and {other.name!r} are no pair: right and wrong of one must be wrong and right of the other."
            )
        margin = float(table["margin"].iloc[number : number + 2].sum())
        correct = 1.0 if margin > 0 else CHANCE if margin == 0 else 0.0
        rows.append({"name": one.name, "cluster": " | ".join(sorted({one.cluster, other.cluster})), "margin": margin, "correct": correct})
    found = pd.DataFrame(rows)
    found.attrs = dict(table.attrs)
    return found


def _log_prob(
    slm: SpeechTextModel, choice: Choice, ids: Int[Tensor, " pos"], mask: Bool[Tensor, " d_vocab"], normalise: Normalise, among: Among
) -> float:
    slm.vocabulary.check_ids(ids)
    outside = ids[~mask[ids]]
    if len(outside):
        raise ReadoutError(
            f"Choice {choice.name!r} continues with {slm.label(int(outside[0]))!r} (id {int(outside[0])}), which is not among the "
            f"{among} ids that are normalised over. Leave it out, or normalise among='joint'."
        )
    prompt = slm.check(choice.prompt).tokens
    tokens = torch.cat([prompt, ids.to(prompt)])
    if len(tokens) > slm.model.cfg.n_ctx:
        raise ReadoutError(
            f"Choice {choice.name!r} has {len(tokens)} positions with its continuation; the model reads {slm.model.cfg.n_ctx}."
        )
    logits = hooked.logits(slm.model, tokens[None])[0, len(prompt) - 1 : -1].cpu()
    total = float(metrics.sequence_log_prob(logits.double(), ids.long(), mask))
    return total / len(ids) if normalise == "mean" else total


def accuracy(table: pd.DataFrame, by: str | None = None, level: float = 0.95, draws: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Accuracy with an interval over clusters and a two-sided p against one half: one row, or one a group.

    Columns: the group, `items`, `clusters`, `accuracy`, `low`, `high`, `p` (sign flips of whole clusters), `margin` (mean).

    Raises:
        ReadoutError: no such column to group by.
        StatisticsError: items of one cluster only.
    """
    if by is not None and by not in table:
        raise ReadoutError(f"No column {by!r} to group by; there are {', '.join(map(str, table.columns))}.")
    groups = [(None, table)] if by is None else list(table.groupby(by, sort=True))
    rows = []
    for name, part in groups:
        correct, clusters = part["correct"].to_numpy(dtype=np.float64), part["cluster"].to_numpy()
        found = bootstrap(correct, clusters, level=level, draws=draws, seed=seed)
        p = sign_flip(correct - CHANCE, clusters, draws=draws, seed=seed)
        group: Mapping[str, object] = {} if by is None else {by: name}
        counts = {"items": len(part), "clusters": found.clusters["cluster"]}
        numbers = {"accuracy": found.estimate, "low": found.low, "high": found.high, "p": p, "margin": part["margin"].mean()}
        rows.append({**group, **counts, **{key: float(value) for key, value in numbers.items()}})
    return pd.DataFrame(rows)
