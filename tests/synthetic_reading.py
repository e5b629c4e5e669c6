"""A made-up lens reading and clip by the schema of `Reading.dataset`: for tests of pictures and pages, which need no model."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr

from slm_interp.audio import Audio
from slm_interp.utterance import Span, Utterance, Word

TEXT = [
    " the",
    " capital",
    " of",
    " france",
    " is",
    " paris",
    " a",
    " red",
    " cat",
    " sat",
    " on",
    "ing",
    " <b>bold</b>",
    "</script><img src=x onerror=alert(1)>",
    " R&D",
    "\n",
]
SPOKEN = ["the", "capital", "of", "france", "is", "paris", "and", "the", "capital", "of", "spain", "is", "madrid"]
UNITS = 40
SIZES = {"text": 400, "speech": UNITS, "marker": 2}


def clip(positions: int, name: str = "synthetic clip", rate: int = 8000) -> Utterance:
    """An utterance of speech units after one marker; every word takes the same number of units; repeats are frequent."""
    generator = np.random.default_rng(0)
    frames = np.concatenate([[0], generator.integers(1, 4, positions - 1)])
    edges = np.concatenate([[0.0], np.cumsum(frames) * 0.04])
    units = generator.integers(0, UNITS, positions - 1) // 5 * 5
    width = max(2, (positions - 3) // len(SPOKEN))
    count = min(len(SPOKEN), (positions - 3) // width) if positions < 200 else (positions - 3) // 8
    width = width if positions < 200 else 8
    words = tuple(
        Word(
            SPOKEN[index % len(SPOKEN)],
            Span(2 + index * width, 2 + (index + 1) * width),
            float(edges[2 + index * width]),
            float(edges[2 + (index + 1) * width]),
        )
        for index in range(count)
    )
    time = np.arange(round(edges[-1] * rate)) / rate
    sound = (
        0.4
        * np.sin(2 * np.pi * 180 * time)
        * (0.25 + 0.75 * np.abs(np.sin(2 * np.pi * 2.3 * time)))
        * (1 + 0.3 * generator.standard_normal(len(time)))
    )
    return Utterance(
        tokens=torch.tensor([440, *(units + 400)]),
        edges=torch.tensor(edges, dtype=torch.float32),
        words=words,
        labels=("<speech>", *(f"<Un{unit}>" for unit in units)),
        audio=Audio((sound / 2).clip(-1, 1).astype(np.float32), rate),
        quantiser="made-up",
        form="speech",
        name=name,
    )


def _tops(generator: np.random.Generator, layers: int, pos: int, k: int, mass: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ids and joint log-probabilities of the best `k` of each modality; markers have fewer than `k`."""
    ids = np.full((layers, pos, 3, k), -1)
    log_probs = np.full((layers, pos, 3, k), np.nan, dtype=np.float32)
    starts = {"text": 0, "speech": 400, "marker": 440}
    for index, (modality, size) in enumerate(SIZES.items()):
        deep = min(k, size)
        ids[..., index, :deep] = starts[modality] + np.argsort(generator.random((layers, pos, min(size, 60))), axis=-1)[..., :deep]
        shares = 0.5 ** (1 + np.arange(deep))
        log_probs[..., index, :deep] = np.log(mass[:, :, index, None] * shares)
    return ids, log_probs


def label_of(identifier: int) -> str:
    """The printed token of an id of the made-up vocabulary."""
    if identifier < 0:
        return ""
    if identifier < 400:
        return TEXT[identifier % len(TEXT)]
    return f"<Un{identifier - 400}>" if identifier < 440 else ("<speech>", "<text>")[identifier - 440]


