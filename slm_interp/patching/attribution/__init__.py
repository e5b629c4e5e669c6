"""Attribution patching: estimates of every cell of an exact sweep from a few forward and backward passes."""

from slm_interp.patching.attribution.agreeing import agreement, worst_misses
from slm_interp.patching.attribution.first_order import atp, atp_sites
from slm_interp.patching.attribution.paths import integrated_gradients
from slm_interp.patching.attribution.result import Attribution
from slm_interp.patching.attribution.star import atp_qk, atp_star

__all__ = ["Attribution", "agreement", "atp", "atp_qk", "atp_sites", "atp_star", "integrated_gradients", "worst_misses"]
