"""The numbers of arXiv 2606.22473 beside ours: its table, and the figures this package counts as its figures 2, 3 and 4.

The body of the paper was not at hand. What stands here comes from its abstract and from detailed secondary summaries, and each thing
says which:

| here | what | known from |
|---|---|---|
| `TABLE_1` | Recall@10, any layer, any position of the span, in per cent | secondary summaries, which give every cell |
| `figure_2` | modality mass by layer, the maximum over each word's span, speech input and text input | secondary summaries; the number 2 is inferred |
| `figure_3` | Recall@k by layer of the current and of the next word | secondary summaries (curves described in words); the number 3 is inferred |
| `figure_4` | Recall@k by layer of the answer, asked at the last word of the prompt | secondary summaries; the number 4 is inferred |

Which piece of a word and which of its spellings counts, whether ranks are joint, and whether the final norm is applied are not told
either: here they are the first piece of `" word"`, joint, and applied, each a switch. The paper gives neither nulls nor intervals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from slm_interp.errors import ReadoutError, VocabularyError
from slm_interp.lenses import Lens
from slm_interp.model import SpeechTextModel
from slm_interp.transcription.modality import modality_mass
from slm_interp.transcription.observations import Observations
from slm_interp.transcription.predictability import as_text
from slm_interp.transcription.recall import Ranks, recall
from slm_interp.utterance import Utterance

RELEASED = "SIMS-Llama3.2-3B"
TARGETS = ("current", "next", "answer")
K = 10


@dataclass(frozen=True)
class PaperRow:
    """A line of the paper's table. `interleaved` is the share of interleaved training data; recall is in per cent."""

    model: str
    text_init: bool
    text_data: bool
    interleaved: float
    current: float
    next: float
    answer: float


TABLE_1 = (
    PaperRow(f"{RELEASED} (released)", True, True, 1 / 3, 61.88, 23.91, 41.60),
    PaperRow("own, text init, text data, 1/3", True, True, 1 / 3, 48.75, 15.31, 26.40),
    PaperRow("own, text init, text data, 2/3", True, True, 2 / 3, 49.06, 15.78, 24.00),
    PaperRow("own, text init, text data, 5/6", True, True, 5 / 6, 2.66, 1.72, 4.00),
    PaperRow("own, text init, text data, none", True, True, 0.0, 3.75, 3.28, 0.00),
    PaperRow("own, text init, speech only", True, False, 0.0, 0.16, 0.00, 0.00),
    PaperRow("own, random init, text data, none", False, True, 0.0, 5.78, 6.72, 4.80),
    PaperRow("own, random init, text data, 1/3", False, True, 1 / 3, 2.19, 5.78, 7.20),
)
WORDS, ANSWERS = 640, 125  # denominators: every percentage is a multiple of one over them


def paper_table() -> pd.DataFrame:
    """The paper's table as it is told: one row a model, recall in per cent."""
    return pd.DataFrame([asdict(row) for row in TABLE_1])


def released_row(provenance: Mapping[str, str]) -> PaperRow | None:
    """The paper's row for this model, if its checkpoint is named as the released one; a name is all that is compared."""
    name = provenance.get("checkpoint", "").rstrip("/").split("/")[-1]
    return TABLE_1[0] if name.lower() == RELEASED.lower() else None


def nearest_row(text_init: bool, text_data: bool, interleaved: float) -> PaperRow | None:
    """The line of the paper's ablation that was trained most alike: the same init and data, the nearest share of interleaved rows.

    Another architecture, another world and a thousandth of the size: the line says what the paper saw of such training, not what to expect.
    """
    alike = [row for row in TABLE_1[1:] if (row.text_init, row.text_data, row.interleaved > 0) == (text_init, text_data, interleaved > 0)]
    return min(alike, key=lambda row: abs(row.interleaved - interleaved), default=None)


