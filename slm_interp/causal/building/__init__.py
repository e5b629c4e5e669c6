"""Cases from planted models, organisms, word lists, fact tables and aligned corpora, each with the controls that its source can give."""

from slm_interp.causal.building.cases_built import Built
from slm_interp.causal.building.corpus import corpus_pairs
from slm_interp.causal.building.fact_tables import fact_pairs
from slm_interp.causal.building.organisms import heard_word, spoken_word
from slm_interp.causal.building.planted import planted_cases
from slm_interp.causal.building.recordings import recorded_in
from slm_interp.causal.building.speakers import Sentence, espeak, recorded
from slm_interp.causal.building.word_list import word_list

__all__ = [
    "Built",
    "Sentence",
    "corpus_pairs",
    "espeak",
    "fact_pairs",
    "heard_word",
    "planted_cases",
    "recorded",
    "recorded_in",
    "spoken_word",
    "word_list",
]
