"""The streamed readout against the same numbers worked out densely in float64."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from slm_interp.errors import ReadoutError
from slm_interp.readout import Readout, Unembedding, block, modality_groups, read_out
from slm_interp.vocabulary import IdRange, JointVocabulary

SIZE, WIDTH, ROWS, K = 700, 16, 23, 10
VOCABULARY = JointVocabulary(
    (
        IdRange("dead", 0, 3),
        IdRange("text", 3, 401),
        IdRange("speech", 401, 601, step=2, codebook=0),
        IdRange("speech", 402, 602, step=2, codebook=1),
        IdRange("marker", 601, 602, template="<speech>"),
        IdRange("text", 602, 690),
        IdRange("dead", 690, 700),
    ),
    SIZE,
)
GROUPS = modality_groups(VOCABULARY)
LIVE = torch.arange(3, 690)


def drawn(
    seed: int = 0, rows: int = ROWS, dtype: torch.dtype = torch.float32, scale: float = 0.5, bias: bool = False
) -> tuple[Tensor, Unembedding]:
    """Values in steps of 1/16, so that float32 logits are exact and ranks can be compared with float64."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return (16 * torch.randn(*shape, generator=generator)).round().to(dtype) / 16

    resid, weight = draw(rows, WIDTH), scale * draw(SIZE, WIDTH)
    return resid, Unembedding(weight.T, draw(SIZE) if bias else None)


def tied(seed: int = 0) -> tuple[Tensor, Unembedding]:
    """Whole-number residuals and weights: logits are exact in every dtype and most of them have equals."""
    generator = torch.Generator().manual_seed(seed)
    resid = torch.randint(-1, 2, (ROWS, WIDTH), generator=generator).bfloat16()
    return resid, Unembedding(torch.randint(-1, 2, (SIZE, WIDTH), generator=generator).bfloat16().T)


def dense(resid: Tensor, unembedding: Unembedding, groups: dict[str, Tensor] = GROUPS, exclude: Tensor | None = None) -> Tensor:
    """Logits in float64, minus infinity where an id is not read."""
    logits = resid.double() @ unembedding.W_U.double()
    if unembedding.b_U is not None:
        logits += unembedding.b_U.double()
    logits[:, ~torch.stack(list(groups.values())).any(0)] = -torch.inf
    if exclude is not None:
        logits[torch.arange(len(resid)), exclude] = -torch.inf
    return logits


def listed(logits: Tensor, k: int) -> Tensor:
    """Ids of the k greatest logits, smaller ids first among equals: a stable sort in id order."""
    return logits.sort(dim=-1, descending=True, stable=True).indices[:, :k]


def mid_rank(logits: Tensor, target: int) -> Tensor:
    own = logits[:, target, None]
    return (logits > own).sum(-1) + ((logits == own).sum(-1) - 1) / 2


def assert_same(ours: Readout, logits: Tensor, targets: list[int], k: int = K, atol: float = 1e-5) -> None:
    log_probs = logits.log_softmax(-1)
    probs = log_probs.exp()
    assert torch.equal(ours.top_id, listed(logits, k))
    torch.testing.assert_close(ours.top_log_prob.double(), log_probs.gather(1, ours.top_id), atol=atol, rtol=0)
    mass = torch.stack([probs[:, GROUPS[name]].sum(-1) for name in ours.modalities], -1)
    torch.testing.assert_close(ours.log_mass.double().exp(), mass, atol=atol, rtol=0)
    torch.testing.assert_close(ours.entropy.double(), -(probs * log_probs.nan_to_num(neginf=0)).sum(-1), atol=atol, rtol=0)
    for column, target in enumerate(targets):
        assert torch.equal(ours.target_rank[:, column].double(), mid_rank(logits, target))
        torch.testing.assert_close(ours.target_log_prob[:, column].double(), log_probs[:, target], atol=atol, rtol=0)
        own = next(mask for mask in GROUPS.values() if mask[target])
        assert torch.equal(ours.target_rank_in_modality[:, column].double(), mid_rank(logits.masked_fill(~own, -torch.inf), target))
    for index, name in enumerate(ours.modalities):
        alone = logits.masked_fill(~GROUPS[name], -torch.inf)
        depth = min(k, int(GROUPS[name].sum()))
        assert torch.equal(ours.top_id_by_modality[:, index, :depth], listed(alone, depth))
        assert (ours.top_id_by_modality[:, index, depth:] == -1).all()
        assert ours.top_log_prob_by_modality[:, index, depth:].isnan().all()


