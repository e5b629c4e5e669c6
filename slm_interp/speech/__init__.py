"""Speech in: sound to units, words to seconds, seconds to positions."""

from slm_interp.speech.acoustic import AcousticQuantiser, AcousticRecipe
from slm_interp.speech.alignment import AlignedWord, Limits, align, align_with_scores
from slm_interp.speech.audio import downmix, read_audio, require_rate, resample
from slm_interp.speech.corpora import corpus
from slm_interp.speech.corpus import Corpus
from slm_interp.speech.espeak import VoiceInfo, variants, voices
from slm_interp.speech.hubert import HubertQuantiser, HubertRecipe, read_centroids
from slm_interp.speech.importers import read_ctm, read_slamkit_alignment, read_textgrid, read_whisper_json, read_words
from slm_interp.speech.quantiser import Quantiser, load_quantiser
from slm_interp.speech.recogniser import UnitRecogniser, train_recogniser, unit_strings
from slm_interp.speech.slamkit_files import SpeechSegment, TextSegment, UnitString, parse_unit_string, read_features, read_tokens
from slm_interp.speech.spans import HeardWords, heard_words, unit_slice, words_to_spans
from slm_interp.speech.synthesis import Synthesis, phones, pronounce, synthesise
from slm_interp.speech.units import Units, merged
from slm_interp.speech.utterance import utterance
from slm_interp.speech.vocoder import UnitVocoder
from slm_interp.speech.words import TimedWord

__all__ = [
    "AcousticQuantiser",
    "AcousticRecipe",
    "AlignedWord",
    "Corpus",
    "HeardWords",
    "HubertQuantiser",
    "HubertRecipe",
    "Limits",
    "Quantiser",
    "SpeechSegment",
    "Synthesis",
    "TextSegment",
    "TimedWord",
    "UnitRecogniser",
    "UnitString",
    "UnitVocoder",
    "Units",
    "VoiceInfo",
    "align",
    "align_with_scores",
    "corpus",
    "downmix",
    "heard_words",
    "load_quantiser",
    "merged",
    "parse_unit_string",
    "phones",
    "pronounce",
    "read_audio",
    "read_centroids",
    "read_ctm",
    "read_features",
    "read_slamkit_alignment",
    "read_textgrid",
    "read_tokens",
    "read_whisper_json",
    "read_words",
    "require_rate",
    "resample",
    "synthesise",
    "train_recogniser",
    "unit_slice",
    "unit_strings",
    "utterance",
    "variants",
    "voices",
    "words_to_spans",
]
