"""The seam: the same names, shapes and numbers on every TransformerLens, and a refusal where 4.x lacks something."""

from __future__ import annotations

import re
import runpy
from importlib import metadata
from typing import Any

import pytest
import torch
from torch import Tensor

from slm_interp import hooked
from slm_interp.errors import ConversionError
from slm_interp.hooked import bridge, installed
from slm_interp.hooked.layout import places, shape, sizes, to_bridge, to_classic
from slm_interp.hooked.modules import kind, settings

SIZES = {"d_model": 24, "n_layers": 2, "n_heads": 4, "d_head": 6, "d_mlp": 40, "d_vocab": 22, "n_ctx": 64}
ROTARY = {"positional_embedding_type": "rotary", "rotary_dim": 6, "rotary_base": 10_000.0}
GATED = {**SIZES, **ROTARY, "act_fn": "silu", "normalization_type": "RMS", "final_rms": True, "gated_mlp": True, "eps": 1e-6}
WINDOWED = {**GATED, "use_local_attn": True, "window_size": 5, "attn_types": ["local", "global"]}
NEOX = {**SIZES, **ROTARY, "act_fn": "gelu", "normalization_type": "LN"}
OPT = {**SIZES, "act_fn": "relu", "normalization_type": "LN", "positional_embedding_type": "standard"}
TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]])


def filled(fields: dict[str, Any], change: Any = None) -> hooked.HookedTransformer:
    """A model of random weights, the same for the same names; biases that no wrapped module has are zero."""
    model = hooked.empty(fields)
    absent = ("b_U", *(("b_in", "b_out") if fields.get("gated_mlp") else ()), *(("b_O",) if fields.get("use_local_attn") else ()))
    generator = torch.Generator().manual_seed(0)
    state = {name: 0.3 * torch.randn(tensor.shape, generator=generator) for name, tensor in sorted(hooked.parameters(model).items())}
    for name, tensor in state.items():
        if name.endswith(absent):
            tensor.zero_()
    if change is not None:
        change(state)
    return hooked.fill(model, state)


# -- names and shapes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [GATED, {**GATED, "n_key_value_heads": 2}, {**GATED, "use_qk_norm": True}, NEOX, {**NEOX, "parallel_attn_mlp": True}, OPT],
    ids=["gated", "grouped", "normed queries and keys", "neox", "parallel", "learned positions"],
)
def test_parameters_have_the_classic_names_and_shapes(fields):
    """`layout.py` is written for 4.x; on 3.9 HookedTransformer itself says whether it is right."""
    model = hooked.empty(fields)
    axes = sizes(model.cfg)
    wanted = {name: shape(place, axes) for name, place in places(model.cfg).items()}
    assert {name: tuple(tensor.shape) for name, tensor in hooked.parameters(model).items()} == wanted


def test_a_layout_and_its_way_back_are_views():
    config = hooked.empty({**GATED, "n_key_value_heads": 2, "use_qk_norm": True}).cfg
    axes = sizes(config)
    for name, place in places(config).items():
        stored = to_bridge(torch.randn(shape(place, axes)), place, axes).clone()
        classic = to_classic(stored, place, axes)
        again = to_bridge(classic, place, axes)
        assert classic.data_ptr() == stored.data_ptr() == again.data_ptr() and torch.equal(again, stored), name


def test_parameters_are_what_the_model_computes_with():
    model = filled(GATED)
    before = hooked.logits(model, TOKENS)
    with torch.no_grad():
        hooked.parameters(model)["blocks.1.attn.W_Q"].mul_(2)
    assert not torch.allclose(hooked.logits(model, TOKENS), before)


# -- numbers ---------------------------------------------------------------------------------------------


def test_adjacent_rotary_pairs_are_halves_in_another_order():
    """Turning dimensions (0, 1), (2, 3) is turning (0, 2), (1, 3) after exchanging 1 and 2; the other two stay."""
    fields = {**GATED, "rotary_dim": 4}

    def exchanged(state: dict[str, Tensor]) -> None:
        for layer in range(SIZES["n_layers"]):
            for name in ("W_Q", "W_K", "b_Q", "b_K"):
                state[f"blocks.{layer}.attn.{name}"] = state[f"blocks.{layer}.attn.{name}"][..., [0, 2, 1, 3, 4, 5]]

    halves = hooked.logits(filled(fields), TOKENS)
    torch.testing.assert_close(hooked.logits(filled({**fields, "rotary_adjacent_pairs": True}, exchanged), TOKENS), halves)
    assert not torch.allclose(hooked.logits(filled({**fields, "rotary_adjacent_pairs": True}), TOKENS), halves)
    assert not torch.allclose(hooked.logits(filled(GATED), TOKENS), halves), "the share of a head that turns must count"


