"""Edge scores and circuits of the published EAP-IG implementation (github.com/hannamw/EAP-IG) beside ours, on the same models.

    python -m tests.benchmarks.eap_ig PATH/TO/EAP-IG/src [--out docs/circuits/agreement.json]

None of its code is here. It runs as it is, with three things put in its way from outside: a tokenizer of ids (ours are given as ids), `torch.zeros` on the CPU
where it asks for `cuda`, and its colours, which want matplotlib. It needs per-head copies of the stream and, under grouped-query attention, keys and values
copied to every query head: its scores of a group's copies are summed before they are compared.

Random models twice as large as usual in their weights, so that attention and norms are far from linear.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from slm_interp import circuits
from slm_interp.convert import load
from slm_interp.correlation import mid_ranks
from slm_interp.files import write_text
from slm_interp.hooked.installed import VERSION
from slm_interp.model import SpeechTextModel
from slm_interp.patching import outcomes
from slm_interp.utterance import Contrast
from tests.replicas import N_UNITS, VARIANTS, text_tokenizer, write_slamkit

MODELS = {"llama": "grouped-query attention", "llama-mha-tied": "a key for every head", "gpt_neox": "parallel blocks, LayerNorm"}
METHODS: dict[str, tuple[str, Any, dict[str, int]]] = {
    "EAP": ("EAP", circuits.eap, {}),
    "EAP-IG inputs, 1 step": ("EAP-IG-inputs", circuits.eap_ig, {"steps": 1}),
    "EAP-IG inputs, 5 steps": ("EAP-IG-inputs", circuits.eap_ig, {"steps": 5}),
    "EAP-IG activations, 1 step": ("EAP-IG-activations", circuits.eap_ig_activations, {"steps": 1}),
    "EAP-IG activations, 3 steps": ("EAP-IG-activations", circuits.eap_ig_activations, {"steps": 3}),
}
SIZES = (10, 30, 100, 200)


def main() -> None:
    """Compare, print, and write the figures down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder that holds the package eap")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    peer = imported(options.source)
    rows = [row for variant in MODELS for row in compared(variant, peer)]
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    if options.out:
        made = {"peer": revision(options.source), "transformer_lens": VERSION, "torch": torch.__version__, "rows": rows}
        write_text(options.out, json.dumps(made, indent=1) + "\n")
        write_text(options.out.with_suffix(".txt"), markdown(rows))


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table of the documentation."""
    lines = ["| model | scores | edges | largest difference, of the spread | rank correlation |", "|---|---|---|---|---|"]
    for row in rows:
        if "of_the_spread" in row:
            cells = f"{row['edges']} | {row['of_the_spread']:.1g} | {row['rank_correlation']:.4f}"
        else:
            same = "the same" if row["edges"] == row["edges_of_the_peer"] else f"{row['edges_of_the_peer']} there"
            share = row["largest_difference"] / abs(row["clean_minus_corrupted"])
            cells = f"{', '.join(map(str, row['edges']))} left, {same} | outcome {share:.1g} of the ceiling |"
        lines.append(f"| {row['model']} ({row['says']}) | {row['what']} | {cells} |")
    return "\n".join(lines) + "\n"


def compared(variant: str, peer: dict[str, ModuleType]) -> Iterator[dict[str, Any]]:
    """Scores of all edges by every method, and outcomes of circuits, in one model."""
    slm = model(variant)
    contrasts = [contrast(slm, seed) for seed in range(3)]
    task = circuits.Task(slm, contrasts, outcomes.difference(units=1), spans="everything")
    for method, (name, ours, arguments) in METHODS.items():
        graph = ours(task, **arguments).over_spans()
        for asked in (False, True) if "activations" in method else (False,):
            with as_the_peer_wants(slm, asked):
                theirs = peer["graph"].Graph.from_model(slm.model)
                peer["attribute"].attribute(
                    slm.model, theirs, rows_of(contrasts), metric(slm, contrasts), name, ig_steps=arguments.get("steps"), quiet=True
                )
            wanted = summed(graph, theirs)
            whats = {f"{method}, gradient asked at a replaced input" if asked else method: graph.real}
            if "activations" in method and not asked:
                whats[f"{method}, edges that do not end where a replaced input is read"] = graph.real & ~reads_the_input_alone(graph)
            for what, chosen in whats.items():
                yield {"model": variant, "says": MODELS[variant], "what": what, **agreement(graph.scores[chosen], wanted[chosen])}
    if slm.model.cfg.n_key_value_heads in (None, slm.model.cfg.n_heads):  # its circuits have keys and values by query head
        yield same_circuits(slm, task, contrasts, peer, variant)


def agreement(found: np.ndarray, wanted: np.ndarray) -> dict[str, float]:
    """How far two rows of scores are apart, in their own size and as ranks."""
    return {
        "edges": len(found),
        "largest_difference": float(f"{np.abs(found - wanted).max():.3g}"),
        "largest_score": float(f"{np.abs(wanted).max():.3g}"),
        "of_the_spread": float(f"{np.abs(found - wanted).max() / wanted.std():.3g}"),
        "rank_correlation": round(float(np.corrcoef(mid_ranks(found), mid_ranks(wanted))[0, 1]), 6),
    }


def reads_the_input_alone(graph: circuits.Graph) -> np.ndarray:
    """Edges into what nothing but the input reaches: attention of block 0, and its MLP where blocks are parallel.

    Where the peer replaces the input it puts a tensor there that asks for no gradient, so these get none in those runs but count in the mean.
    """
    return np.broadcast_to((graph.real.sum((0, 2, 3)) == 1)[None, :, None, None], graph.real.shape)


def same_circuits(
    slm: SpeechTextModel, task: circuits.Task, contrasts: list[Contrast], peer: dict[str, ModuleType], variant: str
) -> dict[str, Any]:
    """The strongest edges, pruned, and what the model says with nothing else: by both."""
    graph = circuits.eap(task).over_spans()
    chosen = [circuits.top_n(graph, size) for size in SIZES]
    ours = circuits.outcomes_of(task, chosen).mean(0)
    found, edges = [], []
    with as_the_peer_wants(slm, False):
        theirs = peer["graph"].Graph.from_model(slm.model)
        peer["attribute"].attribute(slm.model, theirs, rows_of(contrasts), metric(slm, contrasts), "EAP", quiet=True)
        for size in SIZES:
            theirs.apply_topn(size, absolute=True)
            edges.append(int(theirs.count_included_edges()))
            each = peer["evaluate"].evaluate_graph(slm.model, theirs, rows_of(contrasts), metric(slm, contrasts), quiet=True)
            found.append(float(each.mean()))
    baseline = np.subtract(*(np.mean(side) for side in task.baselines))
    return {
        "model": variant,
        "says": MODELS[variant],
        "what": f"circuits of the {', '.join(map(str, SIZES))} strongest edges",
        "edges": [one.size for one in chosen],
        "edges_of_the_peer": edges,
        "largest_difference": float(f"{np.abs(ours - np.array(found)).max():.3g}"),
        "clean_minus_corrupted": float(f"{baseline:.3g}"),
    }


# -- models and prompts both can read ------------------------------------------------------------------


def model(variant: str) -> SpeechTextModel:
    """A random model of one architecture, its weights doubled."""
    tokenizer = text_tokenizer()
    with tempfile.TemporaryDirectory() as folder:
        path = write_slamkit(Path(folder), VARIANTS[variant], vocab_size=len(tokenizer) + N_UNITS + 2)
        slm = load(path, text_tokenizer=tokenizer, n_units=N_UNITS, quantiser="tiny")
        with torch.no_grad():
            for name, parameter in slm.model.named_parameters():
                if ".attn." in name or ".mlp." in name:
                    parameter.set_(parameter.clone() * 2)
    return slm


def contrast(slm: SpeechTextModel, seed: int) -> Contrast:
    """Two prompts of ten units that differ in four."""
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randint(N_UNITS, (10,), generator=generator)
    corrupted = clean.clone()
    corrupted[2:6] = (corrupted[2:6] + torch.randint(1, N_UNITS, (4,), generator=generator)) % N_UNITS
    edges = 0.04 * torch.arange(11)
    prompts = [slm.speech_prompt(units, edges, quantiser="tiny", name=f"{seed}") for units in (clean, corrupted)]
    answer, distractor = slm.vocabulary.unit_to_id(torch.randperm(N_UNITS, generator=generator)[:2])
    return Contrast(*prompts, answer[None], distractor[None])


def rows_of(contrasts: list[Contrast]) -> list[tuple[list[Any], list[Any], list[int]]]:
    """All contrasts as one batch of the peer's, with token ids where it has strings."""
    return [([one.clean.tokens for one in contrasts], [one.corrupted.tokens for one in contrasts], list(range(len(contrasts))))]


