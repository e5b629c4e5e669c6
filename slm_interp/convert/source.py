"""From what a user names to everything known about a checkpoint before a weight is read."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from slm_interp.convert.architectures import Architecture, architecture
from slm_interp.convert.checkpoint import Checkpoint
from slm_interp.convert.config import ConfigReader
from slm_interp.convert.families import family_of
from slm_interp.convert.rules import Copy, Rule
from slm_interp.errors import CheckpointError, ConversionError
from slm_interp.prompt import PromptFormat
from slm_interp.vocabulary import JointVocabulary

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


@dataclass(frozen=True, eq=False)
class Source:
    """A checkpoint whose config has been read and accepted.

    Args:
        checkpoint: the folder.
        family: module of `convert.families`.
        architecture: of the base model.
        config: the base model's config, every key of it accounted for.
        prefix: of the tensor names in the files.
        fields: the `HookedTransformerConfig` it becomes.
        rules: where every tensor goes.
    """

    checkpoint: Checkpoint
    family: ModuleType
    architecture: Architecture
    config: ConfigReader
    prefix: str
    fields: Mapping[str, Any]
    rules: tuple[Rule, ...]

    @cached_property
    def names(self) -> dict[str, str]:
        """Names in the files, by name without the prefix and aliases. What lacks the prefix keeps a name that no rule fits."""
        bare = {name: name[len(self.prefix) :] if name.startswith(self.prefix) else f"(no {self.prefix!r}) {name}" for name in self.checkpoint.shapes}
        return {self.architecture.aliases.get(short, short): name for name, short in bare.items()}

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes by name without the prefix."""
        return {name: self.checkpoint.shapes[full] for name, full in self.names.items()}

    def tensor(self, name: str) -> Tensor:
        """A tensor by its name without the prefix, as a view of the file."""
        return self.checkpoint.tensor(self.names[name])

    @property
    def rows(self) -> int:
        """Rows of the embedding tensor: the size of the joint vocabulary."""
        name = next(rule.source for rule in self.rules if isinstance(rule, Copy) and rule.target == "embed.W_E")
        if name not in self.shapes:
            raise CheckpointError(f"The checkpoint has no embedding {self.prefix + name!r}.")
        return self.shapes[name][0]


def open_source(path: str | os.PathLike[str]) -> Source:
    """Open a checkpoint and account for every key of its config.

    Args:
        path: a folder, the name of a packaged organism, or a hub id.

    Raises:
        CheckpointError: a damaged folder. ConversionError: a config that cannot be expressed or was not read.
    """
    checkpoint = Checkpoint(locate(path))
    family = family_of(checkpoint.config)
    raw, prefix = family.unwrap(checkpoint.config)
    config = ConfigReader(raw)
    built = architecture(raw["model_type"])
    fields, rules = built.fields(config), built.rules(config)
    config.finish()
    source = Source(checkpoint, family, built, config, prefix, fields, rules)
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
        raise CheckpointError(f"{str(path)!r} is no folder, no packaged organism ({', '.join(sorted(packaged)) or 'none'}) and no hub id (owner/name).")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(path), allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt"]))
    except Exception as error:  # the hub client raises its own many kinds; all mean that nothing came
        raise CheckpointError(f"{str(path)!r} is no local folder, and the hub did not give it: {error}") from error


def packaged_organisms() -> list[Path]:
    """Folders of the organisms that ship with this package."""
    weights = Path(str(resources.files("slm_interp"))) / "organisms" / "weights"
    return sorted(item for item in weights.iterdir() if (item / "config.json").exists()) if weights.is_dir() else []


def text_tokenizer_of(folder: Path, given: Any | None) -> Any | None:
    """The text tokenizer: the one given (an object, a folder, a hub id), else the folder's own, else None."""
    if given is not None and not isinstance(given, str | os.PathLike):
        return given
    own = any((folder / name).exists() for name in TOKENIZER_FILES)
    if given is None and not own:
        return None
    from transformers import AutoTokenizer

    place = str(folder if given is None else given)
    try:
        return AutoTokenizer.from_pretrained(place, local_files_only=Path(place).is_dir())
    except Exception as error:  # transformers raises many kinds; the user needs to know which tokenizer failed
        raise ConversionError(f"No tokenizer could be loaded from {place!r}: {error}") from error


def vocabulary_of(
    source: Source, text_tokenizer: Any | None, n_units: int | None, quantiser: str | None
) -> tuple[JointVocabulary, PromptFormat, Any, Any | None]:
    """Vocabulary, prompt forms, tokenizer and, where the folder carries one, the quantiser."""
    carried = quantiser_of(source.checkpoint.folder)
    if carried is not None:
        if quantiser not in (None, carried.hash):
            raise ConversionError(f"The folder carries quantiser {carried.hash}; quantiser={quantiser!r} was declared.")
        if n_units not in (None, carried.n_units):
            raise ConversionError(f"The folder's quantiser has {carried.n_units} units; n_units={n_units} was declared.")
        quantiser, n_units = carried.hash, carried.n_units
    tokenizer = text_tokenizer_of(source.checkpoint.folder, text_tokenizer)
    return *source.family.read(source.rows, tokenizer, n_units, quantiser), carried


def quantiser_of(folder: Path) -> Any | None:
    """The quantiser that lies beside the weights, or None."""
    if not (folder / "quantiser.json").exists():
        return None
    from slm_interp.speech.acoustic import AcousticQuantiser

    return AcousticQuantiser.load(folder)
