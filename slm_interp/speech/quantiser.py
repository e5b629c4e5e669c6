"""What every quantiser can do, and the folder one is read from."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Protocol, runtime_checkable

from slm_interp.audio import Audio
from slm_interp.errors import SpeechError
from slm_interp.speech.acoustic import AcousticQuantiser
from slm_interp.speech.hubert import HubertQuantiser, HubertRecipe
from slm_interp.speech.units import Units

CENTROIDS = ("centroids.npy", "centroids.safetensors")
NO_QUANTISER = (
    "this checkpoint carries no quantiser. Pass quantiser=load_quantiser(folder), on the command line --quantiser FOLDER; "
    "or give units, which files and tables may hold in place of sound."
)


@runtime_checkable
class Recipe(Protocol):
    """The choices of a quantiser, as far as a caller needs them."""

    @property
    def sample_rate(self) -> int:
        """Hertz that sounds must have."""
        ...


@runtime_checkable
class Quantiser(Protocol):
    """Sound to units."""

    @property
    def recipe(self) -> Recipe:
        """Its choices."""
        ...

    def encode(self, audio: Audio) -> Units:
        """Units of a sound at the recipe's rate, repeats merged, with the quantiser's hash."""
        ...


def load_quantiser(folder: str | os.PathLike[str]) -> AcousticQuantiser | HubertQuantiser:
    """The quantiser in a local folder.

    An acoustic one is what `AcousticQuantiser.save` wrote. A HuBERT one is the folder of the model (`config.json`, weights) with its
    `centroids.npy` or `centroids.safetensors` beside it, and, where it is not slamkit's recipe, a `quantiser.json`
    with `"kind": "hubert"` and the fields of `HubertRecipe` that differ.

    Raises:
        SpeechError: neither of the two, or a damaged file.
    """
    described = Path(folder) / "quantiser.json"
    choices = _object(described) if described.is_file() else {"kind": "hubert"}
    if choices.get("kind") == "acoustic":
        return AcousticQuantiser.load(folder)
    if choices.pop("kind", None) != "hubert":
        raise SpeechError(f'{described} must have "kind": "acoustic" or "hubert".')
    centroids = [Path(folder) / name for name in CENTROIDS if (Path(folder) / name).is_file()]
    if len(centroids) != 1:
        raise SpeechError(
            f"{folder} must hold quantiser.json of an acoustic quantiser, or a HuBERT model with one of "
            f"{' and '.join(CENTROIDS)}; found {len(centroids)} of them."
        )
    try:
        recipe = HubertRecipe(**choices)
    except TypeError as error:
        raise SpeechError(f"{described} has a field that is no part of the recipe: {error}.") from error
    return HubertQuantiser.load(folder, centroids[0], recipe)


def _object(path: Path) -> dict[str, object]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise SpeechError(f"{path} is not JSON: {error}.") from error
    if not isinstance(value, dict):
        raise SpeechError(f"{path} must be a JSON object.")
    return value
