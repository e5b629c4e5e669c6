"""What a causal run found: halves, shares, the chosen layer, what the rule is asked of, and files."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from slm_interp import causal, statistics
from slm_interp.causal import Effect
from slm_interp.causal.bases import EmbeddingBasis
from slm_interp.causal.building import planted_cases
from slm_interp.causal.planted import plant
from slm_interp.errors import PatchingError
from slm_interp.lenses import LogitLens, collect, train_probe
from slm_interp.netcdf import write_dataset
from slm_interp.patching import outcomes
from tests.causal.made import tiny_case

LAYERS = (1, 2, 3)
CASES = 24
ARMS = {"whole": 1.0, "text": 0.4, "third": 0.1, "complement": 0.6, "elsewhere": 0.05}  # shares, before noise


def made(lacking: dict[str, int] | None = None, best: int = 2, **about: Any) -> Effect:
    """Effects drawn at random: the whole patch fades over the layers, text is largest at one of them; `lacking`: of so many cases an arm has none."""
    generator, rows = np.random.default_rng(0), []
    for case, layer, (arm, share) in product(range(CASES), LAYERS, ARMS.items()):
        if case < (lacking or {}).get(arm, 0):
            continue
        own = share if arm in ("whole", "complement") or layer == best else share / 4
        effect = own * (2 - 0.2 * layer) + 0.05 * generator.normal()
        basis = "" if arm == "whole" else "logit"
        labels = {"case": f"case {case:02}", "prompt": f"prompt {case % 4}", "word": f"pair {case // 2}"}
        cell = {"basis": basis, "layer": layer, "arm": arm, "dose": 1.0, "outcome": "onset"}
        rows.append({**labels, **cell, "base": -1.0, "source": 1.0, "value": effect - 1.0, "effect": effect, "moved": 0.1})
    table = pd.DataFrame(rows)
    cells = table.loc[table["arm"] == "text", ["case", "layer"]]
    reading = cells.assign(basis="logit", margin=1.0 + generator.normal(size=len(cells)), rank=0.0, heard=True)
    coordinates = {"case": sorted(table["case"].unique()), "basis": ["logit"], "layer": list(LAYERS), "draw": range(100)}
    random = xr.DataArray(0.01 * generator.normal(size=(CASES, 1, len(LAYERS), 100)).astype(np.float32), coordinates, list(coordinates))
    said = {"outcomes": ["onset"], "seed": 0, "missing": lacking or {}, "left_out": ["copied"], **about}
    return Effect.of(table, reading, said, random)


def test_directions_drawn_for_one_outcome_are_not_the_null_of_another():
    effect = made()
    both = pd.concat([effect.table, effect.table.assign(outcome="word")], ignore_index=True).drop(columns="half")
    two = Effect.of(both, effect.reading, {**effect.about, "outcomes": ["onset", "word"]}, effect.random)
    assert two.measured("logit", "onset").random is not None
    assert two.measured("logit", "word").random is None
    assert "random draws" in two.verdict("logit", "word").missing
    assert two.verdict("logit", "word").specific is False


def test_halves_share_no_pair_of_words_and_do_not_depend_on_the_order():
    effect = made()
    halves = effect.table.groupby("word")["half"].unique()
    assert (halves.str.len() == 1).all()
    assert effect.table.drop_duplicates("word")["half"].value_counts().to_dict() == {"development": 6, "report": 6}
    shuffled = Effect.of(effect.table.drop(columns="half").sample(frac=1, random_state=1), effect.reading, effect.about)
    merged = effect.table.drop_duplicates("case").merge(shuffled.table.drop_duplicates("case"), on="case")
    assert (merged["half_x"] == merged["half_y"]).all()
    assert (made(seed=1).table["half"] != effect.table["half"]).any()


def test_a_share_is_a_ratio_of_means_with_its_clusters_drawn():
    effect = made()
    text, whole = effect.effects("text", "logit", half="report"), effect.effects("whole", half="report")
    found = effect.shares("text", "logit").set_index("layer")
    assert found["estimate"].tolist() == pytest.approx((text.mean() / whole.mean()).tolist())
    labels = effect.table.drop_duplicates("case").set_index("case").loc[text.index]
    ways = {"prompt": labels["prompt"].tolist(), "word": labels["word"].tolist()}
    both = np.stack([text[2], whole[2]], 1)
    wanted = statistics.bootstrap(both, ways, statistics.ratio_of_means)
    assert (found.loc[2, "low"], found.loc[2, "high"]) == pytest.approx((float(wanted.low[0]), float(wanted.high[0])))
    assert found.loc[2, "items"] == len(text) == 12


def test_nothing_is_a_share_of_a_ceiling_that_may_be_nothing():
    effect = made()
    table = effect.table.drop(columns="half")
    table.loc[table["arm"] == "whole", "effect"] = np.random.default_rng(1).normal(size=(table["arm"] == "whole").sum())
    found = Effect.of(table, effect.reading, effect.about)
    assert found.shares("text", "logit")[["estimate", "low", "high"]].isna().all(axis=None)
    assert found.control_table(layer=2)["share"].isna().all()


def test_the_layer_is_chosen_on_the_development_half_where_text_exceeds_a_third_word_and_the_ceiling_is_high():
    assert made(best=2).chosen_layer("logit") == 2
    assert made(best=3).chosen_layer("logit") == 3
    effect = made(best=3)
    low = effect.table.drop(columns="half")
    low.loc[(low["arm"] == "whole") & (low["layer"] == 3), "effect"] *= 0.4  # below half of the largest ceiling
    assert Effect.of(low, effect.reading, effect.about).chosen_layer("logit") != 3
    alike = effect.table.drop(columns="half")
    alike.loc[alike["arm"].isin(["text", "third"]) & (alike["layer"] == 1), "effect"] += 5  # any word moves that much there
    assert Effect.of(alike, effect.reading, effect.about).chosen_layer("logit") == 3
    none = low.copy()
    none.loc[none["arm"] == "whole", "effect"] = -0.01 * none["layer"]  # nowhere a ceiling: its largest still is somewhere
    assert Effect.of(none, effect.reading, effect.about).chosen_layer("logit") == 1
    other = effect.table.copy()
    other.loc[(other["half"] == "report") & (other["arm"] == "text") & (other["layer"] == 1), "effect"] += (
        100  # reports, and does not choose
    )
    assert Effect.of(other.drop(columns="half"), effect.reading, effect.about).chosen_layer("logit") == 3


def test_the_rule_is_asked_of_the_report_half_at_the_chosen_layer():
    effect = made()
    measured, cases = effect.measured("logit"), effect.effects("whole", half="report").index
    for name in ARMS:
        basis = "" if name == "whole" else "logit"
        assert getattr(measured, name) == pytest.approx(effect.effects(name, basis, half="report").loc[cases, 2].to_numpy())
    reading = effect.reading[effect.reading["layer"] == 2].set_index("case")
    assert measured.margin == pytest.approx(reading.loc[cases, "margin"].to_numpy())
    assert effect.random is not None
    assert measured.random == pytest.approx(effect.random.sel(case=list(cases), basis="logit", layer=2).values.mean(0), abs=1e-6)
    assert set(measured.word) == set(effect.table.loc[effect.table["half"] == "report", "word"])
    assert effect.verdict().word == effect.verdict("logit").word == "partly"


def test_a_control_that_few_cases_have_is_missing_and_of_one_that_most_have_the_rest_is_left_out():
    few, most = made({"third": CASES - 2}).measured("logit", layer=2), made({"third": 6}).measured("logit", layer=2)
    assert few.third is None and len(few.whole) == 12
    assert most.third is not None and len(most.third) == len(most.whole) < 12


def test_controls_stand_beside_each_other_with_their_shares():
    effect = made()
    found = effect.control_table().set_index("arm")
    assert list(found.index) == list(ARMS)
    share = effect.shares("text", "logit").set_index("layer").loc[2]
    assert found.loc["text", ["share", "low", "high"]].tolist() == pytest.approx(share[["estimate", "low", "high"]].tolist())
    assert found.loc["whole", "share"] == 1


def test_what_is_not_there_is_refused_by_name():
    effect = made()
    with pytest.raises(PatchingError, match="has the arms 'whole'.*got 'band'"):
        effect.effects("band", "logit")
    with pytest.raises(PatchingError, match="has the bases '', 'logit'; got 'tuned'"):
        effect.shares("text", "tuned")
    with pytest.raises(PatchingError, match="'text' depends on the basis; name one of logit"):
        effect.effects("text")
    with pytest.raises(PatchingError, match="No random directions were run"):
        effect.agreement("logit", 2)
    with pytest.raises(PatchingError, match="one row a cell"):
        Effect.of(pd.concat([effect.table, effect.table]).drop(columns="half"), effect.reading, effect.about)
    few = effect.table[effect.table["word"].isin(["pair 0", "pair 1"])].drop(columns="half")
    with pytest.raises(PatchingError, match="four clusters of words or more; there are 2"):
        Effect.of(few, effect.reading, effect.about).chosen_layer("logit")


def test_an_effect_is_saved_whole_and_read_again(tiny_slm, tmp_path: Path):
    cases = [tiny_case(tiny_slm, str(number), by=number) for number in range(2)]
    arms = ["text", "third", "distance", "random_exact"]
    effect = causal.run(tiny_slm, cases, LogitLens(tiny_slm), layers=[1, 2], arms=arms)
    effect.save(tmp_path / "effect.nc")
    again = Effect.load(tmp_path / "effect.nc")
    pd.testing.assert_frame_equal(again.table, effect.table)
    pd.testing.assert_frame_equal(again.reading, effect.reading)
    assert again.random is not None and effect.random is not None and again.random_exact is not None and effect.random_exact is not None
    np.testing.assert_array_equal(again.random, effect.random)
    np.testing.assert_array_equal(again.random_exact, effect.random_exact)
    assert again.agreement("logit", 1) == effect.agreement("logit", 1)
    assert again.about == effect.about and again.about["provenance"] == dict(tiny_slm.provenance)
    assert {"bases", "policy", "outcomes", "seed", "versions", "arms"} <= set(again.about)
    assert list(tmp_path.iterdir()) == [tmp_path / "effect.nc"]


def test_a_file_that_is_no_effect_is_refused(tmp_path: Path):
    write_dataset(xr.Dataset({"x": 1}), tmp_path / "other.nc")
    with pytest.raises(PatchingError, match="no saved causal effect"):
        Effect.load(tmp_path / "other.nc")


@pytest.mark.parametrize(
    ("kind", "fraction", "word"),
    [("shadow", None, "epiphenomenal"), ("mediated", None, "text-mediated"), ("partial", 0.4, "partly"), ("dead", None, "uninformative")],
)
def test_the_verdict_on_a_planted_model_is_the_right_one(kind, fraction, word):
    model = plant(kind, fraction, n_contrasts=8)
    arms = ["text", "complement", "third", "elsewhere", "random"]
    onset = outcomes.difference(units=1)
    effect = causal.run(model.slm, planted_cases(model), LogitLens(model.slm), layers=model.layers, arms=arms, outcome=onset)
    verdict = effect.verdict("logit")
    assert verdict.word == word == model.truth.verdict
    if fraction is not None:
        assert float(verdict.shares["text"].estimate) == pytest.approx(fraction, abs=1e-4)


def test_several_lenses_are_combined_and_rows_of_the_embedding_stand_beside(tiny_slm):
    model = plant("mediated", n_contrasts=8)
    bases = [LogitLens(model.slm), EmbeddingBasis(model.slm)]
    arms = ["text", "complement", "third", "elsewhere", "random"]
    effect = causal.run(model.slm, planted_cases(model), bases, layers=model.layers[:1], arms=arms, outcome=outcomes.difference(units=1))
    together = effect.verdict()
    assert set(together.verdicts) == {"logit", "embedding"}
    assert set(together.strict) == {"logit"}
    assert together.word == together.verdicts["logit"].word == "text-mediated"
    assert "by 1 lens:" in str(together)


def test_a_probe_that_reads_a_secret_code_does_not_make_a_shadow_a_cause():
    model = plant("shadow", n_contrasts=40)
    heard = [prompt for contrast in model.contrasts for prompt in (contrast.clean, contrast.corrupted)]
    probe = train_probe(collect(model.slm, heard, layers=[2]), penalties=(1e-3,))
    arms = ["text", "complement", "third", "elsewhere", "random"]
    bases, onset = [LogitLens(model.slm), probe], outcomes.difference(units=1)
    together = causal.run(model.slm, planted_cases(model), bases, layers=[2], arms=arms, outcome=onset).verdict()
    assert together.verdicts["probe"].word != "epiphenomenal"  # truly: the word drives what follows, and not by its text
    assert together.word == together.verdicts["logit"].word == "epiphenomenal"
