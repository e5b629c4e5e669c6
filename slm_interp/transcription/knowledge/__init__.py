"""What a model knows: forced choices, minimal pairs, their files, and whether decodability goes with it."""

from slm_interp.transcription.knowledge.choices import Choice, accuracy, forced_choice, paired
from slm_interp.transcription.knowledge.fact_tables import read_choices, read_whole_pairs
from slm_interp.transcription.knowledge.minimal_pairs import Pair, minimal_pairs
from slm_interp.transcription.knowledge.pair_files import read_pairs
from slm_interp.transcription.knowledge.scores import by_item, by_model, correlate
from slm_interp.transcription.knowledge.story_files import read_stories

__all__ = [
    "Choice",
    "Pair",
    "accuracy",
    "by_item",
    "by_model",
    "correlate",
    "forced_choice",
    "minimal_pairs",
    "paired",
    "read_choices",
    "read_pairs",
    "read_stories",
    "read_whole_pairs",
]
