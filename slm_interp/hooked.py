"""The seam to TransformerLens: the only file that imports `transformer_lens`.

Everything above works with what this file returns, so another model class can take the place of
`HookedTransformer` here and nowhere else.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens import HookedTransformer
from transformer_lens.config.hooked_transformer_config import HookedTransformerConfig

from slm_interp.errors import ConversionError, ReadoutError
from slm_interp.readout import Unembedding


def empty(fields: Mapping[str, Any]) -> HookedTransformer:
    """A HookedTransformer on the meta device: names and shapes, no memory.

    Args:
        fields: arguments of `HookedTransformerConfig`.
    """
    config = HookedTransformerConfig(**{"device": "cpu", "init_weights": False, "default_prepend_bos": False, **fields})
    with torch.device("meta"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="HookedTransformer is deprecated", category=DeprecationWarning)
        return HookedTransformer(config, move_to_device=False)


def fill(model: HookedTransformer, state: Mapping[str, Tensor]) -> HookedTransformer:
    """Give an empty model its weights without copying them, and its buffers.

    Args:
        model: from `empty`.
        state: one tensor for every parameter; tensors are assigned, not copied, so views stay views.
    """
    buffers = {name for name, _ in model.named_buffers()}
    missing, unexpected = model.load_state_dict(dict(state), strict=False, assign=True)
    if set(missing) - buffers or unexpected:
        raise ConversionError(f"Parameters left unfilled: {sorted(set(missing) - buffers)}; left over: {sorted(unexpected)}.")
    _fill_buffers(model)
    left = [name for name, tensor in [*model.named_parameters(), *model.named_buffers()] if tensor.is_meta]
    if left:
        raise ConversionError(f"These tensors never got a value: {left[:5]} ({len(left)} in all).")
    return model.eval()


def _fill_buffers(model: HookedTransformer) -> None:
    """Causal mask, the score of a masked cell, and one pair of rotary tables for all layers."""
    config = model.cfg
    tables = None
    for block in model.blocks:
        attention = block.attn
        attention.mask = torch.empty((0, 0), dtype=torch.bool)
        attention.IGNORE = torch.tensor(-torch.inf)
        if config.rotary_dim is None:
            continue
        if tables is None:
            tables = attention.calculate_sin_cos_rotary(
                config.rotary_dim, min(config.n_ctx, attention.ROTARY_INITIAL_CACHE_SIZE), base=config.rotary_base, dtype=config.dtype
            )
        attention.rotary_sin, attention.rotary_cos = tables


def attach_tokenizer(model: HookedTransformer, tokenizer: Any) -> None:
    """Set the tokenizer as it is.

    `HookedTransformer(cfg, tokenizer)` would load it anew from its `name_or_path` to change its BOS
    handling and thereby lose the added units; prompts here write their own BOS.
    """
    if tokenizer.pad_token is None:  # TransformerLens pads even a single string; as there, an existing token serves
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.bos_token or tokenizer.convert_ids_to_tokens(0)
    model.tokenizer = tokenizer
    model.cfg.tokenizer_prepends_bos = bool(tokenizer("")["input_ids"])


def logits(model: HookedTransformer, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_vocab"]:
    """The model's own output, without gradients."""
    with torch.no_grad():
        return model(tokens, return_type="logits", prepend_bos=False)


def residuals(model: HookedTransformer, tokens: Int[Tensor, " pos"]) -> Float[Tensor, "layer_and_one pos d_model"]:
    """The residual stream after 0, 1, ... n_layers blocks, for one sequence, without gradients.

    Entry 0 is `blocks.0.hook_resid_pre` (what the embedding wrote); entry `l` is
    `blocks.{l-1}.hook_resid_post`. The unembedding is not computed.
    """
    if len(tokens) > model.cfg.n_ctx:
        raise ReadoutError(f"The model reads at most {model.cfg.n_ctx} positions; this utterance has {len(tokens)}.")
    stream: list[Tensor] = []

    def keep(resid: Tensor, hook: Any) -> None:
        stream.append(resid[0])

    names = ["blocks.0.hook_resid_pre", *(f"blocks.{layer}.hook_resid_post" for layer in range(model.cfg.n_layers))]
    with torch.no_grad():
        model.run_with_hooks(
            tokens[None], return_type=None, stop_at_layer=model.cfg.n_layers, fwd_hooks=[(name, keep) for name in names], prepend_bos=False
        )
    return torch.stack(stream)


def final_norm(model: HookedTransformer, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
    """The norm before the unembedding, as the model applies it (folded or not)."""
    norm = getattr(model, "ln_final", None)
    if norm is None:
        return resid
    with torch.no_grad():
        return norm(resid.reshape(1, -1, resid.shape[-1])).reshape(resid.shape)


def unembedding(model: HookedTransformer) -> Unembedding:
    """The unembedding matrix and bias, as views of the model's own."""
    return Unembedding(model.unembed.W_U.detach(), model.unembed.b_U.detach())


def parameter_owners(model: HookedTransformer) -> list[tuple[str, nn.Module]]:
    """Modules that own parameters directly, with their names: what a streamed forward loads one by one."""
    return [(name, module) for name, module in model.named_modules() if next(module.parameters(recurse=False), None) is not None]


__all__ = ["HookedTransformer", "attach_tokenizer", "empty", "fill", "final_norm", "logits", "parameter_owners", "residuals", "unembedding"]
