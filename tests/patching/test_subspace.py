"""Subspaces of the stream: what is exchanged, copied, erased and added, and that all else stays."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
import torch

from slm_interp import hooked, patching
from slm_interp.errors import PatchingError
from slm_interp.lenses import LogitLens
from slm_interp.model import SpeechTextModel
from slm_interp.patching import outcomes, policies
from slm_interp.patching.interventions import (
    Chain,
    ComplementOnly,
    CopyCoordinates,
    Erase,
    Freeze,
    Interchange,
    Intervention,
    Steer,
    Subspace,
    SwapCoordinates,
    SwapReadings,
    stream,
)
from slm_interp.patching.policies import Stretch
from slm_interp.utterance import Contrast, Span
from tests.patching import plain

SIZE = 24
SPAN = Span(2, 4)


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


RESID = drawn(2, 6, SIZE)
A, B = drawn(2, SIZE, seed=1)  # neither orthogonal nor of one length
PAIRS = drawn(6, SIZE, seed=2)
OTHER = drawn(2, SIZE, seed=3)  # a source of two positions

EVERY: dict[str, Intervention] = {
    "interchange": Interchange(OTHER),
    "coordinates": SwapCoordinates(A, B),
    "readings": SwapReadings(A, B),
    "copy": CopyCoordinates(PAIRS, OTHER),
    "complement": ComplementOnly(PAIRS, OTHER),
    "erase": Erase(PAIRS),
    "steer": Steer(A, -0.5, "residual_norm"),
    "freeze": Freeze(OTHER[0]),
    "chain": SwapCoordinates(A, B).then(Steer(B, 1.0, "absolute")),
}
every = pytest.mark.parametrize("name", EVERY)


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-10, atol=1e-10)


def least_squares(directions: torch.Tensor, resid: torch.Tensor) -> torch.Tensor:
    """Coordinates by another way than the library's: a solver of least squares, vector by vector."""
    found = torch.linalg.lstsq(directions.T, resid.reshape(-1, SIZE).T).solution.T
    return found.reshape(*resid.shape[:-1], len(directions))


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_nothing_outside_the_positions_changes_by_a_bit_and_the_dtype_stays(name: str, dtype: torch.dtype) -> None:
    resid = RESID.to(dtype)
    before = resid.clone()
    for where in (SPAN, [3, 2]):
        found = EVERY[name](resid, where)
        assert found.dtype == dtype and torch.equal(resid, before)
        assert torch.equal(found[:, [0, 1, 4, 5]], resid[:, [0, 1, 4, 5]])
        assert (found[:, 2:4] != resid[:, 2:4]).any(-1).all()  # and every position inside does


@every
def test_half_precision_is_float32_arithmetic_rounded_once(name: str) -> None:
    resid = RESID.to(torch.bfloat16)
    assert torch.equal(EVERY[name](resid, SPAN), EVERY[name](resid.float(), SPAN).to(torch.bfloat16))


def test_a_chain_is_one_after_the_other() -> None:
    steps = (SwapCoordinates(A, B), Steer(B, 1.0, "absolute"), Erase(PAIRS))
    one_by_one = RESID
    for step in steps:
        one_by_one = step(one_by_one, SPAN)
    assert close(Chain(steps)(RESID, SPAN), one_by_one) and close(steps[0].then(*steps[1:])(RESID, SPAN), one_by_one)
    swap, half = SwapCoordinates(A, B), RESID.to(torch.bfloat16)
    assert torch.allclose(swap.then(swap)(half, SPAN).float(), half.float(), rtol=0.005)  # not rounded between


def test_coordinates_are_those_of_least_squares_and_not_dot_products() -> None:
    directions = torch.stack([A, B])
    assert close(Subspace(directions).coordinates(RESID), least_squares(directions, RESID))
    before, after = (least_squares(directions, one) for one in (RESID, SwapCoordinates(A, B)(RESID, None)))
    assert close(after, before.flip(-1))


def test_pairs_exchange_each_with_its_own() -> None:
    before, after = (least_squares(PAIRS, one) for one in (RESID, SwapCoordinates(PAIRS[:3], PAIRS[3:])(RESID, None)))
    assert close(after, before[..., [3, 4, 5, 0, 1, 2]])
    assert close(SwapReadings(PAIRS[:3], PAIRS[3:])(RESID, None) @ PAIRS.T, (RESID @ PAIRS.T)[..., [3, 4, 5, 0, 1, 2]])


