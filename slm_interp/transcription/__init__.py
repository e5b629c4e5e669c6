"""Implicit transcription: is the word that is heard decodable as text, where, and beyond what nulls give?"""

from slm_interp.transcription.asking.questions import Question
from slm_interp.transcription.asking.windows import Window, before, end_and_after, from_end, jittered, offset, span_and_after
from slm_interp.transcription.ceilings.patchscope import TargetPrompt, patchscope
from slm_interp.transcription.ceilings.written import written
from slm_interp.transcription.heard import heard
from slm_interp.transcription.knowledge.choices import Choice, accuracy, forced_choice, paired
from slm_interp.transcription.knowledge.fact_tables import read_choices, read_whole_pairs
from slm_interp.transcription.knowledge.minimal_pairs import Pair, minimal_pairs
from slm_interp.transcription.knowledge.pair_files import read_pairs
from slm_interp.transcription.knowledge.scores import by_item, by_model, correlate
from slm_interp.transcription.knowledge.story_files import read_stories
from slm_interp.transcription.modality import modality_mass
from slm_interp.transcription.observations import Observations
from slm_interp.transcription.observe import observe
from slm_interp.transcription.onset import by_position, rise
from slm_interp.transcription.predictability import surprisal, with_predictability
from slm_interp.transcription.recall import recall
from slm_interp.transcription.streams.alignment import stream_alignment

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
