"""Implicit transcription: is the word that is heard decodable as text, where, and beyond what nulls give?"""

from slm_interp.transcription.fact_tables import read_choices, read_whole_pairs
from slm_interp.transcription.heard import heard
from slm_interp.transcription.knowledge import Choice, accuracy, forced_choice, paired
from slm_interp.transcription.minimal_pairs import Pair, minimal_pairs
from slm_interp.transcription.modality import modality_mass
from slm_interp.transcription.observations import Observations
from slm_interp.transcription.observe import observe
from slm_interp.transcription.onset import by_position, rise
from slm_interp.transcription.pair_files import read_pairs
from slm_interp.transcription.patchscope import TargetPrompt, patchscope
from slm_interp.transcription.predictability import surprisal, with_predictability
from slm_interp.transcription.questions import Question
from slm_interp.transcription.recall import recall
from slm_interp.transcription.score_knowledge import by_item, by_model, correlate
from slm_interp.transcription.story_files import read_stories
from slm_interp.transcription.stream_alignment import stream_alignment
from slm_interp.transcription.windows import Window, before, end_and_after, from_end, jittered, offset, span_and_after
from slm_interp.transcription.written import written

__all__ = [
    "Choice",
    "Observations",
    "Pair",
    "Question",
    "TargetPrompt",
    "Window",
    "accuracy",
    "before",
    "by_item",
    "by_model",
    "by_position",
    "correlate",
    "end_and_after",
    "forced_choice",
    "from_end",
    "heard",
    "jittered",
    "minimal_pairs",
    "modality_mass",
    "observe",
    "offset",
    "paired",
    "patchscope",
    "read_choices",
    "read_pairs",
    "read_stories",
    "read_whole_pairs",
    "recall",
    "rise",
    "span_and_after",
    "stream_alignment",
    "surprisal",
    "with_predictability",
    "written",
]
