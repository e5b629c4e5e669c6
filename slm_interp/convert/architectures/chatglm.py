"""ChatGLM, the code GLM-4 and GLM-4-Voice were published with: GLM with fused queries, keys and values and names of its own.

`transformers` has no class of this name. What it computes is `GlmForCausalLM`'s, whose config is `as_hugging_face` and whose
tensors are `relaid`; parity is measured against that class, by code that shares nothing with `rules`.

Source: `modeling_chatglm.py` and `configuration_chatglm.py` of the GLM-4 checkpoints, which are read and never run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from slm_interp.convert.config import ConfigReader
from slm_interp.convert.decoder import FUSED_GATE
from slm_interp.convert.rules import Copy, Drop, Rule, Split, Zero
from slm_interp.errors import ConversionError

LAYERS = "model.layers"  # of the Hugging Face model
OWN_CODE = ("configuration_chatglm.", "modeling_chatglm.")

# ChatGLMConfig's, for keys a file leaves out.
DEFAULTS: dict[str, Any] = {
    "num_layers": 28,
    "padded_vocab_size": 65024,
    "hidden_size": 4096,
    "ffn_hidden_size": 13696,
    "kv_channels": 128,
    "num_attention_heads": 32,
    "seq_length": 2048,
    "layernorm_epsilon": 1e-5,
    "rmsnorm": True,
    "apply_residual_connection_post_layernorm": False,
    "post_layer_norm": True,
    "add_bias_linear": False,
    "add_qkv_bias": False,
    "multi_query_attention": False,
    "multi_query_group_num": 1,
    "rope_ratio": 1,
    "original_rope": True,
    "fp32_residual_connection": False,
    "tie_word_embeddings": False,
    "pre_seq_len": None,
    "prefix_projection": False,
    "quantization_bit": 0,
    "interleaved_qkv": False,
    "auto_map": {},
}
# What must hold, and why.
REQUIRED: dict[str, tuple[Any, str]] = {
    "rmsnorm": (True, "GLM-4 normalises by root mean square."),
    "apply_residual_connection_post_layernorm": (False, "the residual stream takes its input before the norm."),
    "post_layer_norm": (True, "HookedTransformer always normalises before the unembedding."),
    "add_bias_linear": (False, "GLM-4's output and MLP projections have no bias."),
    "original_rope": (True, "other rotary forms of ChatGLM turn other pairs."),
    "multi_query_attention": (True, "without groups the fused rows lie head by head, as in no released GLM-4."),
    "interleaved_qkv": (False, "the fused rows are all queries, then all keys, then all values."),
    "quantization_bit": (0, "quantised weights cannot be read."),
    "fp32_residual_connection": (False, "the residual stream has the model's dtype."),
    "pre_seq_len": (None, "a learned prefix has no place in HookedTransformer."),
    "prefix_projection": (False, "a learned prefix has no place in HookedTransformer."),
}
# Keys that change where or how the same numbers are computed. The layer scaling divides by a factor and multiplies by it again.
SAME_NUMBERS = ("apply_query_key_layer_scaling", "attention_softmax_in_fp32", "bias_dropout_fusion")
# Keys that repeat others under a second name.
REPEATED = {"vocab_size": "padded_vocab_size", "num_hidden_layers": "num_layers", "max_position_embeddings": "seq_length"}


def as_hugging_face(values: Mapping[str, Any]) -> dict[str, Any]:
    """The `GlmConfig` that computes the same; `values` with `DEFAULTS` filled in."""
    return {
        "model_type": "glm",
        "vocab_size": values["padded_vocab_size"],
        "hidden_size": values["hidden_size"],
        "intermediate_size": values["ffn_hidden_size"],
        "num_hidden_layers": values["num_layers"],
        "num_attention_heads": values["num_attention_heads"],
        "num_key_value_heads": values["multi_query_group_num"],
        "head_dim": values["kv_channels"],
        "max_position_embeddings": values["seq_length"],
        "rms_norm_eps": values["layernorm_epsilon"],
        "attention_bias": values["add_qkv_bias"],
        "tie_word_embeddings": values["tie_word_embeddings"],
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0 * values["rope_ratio"], "partial_rotary_factor": 0.5},
    }


def fields(config: ConfigReader) -> dict[str, Any]:
    """ChatGLM's sizes: rotary positions on the first half of a head, adjacent pairs, base 10,000 times `rope_ratio`."""
    for key, (value, why) in REQUIRED.items():
        config.require(key, value, why=why)
    for key in SAME_NUMBERS:
        config.get(key, None)
    for key, original in REPEATED.items():
        if config.get(key, config[original]) != config[original]:
            raise ConversionError(f"{key!r} is {config[key]!r} and {original!r} {config[original]!r}; they say the same thing.")
    foreign = [code for code in (config["auto_map"] or {}).values() if not str(code).split("--")[-1].startswith(OWN_CODE)]
    if foreign:
        raise ConversionError(f"'auto_map' names {foreign[0]!r}, which is not GLM-4's published code; what it computes is unknown.")
    heads, groups = config["num_attention_heads"], config["multi_query_group_num"]
    return {
        "d_model": config["hidden_size"],
        "n_layers": config["num_layers"],
        "n_heads": heads,
        "n_key_value_heads": None if groups == heads else groups,
        "d_head": config["kv_channels"],
        "d_mlp": config["ffn_hidden_size"],
        "d_vocab": config["padded_vocab_size"],
        "n_ctx": config["seq_length"],
        "act_fn": "silu",
        "eps": config["layernorm_epsilon"],
        "normalization_type": "RMS",
        "final_rms": True,
        "gated_mlp": True,
        "tie_word_embeddings": config["tie_word_embeddings"],
        "positional_embedding_type": "rotary",
        "rotary_adjacent_pairs": True,
        "rotary_dim": config["kv_channels"] // 2,
        "rotary_base": 10_000.0 * config["rope_ratio"],
    }


