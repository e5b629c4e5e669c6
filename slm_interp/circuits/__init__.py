"""Circuits: which edges between heads and MLPs carry an outcome, from which span to which, and how much of it they carry alone."""

from slm_interp.circuits import heads
from slm_interp.circuits.edges import eap, zero_ablation
from slm_interp.circuits.faithfulness import Faithfulness, completeness, faithfulness, minimality, recovered, told_apart
from slm_interp.circuits.graph import Graph, everything
from slm_interp.circuits.integrated import eap_ig, eap_ig_activations
from slm_interp.circuits.path_patching import by_span, path_patching, through
from slm_interp.circuits.running import means, outcomes_of
from slm_interp.circuits.selection import greedy, pruned, top_n
from slm_interp.circuits.task import Task

__all__ = [
    "Faithfulness",
    "Graph",
    "Task",
    "by_span",
    "completeness",
    "eap",
    "eap_ig",
    "eap_ig_activations",
    "everything",
    "faithfulness",
    "greedy",
    "heads",
    "means",
    "minimality",
    "outcomes_of",
    "path_patching",
    "pruned",
    "recovered",
    "through",
    "told_apart",
    "top_n",
    "zero_ablation",
]
