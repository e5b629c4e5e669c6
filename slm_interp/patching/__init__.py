"""Patching over speech spans: which stretches meet, how spans of unequal length are paired, what is measured."""

from slm_interp.patching import attribution, outcomes, policies, spans
from slm_interp.patching.activation import activation
from slm_interp.patching.attribution import Attribution
from slm_interp.patching.measuring import baselines, measure
from slm_interp.patching.outcomes import Outcome, Read
from slm_interp.patching.policies import Pairing, Policy, Stretch, norm_matched, word_by_word
from slm_interp.patching.result import Sweep
from slm_interp.patching.spans import SpanPair

__all__ = [
    "Attribution",
    "Outcome",
    "Pairing",
    "Policy",
    "Read",
    "SpanPair",
    "Stretch",
    "Sweep",
    "activation",
    "attribution",
    "baselines",
    "measure",
    "norm_matched",
    "outcomes",
    "policies",
    "spans",
    "word_by_word",
]
