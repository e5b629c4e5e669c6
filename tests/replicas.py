"""Exact replicas of slamkit checkpoints: true architecture, config and file layout, random weights, tiny."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

N_UNITS = 20
WORDS = ["a", "the", "capital", "of", "france", "is", "paris", "rome", "see", "sea"]

ROPE = {"rope_theta": 10000.0, "rope_type": "default"}
LLAMA3 = {
    "rope_theta": 500000.0,
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256,  # with heads of 16, one wavelength (167) lies between 256 / 4 and 256 / 1
}
GATED = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "rope_parameters": ROPE,
}

# Every architecture, grouped and ungrouped, tied and untied, with the rotary scalings and windows it can have.
VARIANTS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", **GATED},
    "llama-mha-tied": {"model_type": "llama", **GATED, "num_key_value_heads": 4, "tie_word_embeddings": True},
    "llama-llama3-rope": {"model_type": "llama", **GATED, "head_dim": 16, "rope_parameters": LLAMA3},
    "llama-linear-rope": {"model_type": "llama", **GATED, "rope_parameters": {**ROPE, "rope_type": "linear", "factor": 3.0}},
    "llama-biases-wide-heads": {"model_type": "llama", **GATED, "attention_bias": True, "head_dim": 10},
    "qwen2": {"model_type": "qwen2", **GATED},
    "qwen2-mha-tied": {"model_type": "qwen2", **GATED, "num_key_value_heads": 4, "tie_word_embeddings": True},
    "qwen2-windows": {"model_type": "qwen2", **GATED, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    "qwen3": {"model_type": "qwen3", **GATED, "head_dim": 10},
    "qwen3-biases-tied": {"model_type": "qwen3", **GATED, "head_dim": 6, "attention_bias": True, "tie_word_embeddings": True},
    "mistral": {"model_type": "mistral", **GATED, "head_dim": 10, "sliding_window": None},
    "mistral-window": {"model_type": "mistral", **GATED, "head_dim": 6, "sliding_window": 5},
    "opt": {
        "model_type": "opt",
        "hidden_size": 24,
        "word_embed_proj_dim": 24,
        "ffn_dim": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
    },
    "gpt_neox": {
        "model_type": "gpt_neox",
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 4096,
        "layer_norm_eps": 1e-5,
        "rope_parameters": {**ROPE, "partial_rotary_factor": 0.5},
    },
    "gpt_neox-serial-tied": {
        "model_type": "gpt_neox",
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 4096,
        "use_parallel_residual": False,
        "attention_bias": False,
        "tie_word_embeddings": True,
        "rope_parameters": {**ROPE, "partial_rotary_factor": 0.25},
    },
}
VARIANTS["opt-untied"] = {**VARIANTS["opt"], "tie_word_embeddings": False}


def text_tokenizer(words: list[str] | None = None) -> PreTrainedTokenizerFast:
    """A word-level tokenizer whose tokens carry their leading space, without BOS, as Qwen's."""
    vocabulary = {"<unk>": 0, **{f"▁{word}": i + 1 for i, word in enumerate(words or WORDS)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def random_weights(raw: Mapping[str, Any], seed: int = 0, scale: float = 0.3) -> dict[str, Tensor]:
    """Weights of the base model, every one of them random: norms and biases too."""
    generator = torch.Generator().manual_seed(seed)
    config = AutoConfig.for_model(**raw)
    state = AutoModelForCausalLM.from_config(config).state_dict()
    weights = {}
    for name, tensor in state.items():
        noise = torch.randn(tensor.shape, generator=generator)
        weights[name] = 1 + 0.3 * noise if tensor.ndim == 1 and "norm" in name and name.endswith("weight") else scale * noise
    if config.tie_word_embeddings:
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith(("lm_head", "embed_out"))}
    return weights


def write_slamkit(
    folder: Path,
    raw: Mapping[str, Any],
    *,
    vocab_size: int = N_UNITS + 2,
    weights: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
    shards: int = 1,
    scale: float = 0.3,
) -> Path:
    """A folder as slamkit's `save_pretrained` leaves it: wrapper config, `lm.` prefix, one file or an index of shards."""
    folder.mkdir(parents=True, exist_ok=True)
    raw = {**raw, "vocab_size": vocab_size}
    weights = random_weights(raw, scale=scale) if weights is None else weights
    state = {f"lm.{name}": tensor.to(dtype).contiguous() for name, tensor in weights.items()}
    base = AutoConfig.for_model(**raw).to_dict()
    (folder / "config.json").write_text(json.dumps(wrapper(base, dtype)))
    if shards == 1:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    names = sorted(state)
    weight_map = {name: f"model-{i * shards // len(names) + 1:05d}-of-{shards:05d}.safetensors" for i, name in enumerate(names)}
    for shard in sorted(set(weight_map.values())):
        save_file({name: state[name] for name in names if weight_map[name] == shard}, folder / shard, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def wrapper(base: Mapping[str, Any], dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """slamkit's UnitLMConfig around a base config."""
    return {
        "architectures": ["UnitLM"],
        "model_type": "speech_language_model",
        "base_model_name": "somewhere/base",
        "base_config": dict(base),
        "vocab_size": base["vocab_size"],
        "twist_init": True,
        "use_cache": True,
        "max_position_embeddings": base["max_position_embeddings"],
        "tie_word_embeddings": base["tie_word_embeddings"],
        "trust_remote_code": None,
        "use_safetensors": None,
        "dtype": str(dtype).removeprefix("torch."),
        "transformers_version": "5.23.0",
    }
