"""KL(final || lens) and its gradient: the textbook formula, autograd, and the model's own head."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from slm_interp import hooked
from slm_interp.errors import ReadoutError
from slm_interp.lenses.tuned.divergence import Head, Target, gap, head_of, kl_of, target_of
from slm_interp.metrics import kl_divergence
from slm_interp.model import SpeechTextModel

D_MODEL, COLUMNS, N_ROWS = 7, 11, 40


def head(norm: str) -> Head:
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return Head(random(D_MODEL, COLUMNS), random(COLUMNS), 1 + 0.3 * random(D_MODEL), 0.3 * random(D_MODEL), 0.05, norm)


def logits(one: Head, resid: Tensor) -> Tensor:
    """The same head written with torch's own norms."""
    if one.norm == "LN":
        ready = torch.nn.functional.layer_norm(resid, (D_MODEL,), one.scale, one.shift, one.eps)
    elif one.norm == "RMS":
        ready = torch.nn.functional.rms_norm(resid, (D_MODEL,), one.scale, one.eps) + one.shift
    else:
        ready = resid * one.scale + one.shift
    return ready @ one.W_U + one.b_U


def rows(seed: int, count: int = N_ROWS) -> Tensor:
    return 2 * torch.randn(count, D_MODEL, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.5


def target(one: Head, final: Tensor, **options: int) -> Target:
    return target_of(one, final, torch.Generator().manual_seed(0), **options)


@pytest.mark.parametrize("norm", ["RMS", "LN", "none"])
def test_divergence_and_gradient_are_what_autograd_says(norm: str) -> None:
    one, final, resid = head(norm), rows(2), rows(3).requires_grad_(True)
    expected = kl_divergence(logits(one, final), logits(one, resid))
    (gradient,) = torch.autograd.grad(expected.sum(), resid)
    found = gap(one, resid.detach(), target(one, final))
    torch.testing.assert_close(found.kl, expected.detach(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.gradient, gradient, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(kl_of(one, resid.detach(), target(one, final)), expected.detach(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("norm", ["RMS", "LN"])
def test_the_drawn_gradient_has_the_curvature_as_its_second_moment(norm: str) -> None:
    one, count = head(norm), 60_000
    resid = rows(2, 1)
    hessian = torch.autograd.functional.hessian(lambda x: kl_divergence(logits(one, resid), logits(one, x)).sum(), resid)[0, :, 0]  # type: ignore[index]
    found = gap(one, resid.expand(count, -1), target(one, resid.expand(count, -1)))
    assert found.gradient.abs().max() < 1e-12
    torch.testing.assert_close(found.drawn.T @ found.drawn / count, hessian, rtol=0.03, atol=0.02 * float(hessian.abs().max()))


@pytest.mark.parametrize("block", [1, 3, N_ROWS, 1000])
def test_how_many_rows_are_worked_on_at_once_changes_nothing(block: int) -> None:
    one, memory = head("RMS"), block * 3 * COLUMNS * 8
    whole, parts = (gap(one, rows(3), target(one, rows(2), **options), **options) for options in ({}, {"memory": memory}))
    for name in ("kl", "gradient", "drawn"):
        torch.testing.assert_close(getattr(whole, name), getattr(parts, name), rtol=1e-12, atol=1e-12)


def test_too_little_memory_for_a_row_is_refused() -> None:
    with pytest.raises(ReadoutError, match="too little: one row of 11 logits"):
        target(head("RMS"), rows(2), memory=100)


@pytest.mark.parametrize("which", ["tiny_slm", "speech_only_slm"])
def test_the_head_of_a_model_is_its_own_norm_and_unembedding(which: str, request: pytest.FixtureRequest) -> None:
    slm: SpeechTextModel = request.getfixturevalue(which)
    resid = torch.randn(5, slm.model.cfg.d_model)
    among = torch.ones(slm.vocabulary.size, dtype=torch.bool)
    one = head_of(slm, among)
    assert one.norm == ("LN" if which == "speech_only_slm" else "RMS")
    assert one.W_U.data_ptr() == hooked.unembedding(slm.model).W_U.data_ptr()  # float32 and every id: no copy
    ours = (one.normed(resid)[0] * one.scale + one.shift) @ one.W_U + one.b_U
    theirs = slm.model.unembed(slm.model.ln_final(resid[None]))[0].detach()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    among[:5] = False
    torch.testing.assert_close(head_of(slm, among).W_U, one.W_U[:, 5:], rtol=0, atol=0)
