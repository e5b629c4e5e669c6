"""Mechanistic interpretability of interleaved speech-text language models, on TransformerLens.

import slm_interp as si

slm = si.load("tiny")
utterance = si.speech.utterance(slm, audio="clip.wav", transcript="the words spoken")
reading = si.LogitLens(slm).read(utterance)
reading.plot()
"""

from slm_interp import causal, circuits, lenses, organisms, patching, speech, transcription
from slm_interp.audio import Audio
from slm_interp.convert import inspect, load, verify
from slm_interp.lenses import JacobianLens, LogitLens, Reading, TunedLens, WordProbe
from slm_interp.model import SpeechTextModel
from slm_interp.utterance import Contrast, Span, Utterance, Word
from slm_interp.vocabulary import IdRange, JointVocabulary

__version__ = "0.1.0"

__all__ = [
    "Audio",
    "Contrast",
    "IdRange",
    "JacobianLens",
    "JointVocabulary",
    "LogitLens",
    "Reading",
    "Span",
    "SpeechTextModel",
    "TunedLens",
    "Utterance",
    "Word",
    "WordProbe",
    "causal",
    "circuits",
    "inspect",
    "lenses",
    "load",
    "organisms",
    "patching",
    "speech",
    "transcription",
    "verify",
]
