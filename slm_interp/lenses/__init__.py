"""What the residual stream says, read out as the vocabulary: lenses and their readings."""

from slm_interp.lenses.lens import Lens, read
from slm_interp.lenses.logit import LogitLens
from slm_interp.lenses.reading import Reading

__all__ = ["Lens", "LogitLens", "Reading", "read"]