@pytest.mark.parametrize("n_targets", [1, 5, 100])
@pytest.mark.parametrize("bias", [False, True])
def test_every_number_is_the_dense_one(n_targets: int, bias: bool) -> None:
    resid, unembedding = drawn(bias=bias)
    targets = LIVE[torch.randperm(len(LIVE), generator=torch.Generator().manual_seed(1))[:n_targets]]
    ours = read_out(resid, unembedding, GROUPS, K, targets)
    assert ours.modalities == ("text", "speech", "marker")
    assert_same(ours, dense(resid, unembedding), targets.tolist())


@pytest.mark.parametrize("n_targets", [5, 100])
def test_equal_logits_in_bfloat16_give_mid_ranks_and_lists_by_smaller_id(n_targets: int) -> None:
    resid, unembedding = tied()
    targets = LIVE[:: len(LIVE) // n_targets][:n_targets]
    logits = dense(resid, unembedding)
    ours = read_out(resid, unembedding, GROUPS, K, targets)
    assert_same(ours, logits, targets.tolist())
    ties = torch.stack([(logits == logits[:, one, None]).sum(-1) - 1 for one in targets.tolist()], -1)
    assert ties.median() > 10
    assert torch.equal(ours.target_ties, ties)


@pytest.mark.parametrize("k", [5, 40])
def test_targets_are_ranked_in_the_very_product_they_are_listed_from(k: int) -> None:
    generator = torch.Generator().manual_seed(0)
    resid, weight = (torch.randn(size, 96, generator=generator).bfloat16() for size in (37, SIZE))
    listing = read_out(resid, Unembedding(weight.T), GROUPS, k)
    ours = read_out(resid, Unembedding(weight.T), GROUPS, k, targets=listing.top_id)
    assert torch.equal(ours.target_log_prob, listing.top_log_prob)
    assert ours.target_ties.max() > 0
    place, half = torch.arange(k), ours.target_ties / 2
    assert ((ours.target_rank - half <= place) & (place <= ours.target_rank + half)).all()


@pytest.mark.parametrize("step", [1, 4096])
def test_the_list_is_right_when_every_entry_stands_in_another_panel(step: int) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(0, 8 * step, (ROWS, 5000), generator=generator).float()
    everything = {"text": torch.ones(5000, dtype=torch.bool)}
    for k in (1, 3, 10):
        ours = read_out(logits, Unembedding(torch.eye(5000)), everything, k)
        assert torch.equal(ours.top_id, listed(logits, k))


def test_a_row_of_equal_logits_has_the_chance_level_as_rank() -> None:
    _, unembedding = drawn()
    ours = read_out(torch.zeros(1, WIDTH), unembedding, GROUPS, 3, torch.tensor([3, 601, 689]))
    assert ours.target_rank.tolist() == [[(len(LIVE) - 1) / 2] * 3]
    assert ours.target_ties.tolist() == [[len(LIVE) - 1] * 3]
    assert ours.top_id.tolist() == [[3, 4, 5]]
    assert ours.entropy.item() == pytest.approx(torch.tensor(float(len(LIVE))).log().item())


@settings(max_examples=12, deadline=None)
@given(max_rows=st.integers(1, 40), tile=st.integers(1, 4096), seed=st.integers(0, 5), few=st.sampled_from([0, 12]))
def test_block_sizes_change_nothing(max_rows: int, tile: int, seed: int, few: int) -> None:
    targets = LIVE[::97]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(block, "TILE", tile)
        patch.setattr(block, "FEW_TARGETS", few)
        resid, unembedding = drawn(seed)
        assert_same(read_out(resid, unembedding, GROUPS, K, targets, max_rows=max_rows), dense(resid, unembedding), targets.tolist())
        resid, unembedding = tied(seed)
        assert_same(read_out(resid, unembedding, GROUPS, K, targets, max_rows=max_rows), dense(resid, unembedding), targets.tolist())


def test_targets_may_differ_by_row() -> None:
    resid, unembedding = drawn()
    targets = LIVE[torch.randint(len(LIVE), (ROWS, 4), generator=torch.Generator().manual_seed(2))]
    ours = read_out(resid, unembedding, GROUPS, K, targets, max_rows=5)
    logits = dense(resid, unembedding)
    for row in range(ROWS):
        assert ours.target_rank[row].tolist() == [mid_rank(logits[row : row + 1], one).item() for one in targets[row].tolist()]


def test_dead_rows_are_in_no_list_softmax_or_rank() -> None:
    resid, unembedding = drawn()
    loud = unembedding.W_U.clone()
    loud[:, :3] = 50 * resid[0, :, None]
    loud[:, 690:] = torch.nan
    ours = read_out(resid, Unembedding(loud), GROUPS, K, LIVE[:5])
    assert_same(ours, dense(resid, unembedding), LIVE[:5].tolist())
    with pytest.raises(ReadoutError, match="Target 1 is not among the ids that are read: it is dead, or its kind was left out"):
        read_out(resid, unembedding, GROUPS, targets=torch.tensor([5, 1]))


def test_an_excluded_id_is_as_if_it_were_not_there() -> None:
    resid, unembedding = drawn()
    exclude = listed(dense(resid, unembedding), 1)[:, 0]
    ours = read_out(resid, unembedding, GROUPS, K, LIVE[:50], exclude, max_rows=4)
    logits = dense(resid, unembedding, exclude=exclude)
    kept = [one for one in LIVE[:50].tolist() if one not in exclude]
    assert not (ours.top_id == exclude[:, None]).any()
    assert_same(read_out(resid, unembedding, GROUPS, K, torch.tensor(kept), exclude), logits, kept)
    out = LIVE[:50] == exclude[:, None]
    assert out.any()
    assert ours.target_rank[out].isnan().all()
    assert ours.target_log_prob[out].isnan().all()
    assert (ours.target_ties[out] == -1).all()
    assert not ours.target_rank[~out].isnan().any()


def test_excluding_all_of_a_modality_leaves_it_without_mass_and_its_list_empty() -> None:
    resid, unembedding = drawn()
    ours = read_out(resid, unembedding, GROUPS, K, exclude=torch.full((ROWS,), 601))
    assert (ours.log_mass[:, 2] == -torch.inf).all()
    assert (ours.top_id_by_modality[:, 2] == -1).all()
    assert ours.entropy.isfinite().all()


def test_an_excluded_id_that_is_not_read_changes_nothing() -> None:
    resid, unembedding = drawn()
    plain = read_out(resid, unembedding, GROUPS)
    assert torch.equal(read_out(resid, unembedding, GROUPS, exclude=torch.zeros(ROWS, dtype=torch.long)).entropy, plain.entropy)


@pytest.mark.parametrize("ids", [range(401, 601), [5, 9, 12, 14, 600], list(range(3, 401, 2)), [*range(3, 390, 5), *range(4, 390, 7), 601]])
def test_reading_some_ids_is_a_softmax_over_those_alone(ids: list[int]) -> None:
    resid, unembedding = drawn()
    groups = modality_groups(VOCABULARY, ids=ids)
    logits = dense(resid, unembedding, groups)
    ours = read_out(resid, unembedding, groups, 3, torch.tensor(sorted(set(ids))[:4]))
    assert torch.equal(ours.top_id, listed(logits, 3))
    torch.testing.assert_close(ours.entropy.double(), torch.special.entr(logits.softmax(-1)).sum(-1), atol=1e-5, rtol=0)
    assert ours.target_rank[:, 1].tolist() == mid_rank(logits, sorted(set(ids))[1]).tolist()


def test_reading_one_modality_never_touches_the_weights_of_the_others() -> None:
    resid, unembedding = drawn()
    poisoned = unembedding.W_U.clone()
    poisoned[:, ~GROUPS["speech"]] = torch.nan
    ours = read_out(resid, Unembedding(poisoned), modality_groups(VOCABULARY, kinds=["speech"]))
    assert ours.modalities == ("speech",)
    assert ours.log_mass.tolist() == [[0.0]] * ROWS


def test_lists_longer_than_what_is_read_end_in_minus_one() -> None:
    resid, unembedding = drawn()
    ours = read_out(resid, unembedding, modality_groups(VOCABULARY, ids=[4, 8, 601]), k=200)
    assert ours.top_id.shape == (ROWS, 200)
    assert set(ours.top_id[0, :3].tolist()) == {4, 8, 601}
    assert (ours.top_id[:, 3:] == -1).all()
    assert ours.top_log_prob[:, 3:].isnan().all()


def test_extreme_logits_keep_every_modality_finite() -> None:
    resid, unembedding = drawn(scale=300.0)
    ours = read_out(resid, unembedding, GROUPS)
    logits = dense(resid, unembedding)
    mass = torch.stack([logits[:, mask].logsumexp(-1) for mask in GROUPS.values()], -1) - logits.logsumexp(-1, keepdim=True)
    torch.testing.assert_close(ours.log_mass.double(), mass, rtol=1e-5, atol=1e-2)
    assert mass.min() < -200
    assert ours.entropy.isfinite().all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_residual_that_is_not_finite_is_refused_by_row(value: float) -> None:
    resid, unembedding = drawn()
    resid[17, 3] = value
    with pytest.raises(ReadoutError, match="Row 17 cannot be read: its residual is not finite"):
        read_out(resid, unembedding, GROUPS, max_rows=4)


def test_weights_that_are_not_finite_are_told_from_residuals() -> None:
    resid, unembedding = drawn()
    broken = unembedding.W_U.clone()
    broken[0, 50] = torch.nan
    with pytest.raises(ReadoutError, match="Row 0 cannot be read: its residual is finite, its logits are not finite"):
        read_out(resid, Unembedding(broken), GROUPS)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"targets": torch.tensor([4, SIZE])}, "Targets are ids in 0..699; got 700"),
        ({"targets": torch.tensor([-1])}, "Targets are ids in 0..699; got -1"),
        ({"k": 0}, "k is how many ids to list, at least 1; got 0"),
        ({"memory": 1000}, "0 MiB are too little: one row of .* Raise memory"),
        ({"groups": {"text": torch.ones(5, dtype=torch.bool)}}, "The mask of 'text' has 5 entries; W_U has 700 ids"),
        ({"groups": {"a": GROUPS["text"], "b": GROUPS["text"]}}, "share no id"),
        ({"groups": {"a": torch.zeros(SIZE, dtype=torch.bool)}}, "Group 'a' has no ids"),
        ({"resid": torch.zeros(2, WIDTH, dtype=torch.bfloat16)}, "must match W_U .* got d_model 16, torch.bfloat16"),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_sentence(change: dict, sentence: str) -> None:
    resid, unembedding = drawn()
    with pytest.raises(ReadoutError, match=sentence):
        read_out(**{"resid": resid, "unembedding": unembedding, "groups": GROUPS, **change})


