"""GPT-NeoX (Pythia): attention and MLP in parallel, one fused query-key-value matrix a layer, part of each head rotary.

Source: `transformers/models/gpt_neox/modeling_gpt_neox.py`.
"""

from __future__ import annotations

from typing import Any

from slm_interp.convert.config import ConfigReader
from slm_interp.convert.decoder import ACTIVATIONS, head_rules, rotary_fields
from slm_interp.convert.rules import Copy, Drop, Rule, Split, Zero

LAYERS = "gpt_neox.layers"
ALIASES = {"embed_out.weight": "lm_head.weight"}  # how transformers before 5 names the head


def fields(config: ConfigReader) -> dict[str, Any]:
    """GPT-NeoX's sizes."""
    d_head = config["hidden_size"] // config["num_attention_heads"]
    return {
        "d_model": config["hidden_size"],
        "n_layers": config["num_hidden_layers"],
        "n_heads": config["num_attention_heads"],
        "d_head": d_head,
        "d_mlp": config["intermediate_size"],
        "d_vocab": config["vocab_size"],
        "n_ctx": config["max_position_embeddings"],
        "act_fn": config.table("hidden_act", ACTIVATIONS),
        "eps": config["layer_norm_eps"],
        "normalization_type": "LN",
        "parallel_attn_mlp": config["use_parallel_residual"],
        "tie_word_embeddings": config["tie_word_embeddings"],
        **rotary_fields(config, d_head, partial=True),
    }


def rules(config: ConfigReader) -> tuple[Rule, ...]:
    """GPT-NeoX's weights."""
    source, target = "gpt_neox.layers.{}.", "blocks.{}."
    weights = tuple(f"{target}attn.W_{letter}" for letter in "QKV")
    biases = tuple(f"{target}attn.b_{letter}" for letter in "QKV")
    fused = f"{source}attention.query_key_value"
    attention: tuple[Rule, ...] = (
        Split(f"{fused}.weight", weights, "(head part d_head) d_model -> part head d_model d_head"),
        Copy(f"{source}attention.dense.weight", f"{target}attn.W_O", "d_model (head d_head) -> head d_head d_model"),
    )
    if config["attention_bias"]:
        attention += (
            Split(f"{fused}.bias", biases, "(head part d_head) -> part head d_head"),
            Copy(f"{source}attention.dense.bias", f"{target}attn.b_O"),
        )
    else:
        attention += (*(Zero(name) for name in biases), Zero(f"{target}attn.b_O"))
    return (
        Copy("gpt_neox.embed_in.weight", "embed.W_E"),
        *attention,
        *(
            Copy(f"{source}{theirs}.{one}", f"{target}{ours}.{letter}")
            for theirs, ours in {"input_layernorm": "ln1", "post_attention_layernorm": "ln2"}.items()
            for one, letter in {"weight": "w", "bias": "b"}.items()
        ),
        Copy(f"{source}mlp.dense_h_to_4h.weight", f"{target}mlp.W_in", "d_mlp d_model -> d_model d_mlp"),
        Copy(f"{source}mlp.dense_h_to_4h.bias", f"{target}mlp.b_in"),
        Copy(f"{source}mlp.dense_4h_to_h.weight", f"{target}mlp.W_out", "d_model d_mlp -> d_mlp d_model"),
        Copy(f"{source}mlp.dense_4h_to_h.bias", f"{target}mlp.b_out"),
        Copy("gpt_neox.final_layer_norm.weight", "ln_final.w"),
        Copy("gpt_neox.final_layer_norm.bias", "ln_final.b"),
        *head_rules(config, "gpt_neox.embed_in.weight", "lm_head.weight"),
        Drop("gpt_neox.layers.{}.attention.bias", "the causal mask"),
        Drop("gpt_neox.layers.{}.attention.masked_bias", "the score of a masked cell"),
        Drop("gpt_neox.layers.{}.attention.rotary_emb.inv_freq", "recomputed from the config"),
    )
