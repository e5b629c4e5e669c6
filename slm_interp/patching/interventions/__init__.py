"""What is done to a run, as plain TransformerLens hooks: import the module you need; interventions on residuals and their subspaces are here too."""

from slm_interp.patching.interventions.directions import Subspace
from slm_interp.patching.interventions.intervention import Chain, Dosed, Freeze, Interchange, Intervention, Steer
from slm_interp.patching.interventions.leace import Leace
from slm_interp.patching.interventions.subspace import ComplementOnly, CopyCoordinates, Erase, SwapCoordinates, SwapReadings

__all__ = [
    "Chain",
    "ComplementOnly",
    "CopyCoordinates",
    "Dosed",
    "Erase",
    "Freeze",
    "Interchange",
    "Intervention",
    "Leace",
    "Steer",
    "Subspace",
    "SwapCoordinates",
    "SwapReadings",
]