def metric(slm: SpeechTextModel, contrasts: list[Contrast]) -> Any:
    """Our outcome as the peer calls it: log p(answer) - log p(distractor) over speech ids, summed over the batch where it differentiates."""
    speech = slm.vocabulary.mask("speech")

    def score(logits: torch.Tensor, clean_logits: Any, lengths: torch.Tensor, labels: list[int]) -> torch.Tensor:
        last = logits[torch.arange(len(labels)), lengths - 1]
        normed = last - last[:, speech].logsumexp(-1, keepdim=True)
        values = torch.stack(
            [normed[row, contrasts[one].answer[0]] - normed[row, contrasts[one].distractor[0]] for row, one in enumerate(labels)]
        )
        return values.sum() if logits.requires_grad else values

    return score


# -- the peer, as it is ----------------------------------------------------------------------------------


def imported(source: Path) -> dict[str, ModuleType]:
    """Its modules, with what stands in for a tokenizer, a GPU and matplotlib."""
    sys.path.insert(0, str(source))
    colours = ModuleType("eap.visualization")
    colours.get_color = colours.generate_random_color = None  # type: ignore[attr-defined]
    sys.modules["eap.visualization"] = colours
    peer = {name: importlib.import_module(f"eap.{name}") for name in ("graph", "utils", "attribute", "evaluate")}

    class OnTheCpu:
        def __getattr__(self, name: str) -> Any:
            return getattr(torch, name)

        @staticmethod
        def zeros(*size: Any, **options: Any) -> torch.Tensor:
            return torch.zeros(*size, **{**options, "device": "cpu"})

    def ids(model: Any, rows: list[torch.Tensor], max_length: int | None = None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
        tokens = torch.stack(rows)
        return tokens, torch.ones_like(tokens), torch.full((len(rows),), tokens.shape[1]), tokens.shape[1]

    for name in ("attribute", "evaluate"):
        peer[name].torch = OnTheCpu()  # type: ignore[attr-defined]
        peer[name].tokenize_plus = ids  # type: ignore[attr-defined]
    return peer


@contextmanager
def as_the_peer_wants(slm: SpeechTextModel, asked: bool) -> Iterator[None]:
    """The copies of the stream that it reads, for as long as it runs.

    Args:
        asked: whether an input that it replaces asks for a gradient, so that what reads it has one.
    """
    model, config = slm.model, slm.model.cfg
    flags = ["use_attn_result", "use_split_qkv_input", "use_hook_mlp_in"]
    flags += ["ungroup_grouped_query_attention"] if config.n_key_value_heads is not None else []
    for flag in flags:
        setattr(config, flag, True)
    if asked:
        own = type(model).hooks

        def ask(value: torch.Tensor, hook: Any) -> torch.Tensor:
            return value if value.requires_grad or not torch.is_grad_enabled() else value.detach().requires_grad_()

        model.hooks = lambda fwd_hooks=(), **others: own(model, fwd_hooks=[*fwd_hooks, ("hook_embed", ask)], **others)
    try:
        yield
    finally:
        vars(model).pop("hooks", None)
        for flag in flags:
            setattr(config, flag, False)


def summed(graph: circuits.Graph, theirs: Any) -> np.ndarray:
    """Its scores in our order; copies of a key-value head summed."""
    sources = [theirs.forward_index(theirs.nodes[name], attn_slice=False) for name in graph.dataset["source"].values]
    made = np.zeros_like(graph.scores)
    for number, (name, slot) in enumerate(zip(graph.dataset["target_node"].values, graph.dataset["slot"].values, strict=True)):
        group = graph.shape.group if slot in ("k", "v") else 1
        own = [name] if group == 1 else [f"{name.split('.')[0]}.h{int(name.split('kv')[1]) * group + copy}" for copy in range(group)]
        for one in own:
            column = theirs.backward_index(theirs.nodes[one], qkv=None if slot == "in" else slot, attn_slice=False)
            made[:, number, 0, 0] += theirs.scores[sources, column].numpy()
    return made


def revision(source: Path) -> str:
    """The peer's commit, where its folder knows it."""
    done = subprocess.run(["git", "-C", str(source), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return f"hannamw/EAP-IG {done.stdout.strip() or 'of unknown commit'}"


if __name__ == "__main__":
    main()
