"""What the model is going to say, read by an affine map per layer: the lens, its aim, its training, and files of `tuned-lens`."""

from slm_interp.lenses.tuned.aim import Aim
from slm_interp.lenses.tuned.interchange import export_tuned, import_tuned
from slm_interp.lenses.tuned.lens import TunedLens
from slm_interp.lenses.tuned.training import TunedRecipe, train_tuned

__all__ = ["Aim", "TunedLens", "TunedRecipe", "export_tuned", "import_tuned", "train_tuned"]
