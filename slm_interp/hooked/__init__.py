"""The seam to TransformerLens: the only folder that imports `transformer_lens`.

Everything above works with what this folder offers and does not know which class it got: `transformer.py`
is TransformerLens 3.9 (`HookedTransformer`, the default), `bridge.py` is 4.x (`TransformerBridge`), and
`installed.py` chooses by the version that is installed. What both do alike is in `reading.py`.
"""

from slm_interp.hooked.gradients import differentiable_residuals, frozen
from slm_interp.hooked.installed import HookedTransformer, empty, fill, notes, parameter_owners, parameters
from slm_interp.hooked.reading import attach_tokenizer, final_norm, logits, residuals, unembedding

__all__ = [
    "HookedTransformer",
    "attach_tokenizer",
    "differentiable_residuals",
    "empty",
    "fill",
    "final_norm",
    "frozen",
    "logits",
    "notes",
    "parameter_owners",
    "parameters",
    "residuals",
    "unembedding",
]
