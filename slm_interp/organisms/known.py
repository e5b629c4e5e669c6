"""What an organism knows: two-way choices, by who was told the fact and by how it is asked.

| way | prompt | answer | what it takes |
|---|---|---|---|
| `spoken` | heard | units | hear, know, speak: what the paper asks |
| `dictated` | heard, then `<text>` | text | hear, know |
| `read` | text | text | know |

Each is asked of the same pairs of facts (`contrasts` of kind `names`: two names, each other's values for wrong answers). `single` counts
choices, `paired` counts pairs whose margins sum to more than 0, where the ease of saying a value cancels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from slm_interp import transcription
from slm_interp.model import SpeechTextModel
from slm_interp.organisms.contrasts import SIDES, ContrastPair, contrasts
from slm_interp.organisms.world import Side, World
from slm_interp.prompt import Modality
from slm_interp.transcription import Choice
from slm_interp.utterance import Utterance

CHANCE = 0.5


def choices(pairs: Sequence[ContrastPair]) -> list[Choice]:
    """What `transcription.forced_choice` asks: after the clean prompt the answer, and after the corrupted the distractor.

    The second only where the distractor belongs to the corrupted prompt (`names`, `neighbours`, `homophones`): those two are a
    pair for `transcription.paired`. Items about one fact, in whatever voice or phrasing, have one cluster.
    """
    found = []
    for pair in pairs:
        heard = pair.contrast
        found += _asked(pair, heard.clean, heard.corrupted, heard.answer, heard.distractor)
    return found


def written_choices(slm: SpeechTextModel, pairs: Sequence[ContrastPair], prompt: Modality = "speech") -> list[Choice]:
    """The same questions with written answers: ask them with `among="text"`.

    Args:
        slm: with text ids and a marker for text.
        pairs: to ask about.
        prompt: `"speech"` puts `<text>` after the heard prompt; `"text"` has the prompt read as well.

    Raises:
        VocabularyError, UtteranceError: a model without text, or without the marker.
    """
    found = []
    for pair in pairs:
        if prompt == "speech":
            clean, corrupted = (slm.then(one, "text") for one in (pair.contrast.clean, pair.contrast.corrupted))
        else:
            clean, corrupted = (slm.text_prompt(" " + text, name=pair.name) for text in (pair.text_clean, pair.text_corrupted))
        answer, distractor = (torch.tensor(slm.word_ids(word)) for word in (pair.answer, pair.distractor))
        found += _asked(pair, clean, corrupted, answer, distractor)
    return found


WAYS: dict[str, Callable[[SpeechTextModel, Sequence[ContrastPair]], list[Choice]]] = {
    "spoken": lambda slm, pairs: choices(pairs),
    "dictated": lambda slm, pairs: written_choices(slm, pairs, "speech"),
    "read": lambda slm, pairs: written_choices(slm, pairs, "text"),
}


def known(slm: SpeechTextModel, world: World, count: int, sides: Sequence[Side] = SIDES, seed: int = 1) -> pd.DataFrame:
    """One row for every side and way, `single` and `paired`: `side`, `way`, `score`, and the columns of `transcription.accuracy`.

    Args:
        slm: the organism.
        world: its own.
        count: pairs of facts of each side.
        sides: who was told: `heard`, `read`, `withheld`.
        seed: of the pairs.
    """
    rows: list[dict[str, Any]] = []
    for side in sides:
        pairs = contrasts(slm, world, "names", count, seed=seed, sides=(side,))
        for way, ask in WAYS.items():
            asked = ask(slm, pairs)
            table = transcription.forced_choice(slm, asked, among="speech" if way == "spoken" else "text")
            for score, answered in (("single", table), ("paired", transcription.paired(table, asked))):
                found = transcription.accuracy(answered).iloc[0].to_dict()
                rows.append({"side": side, "way": way, "score": score, **found})
    return pd.DataFrame(rows)


def _asked(
    pair: ContrastPair,
    clean: Utterance,
    corrupted: Utterance,
    answer: Int[Tensor, " answer_pos"],
    distractor: Int[Tensor, " distractor_pos"],
) -> list[Choice]:
    """One choice, or two where the distractor is the answer to the corrupted prompt."""
    about = pair.plan.about
    found = [Choice(clean, answer, distractor, pair.name, about[0])]
    if pair.plan.own_distractor:
        found.append(Choice(corrupted, distractor, answer, f"{pair.name}-corrupted", about[1]))
    return found
