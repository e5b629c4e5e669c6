"""Convergence of the Jacobian lens, on planted prompts whose true mean and noise are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from slm_interp.errors import ReadoutError
from slm_interp.lenses import JacobianFit, JacobianRecipe, LogitLens, convergence, fit_jacobian, readout_convergence
from slm_interp.lenses.jacobian import fit
from slm_interp.model import SpeechTextModel
from slm_interp.plots import convergence_by_prompts
from slm_interp.utterance import Utterance
from tests.lenses.jacobians import rows

SHORT = JacobianRecipe(skip_first_positions=2)
NOISE = 0.5


@pytest.fixture
def planted(tiny_slm: SpeechTextModel, monkeypatch: pytest.MonkeyPatch) -> JacobianFit:
    """64 prompts whose Jacobians are one matrix plus noise of half its norm, independent for each."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(1, 24, 24, generator=generator).expand(3, -1, -1)
    monkeypatch.setattr(fit, "jacobians_of", lambda *arguments: truth + NOISE * torch.randn(3, 24, 24, generator=generator))
    return fit_jacobian(tiny_slm, rows(tiny_slm, 64), SHORT)


def utterances(slm: SpeechTextModel, count: int, seed: int = 9) -> list[Utterance]:
    return [
        Utterance(one, torch.zeros(len(one) + 1), labels=slm.labels(one), quantiser="tiny", name=str(number))
        for number, one in enumerate(rows(slm, count, seed=seed))
    ]


def test_halves_that_share_no_prompt_differ_by_the_noise_of_both(planted: JacobianFit) -> None:
    table = convergence(planted).groupby(["against", "prompts"])["relative_frobenius"].mean()
    for each in (1, 2, 4, 8, 16, 32):
        assert table["half", each] == pytest.approx(NOISE * (1 / each + 1 / 32) ** 0.5, rel=0.1)
        assert table["same", each] == pytest.approx(NOISE * (2 / each / (1 + NOISE**2 / each)) ** 0.5, rel=0.1)
    assert table["half", 32] > 0.1, "what is left is not hidden"
    assert table["whole", 64] == 0, "a lens agrees with itself"


def test_cosine_rises_from_that_of_the_logit_lens_to_nearly_1(planted: JacobianFit) -> None:
    table = convergence(planted).query("against == 'half'").groupby("prompts")["cosine"].mean()
    assert abs(table[0]) < 0.15 and table[32] > 0.98 and table.is_monotonic_increasing


def test_a_half_read_against_another_with_the_same_matrices_has_no_divergence(planted: JacobianFit, tiny_slm: SpeechTextModel) -> None:
    same = JacobianFit(tiny_slm, planted.layers, planted.sums[:1].repeat(2, 1, 1, 1), planted.counts, {}, planted.prompts, planted.fitted)
    table = readout_convergence(same, utterances(tiny_slm, 3), draws=50).query("prompts == 32")
    assert table["kl"].abs().max() < 1e-6 and (table["top1"] == 1).all()
    assert (table["positions"] == 3 * 7).all()


def test_no_prompts_are_the_logit_lens(planted: JacobianFit, tiny_slm: SpeechTextModel) -> None:
    spoken = utterances(tiny_slm, 2)
    table = readout_convergence(planted, spoken, draws=50).set_index(["prompts", "layer"])
    parts = []
    for one in spoken:
        logit = torch.from_numpy(LogitLens(tiny_slm).read(one, layers=[1], targets=range(33)).dataset.target_log_prob.values[0, 2:])
        for which in (0, 1):
            reading = planted.half(which).read(one, layers=[1], targets=range(33))
            other = torch.from_numpy(reading.dataset.target_log_prob.values[0, 2:])
            parts.append((other.exp() * (other - logit)).sum(-1))
    assert table.loc[(0, 1), "kl"] == pytest.approx(float(torch.cat(parts).mean()), rel=1e-4)


def test_readings_come_nearer_with_prompts_and_intervals_hold_the_estimate(planted: JacobianFit, tiny_slm: SpeechTextModel) -> None:
    table = readout_convergence(planted, utterances(tiny_slm, 4), draws=200).query("layer == 1 and prompts > 0")
    assert table["kl"].iloc[-1] < 0.2 * table["kl"].iloc[0] and table["top1"].iloc[-1] > table["top1"].iloc[0]
    assert table["kl"].iloc[-1] > 1e-3, "what the other half would read differently is not hidden"
    assert (table["kl_low"] <= table["kl"]).all() and (table["kl"] <= table["kl_high"]).all()
    assert np.isfinite(table["top1_low"]).all()


def test_utterances_that_were_prompts_are_refused(planted: JacobianFit, tiny_slm: SpeechTextModel) -> None:
    (held, first) = (*utterances(tiny_slm, 1), Utterance(rows(tiny_slm, 64)[0], torch.zeros(10), quantiser="tiny", name="heard"))
    with pytest.raises(ReadoutError, match="1 of these utterances were prompts of the fit, 'heard' among them"):
        readout_convergence(planted, [held, first])


def test_one_prompt_has_no_halves(tiny_slm: SpeechTextModel) -> None:
    fit = fit_jacobian(tiny_slm, rows(tiny_slm, 1), SHORT)
    with pytest.raises(ReadoutError, match="two prompts at least; this fit has 1"):
        convergence(fit)
    with pytest.raises(ReadoutError, match=r"Sums were kept at \[\] prompts in each half; got 4"):
        fit.at(4)


def test_the_figure_has_a_line_a_layer_and_refuses_what_the_table_lacks(planted: JacobianFit, tiny_slm: SpeechTextModel) -> None:
    table = convergence(planted)
    figure = convergence_by_prompts(table, "cosine", [0, 2])
    assert [trace.name for trace in figure.data] == ["layer 0", "layer 2"]
    assert list(figure.data[0].x) == ["0", "1", "2", "4", "8", "16", "32"]
    expected = table.query("against == 'half' and layer == 2").sort_values("prompts")["cosine"]
    np.testing.assert_allclose(figure.data[1].y, expected)
    readings = convergence_by_prompts(readout_convergence(planted, utterances(tiny_slm, 2), draws=20), "kl", [1])
    assert readings.data[0].error_y.array is not None
    for quantity, layers, against in (("kl", [0], "half"), ("cosine", [7], "half"), ("cosine", [0], "itself")):
        with pytest.raises(ReadoutError, match="Convergence is drawn of one of"):
            convergence_by_prompts(table, quantity, layers, against)
