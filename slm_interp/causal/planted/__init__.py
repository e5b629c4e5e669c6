"""Planted models: speech-text transformers whose causal answer is exact by construction; see `docs/planted-models.md`."""

from slm_interp.causal.planted.kinds import KINDS, SERIAL, Chain, Mixture
from slm_interp.causal.planted.planting import Planted, plant, save

__all__ = ["KINDS", "SERIAL", "Chain", "Mixture", "Planted", "plant", "save"]
