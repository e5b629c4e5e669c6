"""A subspace that is learned: which directions of a layer carry the word to what is said next, and do they lie in text?"""

from slm_interp.causal.rotation.comparison import angles, compared
from slm_interp.causal.rotation.examples import split_by_pairs, split_by_words
from slm_interp.causal.rotation.rotation import Rotation
from slm_interp.causal.rotation.training import Recipe, train

__all__ = ["Recipe", "Rotation", "angles", "compared", "split_by_pairs", "split_by_words", "train"]
