"""Attention and heads knocked out: what remains, by the model's own hooks."""

from __future__ import annotations

import pytest
import torch

from slm_interp.errors import PatchingError
from slm_interp.model import SpeechTextModel
from slm_interp.patching.interventions.attention import cut_attention, cut_heads
from slm_interp.utterance import Contrast


def run(slm: SpeechTextModel, tokens: torch.Tensor, hooks: list) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits and all that passed."""
    kept: dict[str, torch.Tensor] = {}
    names = [f"blocks.{layer}.{place}" for layer in range(3) for place in ("attn.hook_pattern", "attn.hook_z", "hook_attn_out")]
    keep = [(name, lambda value, hook, name=name: kept.update({name: value})) for name in names]
    with torch.no_grad():
        return slm.model.run_with_hooks(tokens[None], fwd_hooks=[*hooks, *keep], prepend_bos=False)[0], kept


def test_cut_attention_is_nothing_there_and_sums_to_one_elsewhere(tiny_slm: SpeechTextModel, equal: Contrast) -> None:
    tokens, source, destination = equal.clean.tokens, equal.clean.words[0].span, equal.clean.words[2].span
    before = run(tiny_slm, tokens, [])[1]
    after = run(tiny_slm, tokens, cut_attention(tiny_slm.model, source, destination))[1]
    for layer in range(3):
        name = f"blocks.{layer}.attn.hook_pattern"
        assert after[name][0, :, list(destination)][..., list(source)].abs().max() == 0
        assert torch.allclose(after[name].sum(-1), torch.ones_like(after[name].sum(-1)))
    first = "blocks.0.attn.hook_pattern"
    assert before[first][0, :, list(destination)][..., list(source)].min() > 0
    others = [place for place in range(len(tokens)) if place not in destination]
    assert torch.equal(before[first][0, :, others], after[first][0, :, others])


def test_with_the_span_cut_from_all_that_follows_its_units_say_nothing(tiny_slm: SpeechTextModel, equal: Contrast) -> None:
    """Cut from every later position, a word can be another one without any effect."""
    word = equal.clean.words[1].span
    hooks = cut_attention(tiny_slm.model, word, range(word.stop, len(equal.clean)))
    other = equal.clean.tokens.clone()
    other[list(word)] = equal.corrupted.tokens[list(word)]
    one, two = (run(tiny_slm, tokens, hooks)[0][-1] for tokens in (equal.clean.tokens, other))
    assert torch.allclose(one, two, atol=1e-5)
    assert not torch.allclose(run(tiny_slm, equal.clean.tokens, [])[0][-1], run(tiny_slm, other, [])[0][-1], atol=1e-3)


def test_one_head_alone_is_cut(tiny_slm: SpeechTextModel, equal: Contrast) -> None:
    hooks = cut_attention(tiny_slm.model, [1], [5], {0: [2]})
    before, after = (run(tiny_slm, equal.clean.tokens, one)[1]["blocks.0.attn.hook_pattern"][0] for one in ([], hooks))
    changed = (before != after).any(-1)
    assert changed.nonzero().tolist() == [[2, 5]]


def test_heads_without_output_add_only_the_bias(tiny_slm: SpeechTextModel, equal: Contrast) -> None:
    kept = run(tiny_slm, equal.clean.tokens, cut_heads(tiny_slm.model, {1: range(4)}))[1]
    assert torch.allclose(kept["blocks.1.hook_attn_out"], tiny_slm.model.blocks[1].attn.b_O.expand_as(kept["blocks.1.hook_attn_out"]))


def test_heads_are_cut_at_the_given_positions_alone(tiny_slm: SpeechTextModel, equal: Contrast) -> None:
    before, after = (
        run(tiny_slm, equal.clean.tokens, hooks)[1]["blocks.0.attn.hook_z"][0]
        for hooks in ([], cut_heads(tiny_slm.model, {0: [1, 3]}, [2, 4]))
    )
    assert (before != after).any(-1).nonzero().tolist() == [[2, 1], [2, 3], [4, 1], [4, 3]]
    assert after[[2, 4]][:, [1, 3]].abs().max() == 0


@pytest.mark.usefixtures("as_users_run_it")
def test_cuts_that_cut_nothing_or_everything_are_refused(tiny_slm: SpeechTextModel, equal: Contrast) -> None:
    with pytest.raises(PatchingError, match="no position of 1 to 2 can see one of 4 to 5"):
        cut_attention(tiny_slm.model, [4, 5], [1, 2])
    with pytest.raises(PatchingError, match="Position 2 would be left with nothing to attend to"):
        cut_attention(tiny_slm.model, range(3), [2, 5])
    with pytest.raises(PatchingError, match=r"got \(0, 4\)"):
        cut_attention(tiny_slm.model, [0], [2], {0: [4]})
    with pytest.raises(PatchingError, match="Heads are given by block"):
        cut_heads(tiny_slm.model, {})
    with pytest.raises(PatchingError, match="positions 0 to 7; got 9"):
        run(tiny_slm, equal.clean.tokens, cut_heads(tiny_slm.model, {0: [1]}, [9]))
