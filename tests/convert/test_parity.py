"""A converted model computes what Hugging Face's own model computes, for every replica.

Measured on one core, float32, 48 positions, weights of spread 0.3: the largest difference of logits or of any
`resid_post` is 1.7e-6 to 1.6e-5 of the reference's standard deviation; with weights of spread 0.02 it is
0.5e-6 to 1.4e-6. The bound of the project is 1e-4; here it is 5e-5 and 5e-6.

Past position 2,048, at spread 0.15: 1.6e-6 to 5.7e-5. What is left there is the rounding of rotary angles: a float32
near 2,048 radians is exact to 1.2e-4, and both sides multiply positions and frequencies in another order. Over 2,048
positions the cosines of linear scaling are 2e-5 off the exact ones here and 4e-5 off there; sharper attention magnifies
that (spread 0.3: 4e-4 between the two).

In bfloat16, with weights that bfloat16 holds exactly: Llama, Qwen2, Mistral agree with the bfloat16 model of
Hugging Face bit for bit, Qwen3 within 0.03 standard deviations, OPT and GPT-NeoX within 0.10. Both sides are
equally far from the float32 model: up to 0.37 at spread 0.3, up to 0.035 at 0.02.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from slm_interp.convert import load, verify
from slm_interp.hooked import HookedTransformer
from tests import versions
from tests.convert.reference import Forward, hooked_transformer, hugging_face, random_tokens, relative, worst
from tests.replicas import GATED, LLAMA3, N_UNITS, ROPE, VARIANTS, random_weights, write_slamkit

D_VOCAB = N_UNITS + 2
BOUND, SMALL_BOUND, LATE_BOUND = 5e-5, 5e-6, 1e-4
TIED = [name for name, raw in VARIANTS.items() if raw.get("tie_word_embeddings")]

# The GPT-NeoX scalings share the rotated part of a head with the unrotated one, which the others do not have.
MORE = {
    "gpt_neox-linear-rope": {
        **VARIANTS["gpt_neox"],
        "rope_parameters": {**ROPE, "partial_rotary_factor": 0.5, "rope_type": "linear", "factor": 3.0},
    },
    "gpt_neox-llama3-rope": {**VARIANTS["gpt_neox"], "rope_parameters": {**LLAMA3, "partial_rotary_factor": 0.5}},
    "qwen2-llama3-rope": {**VARIANTS["qwen2"], "rope_parameters": LLAMA3},
    "qwen3-one-key-head": {"model_type": "qwen3", **GATED, "num_key_value_heads": 1, "head_dim": 4},
    "mistral-mha": {"model_type": "mistral", **GATED, "num_key_value_heads": 4, "head_dim": 6, "sliding_window": 5},
    **{
        f"llama-{act}": {"model_type": "llama", **GATED, "hidden_act": act}
        for act in ("gelu", "relu", "gelu_new", "gelu_pytorch_tanh", "swish")
    },
    "opt-gelu": {**VARIANTS["opt"], "activation_function": "gelu"},
    "gpt_neox-gelu_new": {**VARIANTS["gpt_neox"], "hidden_act": "gelu_new"},
}


def both(folder: Path, raw: dict, tokens: Tensor, *, scale: float = 0.3, dtype: torch.dtype = torch.float32) -> tuple[Forward, Forward]:
    """Ours, through files on disk, and Hugging Face's, from the same weights in memory."""
    raw = {**raw, "vocab_size": D_VOCAB}
    weights = {name: tensor.to(dtype) for name, tensor in random_weights(raw, scale=scale).items()}
    write_slamkit(folder, raw, weights=weights, dtype=dtype)
    return hooked_transformer(load(folder, n_units=N_UNITS).model, tokens), hugging_face(raw, weights, tokens, dtype)


@pytest.mark.parametrize("name", [*VARIANTS, *MORE])
def test_logits_and_every_resid_post_equal_hugging_face(name: str, tmp_path: Path) -> None:
    ours, theirs = both(tmp_path, {**VARIANTS, **MORE}[name], random_tokens(48, D_VOCAB))
    assert ours.logits.dtype == torch.float32
    assert worst(ours, theirs) < BOUND


@pytest.mark.parametrize("name", VARIANTS)
def test_activations_as_small_as_epsilon_equal_hugging_face_more_closely(name: str, tmp_path: Path) -> None:
    """Where a square of an activation is near epsilon, epsilon counts; OPT's is no config key and is caught here."""
    ours, theirs = both(tmp_path, VARIANTS[name], random_tokens(48, D_VOCAB), scale=0.02)
    assert worst(ours, theirs) < SMALL_BOUND


