"""Outcomes: the model's own logits, computed where a continuation is predicted and nowhere else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from slm_interp import hooked
from slm_interp.errors import PatchingError
from slm_interp.model import SpeechTextModel
from slm_interp.patching import Outcome, measure, outcomes
from slm_interp.patching.measuring import lay
from slm_interp.utterance import Contrast


def by_hand(slm: SpeechTextModel, contrast: Contrast, ids: torch.Tensor) -> float:
    """log p of a continuation of the clean prompt, unit by unit, from whole runs of the model over speech ids."""
    speech, total, tokens = slm.vocabulary.mask("speech"), 0.0, contrast.clean.tokens
    for one in ids:
        logits = hooked.logits(slm.model, tokens[None])[0, -1]
        total += float(logits[one] - logits[speech].logsumexp(-1))
        tokens = torch.cat([tokens, one[None]])
    return total


def test_a_sequence_is_scored_unit_by_unit_over_speech_ids(tiny_slm: SpeechTextModel, unequal: Contrast) -> None:
    answer, distractor = (by_hand(tiny_slm, unequal, ids) for ids in (unequal.answer, unequal.distractor))
    assert measure(tiny_slm, unequal.clean, unequal, outcomes.log_prob()) == pytest.approx(answer, abs=1e-4)
    assert measure(tiny_slm, unequal.clean, unequal, outcomes.difference()) == pytest.approx(answer - distractor, abs=1e-4)


def test_the_first_unit_alone_appends_nothing_and_reads_one_row(tiny_slm: SpeechTextModel, unequal: Contrast) -> None:
    laid = lay(tiny_slm, unequal.clean, unequal, outcomes.difference(units=1))
    assert torch.equal(laid.tokens, unequal.clean.tokens[None]) and laid.row == {"answer": 0, "distractor": 0}
    first = by_hand(tiny_slm, unequal, unequal.answer[:1]) - by_hand(tiny_slm, unequal, unequal.distractor[:1])
    assert measure(tiny_slm, unequal.clean, unequal, outcomes.difference(units=1)) == pytest.approx(first, abs=1e-4)
    assert measure(tiny_slm, unequal.clean, unequal, outcomes.logit_difference()) == pytest.approx(first, abs=1e-4)


def test_normalising_over_all_ids_is_another_number(tiny_slm: SpeechTextModel, unequal: Contrast) -> None:
    speech, joint = (measure(tiny_slm, unequal.clean, unequal, outcomes.log_prob(among=among)) for among in ("speech", "joint"))
    assert joint < speech - 0.1


def test_the_clean_run_is_no_damage(tiny_slm: SpeechTextModel, unequal: Contrast) -> None:
    assert measure(tiny_slm, unequal.clean, unequal, outcomes.kl()) == pytest.approx(0, abs=1e-6)
    assert measure(tiny_slm, unequal.corrupted, unequal, outcomes.kl()) > 1e-4


def test_rank_counts_speech_ids_above_the_first_unit(tiny_slm: SpeechTextModel, unequal: Contrast) -> None:
    logits = tiny_slm.logits(unequal.clean)[-1]
    speech = logits[tiny_slm.vocabulary.mask("speech")]
    assert measure(tiny_slm, unequal.clean, unequal, outcomes.rank()) == int((speech > logits[unequal.answer[0]]).sum())


def test_a_function_of_one_s_own(tiny_slm: SpeechTextModel, unequal: Contrast) -> None:
    own = Outcome("mean log p", lambda read: read.log_prob("answer") / 3, "nats", ("answer",))
    assert measure(tiny_slm, unequal.clean, unequal, own) == pytest.approx(by_hand(tiny_slm, unequal, unequal.answer) / 3, abs=1e-4)


def test_a_continuation_that_is_no_speech_is_refused(tiny_slm: SpeechTextModel, unequal: Contrast) -> None:
    text = replace(unequal, answer=torch.tensor([tiny_slm.word_ids("paris")[0]]))
    with pytest.raises(PatchingError, match=r"The answer has id \d+, which is text; .* reads speech ids"):
        measure(tiny_slm, unequal.clean, text, outcomes.difference())


def test_too_few_units_are_refused(tiny_slm: SpeechTextModel, unequal: Contrast) -> None:
    with pytest.raises(PatchingError, match="reads 3 units of each continuation; the distractor has 2"):
        measure(tiny_slm, unequal.clean, unequal, outcomes.difference(units=3))


def test_an_outcome_that_is_no_number_is_refused(tiny_slm: SpeechTextModel, unequal: Contrast) -> None:
    broken = Outcome("broken", lambda read: read.log_prob("answer") * torch.nan, "nats", ("answer",))
    with pytest.raises(PatchingError, match="broken are not finite"):
        measure(tiny_slm, unequal.clean, unequal, broken)
