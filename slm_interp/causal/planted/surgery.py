"""A shadow added to a trained model: text that the lens reads at every spoken word, and that no unit depends on, exactly.

    states = collect(slm, utterances)               # lenses.probe: residuals of words, to learn from which word is said
    grafted = shadowed(slm, states, layer=6)
    grafted.slm                                     # the same model in a wider stream, with a block more
    grafted.layers                                  # of resid_post: where the text stands

1. A linear probe of the word is trained at the layer, and centred over its classes.
2. The stream gets a dimension that holds a small constant at every position, and one for each word; text directions are a random rotation of these.
3. A block of its own comes after that layer. It attends to nothing; neuron w writes the probe's score of word w, times a positive number that depends on the
   position (a norm divides by the length of what stands there, twice), along direction w. No block after it reads any of that: their weights there are 0.
4. Columns of `W_U` of the first pieces of the words read these directions, loudly; the unembedding is untied for it.

*Exactness.* RMSNorm takes its mean over the width, so norm weights are multiplied by `sqrt(old / new width)` and its epsilon by `old / new width`, which leaves
all that the model computes. What was added enters the mean square: it is written small, `SMALL` of the residual's norm, which changes the mean square by
the square of that, and is read large.

Text logits at the end of the model are not what they were: this is about the speech that follows, not about what the model would write.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from slm_interp import hooked
from slm_interp.causal.planted.block import GATE
from slm_interp.causal.planted.codes import rotation
from slm_interp.convert import load
from slm_interp.convert.checkpoint import Checkpoint
from slm_interp.errors import PatchingError
from slm_interp.lenses.directions import columns_of, first_pieces
from slm_interp.lenses.probe import States, train_probe
from slm_interp.model import SpeechTextModel
from slm_interp.organisms.slamkit_layout import save_unit_lm

SMALL = 1e-6  # norm of what is added, of that of the residual
LOUD = 10.0  # deviation of what the lens reads of the added text over words, of that of all text logits there


@dataclass(frozen=True, eq=False)
class Shadowed:
    """A trained model with a shadow.

    Args:
        slm: the wider model.
        words: whose text is written; the classes of the probe.
        layers: of `resid_post`, in blocks run: where it stands. Layer `l` of the model as it was is `l + 1` here from the first of them on.
        added: dimensions of the stream that it stands in.
    """

    slm: SpeechTextModel
    words: tuple[str, ...]
    layers: tuple[int, ...]
    added: range

    def __repr__(self) -> str:
        return (
            f"Shadowed({len(self.words)} words from layer {self.layers[0]} on, in {len(self.added)} dimensions beside {self.added.start})"
        )


@dataclass(frozen=True, eq=False)
class _Graft:
    """What is written and read, in float64."""

    score: Float[Tensor, "word d_model"]
    bias: Float[Tensor, " word"]
    turned: Float[Tensor, "word word_dim"]  # directions of words within the added dimensions
    typical: float  # root mean square of the residual at the layer, over the wider stream
    one: float  # the constant
    size: float  # of what is written for a score of 1
    volume: float  # of what is read
    ids: Sequence[int]
    layer: int
    added: int  # new dimensions: the constant's, one for each word, and idle ones, as a Llama's width is a multiple of its heads


def shadowed(slm: SpeechTextModel, states: States, layer: int, seed: int = 0, folder: str | os.PathLike[str] | None = None) -> Shadowed:
    """A trained model with a shadow of every word of some states; see the top of this file.

    Args:
        slm: a Llama-shaped model from a folder, in float32 or float64.
        states: of its words, from `lenses.probe.collect`, at this layer among others.
        layer: of `resid_post`, in blocks run: what the text is computed from.
        seed: of the rotation.
        folder: where the checkpoint is left, in slamkit's layout; None leaves none.

    Raises:
        PatchingError: a model that is no Llama, has no folder or too coarse a dtype; words that share their first piece.
        ReadoutError: states that are not enough for a probe.
    """
    checkpoint = _llama_of(slm)
    graft, words = _graft(slm, states, layer, torch.Generator().manual_seed(seed))
    state = {name.removeprefix("lm."): checkpoint.tensor(name).double() for name in checkpoint.shapes}
    model = _widened(state, checkpoint.config["base_config"], graft, slm.model.cfg.dtype)
    with TemporaryDirectory() as temporary:
        target = Path(temporary if folder is None else folder)
        for file in checkpoint.folder.iterdir():
            if file.name.startswith(("tokenizer", "quantiser", "samples")):
                target.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target / file.name)
        save_unit_lm(model, target, f"slm_interp/shadowed-{checkpoint.folder.name}", twist_init=False)
        wider = load(target, quantiser=None if slm.quantiser is not None else slm.vocabulary.quantiser)
        for parameter in hooked.parameters(wider.model).values():
            parameter.data = parameter.data.clone()  # the file it is mapped from may go
    named = {**wider.provenance, "checkpoint": f"shadowed-{slm.provenance.get('checkpoint', '')}-{layer}-{seed}"}
    wider = replace(wider, folder=None if folder is None else Path(folder), provenance=named)
    width = slm.model.cfg.d_model
    return Shadowed(wider, words, tuple(range(layer + 1, wider.model.cfg.n_layers + 1)), range(width, width + graft.added))


def _llama_of(slm: SpeechTextModel) -> Checkpoint:
    if slm.model.cfg.dtype not in (torch.float32, torch.float64):
        raise PatchingError(f"What is added is small beside the stream, which takes float32 or float64; got {slm.model.cfg.dtype}.")
    if slm.folder is None:
        raise PatchingError("A model is widened in its checkpoint; this one has no folder. Load it with si.load.")
    checkpoint = Checkpoint(slm.folder)
    kind = checkpoint.config.get("base_config", {}).get("model_type")
    if kind != "llama":
        raise PatchingError(f"Surgery is for Llama-shaped checkpoints in slamkit's layout; this one is {kind or 'of another layout'!r}.")
    return checkpoint


def _graft(slm: SpeechTextModel, states: States, layer: int, generator: torch.Generator) -> tuple[_Graft, tuple[str, ...]]:
    """Sizes from the states, directions from a probe and a rotation."""
    probe = train_probe(states, layers=[layer])
    ids = first_pieces(slm, probe.classes)
    shared = sorted({word for word, one in zip(probe.classes, ids, strict=True) if ids.count(one) > 1})
    if shared:
        raise PatchingError(
            f"Words that share their first piece have one column of W_U: {', '.join(shared)}. Leave them out of the states."
        )
    at = probe.dataset.sel(layer=layer)
    score, bias = (torch.from_numpy(at[name].values).double() for name in ("weight", "bias"))
    score, bias = score - score.mean(0), bias - bias.mean()
    resid = torch.from_numpy(states.dataset["resid"].sel(layer=layer).values).double()
    scores = resid @ score.T + bias
    own = slm.model.cfg.d_model
    added = 1 + len(ids) + -(own + 1 + len(ids)) % slm.model.cfg.n_heads
    width = own + added
    typical = float(resid.norm(dim=-1).median()) / sqrt(width)
    text = (
        hooked.final_norm(slm.model, resid.to(slm.model.cfg.dtype)).double()
        @ columns_of(slm, slm.vocabulary.mask("text").nonzero().flatten().tolist()).double().T
    )
    volume = LOUD * float(text.std(dim=-1).median() / scores.std(dim=-1).median())
    size = SMALL * typical * sqrt(width) / float(scores.norm(dim=-1).max())
    one = SMALL * float(slm.model.W_E.detach().double().norm(dim=-1).median())
    graft = _Graft(score, bias, rotation(len(ids), generator), typical, one, size, volume * typical / size, ids, layer, added)
    return graft, probe.classes


def _widened(state: Mapping[str, Tensor], base: Mapping[str, Any], graft: _Graft, dtype: torch.dtype) -> LlamaForCausalLM:
    """The Llama in a wider stream, with its block."""
    width, n_layers = base["hidden_size"], base["num_hidden_layers"]
    shrunk = width / (width + graft.added)
    neurons = max(base["intermediate_size"], len(graft.bias))
    config = {key: value for key, value in base.items() if key not in ("architectures", "dtype", "transformers_version")}
    config |= {
        "hidden_size": width + graft.added,
        "num_hidden_layers": n_layers + 1,
        "intermediate_size": neurons,
        "rms_norm_eps": base["rms_norm_eps"] * shrunk,
        "tie_word_embeddings": False,
        "head_dim": base.get("head_dim") or width // base["num_attention_heads"],
    }
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**config))
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    weights = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in shapes.items()}
    source = {"lm_head.weight": state["model.embed_tokens.weight"], **state}
    for name, old in source.items():
        own = old * sqrt(shrunk) if name.endswith("norm.weight") else old
        weights[_moved(name, graft.layer)][tuple(slice(size) for size in own.shape)] = own
    weights["model.embed_tokens.weight"][:, width] = graft.one
    text = slice(width + 1, width + 1 + len(graft.ids))
    weights["model.norm.weight"][text] = 1
    weights["lm_head.weight"][list(graft.ids), text] = graft.volume * graft.turned
    _write(weights, f"model.layers.{graft.layer}", graft, width)
    model.load_state_dict({name: weight.to(dtype) for name, weight in weights.items()}, assign=True)
    return model


def _write(weights: Mapping[str, Tensor], block: str, graft: _Graft, width: int) -> None:
    """The block of the shadow: a gate that is open everywhere, scores, and where they are written."""
    words = len(graft.bias)
    weights[f"{block}.input_layernorm.weight"][:] = 1
    weights[f"{block}.post_attention_layernorm.weight"][:] = 1
    weights[f"{block}.mlp.gate_proj.weight"][:words, width] = GATE * graft.typical / graft.one
    weights[f"{block}.mlp.up_proj.weight"][:words, :width] = graft.score
    weights[f"{block}.mlp.up_proj.weight"][:words, width] = graft.bias / graft.one
    weights[f"{block}.mlp.down_proj.weight"][width + 1 : width + 1 + words, :words] = graft.size * graft.typical / GATE * graft.turned.T


def _moved(name: str, layer: int) -> str:
    """The name of a weight once a block more stands after so many."""
    parts = name.split(".")
    if parts[:2] == ["model", "layers"] and int(parts[2]) >= layer:
        parts[2] = str(int(parts[2]) + 1)
    return ".".join(parts)