swaps = pytest.mark.parametrize("swap", [SwapCoordinates, SwapReadings])


@swaps
def test_swapping_twice_is_nothing(swap) -> None:
    once = swap(A, B)(RESID, None)
    assert not torch.allclose(once, RESID, atol=0.1) and close(swap(A, B)(once, None), RESID)


@swaps
def test_a_swap_does_not_see_what_is_orthogonal_to_the_span(swap) -> None:
    beside = drawn(2, 6, SIZE, seed=4)
    basis, _ = torch.linalg.qr(torch.stack([A, B]).T)
    beside = beside - beside @ basis @ basis.T
    assert close(swap(A, B)(RESID + beside, None), swap(A, B)(RESID, None) + beside)


@swaps
def test_numbers_outside_the_span_are_left_to_the_bit(swap) -> None:
    first, second = torch.zeros(2, SIZE)
    first[[4, 5]], second[[4, 5]] = torch.tensor([1.0, 0.3]), torch.tensor([0.2, 2.0])
    resid, rest = RESID.float(), [number for number in range(SIZE) if number not in (4, 5)]
    found = swap(first, second)(resid, None)
    assert torch.equal(found[..., rest], resid[..., rest]) and not torch.equal(found[..., 4:6], resid[..., 4:6])


def test_readings_after_a_swap_of_coordinates_are_what_the_formula_says() -> None:
    r_a, r_b = RESID @ A, RESID @ B
    c_a, c_b = least_squares(torch.stack([A, B]), RESID).unbind(-1)
    after, longer = SwapCoordinates(A, B)(RESID, None), A @ A - B @ B
    assert close(after @ A, r_b + longer * c_b) and close(after @ B, r_a - longer * c_a)
    assert not SwapCoordinates(A, B).exchanges_readings and not torch.allclose(after @ A, r_b, atol=0.01)


def test_directions_of_one_length_exchange_readings_and_keep_the_norm() -> None:
    swap, b = SwapCoordinates(A, B * A.norm() / B.norm()), B * A.norm() / B.norm()
    after = swap(RESID, None)
    assert swap.exchanges_readings and close(after @ A, RESID @ b) and close(after @ b, RESID @ A)
    assert close(after.norm(dim=-1), RESID.norm(dim=-1)) and close(after, SwapReadings(A, b)(RESID, None))


def test_pairs_of_one_length_exchange_readings_only_where_all_products_stay() -> None:
    unit = PAIRS / PAIRS.norm(dim=-1, keepdim=True)
    assert not SwapCoordinates(unit[:2], unit[2:4]).exchanges_readings
    assert SwapCoordinates(torch.eye(SIZE)[:2], torch.eye(SIZE)[2:4]).exchanges_readings


def test_exchanged_readings_are_the_smallest_change_that_exchanges_them() -> None:
    after = SwapReadings(A, B)(RESID, None)
    assert close(after @ A, RESID @ B) and close(after @ B, RESID @ A)
    assert close(Subspace(torch.stack([A, B])).within(after - RESID), after - RESID)


def test_the_scores_of_a_lens_are_exchanged(tiny_slm: SpeechTextModel, equal: Contrast) -> None:
    """At the model's own final norm: by readings up to one scale, by coordinates exactly where lengths agree."""
    lens, model = LogitLens(tiny_slm), tiny_slm.model
    ids = [tiny_slm.word_ids(word)[0] for word in ("the", "of")]
    a, b = lens.directions(1, ["the", "of"])
    resid = hooked.stream(model, equal.clean.tokens)[1][None]
    scale = hooked.norm_formula(model).scale

    def scores(at: torch.Tensor) -> torch.Tensor:
        return lens.scores(at, 1) @ hooked.unembedding(model).W_U[:, ids]  # without b_U, a constant

    before, after = scores(resid), SwapReadings(a, b)(resid, SPAN)
    assert torch.allclose((scores(after) * scale(after)[..., None])[:, 2:4], (before * scale(resid)[..., None])[:, 2:4].flip(-1), atol=1e-4)
    ratio = a.norm() / b.norm()
    equally_long = SwapCoordinates(a, b * ratio)(resid, SPAN)
    assert torch.allclose(scale(equally_long), scale(resid), rtol=1e-5)
    assert torch.allclose(scores(equally_long)[:, 2:4], (before.flip(-1) * torch.stack([ratio, 1 / ratio]))[:, 2:4], atol=1e-4)