@pytest.mark.parametrize("fields", [GATED, NEOX, OPT], ids=["gated", "neox", "learned positions"])
def test_residuals_do_not_compute_the_unembedding(fields):
    model = filled(fields)
    called: list[str] = []
    model.unembed.register_forward_hook(lambda *arguments: called.append("unembed"))
    model.ln_final.register_forward_hook(lambda *arguments: called.append("norm"))
    assert hooked.residuals(model, TOKENS[0]).shape == (SIZES["n_layers"] + 1, TOKENS.shape[1], SIZES["d_model"])
    assert called == []
    hooked.logits(model, TOKENS)
    assert called == ["norm", "unembed"]


# -- what 4.x lacks --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "chosen"),
    [
        (GATED, "llama"),
        (WINDOWED, "qwen2"),
        ({**GATED, "use_qk_norm": True}, "qwen3"),
        (NEOX, "gpt_neox"),
        (OPT, "native"),
    ],
)
def test_the_fields_choose_the_module(fields, chosen):
    assert kind(fields) == chosen and settings(fields)


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({**NEOX, "rotary_adjacent_pairs": True}, "rotary_adjacent_pairs=True in a model like gpt_neox"),
        ({**NEOX, "n_key_value_heads": 2}, "n_key_value_heads=2 in a model like gpt_neox"),
        ({**NEOX, "use_qk_norm": True}, "use_qk_norm=True in a model like gpt_neox"),
        (
            {**NEOX, "use_local_attn": True, "window_size": 5, "attn_types": ["local"] * 2},
            "attn_types=['local', 'local'] in a model like gpt_neox",
        ),
        ({**NEOX, "d_head": 8}, "heads of d_head=8 that are not d_model / n_heads, in a model like gpt_neox"),
        ({**GATED, "parallel_attn_mlp": True}, "parallel_attn_mlp=True in a model like llama"),
        ({**GATED, "final_rms": False}, "final_rms=False after blocks with RMSNorm"),
        ({**GATED, "act_fn": "solu_ln"}, "act_fn='solu_ln'"),
        ({**GATED, "attn_scale": 3.0}, "attn_scale=3.0 in a model like llama"),
        ({**GATED, "rotary_scaling_factor": 2.0, "use_NTK_by_parts_rope": True}, "linear and llama3 scaling of rotary positions at once"),
        ({**GATED, "normalization_type": "LN"}, "positions 'rotary', normalization 'LN' and gated_mlp=True in one model"),
        ({**OPT, "parallel_attn_mlp": True}, "parallel_attn_mlp=True in a model like native"),
        ({**OPT, "use_qk_norm": True}, "use_qk_norm=True in a model like native"),
    ],
)
def test_what_no_module_of_4_computes_is_refused_by_name(fields, what):
    with pytest.raises(ConversionError, match=rf"^TransformerLens \S+ cannot express {re.escape(what)}; 3\.9 may: pip install"):
        settings(fields)


@pytest.mark.parametrize(
    ("fields", "name"),
    [(GATED, "blocks.1.mlp.b_out"), (GATED, "blocks.0.mlp.b_in"), (WINDOWED, "blocks.1.attn.b_O")],
    ids=["MLP output", "MLP", "attention output beside windows"],
)
def test_a_bias_without_a_place_is_refused_on_4_unless_it_is_zero(fields, name):
    def biased(state: dict[str, Tensor]) -> None:
        state[name] += 1.0

    with pytest.raises(ConversionError, match=re.escape(f"cannot express {name}, which is not zero, in a Linear without bias; 3.9 may")):
        filled(fields, biased)


def test_what_4_will_refuse_is_a_note_and_not_an_error():
    """`inspect` says it before a weight is read; a gated model of the usual kind is expressed by both versions."""
    assert not any(note.startswith("cannot be loaded") for note in hooked.notes(GATED))
    notes = bridge.notes({**GATED, "parallel_attn_mlp": True})
    assert len(notes) == 1 and notes[0].startswith("cannot be loaded: TransformerLens ") and "parallel_attn_mlp=True" in notes[0]
    assert bridge.notes(GATED) == [] and "are copied into memory" in bridge.notes(NEOX)[0] and "TransformerBridge" in bridge.notes(OPT)[0]


def test_a_transformer_lens_of_neither_series_is_refused(monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda package: "5.0.1")
    with pytest.raises(
        ImportError, match=re.escape("TransformerLens 5.0.1 is installed; this package runs on 3.9 and on 4.x: pip install")
    ):
        runpy.run_path(installed.__file__)
