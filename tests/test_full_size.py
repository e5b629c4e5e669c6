"""The checkpoints of the full-size benchmark: their true layouts, written without ever being in memory, here a few numbers wide."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from slm_interp.convert import load
from slm_interp.convert.checkpoint import Checkpoint
from tests.benchmarks.full_size.files import Numbers, write, write_binary
from tests.benchmarks.full_size.shapes import SHAPES, Shape
from tests.benchmarks.full_size.watch import summed
from tests.benchmarks.full_size.ways import POSITIONS, WAYS, lacking, of_units

NARROW = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}


def narrow(name: str) -> Shape:
    """All ids of the shape, and next to nothing else of it."""
    shape = SHAPES[name]
    size = {"head_dim": 4} if "head_dim" in shape.base else {}
    return replace(shape, base={**shape.base, **NARROW, **size})


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_is_written_and_loads_as_its_family_and_is_read_by_the_lens(name: str, tmp_path: Path) -> None:
    shape = narrow(name)
    write(tmp_path, shape, shard_bytes=5_000_000)
    slm = load(tmp_path, tmp_path / shape.tokenizer_folder if shape.tokenizer_folder else None)
    family = {"sims-3b": "slamkit", "sims-7b": "slamkit", "spiritlm": "spiritlm", "glm-4-voice": "glm4voice"}[name]
    assert slm.provenance["family"] == family and slm.model.cfg.d_vocab == shape.base["vocab_size"]
    assert all(one.dtype == torch.bfloat16 for one in slm.model.parameters())
    assert slm.model.W_E.std().item() == pytest.approx(0.02, rel=0.1) and slm.model.W_Q.any()
    assert len(of_units(slm)) == POSITIONS and torch.isfinite(slm.logits(of_units(slm))).all()


@pytest.mark.parametrize(("name", "numbers"), [("sims-3b", 3.2e9), ("sims-7b", 7.6e9), ("spiritlm", 6.7e9), ("glm-4-voice", 9.5e9)])
def test_a_shape_has_as_many_numbers_as_the_model_it_is_named_after(name: str, numbers: float) -> None:
    _, tensors = SHAPES[name].laid_out()
    assert sum(tensor.numel() for tensor in tensors.values()) == pytest.approx(numbers, rel=0.01)


def test_shards_stay_below_their_bound_and_the_index_names_every_tensor(tmp_path: Path) -> None:
    write(tmp_path, narrow("sims-7b"), shard_bytes=5_000_000)
    files = sorted(tmp_path.glob("*.safetensors"))
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(files) > 1 and all(file.stat().st_size < 5_100_000 for file in files)
    assert set(index) == set(Checkpoint(tmp_path).shapes) and set(index.values()) == {file.name for file in files}


def test_a_binary_file_is_what_torch_would_have_saved(tmp_path: Path) -> None:
    """Mapped or read, every tensor holds the numbers that were meant for it, and every record begins on 64 bytes."""
    shapes = {"a.weight": (1000, 3), "norm.weight": (7,), "b.weight": (5, 64)}
    write_binary(tmp_path / "made.bin", {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}, Numbers())
    mapped = torch.load(tmp_path / "made.bin", weights_only=True, mmap=True)
    torch.save(torch.load(tmp_path / "made.bin", weights_only=True), tmp_path / "saved.bin")
    saved = torch.load(tmp_path / "saved.bin", weights_only=True)
    block = Numbers()._block
    assert {name: tuple(one.shape) for name, one in mapped.items()} == shapes
    assert all(torch.equal(mapped[name], saved[name]) and mapped[name].data_ptr() % 64 == 0 for name in shapes)
    assert torch.equal(mapped["a.weight"].reshape(-1), block[:3000]) and torch.equal(mapped["norm.weight"], block[3000:3007] + 1)
    assert torch.equal(mapped["b.weight"].reshape(-1), block[3007:3327])


def test_a_checkpoint_that_transformers_has_no_class_for_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "chatglm"}))
    assert {way: lacking(way, tmp_path) is None for way in WAYS} == {
        "slm_interp": True,
        "slm_interp_float32": True,
        "transformers": False,
        "transformer_lens": False,
    }


def test_peaks_are_counted_from_the_imports_and_stop_with_the_phase_that_was_ended() -> None:
    lines = [{"phase": "imported"}, {"phase": "loaded", "seconds": 2.0}]
    peaks = {"importing": {"RssAnon": 1.0}, "imported": {"RssAnon": 1.5, "RssFile": 3.0}, "loaded": {"RssAnon": 5.0, "RssFile": 4.0}}
    assert summed(lines, peaks, 1.0) == {
        "load_seconds": 2.0,
        "load_peak_anonymous_gb": 0.5,
        "load_peak_file_backed_gb": 3.0,
        "forward_peak_anonymous_gb": 4.0,
        "forward_peak_file_backed_gb": 4.0,
    }
