"""Other people's logit lenses on the same replicas: the same numbers. The rest of that comparison is `tests/benchmarks/peers.py`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from slm_interp import hooked
from slm_interp.convert import load
from slm_interp.lenses import LogitLens
from slm_interp.model import SpeechTextModel
from tests.benchmarks import peers
from tests.replicas import N_UNITS, VARIANTS, write_slamkit

NAMES = ["llama", "qwen2", "qwen3", "opt-untied", "gpt_neox-serial-tied"]


@pytest.fixture(scope="module")
def of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], SpeechTextModel]:
    return lambda name: load(write_slamkit(tmp_path_factory.mktemp(name), VARIANTS[name]), n_units=N_UNITS)


@pytest.mark.parametrize("name", NAMES)
def test_transformer_lens_4_s_own_logit_lens_has_the_same_numbers_at_every_layer_and_between(
    of: Callable[[str], SpeechTextModel], name: str
) -> None:
    from transformer_lens.tools.analysis import logit_lens

    slm = of(name)
    theirs = logit_lens(
        slm.model, peers.TOKENS[None], positions=None, incl_mid=True, targets=list(range(peers.ROWS)), return_type="log_probs"
    )
    ours = {
        site: LogitLens(slm).read(peers.TOKENS, site=site, **peers.everything(slm)).dataset
        for site in ("resid_pre", "resid_mid", "resid_post")
    }
    for index, label in enumerate(theirs.labels):
        block, at = (3, "post") if label == "final_post" else (int(label.split("_")[0]), label.split("_")[1])
        row = ours[f"resid_{at}"].sel(layer=block)
        np.testing.assert_allclose(row.target_log_prob.values, theirs.values[index, 0].numpy(), rtol=0, atol=1e-5)
        assert (row.target_rank.values == theirs.readout.target_ranks[index, 0].numpy()).mean() > 0.999  # they count ties otherwise
    assert len(theirs.labels) == 7


@pytest.mark.parametrize("name", NAMES)
def test_transformer_lens_4_reads_what_a_block_adds_alike(of: Callable[[str], SpeechTextModel], name: str) -> None:
    from transformer_lens.tools.analysis import logit_readout

    slm = of(name)
    for site in ("attn_out", "mlp_out"):
        added = hooked.stream(slm.model, peers.TOKENS, site)
        theirs = logit_readout(slm.model, added, targets=list(range(peers.ROWS)), return_type="log_probs")
        ours = LogitLens(slm).read(peers.TOKENS, site=site, **peers.everything(slm)).dataset
        np.testing.assert_allclose(ours.target_log_prob.values, theirs.values.numpy(), rtol=0, atol=1e-5)
        np.testing.assert_allclose(ours.entropy.values, theirs.entropy.numpy(), rtol=1e-4, atol=1e-5)


# -- the script, without a peer --------------------------------------------------------------------------


def test_the_script_s_own_side_agrees_with_hugging_face_and_says_by_how_much_a_peer_is_off(of: Callable[[str], SpeechTextModel]) -> None:
    slm, model = of("llama"), peers.hugging_face("llama")
    found = peers.ours(slm, peers.TOKENS)
    with torch.no_grad():
        said = model(peers.TOKENS[None], output_hidden_states=True)
        states = torch.stack(said.hidden_states[1:-1])[:, 0]  # the last one has been through the norm
        dense = model.lm_head(model.model.norm(states)).log_softmax(-1).numpy()
        output = said.logits[0].log_softmax(-1).numpy()
    peer = {"log_prob": np.concatenate([dense, output[None]]), "rank": found["rank"][1:]}
    right = peers.differences(found, peer, output)
    assert right["layers"] == 3 and max(right["log_prob"], right["last_row_ours"]) < 1e-5
    off = peers.differences(found, {"log_prob": peer["log_prob"] + np.eye(peers.ROWS)[5] * 0.25, "rank": found["rank"][1:] + 1}, output)
    assert off["log_prob"] == pytest.approx(0.25, abs=1e-5) and off["same_rank"] == 0
    shifted = {"log_prob": np.concatenate([peer["log_prob"][1:], peer["log_prob"][:1]])}
    assert peers.differences(found, shifted, output)["log_prob"] > 0.1, "layers must not be paired one off"


def test_the_script_stops_with_a_sentence_where_there_is_no_peer_and_when_one_differs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.argv", ["peers", "--replica", "llama", "--out", str(tmp_path / "peers.json")])
    monkeypatch.setattr(peers, "peers", dict)
    with pytest.raises(SystemExit, match="No peer is installed here"):
        peers.main()
    monkeypatch.setattr(
        peers, "peers", lambda: {"wrong 1.0": lambda name, slm: {"log_prob": peers.ours(slm, peers.TOKENS)["log_prob"] + 1e-3}}
    )
    with pytest.raises(SystemExit, match="Apart by more than 0.0001.*wrong 1.0"):
        peers.main()
    assert '"peer": "wrong 1.0"' in (tmp_path / "peers.json").read_text()
