"""Residuals of words in which it is known what is written at which layer."""

from __future__ import annotations

import numpy as np
import xarray as xr

from slm_interp.lenses import States

WORDS = tuple("apple boat cat dog egg fish goat hat ice jam kite lamp".split())
NOISE, WORD, UNIT, NEXT = 0, 1, 2, 3  # what each layer holds
D_MODEL, PER_SENTENCE, N_UNITS = 24, 4, 6


def planted(n_sentences: int = 150, seed: int = 0, words: tuple[str, ...] = WORDS, noise: float = 0.05, voices: int = 3) -> States:
    """Random sentences; layers hold noise, a code of the word, of the unit read, of the next word. The codes do not depend on `seed`."""
    rng = np.random.default_rng([1, seed])
    said = rng.integers(len(words), size=(n_sentences, PER_SENTENCE))
    units = rng.integers(N_UNITS, size=said.shape)
    following = np.concatenate([said[:, 1:], np.full((n_sentences, 1), len(words))], axis=1)
    codes = np.random.default_rng(99).normal(size=(4, 400, D_MODEL))
    clean = [np.zeros((said.size, D_MODEL)), *(codes[layer][what.ravel()] for layer, what in ((1, said), (2, units), (3, following)))]
    resid = np.stack(clean) + np.array([1.0, noise, noise, noise])[:, None, None] * rng.normal(size=(4, said.size, D_MODEL))
    texts = np.array([*words, ""], dtype=object)
    sentence = np.repeat([" ".join(row) for row in texts[said]], PER_SENTENCE).astype(object)
    number = np.repeat(np.arange(n_sentences), PER_SENTENCE)
    named = {
        "text": texts[said].ravel(),
        "next_text": texts[following].ravel(),
        "previous_text": np.concatenate([np.full((n_sentences, 1), "", object), texts[said[:, :-1]]], axis=1).ravel(),
        "sentence": sentence,
        "utterance": sentence,
        "key": np.array([f"{seed}-{one}" for one in number], dtype=object),
        "voice": np.array([f"voice {one % voices}" for one in number], dtype=object),
        "token": 100 + units.ravel(),
        "pos": np.tile(np.arange(PER_SENTENCE), n_sentences),
    }
    attrs = {"position": "last", "left_out": 0, "fingerprint": "planted", "provenance_json": "{}"}
    coordinates = {"layer": np.arange(4), **{name: ("word", values) for name, values in named.items()}}
    return States(xr.Dataset({"resid": (("layer", "word", "d_model"), resid.astype(np.float32))}, coordinates, attrs))
