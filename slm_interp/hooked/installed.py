"""The TransformerLens that is installed: one module for each major version, with the same names in it."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

VERSION = version("transformer-lens")
MAJOR = int(VERSION.split(".")[0])

if TYPE_CHECKING or MAJOR == 3:
    from transformer_lens import HookedTransformer

    from slm_interp.hooked.transformer import (
        PARTIAL,
        empty,
        fill,
        notes,
        parameter_owners,
        parameters,
        resume,
        resume_all,
        run_and_cache,
        run_blocks,
        run_on,
    )
elif MAJOR == 4:
    from transformer_lens import TransformerBridge as HookedTransformer

    from slm_interp.hooked.bridge import (
        PARTIAL,
        empty,
        fill,
        notes,
        parameter_owners,
        parameters,
        resume,
        resume_all,
        run_and_cache,
        run_blocks,
        run_on,
    )
else:
    raise ImportError(
        f"TransformerLens {VERSION} is installed; this package runs on 3.9 and on 4.x: pip install 'transformer-lens>=3.9,<4'."
    )

__all__ = [
    "MAJOR",
    "PARTIAL",
    "VERSION",
    "HookedTransformer",
    "empty",
    "fill",
    "notes",
    "parameter_owners",
    "parameters",
    "resume",
    "resume_all",
    "run_and_cache",
    "run_blocks",
    "run_on",
]
