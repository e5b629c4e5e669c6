"""What the residual stream says, read out as the vocabulary: lenses and their readings; or by a probe, in any basis."""

from slm_interp.lenses import attribution
from slm_interp.lenses.comparison import Comparison, compare
from slm_interp.lenses.directions import directions_of
from slm_interp.lenses.jacobian.convergence import convergence, readout_convergence
from slm_interp.lenses.jacobian.fit import JacobianFit, JacobianRecipe, fit_jacobian
from slm_interp.lenses.jacobian.interchange import export_transformer_lens, import_transformer_lens
from slm_interp.lenses.jacobian.lens import JacobianLens
from slm_interp.lenses.lens import DirectedLens, Lens, VocabularyLens, read
from slm_interp.lenses.logit import LogitLens
from slm_interp.lenses.probe.probe import WordProbe
from slm_interp.lenses.probe.states import States, collect, split
from slm_interp.lenses.probe.training import selectivity, train_probe
from slm_interp.lenses.reading import Reading
from slm_interp.lenses.tuned.aim import Aim
from slm_interp.lenses.tuned.interchange import export_tuned, import_tuned
from slm_interp.lenses.tuned.lens import TunedLens
from slm_interp.lenses.tuned.training import TunedRecipe, train_tuned

__all__ = [
    "Aim",
    "Comparison",
    "DirectedLens",
    "JacobianFit",
    "JacobianLens",
    "JacobianRecipe",
    "Lens",
    "LogitLens",
    "Reading",
    "States",
    "TunedLens",
    "TunedRecipe",
    "VocabularyLens",
    "WordProbe",
    "attribution",
    "collect",
    "compare",
    "convergence",
    "directions_of",
    "export_transformer_lens",
    "export_tuned",
    "fit_jacobian",
    "import_transformer_lens",
    "import_tuned",
    "read",
    "readout_convergence",
    "selectivity",
    "split",
    "train_probe",
    "train_tuned",
]
