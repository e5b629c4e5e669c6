"""The two recorded clips: sound, transcript, units."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

from slm_interp.audio import Audio
from slm_interp.speech.audio import read_audio
from slm_interp.speech.slamkit_files import read_features
from slm_interp.speech.units import Units

FOLDER = Path(__file__).parents[1] / "data" / "real_units"
CLIPS = ("audio1", "audio2")


@lru_cache
def sound(clip: str) -> Audio:
    return read_audio(FOLDER / f"{clip}.flac")


@lru_cache
def transcript(clip: str) -> str:
    return str(json.loads((FOLDER / "transcripts.json").read_text())[clip])


@lru_cache
def units(clip: str) -> Units:
    return read_features(FOLDER / "features.jsonl")[f"../example_data/audio/{clip}.flac"]
