"""Save a model with a joint vocabulary the way slamkit saves its `UnitLM`, with all that belongs to it.

- `config.json`: `model_type` `speech_language_model`, the base model's configuration under `base_config`; slamkit's
  defaults write pad 0, bos 1, eos 1 there, which are ordinary text tokens in interleaved models.
- `model.safetensors`: the Hugging Face keys with `lm.` before them; a tied head is absent.
- `tokenizer.json`, `tokenizer_config.json`: of the *text*. Units start at its length, then come `<speech>` and `<text>`.
- beside them, ours: `quantiser.json` and `.safetensors`, `samples.json`, `manifest.json`.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from slm_interp.files import atomic_path, write_text
from slm_interp.organisms.corpus import Spoken
from slm_interp.organisms.recipe import Recipe
from slm_interp.organisms.samples import write_samples
from slm_interp.speech.acoustic import AcousticQuantiser

SLAMKIT_DEFAULTS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "scipy", "scikit-learn", "espeakng-loader")


def save_unit_lm(model: Any, folder: str | os.PathLike[str], base_model_name: str, twist_init: bool = True) -> None:
    """Write `config.json` and `model.safetensors` as slamkit's `UnitLM.save_pretrained` does, in the model's own dtype.

    `twist_init` says whether the weights come from a text model.
    """
    from safetensors.torch import save_file

    tied = model.config.tie_word_embeddings
    state = {name: weight for name, weight in model.state_dict().items() if not (tied and name == "lm_head.weight")}
    tensors = {f"lm.{name}": weight.detach().contiguous() for name, weight in state.items()}
    base = {**model.config.to_dict(), **SLAMKIT_DEFAULTS}
    dtype = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
    config = {
        "architectures": ["UnitLM"],
        "model_type": "speech_language_model",
        "base_model_name": base_model_name,
        "base_config": {**base, "architectures": [type(model).__name__], "dtype": dtype},
        "vocab_size": model.config.vocab_size,
        "twist_init": twist_init,
        "use_cache": False,
        "max_position_embeddings": model.config.max_position_embeddings,
        "tie_word_embeddings": tied,
        "trust_remote_code": None,
        "use_safetensors": None,
        "dtype": dtype,
        "transformers_version": version("transformers"),
    }
    with atomic_path(Path(folder) / "model.safetensors") as path:
        save_file(tensors, path, metadata={"format": "pt"})
    _write_json(Path(folder) / "config.json", config)


def save_tokenizer(tokenizer: Any, folder: str | os.PathLike[str]) -> None:
    """Write the two files a Hugging Face fast tokenizer is read from."""
    with atomic_path(Path(folder) / "tokenizer.json") as path:
        tokenizer.backend_tokenizer.save(str(path))
    _write_json(
        Path(folder) / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, "model_max_length": 1024},
    )


def save_organism(
    folder: str | os.PathLike[str],
    model: Any,
    tokenizer: Any,
    quantiser: AcousticQuantiser,
    recipe: Recipe,
    measured: dict[str, Any],
    held_out: Sequence[Spoken],
) -> None:
    """Write everything. The manifest comes last, so a folder that has one is whole."""
    folder = Path(folder)
    (folder / "manifest.json").unlink(missing_ok=True)
    save_unit_lm(model, folder, f"slm_interp/{recipe.name}-text", twist_init=recipe.text_phase is not None)
    save_tokenizer(tokenizer, folder)
    quantiser.save(folder)
    facts = {one.text for one in recipe.world.held_out_sentences(recipe.held_out, recipe.world.seed) if one.fact}
    write_samples(held_out, facts, folder)
    parameters = sum(weight.numel() for weight in model.parameters())
    _write_json(folder / "manifest.json", manifest(recipe, quantiser.hash, len(tokenizer), parameters, measured))


def manifest(recipe: Recipe, quantiser: str, text_size: int, parameters: int, measured: dict[str, Any]) -> dict[str, Any]:
    """Every choice, what came out, and what it was made with."""
    return {
        "name": recipe.name,
        "what": "A small interleaved speech-text language model trained on eSpeak NG speech. Not a model of human speech.",
        "recipe": asdict(recipe),
        "quantiser": quantiser,
        "text_tokens": text_size,
        "units": recipe.quantiser.n_units,
        "parameters": parameters,
        "forms": "every sequence opens with a marker, and a marker stands before each change of modality; no BOS, no EOS",
        "measured": measured,
        "versions": {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}},
        "torch_threads": torch.get_num_threads(),
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
