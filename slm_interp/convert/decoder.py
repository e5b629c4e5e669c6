"""What Llama, Qwen and Mistral share: rotary positions, RMSNorm before each sublayer, a gated MLP.

The differences (biases, norms of queries and keys, windows) are arguments; each architecture's file says
which it has.
"""

from __future__ import annotations

from typing import Any

from slm_interp.convert.config import ConfigReader, unread
from slm_interp.convert.rules import Copy, Drop, Rule, Split, Zero
from slm_interp.errors import ConversionError

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "relu": "relu",
    "gelu_new": "gelu_new",
    "gelu_pytorch_tanh": "gelu_pytorch_tanh",
}

FUSED_GATE = "(part d_mlp) d_model -> part d_model d_mlp"

# rope_type -> {our field: key of rope_parameters}. Each key listed is read; any other is refused.
ROTARY: dict[str, dict[str, str]] = {
    "default": {},
    "linear": {"rotary_scaling_factor": "factor"},
    "llama3": {
        "NTK_by_parts_factor": "factor",
        "NTK_by_parts_low_freq_factor": "low_freq_factor",
        "NTK_by_parts_high_freq_factor": "high_freq_factor",
        "NTK_original_ctx_len": "original_max_position_embeddings",
    },
}


def rotary_fields(config: ConfigReader, d_head: int, *, partial: bool = False) -> dict[str, Any]:
    """Rotary positions from `rope_parameters`: base, scaling, and the share of each head that turns.

    Args:
        config: of the base model.
        d_head: size of a head.
        partial: the architecture can turn a part of each head.

    Raises:
        ConversionError: a scaling that HookedTransformer does not express, or a key nobody read.
    """
    rope = dict(config["rope_parameters"])
    kind = rope.pop("rope_type", "default")
    rope.pop("type", None)
    if kind not in ROTARY:
        raise ConversionError(f"Rotary scaling {kind!r} cannot be expressed; {', '.join(ROTARY)} can.")
    fields = {field: rope.pop(key) for field, key in ROTARY[kind].items()}
    fields["rotary_base"] = rope.pop("rope_theta")
    share = rope.pop("partial_rotary_factor", 1.0)
    if share != 1.0 and not partial:
        raise ConversionError(f"'partial_rotary_factor' is {share!r}; this architecture turns whole heads (1.0).")
    fields["rotary_dim"] = int(d_head * share)
    if rope:
        key, value = next(iter(rope.items()))
        raise ConversionError(unread(f"rope_parameters.{key}", value))
    return {"positional_embedding_type": "rotary", "rotary_adjacent_pairs": False, "use_NTK_by_parts_rope": kind == "llama3", **fields}


