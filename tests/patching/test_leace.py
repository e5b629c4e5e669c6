"""LEACE: afterwards no linear probe does better than one that sees nothing; the library, the formula and a freshly fitted probe agree."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import Any

import concept_erasure
import pytest
import torch
from torch import Tensor

from slm_interp.errors import PatchingError
from slm_interp.lenses.probe.multinomial import fit, whitening
from slm_interp.model import SpeechTextModel
from slm_interp.patching.interventions import Erase
from slm_interp.patching.interventions.leace import Leace

D_MODEL = 12
SHARES = {"paris": 0.5, "rome": 0.3, "oslo": 0.2}


def heard(rows: int = 400, seed: int = 0) -> tuple[Tensor, list[str]]:
    """Residuals with classes in two directions, noise that is correlated with them, far from zero."""
    generator = torch.Generator().manual_seed(seed)
    labels = [word for word, share in SHARES.items() for _ in range(round(share * rows))]
    means = 2 * torch.randn(3, D_MODEL, generator=torch.Generator().manual_seed(7))
    mix = torch.randn(D_MODEL, D_MODEL, generator=torch.Generator().manual_seed(8))
    noise = torch.randn(len(labels), D_MODEL, generator=generator) @ mix
    return 5 + noise + means[[list(SHARES).index(word) for word in labels]], labels


def numbers(labels: Sequence[str]) -> Tensor:
    return torch.tensor([list(SHARES).index(word) for word in labels])


def accuracy(train: tuple[Tensor, list[str]], test: tuple[Tensor, list[str]], penalty: float = 1e-4) -> float:
    """Of a probe fitted afresh."""
    weight, bias = fit(whitening(train[0]), numbers(train[1]), 3, penalty)
    return float(((test[0] @ weight.T + bias).argmax(-1) == numbers(test[1])).float().mean())


def made(intervention: Any, resid: Tensor) -> Tensor:
    return intervention(resid[None], None)[0]


def test_afterwards_a_fresh_probe_guesses_the_commonest_class_on_what_it_was_trained_on_and_on_what_it_was_not() -> None:
    resid, labels = heard()
    other, others = heard(seed=1)
    erased = Leace.fit(resid, labels)
    assert accuracy((resid, labels), (other, others)) > 0.7
    assert accuracy((made(erased, resid), labels), (made(erased, resid), labels)) == 0.5
    assert accuracy((made(erased, resid), labels), (made(erased, other), others)) == 0.5


def test_the_best_linear_probe_of_its_training_data_is_the_constant_one() -> None:
    """Cross-entropy is convex, and its slope is zero there: no linear probe at all is better, whichever way it is trained."""
    resid, labels = heard()
    after = made(Leace.fit(resid, labels), resid.double())
    weight = torch.zeros(3, D_MODEL, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(list(SHARES.values()), dtype=torch.float64).log()
    torch.nn.functional.cross_entropy(after @ weight.T + bias, numbers(labels)).backward()
    assert float(weight.grad.abs().max()) < 1e-12


def test_it_is_the_library_s() -> None:
    resid, labels = heard()
    shown = torch.nn.functional.one_hot(numbers(sorted(labels)), 3)
    own = Leace.fit(resid, sorted(labels))
    theirs = concept_erasure.LeaceFitter.fit(resid.double(), shown, svd_tol=1e-6, constrain_cov_trace=False).eraser
    torch.testing.assert_close(made(own, resid), theirs(resid.double()).float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.eye(D_MODEL, dtype=torch.float64) - own.left.T @ own.right, theirs.P, rtol=0, atol=1e-9)


def test_it_erases_what_the_library_s_own_settings_leave() -> None:
    """A rare word of little difference: a singular value below 0.01."""
    generator = torch.Generator().manual_seed(0)
    resid = torch.randn(20000, 4, generator=generator).double()
    resid[:40, 0] += 0.2
    labels = ["rare"] * 40 + ["common"] * 19960
    shown = torch.tensor([[0, 1]] * 40 + [[1, 0]] * 19960)
    ours, theirs = made(Leace.fit(resid, labels), resid), concept_erasure.LeaceEraser.fit(resid, shown)(resid)
    gaps = [float((after[:40].mean(0) - after[40:].mean(0)).abs().max()) for after in (ours, theirs)]
    assert gaps[0] < 1e-9
    assert gaps[1] > 0.05


def test_it_is_a_projection_around_the_mean_of_rank_one_less_than_there_are_classes() -> None:
    resid, labels = heard()
    erased = Leace.fit(resid, labels)
    assert erased.rank == 2
    assert erased.classes == ("oslo", "paris", "rome")
    once = made(erased, resid)
    torch.testing.assert_close(made(erased, once), once, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(once.mean(0), resid.mean(0), rtol=1e-5, atol=1e-4)


def test_it_moves_residuals_less_than_taking_out_the_means_of_the_classes_which_leaves_no_trace_either() -> None:
    """By the metric of the covariance, and here by the plain one: correlated noise is what makes it oblique."""
    resid, labels = heard()
    means = torch.stack([resid[[word == one for word in labels]].mean(0) for one in SHARES]) - resid.mean(0)
    straight, oblique = Erase(means[:2]), Leace.fit(resid, labels)
    centred = resid - resid.mean(0)
    flat = made(straight, centred)
    assert max(float(flat[[word == one for word in labels]].mean(0).abs().max()) for one in SHARES) < 1e-3
    assert oblique.size(resid[None], None).square().mean() < straight.size(centred[None], None).square().mean()


def test_as_a_hook_it_changes_the_named_positions_and_no_other(tiny_slm: SpeechTextModel) -> None:
    d_model = tiny_slm.model.cfg.d_model
    resid = torch.randn(60, d_model)
    erased = Leace.fit(resid, ["a", "b", "c"] * 20)
    kept: dict[str, Tensor] = {}
    tokens = tiny_slm.vocabulary.mask("speech").nonzero().flatten()[:6][None]

    def keep(value: Tensor, hook: Any) -> None:
        kept["after"] = value

    _, cache = tiny_slm.model.run_with_cache(tokens, prepend_bos=False)
    tiny_slm.model.run_with_hooks(
        tokens, prepend_bos=False, fwd_hooks=[erased.hook("resid_post", 2, [1, 4]), ("blocks.1.hook_resid_post", keep)]
    )
    before = cache["blocks.1.hook_resid_post"]
    torch.testing.assert_close(kept["after"][0, [0, 2, 3, 5]], before[0, [0, 2, 3, 5]], rtol=0, atol=0)
    torch.testing.assert_close(kept["after"][0, [1, 4]], made(erased, before[0, [1, 4]]), rtol=0, atol=0)
    assert (kept["after"][0, [1, 4]] != before[0, [1, 4]]).any()


def test_the_variance_that_is_gone_is_said_and_may_be_less_than_none() -> None:
    resid, labels = heard()
    erased = Leace.fit(resid, labels)
    after = made(erased, resid.double())
    gone = 1 - float((after - after.mean(0)).square().sum() / (resid.double() - resid.double().mean(0)).square().sum())
    assert erased.variance_removed(resid) == pytest.approx(gone, abs=1e-5)
    with pytest.raises(PatchingError, match="two residuals or more"):
        erased.variance_removed(resid[:1])


def test_in_bfloat16_it_is_right_to_the_rounding() -> None:
    resid, labels = heard()
    erased = Leace.fit(resid, labels)
    coarse = made(erased, resid.bfloat16())
    assert coarse.dtype == torch.bfloat16
    torch.testing.assert_close(coarse.float(), made(erased, resid), rtol=0.02, atol=0.1)


def test_what_cannot_be_erased_is_refused() -> None:
    resid, labels = heard(40)
    with pytest.raises(PatchingError, match="got 40 residuals and 39 labels"):
        Leace.fit(resid, labels[1:])
    with pytest.raises(PatchingError, match="1 of 40 residuals are not finite"):
        Leace.fit(torch.cat([resid[:39], torch.full((1, D_MODEL), torch.nan)]), labels)
    with pytest.raises(PatchingError, match="2 to 12 of them in a stream of 12; got 1"):
        Leace.fit(resid, ["paris"] * 40)
    with pytest.raises(PatchingError, match="got 13"):
        Leace.fit(resid, [str(row % 13) for row in range(40)])
    with pytest.raises(PatchingError, match="two residuals each"):
        Leace.fit(resid[:5], ["a", "b", "c", "a", "b"])
    with pytest.raises(PatchingError, match="one mean already"):
        Leace.fit(torch.cat([resid, resid]), ["a"] * 40 + ["b"] * 40)


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    there = builtins.__import__

    def gone(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "concept_erasure":
            raise ImportError(name)
        return there(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", gone)
    with pytest.raises(ImportError, match=r"concept-erasure is needed here.*pip install 'slm-interp\[causal\]'"):
        Leace.fit(*heard(40))