def test_modality_groups_refuse_kinds_and_ids_that_leave_nothing() -> None:
    with pytest.raises(ReadoutError, match="there is no 'speech' to read"):
        modality_groups(JointVocabulary((IdRange("text", 0, 5),), 5), kinds=["speech"])
    with pytest.raises(ReadoutError, match="Nothing left to read"):
        modality_groups(VOCABULARY, kinds=["speech"], ids=[3])


def test_no_rows_give_empty_tensors_of_the_right_shapes() -> None:
    _, unembedding = drawn()
    ours = read_out(torch.zeros(0, WIDTH), unembedding, GROUPS, K, LIVE[:2])
    assert ours.top_id.shape == (0, K)
    assert ours.target_rank.shape == (0, 2)


def test_memory_stays_within_the_budget_and_the_weights_are_not_copied() -> None:
    rows, d_vocab, budget = 900, 40_000, 64 * 2**20
    weight = torch.randn(d_vocab, 320)
    resid = torch.randn(rows, 320)
    groups = {"text": torch.arange(d_vocab) < 39_000, "speech": torch.arange(d_vocab) >= 39_000}
    read_out(resid[:2], Unembedding(weight.T), groups)
    assert rows * d_vocab * 4 > 2 * budget
    before, peak, done = _anonymous(), [0], threading.Event()

    def watch() -> None:
        while not done.is_set():
            peak[0] = max(peak[0], _anonymous())
            time.sleep(0.002)

    thread = threading.Thread(target=watch)
    thread.start()
    read_out(resid, Unembedding(weight.T), groups, targets=torch.arange(5), max_rows=10_000, memory=budget)
    done.set()
    thread.join()
    assert peak[0] - before < budget


def _anonymous() -> int:
    """Bytes of this process that no file backs."""
    found = re.search(r"Anonymous:\s+(\d+)", Path("/proc/self/smaps_rollup").read_text())
    assert found
    return 1024 * int(found.group(1))