def test_text_only_and_complement_only_sum_to_the_whole_patch() -> None:
    text, rest, whole = (
        one(RESID, SPAN) - RESID for one in (CopyCoordinates(PAIRS, OTHER), ComplementOnly(PAIRS, OTHER), Interchange(OTHER))
    )
    assert close(text + rest, whole) and close((text * rest).sum(-1), torch.zeros(2, 6, dtype=torch.float64))


def test_text_only_has_the_coordinates_of_the_source_and_complement_only_those_that_stood_there() -> None:
    there, source, inside = RESID[:, 2:4], OTHER.expand(2, 2, SIZE), torch.linalg.pinv(PAIRS) @ PAIRS
    for patch, coordinates, rest in ((CopyCoordinates, source, there), (ComplementOnly, there, source)):
        found = patch(PAIRS, OTHER)(RESID, SPAN)[:, 2:4]
        assert close(least_squares(PAIRS, found), least_squares(PAIRS, coordinates))
        assert close(found - found @ inside, rest - rest @ inside)


def test_dependent_directions_span_what_independent_ones_do() -> None:
    again = torch.cat([PAIRS, PAIRS[:2] * 3, PAIRS[:1] + PAIRS[1:2]]).float()
    assert Erase(again).rank == 6 and Subspace(again).rank == 6
    assert torch.allclose(Erase(again)(RESID, SPAN), Erase(PAIRS.float())(RESID, SPAN), atol=1e-6)


def test_an_erased_reading_is_zero_and_erasing_twice_is_erasing_once() -> None:
    found = Erase(PAIRS)(RESID, None)
    assert close(found @ PAIRS.T, torch.zeros(2, 6, 6, dtype=torch.float64)) and close(Erase(PAIRS)(found, None), found)
    inside = torch.linalg.pinv(PAIRS) @ PAIRS
    assert close(found, RESID - RESID @ inside)
    single = Erase(PAIRS.float())(RESID.float(), None) @ PAIRS.float().T
    assert float(single.abs().max()) < 1e-5


def test_the_top_directions_are_those_of_the_largest_singular_values() -> None:
    directions = torch.eye(SIZE)[:3] * torch.tensor([[1.0], [5.0], [3.0]]) + 1e-4 * torch.eye(SIZE)[1:4]
    resid = RESID.float()
    found = Erase.top(directions, 2)
    assert found.rank == 2
    assert torch.allclose(found(resid, None)[..., 1:3], torch.zeros(2, 6, 2), atol=1e-3)
    assert torch.allclose(found(resid, None)[..., 0], resid[..., 0], atol=1e-3)


def test_variance_removed_is_the_share_in_the_span() -> None:
    spread = torch.diag(torch.tensor([3.0] + [1.0] * (SIZE - 1))) + 7  # the mean counts for nothing
    cloud = torch.cat([spread, 14 - spread])
    axes = torch.eye(SIZE)
    assert Erase(axes[:1]).variance_removed(cloud) == pytest.approx(9 / (9 + SIZE - 1), abs=1e-5)
    assert Erase(axes[:-1]).variance_removed(cloud) == pytest.approx(1 - 1 / (9 + SIZE - 1), abs=1e-5)
    after = Erase(PAIRS)(RESID, None).flatten(0, 1)
    left = 1 - after.var(0).sum() / RESID.flatten(0, 1).var(0).sum()
    assert Erase(PAIRS).variance_removed(RESID) == pytest.approx(float(left))


def test_a_dose_counts_in_lengths_of_the_residual_or_in_its_own_units() -> None:
    for dose in (-2.0, 0.25):
        relative, absolute = (Steer(A, dose, unit)(RESID, SPAN) - RESID for unit in ("residual_norm", "absolute"))
        assert close(relative[:, 2:4].norm(dim=-1), abs(dose) * RESID[:, 2:4].norm(dim=-1))
        assert close(absolute[:, 2:4] @ A / A.norm(), torch.full((2, 2), dose, dtype=torch.float64))
        assert close(Steer(A * 10, dose, "absolute")(RESID, SPAN) - RESID, absolute)
    assert torch.equal(Steer(A, 0.0, "residual_norm")(RESID, SPAN), RESID)


