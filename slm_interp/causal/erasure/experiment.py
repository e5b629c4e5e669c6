"""Erasure in continuous speech (C4): per layer or band, what the units cost once text is gone, and whether it is gone.

1. On training utterances: mean, components and LEACE of the residuals at the positions that are erased (`spaces.py`).
2. On others: every subspace is taken out at its layer, or at every layer of a band, so that blocks in between cannot bring it back. The price is
   the rise of - log p of the units, over the speech ids: at the onset of words, inside them, and outside (`running.py`). Units before the first
   erased position do not count.
3. Afterwards a word probe is trained afresh on what stands at the last layer of the band in the training utterances and read on the others, and the
   basis itself is read: the share of words that it ranks first among the declared ones. Chance is the share of the commonest word, and one in so many.

Text that drives speech costs more than as much variance elsewhere and than chance, at the onset above all. What it cannot show: text that is gone
along these directions may be there along others (compare the probe), and a rise says that something was needed there, not that it was the word.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from slm_interp import hooked
from slm_interp.causal.bases import Basis, rank
from slm_interp.causal.erasure.running import WHERE, Asked, Erasers, after_erasure, costs, positions_of
from slm_interp.causal.erasure.spaces import Cloud, Space, directions_of, leace_of, spaces_of
from slm_interp.errors import PatchingError
from slm_interp.files import atomic_path, write_text
from slm_interp.lenses.probe.states import States, collect
from slm_interp.lenses.probe.training import train_probe
from slm_interp.model import SpeechTextModel
from slm_interp.statistics import bootstrap, ratio_of_means
from slm_interp.utterance import Utterance

Band: TypeAlias = "int | tuple[int, int]"

KEY = ["layers", "arm", "rank"]
PENALTY = (1e-2,)  # of the fresh probe


@dataclass(frozen=True, eq=False)
class Erasure:
    """What erasure cost.

    Args:
        table: one row for each utterance, band, arm, draw, rank and place (`where`): `units`, `nll` and `base` (mean nats a unit with and
            without), `rise`, `kl`, `variance` (share that is gone, mean over the band), `dimensions`.
        verified: one row for each band, arm and rank: `probe` (accuracy of a fresh probe) and its `majority`, `lens` (share of words ranked
            first) and its `chance`; arm `none` is without erasure.
        about: what was asked.
    """

    table: pd.DataFrame
    verified: pd.DataFrame
    about: Mapping[str, Any]

    def summary(self, draws: int = 2000, seed: int = 0) -> pd.DataFrame:
        """Rise in nats a unit by band, arm, rank and place, with 95% intervals over utterances; random draws are pooled.

        Beside text, `beyond` is its rise less that of equal variance, `percentile` the share of random draws that cost less.
        """
        rows = []
        for (layers, arm, size, where), own in self.table.groupby([*KEY, "where"], sort=False):
            found = bootstrap(_weighed(own, "rise"), own["utterance"].to_numpy(), ratio_of_means, draws, seed=seed)
            row = {"layers": layers, "arm": arm, "rank": size, "where": where, "dimensions": int(own["dimensions"].iloc[0])}
            row |= {"rise": float(found.estimate[0]), "low": float(found.low[0]), "high": float(found.high[0])}
            row |= {
                "kl": _mean(own, "kl"),
                "variance": float(own["variance"].mean()),
                "units": int(own.loc[own["draw"] == 0, "units"].sum()),
            }
            rows.append(row | (self._beside(own, draws, seed) if arm == "text" else {}))
        return pd.DataFrame(rows)

    def _beside(self, text: pd.DataFrame, draws: int, seed: int) -> dict[str, float]:
        same = self.table[(self.table[["layers", "rank", "where"]] == text[["layers", "rank", "where"]].iloc[0]).all(axis=1)]
        control = same[same["arm"] == "variance"].set_index("utterance")["rise"]
        apart = text.assign(rise=text["rise"] - control.loc[text["utterance"]].to_numpy())
        found = bootstrap(_weighed(apart, "rise"), apart["utterance"].to_numpy(), ratio_of_means, draws, seed=seed)
        row = {"beyond": float(found.estimate[0]), "beyond_low": float(found.low[0]), "beyond_high": float(found.high[0])}
        random = [_mean(one, "rise") for _, one in same[same["arm"] == "random"].groupby("draw")]
        return row | ({"percentile": float(np.mean(np.array(random) < _mean(text, "rise")))} if random else {})

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write `erasure.parquet`, `verified.parquet` and `erasure.json` into a folder."""
        for name, table in (("erasure", self.table), ("verified", self.verified)):
            with atomic_path(Path(folder) / f"{name}.parquet") as path:
                table.to_parquet(path, index=False)
        write_text(Path(folder) / "erasure.json", json.dumps(dict(self.about), indent=1) + "\n")

    @staticmethod
    def load(folder: str | os.PathLike[str]) -> Erasure:
        """Read what `save` wrote.

        Raises:
            PatchingError: no such files.
        """
        about = Path(folder) / "erasure.json"
        if not about.is_file():
            raise PatchingError(f"No erasure.json in {folder}. Give the folder that Erasure.save wrote.")
        table, verified = (pd.read_parquet(Path(folder) / f"{name}.parquet") for name in ("erasure", "verified"))
        return Erasure(table, verified, json.loads(about.read_text(encoding="utf-8")))

    def __repr__(self) -> str:
        return (
            f"Erasure({self.about['basis']}, {self.about['positions']}, bands {', '.join(self.table['layers'].unique())}, "
            f"{self.table['utterance'].nunique()} utterances)"
        )

    def _repr_html_(self) -> str:
        tables = "".join(one.to_html(index=False, float_format="{:.3f}".format) for one in (self.summary(), self.verified))
        return f"<div><b>{escape(repr(self))}</b>{tables}</div>"


