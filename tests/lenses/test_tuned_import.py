"""Lenses in tuned-lens's own format: its numbers, and its checks made refusals."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from slm_interp import hooked
from slm_interp.errors import ReadoutError
from slm_interp.lenses import TunedLens
from slm_interp.lenses.tuned.interchange import export_tuned, import_tuned, unembedding_hash
from slm_interp.model import SpeechTextModel
from tests.lenses.test_tuned import made


def written(slm: SpeechTextModel, folder: Path, config: Mapping[str, Any] | None = None, half: bool = False) -> dict[str, torch.Tensor]:
    """Files as `TunedLens.save` of that package leaves them: a ModuleList of linear layers, and its dataclass as JSON."""
    d_model, n_layers = slm.model.cfg.d_model, slm.model.cfg.n_layers
    state = torch.nn.ModuleList([torch.nn.Linear(d_model, d_model) for _ in range(n_layers)]).state_dict()
    state = {name: tensor.bfloat16() if half else tensor for name, tensor in state.items()}
    torch.save(state, folder / "params.pt")
    said = {
        "base_model_name_or_path": "somewhere/model",
        "d_model": d_model,
        "num_hidden_layers": n_layers,
        "bias": True,
        "base_model_revision": None,
        "unembed_hash": unembedding_hash(slm),
        "lens_type": "linear_tuned_lens",
    }
    (folder / "config.json").write_text(json.dumps({**said, **(config or {})}))
    return state


@pytest.mark.parametrize("half", [False, True])
def test_an_imported_lens_computes_what_the_peer_s_formula_says(tiny_slm: SpeechTextModel, tmp_path: Path, half: bool) -> None:
    state = written(tiny_slm, tmp_path, half=half)
    lens = import_tuned(tmp_path, tiny_slm)
    hidden = torch.randn(5, tiny_slm.model.cfg.d_model)
    for layer in range(tiny_slm.model.cfg.n_layers):
        weight, bias = state[f"{layer}.weight"].float(), state[f"{layer}.bias"].float()
        with torch.no_grad():
            theirs = tiny_slm.model.unembed(tiny_slm.model.ln_final((hidden + torch.nn.functional.linear(hidden, weight, bias))[None]))[0]
        ours = lens.scores(hidden, layer) @ hooked.unembedding(tiny_slm.model).W_U
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert lens.name == "tuned[imported]"
    assert lens.trained["base_model"] == "somewhere/model"


def test_what_is_exported_is_imported_again(tiny_slm: SpeechTextModel, tmp_path: Path) -> None:
    lens = made(tiny_slm)
    export_tuned(lens, tmp_path, "somewhere/model")
    back = import_tuned(tmp_path, tiny_slm)
    assert torch.equal(back.weight, lens.weight) and torch.equal(back.bias, lens.bias)
    with pytest.raises(ReadoutError, match=r"at each of 3 layers; this lens has \[0, 2\]"):
        export_tuned(made(tiny_slm, layers=(0, 2)), tmp_path, "somewhere/model")


def test_the_hash_is_of_the_short_print_whatever_the_user_prints_with(tiny_slm: SpeechTextModel) -> None:
    before = unembedding_hash(tiny_slm)
    with np.printoptions(precision=3, threshold=10**9, suppress=True):
        assert unembedding_hash(tiny_slm) == before


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"unembed_hash": "0" * 64}, r"another model, 'somewhere/model': its unembed_hash is 0000"),
        ({"unembed_hash": None}, "its unembed_hash is None"),
        ({"d_model": 25}, "its d_model is 25, this model's 24"),
        ({"num_hidden_layers": 4}, "its num_hidden_layers is 4, this model's 3"),
        ({"lens_type": "mlp"}, "a linear_tuned_lens; got 'mlp'"),
        ({"rank": 8}, "has the key 'rank'"),
        ({"bias": False}, r"must hold weight of translators 0 to 2; got \['0.bias', '0.weight'"),
    ],
)
def test_a_lens_of_another_model_or_kind_is_refused(
    tiny_slm: SpeechTextModel, tmp_path: Path, config: dict[str, Any], sentence: str
) -> None:
    written(tiny_slm, tmp_path, config)
    with pytest.raises(ReadoutError, match=sentence):
        import_tuned(tmp_path, tiny_slm)


class Trap:
    """What unpickling would call."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('unpickled')",))


def test_files_that_are_no_plain_tensors_are_refused(tiny_slm: SpeechTextModel, tmp_path: Path) -> None:
    with pytest.raises(ReadoutError, match=r"No config.json in .*TunedLens.load reads our own"):
        import_tuned(tmp_path, tiny_slm)
    written(tiny_slm, tmp_path)
    for content in (pickle.dumps({"0.weight": Trap()}), b"nothing"):
        (tmp_path / "params.pt").write_bytes(content)
        with pytest.raises(ReadoutError, match="cannot be read as plain tensors"):
            import_tuned(tmp_path, tiny_slm)
    torch.save([torch.zeros(1)], tmp_path / "params.pt")
    with pytest.raises(ReadoutError, match="got list"):
        import_tuned(tmp_path, tiny_slm)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ReadoutError, match="is not JSON"):
        import_tuned(tmp_path, tiny_slm)
    with pytest.raises(ReadoutError, match="No tuned.json"):
        TunedLens.load(tmp_path, tiny_slm)
