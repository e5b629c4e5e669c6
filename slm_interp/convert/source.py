"""From what a user names to everything known about a checkpoint before a weight is read."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from math import inf
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slm_interp.convert.architectures import Architecture, architecture
from slm_interp.convert.checkpoint import Checkpoint
from slm_interp.convert.config import ConfigReader
from slm_interp.convert.families import Named, family_named, family_of
from slm_interp.convert.family import Family, Reading, TokenIds
from slm_interp.convert.refused import refuse_inexpressible
from slm_interp.convert.rules import Copy, Drop, Rule, expanded
from slm_interp.convert.text_tokenizer import text_tokenizer_of
from slm_interp.errors import CheckpointError, ConversionError, SlmInterpError
from slm_interp.prompt import PromptFormat
from slm_interp.vocabulary import JointVocabulary

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
LAYER_COUNTS = ("num_hidden_layers", "num_layers")
# Fields of the HookedTransformerConfig that are sizes or scales.
MEASURES = frozenset(
    "d_model n_layers n_heads n_key_value_heads d_head d_mlp d_vocab n_ctx eps window_size rotary_base rotary_dim rotary_scaling_factor "
    "NTK_by_parts_factor NTK_by_parts_low_freq_factor NTK_by_parts_high_freq_factor NTK_original_ctx_len".split()
)


class TextTokenizer:
    """The tokenizer of a checkpoint, loaded when it is first asked for.

    Args:
        folder: of the checkpoint.
        given: what the user passed; see `load`.
    """

    def __init__(self, folder: Path, given: Any | None = None) -> None:
        self._folder, self._given = folder, given

    @cached_property
    def tokenizer(self) -> Any | None:
        """The tokenizer, or None where there is none."""
        return text_tokenizer_of(self._folder, self._given)

    @cached_property
    def ids(self) -> TokenIds:
        """Ids of its tokens."""
        return {} if self.tokenizer is None else self.tokenizer.get_vocab()


@dataclass(frozen=True, eq=False)
class Identified:
    """A checkpoint whose family is known; nothing judged yet.

    Args:
        checkpoint: the folder.
        family: that recognised it, or was asked for.
        raw: config of the base model.
        prefix: of its tensor names in the files.
        text: its tokenizer.
    """

    checkpoint: Checkpoint
    family: Family
    raw: Mapping[str, Any]
    prefix: str
    text: TextTokenizer


@dataclass(frozen=True, eq=False)
class Source:
    """A checkpoint whose config has been read and accepted.

    Args:
        checkpoint: the folder.
        family: whose vocabulary it has.
        text: its tokenizer.
        architecture: of the base model.
        config: the base model's config, every key of it accounted for.
        prefix: of the tensor names in the files.
        fields: the `HookedTransformerConfig` it becomes.
        rules: where every tensor goes.
    """

    checkpoint: Checkpoint
    family: Family
    text: TextTokenizer
    architecture: Architecture
    config: ConfigReader
    prefix: str
    fields: Mapping[str, Any]
    rules: tuple[Rule, ...]

    @cached_property
    def names(self) -> dict[str, str]:
        """Names in the files, by name without the prefix and aliases. What lacks the prefix keeps a name that no rule fits."""
        bare = {
            name: name[len(self.prefix) :] if name.startswith(self.prefix) else f"(no {self.prefix!r}) {name}"
            for name in self.checkpoint.shapes
        }
        return {self.architecture.aliases.get(short, short): name for name, short in bare.items()}

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes by name without the prefix."""
        return {name: self.checkpoint.shapes[full] for name, full in self.names.items()}

    def tensor(self, name: str, *, separate: bool = False) -> Tensor:
        """A tensor by its name without the prefix, as a view of the file; `separate` as in `Checkpoint.tensor`."""
        return self.checkpoint.tensor(self.names[name], separate=separate)

    @cached_property
    def needed(self) -> dict[str, torch.dtype]:
        """Stored dtype of every tensor that is not dropped, by name in the files.

        Raises:
            CheckpointError: one that is not floating point.
        """
        dropped = {rule.source for rule in expanded(self.rules, self.fields["n_layers"]) if isinstance(rule, Drop)}
        return {full: self.checkpoint.dtype_of(full) for name, full in self.names.items() if name not in dropped}

    @property
    def rows(self) -> int:
        """Rows of the embedding tensor: the size of the joint vocabulary."""
        name = next(rule.source for rule in self.rules if isinstance(rule, Copy) and rule.target == "embed.W_E")
        if name not in self.shapes:
            raise CheckpointError(f"The checkpoint has no embedding {self.prefix + name!r}.")
        if len(self.shapes[name]) != 2:
            raise CheckpointError(f"The embedding {self.prefix + name!r} must be a matrix; it has shape {self.shapes[name]}.")
        return self.shapes[name][0]


def open_source(path: str | os.PathLike[str], text_tokenizer: Any | None = None, family: Named | None = None) -> Source:
    """Open a checkpoint and account for every key of its config.

    Args:
        path: a folder, the name of a packaged organism, or a hub id.
        text_tokenizer, family: as for `load`.

    Raises:
        CheckpointError: a damaged folder. ConversionError: a config that cannot be expressed or was not read.
    """
    return accept(identify(path, text_tokenizer, family))


