"""Residuals at one position of every word, with what the probe must know of the word: its text, its neighbours, its utterance.

An utterance is known by its tokens, not by its name: `key` is the first 16 hex digits of SHA-256 over its ids, so that the
same recording under two names is still one utterance.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool

from slm_interp.errors import ReadoutError
from slm_interp.lenses.many import residuals_of_each
from slm_interp.model import SpeechTextModel
from slm_interp.utterance import Span, Utterance

Position: TypeAlias = Literal["last"] | int


@dataclass(frozen=True, eq=False)
class States:
    """Residuals of words. Make them with `collect`.

    `dataset` holds `resid` (layer, word, d_model) in float32, and by word: `text`, `previous_text`, `next_text` ("" where there is
    none), `pos`, `token` (the id at that position), `utterance` (its name), `key`, `sentence` (its words), `voice` ("" where not given).
    `attrs`: `position`, `fingerprint` and `provenance_json` of the model, `left_out` (words without such a position).
    """

    dataset: xr.Dataset

    def __len__(self) -> int:
        return self.dataset.sizes["word"]

    def labels(self, target: str) -> np.ndarray:
        """The word asked for: `"current"`, `"next"` or `"previous"`, as an array of strings, "" where there is none.

        Raises:
            ReadoutError: another target.
        """
        columns = {"current": "text", "next": "next_text", "previous": "previous_text"}
        if target not in columns:
            raise ReadoutError(f"A probe reads the {', '.join(columns)} word; got {target!r}.")
        return self.dataset[columns[target]].values

    def where(self, mask: Bool[np.ndarray, " word"]) -> States:
        """The words a mask keeps."""
        return States(self.dataset.isel(word=np.flatnonzero(mask)))

    def __repr__(self) -> str:
        data = self.dataset
        return (
            f"States({len(self)} words of {len(set(data['key'].values))} utterances, {data.sizes['layer']} layers, "
            f"d_model {data.sizes['d_model']}, position {data.attrs['position']})"
        )


def collect(
    slm: SpeechTextModel,
    utterances: Iterable[Utterance],
    position: Position = "last",
    layers: Sequence[int] | None = None,
    voices: Sequence[str] | None = None,
) -> States:
    """Residuals of every word of some utterances, at one position of each word.

    Args:
        slm: the model that reads them.
        utterances: with words.
        position: `"last"` of the word's span, or counted from its first: 0 is the onset, -1 the position before it. Words shorter
            than that, and words without a position before them, are left out; `attrs["left_out"]` says how many.
        layers: blocks run, 0 (embedding) to n_layers; None is all of them.
        voices: who speaks, one for each utterance.

    Raises:
        ReadoutError: layers that are not there, residuals that are not finite, no words at all.
        UtteranceError, VocabularyError: an utterance this model cannot read.
    """
    chosen = _layers(layers, slm.model.cfg.n_layers)
    utterances = list(utterances)
    if voices is not None and len(voices) != len(utterances):
        raise ReadoutError(f"Every utterance has one voice; got {len(utterances)} utterances and {len(voices)} voices.")
    kept = [[(number, place_in(word.span, position)) for number, word in enumerate(slm.check(one).words)] for one in utterances]
    places = [[(number, place) for number, place in some if place is not None] for some in kept]
    left_out = sum(map(len, kept)) - sum(map(len, places))
    asked = [index for index, some in enumerate(places) if some]
    parts: dict[int, np.ndarray] = {}
    for order, whole in residuals_of_each(slm, [utterances[index] for index in asked]):
        index = asked[order]
        resid = whole[chosen][:, [place for _, place in places[index]]]
        if not resid.isfinite().all():
            raise ReadoutError(
                f"Residuals of {utterances[index].name or 'an utterance'!r} are not finite. Scan the weights: slm-interp verify."
            )
        parts[index] = resid.float().cpu().numpy()
    rows = [_row(utterances[index], number, place, voices[index] if voices else "") for index in asked for number, place in places[index]]
    if not rows:
        raise ReadoutError(f"No word has a position {position!r} in {len(utterances)} utterances. Probes need utterances with words.")
    coordinates = {name: ("word", np.array([row[name] for row in rows], dtype=object)) for name in rows[0] if name not in ("pos", "token")}
    numbers = {name: ("word", np.array([row[name] for row in rows], dtype=np.int64)) for name in ("pos", "token")}
    attrs = {
        "position": position,
        "left_out": left_out,
        "fingerprint": fingerprint_of(slm),
        "provenance_json": json.dumps(dict(slm.provenance), sort_keys=True),
    }
    return States(
        xr.Dataset(
            {"resid": (("layer", "word", "d_model"), np.concatenate([parts[index] for index in asked], axis=1))},
            {"layer": chosen, **coordinates, **numbers},
            attrs,
        )
    )


def split(
    states: States, by: Literal["key", "sentence", "voice"] = "sentence", share: float = 0.25, seed: int = 0
) -> tuple[States, States]:
    """States for training and for testing that share no utterance, sentence or voice.

    Args:
        states: to divide.
        by: `"key"` keeps utterances apart, `"sentence"` also the same words said by somebody else, `"voice"` speakers.
        share: of the keys, sentences or voices that are held out; at least one is, and at least one is not.
        seed: of the choice.

    Raises:
        ReadoutError: fewer than two groups, a share outside 0..1.
    """
    out = held_out(states, by, share, seed)
    return states.where(~out), states.where(out)


def held_out(states: States, by: str, share: float, seed: int) -> Bool[np.ndarray, " word"]:
    """Which words `split` puts into the second side."""
    groups = sorted(set(states.dataset[by].values))
    if len(groups) < 2 or not 0 < share < 1:
        raise ReadoutError(f"Two sides need two of {by!r} at least and a share between 0 and 1; got {len(groups)} and {share}.")
    count = min(max(1, round(share * len(groups))), len(groups) - 1)
    held = np.random.default_rng(seed).choice(len(groups), count, replace=False)
    return np.isin(states.dataset[by].values.astype(str), [groups[index] for index in held])


def place_in(span: Span, position: Position) -> int | None:
    """The position of a word that is read, or None where the word has no such position."""
    if position == "last":
        return span.stop - 1
    place = span.start + position
    return place if 0 <= place < span.stop else None


def fingerprint_of(slm: SpeechTextModel) -> str:
    """What tells this model from another in saved probes; "" where it is undeclared."""
    return str(slm.provenance.get("fingerprint", ""))


def _layers(layers: Sequence[int] | None, n_layers: int) -> list[int]:
    chosen = list(range(n_layers + 1)) if layers is None else sorted(set(layers))
    if not chosen or chosen[0] < 0 or chosen[-1] > n_layers:
        raise ReadoutError(f"Layers count blocks run, 0 (embedding) to {n_layers} (what the model reads); got {list(layers or ())}.")
    return chosen


def _row(utterance: Utterance, number: int, place: int, voice: str) -> dict[str, object]:
    texts = [word.text for word in utterance.words]
    return {
        "text": texts[number],
        "previous_text": texts[number - 1] if number else "",
        "next_text": texts[number + 1] if number + 1 < len(texts) else "",
        "pos": place,
        "token": int(utterance.tokens[place]),
        "utterance": utterance.name,
        "key": hashlib.sha256(utterance.tokens.to(torch.int64).cpu().numpy().astype("<i8").tobytes()).hexdigest()[:16],
        "sentence": " ".join(texts),
        "voice": voice,
    }
