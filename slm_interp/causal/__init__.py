"""Does the text inside drive the speech that follows? Causal tests, and the planted models whose answer is known."""

from slm_interp.causal import planted
from slm_interp.causal.cases import Case, Heard, Words
from slm_interp.causal.verdict import Measured, Rule, Verdict, combined, decide

__all__ = ["Case", "Heard", "Measured", "Rule", "Verdict", "Words", "combined", "decide", "planted"]
