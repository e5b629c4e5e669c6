"""What a model can say of a word at best: asked to write it, or shown its residual in a prompt of text."""

from slm_interp.transcription.ceilings.patchscope import TargetPrompt, patchscope
from slm_interp.transcription.ceilings.written import written

__all__ = ["TargetPrompt", "patchscope", "written"]
