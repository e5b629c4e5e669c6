"""Padding changes no number: a batch of many is many batches of one, on every architecture, padded on either side."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from slm_interp import hooked
from slm_interp.convert import load
from slm_interp.errors import ReadoutError
from slm_interp.hooked import batch
from slm_interp.model import SpeechTextModel
from slm_interp.readout import modality_groups, read_out
from tests.replicas import N_UNITS, VARIANTS, write_slamkit

SIDES = ("right", "left")
LENGTHS = (5, 13, 9, 1, 13, 40)  # longer than every window of the replicas


@pytest.fixture(scope="module", params=sorted(VARIANTS))
def slm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SpeechTextModel:
    return load(write_slamkit(tmp_path_factory.mktemp("batch"), VARIANTS[request.param]), n_units=N_UNITS)


def rows_of(lengths: tuple[int, ...] = LENGTHS) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, N_UNITS + 2, (length,), generator=generator) for length in lengths]


def furthest(found: list[Tensor], wanted: list[Tensor]) -> float:
    """The largest difference over the largest residual."""
    return max(float((one - other).abs().max() / other.abs().max()) for one, other in zip(found, wanted, strict=True))


@pytest.mark.parametrize("side", SIDES)
def test_a_batch_of_many_is_many_batches_of_one(slm, side):
    rows = rows_of()
    alone = [hooked.residuals(slm.model, row) for row in rows]
    together = hooked.residuals_of(slm.model, rows, side)
    assert [one.shape for one in together] == [one.shape for one in alone]
    assert furthest(together, alone) < 1e-5


@pytest.mark.parametrize("side", SIDES)
def test_ranks_are_the_same_in_a_batch(slm, side):
    """Of all ids at all positions of all layers, wherever the neighbours in rank are further apart than rounding."""
    rows = rows_of((7, 12, 3))
    groups, unembedding, ids = modality_groups(slm.vocabulary), hooked.unembedding(slm.model), torch.arange(2, N_UNITS + 2)
    for alone, together in zip((hooked.residuals(slm.model, row) for row in rows), hooked.residuals_of(slm.model, rows, side), strict=True):
        one, other = (
            read_out(hooked.final_norm(slm.model, resid).flatten(0, 1), unembedding, groups, 1, ids) for resid in (alone, together)
        )
        gaps = one.target_log_prob.sort(-1).values.diff(dim=-1).min(-1).values
        clear = gaps > 1e-4
        assert clear.float().mean() > 0.9
        assert torch.equal(one.target_rank[clear], other.target_rank[clear])


def test_a_batch_without_its_mask_would_be_seen(slm, monkeypatch):
    """The comparison above has the power to see pads that are attended to, and positions that are counted from them."""
    honest = batch.run_blocks
    monkeypatch.setattr(batch, "run_blocks", lambda model, tokens, hooks, mask: honest(model, tokens, hooks))
    rows = rows_of()
    alone = [hooked.residuals(slm.model, row) for row in rows]
    assert furthest(hooked.residuals_of(slm.model, rows, "left"), alone) > 1e-2


@pytest.mark.parametrize("side", SIDES)
def test_no_tokenizer_decides_what_a_pad_is(tiny_slm, monkeypatch, side):
    """TransformerLens takes leading ids for pads when the tokenizer pads on the left with them; ours are all real."""
    tokenizer = tiny_slm.model.tokenizer
    rows = [torch.tensor([tokenizer.pad_token_id, 3, 4, 5]), torch.tensor([tokenizer.pad_token_id] * 2 + [3])]
    monkeypatch.setattr(tokenizer, "padding_side", "right")
    residuals, logits = [hooked.residuals(tiny_slm.model, row) for row in rows], [hooked.logits(tiny_slm.model, row[None]) for row in rows]
    monkeypatch.setattr(tokenizer, "padding_side", "left")
    assert furthest(hooked.residuals_of(tiny_slm.model, rows, side), residuals) < 1e-5
    assert furthest([hooked.residuals(tiny_slm.model, row) for row in rows], residuals) < 1e-5
    assert furthest([hooked.logits(tiny_slm.model, row[None]) for row in rows], logits) < 1e-5


def test_a_bfloat16_batch_differs_by_the_rounding_of_bfloat16(tmp_path):
    slm = load(write_slamkit(tmp_path, VARIANTS["llama"], dtype=torch.bfloat16), n_units=N_UNITS)
    rows = rows_of((5, 13, 9))
    alone, together = [hooked.residuals(slm.model, row) for row in rows], hooked.residuals_of(slm.model, rows, "left")
    assert together[0].dtype == torch.bfloat16
    assert furthest([one.float() for one in together], [one.float() for one in alone]) < 0.02


def test_every_row_comes_once_and_is_the_same_whatever_the_memory(tiny_slm):
    rows = rows_of()
    alone = [hooked.residuals(tiny_slm.model, row) for row in rows]
    for memory in (0, 40_000, 2**30):
        found = dict(hooked.each_residuals(tiny_slm.model, rows, memory))
        assert sorted(found) == list(range(len(rows)))
        assert furthest([found[number] for number in range(len(rows))], alone) < 1e-5


def test_bfloat16_rows_of_a_corpus_are_what_they_are_alone(tmp_path):
    """Bit for bit: otherwise ranks would depend on who else was in the batch."""
    slm = load(write_slamkit(tmp_path, VARIANTS["llama"], dtype=torch.bfloat16), n_units=N_UNITS)
    rows = rows_of((5, 13, 9, 40, 41))
    found = dict(hooked.each_residuals(slm.model, rows, 2**30))
    assert all(found[number].equal(hooked.residuals(slm.model, row)) for number, row in enumerate(rows))


def test_batches_keep_to_the_budget_and_one_row_always_fits():
    def fits(count: int, longest: int) -> bool:
        return count * longest <= 12

    assert batch.batches([5, 3, 20, 4, 3, 6], fits) == [[1, 4, 3], [0, 5], [2]]


def test_the_budget_counts_what_a_batch_takes(tiny_slm):
    """Twice the residuals of 3 rows of 8 positions are the least; twice the rows take twice as much."""
    config = tiny_slm.model.cfg
    least = 2 * (config.n_layers + 1) * 3 * 8 * config.d_model * 4
    assert hooked.batch_bytes(config, 3, 8) > least
    assert hooked.batch_bytes(config, 6, 8) == 2 * hooked.batch_bytes(config, 3, 8)


@pytest.mark.parametrize(
    ("lengths", "side", "sentence"),
    [
        ((), "right", "A batch has one row or more of 1 to 64 positions each; got 0 rows of 0 to 0 positions."),
        ((3, 65), "right", "A batch has one row or more of 1 to 64 positions each; got 2 rows of 3 to 65 positions."),
        ((3, 0), "left", "A batch has one row or more of 1 to 64 positions each; got 2 rows of 0 to 3 positions."),
        ((3,), "middle", "Rows are padded on the right or on the left; got 'middle'."),
    ],
)
def test_what_is_no_batch_is_refused(speech_only_slm: SpeechTextModel, as_users_run_it, lengths, side, sentence):
    with pytest.raises(ReadoutError, match=re.escape(sentence)):
        hooked.residuals_of(speech_only_slm.model, rows_of(lengths), side)