def dataset(utterance: Utterance, layers: int = 11, k: int = 5) -> xr.Dataset:
    """A reading in which text rises in the middle layers and speech returns at the end."""
    generator, pos = np.random.default_rng(1), len(utterance)
    depth = np.linspace(0, 1, layers)[:, None]
    text = 0.05 + 0.7 * np.exp(-((depth - 0.6) ** 2) / 0.02) * generator.uniform(0.4, 1.0, (layers, pos))
    mass = np.stack([text, 1 - text - 0.01, np.full_like(text, 0.01)], axis=-1)
    ids, log_probs = _tops(generator, layers, pos, k, mass)
    flat = np.nan_to_num(log_probs.reshape(layers, pos, -1), nan=-np.inf)
    order = np.argsort(-flat, axis=-1)[..., :k]
    spell = np.vectorize(label_of, otypes=[object])
    owner = {position: (index, word) for index, word in enumerate(utterance.words) for position in word.span}
    edges = utterance.edges.numpy().astype(np.float64)
    kinds = ["marker", *["speech"] * (pos - 1)]
    targets = utterance.words[:12]
    rank = generator.integers(0, 400, (layers, pos, len(targets))).astype(np.float32)
    names = ["0_pre", *(f"{layer}_post" for layer in range(layers - 1))]
    hooks = ["blocks.0.hook_resid_pre", *(f"blocks.{layer}.hook_resid_post" for layer in range(layers - 1))]
    top_ids = np.take_along_axis(ids.reshape(layers, pos, -1), order, -1)
    return xr.Dataset(
        {
            "top_id": (("layer", "pos", "k"), top_ids),
            "top_label": (("layer", "pos", "k"), spell(top_ids)),
            "top_log_prob": (("layer", "pos", "k"), np.take_along_axis(flat, order, -1).astype(np.float32)),
            "top_id_by_modality": (("layer", "pos", "modality", "k"), ids),
            "top_label_by_modality": (("layer", "pos", "modality", "k"), spell(ids)),
            "top_log_prob_by_modality": (("layer", "pos", "modality", "k"), log_probs),
            "modality_log_mass": (("layer", "pos", "modality"), np.log(mass).astype(np.float32)),
            "entropy": (("layer", "pos"), generator.uniform(1, 5, (layers, pos)).astype(np.float32)),
            "target_log_prob": (("layer", "pos", "target"), -0.1 * rank),
            "target_rank": (("layer", "pos", "target"), rank),
            "target_rank_in_modality": (("layer", "pos", "target"), rank),
        },
        coords={
            "layer": np.arange(layers),
            "layer_label": ("layer", np.array(names, dtype=object)),
            "hook": ("layer", np.array(hooks, dtype=object)),
            "pos": np.arange(pos),
            "token": ("pos", utterance.tokens.numpy()),
            "label": ("pos", np.array(utterance.labels, dtype=object)),
            "kind": ("pos", np.array(kinds, dtype=object)),
            "start_s": ("pos", edges[:-1]),
            "end_s": ("pos", edges[1:]),
            "word": ("pos", np.array([owner[p][1].text if p in owner else "" for p in range(pos)], dtype=object)),
            "word_index": ("pos", np.array([owner[p][0] if p in owner else -1 for p in range(pos)])),
            "k": np.arange(1, k + 1),
            "modality": np.array(list(SIZES), dtype=object),
            "modality_size": ("modality", np.array(list(SIZES.values()))),
            "target": np.arange(len(targets)),
            "target_id": ("target", np.arange(len(targets))),
            "target_label": ("target", np.array([" " + word.text for word in targets], dtype=object)),
            "target_word": ("target", np.array([word.text for word in targets], dtype=object)),
            "target_start": ("target", np.array([word.span.start for word in targets])),
            "target_stop": ("target", np.array([word.span.stop for word in targets])),
        },
        attrs={
            "schema": 1, "lens": "logit", "final_norm": "on", "exclude_input": "no", "utterance": utterance.name, "form": "speech",
            "n_layers": layers - 1, "d_vocab": sum(SIZES.values()), "dtype": "float32", "seconds_total": utterance.seconds,
            "provenance_json": '{"checkpoint": "made-up", "family": "none"}', "versions_json": '{"numpy": "made-up"}',
        },
    )  # fmt: skip
