"""What this package raises: one class per thing a user can get wrong.

Every message says what was wanted, what came and what to do next. All of them are `ValueError`s, so
code that catches `ValueError` keeps working.
"""

from __future__ import annotations


class SlmInterpError(ValueError):
    """Base of every error this package raises on purpose."""


class VocabularyError(SlmInterpError):
    """Ids, units, markers or tokenizers that do not fit the joint vocabulary."""


class UtteranceError(SlmInterpError):
    """Tokens, edges, words or spans that contradict each other or the model."""


class ConversionError(SlmInterpError):
    """A checkpoint that cannot be converted without guessing."""


class CheckpointError(ConversionError):
    """A checkpoint folder that is damaged, incomplete or unsafe to read."""


class ParityError(SlmInterpError):
    """A converted model that does not compute what its source computes."""


class SpeechError(SlmInterpError):
    """Audio, transcripts, alignments or units that cannot be used as they are."""


class ReadoutError(SlmInterpError):
    """A lens asked for layers, targets or values that it cannot read."""


class PatchingError(SlmInterpError):
    """Contrasts, spans, policies or outcomes that do not say what is to be patched and measured."""


class StatisticsError(SlmInterpError):
    """Numbers that are too few, broken or wrongly labelled for the statistic asked for."""


class StoreError(SlmInterpError):
    """A folder of results that was made with other settings, or is damaged."""


def missing_extra(package: str, extra: str) -> ImportError:
    """The one sentence for a missing optional dependency."""
    return ImportError(f"{package} is needed here and is not installed. Install it with: pip install 'slm-interp[{extra}]'")
