"""How the last residuals move with those of a layer, as a lens: the lens, its estimator, its convergence, and files of TransformerLens."""

from slm_interp.lenses.jacobian.convergence import convergence, readout_convergence
from slm_interp.lenses.jacobian.fit import JacobianFit, JacobianRecipe, fit_jacobian
from slm_interp.lenses.jacobian.interchange import export_transformer_lens, import_transformer_lens
from slm_interp.lenses.jacobian.lens import JacobianLens

__all__ = [
    "JacobianFit",
    "JacobianLens",
    "JacobianRecipe",
    "convergence",
    "export_transformer_lens",
    "fit_jacobian",
    "import_transformer_lens",
    "readout_convergence",
]
