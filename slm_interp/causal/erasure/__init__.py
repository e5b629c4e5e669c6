"""C4: text erased from continuous speech; what it costs the units that follow, beside controls, and whether it is gone."""

from slm_interp.causal.erasure.experiment import Erasure, erasure

__all__ = ["Erasure", "erasure"]
