from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from slm_interp.errors import VocabularyError
from slm_interp.metrics import kl_divergence, log_probs, logit_difference, rank, sequence_log_prob

AMONG = torch.tensor([True, False, True, True, False, True])


def logits(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return (3 * torch.randn(*shape, dtype=torch.float64)).to(dtype)


def test_log_probs_are_scipys_log_softmax_in_float64():
    x = logits(4, 5, 6)
    np.testing.assert_allclose(log_probs(x), special.log_softmax(x.numpy(), axis=-1), rtol=1e-13)


def test_log_probs_among_some_ids_are_those_of_a_vocabulary_of_these_ids_alone():
    x = logits(4, 6)
    chosen = log_probs(x, AMONG)
    np.testing.assert_allclose(chosen[:, AMONG], special.log_softmax(x[:, AMONG].numpy(), axis=-1), rtol=1e-13)
    assert (chosen[:, ~AMONG] == -torch.inf).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_narrow_logits_are_normalised_in_float32(dtype):
    x = logits(3, 2000, dtype=dtype)
    result = log_probs(x)
    assert result.dtype == torch.float32
    np.testing.assert_allclose(result, special.log_softmax(x.double().numpy(), axis=-1), rtol=2e-6)


def test_the_log_prob_of_a_sequence_is_the_sum_over_its_own_targets():
    x, targets = logits(3, 6), torch.tensor([5, 0, 2])
    dense = special.log_softmax(x.numpy(), axis=-1)
    assert sequence_log_prob(x, targets).item() == pytest.approx(dense[0, 5] + dense[1, 0] + dense[2, 2], rel=1e-13)
    own = special.log_softmax(x[:, AMONG].numpy(), axis=-1)
    assert sequence_log_prob(x, targets, AMONG).item() == pytest.approx(own[0, 3] + own[1, 0] + own[2, 1], rel=1e-13)


def test_kl_is_scipys_entropy_of_the_two_and_0_of_one_with_itself():
    p, q = logits(4, 6), logits(4, 6)
    np.testing.assert_allclose(kl_divergence(p, q), stats.entropy(special.softmax(p, -1), special.softmax(q, -1), axis=-1), rtol=1e-10)
    some = stats.entropy(special.softmax(p[:, AMONG], -1), special.softmax(q[:, AMONG], -1), axis=-1)
    np.testing.assert_allclose(kl_divergence(p, q, AMONG), some, rtol=1e-10)
    assert (kl_divergence(p, p, AMONG) == 0).all()


def test_kl_is_infinite_where_the_other_forbids_what_the_reference_allows_and_not_the_reverse():
    p, q = logits(6), logits(6)
    forbidding = q.masked_fill(~AMONG, -torch.inf)
    assert kl_divergence(p, forbidding) == torch.inf
    assert kl_divergence(forbidding, p).isfinite()


def test_broken_logits_never_look_like_agreement():
    broken = logits(6).index_fill(0, torch.tensor([2]), torch.nan)
    assert kl_divergence(broken, logits(6)).isnan()
    assert kl_divergence(logits(6), broken).isnan()
    assert log_probs(broken).isnan().all()
    assert rank(broken, 0).isnan()
    assert rank(broken, 2).isnan()


def test_metrics_have_finite_gradients_that_stay_away_from_ids_left_out():
    x, y = logits(3, 6).requires_grad_(), logits(3, 6).requires_grad_()
    (kl_divergence(x, y, AMONG).sum() + sequence_log_prob(x, torch.tensor([0, 2, 3]), AMONG)).backward()
    for one in (x, y):
        assert one.grad.isfinite().all()
        assert (one.grad[:, ~AMONG] == 0).all()
        assert (one.grad[:, AMONG] != 0).all()


def test_logit_difference_is_answer_minus_distractor():
    x = logits(2, 3, 6)
    assert torch.equal(logit_difference(x, 4, 1), x[..., 4] - x[..., 1])


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=12), st.data())
def test_rank_is_scipys_mid_rank_from_the_top(values, data):
    target = data.draw(st.integers(0, len(values) - 1))
    expected = stats.rankdata([-value for value in values], method="average")[target] - 1
    assert rank(torch.tensor(values, dtype=torch.float32), target).item() == expected


def test_rank_of_a_row_of_equal_logits_is_the_chance_level_whatever_the_id():
    assert {rank(torch.zeros(2, 7), target)[0].item() for target in range(7)} == {3.0}


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: log_probs(logits(6), torch.zeros(6, dtype=torch.bool)), "There is nothing to normalise over: the mask selects no id."),
        (lambda: sequence_log_prob(logits(2, 6), torch.tensor([0, 4]), AMONG), "Target id 4 is not among the ids normalised over."),
        (
            lambda: sequence_log_prob(logits(3, 6), torch.tensor([0, 4])),
            "Each row of logits predicts one target; got 3 rows and 2 targets.",
        ),
    ],
)
def test_what_has_no_value_is_refused_in_a_sentence(make, sentence):
    with pytest.raises(VocabularyError, match=re.escape(sentence)):
        make()
