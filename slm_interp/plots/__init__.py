"""Labelled arrays -> plotly figures. No model in sight."""

from slm_interp.plots.attention import attention_by_word, attention_heads, attention_view
from slm_interp.plots.circuit import CircuitPicture
from slm_interp.plots.jacobian import convergence_by_prompts
from slm_interp.plots.lens_comparison import lens_differences
from slm_interp.plots.lens_grid import lens_grid, lens_grid_over_time, word_runs
from slm_interp.plots.modality import modality_by_layer, uniform_mass
from slm_interp.plots.paper import mass_by_input, recall_of_target
from slm_interp.plots.patching import heat_map
from slm_interp.plots.recall import recall_by_layer, recall_by_position
from slm_interp.plots.static import write_png, write_svg
from slm_interp.plots.waveform import envelope, waveform

__all__ = [
    "CircuitPicture",
    "attention_by_word",
    "attention_heads",
    "attention_view",
    "convergence_by_prompts",
    "envelope",
    "heat_map",
    "lens_differences",
    "lens_grid",
    "lens_grid_over_time",
    "mass_by_input",
    "modality_by_layer",
    "recall_by_layer",
    "recall_by_position",
    "recall_of_target",
    "uniform_mass",
    "waveform",
    "word_runs",
    "write_png",
    "write_svg",
]
