"""TransformerLens's own functions by their own names: the same numbers, on grouped heads and on a batch of prompts."""

from __future__ import annotations

import pytest
import torch

from slm_interp.errors import PatchingError
from slm_interp.hooked.installed import MAJOR
from slm_interp.model import SpeechTextModel
from slm_interp.patching import transformer_lens_names as ours

if MAJOR == 3:
    from transformer_lens import patching as theirs

NAMES = [name for name in dir(ours) if name.startswith("get_act_patch_")]


@pytest.fixture
def asked(tiny_slm: SpeechTextModel):
    """Corrupted tokens, a clean cache and a metric that reads every position and id, for one prompt or two."""

    def of(prompts: int):
        drawn = torch.Generator().manual_seed(0)
        clean, corrupted = torch.randint(0, tiny_slm.model.cfg.d_vocab, (2, prompts, 5), generator=drawn)
        corrupted[:, 0] = clean[:, 0]
        with torch.no_grad():
            _, cache = tiny_slm.model.run_with_cache(clean, prepend_bos=False)
        return corrupted, cache, lambda logits: (logits.log_softmax(-1)[:, 1:, 3:9] * torch.arange(6)).mean()

    return of


@pytest.mark.parametrize("name", NAMES)
def test_the_same_numbers_as_transformer_lens(tiny_slm: SpeechTextModel, asked, name: str) -> None:
    prompts = 2 if name.endswith(("resid_pre", "z_by_pos", "pattern_by_pos", "k_all_pos")) else 1
    with torch.no_grad():
        wanted = getattr(theirs, name)(tiny_slm.model, *asked(prompts))
    found = getattr(ours, name)(tiny_slm.model, *asked(prompts))
    assert found.shape == wanted.shape and (found - wanted).abs().max() < 1e-5
    assert wanted.flatten(1).std() > 1e-3


def test_every_name_is_there() -> None:
    assert sorted(NAMES) == sorted(name for name in dir(theirs) if name.startswith("get_act_patch_"))


def test_the_metric_may_change_its_logits(tiny_slm: SpeechTextModel, asked) -> None:
    """A metric that writes into what it is given changes no other cell."""
    tokens, cache, metric = asked(1)

    def spoils(logits: torch.Tensor) -> torch.Tensor:
        found = metric(logits.clone())
        logits.zero_()
        return found

    honest, spoilt = (ours.get_act_patch_resid_pre(tiny_slm.model, tokens, cache, one) for one in (metric, spoils))
    assert torch.equal(honest, spoilt)


def test_a_cache_of_another_length_is_refused(tiny_slm: SpeechTextModel, asked) -> None:
    tokens, cache, metric = asked(1)
    with pytest.raises(
        PatchingError, match=r"The clean cache has \(1, 5, 24\) at blocks.0.hook_resid_pre; the corrupted run has \(1, 4, 24\)"
    ):
        ours.get_act_patch_resid_pre(tiny_slm.model, tokens[:, :4], cache, metric)