def identify(path: str | os.PathLike[str], text_tokenizer: Any | None = None, family: Named | None = None) -> Identified:
    """The folder, its family, the config of its base model and the prefix of its tensor names; see `open_source`.

    Raises:
        ConversionError: a model that cannot be expressed, or one of no known family.
    """
    checkpoint = Checkpoint(locate(path))
    text = TextTokenizer(checkpoint.folder, text_tokenizer)
    refuse_inexpressible(checkpoint.config)
    chosen = family_of(checkpoint.config, lambda: text.ids) if family is None else family_named(family)
    return Identified(checkpoint, chosen, *chosen.unwrap(checkpoint.config), text)


def accept(identified: Identified) -> Source:
    """Account for every key of the base model's config, or refuse; see `open_source`."""
    raw = identified.raw
    built = architecture(str(raw.get("model_type")))
    tensors = len(identified.checkpoint.shapes)
    layers = next((value for key in LAYER_COUNTS if isinstance(value := raw.get(key), int) and value > tensors), None)
    if layers is not None:
        raise CheckpointError(f"config.json says {layers:.3g} layers; the files hold {tensors} tensors.")
    try:
        config = built.reader(raw)
        fields, rules = built.fields(config), built.rules(config)
    except SlmInterpError:
        raise
    except (TypeError, ValueError, ArithmeticError, AttributeError, LookupError) as error:
        raise ConversionError(f"config.json has a value of another kind than a {built.name!r} has there: {error}") from error
    config.finish()
    for field, value in fields.items():
        if field in MEASURES and (field, value) != ("n_key_value_heads", None) and not (isinstance(value, int | float) and 0 < value < inf):
            raise ConversionError(f"{field} must be a positive number; config.json makes it {value!r}.")
    source = Source(identified.checkpoint, identified.family, identified.text, built, config, identified.prefix, fields, rules)
    if source.rows != fields["d_vocab"]:
        raise CheckpointError(f"config.json says {fields['d_vocab']} ids; the embedding has {source.rows} rows.")
    return source


def locate(path: str | os.PathLike[str]) -> Path:
    """A folder, from a folder, the name of a packaged organism, or a hub id.

    The hub is asked only for a name of the form `owner/name` that is no local folder.
    """
    folder = Path(path)
    if folder.is_dir():
        return folder
    packaged = {item.name: item for item in packaged_organisms()}
    if str(path) in packaged:
        return packaged[str(path)]
    if not HUB_ID.fullmatch(str(path)):
        raise CheckpointError(
            f"{str(path)!r} is no folder, no packaged organism ({', '.join(sorted(packaged)) or 'none'}) and no hub id (owner/name)."
        )
    from huggingface_hub import snapshot_download

    try:
        fetched = Path(snapshot_download(str(path), allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt"]))
        if not any(fetched.glob("*.safetensors")):
            fetched = Path(snapshot_download(str(path), allow_patterns=["pytorch_model*.bin"]))
        return fetched
    except Exception as error:  # the hub client raises its own many kinds; all mean that nothing came
        raise CheckpointError(f"{str(path)!r} is no local folder, and the hub did not give it: {error}") from error


def packaged_organisms() -> list[Path]:
    """Folders of the organisms that ship with this package."""
    weights = Path(str(resources.files("slm_interp"))) / "organisms" / "weights"
    return sorted(item for item in weights.iterdir() if (item / "config.json").exists()) if weights.is_dir() else []


def vocabulary_of(source: Source, n_units: int | None, quantiser: Any | None) -> tuple[JointVocabulary, PromptFormat, Any, Any | None]:
    """Vocabulary, prompt forms, tokenizer and the quantiser: the one given, else the one the folder carries, else None.

    Raises:
        ConversionError: a quantiser that is not the folder's, or that has another number of units than declared or than the vocabulary.
    """
    own = quantiser_of(source.checkpoint.folder)
    declared = quantiser if isinstance(quantiser, str | None) else quantiser.hash
    if own is not None and declared not in (None, own.hash):
        raise ConversionError(f"The folder carries quantiser {own.hash}; {declared!r} was declared.")
    carried = own if isinstance(quantiser, str | None) else quantiser
    if carried is not None:
        if n_units not in (None, carried.n_units):
            raise ConversionError(f"Quantiser {carried.hash} has {carried.n_units} units; n_units={n_units} was declared.")
        declared, n_units = carried.hash, carried.n_units
    reading = Reading(source.checkpoint.config, source.rows, source.text.tokenizer, n_units, declared)
    try:
        return *source.family.read(reading), carried
    except ConversionError as error:
        if carried is None:
            raise
        said = f"The quantiser has {carried.n_units} units: is it the one that this model was trained with?"
        raise ConversionError(f"{error} {said}") from error


def quantiser_of(folder: Path) -> Any | None:
    """The quantiser that lies beside the weights, or None."""
    if not (folder / "quantiser.json").exists():
        return None
    from slm_interp.speech.quantiser import load_quantiser

    return load_quantiser(folder)
