"""Plain hooks: what is written where, and that nothing else changes."""

from __future__ import annotations

import pytest
import torch

from slm_interp import patching
from slm_interp.errors import PatchingError
from slm_interp.model import SpeechTextModel
from slm_interp.patching import outcomes
from slm_interp.patching.interventions import stream
from slm_interp.patching.means import kinds_of
from slm_interp.utterance import Contrast, Span
from tests.patching import plain

BEFORE = torch.arange(2 * 4 * 3.0).reshape(2, 4, 3)


def after(hook: stream.Hook, before: torch.Tensor = BEFORE) -> torch.Tensor:
    found = hook[1](before, None)
    assert torch.equal(before, BEFORE) or before is not BEFORE
    return found


def test_only_the_positions_named_change() -> None:
    found = after(stream.zero("resid_post", 1, Span(1, 3)))
    assert found[:, 1:3].abs().sum() == 0 and torch.equal(found[:, [0, 3]], BEFORE[:, [0, 3]])
    assert stream.zero("resid_post", 1, None)[0] == "blocks.0.hook_resid_post"


def test_values_and_vectors() -> None:
    values = torch.randn(2, 3)
    assert torch.equal(after(stream.replace("attn_out", 0, [3, 1], values))[1, [3, 1]], values)
    assert torch.equal(after(stream.replace("attn_out", 0, [3, 1], values[0]))[0, [3, 1]], values[[0, 0]])
    assert torch.allclose(after(stream.add("mlp_out", 0, [2], values[0], -2.0))[:, 2], BEFORE[:, 2] - 2 * values[0])


def test_a_projection_takes_out_a_span_and_keeps_the_rest() -> None:
    directions = torch.tensor([[1.0, 1, 0], [2, 2, 0]])  # one direction, twice
    out, onto = (after(one("resid_pre", 0, None, directions)) for one in (stream.project_out, stream.project_onto))
    assert torch.allclose(out + onto, BEFORE) and torch.allclose(out @ directions.T, torch.zeros(2, 4, 2), atol=1e-5)
    assert torch.allclose(out[..., 2], BEFORE[..., 2])


def test_one_head_alone() -> None:
    z = torch.ones(1, 4, 2, 3)
    found = after(stream.zero("z", 1, [0], head=1), z)
    assert found.sum() == z.sum() - 3 and found[0, 0, 1].sum() == 0


def test_hooks_and_ablations_have_the_same_numbers(tiny_slm: SpeechTextModel, unequal: Contrast) -> None:
    own, word = patching.means(tiny_slm, [unequal.corrupted], ["attn_out"]), unequal.clean.words[1].span
    kinds = kinds_of(tiny_slm.vocabulary, unequal.clean.tokens)[word.start : word.stop]
    hook = stream.mean("attn_out", 1, word, own, kinds)
    found = patching.ablation(tiny_slm, unequal, "attn_out", what=own, layers=[1]).dataset["outcome"].values[0, 0, 1]
    assert found == pytest.approx(plain.score(tiny_slm, unequal.clean, unequal, outcomes.difference(), [hook]), abs=1e-5)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: stream.zero("pattern", 0, None), "Vectors stand at resid_pre"),
        (lambda: stream.zero("mlp_out", 0, None, head=1), "mlp_out has no heads"),
        (lambda: stream.project_out("z", 0, None, torch.zeros(2, 3)), "finite and not all zero"),
        (lambda: after(stream.zero("z", 0, [4])), r"in 0..3; got \[4\]"),
    ],
)
def test_what_makes_no_sense_is_refused(make, says: str) -> None:
    with pytest.raises(PatchingError, match=says):
        make()
