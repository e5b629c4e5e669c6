"""The Hugging Face models that are trained: new ones from a shape, and the step from a text model to a joint one."""

from __future__ import annotations

from typing import Any

import torch

from slm_interp.organisms.recipe import Shape

INITIAL_STD = 0.02


def new_model(shape: Shape, rows: int, seed: int, n_layers: int | None = None) -> Any:
    """A model with random weights; the same seed, the same weights.

    Args:
        n_layers: fewer blocks than the shape says; all of them if not given.
    """
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    kinds = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}
    config_class, model_class = kinds[shape.architecture]
    config = config_class(
        vocab_size=rows,
        hidden_size=shape.d_model,
        intermediate_size=shape.d_mlp,
        num_hidden_layers=n_layers or shape.n_layers,
        num_attention_heads=shape.n_heads,
        num_key_value_heads=shape.n_key_value_heads,
        max_position_embeddings=shape.n_ctx,
        tie_word_embeddings=shape.tied,
        initializer_range=INITIAL_STD,
        rms_norm_eps=1e-5,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        use_cache=False,
        attn_implementation="eager",  # on CPU quicker than the fused kernel, whose backward pass is slow for small heads
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config)
    with torch.no_grad():
        for matrix in embeddings(model):
            matrix.mul_(shape.embedding_std / INITIAL_STD)
        for block in model.model.layers:
            for written in (block.self_attn.o_proj.weight, block.mlp.down_proj.weight):
                written.div_((2 * shape.n_layers) ** 0.5)  # GPT-2's: the residual stream starts as the embedding
    return model


def embeddings(model: Any) -> list[torch.nn.Parameter]:
    """The embedding matrix, and the head's if it is another."""
    matrices = (model.get_input_embeddings().weight, model.get_output_embeddings().weight)
    return list({id(matrix): matrix for matrix in matrices}.values())


def joint_model(text_model: Any, shape: Shape, rows: int, seed: int) -> Any:
    """A text model with blocks added below and above it, and rows for units and markers.

    The new blocks write nothing at first, so the model says what the text model says (block expansion, Wu et al. 2024,
    "LLaMA Pro"). The new rows are the mean of the text rows plus noise (TWIST, Hassid et al. 2023).
    """
    model = new_model(shape, rows, seed)
    generator = torch.Generator().manual_seed(seed)
    inner = text_blocks(model, shape)
    with torch.no_grad():
        for block in model.model.layers:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
        for block, trained in zip(inner, text_model.model.layers, strict=True):
            block.load_state_dict(trained.state_dict())
        model.model.norm.load_state_dict(text_model.model.norm.state_dict())
        for matrix, trained in zip(embeddings(model), embeddings(text_model), strict=True):
            matrix[: len(trained)] = trained
            noise = torch.randn(rows - len(trained), matrix.shape[1], generator=generator) * float(trained.std())
            matrix[len(trained) :] = trained.mean(0) + noise.to(matrix)
    return model


def text_blocks(model: Any, shape: Shape) -> Any:
    """The blocks of a joint model that come from the text model."""
    return model.model.layers[shape.below : shape.n_layers - shape.above]


def blocks_above(model: Any, shape: Shape) -> Any:
    """The blocks of a joint model that were added over the text model's."""
    return model.model.layers[shape.n_layers - shape.above :]
