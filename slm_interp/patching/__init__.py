"""Patching over speech spans: which stretches meet, how spans of unequal length are paired, what is measured."""

from slm_interp.patching import attribution, outcomes, policies, spans, transformer_lens_names
from slm_interp.patching.ablation import Resampled, ablation
from slm_interp.patching.activation import activation
from slm_interp.patching.attribution import Attribution
from slm_interp.patching.means import Means, means
from slm_interp.patching.measuring import baselines, measure
from slm_interp.patching.outcomes import Outcome, Read
from slm_interp.patching.policies import Pairing, Policy, Stretch, norm_matched, word_by_word
from slm_interp.patching.result import Sweep
from slm_interp.patching.spans import SpanPair

__all__ = [
    "Attribution",
    "Means",
    "Outcome",
    "Pairing",
    "Policy",
    "Read",
    "Resampled",
    "SpanPair",
    "Stretch",
    "Sweep",
    "ablation",
    "activation",
    "attribution",
    "baselines",
    "means",
    "measure",
    "norm_matched",
    "outcomes",
    "policies",
    "spans",
    "transformer_lens_names",
    "word_by_word",
]
