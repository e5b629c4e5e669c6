"""The logit lens beside those of TransformerLens 4 and nnterp (on nnsight), on the same replicas: the same numbers to 1e-4.

    python -m tests.benchmarks.peers --out peers.json

Runs the peers that are installed: TransformerLens 4.3 in the environment of `make test-tl4`, nnterp in one of its own, beside the pinned
packages (`pip install nnterp "nnsight<0.7"`; nnterp 1.3.0 cannot be imported with nnsight 0.8). Each replica is a model of true architecture and
random weights that reads seven positions; every layer and position is compared, log-probabilities of all ids, and ranks. The last
column is each lens's last row against the model's own output.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from slm_interp import hooked
from slm_interp.convert import load
from slm_interp.hooked.installed import MAJOR
from slm_interp.lenses import LogitLens
from slm_interp.model import SpeechTextModel
from tests.replicas import N_UNITS, VARIANTS, random_weights, text_tokenizer, write_slamkit

REPLICAS = ("llama", "qwen2", "mistral", "qwen3", "gpt_neox", "gpt_neox-serial-tied")
ROWS = N_UNITS + 2
TOLERANCE = 1e-4
TOKENS = torch.tensor([3, 8, 3, 14, 9, 4, 21])


def everything(slm: SpeechTextModel) -> dict[str, Any]:
    """All ids as targets, dead ones read too: peers know no dead rows."""
    return {"targets": range(ROWS), "kinds": slm.vocabulary.kinds}


def ours(slm: SpeechTextModel, tokens: Tensor) -> dict[str, np.ndarray]:
    """Log-probabilities and ranks of every id, `[layer, pos, id]`, dead rows read too."""
    data = LogitLens(slm).read(tokens, **everything(slm)).dataset
    return {"log_prob": data["target_log_prob"].values, "rank": data["target_rank"].values}


def hugging_face(name: str) -> Any:
    """The same weights in Hugging Face's own model."""
    raw = {**VARIANTS[name], "vocab_size": ROWS}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**raw)).eval()
    model.load_state_dict(random_weights(raw), strict=False)
    return model


def transformer_lens(slm: SpeechTextModel, tokens: Tensor) -> dict[str, np.ndarray]:
    """TransformerLens 4's `tools.analysis.logit_lens` on the bridge itself."""
    from transformer_lens.tools.analysis import logit_lens

    found = logit_lens(slm.model, tokens[None], positions=None, targets=list(range(ROWS)), return_type="log_probs")
    assert found.labels[0] == "0_pre" and found.labels[-1] == "final_post", found.labels
    ranks = found.readout.target_ranks
    assert ranks is not None
    return {"log_prob": found.values[:, 0].numpy(), "rank": ranks[:, 0].numpy()}


def nnterp(name: str, tokens: Tensor) -> dict[str, np.ndarray]:
    """nnterp's `interventions.logit_lens`, which reads the last position of a prompt: a prompt for every position. It has no layer 0."""
    from nnterp import StandardizedTransformer
    from nnterp.interventions import logit_lens

    tokenizer = text_tokenizer([f"w{index}" for index in range(ROWS - 1)])
    tokenizer.padding_side, tokenizer.pad_token = "left", "<unk>"
    model = StandardizedTransformer(hugging_face(name), tokenizer=tokenizer, check_renaming=False)
    rows = [logit_lens(model, tokens[None, : stop + 1])[0] for stop in range(len(tokens))]
    return {"log_prob": torch.stack(rows, 1).detach().log().numpy()}


def differences(found: dict[str, np.ndarray], peer: dict[str, np.ndarray], output: np.ndarray) -> dict[str, Any]:
    """Greatest difference of log-probabilities over the layers that the peer has, share of equal ranks, and last rows to the model."""
    skipped = len(found["log_prob"]) - len(peer["log_prob"])
    said: dict[str, Any] = {
        "layers": len(peer["log_prob"]),
        "log_prob": float(np.abs(found["log_prob"][skipped:] - peer["log_prob"]).max()),
        "last_row_ours": float(np.abs(found["log_prob"][-1] - output).max()),
        "last_row_peer": float(np.abs(peer["log_prob"][-1] - output).max()),
    }
    if "rank" in peer:
        said["same_rank"] = float((found["rank"][skipped:] == peer["rank"]).mean())
    return said


def peers() -> dict[str, Callable[[str, SpeechTextModel], dict[str, np.ndarray]]]:
    """Those that are installed here, by name and version."""
    there: dict[str, Callable[[str, SpeechTextModel], dict[str, np.ndarray]]] = {}
    if MAJOR == 4 and find_spec("transformer_lens.tools.analysis"):
        there[f"transformer-lens {version('transformer-lens')}"] = lambda name, slm: transformer_lens(slm, TOKENS)
    with suppress(PackageNotFoundError):
        there[f"nnterp {version('nnterp')} on nnsight {version('nnsight')}"] = lambda name, slm: nnterp(name, TOKENS)
    return there


def measure(names: list[str]) -> list[dict[str, Any]]:
    """One row for each peer and replica."""
    rows = []
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            slm = load(write_slamkit(Path(folder) / name, VARIANTS[name]), n_units=N_UNITS)
            found, output = ours(slm, TOKENS), hooked.logits(slm.model, TOKENS[None])[0].log_softmax(-1).numpy()
            for peer, run in peers().items():
                rows.append({"peer": peer, "replica": name, **differences(found, run(name, slm), output)})
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """As in the docs."""
    lines = [
        "| peer | replica | layers | log-probabilities | same ranks | last row to the model: ours, peer |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        ranks = f"{row['same_rank']:.1%}" if "same_rank" in row else "none given"
        last = f"{row['last_row_ours']:.1e}, {row['last_row_peer']:.1e}"
        lines.append(f"| {row['peer']} | {row['replica']} | {row['layers']} | {row['log_prob']:.1e} | {ranks} | {last} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the numbers as JSON here; rows of other peers already there are kept")
    parser.add_argument("--replica", nargs="+", default=list(REPLICAS))
    options = parser.parse_args()
    if not peers():
        raise SystemExit("No peer is installed here: transformer-lens 4.x (make test-tl4) or nnterp (pip install nnterp 'nnsight<0.7').")
    rows = measure(options.replica)
    print(table(rows))
    if options.out:
        before = json.loads(options.out.read_text())["rows"] if options.out.is_file() else []
        kept = [row for row in before if row["peer"] not in {one["peer"] for one in rows}]
        options.out.write_text(json.dumps({"torch": torch.__version__, "tolerance": TOLERANCE, "rows": kept + rows}, indent=1) + "\n")
    apart = [row for row in rows if row["log_prob"] > TOLERANCE]
    if apart:
        raise SystemExit(f"Apart by more than {TOLERANCE}: {[(row['peer'], row['replica'], row['log_prob']) for row in apart]}")


if __name__ == "__main__":
    main()