def erasure(
    slm: SpeechTextModel,
    train: Sequence[Utterance],
    test: Sequence[Utterance],
    basis: Basis,
    words: Sequence[str],
    layers: Sequence[Band],
    ranks: Sequence[int] | None = None,
    positions: str = "words",
    draws: int = 10,
    leace: bool = True,
    seed: int = 0,
    progress: bool = True,
) -> Erasure:
    """Erase text from continuous speech and measure what it costs; see the top of this file.

    Args:
        train: utterances that means, components, LEACE and probes are fitted on.
        test: others, in which it is erased.
        basis: of text.
        words: the declared set whose directions are erased.
        layers: of `resid_post`, in blocks run: single ones, or bands `(first, last)`.
        ranks: of the top directions, up to d_model / 8; 0 is the whole set. None: 1, 2, 4 ... as far as that goes.
        positions: `"words"` or `"speech"`: where it is erased.
        draws: random subspaces of every rank.
        leace: also erase by LEACE which of the declared words is heard; needs the extra `causal`.
        seed: of the random subspaces.
        progress: show a bar.

    Raises:
        PatchingError: utterances on both sides, bands or ranks that are not there, positions that no utterance has, residuals that are not finite.
        ImportError: LEACE without concept-erasure.
    """
    bands = [_band(slm, one) for one in layers]
    _check(train, test, bands)
    words = list(dict.fromkeys(words))
    wanted, parts, verified = sorted({layer for band in bands for layer in band}), [], []
    streams = [hooked.residuals(slm.model, slm.check(one).tokens)[wanted] for one in train]
    there = {layer: _at(slm, train, [one[n] for one in streams], positions) for n, layer in enumerate(wanted)}
    ends = {layer: _ends(train, [one[n] for one in streams], words) for n, layer in enumerate(wanted)} if leace else {}
    generator = torch.Generator().manual_seed(seed)
    spaces: dict[int, list[Space]] = {}
    for layer, resid in there.items():
        cloud, directions = Cloud.of(resid), directions_of(basis, layer, words)
        found = spaces_of(cloud, directions, _ranks(directions, ranks), draws, generator)
        spaces[layer] = [*found, *([leace_of(cloud, *ends[layer])] if leace else [])]
    with tqdm(total=len(bands) * len(test), desc="erasure", disable=not progress) as bar:
        for band in bands:
            erasers = {layer: Erasers.of(spaces[layer], there[layer]) for layer in band}
            own = [[spaces[layer][number] for layer in band] for number in range(len(spaces[band[0]]))]
            for number, utterance in enumerate(test):
                parts.append(
                    _one(slm, utterance, f"{number} {utterance.name}".strip(), erasers, own, positions).assign(layers=_named(band))
                )
                bar.update()
            verified.append(_verified(slm, (train, test), basis, words, erasers, own, positions).assign(layers=_named(band)))
    about = {**basis.settings, "positions": positions, "words": words, "draws": draws, "seed": seed, "train": len(train), "test": len(test)}
    return Erasure(pd.concat(parts, ignore_index=True), pd.concat(verified, ignore_index=True), about)


