"""The other side of every comparison: Hugging Face's own model, built in memory from the replica's own weights.

It shares no code with the conversion: no rules, no reading of files, no streaming.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from slm_interp.hooked import HookedTransformer

LAYERS = {"opt": "model.decoder.layers", "gpt_neox": "gpt_neox.layers"}


@dataclass(frozen=True, eq=False)
class Forward:
    """Residual stream after each block and logits, for one sequence."""

    resid_post: tuple[Tensor, ...]
    logits: Tensor


def hugging_face(raw: Mapping[str, Any], weights: Mapping[str, Tensor], tokens: Tensor, dtype: torch.dtype = torch.float32) -> Forward:
    """What the base model computes when Hugging Face builds and fills it."""
    config = AutoConfig.for_model(**raw)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=dtype).eval()
    missing, unexpected = model.load_state_dict({name: tensor.to(dtype) for name, tensor in weights.items()}, strict=False)
    assert not unexpected and set(missing) <= ({"lm_head.weight"} if config.tie_word_embeddings else set())
    stream: list[Tensor] = []
    for layer in model.get_submodule(LAYERS.get(raw["model_type"], "model.layers")):
        layer.register_forward_hook(lambda module, inputs, output: stream.append((output[0] if isinstance(output, tuple) else output)[0]))
    with torch.no_grad():
        logits = model(tokens[None], use_cache=False).logits[0]
    return Forward(tuple(stream), logits)


def hooked_transformer(model: HookedTransformer, tokens: Tensor) -> Forward:
    """What a HookedTransformer computes, through its own cache."""
    with torch.no_grad():
        logits, cache = model.run_with_cache(tokens[None], prepend_bos=False, names_filter=lambda name: name.endswith("hook_resid_post"))
    return Forward(tuple(cache[f"blocks.{layer}.hook_resid_post"][0] for layer in range(model.cfg.n_layers)), logits[0])


def relative(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference over the standard deviation of the reference."""
    return ((ours.double() - theirs.double()).abs().max() / theirs.double().std()).item()


def worst(ours: Forward, theirs: Forward) -> float:
    """The largest relative difference among logits and every `resid_post`."""
    assert len(ours.resid_post) == len(theirs.resid_post)
    pairs = [(ours.logits, theirs.logits), *zip(ours.resid_post, theirs.resid_post, strict=True)]
    return max(relative(one, other) for one, other in pairs)


def random_tokens(length: int, d_vocab: int, seed: int = 0) -> Tensor:
    """Ids drawn evenly."""
    return torch.randint(d_vocab, (length,), generator=torch.Generator().manual_seed(seed))
