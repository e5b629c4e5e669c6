"""What all questions share: shares with intervals, rows by name, files, directions of two words."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from slm_interp.causal.questions import results
from slm_interp.causal.questions.running import Bench, checked_layers
from slm_interp.errors import PatchingError, StatisticsError
from slm_interp.patching import outcomes
from tests.causal.asked import EXACT, heard, plain, planted


def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    whole = rng.uniform(0.5, 8, 60)
    return pd.DataFrame(
        {
            "case": map(str, range(60)),
            "prompt": "_",
            "word": [str(n % 20) for n in range(60)],
            "part": 0.3 * whole + rng.normal(size=60),
            "whole": whole,
        }
    )


def test_a_share_is_a_ratio_of_means_and_not_a_mean_of_ratios() -> None:
    own = table()
    found = results.shares(own, ["part"], "whole")["part"]
    assert float(found.estimate) == pytest.approx(own["part"].mean() / own["whole"].mean())
    assert float(found.estimate) != pytest.approx((own["part"] / own["whole"]).mean(), abs=1e-3)
    assert found.low < 0.3 < found.high
    assert dict(found.clusters) == {"word": 20}


def test_nothing_is_a_share_of_what_is_not_told_from_0() -> None:
    with pytest.raises(StatisticsError, match="not told from 0"):
        results.shares(table().assign(whole=[1.0, -1.0] * 30), ["part"], "whole")


def test_prompts_and_words_are_drawn_both_where_both_vary() -> None:
    own = table().assign(prompt=[str(n % 7) for n in range(60)])
    one, both = (results.means(frame, ["whole"])["whole"] for frame in (table(), own))
    assert dict(both.clusters) == {"prompt": 7, "word": 20}
    assert both.high - both.low > one.high - one.low


def test_rows_are_chosen_by_name_or_refused() -> None:
    assert len(results.chosen(table(), word="3")) == 3
    with pytest.raises(PatchingError, match="No rows with word = 'x'"):
        results.chosen(table(), word="x")


def test_the_file_of_another_question_is_refused(tmp_path) -> None:
    results.save_table(table(), tmp_path / "table.parquet")
    with pytest.raises(PatchingError, match="of another question: it has no column 'through'"):
        results.load_table(tmp_path / "table.parquet", ("whole", "through"))


def test_a_bench_without_hooks_is_the_model() -> None:
    model = planted("mediated", n_contrasts=5)
    case = heard(model)[0]
    bench = Bench(model.slm, case.base, case.contrast, outcomes.difference())
    assert bench.own.value == pytest.approx(plain(model.slm, case.base, case.contrast, outcomes.difference(), []), abs=EXACT)


def test_layers_are_there_and_each_once() -> None:
    model = planted("mediated", n_contrasts=5)
    assert checked_layers(model.slm, None) == [0, 1, 2, 3, 4, 5]
    for wrong in ([6], [], [2, 2]):
        with pytest.raises(PatchingError, match="0 \\(embedding\\) to 5"):
            checked_layers(model.slm, wrong)
