"""A learned subspace: on planted models it does what everything does, and lies where what is read stands."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles

from slm_interp import hooked
from slm_interp.causal.angles import chance_overlap, overlap, principal_angles, random_subspace
from slm_interp.causal.bases import LensBasis
from slm_interp.causal.cases import Case
from slm_interp.causal.planted import plant
from slm_interp.causal.rotation import Recipe, Rotation, angles, compared, split_by_pairs, split_by_words, train
from slm_interp.causal.rotation.examples import laid_out
from slm_interp.errors import PatchingError
from slm_interp.lenses import LogitLens
from slm_interp.model import SpeechTextModel
from slm_interp.patching import outcomes
from slm_interp.patching.interventions import CopyCoordinates
from slm_interp.patching.measuring import measure
from slm_interp.patching.policies import same
from tests.causal.planted_cases import cases, planted

LAYER = 3


def sides(kind: str) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    return split_by_pairs(cases(planted(kind), 3), 0.25)


@cache
def learned(kind: str, price: float = 20.0) -> Rotation:
    """Two dimensions: the next word begins with one of three onsets."""
    return train(planted(kind).slm, sides(kind)[0], LAYER, 2, recipe=Recipe(steps=120, price=price), progress=False)


def text(kind: str) -> LensBasis:
    return LensBasis(LogitLens(planted(kind).slm), planted(kind).slm)


@pytest.mark.parametrize("kind", ["mediated", "shadow"])
def test_on_pairs_of_words_that_it_was_not_learned_from_it_does_what_everything_does_and_chance_and_variance_do_not(kind: str) -> None:
    table = compared(planted(kind).slm, learned(kind), sides(kind)[1], text(kind), draws=3, learned_from=sides(kind)[0])
    mean = table.groupby("arm")["effect"].mean() / table.loc[table["arm"] == "whole", "effect"].mean()
    assert mean["learned"] == pytest.approx(1, abs=0.1)
    assert mean["random"] < 0.2 and mean["variance"] < 0.5
    assert mean["text"] == pytest.approx(1 if kind == "mediated" else 0, abs=1e-3)
    assert mean["all_text"] == pytest.approx(mean["text"], abs=1e-3)


def test_where_text_is_read_it_lies_in_text_and_where_a_secret_code_is_read_it_does_not() -> None:
    found = {kind: angles(learned(kind), text(kind), planted(kind).lexicon.words) for kind in ("mediated", "shadow")}
    assert found["mediated"]["overlap"].iloc[0] > 0.7
    assert found["shadow"]["overlap"].iloc[0] < 0.05
    assert found["shadow"]["angle"].min() > 75
    assert found["shadow"]["chance"].iloc[0] == 9 / 64


def test_without_the_price_a_code_that_nobody_reads_is_half_of_what_is_found() -> None:
    """It does the same: what a search finds is not what the model uses."""
    free = learned("mediated", 0.0)
    table = compared(planted("mediated").slm, free, sides("mediated")[1], text("mediated"), draws=1)
    mean = table.groupby("arm")["effect"].mean()
    assert mean["learned"] == pytest.approx(mean["whole"], rel=0.1)
    assert angles(free, text("mediated"), planted("mediated").lexicon.words)["overlap"].iloc[0] < 0.6


def test_of_a_model_in_which_nothing_depends_on_the_word_there_is_nothing_to_learn() -> None:
    dead = plant("dead", d_model=64, n_words=9, n_contrasts=18)
    with pytest.raises(PatchingError, match="The whole patch at layer 3 changes nothing"):
        train(dead.slm, cases(dead), LAYER, 2, progress=False)


# -- examples ----------------------------------------------------------------------------------------


@torch.no_grad()
def test_examples_are_the_engine_s_numbers_and_the_interventions_hooks() -> None:
    model = planted("mediated")
    some = cases(model)[:3]
    made = laid_out(model.slm, some, LAYER, same, both_ways=True)
    said = made.difference(made.log_probs(model.slm, made.base))
    for number, case in enumerate(some):
        assert float(said[number]) == pytest.approx(measure(model.slm, case.base, case.contrast, outcomes.difference(units=1)), abs=1e-6)
        assert float(said[number + 3]) == pytest.approx(
            -measure(model.slm, case.source, case.contrast, outcomes.difference(units=1)), abs=1e-6
        )
    rows = random_subspace(5, 64, torch.Generator().manual_seed(0))
    patched = made.log_probs(model.slm, made.within(rows))
    case, span = some[1], some[1].span
    source = hooked.residuals(model.slm.model, case.source.tokens)[LAYER, span.clean.start : span.clean.stop]
    hook = CopyCoordinates(rows, source).hook("resid_post", LAYER, span.corrupted)
    logits = model.slm.model.run_with_hooks(case.base.tokens[None], prepend_bos=False, fwd_hooks=[hook])[0, -1, made.ids]
    torch.testing.assert_close(patched[1], logits.log_softmax(-1), rtol=1e-6, atol=1e-6)


def test_sides_share_no_words_or_no_pairs() -> None:
    every = cases(planted("shadow"), 2)

    def words(side: tuple[Case, ...]) -> set[str]:
        return {word for case in side for word in (case.words.clean, case.words.corrupted)}

    first, second = split_by_words(every, 0.4, seed=1)
    assert not words(first) & words(second)
    assert len(first) + len(second) < len(every)
    first, second = split_by_pairs(every)
    assert not {case.word for case in first} & {case.word for case in second}
    assert len(first) + len(second) == len(every)
    with pytest.raises(PatchingError, match="share no word"):
        split_by_words(every[:1])
    with pytest.raises(PatchingError, match="Two sides need two groups"):
        split_by_pairs(every, 1.0)


# -- angles ------------------------------------------------------------------------------------------


def test_angles_are_scipy_s_small_ones_too() -> None:
    first, second = torch.randn(3, 20, dtype=torch.float64), torch.randn(5, 20, dtype=torch.float64)
    near = first + 1e-6 * torch.randn(3, 20, dtype=torch.float64)
    for other in (second, near, torch.cat([near[:1], second[:2]])):
        theirs = np.rad2deg(np.sort(subspace_angles(first.T.numpy(), other.T.numpy())))
        np.testing.assert_allclose(principal_angles(first, other).numpy(), theirs, rtol=1e-4, atol=1e-7)
        assert overlap(first, other) == pytest.approx(float(np.mean(np.cos(np.deg2rad(theirs)) ** 2)))


def test_small_angles_are_as_exact_as_large_ones() -> None:
    for turn in (1e-9, 1e-4, 0.5, 1.5):
        turned = torch.tensor([[np.cos(turn), np.sin(turn), 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
        found = principal_angles(torch.eye(3, dtype=torch.float64)[:1], turned)
        np.testing.assert_allclose(found.numpy(), [np.rad2deg(turn)], rtol=1e-6)


def test_the_overlap_of_random_subspaces_is_that_of_chance_on_average() -> None:
    generator = torch.Generator().manual_seed(0)
    fixed = torch.randn(6, 30, dtype=torch.float64)
    drawn = [overlap(random_subspace(2, 30, generator), fixed) for _ in range(1000)]
    assert np.mean(drawn) == pytest.approx(chance_overlap(2, 6, 30), rel=0.05)


# -- saving, refusing --------------------------------------------------------------------------------


def test_a_rotation_is_saved_with_what_it_came_from_and_read_for_its_own_model_alone(tmp_path: Path, tiny_slm: SpeechTextModel) -> None:
    own, slm = learned("mediated"), planted("mediated").slm
    own.save(tmp_path)
    again = Rotation.load(tmp_path, slm)
    torch.testing.assert_close(again.directions, own.directions, rtol=0, atol=0)
    assert again.hash == own.hash and again.layer == LAYER
    assert "rank 2 of 64 at layer 3" in repr(again)
    assert len(again.history) and "objective whole" in again._repr_html_()
    with pytest.raises(PatchingError, match="Train one for it"):
        Rotation.load(tmp_path, tiny_slm)
    said = json.loads((tmp_path / "rotation.json").read_text())
    (tmp_path / "rotation.json").write_text(json.dumps(said | {"layer": 2}))
    with pytest.raises(PatchingError, match="do not belong together"):
        Rotation.load(tmp_path, slm)
    with pytest.raises(PatchingError, match=r"No rotation.json"):
        Rotation.load(tmp_path / "nowhere", slm)


def test_rows_are_orthonormal_and_interventions_are_those_of_their_span() -> None:
    own, resid, source = learned("shadow"), torch.randn(1, 2, 64).double(), torch.randn(2, 64).double()
    torch.testing.assert_close(own.directions @ own.directions.T, torch.eye(2, dtype=torch.float64))
    both = own.intervention(source)(resid, None) + own.complement(source)(resid, None)
    torch.testing.assert_close(both, resid + source)


def test_what_cannot_be_learned_is_refused() -> None:
    slm, some = planted("mediated").slm, cases(planted("mediated"))
    for rank in (0, 64):
        with pytest.raises(PatchingError, match=f"1 to 63 dimensions of the 64 there are; got {rank}"):
            train(slm, some, LAYER, rank, progress=False)
    with pytest.raises(PatchingError, match="20 dimensions are learned from more cases than that"):
        train(slm, some, LAYER, 20, progress=False)
    with pytest.raises(PatchingError, match="An objective is one of whole, answer; got 'loss'"):
        Recipe(objective="loss")
    with pytest.raises(PatchingError, match=r"in 0\.\.5"):
        train(slm, some, 9, 2, progress=False)
