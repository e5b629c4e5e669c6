"""TransformerLens 4.x: a `TransformerBridge` around the module that computes what the classic fields say.

The seam speaks the classic names and shapes on both sides (`layout.py`), so converters and lenses need not know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from accelerate import init_empty_weights
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.exceptions import StopAtLayerException
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
from transformer_lens.model_bridge.sources.native import NativeModel
from transformers import AutoConfig, AutoModelForCausalLM

from slm_interp.errors import ConversionError
from slm_interp.hooked.kept import Kept, KeysAndValues, Writes
from slm_interp.hooked.layout import Place, places, shape, sizes, to_bridge, to_classic
from slm_interp.hooked.modules import kind, refusal, settings
from slm_interp.hooked.transformer import SOFTMAX

PARTIAL = {"resid_mid": "the MLP alone and not the residual stream after it"}
COPIED = "queries, keys and values are copied into memory: TransformerBridge keeps them apart, the checkpoint interleaves them by heads"


def empty(fields: Mapping[str, Any]) -> TransformerBridge:
    """A TransformerBridge on the meta device: names and shapes, no memory but small tables.

    Args:
        fields: arguments of `HookedTransformerConfig`; the bridge's own config repeats them.

    Raises:
        ConversionError: a field that 4.x does not express.
    """
    chosen, made, dtype = kind(fields), settings(fields), fields.get("dtype", torch.float32)
    adjacent = bool(fields.get("rotary_adjacent_pairs", False))
    model = _native(made, dtype) if chosen == "native" else _wrapped(chosen, made, dtype, adjacent)
    for field, value in fields.items():
        setattr(model.cfg, field, value)
    model.cfg.default_prepend_bos = False
    return model


def _native(made: Mapping[str, Any], dtype: torch.dtype) -> TransformerBridge:
    config = TransformerBridgeConfig(**made, device="cpu", dtype=dtype)
    with torch.device("meta"):
        module = NativeModel(config).to(dtype)
    return build_bridge_from_module(module, "TransformerLensNative", tl_config=config, device="cpu")


def _wrapped(chosen: str, made: Mapping[str, Any], dtype: torch.dtype, adjacent: bool) -> TransformerBridge:
    def turn(adapter: Any) -> None:  # each block copies the config when it is built; afterwards is too late
        adapter.cfg.rotary_adjacent_pairs = adjacent

    config = AutoConfig.for_model(chosen, **made, tie_word_embeddings=False, use_cache=False)
    with init_empty_weights():
        module = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=dtype).eval()
    return build_bridge_from_module(module, type(module).__name__, hf_config=config, device="cpu", post_adapter_hook=turn)


def parameters(model: TransformerBridge) -> dict[str, Tensor]:
    """Every classic parameter by its name (`blocks.0.attn.W_Q`), as a view; zeros for a bias the module has no place for."""
    axes = sizes(model.cfg)
    found = {}
    for name, place in places(model.cfg).items():
        tensor = getattr(_holder(model, place), place.tensor, None)
        if tensor is None:
            found[name] = torch.zeros(shape(place, axes), dtype=model.cfg.dtype)
        else:
            found[name] = to_classic(tensor, place, axes)
    return found


def _holder(model: TransformerBridge, place: Place) -> nn.Module:
    component: Any = model.get_submodule(place.component)
    return component.original_component


def fill(model: TransformerBridge, state: Mapping[str, Tensor]) -> TransformerBridge:
    """Give an empty model its weights, as views of what it is given wherever their memory allows it.

    Queries, keys and values of a model like GPT-NeoX are copied: 4.x wants each as a matrix of its own, and in a
    checkpoint they interleave by heads. Its fused matrix, which the bridge never runs, is left without rows.

    Args:
        model: from `empty`.
        state: one tensor for every classic parameter.

    Raises:
        ConversionError: a parameter left unfilled or left over, or a bias that the module has no place for and is not zero.
    """
    wanted, axes = places(model.cfg), sizes(model.cfg)
    missing, unexpected = sorted(set(wanted) - set(state)), sorted(set(state) - set(wanted))
    if missing or unexpected:
        raise ConversionError(f"Parameters left unfilled: {missing}; left over: {unexpected}.")
    left = [name for name, tensor in state.items() if tensor.is_meta]
    if left:
        raise ConversionError(f"These tensors never got a value: {left[:5]} ({len(left)} in all).")
    for name, place in wanted.items():
        _put(_holder(model, place), name, place, to_bridge(state[name], place, axes))
    _fill_the_rest(model)
    return model.eval()


def _put(holder: nn.Module, name: str, place: Place, tensor: Tensor) -> None:
    if place.tensor in holder._buffers:
        holder._buffers[place.tensor] = tensor
    elif getattr(holder, place.tensor, None) is not None:
        holder._parameters[place.tensor] = nn.Parameter(tensor)
    elif tensor.any():
        raise refusal(f"{name}, which is not zero, in a {type(holder).__name__} without {place.tensor}")


def _fill_the_rest(model: TransformerBridge) -> None:
    """Fused matrices that are never run, and one causal mask for all native layers."""
    mask = None
    for block in model.blocks:
        fused = getattr(block.attn, "qkv", None)
        if fused is not None:
            for name, tensor in fused.original_component.named_parameters(recurse=False):
                fused.original_component._parameters[name] = nn.Parameter(torch.empty(0, *tensor.shape[1:], dtype=tensor.dtype))
        attention = block.attn.original_component
        if "causal_mask" in attention._buffers:
            mask = torch.ones(attention.causal_mask.shape, dtype=torch.bool).triu(1) if mask is None else mask
            attention._buffers["causal_mask"] = mask
    left = [name for name, tensor in [*nn.Module.named_parameters(model), *nn.Module.named_buffers(model)] if tensor.is_meta]
    if left:
        raise ConversionError(f"These tensors never got a value: {left[:5]} ({len(left)} in all).")


def run_blocks(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch pos"],
    hooks: Sequence[tuple[str, Callable[..., Any]]],
    mask: Int[Tensor, "batch pos"] | None = None,
) -> None:
    """Run the embedding and the blocks with hooks, and nothing after them.

    `stop_at_layer=n_layers` would run on to the logits: 4.x stops before a block, and there is none after the last.

    Args:
        mask: 1 where there is a token and 0 where there is a pad; None is tokens everywhere.
    """

    def stop(resid: Tensor, hook: Any) -> None:
        raise StopAtLayerException(resid)

    last = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
    mask = torch.ones_like(tokens) if mask is None else mask
    positions = (mask.cumsum(-1) - 1).clamp(min=0)  # counted from the first token; 4.x would count some models' from the first pad
    model.run_with_hooks(
        tokens,
        return_type=None,
        fwd_hooks=[*hooks, (last, stop)],
        prepend_bos=False,
        attention_mask=mask,
        position_ids=positions,
    )


def notes(fields: Mapping[str, Any]) -> list[str]:
    """What is computed or kept in another way than the checkpoint's own program does, in sentences; or why 4.x will refuse."""
    try:
        settings(fields)
    except ConversionError as error:
        return [f"cannot be loaded: {error}"]
    return {"native": [SOFTMAX.format("TransformerBridge")], "gpt_neox": [COPIED]}.get(kind(fields), [])


