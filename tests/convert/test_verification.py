"""`verify` fails for every fault planted in a conversion, and says where."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from slm_interp import hooked
from slm_interp.convert import decoder, verify
from slm_interp.convert.architectures import llama, opt
from slm_interp.convert.rules import Copy, Rule, Split
from slm_interp.convert.verification import Outputs, Parity, ParityReport, compare, sequences, spread_difference
from slm_interp.errors import CheckpointError, ParityError
from slm_interp.vocabulary import IdRange, JointVocabulary
from tests.replicas import N_UNITS, VARIANTS, WORDS, text_tokenizer, write_slamkit

Rules = Callable[..., tuple[Rule, ...]]


def edited(rules: Rules, edit: Callable[[Rule], Rule]) -> Rules:
    """The same map with one thing wrong."""
    return lambda *arguments, **options: tuple(edit(rule) for rule in rules(*arguments, **options))


def plant(monkeypatch: pytest.MonkeyPatch, module: Any, edit: Callable[[Rule], Rule]) -> None:
    monkeypatch.setattr(module, "rules", edited(module.rules, edit))


def failed(folder: Path) -> ParityReport:
    """A report that failed, by far and not by rounding."""
    report = verify(folder, n_units=N_UNITS, length=24)
    assert not report.passed and max(row.logits for row in report.rows) > 100 * report.bound
    with pytest.raises(ParityError, match="^FAILED: "):
        report.check()
    return report


def swap_head_axes(rule: Rule) -> Rule:
    if isinstance(rule, Copy) and rule.source.endswith("q_proj.weight"):
        return replace(rule, pattern="(d_head head) d_model -> head d_model d_head")
    return rule


def swapped(one: str, other: str) -> Callable[[Rule], Rule]:
    """Read one source tensor where the other belongs."""

    def edit(rule: Rule) -> Rule:
        if isinstance(rule, Copy) and one in rule.source:
            return replace(rule, source=rule.source.replace(one, other))
        if isinstance(rule, Copy) and other in rule.source:
            return replace(rule, source=rule.source.replace(other, one))
        return rule

    return edit


@pytest.mark.parametrize(
    "edit",
    [
        swap_head_axes,
        swapped("gate_proj", "up_proj"),
        swapped("k_proj", "v_proj"),
        swapped("input_layernorm", "post_attention_layernorm"),
        swapped("model.norm.weight", "model.layers.{}.input_layernorm.weight"),
    ],
    ids=["head axes", "gate and up", "keys and values", "the two norms", "final norm"],
)
def test_a_wrong_weight_map_fails(edit: Callable[[Rule], Rule], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_slamkit(tmp_path, VARIANTS["llama"])
    if edit.__qualname__.startswith("swapped") and edit(Copy("model.norm.weight", "ln_final.w")).source != "model.norm.weight":

        def edit(rule: Rule) -> Rule:  # a norm of ones, as if it had been forgotten
            return rule

        monkeypatch.setattr(hooked, "final_norm", lambda model, resid: resid)
    plant(monkeypatch, llama, edit)
    failed(tmp_path)


def test_fused_heads_read_in_the_order_of_another_model_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from slm_interp.convert.architectures import gpt_neox

    def edit(rule: Rule) -> Rule:
        return replace(rule, pattern=rule.pattern.replace("(head part d_head)", "(part head d_head)")) if isinstance(rule, Split) else rule

    write_slamkit(tmp_path, VARIANTS["gpt_neox"])
    plant(monkeypatch, gpt_neox, edit)
    failed(tmp_path)


@pytest.mark.parametrize(
    ("variant", "fault"),
    [
        ("llama", {"rotary_base": 11_000.0}),
        ("llama-llama3-rope", {"use_NTK_by_parts_rope": False}),
        ("llama-llama3-rope", {"NTK_by_parts_factor": 8.0}),
        ("llama-linear-rope", {"rotary_scaling_factor": 1.0}),
        ("llama", {"rotary_adjacent_pairs": True}),
        ("llama", {"act_fn": "gelu"}),
        ("qwen2-windows", {"use_local_attn": False, "attn_types": None, "window_size": None}),
        ("mistral-window", {"window_size": 6}),
        ("gpt_neox", {"parallel_attn_mlp": False}),
    ],
)
def test_a_wrong_field_of_the_config_fails(variant: str, fault: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_slamkit(tmp_path, VARIANTS[variant])
    empty = hooked.empty
    monkeypatch.setattr(hooked, "empty", lambda fields: empty({**fields, **fault}))
    failed(tmp_path)


@pytest.mark.parametrize("offset", [0, 1, 3])
def test_positions_off_by_one_or_two_in_opt_fail(offset: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = {**VARIANTS["opt"], "vocab_size": N_UNITS + 2}
    write_slamkit(tmp_path, raw)

    def fields(config: Any) -> dict[str, Any]:  # so that the table fits the model, as it would in a careless conversion
        return {**kept(config), "n_ctx": raw["max_position_embeddings"] + 2 - offset}

    kept = opt.fields
    monkeypatch.setattr(opt, "fields", fields)
    plant(monkeypatch, opt, lambda rule: replace(rule, rows=(offset, None)) if isinstance(rule, Copy) and rule.rows else rule)
    report = failed(tmp_path)
    assert min(row.resid_post[0] for row in report.rows) > 100 * report.bound, "wrong from the first layer on"


def test_a_fault_in_one_layer_is_placed_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_slamkit(tmp_path, VARIANTS["llama"])
    fill = hooked.fill

    def damaged(model: Any, state: dict[str, torch.Tensor]) -> Any:
        return fill(model, {**state, "blocks.1.mlp.W_in": state["blocks.1.mlp.W_in"] * 1.01})

    monkeypatch.setattr(hooked, "fill", damaged)
    report = failed(tmp_path)
    for row in report.rows:
        assert row.resid_post[0] < report.bound < row.resid_post[1]


def test_a_wrong_rotary_table_of_transformer_lens_would_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of each head turned, as for architectures with partial rotation."""
    kept = decoder.rotary_fields
    monkeypatch.setattr(
        decoder, "rotary_fields", lambda config, d_head, **options: {**kept(config, d_head, **options), "rotary_dim": d_head // 2 // 2 * 2}
    )
    failed(write_slamkit(tmp_path, {**VARIANTS["llama"], "head_dim": 8}))


def test_nan_weights_stop_verify_before_anything_runs(tmp_path: Path) -> None:
    from tests.replicas import random_weights

    weights = random_weights({**VARIANTS["llama"], "vocab_size": N_UNITS + 2})
    weights["model.layers.2.mlp.down_proj.weight"][0, 0] = torch.nan
    with pytest.raises(CheckpointError, match=r"1 tensors hold NaN or infinite values: lm\.model\.layers\.2\.mlp\.down_proj\.weight\."):
        verify(write_slamkit(tmp_path, VARIANTS["llama"], weights=weights), n_units=N_UNITS)


# -- the report -------------------------------------------------------------------------------------------


def row(logits: float = 1e-6, layers: tuple[float, ...] = (1e-6, 2e-6)) -> Parity:
    return Parity("speech", 8, logits, layers, 1e-9, 1.0)


@pytest.mark.parametrize(
    ("bad", "passed"),
    [
        (row(), True),
        (row(1e-3), False),
        (row(1e-6, (1e-6, 1e-3)), False),
        (row(float("nan")), False),
        (row(1e-6, (float("nan"), 1e-6)), False),
    ],
)
def test_a_report_passes_only_if_every_difference_is_a_number_within_the_bound(bad: Parity, passed: bool) -> None:
    assert ParityReport("folder", "slamkit", "llama", "torch.float32", 1e-4, (row(), bad)).passed is passed


def test_a_report_says_in_its_first_line_whether_it_passed_and_then_one_line_a_sequence() -> None:
    report = ParityReport("folder", "slamkit", "llama", "torch.float32", 1e-4, (row(), row(1e-6, (1e-6, 3e-5))))
    lines = str(report).splitlines()
    assert lines[0] == "PASSED: folder (slamkit on llama) in torch.float32, bound 0.0001" and len(lines) == 4
    assert report.table()[1]["worst layer"] == 1 and report.table()[1]["worst resid_post / std"] == 3e-5
    assert "<b>passed</b>" in report._repr_html_()
    assert "<b>FAILED</b>" in replace(report, rows=(row(1.0),))._repr_html_()


def test_verify_speaks_of_every_modality_there_is(tmp_path: Path) -> None:
    write_slamkit(tmp_path, VARIANTS["qwen2"], vocab_size=len(WORDS) + 1 + N_UNITS + 2)
    report = verify(tmp_path, text_tokenizer(), n_units=N_UNITS, length=16)
    assert [one["sequence"] for one in report.table()] == ["text", "speech", "mixed"] or {one.sequence for one in report.rows} == {
        "speech",
        "text",
        "mixed",
    }
    assert report.passed and all(one.positions == 16 for one in report.rows)


def test_sequences_hold_only_ids_of_their_modality() -> None:
    vocabulary = JointVocabulary(
        (IdRange("text", 0, 5), IdRange("speech", 5, 9, codebook=0), IdRange("marker", 9, 10, template="<s>"), IdRange("dead", 10, 12)), 12
    )
    found = sequences(vocabulary, 200)
    assert (
        set(found["text"].tolist()) == set(range(5))
        and set(found["speech"].tolist()) == set(range(5, 9))
        and set(found["mixed"].tolist()) == set(range(10))
    )


def test_sequences_longer_than_the_model_reads_are_cut_to_what_it_reads(tmp_path: Path) -> None:
    report = verify(write_slamkit(tmp_path, {**VARIANTS["opt"], "max_position_embeddings": 20}), n_units=N_UNITS)
    assert report.passed and all(one.positions == 20 for one in report.rows)


def test_bfloat16_is_measured_when_asked_for(tmp_path: Path) -> None:
    write_slamkit(tmp_path, VARIANTS["llama"], dtype=torch.bfloat16)
    report = verify(tmp_path, n_units=N_UNITS, dtype=torch.bfloat16, bound=0.2, length=16)
    assert report.passed and report.dtype == "torch.bfloat16"


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_half_precision_files_are_compared_in_float32(stored: torch.dtype, tmp_path: Path) -> None:
    assert (
        verify(write_slamkit(tmp_path, VARIANTS["qwen3"], dtype=stored, shards=2), n_units=N_UNITS, length=16).check().dtype
        == "torch.float32"
    )


def test_differences_are_measured_in_standard_deviations_of_the_reference() -> None:
    theirs = torch.tensor([[0.0, 2.0], [4.0, 6.0]])
    assert spread_difference(theirs + 0.5, theirs) == pytest.approx(0.5 / theirs.double().std().item())
    assert spread_difference(torch.full_like(theirs, torch.nan), theirs) != spread_difference(theirs, theirs) == 0.0
    made = compare("speech", Outputs(theirs[None], theirs), Outputs(theirs[None], theirs.flip(-1)))
    assert made.top1 == 0.0 and made.resid_post == (0.0,) and made.kl > 0 and made.positions == 2