def gated_decoder_fields(config: ConfigReader, *, partial_rotary: bool = False) -> dict[str, Any]:
    """Sizes, norm, activation and rotary positions of a Llama-like decoder; `partial_rotary` as in `rotary_fields`."""
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    d_head = config.get("head_dim", config["hidden_size"] // heads)
    return {
        "d_model": config["hidden_size"],
        "n_layers": config["num_hidden_layers"],
        "n_heads": heads,
        "n_key_value_heads": None if kv_heads == heads else kv_heads,
        "d_head": d_head,
        "d_mlp": config["intermediate_size"],
        "d_vocab": config["vocab_size"],
        "n_ctx": config["max_position_embeddings"],
        "act_fn": config.table("hidden_act", ACTIVATIONS),
        "eps": config["rms_norm_eps"],
        "normalization_type": "RMS",
        "final_rms": True,
        "gated_mlp": True,
        "tie_word_embeddings": config["tie_word_embeddings"],
        **rotary_fields(config, d_head, partial=partial_rotary),
    }


def window_fields(layers: list[str], window: int | None) -> dict[str, Any]:
    """Sliding-window attention by layer.

    Args:
        layers: `full_attention` or `sliding_attention` for each layer.
        window: positions a sliding layer sees, itself included.
    """
    kinds = {"full_attention": "global", "sliding_attention": "local"}
    unknown = set(layers) - set(kinds)
    if unknown:
        raise ConversionError(f"Layer type {sorted(unknown)[0]!r} cannot be expressed; {', '.join(kinds)} can.")
    if set(layers) <= {"full_attention"}:
        return {}
    if window is None:
        raise ConversionError("'layer_types' has sliding layers; 'sliding_window' gives them no size.")
    return {"use_local_attn": True, "window_size": window, "attn_types": [kinds[layer] for layer in layers]}


def gated_decoder_rules(
    config: ConfigReader, *, qkv_bias: bool = False, out_bias: bool = False, qk_norm: bool = False, fused_gate: bool = False
) -> tuple[Rule, ...]:
    """Weights of a Llama-like decoder.

    Args:
        qkv_bias: queries, keys and values have a bias.
        out_bias: the attention output has one.
        qk_norm: queries and keys are RMS-normalised a head.
        fused_gate: the MLP's gate and its other input are one matrix, the gate first.
    """
    kv = "" if config["num_key_value_heads"] == config["num_attention_heads"] else "_"
    source, target = "model.layers.{}.", "blocks.{}."
    projections = {"q_proj": ("W_Q", "b_Q"), "k_proj": (f"{kv}W_K", f"{kv}b_K"), "v_proj": (f"{kv}W_V", f"{kv}b_V")}
    rules: list[Rule] = [
        Copy("model.embed_tokens.weight", "embed.W_E"),
        Copy(f"{source}input_layernorm.weight", f"{target}ln1.w"),
        Copy(f"{source}self_attn.o_proj.weight", f"{target}attn.W_O", "d_model (head d_head) -> head d_head d_model"),
        Copy(f"{source}post_attention_layernorm.weight", f"{target}ln2.w"),
        *_gate_rules(f"{source}mlp.", f"{target}mlp.", fused_gate),
        Copy(f"{source}mlp.down_proj.weight", f"{target}mlp.W_out", "d_model d_mlp -> d_mlp d_model"),
        Zero(f"{target}mlp.b_in"),
        Zero(f"{target}mlp.b_out"),
        Copy("model.norm.weight", "ln_final.w"),
        *head_rules(config, "model.embed_tokens.weight", "lm_head.weight"),
        Drop("model.layers.{}.self_attn.rotary_emb.inv_freq", "recomputed from the config"),
    ]
    for name, (weight, bias) in projections.items():
        rules.append(Copy(f"{source}self_attn.{name}.weight", f"{target}attn.{weight}", "(head d_head) d_model -> head d_model d_head"))
        rules.append(
            Copy(f"{source}self_attn.{name}.bias", f"{target}attn.{bias}", "(head d_head) -> head d_head")
            if qkv_bias
            else Zero(f"{target}attn.{bias}")
        )
    rules.append(Copy(f"{source}self_attn.o_proj.bias", f"{target}attn.b_O") if out_bias else Zero(f"{target}attn.b_O"))
    if qk_norm:
        rules += [Copy(f"{source}self_attn.{one}_norm.weight", f"{target}attn.{one}_norm.w") for one in "qk"]
    return tuple(rules)


def _gate_rules(source: str, target: str, fused: bool) -> tuple[Rule, ...]:
    if fused:
        return (Split(f"{source}gate_up_proj.weight", (f"{target}W_gate", f"{target}W_in"), FUSED_GATE),)
    return tuple(
        Copy(f"{source}{theirs}.weight", f"{target}{ours}", "d_mlp d_model -> d_model d_mlp")
        for theirs, ours in {"gate_proj": "W_gate", "up_proj": "W_in"}.items()
    )


def head_rules(config: ConfigReader, embedding: str, head: str) -> tuple[Rule, ...]:
    """The unembedding: its own matrix, or the embedding's when they are tied."""
    tied = config["tie_word_embeddings"]
    rules: tuple[Rule, ...] = (
        Copy(embedding if tied else head, "unembed.W_U", "d_vocab d_model -> d_model d_vocab"),
        Zero("unembed.b_U"),
    )
    return (*rules, Drop(head, "the config ties it to the embedding", same_as=embedding)) if tied else rules
