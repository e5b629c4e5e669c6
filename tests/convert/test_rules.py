"""Weight maps: what fills what, and the sentences of everything that is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from slm_interp.convert import load
from slm_interp.convert.rules import Copy, Drop, Rule, Split, Zero, convert, expanded, view
from slm_interp.errors import ConversionError
from tests.replicas import N_UNITS, VARIANTS, random_weights, write_slamkit

AXES = {"d_head": 2}


def run(rules: list[Rule], sources: dict[str, Tensor], parameters: dict[str, tuple[int, ...]], n_layers: int = 1) -> dict[str, Tensor]:
    """`convert` on tensors in memory."""
    shapes = {name: tuple(tensor.shape) for name, tensor in sources.items()}
    return convert(rules, shapes, sources.__getitem__, parameters, AXES, n_layers, torch.float32)


def refused(sentence: str, rules: list[Rule], sources: dict[str, Tensor], parameters: dict[str, tuple[int, ...]]) -> None:
    """The whole sentence, to the letter."""
    with pytest.raises(ConversionError, match=f"^{re.escape(sentence)}$"):
        run(rules, sources, parameters)


def test_rules_are_repeated_for_every_layer_and_others_stand_once() -> None:
    rules = [Copy("a.{}", "b.{}"), Split("f.{}", ("q.{}", "k.{}"), "(part d) -> part d"), Drop("m.{}", "mask"), Zero("z.{}"), Zero("z")]
    assert list(expanded(rules, 2)) == [
        Copy("a.0", "b.0"),
        Copy("a.1", "b.1"),
        Split("f.0", ("q.0", "k.0"), "(part d) -> part d"),
        Split("f.1", ("q.1", "k.1"), "(part d) -> part d"),
        Drop("m.0", "mask"),
        Drop("m.1", "mask"),
        Zero("z.0"),
        Zero("z.1"),
        Zero("z"),
    ]


def test_a_head_pattern_puts_head_h_row_i_at_head_times_size_plus_i() -> None:
    source = torch.arange(6.0 * 5).reshape(6, 5)
    made = run([Copy("w", "W", "(head d_head) d_model -> head d_model d_head")], {"w": source}, {"W": (3, 5, 2)})["W"]
    assert all(made[h, m, i] == source[h * 2 + i, m] for h in range(3) for m in range(5) for i in range(2))


def test_a_fused_matrix_splits_within_each_head() -> None:
    source = torch.arange(12.0 * 5).reshape(12, 5)  # 2 heads of (query, key, value) of size 2
    rule = Split("qkv", ("Q", "K", "V"), "(head part d_head) d_model -> part head d_model d_head")
    made = run([rule], {"qkv": source}, dict.fromkeys("QKV", (2, 5, 2)))
    assert all(
        made[name][h, m, i] == source[h * 6 + part * 2 + i, m]
        for part, name in enumerate("QKV")
        for h in range(2)
        for m in range(5)
        for i in range(2)
    )


def test_rows_are_skipped_from_the_front() -> None:
    source = torch.arange(10.0).reshape(5, 2)
    assert torch.equal(run([Copy("p", "P", rows=(2, None))], {"p": source}, {"P": (3, 2)})["P"], source[2:])


def test_everything_but_zeros_is_a_view_of_its_source() -> None:
    sources = {"w": torch.randn(6, 5), "qkv": torch.randn(12, 5), "p": torch.randn(5, 2)}
    rules = [
        Copy("w", "W", "(head d_head) d_model -> head d_model d_head"),
        Split("qkv", ("Q", "K", "V"), "(head part d_head) d_model -> part head d_model d_head"),
        Copy("p", "P", rows=(2, None)),
        Zero("z"),
    ]
    made = run(rules, sources, {"W": (3, 5, 2), **dict.fromkeys("QKV", (2, 5, 2)), "P": (3, 2), "z": (4,)})
    owners = {"W": "w", "Q": "qkv", "K": "qkv", "V": "qkv", "P": "p"}
    assert all(made[one].untyped_storage().data_ptr() == sources[other].untyped_storage().data_ptr() for one, other in owners.items())
    assert torch.equal(made["z"], torch.zeros(4))


def test_a_source_tensor_without_a_rule_names_the_closest() -> None:
    sources = {"layers.0.q_proj.weight": torch.ones(2), "layers.0.q_norm.weight": torch.ones(128)}
    refused(
        "No rule for 'layers.0.q_norm.weight' (128,). Closest: 'layers.0.q_proj.weight'.",
        [Copy("layers.{}.q_proj.weight", "Q")],
        sources,
        {"Q": (2,)},
    )


def test_a_missing_source_tensor_names_the_closest() -> None:
    refused(
        "The checkpoint lacks 'norm.weight'. Closest: 'norm.gamma'.", [Copy("norm.weight", "w")], {"norm.gamma": torch.ones(2)}, {"w": (2,)}
    )


def test_an_empty_checkpoint_says_that_nothing_is_like_it() -> None:
    refused("The checkpoint lacks 'norm.weight'. There is nothing like it.", [Copy("norm.weight", "w")], {}, {"w": (2,)})


def test_a_parameter_left_unfilled_is_named() -> None:
    refused(
        "No rule fills the parameter 'b' (3,) (2 unfilled).",
        [Copy("a", "a")],
        {"a": torch.ones(2)},
        {"a": (2,), "b": (3,), "c": (4,)},
    )


def test_a_rule_for_a_parameter_the_model_lacks_is_refused() -> None:
    refused(
        "A rule fills 'ln1.b', which the model does not have. Closest: 'ln1.w'.",
        [Copy("a", "ln1.b")],
        {"a": torch.ones(2)},
        {"ln1.w": (2,)},
    )


def test_a_parameter_filled_twice_is_refused() -> None:
    refused("Two rules fill the parameter 'a'.", [Copy("a", "a"), Zero("a")], {"a": torch.ones(2)}, {"a": (2,)})


def test_a_wrong_shape_names_both_sides() -> None:
    refused("'a' has shape (3,); the checkpoint gives (2,) from 'x'.", [Copy("x", "a")], {"x": torch.ones(2)}, {"a": (3,)})


def test_a_shape_that_does_not_fit_the_pattern_is_refused() -> None:
    with pytest.raises(ConversionError, match=r"^'x' \(5, 3\) does not fit the pattern '\(head d_head\) d_model -> head d_model d_head': "):
        run([Copy("x", "a", "(head d_head) d_model -> head d_model d_head")], {"x": torch.ones(5, 3)}, {"a": (2, 3, 2)})


@pytest.mark.parametrize("shape", [(), (1, 3)])
def test_fewer_rows_than_are_skipped_are_refused(shape: tuple[int, ...]) -> None:
    refused(f"'x' {shape} has no rows 2...", [Copy("x", "a", rows=(2, None))], {"x": torch.ones(shape)}, {"a": (1, 3)})


def test_another_number_of_parts_than_targets_is_refused() -> None:
    rule = Split("x", ("Q", "K"), "(part d_head) -> part d_head")
    refused(
        "'x' (6,) does not fit the pattern '(part d_head) -> part d_head':  Shape mismatch, 6 != 4",
        [rule],
        {"x": torch.ones(6)},
        {"Q": (2,), "K": (2,)},
    )


def test_a_pattern_that_would_copy_is_refused() -> None:
    with pytest.raises(ConversionError, match=r"^The pattern 'a b -> \(b a\)' copies 'x'; rules only permute, split or cut\.$"):
        view(torch.arange(6.0).reshape(2, 3), "a b -> (b a)", {}, "x")


def test_dropped_tensors_may_be_there_or_not() -> None:
    rules: list[Rule] = [Copy("a", "a"), Drop("mask", "recomputed")]
    assert (
        set(run(rules, {"a": torch.ones(2), "mask": torch.ones(9)}, {"a": (2,)}))
        == set(run(rules, {"a": torch.ones(2)}, {"a": (2,)}))
        == {"a"}
    )


def test_a_dropped_tensor_that_should_repeat_another_and_does_not_is_refused() -> None:
    rules: list[Rule] = [Copy("embed", "W"), Drop("head", "tied", same_as="embed")]
    assert set(run(rules, {"embed": torch.ones(2), "head": torch.ones(2)}, {"W": (2,)})) == {"W"}
    refused(
        "'head' should repeat 'embed' and does not (tied). Repair config.json (tie_word_embeddings) or the weights: "
        "programs disagree on which of the two to use.",
        rules,
        {"embed": torch.ones(2), "head": torch.zeros(2)},
        {"W": (2,)},
    )


# -- the same refusals at the door of `load` --------------------------------------------------------------


def test_load_names_a_tensor_without_a_rule(tmp_path: Path) -> None:
    weights = {**random_weights({**VARIANTS["llama"], "vocab_size": N_UNITS + 2}), "model.layers.1.self_attn.q_norm.weight": torch.ones(6)}
    with pytest.raises(ConversionError, match=r"^No rule for 'model\.layers\.1\.self_attn\.q_norm\.weight' \(6,\)\. Closest: '.*'\.$"):
        load(write_slamkit(tmp_path, VARIANTS["llama"], weights=weights), n_units=N_UNITS)


def test_load_names_a_missing_tensor(tmp_path: Path) -> None:
    weights = random_weights({**VARIANTS["llama"], "vocab_size": N_UNITS + 2})
    del weights["model.layers.2.mlp.up_proj.weight"]
    with pytest.raises(ConversionError, match=r"^The checkpoint lacks 'model\.layers\.2\.mlp\.up_proj\.weight'\."):
        load(write_slamkit(tmp_path, VARIANTS["llama"], weights=weights), n_units=N_UNITS)


def test_load_names_a_tensor_without_the_wrapper_prefix(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    write_slamkit(tmp_path, VARIANTS["llama"])
    state = load_file(tmp_path / "model.safetensors")
    save_file({**state, "speech_head.weight": torch.ones(3)}, tmp_path / "model.safetensors")
    with pytest.raises(ConversionError, match=r"No rule for \"\(no 'lm\.'\) speech_head\.weight\" \(3,\)"):
        load(tmp_path, n_units=N_UNITS)


def test_a_tied_config_with_another_head_in_the_file_is_refused(tmp_path: Path) -> None:
    """transformers 5 would use the head of the file, others the embedding; equal ones are fine either way."""
    raw = {**VARIANTS["llama-mha-tied"], "vocab_size": N_UNITS + 2}
    weights = random_weights(raw)
    same = {**weights, "lm_head.weight": weights["model.embed_tokens.weight"].clone()}
    assert load(write_slamkit(tmp_path / "same", raw, weights=same), n_units=N_UNITS).model.cfg.d_vocab == N_UNITS + 2
    other = {**weights, "lm_head.weight": weights["model.embed_tokens.weight"] + 1}
    with pytest.raises(ConversionError, match=r"'lm_head\.weight' should repeat 'model\.embed_tokens\.weight' and does not"):
        load(write_slamkit(tmp_path / "other", raw, weights=other), n_units=N_UNITS)


def test_older_pythia_files_load_with_their_masks_and_head_name(tmp_path: Path) -> None:
    """Masks are stored as booleans or bytes and frequencies in float32 beside float16 weights; neither is read."""
    raw = {**VARIANTS["gpt_neox"], "vocab_size": N_UNITS + 2}
    weights = {name.replace("lm_head", "embed_out"): tensor.half() for name, tensor in random_weights(raw).items()}
    from safetensors.torch import load_file, save_file

    write_slamkit(tmp_path, raw, weights=weights, dtype=torch.float16)
    state = load_file(tmp_path / "model.safetensors")
    for layer in range(raw["num_hidden_layers"]):
        attention = f"lm.gpt_neox.layers.{layer}.attention"
        state[f"{attention}.bias"] = torch.ones(1, 1, 8, 8, dtype=torch.bool)
        state[f"{attention}.masked_bias"] = torch.tensor(-torch.inf)
        state[f"{attention}.rotary_emb.inv_freq"] = torch.ones(2)
    save_file(state, tmp_path / "model.safetensors")
    assert load(tmp_path, n_units=N_UNITS).model.cfg.dtype == torch.float16
