"""Does the text inside drive the speech that follows? Causal tests, and the planted models whose answer is known."""

from slm_interp.causal import planted
from slm_interp.causal.cases import Case, Heard, Words

__all__ = ["Case", "Heard", "Words", "planted"]
