"""Mean activations over a stated corpus, by modality: what a span is ablated with so that it says what any speech says.

The mean of speech positions is not that of text positions, and neither is that of both: their residuals differ in size and direction, so a mean over
all would put a span where no position ever is. Markers (`<speech>`) are a kind of their own.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from slm_interp import hooked
from slm_interp.errors import PatchingError
from slm_interp.model import SpeechTextModel
from slm_interp.netcdf import read_dataset, write_dataset
from slm_interp.patching.places import check_site, heads_of, hooked_site, hooks_of, layers_of, standing
from slm_interp.utterance import Utterance
from slm_interp.vocabulary import JointVocabulary, Kind


@dataclass(frozen=True, eq=False)
class Means:
    """Mean activations; make them with `patching.means`.

    Args:
        dataset: for each site a variable `[kind, layer, head_index, size]`, all prefixed by the site, with one head where it has none;
            `positions[kind]`, how many were averaged; attrs `corpus` (a hash), `utterances`, `fingerprint` of the model.
    """

    dataset: xr.Dataset

    @property
    def corpus(self) -> str:
        """The hash of the corpus."""
        return str(self.dataset.attrs["corpus"])

    def check_model(self, slm: SpeechTextModel) -> None:
        """Refuse a model that is not the one they were taken from.

        Raises:
            PatchingError: another fingerprint.
        """
        own, other = str(self.dataset.attrs["fingerprint"]), str(slm.provenance.get("fingerprint", ""))
        if own != other:
            raise PatchingError(
                f"Means were taken from the model {own or 'undeclared'}; this is {other or 'undeclared'}. Take them from this one: patching.means."
            )

    def at(
        self, site: str, layers: Sequence[int], heads: Sequence[int] | None, kinds: Sequence[str]
    ) -> Float[Tensor, "layer head pos size"]:
        """The mean of each position's kind.

        Raises:
            PatchingError: a site that was not averaged, or a kind that no position of the corpus had.
        """
        site = hooked_site(site)
        if site not in self.dataset:
            raise PatchingError(
                f"Means were taken at {', '.join(str(name) for name in self.dataset.data_vars if name != 'positions')}; not at {site}."
            )
        there = self.dataset["kind"].values.tolist()
        missing = sorted(set(kinds) - set(there))
        if missing:
            raise PatchingError(
                f"The corpus of the means has no position of kind {missing[0]}; it has {', '.join(there)}. Give another corpus."
            )
        found = torch.from_numpy(self.dataset[site].values)[[there.index(kind) for kind in kinds]]
        found = found[:, list(layers)] if heads is None else found[:, list(layers)][:, :, list(heads)]
        return found.permute(1, 2, 0, 3)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a netCDF file, whole or not at all."""
        write_dataset(self.dataset, path)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Means:
        """Read a file that `save` wrote.

        Raises:
            PatchingError, ReadoutError: no such file, or one that holds no means.
        """
        dataset = read_dataset(path, "holds no means")
        if "positions" not in dataset or "corpus" not in dataset.attrs:
            raise PatchingError(f"{os.fspath(path)!r} holds no means of activations.")
        return Means(dataset)

    def __repr__(self) -> str:
        counts = ", ".join(
            f"{int(count)} of {kind}" for kind, count in zip(self.dataset["kind"].values, self.dataset["positions"].values, strict=True)
        )
        sites = ", ".join(str(name) for name in self.dataset.data_vars if name != "positions")
        return f"Means({sites}: positions {counts}; {self.dataset.attrs['utterances']} utterances, corpus {self.corpus})"


def means(slm: SpeechTextModel, corpus: Sequence[Utterance], sites: Sequence[str] = ("resid_post",)) -> Means:
    """Mean activations at every layer of some sites, over all positions of a corpus, by the kind of their token.

    Raises:
        PatchingError: no utterances, an unknown site, or `pattern`, which has no mean over positions.
        UtteranceError, VocabularyError: an utterance this model cannot read.
    """
    if not corpus or not sites:
        raise PatchingError("Means need one utterance or more, and one site or more; got none.")
    for site in sites:
        check_site(slm.model, site)
        if site == "pattern":
            raise PatchingError("An attention pattern has no mean over positions: each has sources of its own. Average z.")
    sites = list(dict.fromkeys(hooked_site(site) for site in sites))
    grids = {site: (layers_of(slm.model, site, None), heads_of(slm.model, site, None)) for site in sites}
    names = list(dict.fromkeys(name for site, (layers, _) in grids.items() for name in hooks_of(site, layers)))
    sums: dict[tuple[str, str], Tensor] = {}
    counts: dict[str, int] = {}
    for utterance in tqdm(corpus, desc="means", unit="utterance", disable=None):
        tokens = slm.check(utterance).tokens
        at, kinds = hooked.captured(slm.model, tokens, names), kinds_of(slm.vocabulary, tokens)
        for kind in dict.fromkeys(kinds):
            chosen = [pos for pos, own in enumerate(kinds) if own == kind]
            counts[kind] = counts.get(kind, 0) + len(chosen)
            for site, (layers, heads) in grids.items():
                own = standing(at, site, layers, heads)[:, :, chosen].double().sum(2).cpu()
                sums[site, kind] = sums[site, kind] + own if (site, kind) in sums else own
    variables = {
        site: (
            ("kind", *(f"{site}_{dim}" for dim in ("layer", "head_index", "size"))),
            np.stack([(sums[site, kind] / counts[kind]).float().numpy() for kind in counts]),
        )
        for site in sites
    }
    broken = [site for site, (_, values) in variables.items() if not np.isfinite(values).all()]
    if broken:
        raise PatchingError(f"Means at {broken[0]} are not finite. Scan the weights: slm-interp verify.")
    dataset = xr.Dataset({**variables, "positions": ("kind", list(counts.values()))}, {"kind": np.array(list(counts), dtype=object)})
    said = {"corpus": corpus_hash(corpus), "utterances": len(corpus), "fingerprint": slm.provenance.get("fingerprint", "")}
    return Means(dataset.assign_attrs(said))


def kinds_of(vocabulary: JointVocabulary, tokens: Int[Tensor, " pos"]) -> list[Kind]:
    """The kind of the token at every position: its modality, or marker."""
    kinds = {kind: vocabulary.mask(kind)[tokens] for kind in get_args(Kind)}
    return [next(kind for kind, mask in kinds.items() if mask[pos]) for pos in range(len(tokens))]


def corpus_hash(corpus: Sequence[Utterance]) -> str:
    """The first 16 hex digits of SHA-256 over the tokens of the utterances, in their order."""
    digest = hashlib.sha256()
    for utterance in corpus:
        digest.update(repr(utterance.tokens.tolist()).encode())
    return digest.hexdigest()[:16]
