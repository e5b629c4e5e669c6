"""One file a family, found by its file name: vocabulary and prompt forms, apart from the architecture.

Most are declarations (`NAME.toml`, see `slm_interp.convert.declaration`). Where a checkpoint wraps its base model, or adds to its tokenizer,
a file of Python has the same things: `NAME`, `LICENCE`, `UNITS`, `FORMS`, `recognises`, `unwrap`, `read` (see `slm_interp.convert.family`).
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from slm_interp.convert.declaration import Declaration, checked, read_declaration
from slm_interp.convert.declared import declared_family
from slm_interp.convert.family import Family, TokenIds
from slm_interp.errors import ConversionError

FOLDER = Path(__file__).parent
Named = str | os.PathLike[str] | Declaration  # a family by its name, by the file that declares it, or declared


@lru_cache
def families() -> dict[str, Family]:
    """The families there are, by name."""
    found = {}
    for module in (importlib.import_module(f"{__name__}.{one.name}") for one in pkgutil.iter_modules(__path__)):
        found[module.NAME] = Family(module.NAME, module.LICENCE, module.UNITS, module.FORMS, module.recognises, module.unwrap, module.read)
    for file in FOLDER.glob("*.toml"):
        declared = declared_family(read_declaration(file))
        found[declared.name] = declared
    return dict(sorted(found.items()))


def family_named(family: Named) -> Family:
    """A family by its name, the file that declares it, or its declaration.

    Raises:
        ConversionError: no such family, or a damaged file.
    """
    if isinstance(family, Declaration):
        return declared_family(checked(family))
    if str(family) in families():
        return families()[str(family)]
    if str(family).endswith((".toml", ".yaml", ".yml")):
        return declared_family(read_declaration(family))
    raise ConversionError(
        f"No family {str(family)!r}; there are {', '.join(families())}. A family of your own is declared in a .toml or .yaml file; "
        "see docs/adding-a-family.md."
    )


def family_of(config: Mapping[str, Any], tokens: Callable[[], TokenIds]) -> Family:
    """The family whose checkpoint this is.

    Args:
        config: the checkpoint's.
        tokens: gives the ids of its tokenizer's tokens; asked only when the config does not settle it.

    Raises:
        ConversionError: none recognises it, or more than one does.
    """
    found = [family for family in families().values() if family.recognises(config, tokens)]
    if len(found) == 1:
        return found[0]
    what = f"(model_type {config.get('model_type')!r}, architectures {config.get('architectures')!r})"
    if found:
        raise ConversionError(
            f"Several families recognise this checkpoint {what}: {', '.join(one.name for one in found)}. Choose one with family=."
        )
    raise ConversionError(
        f"No family recognises this checkpoint {what}; there are {', '.join(families())}. Most are told by tokens of their tokenizer: if the folder has none, "
        "pass text_tokenizer=. A model of another family loads with family= and a declaration of its vocabulary; see docs/adding-a-family.md."
    )
