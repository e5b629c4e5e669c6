"""The module that TransformerLens 4.x wraps, from the classic fields; or a refusal that names what 4.x lacks.

4.x has no class that computes whatever a `HookedTransformerConfig` can say: `TransformerBridge` wraps a module,
and each module below computes some of it. The fields choose one, not the checkpoint's architecture, so that what
is wrong in the fields is wrong in the numbers. Its own native module serves LayerNorm and learned positions only:
it rotates adjacent pairs whatever `rotary_adjacent_pairs` says, and knows no windows, norms of queries and keys, or
parallel residual.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from slm_interp.errors import ConversionError

# Hugging Face key: classic field.
SIZES = {
    "hidden_size": "d_model",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "intermediate_size": "d_mlp",
    "vocab_size": "d_vocab",
    "max_position_embeddings": "n_ctx",
    "hidden_act": "act_fn",
}
LLAMA3 = {
    "factor": "NTK_by_parts_factor",
    "low_freq_factor": "NTK_by_parts_low_freq_factor",
    "high_freq_factor": "NTK_by_parts_high_freq_factor",
    "original_max_position_embeddings": "NTK_original_ctx_len",
}
ACTIVATIONS = ("silu", "gelu", "relu", "gelu_new", "gelu_pytorch_tanh")

# What a field means when it is absent. A field that its module does not read must have this value.
ABSENT: dict[str, Any] = {
    "attn_types": None,
    "dtype": None,
    "final_rms": False,
    "gated_mlp": False,
    "n_key_value_heads": None,
    "normalization_type": "LN",
    "parallel_attn_mlp": False,
    "positional_embedding_type": "standard",
    "rotary_adjacent_pairs": False,
    "rotary_dim": None,
    "rotary_scaling_factor": 1.0,
    "use_NTK_by_parts_rope": False,
    "use_local_attn": False,
    "use_qk_norm": False,
    "window_size": None,
}
# Read by no module: they say how the classic class is built, not what it computes.
BUILDING = ("dtype", "tie_word_embeddings")
# Read by `kind`: the module it chooses has these values and no others.
CHOOSING = ("positional_embedding_type", "normalization_type", "gated_mlp")


def kind(fields: Mapping[str, Any]) -> str:
    """Which module computes what the fields say: `native`, or the `model_type` of a Hugging Face one.

    Raises:
        ConversionError: none does.
    """
    said = {**ABSENT, **fields}
    shape = tuple(said[field] for field in CHOOSING)
    if shape == ("standard", "LN", False):
        return "native"
    if shape == ("rotary", "LN", False):
        return "gpt_neox"
    if shape == ("rotary", "RMS", True):
        return "qwen3" if said["use_qk_norm"] else "qwen2" if said["use_local_attn"] else "llama"
    raise refusal(f"positions {shape[0]!r}, normalization {shape[1]!r} and gated_mlp={shape[2]} in one model")


def settings(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The config of that module: keyword arguments of its Hugging Face config, or of a native `TransformerBridgeConfig`.

    Raises:
        ConversionError: a field that the module does not express; the sentence names it and the version that does.
    """
    chosen = kind(fields)
    left = {**ABSENT, **fields}
    for field in (*BUILDING, *CHOOSING):
        left.pop(field, None)
    if left["act_fn"] not in ACTIVATIONS:
        raise refusal(f"act_fn={left['act_fn']!r}")
    made = {"native": _native, "gpt_neox": _gpt_neox}.get(chosen, _gated)(left)
    for field, value in left.items():
        if field not in ABSENT or value != ABSENT[field]:
            raise refusal(f"{field}={value!r} in a model like {chosen}")
    return made


def refusal(what: str) -> ConversionError:
    """The sentence about something 4.x cannot express."""
    return ConversionError(
        f"TransformerLens {version('transformer-lens')} cannot express {what}; 3.9 may: pip install 'transformer-lens>=3.9,<4'."
    )


def _native(left: dict[str, Any]) -> dict[str, Any]:
    named = ("d_model", "n_layers", "n_heads", "d_head", "d_mlp", "d_vocab", "n_ctx", "act_fn", "n_key_value_heads")
    made = {field: left.pop(field) for field in named}
    if made["act_fn"] == "gelu_pytorch_tanh":
        made["act_fn"] = "gelu_new"  # the same function; the native module knows it by this name only
    return {
        **made,
        "eps": left.pop("eps", 1e-5),
        "normalization_type": "LN",
        "positional_embedding_type": "standard",
        "init_weights": False,
    }


def _gpt_neox(left: dict[str, Any]) -> dict[str, Any]:
    d_head = left.pop("d_head")
    if d_head * left["n_heads"] != left["d_model"]:
        raise refusal(f"heads of d_head={d_head} that are not d_model / n_heads, in a model like gpt_neox")
    return {
        **{key: left.pop(field) for key, field in SIZES.items()},
        "layer_norm_eps": left.pop("eps", 1e-5),
        "use_parallel_residual": left.pop("parallel_attn_mlp"),
        "attention_bias": True,
        "rope_parameters": _rotary(left, d_head),
    }


def _gated(left: dict[str, Any]) -> dict[str, Any]:
    d_head, heads = left.pop("d_head"), left["n_heads"]
    if not left.pop("final_rms"):
        raise refusal("final_rms=False after blocks with RMSNorm")
    left.pop("use_qk_norm")  # Qwen3 has it, the others have not
    left.pop("rotary_adjacent_pairs")  # a switch of the bridge's attention, not of the module
    return {
        **{key: left.pop(field) for key, field in SIZES.items()},
        "head_dim": d_head,
        "num_key_value_heads": left.pop("n_key_value_heads") or heads,
        "rms_norm_eps": left.pop("eps", 1e-5),
        "attention_bias": True,
        "rope_parameters": _rotary(left, d_head),
        **_windows(left),
    }


def _windows(left: dict[str, Any]) -> dict[str, Any]:
    window, kinds = left.pop("window_size"), left.pop("attn_types")
    if not left.pop("use_local_attn"):
        return {}
    names = {"global": "full_attention", "local": "sliding_attention"}
    return {"use_sliding_window": True, "sliding_window": window, "layer_types": [names[one] for one in kinds]}


def _rotary(left: dict[str, Any], d_head: int) -> dict[str, Any]:
    """`rope_parameters`.

    Plain positions are written as linear scaling by 1: Llama's module turns whole heads under any other name.
    """
    turned = left.pop("rotary_dim")
    scaled, base = left.pop("rotary_scaling_factor"), left.pop("rotary_base", 10_000)
    made = {"rope_theta": base, "partial_rotary_factor": (d_head if turned is None else turned) / d_head}
    llama3 = {key: left.pop(field, None) for key, field in LLAMA3.items()}
    if not left.pop("use_NTK_by_parts_rope"):
        return {**made, "rope_type": "linear", "factor": float(scaled)}
    if scaled != 1:
        raise refusal("linear and llama3 scaling of rotary positions at once")
    return {**made, **llama3, "rope_type": "llama3"}
