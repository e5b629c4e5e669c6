"""Where TransformerLens 4.x keeps the classic parameters: bridge component, tensor and order of axes, as data.

`blocks.0.attn.W_Q [head d_model d_head]` is the weight of the bridge component `blocks.0.attn.q`, laid out as a
linear layer's `[(head d_head) d_model]`. Both are views of one another where the memory is a checkpoint's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from einops import rearrange
from torch import Tensor


@dataclass(frozen=True)
class Place:
    """One parameter.

    Args:
        classic: its axes in HookedTransformer.
        component: of the bridge that has it.
        tensor: the component's `weight` or `bias`.
        axes: its axes there.
    """

    classic: str
    component: str
    tensor: str
    axes: str


EMBEDDINGS = {
    "embed.W_E": Place("d_vocab d_model", "embed", "weight", "d_vocab d_model"),
    "pos_embed.W_pos": Place("pos d_model", "pos_embed", "weight", "pos d_model"),
    "unembed.W_U": Place("d_model d_vocab", "unembed", "weight", "d_vocab d_model"),
    "unembed.b_U": Place("d_vocab", "unembed", "bias", "d_vocab"),
}
BLOCK = {
    "attn.W_Q": Place("head d_model d_head", "attn.q", "weight", "(head d_head) d_model"),
    "attn.b_Q": Place("head d_head", "attn.q", "bias", "(head d_head)"),
    "attn.W_K": Place("kv_head d_model d_head", "attn.k", "weight", "(kv_head d_head) d_model"),
    "attn.b_K": Place("kv_head d_head", "attn.k", "bias", "(kv_head d_head)"),
    "attn.W_V": Place("kv_head d_model d_head", "attn.v", "weight", "(kv_head d_head) d_model"),
    "attn.b_V": Place("kv_head d_head", "attn.v", "bias", "(kv_head d_head)"),
    "attn.W_O": Place("head d_head d_model", "attn.o", "weight", "d_model (head d_head)"),
    "attn.b_O": Place("d_model", "attn.o", "bias", "d_model"),
    "attn.q_norm.w": Place("d_head", "attn.q_norm", "weight", "d_head"),
    "attn.k_norm.w": Place("d_head", "attn.k_norm", "weight", "d_head"),
    "mlp.W_gate": Place("d_model d_mlp", "mlp.gate", "weight", "d_mlp d_model"),
    "mlp.W_in": Place("d_model d_mlp", "mlp.in", "weight", "d_mlp d_model"),
    "mlp.b_in": Place("d_mlp", "mlp.in", "bias", "d_mlp"),
    "mlp.W_out": Place("d_mlp d_model", "mlp.out", "weight", "d_model d_mlp"),
    "mlp.b_out": Place("d_model", "mlp.out", "bias", "d_model"),
}
NORMS = {"w": Place("d_model", "", "weight", "d_model"), "b": Place("d_model", "", "bias", "d_model")}
GROUPED = ("attn.W_K", "attn.b_K", "attn.W_V", "attn.b_V")  # written with an underscore where heads share keys and values


def places(config: Any) -> dict[str, Place]:
    """Where every classic parameter of a model is kept, by its classic name.

    Args:
        config: a config with the classic fields.
    """
    wanted = {
        "pos_embed.W_pos": config.positional_embedding_type == "standard",
        "mlp.W_gate": config.gated_mlp,
        "attn.q_norm.w": config.use_qk_norm,
        "attn.k_norm.w": config.use_qk_norm,
    }
    found = {name: place for name, place in EMBEDDINGS.items() if wanted.get(name, True)}
    letters = "wb" if config.normalization_type == "LN" else "w"
    for layer in range(config.n_layers):
        for name, place in BLOCK.items():
            if wanted.get(name, True):
                classic = name.replace("attn.", "attn._") if name in GROUPED and config.n_key_value_heads is not None else name
                found[f"blocks.{layer}.{classic}"] = _inside(place, f"blocks.{layer}.{place.component}")
        for norm in ("ln1", "ln2"):
            found |= {f"blocks.{layer}.{norm}.{letter}": _inside(NORMS[letter], f"blocks.{layer}.{norm}") for letter in letters}
    return found | {f"ln_final.{letter}": _inside(NORMS[letter], "ln_final") for letter in letters}


def _inside(place: Place, component: str) -> Place:
    return Place(place.classic, component, place.tensor, place.axes)


def sizes(config: Any) -> dict[str, int]:
    """The size of every named axis."""
    return {
        "head": config.n_heads,
        "kv_head": config.n_key_value_heads or config.n_heads,
        "d_head": config.d_head,
        "d_model": config.d_model,
        "d_mlp": config.d_mlp,
        "d_vocab": config.d_vocab,
        "pos": config.n_ctx,
    }


def shape(place: Place, axes: Mapping[str, int]) -> tuple[int, ...]:
    """The classic shape."""
    return tuple(axes[axis] for axis in place.classic.split())


def to_bridge(tensor: Tensor, place: Place, axes: Mapping[str, int]) -> Tensor:
    """A classic tensor as 4.x lays it out; a view where its memory allows one."""
    return rearrange(tensor, f"{place.classic} -> {place.axes}", **dict(_named(place, axes)))


def to_classic(tensor: Tensor, place: Place, axes: Mapping[str, int]) -> Tensor:
    """A tensor of 4.x as HookedTransformer lays it out, as a view."""
    return rearrange(tensor, f"{place.axes} -> {place.classic}", **dict(_named(place, axes)))


def _named(place: Place, axes: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    return ((axis, axes[axis]) for axis in re.findall(r"\w+", place.axes))
