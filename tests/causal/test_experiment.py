"""Running a causal test: every arm against plain TransformerLens hooks, planted models exactly, and going on after a kill."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import xarray as xr
from torch import Tensor

from slm_interp import causal, hooked
from slm_interp.causal import Case, Effect, Words
from slm_interp.causal.arms import ARMS, CHECKS, DOSES, PRESETS
from slm_interp.causal.bases import EmbeddingBasis, LensBasis, RandomBasis
from slm_interp.causal.building import planted_cases
from slm_interp.causal.controls.natural import collect
from slm_interp.causal.controls.random import Key, drawn
from slm_interp.causal.controls.readers import what_is_read
from slm_interp.causal.controls.variance import equal_variance
from slm_interp.causal.experiment import key_of
from slm_interp.causal.planted import plant
from slm_interp.errors import PatchingError, StoreError
from slm_interp.lenses import LogitLens
from slm_interp.model import SpeechTextModel
from slm_interp.patching import outcomes, policies
from slm_interp.patching.interventions import ComplementOnly, CopyCoordinates, Erase, Interchange, SwapCoordinates
from slm_interp.patching.outcomes import Outcome
from slm_interp.patching.spans import SpanPair
from slm_interp.utterance import Span
from tests.causal.made import tiny_case
from tests.patching import plain

ONSET, WORD = outcomes.difference(units=1), outcomes.difference()
CELL = ["case", "basis", "layer", "arm", "dose", "outcome"]
EXACT = 1e-5

cached = lru_cache(maxsize=None)(plant)


def value_of(effect: Effect, **where: Any) -> float:
    """One number of a table."""
    table = effect.table
    for column, value in where.items():
        table = table[table[column] == value]
    assert len(table) == 1, where
    return float(table["value"].iloc[0])


def hooked_value(slm: SpeechTextModel, case: Case, arm: str, pairs: Any, layer: int, outcome: Outcome, policy: Any) -> float:
    """An arm as a plain hook on whole runs: interventions named one by one, values taken from runs made here."""
    if arm.startswith("written_"):
        written = case.as_text()
        assert written is not None
        case, arm = written, arm.removeprefix("written_")
    pairing = policy(policies.Stretch(case.source, case.span.clean), policies.Stretch(case.base, case.span.corrupted))
    name = hooked.hook_at("resid_post", layer)
    there, here = (plain.activations(slm, prompt, name) for prompt in (case.source, case.base))
    values, where = pairing.values(there, here), pairing.base.tolist()
    if arm == "other_voice":
        assert case.other_voice is not None
        voice = policy(policies.Stretch(case.other_voice.prompt, case.other_voice.span), policies.Stretch(case.base, case.span.corrupted))
        values, where = voice.values(plain.activations(slm, case.other_voice.prompt, name), here), voice.base.tolist()
    if arm == "elsewhere":
        assert case.elsewhere is not None
        where = [position - case.span.corrupted.start + case.elsewhere.start for position in where]
    both = None if pairs is None else torch.cat(pairs)
    if arm in ("variance", "read", "unread"):
        return plain.score(slm, case.base, case.contrast, outcome, [(name, split_or_varied(slm, case, arm, pairs, layer, values, where))])
    made = {
        "whole": lambda: Interchange(values),
        "other_voice": lambda: Interchange(values),
        "self": lambda: Interchange(here[where]),
        "copied": lambda: CopyCoordinates(both, values),
        "complement": lambda: ComplementOnly(both, values),
        "erased": lambda: Erase(both),
    }.get(arm, lambda: SwapCoordinates(*pairs))()
    return plain.score(slm, case.base, case.contrast, outcome, [made.hook("resid_post", layer, where)])


def split_or_varied(slm: SpeechTextModel, case: Case, arm: str, pairs: Any, layer: int, values: Tensor, where: list[int]) -> Any:
    """The arms whose directions come from the controls, as projections written out here."""
    prompts = {tuple(one.tokens.tolist()): one for one in (case.source, case.base)}
    states = collect(slm, list(prompts.values()), ["a"] * len(prompts), [layer])[layer]
    rows = equal_variance(states, torch.cat(pairs)).directions if arm == "variance" else what_is_read(slm, [layer])[layer].basis

    def put(resid: Tensor, hook: Any) -> Tensor:
        resid = resid.clone()
        x = resid[0, where].double()
        to = values.double() if arm == "variance" else SwapCoordinates(*pairs)(resid[:, where], None)[0].double()
        inside = (to - x) @ rows.T @ rows
        resid[0, where] = (x + (to - x - inside if arm == "unread" else inside)).float()
        return resid

    return put


@pytest.mark.parametrize("longer", [False, True], ids=["one length", "two lengths"])
def test_every_arm_is_what_a_plain_hook_does(tiny_slm, longer):
    case, policy = tiny_case(tiny_slm, longer=longer), policies.warped if longer else policies.same
    basis, layers = LensBasis(LogitLens(tiny_slm), tiny_slm), [1, 2]
    effect = causal.run(tiny_slm, [case], basis, layers=layers, arms="full", policy=policy, outcome=[ONSET, WORD])
    for layer in layers:
        for name, arm in ARMS.items():
            if not arm.has(case) or name in ("band", "direct"):
                continue
            pairs = basis.pairs(layer, getattr(case.words, arm.first), case.words.corrupted) if arm.first else None
            for outcome in (ONSET, WORD):
                wanted = hooked_value(tiny_slm, case, name, pairs, layer, outcome, policy)
                where = {"layer": layer, "arm": name, "dose": 1.0, "outcome": outcome.name}
                assert value_of(effect, **where) == pytest.approx(wanted, abs=EXACT), where


def test_a_band_sets_the_coordinates_of_every_layer_and_one_of_one_layer_is_the_swap_there(tiny_slm):
    case, basis, layers = tiny_case(tiny_slm), LensBasis(LogitLens(tiny_slm), tiny_slm), [1, 2]
    effect = causal.run(tiny_slm, [case], basis, layers=layers, arms=["text", "band"], outcome=WORD)
    where, wanted = list(case.span.corrupted), []
    for of in ("logit", ""):
        hooks = []
        for layer in layers:
            name = hooked.hook_at("resid_post", layer)
            natural, there = (plain.activations(tiny_slm, prompt, name)[where].double() for prompt in (case.base, case.source))
            rows = torch.cat(basis.pairs(layer, case.words.clean, case.words.corrupted)).double()
            swapped = (natural @ torch.linalg.pinv(rows)).flip(-1)

            def put(resid: Tensor, hook: Any, rows=rows, swapped=swapped, there=there, of=of) -> Tensor:
                resid = resid.clone()
                x = resid[0, where].double()
                resid[0, where] = (x + (swapped - x @ torch.linalg.pinv(rows)) @ rows if of else there).float()
                return resid

            hooks.append((name, put))
        wanted = plain.score(tiny_slm, case.base, case.contrast, WORD, hooks)
        assert value_of(effect, arm="band", basis=of, layer=1) == pytest.approx(wanted, abs=EXACT)
    for of, alone, dose in (("logit", "text", 1.0), ("", "whole", 1.0)):
        last = {"basis": of, "layer": 2, "dose": dose}
        assert value_of(effect, arm="band", **last) == pytest.approx(value_of(effect, arm=alone, **last), abs=EXACT)


def test_the_direct_part_is_the_exchange_with_later_blocks_held_and_nothing_away_from_the_last_position(tiny_slm):
    case = tiny_case(tiny_slm)
    spans = (case.source, case.base)
    ends = replace(
        case, name="last", span=SpanPair("word", *(Span(len(one) - 2, len(one)) for one in spans)), other_voice=None, elsewhere=None
    )
    effect = causal.run(tiny_slm, [case, ends], LogitLens(tiny_slm), layers=[1, 3], arms=["text", "direct"], outcome=[ONSET, WORD])
    values = effect.table.set_index(["case", "layer", "arm", "dose", "outcome"])["effect"]
    assert (values["first", :, "direct"] == 0).all()
    for outcome in (ONSET.name, WORD.name):
        assert values["last", 3, "direct", 1.0, outcome] == pytest.approx(
            values["last", 3, "text", 1.0, outcome], abs=EXACT
        )  # no block is later
        assert abs(values["last", 1, "direct", 1.0, outcome] - values["last", 1, "text", 1.0, outcome]) > 1e-2
    where = list(ends.span.corrupted)
    swap = SwapCoordinates(*LensBasis(LogitLens(tiny_slm), tiny_slm).pairs(1, "france", "rome")).hook("resid_post", 1, where)
    names = [hooked.hook_at(site, block) for block in (1, 2) for site in ("attn_out", "mlp_out")]
    kept = {name: plain.activations(tiny_slm, ends.base, name)[None] for name in names}
    held = [(name, lambda value, hook, name=name: kept[name]) for name in names]
    base = plain.score(tiny_slm, ends.base, ends.contrast, ONSET, [])
    wanted = plain.score(tiny_slm, ends.base, ends.contrast, ONSET, [swap, *held]) - base
    assert values["last", 1, "direct", 1.0, ONSET.name] == pytest.approx(wanted, abs=EXACT)


def test_random_directions_are_those_of_the_control_and_as_long_as_the_change_of_text(tiny_slm):
    case, basis = tiny_case(tiny_slm), LensBasis(LogitLens(tiny_slm), tiny_slm)
    effect = causal.run(tiny_slm, [case], basis, layers=[2], arms=["random_exact", "text"], outcome=[ONSET, WORD], seed=3)
    assert effect.random is not None and effect.random_exact is not None
    assert effect.random.dims == ("case", "basis", "layer", "draw") and effect.random.shape == (1, 1, 1, 1000)
    where = list(case.span.corrupted)
    resid = plain.activations(tiny_slm, case.base, hooked.hook_at("resid_post", 2))[where]
    change = SwapCoordinates(*basis.pairs(2, "france", "rome"))(resid[None], None)[0] - resid
    vectors = next(drawn(change, Key(3, case.name, 2), 50))
    assert vectors.norm(dim=-1) == pytest.approx(change.norm(dim=-1).expand(50, -1), rel=1e-4)
    for number in (0, 7):

        def put(value: Tensor, hook: Any, number: int = number) -> Tensor:
            value = value.clone()
            value[0, where] += vectors[number]
            return value

        score = plain.score(tiny_slm, case.base, case.contrast, ONSET, [(hooked.hook_at("resid_post", 2), put)])
        assert float(effect.random_exact[0, 0, 0, number]) == pytest.approx(score - effect.table["base"].iloc[0], abs=EXACT)
    assert effect.agreement("logit", 2).correlation > 0.5


def test_distances_are_told_by_the_prompts_of_other_cases(tiny_slm):
    cases = [tiny_case(tiny_slm, str(number), by=number) for number in range(3)]
    table = causal.run(tiny_slm, cases, LogitLens(tiny_slm), layers=[2], arms=["text", "self", "distance"], outcome=ONSET).table
    assert table.loc[table["arm"] == "self", "distance"].tolist() == pytest.approx([1.0] * 3)
    assert (table.loc[(table["arm"] == "text") & (table["dose"] == 2.0), "distance"] != 1).all()
    alone = causal.run(tiny_slm, cases[:1], LogitLens(tiny_slm), layers=[2], arms=["text", "distance"], outcome=ONSET).table
    assert alone["distance"].isna().all()  # there are no other prompts


def test_several_pairs_of_directions_are_exchanged_together(tiny_slm):
    case, basis = tiny_case(tiny_slm), RandomBasis(tiny_slm.model.cfg.d_model, each=2)
    effect = causal.run(tiny_slm, [case], basis, layers=[2], arms=["text"], outcome=WORD)
    pairs = basis.pairs(2, case.words.clean, case.words.corrupted)
    assert len(pairs[0]) == 2
    wanted = hooked_value(tiny_slm, case, "text", pairs, 2, WORD, policies.same)
    assert value_of(effect, arm="text", dose=1.0) == pytest.approx(wanted, abs=EXACT)


def test_doses_are_multiples_of_the_change(tiny_slm):
    case, basis = tiny_case(tiny_slm), LensBasis(LogitLens(tiny_slm), tiny_slm)
    effect = causal.run(tiny_slm, [case], basis, layers=[2], arms=["text"], outcome=ONSET)
    swap, where = SwapCoordinates(*basis.pairs(2, case.words.clean, case.words.corrupted)), list(case.span.corrupted)
    for dose in DOSES:

        def put(resid: Tensor, hook: Any, dose: float = dose) -> Tensor:
            return resid + dose * (swap(resid, where) - resid)

        wanted = plain.score(tiny_slm, case.base, case.contrast, ONSET, [(hooked.hook_at("resid_post", 2), put)])
        assert value_of(effect, arm="text", dose=dose) == pytest.approx(wanted, abs=EXACT)


def test_outcomes_that_share_their_runs_are_those_asked_for_alone(tiny_slm):
    case, asked = tiny_case(tiny_slm), [ONSET, WORD, outcomes.log_prob(units=2), outcomes.kl()]
    together = causal.run(tiny_slm, [case], LogitLens(tiny_slm), outcome=asked).table
    alone = pd.concat([causal.run(tiny_slm, [case], LogitLens(tiny_slm), outcome=one).table for one in asked])
    for column in ("base", "source", "value"):
        pd.testing.assert_series_equal(
            together.set_index(CELL)[column].sort_index(), alone.set_index(CELL)[column].sort_index(), rtol=0, atol=EXACT
        )


def test_what_stands_there_already_changes_exactly_nothing_and_the_last_layer_reaches_nothing(tiny_slm):
    last = tiny_slm.model.cfg.n_layers
    table = causal.run(
        tiny_slm, [tiny_case(tiny_slm)], LogitLens(tiny_slm), layers=[1, last], arms=["text", "self", "other_voice", "written_text"]
    ).table
    assert (table.loc[table["arm"] == "self", ["effect", "moved"]] == 0).all(axis=None)
    heard = table[(table["layer"] == last) & ~table["arm"].str.startswith("written")]
    assert heard["effect"].abs().max() < EXACT  # no word stands at the last position
    assert (heard.loc[heard["arm"] == "text", "moved"] > 0).all()


def test_a_case_has_no_row_for_what_it_lacks_and_the_effect_says_so(tiny_slm):
    full = tiny_case(tiny_slm)
    bare = replace(full, name="bare", words=Words("france", "rome"), elsewhere=None, other_voice=None, written=None, written_span=None)
    plan = causal.plan(tiny_slm, [full, bare], LogitLens(tiny_slm), arms="full")
    effect = plan.run()
    lacking = {"third", "phonetic", "semantic", "elsewhere", "other_voice", "written_whole", "written_text"}
    assert effect.missing == dict.fromkeys(lacking, 1)
    there = effect.table.groupby("case")["arm"].unique()
    assert set(there["first"]) - set(there["bare"]) == lacking
    assert "third (1 of 2 cases)" in repr(plan)


def test_a_preset_says_what_it_leaves_out(tiny_slm):
    plan = causal.plan(tiny_slm, [tiny_case(tiny_slm)], LogitLens(tiny_slm))
    assert set(plan.left_out) == {*ARMS, *CHECKS} - set(PRESETS["quick"])
    assert "leaves out: copied" in repr(plan)
    assert "Leaves out: copied" in plan._repr_html_()
    assert "Left out: copied" in plan.run()._repr_html_()


def test_a_plan_counts_what_will_be_run(tiny_slm):
    plan = causal.plan(
        tiny_slm, [tiny_case(tiny_slm), tiny_case(tiny_slm, "second", by=3)], LogitLens(tiny_slm), arms="full", layers=[1, 2]
    )
    effect = plan.run()
    assert effect.random_exact is not None
    assert plan.cost.cells == (effect.table["outcome"] == ONSET.name).sum() + effect.random_exact.size
    assert plan.cost.forwards == 2 * 5  # two prompts, a voice, two texts
    assert 0 < plan.cost.multiply_adds < plan.cost.plain
    assert plan.cost.seconds > 0


# -- planted models ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "fraction"), [("shadow", None), ("mediated", None), ("partial", 0.3), ("partial", 0.8)])
@pytest.mark.parametrize("seed", [0, 3])
def test_shares_on_planted_models_are_the_planted_ones(kind, fraction, seed):
    model = cached(kind, fraction, seed=seed, n_contrasts=4)
    lens = LogitLens(model.slm)  # its directions are oblique
    arms = ["text", "complement", "third"]
    effect = causal.run(model.slm, planted_cases(model), lens, layers=model.layers, arms=arms, outcome=ONSET)
    for arm, wanted in (("text", model.fraction), ("complement", 1 - model.fraction), ("whole", 1.0)):
        share = effect.effects(arm, lens.name).mean() / effect.effects("whole").mean()
        assert share.tolist() == pytest.approx([wanted] * len(model.layers), abs=1e-4)
    text, third = (effect.effects(arm, lens.name).to_numpy() for arm in ("text", "third"))
    assert third == pytest.approx(text / 2, abs=1e-3)  # taking the corrupted word away is half of it
    assert effect.reading["heard"].all() and (effect.reading["margin"] > 5).all()


def test_a_dead_model_moves_by_nothing():
    model = cached("dead", n_contrasts=4)
    table = causal.run(model.slm, planted_cases(model), LogitLens(model.slm), layers=model.layers[:1], arms="full").table
    assert table["effect"].abs().max() < 1e-4
    assert (table["source"] - table["base"]).abs().max() < 1e-4


# -- going on, and order -----------------------------------------------------------------------------


def test_a_run_that_was_killed_goes_on_and_ends_the_same(tiny_slm, tmp_path: Path, monkeypatch):
    cases = [tiny_case(tiny_slm, str(number), by=number) for number in range(4)]
    plan = causal.plan(tiny_slm, cases, LogitLens(tiny_slm))
    whole, ran = plan.run(), []
    own = causal.experiment.Plan._run_one

    def killed(self: Any, case: Case, asked: Any) -> Any:
        if len(ran) == 2:
            raise KeyboardInterrupt
        ran.append(case.name)
        return own(self, case, asked)

    monkeypatch.setattr(causal.experiment.Plan, "_run_one", killed)
    with pytest.raises(KeyboardInterrupt):
        plan.run(tmp_path)
    ran.clear()
    gone_on = plan.run(tmp_path)
    assert ran == ["2", "3"]
    pd.testing.assert_frame_equal(gone_on.table, whole.table)
    pd.testing.assert_frame_equal(gone_on.reading, whole.reading)


def test_a_folder_of_other_settings_is_refused(tiny_slm, tmp_path: Path):
    case = tiny_case(tiny_slm)
    causal.run(tiny_slm, [case], LogitLens(tiny_slm), store=tmp_path)
    with pytest.raises(StoreError, match="arms is"):
        causal.run(tiny_slm, [case], LogitLens(tiny_slm), store=tmp_path, arms="full")
    with pytest.raises(StoreError, match="bases is"):
        causal.run(tiny_slm, [case], EmbeddingBasis(tiny_slm), store=tmp_path)


def test_a_case_of_the_same_name_with_other_words_places_or_prompts_is_another_part(tiny_slm):
    case, policy = tiny_case(tiny_slm), policies.same
    others = [
        replace(case, words=replace(case.words, third="capital")),
        replace(case, elsewhere=None),
        replace(case, other_voice=None),
        replace(case, written=None, written_span=None),
        tiny_case(tiny_slm, by=1),
        tiny_case(tiny_slm, longer=True),
    ]
    keys = [key_of(one, policies.warped) for one in (case, *others)] + [key_of(case, policies.last_unit)]
    assert len(set(keys)) == len(keys)
    assert key_of(case, policy) == key_of(replace(case, prompt="called otherwise"), policy)


def test_the_order_of_cases_does_not_matter(tiny_slm):
    cases = [replace(tiny_case(tiny_slm, str(number), by=number), word=f"pair {number}") for number in range(4)]
    arms = ["text", "distance", "random", "variance"]
    one, other = (causal.run(tiny_slm, own, LogitLens(tiny_slm), layers=[2], arms=arms) for own in (cases, cases[::-1]))
    for first, second, columns in ((one.table, other.table, CELL), (one.reading, other.reading, ["case", "basis", "layer"])):
        pd.testing.assert_frame_equal(*(frame.sort_values(columns).reset_index(drop=True) for frame in (first, second)))
    assert one.random is not None and other.random is not None
    xr.testing.assert_identical(one.random, other.random.sortby("case"))


# -- refusals ----------------------------------------------------------------------------------------


def refuses(slm: SpeechTextModel, case: Case, match: str, **options: Any) -> None:
    with pytest.raises(PatchingError, match=match):
        causal.plan(slm, [case], options.pop("bases", LogitLens(slm)), **options)


def test_words_that_cannot_be_exchanged_are_refused_by_the_name_of_their_case(tiny_slm):
    case = tiny_case(tiny_slm)
    refuses(tiny_slm, replace(case, words=Words("zebra", "rome")), "Case 'first': 'zebra' and 'rome' cannot be exchanged.*cannot spell")
    refuses(tiny_slm, replace(case, words=Words("france ", "france")), "Case 'first'.*'france ' and 'france' cannot be exchanged")
    refuses(tiny_slm, replace(case, words=Words("france", "rome", "france ")), "Case 'first': 'france ' and 'france' cannot be exchanged")


def test_spans_of_two_lengths_need_a_policy_and_elsewhere_is_as_long_as_the_word(tiny_slm):
    refuses(tiny_slm, tiny_case(tiny_slm, longer=True), "Case 'first': The spans have 3 and 5 positions. Say how they meet: policy=")
    refuses(tiny_slm, replace(tiny_case(tiny_slm), elsewhere=Span(0, 2)), "Case 'first': elsewhere is as long as the word, 3")


def test_arms_layers_bases_and_outcomes_that_are_not_there_are_refused(tiny_slm):
    case = tiny_case(tiny_slm)
    refuses(tiny_slm, case, "Arms are a preset, 'quick' or 'full'", arms="fast")
    refuses(tiny_slm, case, "Arms are whole, text", arms=["texts"])
    refuses(tiny_slm, case, "At the embedding nothing has been computed", layers=[0, 1])
    refuses(tiny_slm, case, "one basis or more, each of its own name", bases=[LogitLens(tiny_slm), LogitLens(tiny_slm)])
    refuses(tiny_slm, case, "Outcomes that share their runs", outcome=[ONSET, outcomes.difference(among="joint")])


def test_weights_that_are_not_numbers_are_refused(tiny_slm):
    weight = hooked.parameters(tiny_slm.model)["blocks.1.mlp.W_out"]
    kept = weight.data.clone()
    try:
        weight.data[0, 0] = torch.nan
        with pytest.raises(PatchingError, match="are not finite"):
            causal.run(tiny_slm, [tiny_case(tiny_slm)], LogitLens(tiny_slm))
    finally:
        weight.data.copy_(kept)
