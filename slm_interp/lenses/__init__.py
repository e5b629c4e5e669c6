"""What the residual stream says, read out as the vocabulary: lenses and their readings; or by a probe, in any basis."""

from slm_interp.lenses.lens import Lens, read
from slm_interp.lenses.logit import LogitLens
from slm_interp.lenses.probe import WordProbe
from slm_interp.lenses.probe_training import selectivity, train_probe
from slm_interp.lenses.reading import Reading
from slm_interp.lenses.states import States, collect, split
from slm_interp.lenses.tuned import TunedLens
from slm_interp.lenses.tuned_aim import Aim
from slm_interp.lenses.tuned_import import export_tuned, import_tuned
from slm_interp.lenses.tuned_training import TunedRecipe, train_tuned

__all__ = [
    "Aim",
    "Lens",
    "LogitLens",
    "Reading",
    "States",
    "TunedLens",
    "TunedRecipe",
    "WordProbe",
    "collect",
    "export_tuned",
    "import_tuned",
    "read",
    "selectivity",
    "split",
    "train_probe",
    "train_tuned",
]
