"""One file a family, found by its file name: vocabulary and prompt forms, apart from the architecture.

Each file has the same three things: `recognises(config)`; `unwrap(config)`, the config of the base model and
the prefix of its tensor names; `read(config, rows, ...)`, the vocabulary, the prompt forms and the tokenizer.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from slm_interp.errors import ConversionError


def names() -> tuple[str, ...]:
    """The families there are."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def family_of(config: Mapping[str, Any]) -> ModuleType:
    """The family whose checkpoint this is.

    Raises:
        ConversionError: none recognises it.
    """
    for name in names():
        module = importlib.import_module(f"{__name__}.{name}")
        if module.recognises(config):
            return module
    raise ConversionError(
        f"No family recognises this checkpoint (model_type {config.get('model_type')!r}, architectures {config.get('architectures')!r}); "
        f"there are {', '.join(names())}."
    )