def test_the_size_of_a_change_is_given_by_position() -> None:
    assert close(Steer(A, -2.0, "absolute").size(RESID, SPAN), torch.tensor([[0, 0, 2.0, 2, 0, 0]] * 2).double())


def test_values_go_in_by_row_by_position_or_to_all() -> None:
    rows = drawn(2, 2, SIZE, seed=5)
    assert torch.equal(Interchange(rows)(RESID, SPAN)[:, 2:4], rows)
    assert torch.equal(Interchange(OTHER)(RESID, [3, 1])[:, [3, 1]], OTHER.expand(2, 2, SIZE))
    assert torch.equal(Freeze(OTHER[0])(RESID, None), OTHER[0].expand(2, 6, SIZE))


def test_an_interchange_through_a_pairing_is_a_cell_of_the_sweep(tiny_slm: SpeechTextModel, unequal: Contrast) -> None:
    pair = patching.spans.spans_of(unequal, "words")[1]
    base, source = unequal.corrupted, unequal.clean
    pairing = policies.warped(Stretch(source, pair.of("clean")), Stretch(base, pair.of("corrupted")))
    there, here = (hooked.stream(tiny_slm.model, one.tokens)[1] for one in (source, base))
    hook = Interchange(pairing.values(there, here)).hook("resid_post", 1, pairing.base.tolist())
    found = plain.score(tiny_slm, base, unequal, outcomes.difference(), [hook])
    sweep = patching.activation(tiny_slm, unequal, site="resid_post", policy="warped", layers=[1])
    assert found == pytest.approx(float(sweep.dataset["outcome"].values[0, 0, 1]), abs=1e-5)


def test_a_frozen_last_layer_lets_nothing_through(tiny_slm: SpeechTextModel, equal: Contrast) -> None:
    tokens, last = equal.clean.tokens, tiny_slm.model.cfg.n_layers
    own = plain.logits_of(tiny_slm, tokens, [])
    a, b = LogitLens(tiny_slm).directions(1, ["the", "of"])
    swap = SwapCoordinates(a, b).hook("resid_post", 1, Span(2, 5))
    held = Freeze(hooked.stream(tiny_slm.model, tokens)[last]).hook("resid_post", last, None)
    assert not torch.allclose(plain.logits_of(tiny_slm, tokens, [swap]), own, atol=1e-5)
    assert torch.allclose(plain.logits_of(tiny_slm, tokens, [swap, held]), own, atol=1e-5)


def test_a_hook_is_the_same_as_a_call(tiny_slm: SpeechTextModel, equal: Contrast) -> None:
    a, b = LogitLens(tiny_slm).directions(1, ["the", "of"])
    name, put = SwapCoordinates(a, b).hook("resid_post", 1, SPAN)
    seen: list[torch.Tensor] = []
    plain.logits_of(tiny_slm, equal.clean.tokens, [(name, put), (name, lambda value, hook: seen.append(value.clone()))])
    there = hooked.stream(tiny_slm.model, equal.clean.tokens)[1][None]
    assert torch.allclose(seen[0], SwapCoordinates(a, b)(there, SPAN), atol=1e-6)
    assert not torch.allclose(seen[0][:, 2:4], there[:, 2:4], atol=1e-6)


def test_an_outcome_is_measured_inside_the_hooks_of_a_model(tiny_slm: SpeechTextModel, equal: Contrast) -> None:
    hook = SwapCoordinates(*LogitLens(tiny_slm).directions(1, ["the", "of"])).hook("resid_post", 1, SPAN)
    with tiny_slm.model.hooks(fwd_hooks=[hook]):
        found = patching.measure(tiny_slm, equal.clean, equal, outcomes.difference())
    assert found == pytest.approx(plain.score(tiny_slm, equal.clean, equal, outcomes.difference(), [hook]), abs=1e-5)
    assert abs(found - patching.measure(tiny_slm, equal.clean, equal, outcomes.difference())) > 1e-4


