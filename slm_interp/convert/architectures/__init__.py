"""One file an architecture, named by its Hugging Face `model_type`; the file name is the registry.

Each file has the same three things: `LAYERS`, the path to the list of layers in the Hugging Face model;
`fields(config)`, the `HookedTransformerConfig` it becomes; `rules(config)`, where every tensor goes.
`ALIASES`, where there is one, gives the names older files use. An architecture that `transformers` does not have
says which of its classes computes the same: `DEFAULTS` and `as_hugging_face` for the config, `relaid` for the tensors.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from slm_interp.convert.config import ConfigReader
from slm_interp.convert.rules import Rule
from slm_interp.errors import ConversionError


@dataclass(frozen=True)
class Architecture:
    """An architecture's three things under one name."""

    name: str
    layers: str
    fields: Callable[[ConfigReader], dict[str, Any]]
    rules: Callable[[ConfigReader], tuple[Rule, ...]]
    aliases: Mapping[str, str]
    defaults: Mapping[str, Any]
    as_hugging_face: Callable[[Mapping[str, Any]], dict[str, Any]] | None
    relaid: Callable[[ConfigReader, Callable[[str], Tensor]], Callable[[str], Tensor]] | None

    def reader(self, raw: Mapping[str, Any]) -> ConfigReader:
        """The config of a checkpoint, ready to be read."""
        if self.as_hugging_face is None:
            return ConfigReader(raw)
        values = {**self.defaults, **raw}
        return ConfigReader(raw, values, self.as_hugging_face(values))


def names() -> tuple[str, ...]:
    """The architectures there are."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def architecture(model_type: str) -> Architecture:
    """The architecture of a Hugging Face `model_type`.

    Raises:
        ConversionError: none of that name; the message lists those there are.
    """
    if model_type not in names():
        raise ConversionError(
            f"Architecture {model_type!r} is not supported; {', '.join(names())} are. To add one, see docs/adding-a-family.md."
        )
    module = importlib.import_module(f"{__name__}.{model_type}")
    return Architecture(
        model_type,
        module.LAYERS,
        module.fields,
        module.rules,
        getattr(module, "ALIASES", {}),
        getattr(module, "DEFAULTS", {}),
        getattr(module, "as_hugging_face", None),
        getattr(module, "relaid", None),
    )
