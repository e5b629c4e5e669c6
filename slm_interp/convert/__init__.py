"""Checkpoints become models: `load`, `inspect`, `verify`."""

from slm_interp.convert.inspection import inspect
from slm_interp.convert.loading import load
from slm_interp.convert.verification import verify

__all__ = ["inspect", "load", "verify"]
