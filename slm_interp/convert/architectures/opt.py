"""OPT with the norm before each sublayer: learned positions that start at row 2, LayerNorm, biases everywhere.

Source: `transformers/models/opt/modeling_opt.py`. OPT-350M normalises after each sublayer and projects its
embeddings; HookedTransformer expresses neither, so it is refused.
"""

from __future__ import annotations

from typing import Any

from slm_interp.convert.config import ConfigReader
from slm_interp.convert.decoder import ACTIVATIONS, head_rules
from slm_interp.convert.rules import Copy, Rule

LAYERS = "model.decoder.layers"
POSITION_OFFSET = 2  # OPTLearnedPositionalEmbedding.offset


def fields(config: ConfigReader) -> dict[str, Any]:
    """OPT's sizes."""
    config.require("do_layer_norm_before", True, why="post-norm blocks (OPT-350M) are another architecture.")
    config.require("_remove_final_layer_norm", False, why="HookedTransformer always normalises before the unembedding.")
    config.require("word_embed_proj_dim", config["hidden_size"], why="projected embeddings (OPT-350M) have no place in HookedTransformer.")
    config.require("enable_bias", True, why="OPT's linear layers have biases.")
    config.require("layer_norm_elementwise_affine", True, why="its LayerNorms have weights.")
    return {
        "d_model": config["hidden_size"],
        "n_layers": config["num_hidden_layers"],
        "n_heads": config["num_attention_heads"],
        "d_head": config["hidden_size"] // config["num_attention_heads"],
        "d_mlp": config["ffn_dim"],
        "d_vocab": config["vocab_size"],
        "n_ctx": config["max_position_embeddings"],
        "act_fn": config.table("activation_function", ACTIVATIONS),
        "eps": 1e-5,  # torch.nn.LayerNorm's default, which OPT uses
        "normalization_type": "LN",
        "positional_embedding_type": "standard",
        "tie_word_embeddings": config["tie_word_embeddings"],
    }


def rules(config: ConfigReader) -> tuple[Rule, ...]:
    """OPT's weights."""
    source, target = "model.decoder.layers.{}.", "blocks.{}."
    attention = {"q_proj": "Q", "k_proj": "K", "v_proj": "V"}
    return (
        Copy("model.decoder.embed_tokens.weight", "embed.W_E"),
        Copy("model.decoder.embed_positions.weight", "pos_embed.W_pos", rows=(POSITION_OFFSET, None)),
        *(
            Copy(f"{source}self_attn.{name}.weight", f"{target}attn.W_{letter}", "(head d_head) d_model -> head d_model d_head")
            for name, letter in attention.items()
        ),
        *(
            Copy(f"{source}self_attn.{name}.bias", f"{target}attn.b_{letter}", "(head d_head) -> head d_head")
            for name, letter in attention.items()
        ),
        Copy(f"{source}self_attn.out_proj.weight", f"{target}attn.W_O", "d_model (head d_head) -> head d_head d_model"),
        Copy(f"{source}self_attn.out_proj.bias", f"{target}attn.b_O"),
        Copy(f"{source}self_attn_layer_norm.weight", f"{target}ln1.w"),
        Copy(f"{source}self_attn_layer_norm.bias", f"{target}ln1.b"),
        Copy(f"{source}final_layer_norm.weight", f"{target}ln2.w"),
        Copy(f"{source}final_layer_norm.bias", f"{target}ln2.b"),
        Copy(f"{source}fc1.weight", f"{target}mlp.W_in", "d_mlp d_model -> d_model d_mlp"),
        Copy(f"{source}fc1.bias", f"{target}mlp.b_in"),
        Copy(f"{source}fc2.weight", f"{target}mlp.W_out", "d_model d_mlp -> d_mlp d_model"),
        Copy(f"{source}fc2.bias", f"{target}mlp.b_out"),
        Copy("model.decoder.final_layer_norm.weight", "ln_final.w"),
        Copy("model.decoder.final_layer_norm.bias", "ln_final.b"),
        *head_rules(config, "model.decoder.embed_tokens.weight", "lm_head.weight"),
    )