def _band(slm: SpeechTextModel, asked: Band) -> tuple[int, ...]:
    first, last = (asked, asked) if isinstance(asked, int) else asked
    if not 0 <= first <= last <= slm.model.cfg.n_layers:
        raise PatchingError(
            f"Layers count blocks run, 0 (embedding) to {slm.model.cfg.n_layers}, and bands are (first, last); got {asked}."
        )
    return tuple(range(first, last + 1))


def _named(band: tuple[int, ...]) -> str:
    return str(band[0]) if len(band) == 1 else f"{band[0]}-{band[-1]}"


def _check(train: Sequence[Utterance], test: Sequence[Utterance], bands: Sequence[tuple[int, ...]]) -> None:
    own = {tuple(one.tokens.tolist()) for one in train}
    both = sum(tuple(one.tokens.tolist()) in own for one in test)
    if not train or not test or not bands or both:
        raise PatchingError(
            f"Erasure is fitted on some utterances and measured on others, at one layer or more; got {len(train)} and {len(test)}, {both} of them on both "
            f"sides, and {len(bands)} bands."
        )


def _ranks(directions: Float[Tensor, "direction d_model"], asked: Sequence[int] | None) -> list[int]:
    if asked is not None:
        return list(dict.fromkeys(asked))
    most = min(directions.shape[1] // 8, int(torch.linalg.matrix_rank(directions)))
    return [2**power for power in range(max(1, most).bit_length()) if 2**power <= most]


def _at(
    slm: SpeechTextModel, utterances: Sequence[Utterance], streams: Sequence[Tensor], positions: str
) -> Float[Tensor, "position d_model"]:
    """Residuals at the positions that are erased."""
    resid = torch.cat([own[positions_of(slm, one, positions)] for one, own in zip(utterances, streams, strict=True)])
    if not resid.isfinite().all():
        raise PatchingError("Residuals at the positions to be erased are not finite. Scan the weights: slm-interp verify.")
    return resid


def _ends(
    utterances: Sequence[Utterance], streams: Sequence[Tensor], words: Sequence[str]
) -> tuple[Float[Tensor, "word d_model"], list[str]]:
    """Residuals where declared words end, and the words."""
    found = [(own, [word for word in one.words if word.text in words]) for one, own in zip(utterances, streams, strict=True)]
    labels = [word.text for _, some in found for word in some]
    if not labels:
        raise PatchingError(
            "None of the declared words is heard in the training utterances, so LEACE has nothing to fit. Take leace=False."
        )
    return torch.cat([own[[word.span.stop - 1 for word in some]] for own, some in found if some]), labels


def _one(
    slm: SpeechTextModel, utterance: Utterance, name: str, erasers: dict[int, Erasers], spaces: Sequence[Sequence[Space]], positions: str
) -> pd.DataFrame:
    """Costs of one utterance in one band."""
    at = positions_of(slm, slm.check(utterance), positions)
    asked = Asked.of(slm, utterance, int(at[0]))
    nll, kl = costs(slm, utterance, erasers, at, asked)
    rows: list[dict[str, Any]] = []
    for where in WHERE:
        chosen = torch.tensor([one == where for one in asked.where], dtype=torch.bool)
        if not chosen.any():
            continue
        means, damage = nll[:, chosen].mean(-1).tolist(), kl[:, chosen].mean(-1).tolist()
        for run, some in enumerate(spaces, start=1):
            about = {"utterance": name, **_about(some), "where": where, "units": int(chosen.sum())}
            numbers = {"nll": means[run], "base": means[0], "rise": means[run] - means[0], "kl": damage[run]}
            rows.append(about | numbers)
    return pd.DataFrame(rows)


def _about(some: Sequence[Space]) -> dict[str, Any]:
    first, shares = some[0], [one.variance for one in some]
    return {"arm": first.arm, "draw": first.draw, "rank": first.asked, "dimensions": len(first.left), "variance": sum(shares) / len(shares)}


def _verified(
    slm: SpeechTextModel,
    sides: tuple[Sequence[Utterance], Sequence[Utterance]],
    basis: Basis,
    words: Sequence[str],
    erasers: dict[int, Erasers],
    spaces: Sequence[Sequence[Space]],
    positions: str,
) -> pd.DataFrame:
    """A fresh probe, and the basis, at the last layer of a band: without erasure and after every kind of it; of random draws the first."""
    last = max(erasers)
    states = [collect(slm, side, layers=[last]) for side in sides]
    stood = [_stood(slm, side, erasers, positions) for side in sides]
    rows: list[dict[str, Any]] = []
    for run, about in enumerate([{"arm": "none", "rank": 0}, *map(_about, spaces)]):
        if about.get("draw", 0):
            continue
        train, test = (
            States(one.dataset.assign(resid=(("layer", "word", "d_model"), at[run][None]))) for one, at in zip(states, stood, strict=True)
        )
        read = train_probe(train, layers=[last], penalties=PENALTY).accuracy(test, (1,), apart=("key",))
        texts = test.dataset["text"].values.astype(str)
        known = [n for n, text in enumerate(texts) if text in words]
        ranks = [rank(basis, last, texts[n], words, _like(slm, stood[1][run, n : n + 1])) for n in known]
        rows.append(
            {"arm": about["arm"], "rank": about["rank"], "probe": float(read["accuracy"][0, 0]), "majority": float(read["majority"][0])}
            | {
                "lens": float(np.mean([one == 0 for one in ranks])) if ranks else float("nan"),
                "chance": 1 / len(words),
                "words": len(texts),
            }
        )
    return pd.DataFrame(rows)


def _stood(
    slm: SpeechTextModel, side: Sequence[Utterance], erasers: dict[int, Erasers], positions: str
) -> Float[np.ndarray, "run word d_model"]:
    parts = []
    for one in side:
        last: Int[Tensor, " word"] = torch.tensor([word.span.stop - 1 for word in one.words], dtype=torch.long)
        parts.append(after_erasure(slm, one, erasers, positions_of(slm, one, positions))[:, last].float().cpu())
    return torch.cat(parts, 1).numpy()


def _like(slm: SpeechTextModel, resid: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(resid)).to(next(iter(hooked.parameters(slm.model).values())))


def _weighed(table: pd.DataFrame, column: str) -> Float[np.ndarray, "row two"]:
    return np.stack([table[column] * table["units"], table["units"]], axis=1).astype(float)


def _mean(table: pd.DataFrame, column: str) -> float:
    return float((table[column] * table["units"]).sum() / table["units"].sum())
