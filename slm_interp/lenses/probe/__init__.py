"""Which word, read linearly in any basis: states of words, the probe, its training and its control task."""

from slm_interp.lenses.probe.probe import WordProbe
from slm_interp.lenses.probe.states import States, collect, split
from slm_interp.lenses.probe.training import selectivity, train_probe

__all__ = ["States", "WordProbe", "collect", "selectivity", "split", "train_probe"]