def test_an_erasure_is_the_projection_of_the_plain_hooks() -> None:
    assert close(Erase(PAIRS)(RESID, SPAN), stream.project_out("resid_post", 1, SPAN, PAIRS)[1](RESID, None))


def test_gradients_pass_through_the_residuals() -> None:
    resid = RESID.clone().requires_grad_()
    SwapCoordinates(A, B)(resid, SPAN)[:, 2, 0].sum().backward()
    assert resid.grad is not None and resid.grad[:, 2].any() and not resid.grad[:, 3:].any()


def test_an_intervention_does_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        Steer(A, 1.0, "absolute").dose = 2.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Erase(torch.stack([A, A * torch.nan])), "got 2, of which 1 are not finite and 0 zero"),
        (lambda: CopyCoordinates(torch.stack([A, A * 0]), OTHER), "got 2, of which 0 are not finite and 1 zero"),
        (lambda: Erase(A[None][:0]), "got 0, of which"),
        (lambda: SwapCoordinates(A, A * 2), "these 2 have rank 1"),
        (lambda: SwapReadings(PAIRS[:2], PAIRS[1:3]), "these 4 have rank 3"),
        (lambda: SwapCoordinates(PAIRS[:2], PAIRS[:3]), r"Pairs are two vectors.*\(2, 24\) and \(3, 24\)"),
        (lambda: SwapCoordinates(A, B[:5]), r"Pairs are two vectors.*\(24,\) and \(5,\)"),
        (lambda: Erase(torch.eye(SIZE)), "have rank 24, all of d_model"),
        (lambda: Erase.top(PAIRS, 4), r"are 1 to 3 \(an eighth of d_model 24 at most.*got r=4"),
        (lambda: Erase.top(PAIRS[:2], 3), "no more than the rank 2"),
        (lambda: Erase.top(PAIRS, 0), "got r=0"),
        (lambda: Erase(PAIRS).variance_removed(RESID[0, :1]), "two residuals or more"),
        (lambda: Erase(PAIRS).variance_removed(RESID * torch.inf), "are finite and differ"),
        (lambda: Erase(PAIRS[:2, :5])(RESID, SPAN), "as the stream, 24; got 5"),
        (lambda: Steer(A[:5], 1.0, "absolute")(RESID, SPAN), "as the stream, 24; got 5"),
        (lambda: Steer(A * 0, 1.0, "absolute"), "1 zero"),
        (lambda: Steer(A, float("nan"), "absolute"), "finite number; got nan"),
        (lambda: Interchange(OTHER * torch.nan), "48 of 48 are not"),
        (lambda: ComplementOnly(PAIRS, OTHER / 0), "are finite; 48 of 48"),
        (lambda: Interchange(drawn(3, SIZE))(RESID, SPAN), r"\(2, 2, 24\).*got \(3, 24\)"),
        (lambda: Freeze(A[:5])(RESID, SPAN), r"got \(5,\)"),
        (lambda: Erase(PAIRS)(RESID, [6]), r"in 0..5; got \[6\]"),
        (lambda: Erase(PAIRS)(RESID, [-1]), r"got \[-1\]"),
        (lambda: Interchange(OTHER)(RESID, [1, 1]), r"each position once; got \[1, 1\]"),
        (lambda: Erase(PAIRS).hook("z", 0, SPAN), "stand at resid_pre.*got 'z'"),
        (lambda: Chain(()), "one intervention or more"),
    ],
)
def test_what_makes_no_sense_is_refused(make, says: str) -> None:
    with pytest.raises(PatchingError, match=says):
        make()


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Steer(A, 1.0, "norm"), "'residual_norm' or 'absolute'; got 'norm'"),  # type: ignore[arg-type]
        (lambda: SwapCoordinates(A[:5], B[:5])(RESID, SPAN), "as the stream, 24; got 5"),
        (lambda: Interchange(torch.zeros(1, 1, 2, SIZE))(RESID, SPAN), r"got \(1, 1, 2, 24\)"),
    ],
)
def test_users_are_told_without_the_checks_of_the_tests(make, says: str) -> None:
    with pytest.raises(PatchingError, match=says):
        make()