def table_1(observed: Mapping[str, Observations], k: int = K, ranks: Ranks = "joint", beside: PaperRow | None = None) -> pd.DataFrame:
    """The table's line for one model: recall over any layer and any position of the span, with its nulls, and the paper's beside.

    Columns: `target`, `k`, `words`, `paper_model`, `paper` (a share; NaN where there is none), then `recall`, `low`, `high` and all
    columns of each null as in `recall`.

    Args:
        observed: by target, over whole spans.

    Raises:
        ReadoutError: observations of another window or target.
    """
    rows = []
    for target, seen in observed.items():
        said = (seen.dataset.attrs["target"], seen.dataset.attrs["window"])
        if said != (target, "span"):
            raise ReadoutError(f"The table is of {target!r} over whole spans; these observations are of {said[0]!r} over {said[1]!r}.")
        found = recall(seen, k=(k,), ranks=ranks)
        rows.append({"target": target, **found[found["layer"] == "any"].iloc[0].drop("layer").to_dict()})
    table = pd.DataFrame(rows)
    said_of_paper = [np.nan if beside is None or k != K else getattr(beside, target) / 100 for target in table["target"]]
    table.insert(3, "paper_model", "" if beside is None else beside.model)
    table.insert(4, "paper", said_of_paper)
    return table


def figure_2(
    slm: SpeechTextModel, spoken: Sequence[Utterance], lens: Lens | None = None, seed: int = 0, draws: int = 5, exclude_input: bool = False
) -> xr.Dataset:
    """Modality mass by layer of speech input and of the same words as text input: `modality_mass` of both along a dim `input`.

    `attrs["text_left_out"]` counts utterances whose words the tokenizer cannot spell.

    Raises:
        ReadoutError, StatisticsError: as `modality_mass`.
        VocabularyError: none of the utterances can be spelled.
    """
    options: dict[str, Any] = {"seed": seed, "draws": draws, "exclude_input": exclude_input}
    read, left_out = read_instead(slm, spoken)
    parts = [modality_mass(slm, some, lens, **options) for some in (spoken, read)]
    joined = xr.concat([part.drop_vars("uniform_mass") for part in parts], pd.Index(["speech", "text"], name="input"), combine_attrs="drop")
    return joined.assign(uniform_mass=parts[0]["uniform_mass"]).assign_attrs({**parts[0].attrs, "text_left_out": left_out})


def read_instead(slm: SpeechTextModel, spoken: Sequence[Utterance]) -> tuple[list[Utterance], int]:
    """The words of spoken utterances as text prompts, and how many of them have no words that the tokenizer can spell.

    Raises:
        VocabularyError: it spells none.
    """
    found = [_as_text(slm, one) if one.words else None for one in spoken]
    read = [one for one in found if one is not None]
    if not read:
        raise VocabularyError(f"The tokenizer can spell none of {len(spoken)} utterances, so there is no text input to compare with.")
    return read, len(found) - len(read)


def _as_text(slm: SpeechTextModel, one: Utterance) -> Utterance | None:
    try:
        return replace(as_text(slm, [word.text for word in one.words]), name=one.name)
    except VocabularyError:
        return None


def figure_3(current: Observations, following: Observations, k: Sequence[int] = (1, 10, 50), ranks: Ranks = "joint") -> pd.DataFrame:
    """Recall@k by layer of the current and the next word: `recall` of both, with a column `target`."""
    return _by_target({"current": current, "next": following}, k, ranks)


def figure_4(answer: Observations, k: Sequence[int] = (1, 10, 50), ranks: Ranks = "joint") -> pd.DataFrame:
    """Recall@k by layer of the answer at the last word of the prompt: `recall`, with a column `target`."""
    return _by_target({"answer": answer}, k, ranks)


def _by_target(observed: Mapping[str, Observations], k: Sequence[int], ranks: Ranks) -> pd.DataFrame:
    tables = []
    for target, seen in observed.items():
        if seen.dataset.attrs["target"] != target:
            raise ReadoutError(f"This curve is of the {target} word; the observations are of the {seen.dataset.attrs['target']} word.")
        table = recall(seen, k=k, ranks=ranks)
        table.insert(0, "target", target)
        tables.append(table)
    whole = pd.concat(tables, ignore_index=True)
    whole.attrs = {"targets": list(observed), "ranks": ranks}
    return whole
