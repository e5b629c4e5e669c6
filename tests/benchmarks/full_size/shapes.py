"""The shapes: config of the base model, layout of the folder, tokenizer files of the true size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from tests.family_replicas import SPIRIT, chatglm, glm, llama2, llama3

Layout = Callable[[Mapping[str, Any], Mapping[str, Tensor]], tuple[dict[str, Any], dict[str, Tensor]]]


def slamkit(base: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """slamkit's wrapper: the base model's config inside its own, `lm.` before every name."""
    shared = {key: base[key] for key in ("vocab_size", "tie_word_embeddings", "max_position_embeddings")}
    config = {
        "architectures": ["UnitLM"],
        "model_type": "speech_language_model",
        "base_model_name": "base",
        "base_config": dict(base),
        "twist_init": True,
        "dtype": "bfloat16",
    }
    return {**config, **shared}, {f"lm.{name}": tensor for name, tensor in tensors.items()}


def plain(base: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config and names of Hugging Face."""
    return {**base, "torch_dtype": "bfloat16"}, dict(tensors)


@dataclass(frozen=True)
class Shape:
    """A checkpoint to be written.

    Args:
        base: config of the base model, in Hugging Face's words.
        layout: gives the config and the tensors by the names in the files.
        tokenizer: writes the tokenizer's files.
        tokenizer_folder: where, inside the checkpoint's; a checkpoint of slamkit does not carry them itself.
        binary: one `pytorch_model.bin` instead of safetensors in shards.
    """

    base: Mapping[str, Any]
    layout: Layout
    tokenizer: Callable[[Path], None]
    tokenizer_folder: str = ""
    binary: bool = False

    def laid_out(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """config.json, and every tensor on the meta device."""
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**self.base))
        tensors = model.state_dict()
        if self.base["tie_word_embeddings"]:
            del tensors["lm_head.weight"]
        return self.layout(self.base, tensors)


LLAMA32_ROPE = {
    "rope_theta": 500_000.0,
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
SHAPES = {
    "sims-3b": Shape(  # Llama-3.2-3B
        {
            "model_type": "llama",
            "hidden_size": 3072,
            "intermediate_size": 8192,
            "num_hidden_layers": 28,
            "num_attention_heads": 24,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 128_256 + 500 + 2,
            "max_position_embeddings": 131_072,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": True,
            "rope_parameters": LLAMA32_ROPE,
        },
        slamkit,
        llama3(()),
        "text_tokenizer",
    ),
    "sims-7b": Shape(  # Qwen2.5-7B
        {
            "model_type": "qwen2",
            "hidden_size": 3584,
            "intermediate_size": 18_944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 151_665 + 500 + 2,
            "max_position_embeddings": 32_768,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": False,
            "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"},
        },
        slamkit,
        llama3((), 151_665, bos=False),
        "text_tokenizer",
    ),
    "spiritlm": Shape(  # Llama-2-7B
        {
            "model_type": "llama",
            "hidden_size": 4096,
            "intermediate_size": 11_008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "vocab_size": 32_512,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": False,
            "rope_parameters": {"rope_theta": 10_000.0, "rope_type": "default"},
        },
        plain,
        llama2(SPIRIT),
        binary=True,
    ),
    "glm-4-voice": Shape(  # GLM-4-9B
        {
            "model_type": "glm",
            "hidden_size": 4096,
            "intermediate_size": 13_696,
            "num_hidden_layers": 40,
            "num_attention_heads": 32,
            "num_key_value_heads": 2,
            "head_dim": 128,
            "vocab_size": 168_960,
            "max_position_embeddings": 8192,
            "rms_norm_eps": 3.90625e-08,
            "attention_bias": True,
            "tie_word_embeddings": False,
            "rope_parameters": {"rope_theta": 10_000.0, "rope_type": "default", "partial_rotary_factor": 0.5},
        },
        chatglm,
        glm,
    ),
}