def parameter_owners(model: TransformerBridge) -> list[tuple[str, nn.Module]]:
    """What a streamed forward loads one by one, with its name: here the embeddings, each block, the final norm, the unembedding.

    Nothing smaller: bridge components look at the dtype of the weights of components below them before they run.
    """
    names = [*model.adapter.components, *(f"blocks.{layer}" for layer in range(model.cfg.n_layers))]
    owners = [(name, model.get_submodule(name)) for name in names if name != "blocks"]
    return [(name, owner) for name, owner in owners if next(owner.parameters(), None) is not None]


def run_and_cache(
    model: TransformerBridge, tokens: Int[Tensor, "row pos"], hooks: Sequence[tuple[str, Callable[..., Any]]]
) -> KeysAndValues | None:
    """Run the embedding and the blocks with hooks; no keys and values are kept."""
    run_blocks(model, tokens, hooks)
    return None


def run_on(
    model: TransformerBridge, tokens: Int[Tensor, "batch pos"], hooks: Sequence[tuple[str, Callable[..., Any]]], past: None = None
) -> tuple[Float[Tensor, "batch d_model"], None]:
    """The residual stream after the last block at the last position; rows are run whole every time, with the hooks.

    Args:
        tokens: rows from their beginning.
        hooks: that change nothing behind the positions of the first run.
        past: there is none.
    """
    last: list[Tensor] = []

    def keep(resid: Tensor, hook: Any) -> None:
        last.append(resid[:, -1])

    with torch.no_grad():
        run_blocks(model, tokens, [*hooks, (f"blocks.{model.cfg.n_layers - 1}.hook_resid_post", keep)])
    return last[0], None


def resume(
    model: TransformerBridge,
    kept: Kept,
    layer: int,
    start: int,
    resid: Float[Tensor, "run prompt_pos d_model"],
    writes: Mapping[str, Writes],
) -> list[Float[Tensor, "run _ d_model"]]:
    """The last residuals of runs that differ from a kept one from block `layer` and position `start` on; whole rows are run.

    Args:
        resid: what block `layer` reads at the positions of the prompt from `start` on.
        writes: what is put in at hooks of block `layer` or later, at those positions.

    Returns:
        for each row, the residual stream after the last block from the last position of the prompt on.
    """
    found = []
    for row, length in enumerate(kept.lengths):
        rows = kept.tokens[row : row + 1, :length].expand(len(resid), -1)
        found.append(_rows_from(model, rows, layer, start, resid, writes)[:, kept.prompt - 1 :])
    return found


def resume_all(
    model: TransformerBridge,
    kept: Kept,
    layer: int,
    start: int,
    resid: Float[Tensor, "run prompt_pos d_model"],
    writes: Mapping[str, Writes],
) -> Float[Tensor, "run prompt_pos d_model"]:
    """As `resume`, without continuations: the last residuals at every position of the prompt from `start` on."""
    rows = kept.tokens[:1, : kept.prompt].expand(len(resid), -1)
    return _rows_from(model, rows, layer, start, resid, writes)[:, start:]


def _rows_from(
    model: TransformerBridge,
    rows: Int[Tensor, "run pos"],
    layer: int,
    start: int,
    resid: Float[Tensor, "run prompt_pos d_model"],
    writes: Mapping[str, Writes],
) -> Float[Tensor, "run pos d_model"]:
    place = f"blocks.{layer}.hook_resid_pre" if layer < model.cfg.n_layers else f"blocks.{layer - 1}.hook_resid_post"
    last: list[Tensor] = []

    def begin(own: Tensor, hook: Any) -> Tensor:
        changed = own.clone()
        changed[:, start : start + resid.shape[1]] = resid.to(own)
        return changed

    def keep(own: Tensor, hook: Any) -> None:
        last.append(own)

    hooks: list[tuple[str, Any]] = [(place, begin)]
    hooks += [(name, lambda own, hook, one=one: one.into(own)) for name, one in writes.items()]
    with torch.no_grad():
        run_blocks(model, rows, [*hooks, (f"blocks.{model.cfg.n_layers - 1}.hook_resid_post", keep)])
    return last[0]
