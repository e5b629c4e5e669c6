"""A word and when it sounds: what synthesis, alignment and importers hand on."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from slm_interp.errors import SpeechError


@dataclass(frozen=True)
class TimedWord:
    """A word and its seconds.

    Args:
        text: the bare word, without surrounding blanks.
        start_s: where it starts, in seconds from the beginning of the sound.
        end_s: where it ends; never before it starts.

    Raises:
        SpeechError: blank text, or times that are negative, infinite or run backwards.
    """

    text: str
    start_s: float
    end_s: float

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise SpeechError("A timed word has letters; got blank text.")
        if not (isfinite(self.start_s) and isfinite(self.end_s) and 0 <= self.start_s <= self.end_s):
            raise SpeechError(
                f"Word {self.text!r} must start at or after 0 s and not end before it starts; got {self.start_s} to {self.end_s}."
            )

    @property
    def seconds(self) -> float:
        """How long it sounds."""
        return self.end_s - self.start_s
