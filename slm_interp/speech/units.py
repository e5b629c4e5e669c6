"""Units: what a quantiser makes of a sound, one number a frame, repeats merged and their lengths kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from slm_interp.errors import SpeechError


@dataclass(frozen=True, eq=False)
class Units:
    """A row of units with the frames each lasts.

    Args:
        units: numbers of the quantiser's codebook, from 0.
        durations: frames a unit lasts, at least 1; all 1 where repeats are not merged.
        frame_s: seconds a frame lasts.
        quantiser: hash of the codebook; None when it is not known.

    Raises:
        SpeechError: none at all, lengths that differ, negative units, durations below 1, a frame of no time.
    """

    units: Int[np.ndarray, " unit"]
    durations: Int[np.ndarray, " duration"]
    frame_s: float
    quantiser: str | None = None

    def __post_init__(self) -> None:
        if self.units.ndim != 1 or self.units.shape != self.durations.shape:
            raise SpeechError(f"Each unit has one duration; got shapes {self.units.shape} and {self.durations.shape}.")
        if not len(self.units):
            raise SpeechError("There are no units. The sound is empty, or the file holds none.")
        if self.units.min() < 0:
            raise SpeechError(f"Units are numbered from 0; got {self.units.min()}.")
        if self.durations.min() < 1:
            raise SpeechError(f"A unit lasts at least one frame; got a duration of {self.durations.min()}.")
        if not 0 < self.frame_s < float("inf"):
            raise SpeechError(f"A frame lasts a positive number of seconds; got {self.frame_s}.")

    def __len__(self) -> int:
        return len(self.units)

    @property
    def frames(self) -> int:
        """Frames in all."""
        return int(self.durations.sum())

    @property
    def seconds(self) -> float:
        """Seconds in all."""
        return self.frames * self.frame_s

    def edges(self) -> Float[np.ndarray, " unit_and_one"]:
        """Seconds; unit `i` sounds from `edges[i]` to `edges[i + 1]`. Starts at 0."""
        return np.concatenate([[0], np.cumsum(self.durations)]) * self.frame_s

    def merged(self) -> Units:
        """The same sound with neighbouring equal units as one, as slamkit stores it."""
        first = np.flatnonzero(np.concatenate([[True], self.units[1:] != self.units[:-1]]))
        return Units(self.units[first], np.add.reduceat(self.durations, first), self.frame_s, self.quantiser)

    def __repr__(self) -> str:
        return f"Units({len(self)} units, {self.seconds:.2f} s, frame {self.frame_s} s, quantiser {self.quantiser or 'undeclared'})"


def merged(frames: Int[np.ndarray, " frame"], frame_s: float, quantiser: str | None = None) -> Units:
    """Units from one number a frame: equal neighbours become one unit that lasts longer."""
    return Units(frames, np.ones_like(frames), frame_s, quantiser).merged()
