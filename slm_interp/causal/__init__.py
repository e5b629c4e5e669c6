"""Does the text inside drive the speech that follows? Causal tests, and the planted models whose answer is known."""

from slm_interp.causal import building, planted
from slm_interp.causal.across import Across, across
from slm_interp.causal.arms import ARMS
from slm_interp.causal.cases import Case, Heard, Words
from slm_interp.causal.effect import Effect
from slm_interp.causal.experiment import Plan, plan, run
from slm_interp.causal.speaking import continuations
from slm_interp.causal.spoken import Continuations
from slm_interp.causal.verdict import Measured, Rule, Verdict, combined, decide

__all__ = [
    "ARMS",
    "Across",
    "Case",
    "Continuations",
    "Effect",
    "Heard",
    "Measured",
    "Plan",
    "Rule",
    "Verdict",
    "Words",
    "across",
    "building",
    "combined",
    "continuations",
    "decide",
    "plan",
    "planted",
    "run",
]
