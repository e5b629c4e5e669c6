"""Whether the residual streams of a heard and a read sentence are alike, and by which measures."""

from slm_interp.transcription.streams.alignment import stream_alignment

__all__ = ["stream_alignment"]