@pytest.mark.parametrize(
    "name", ["llama", "llama-llama3-rope", "llama-linear-rope", "qwen2-windows", "qwen3", "mistral-window", "gpt_neox", "opt"]
)
def test_positions_past_2048_equal_hugging_face(name: str, tmp_path: Path) -> None:
    """2,048 is where TransformerLens's rotary cache ends by default and where it caps contexts by model name."""
    raw = {
        **VARIANTS[name],
        "num_hidden_layers": 2 if "windows" in name else 1,
        "max_position_embeddings": 4096 if name != "opt" else 2_200,
    }
    ours, theirs = both(tmp_path, raw, random_tokens(2_100, D_VOCAB), scale=0.15)
    assert worst(ours, theirs) < LATE_BOUND


@pytest.mark.parametrize("name", VARIANTS)
def test_bfloat16_stays_within_the_measured_distance(name: str, tmp_path: Path) -> None:
    """Asserted at about twice what is measured: 0 for Llama, Qwen2, Mistral; 0.03 for Qwen3; 0.10 for OPT and GPT-NeoX."""
    bound = {"opt": 0.2, "gpt_neox": 0.2, "qwen3": 0.06}.get(VARIANTS[name]["model_type"], 0.01)
    ours, theirs = both(tmp_path, VARIANTS[name], random_tokens(48, D_VOCAB), dtype=torch.bfloat16)
    assert ours.logits.dtype == torch.bfloat16
    assert worst(ours, theirs) < bound


@pytest.mark.parametrize("name", ["llama", "qwen3", "opt", "gpt_neox"])
def test_bfloat16_rounds_no_more_than_hugging_face_does(name: str, tmp_path: Path) -> None:
    raw = {**VARIANTS[name], "vocab_size": D_VOCAB}
    weights = {key: tensor.bfloat16() for key, tensor in random_weights(raw).items()}
    tokens = random_tokens(48, D_VOCAB)
    exact = hugging_face(raw, weights, tokens, torch.float32)
    write_slamkit(tmp_path, raw, weights=weights, dtype=torch.bfloat16)
    ours = worst(hooked_transformer(load(tmp_path, n_units=N_UNITS).model, tokens), exact)
    assert ours < 2.5 * worst(hugging_face(raw, weights, tokens, torch.bfloat16), exact)


@pytest.mark.parametrize("name", VARIANTS)
def test_verify_says_the_same_as_the_comparison_here(name: str, tmp_path: Path) -> None:
    write_slamkit(tmp_path, VARIANTS[name])
    report = verify(tmp_path, n_units=N_UNITS, length=32)
    assert report.passed and report.check() is report
    assert {row.sequence for row in report.rows} == {"speech", "mixed"}
    assert all(row.top1 == 1 and row.kl < 1e-6 and row.logits < BOUND and max(row.resid_post) < BOUND for row in report.rows)
    assert all(len(row.resid_post) == VARIANTS[name]["num_hidden_layers"] for row in report.rows)


@pytest.mark.parametrize("name", ["llama", "opt-untied", "gpt_neox", *TIED])
@pytest.mark.parametrize("processing", ["fold_ln", "center_unembed", "both, and values folded"])
def test_probabilities_survive_the_processing_of_transformer_lens(name: str, processing: str, tmp_path: Path) -> None:
    """Processing writes into the parameters. Tied matrices must not share memory, or the embedding is folded too."""
    write_slamkit(tmp_path, VARIANTS[name])
    before, tokens = (tmp_path / "model.safetensors").read_bytes(), random_tokens(32, D_VOCAB)
    model = load(tmp_path, n_units=N_UNITS).model
    plain = hooked_transformer(model, tokens).logits.log_softmax(-1)
    process(model, processing)
    processed = hooked_transformer(model, tokens)
    assert relative(processed.logits.log_softmax(-1), plain) < BOUND
    assert (tmp_path / "model.safetensors").read_bytes() == before, "a file on disk was written through its mapping"
    again = hooked_transformer(load(tmp_path, n_units=N_UNITS).model, tokens).logits.log_softmax(-1)
    assert torch.equal(again, plain)


def process(model: HookedTransformer, processing: str) -> None:
    """TransformerLens's own, in place."""
    fold, center = processing != "center_unembed", processing != "fold_ln"
    layer_norm = model.cfg.normalization_type == "LN"
    versions.process(
        model,
        fold_ln=fold,
        center_unembed=center,
        center_writing_weights=fold and center and layer_norm,
        fold_value_biases=fold and center,
    )
