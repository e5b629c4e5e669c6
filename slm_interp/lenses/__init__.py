"""What the residual stream says, read out as the vocabulary: lenses and their readings; or by a probe, in any basis."""

from slm_interp.lenses import attribution
from slm_interp.lenses.comparison import Comparison, compare
from slm_interp.lenses.directions import directions_of
from slm_interp.lenses.lens import DirectedLens, Lens, read
from slm_interp.lenses.logit import LogitLens
from slm_interp.lenses.probe import WordProbe
from slm_interp.lenses.probe_training import selectivity, train_probe
from slm_interp.lenses.reading import Reading
from slm_interp.lenses.states import States, collect, split

__all__ = [
    "Comparison",
    "DirectedLens",
    "Lens",
    "LogitLens",
    "Reading",
    "States",
    "WordProbe",
    "attribution",
    "collect",
    "compare",
    "directions_of",
    "read",
    "selectivity",
    "split",
    "train_probe",
]
