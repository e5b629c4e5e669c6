"""The seam to TransformerLens: the only folder that imports `transformer_lens`.

Everything above works with what this folder offers and does not know which class it got: `transformer.py`
is TransformerLens 3.9 (`HookedTransformer`, the default), `bridge.py` is 4.x (`TransformerBridge`), and
`installed.py` chooses by the version that is installed. What both do alike is in `reading.py`, `sites.py` and `norm.py`
and, for many sequences at once, in `batch.py`.
"""

from slm_interp.hooked.batch import MEMORY, batch_bytes, batches, each_residuals, residuals_of
from slm_interp.hooked.gradients import (
    differentiable_residuals,
    frozen,
    gradient_from,
    gradients_at,
    gradients_by_block,
    gradients_without_each_block,
    graph_bytes,
    pattern_changes,
    values_at,
)
from slm_interp.hooked.installed import HookedTransformer, empty, fill, notes, parameter_owners, parameters, resume, resume_all, run_on
from slm_interp.hooked.keeping import keep, written_at
from slm_interp.hooked.kept import Kept, Writes, joined
from slm_interp.hooked.norm import NormFormula, norm_formula, widened
from slm_interp.hooked.patched import Patches, last_residuals
from slm_interp.hooked.reading import attach_tokenizer, embedding, final_norm, logits, normed, residuals, unembedding
from slm_interp.hooked.resuming import run_from_layer
from slm_interp.hooked.sites import HEADS, SITES, captured, heads_at, hook_at, label_at, layers_at, stream, whole

__all__ = [
    "HEADS",
    "MEMORY",
    "SITES",
    "HookedTransformer",
    "Kept",
    "NormFormula",
    "Patches",
    "Writes",
    "attach_tokenizer",
    "batch_bytes",
    "batches",
    "captured",
    "differentiable_residuals",
    "each_residuals",
    "embedding",
    "empty",
    "fill",
    "final_norm",
    "frozen",
    "gradient_from",
    "gradients_at",
    "gradients_by_block",
    "gradients_without_each_block",
    "graph_bytes",
    "heads_at",
    "hook_at",
    "joined",
    "keep",
    "label_at",
    "last_residuals",
    "layers_at",
    "logits",
    "norm_formula",
    "normed",
    "notes",
    "parameter_owners",
    "parameters",
    "pattern_changes",
    "residuals",
    "residuals_of",
    "resume",
    "resume_all",
    "run_from_layer",
    "run_on",
    "stream",
    "unembedding",
    "values_at",
    "whole",
    "widened",
    "written_at",
]
