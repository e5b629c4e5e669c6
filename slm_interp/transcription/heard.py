"""Heard, not guessed: what one lens shows of words that could not be foreseen, in one layer that was not chosen where it is reported.

1. Words that the model's own text mode does not have among its ten best, given the words before (`predictability`).
2. Their recall in the word or the two positions after it, beside null words asked at the same positions.
3. The layer is chosen on the even utterances, the one farthest above its null between embedding and output, and reported on the odd ones.
4. There, too, the rise: recall from the word's end on less recall before its onset (`onset.rise`), all words of the odd utterances.
5. The earliest layer: the first whose recall is above its null at a Holm-adjusted p below .05 over all layers, over all utterances.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from slm_interp.lenses import Lens
from slm_interp.model import SpeechTextModel
from slm_interp.transcription.asking.windows import span_and_after
from slm_interp.transcription.observations import Observations
from slm_interp.transcription.observe import observe
from slm_interp.transcription.onset import rises
from slm_interp.transcription.predictability import with_predictability
from slm_interp.transcription.recall import Ranks, recall
from slm_interp.utterance import Utterance

AFTER = 2
K = 10
P = 0.05
NUMBERS = ("recall", "low", "high")


def heard(
    slm: SpeechTextModel,
    utterances: Sequence[Utterance],
    lens: Lens | None = None,
    ranks: Sequence[Ranks] = ("joint", "text"),
    null: str = "elsewhere",
) -> pd.DataFrame:
    """One row for every way of ranking and measure: `heard`, `heard_top1`, `rise` and `earliest`; see the top of this file.

    Columns: `ranks`, `measure`, `layer` (-1: no layer is above its null), `value` with `low` and `high`, `null`, the paired difference
    `over` with `over_low` and `over_high` (missing for `rise`, whose null is 0), `n` (words).

    Args:
        utterances: speech with words; of four utterances or more, since halves are compared.
        lens: None is the logit lens.
        null: of `nulls.NULLS`.

    Raises:
        ReadoutError, VocabularyError: as in `observe`.
        StatisticsError: unforeseen words of a single utterance or type in one of the halves.
    """
    seen = observe(slm, utterances, lens, window=span_and_after(AFTER), nulls=(null,))
    words = with_predictability(seen, slm, utterances).dataset
    unforeseen = words["predictability"].values == "unpredictable"
    odd = words["utterance"].values % 2 == 1
    choose, report, both = (Observations(words.isel(word=np.flatnonzero(one))) for one in (unforeseen & ~odd, unforeseen & odd, unforeseen))
    rows = []
    risen_by = rises(slm, utterances[1::2], lens, ranks=ranks)
    for among in ranks:
        layer = _farthest(recall(choose, (K,), ranks=among), null, slm.model.cfg.n_layers)
        there = recall(report, (1, K), ranks=among)
        there = there[there["layer"] == str(layer)].set_index("k")
        risen = risen_by[among].set_index("layer").loc[layer]
        numbers = {"value": risen["heard"], "low": risen["low"], "high": risen["high"], "null": 0.0, "n": int(risen["words"])}
        found = [
            {"measure": "heard", "layer": layer, **numbers_of(there.loc[K], null)},
            {"measure": "heard_top1", "layer": layer, **numbers_of(there.loc[1], null)},
            {"measure": "rise", "layer": layer, **numbers},
            _earliest(recall(both, (K,), ranks=among), null),
        ]
        rows += [{"ranks": among, **row} for row in found]
    table = pd.DataFrame(rows)
    table.attrs = {**seen.dataset.attrs, "k": K, "null": null}
    return table


def numbers_of(found: pd.Series, null: str) -> dict[str, float]:
    """A row of `recall` under the names that do not say which null it was."""
    own = dict(zip(("value", "low", "high"), (float(found[name]) for name in NUMBERS), strict=True))
    over = {f"over{end}": float(found[f"over_{null}{end}"]) for end in ("", "_low", "_high")}
    return {**own, "null": float(found[f"null_{null}"]), **over, "n": int(found["words"])}


def _farthest(table: pd.DataFrame, null: str, n_layers: int) -> int:
    """The layer farthest above its null, between the embedding and the output."""
    middle = table.iloc[1:n_layers]
    return int(middle.loc[middle[f"over_{null}"].idxmax(), "layer"])


def _earliest(table: pd.DataFrame, null: str) -> dict[str, object]:
    by_layer = table[table["layer"] != "any"]
    above = by_layer[(by_layer[f"holm_{null}"] < P) & (by_layer[f"over_{null}"] > 0)]
    if above.empty:
        return {"measure": "earliest", "layer": -1, "n": int(by_layer["words"].iloc[0])}
    first = above.iloc[0]
    return {"measure": "earliest", "layer": int(first["layer"]), **numbers_of(first, null)}