def rules(config: ConfigReader) -> tuple[Rule, ...]:
    """ChatGLM's weights: the fused rows are all queries, then all keys, then all values; the fused gate comes first."""
    config.require("tie_word_embeddings", False, why="ChatGLM stores its output layer apart.")
    heads, groups, d_head = config["num_attention_heads"], config["multi_query_group_num"], config["kv_channels"]
    grouped = "" if groups == heads else "_"
    q, k, v = heads * d_head, (heads + groups) * d_head, (heads + 2 * groups) * d_head
    rows = {"Q": ("", (0, q)), "K": (grouped, (q, k)), "V": (grouped, (k, v))}
    source, target = "transformer.encoder.layers.{}.", "blocks.{}."
    fused = f"{source}self_attention.query_key_value"
    biased = config["add_qkv_bias"]
    attention: list[Rule] = []
    for letter, (prefix, cut) in rows.items():
        weight, bias = f"{target}attn.{prefix}W_{letter}", f"{target}attn.{prefix}b_{letter}"
        attention.append(Copy(f"{fused}.weight", weight, "(head d_head) d_model -> head d_model d_head", rows=cut))
        attention.append(Copy(f"{fused}.bias", bias, "(head d_head) -> head d_head", rows=cut) if biased else Zero(bias))
    return (
        Copy("transformer.embedding.word_embeddings.weight", "embed.W_E"),
        *attention,
        Copy(f"{source}self_attention.dense.weight", f"{target}attn.W_O", "d_model (head d_head) -> head d_head d_model"),
        Zero(f"{target}attn.b_O"),
        Copy(f"{source}input_layernorm.weight", f"{target}ln1.w"),
        Copy(f"{source}post_attention_layernorm.weight", f"{target}ln2.w"),
        Split(f"{source}mlp.dense_h_to_4h.weight", (f"{target}mlp.W_gate", f"{target}mlp.W_in"), FUSED_GATE),
        Copy(f"{source}mlp.dense_4h_to_h.weight", f"{target}mlp.W_out", "d_model d_mlp -> d_mlp d_model"),
        Zero(f"{target}mlp.b_in"),
        Zero(f"{target}mlp.b_out"),
        Copy("transformer.encoder.final_layernorm.weight", "ln_final.w"),
        Copy("transformer.output_layer.weight", "unembed.W_U", "d_vocab d_model -> d_model d_vocab"),
        Zero("unembed.b_U"),
        Drop("transformer.rotary_pos_emb.inv_freq", "recomputed from the config"),
    )


RENAMED = {
    "embed_tokens": "transformer.embedding.word_embeddings",
    "lm_head": "transformer.output_layer",
    "model.norm": "transformer.encoder.final_layernorm",
    "self_attn.o_proj": "self_attention.dense",
    "mlp.gate_up_proj": "mlp.dense_h_to_4h",
    "mlp.down_proj": "mlp.dense_4h_to_h",
}


def relaid(config: ConfigReader, read: Callable[[str], Tensor]) -> Callable[[str], Tensor]:
    """Gives `GlmForCausalLM`'s tensors by their names, from ChatGLM's.

    Args:
        config: of the checkpoint.
        read: gives ChatGLM's tensors by name.
    """
    d_head = config["kv_channels"]
    groups = config["multi_query_group_num"] * d_head
    sizes = [config["num_attention_heads"] * d_head, groups, groups]

    def give(name: str) -> Tensor:
        module, kind = name.rsplit(".", 1)
        parts = module.split(".")
        layer = f"transformer.encoder.layers.{parts[2]}." if parts[1:2] == ["layers"] else ""
        if parts[-1] in ("q_proj", "k_proj", "v_proj"):
            fused = read(f"{layer}self_attention.query_key_value.{kind}")
            return fused.split(sizes)["qkv".index(parts[-1][0])]
        end = ".".join(parts[3:]) if layer else module.removeprefix("model.") if parts[-1] == "embed_tokens" else module
        return read(f"{layer}{RENAMED.get(end, end)}.{kind}")

    return give
