"""What is read from a model, alike on every TransformerLens: logits, residual stream, final norm, unembedding."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from slm_interp.hooked.installed import HookedTransformer
from slm_interp.hooked.sites import stream
from slm_interp.readout import Unembedding


def attach_tokenizer(model: HookedTransformer, tokenizer: Any) -> None:
    """Set the tokenizer as it is.

    TransformerLens's own constructors change its BOS handling (3.9 loads it anew from its `name_or_path`
    and thereby loses the added units); prompts here write their own BOS.
    """
    if tokenizer.pad_token is None:  # TransformerLens pads even a single string; as there, an existing token serves
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.bos_token or tokenizer.convert_ids_to_tokens(0)
    model.tokenizer = tokenizer
    model.cfg.tokenizer_prepends_bos = bool(tokenizer("")["input_ids"])


def logits(model: HookedTransformer, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_vocab"]:
    """The model's own output, without gradients. Every id is read: none is taken for a pad, whatever the tokenizer pads with."""
    with torch.no_grad():
        return model(tokens, return_type="logits", prepend_bos=False, attention_mask=torch.ones_like(tokens))


def residuals(model: HookedTransformer, tokens: Int[Tensor, " pos"]) -> Float[Tensor, "layer_and_one pos d_model"]:
    """The residual stream after 0, 1, ... n_layers blocks, for one sequence, without gradients.

    Entry 0 is `blocks.0.hook_resid_pre` (what the embedding wrote); entry `l` is
    `blocks.{l-1}.hook_resid_post`. The unembedding is not computed.
    """
    return stream(model, tokens)


def normed(model: HookedTransformer, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
    """The norm before the unembedding, as the model applies it (folded or not); with gradients, where they are on."""
    norm = getattr(model, "ln_final", None)
    return resid if norm is None else norm(resid.reshape(1, -1, resid.shape[-1])).reshape(resid.shape)


def final_norm(model: HookedTransformer, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
    """`normed` without gradients."""
    with torch.no_grad():
        return normed(model, resid)


def unembedding(model: HookedTransformer) -> Unembedding:
    """The unembedding matrix and bias, as views of the model's own."""
    return Unembedding(model.unembed.W_U.detach(), model.unembed.b_U.detach())


def embedding(model: HookedTransformer) -> Float[Tensor, "d_vocab d_model"]:
    """The rows of `W_E`, as a view of the model's own."""
    return model.embed.W_E.detach()
