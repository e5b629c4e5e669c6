"""Whole analyses, from a checkpoint and a corpus to tables, figures and one page."""

from slm_interp.report.circuit import circuit_files
from slm_interp.report.measuring import Asking, Measured, asking_of, measure
from slm_interp.report.transcription import Ran, Reading, run, write, write_pictures

__all__ = ["Asking", "Measured", "Ran", "Reading", "asking_of", "circuit_files", "measure", "run", "write", "write_pictures"]
