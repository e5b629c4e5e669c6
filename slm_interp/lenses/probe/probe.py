"""The word probe: which word is being said, was said or comes next, read linearly from the residual stream.

A lens looks in the model's own text basis. A probe looks in any, so it tells "not there" from "there in another basis". How it is trained
stands in `training.py`, what it must not merely have learnt by heart in `control.py`.

Words that training never had have no class. They are left out of the accuracy, and their share stands beside it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from slm_interp import hooked
from slm_interp.errors import ReadoutError
from slm_interp.files import atomic_path, write_text
from slm_interp.lenses.probe.control import labels_of
from slm_interp.lenses.probe.states import States, fingerprint_of
from slm_interp.model import SpeechTextModel
from slm_interp.utterance import Utterance

Apart: TypeAlias = Literal["key", "sentence", "voice"]

_NOUNS = {"key": "utterance(s)", "sentence": "sentence(s)", "voice": "voice(s)"}


@dataclass(frozen=True, eq=False)
class WordProbe:
    """A trained probe. Make one with `train_probe` or `load`.

    `dataset` holds `weight` (layer, class, d_model), `bias` (layer, class), `penalty` (layer) and `count` (class: training words).
    Its `attrs` say target, position, control, seed, the model's fingerprint, and what it was trained on.
    """

    dataset: xr.Dataset
    name: str = "probe"

    @property
    def classes(self) -> tuple[str, ...]:
        """The words it can answer, sorted."""
        return tuple(str(word) for word in self.dataset["class"].values)

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers it was trained at, in blocks run."""
        return tuple(int(layer) for layer in self.dataset["layer"].values)

    @property
    def hash(self) -> str:
        """What tells this probe from another: the first 16 hex digits of SHA-256 over its numbers, classes and choices."""
        digest = hashlib.sha256(json.dumps([self.classes, self.layers, self.dataset.attrs], sort_keys=True).encode())
        for _, part in sorted(self.dataset.data_vars.items()):
            digest.update(np.ascontiguousarray(part.values, dtype="<f8").tobytes())
        return digest.hexdigest()[:16]

    @property
    def settings(self) -> dict[str, str]:
        """What a result has to say about this probe."""
        chosen = {key: str(self.dataset.attrs[key]) for key in ("target", "position", "control", "seed")}
        return {"lens": self.name, "probe": self.hash, **chosen}

    def scores(self, resid: Float[Tensor, "*batch d_model"], layer: int) -> Float[Tensor, "*batch class"]:
        """Log-probabilities of the classes, natural logarithm, from residuals of a layer.

        Raises:
            ReadoutError: a layer it was not trained at.
        """
        weight, bias = self._of("weight", layer), self._of("bias", layer)
        return (resid.float() @ weight.to(resid.device).T + bias.to(resid.device)).log_softmax(-1)

    def directions(self, layer: int, words: Sequence[str]) -> Float[Tensor, "word d_model"]:
        """The direction along which each word is read at a layer; moving along it raises the score of the word.

        It is a filter, not what the model writes: correlated noise bends it (Haufe et al. 2014).

        Raises:
            ReadoutError: a layer it was not trained at, words without a class.
        """
        classes = self.classes
        unknown = [word for word in words if word not in classes]
        if unknown:
            raise ReadoutError(
                f"This probe was never trained on {unknown}; it knows {len(classes)} words. Train it on utterances that say them."
            )
        return self._of("weight", layer)[[classes.index(word) for word in words]]

    def ranks(self, states: States, apart: Sequence[Apart] = ("key", "sentence")) -> xr.DataArray:
        """Rank from 0 of the right word among the classes: (layer, word). Words without a class are left out; `attrs` say how many.

        Args:
            states: of the same model and position, and of utterances the probe was not trained on.
            apart: what must not be shared with training: `"key"` utterances, `"sentence"` their wording, `"voice"` speakers.

        Raises:
            ReadoutError: anything shared, another model or position, layers that are missing, no word that has a class.
        """
        self._check(states, apart)
        classes = self.classes
        labels = self._labels(states)
        asked = labels != ""
        known = asked & np.isin(labels.astype(str), classes)
        if not known.any():
            raise ReadoutError(
                f"None of the {int(asked.sum())} words to be read has a class in this probe. Train and test on the same words."
            )
        kept = states.where(known).dataset
        right = torch.tensor([classes.index(word) for word in labels[known]])
        resid = torch.from_numpy(kept["resid"].sel(layer=list(self.layers)).values)
        found = [rank_of(self.scores(one, layer), right[:, None])[:, 0] for one, layer in zip(resid, self.layers, strict=True)]
        attrs = {**self.settings, "without_class": int((asked & ~known).sum()), "without_target": int((~asked).sum())}
        coordinates = {"layer": list(self.layers), "right": ("word", labels[known])}
        coordinates |= {name: ("word", kept[name].values) for name in ("text", "utterance", "key", "sentence", "voice")}
        return xr.DataArray(torch.stack(found).numpy(), coordinates, ("layer", "word"), "rank", attrs)

    def accuracy(self, states: States, k: Sequence[int] = (1, 5), apart: Sequence[Apart] = ("key", "sentence")) -> xr.Dataset:
        """How often the right word is among the k likeliest, with what guessing gives; arguments and errors as in `ranks`.

        Returns:
            `accuracy` (layer, k); `majority` (k), always answering the k commonest training words; `chance`, answering a word with
            its share in training; `without_class`, the share of words that training never had, which count in none of these; `n_words`.
        """
        ranks = self.ranks(states, apart)
        share = (self.dataset["count"] / self.dataset["count"].sum()).to_series()
        common = share.sort_values(ascending=False, kind="stable").index
        said = ranks["right"].values.astype(str)
        hits = np.stack([(ranks.values < one).mean(-1) for one in k], axis=-1)
        return xr.Dataset(
            {
                "accuracy": (("layer", "k"), hits),
                "majority": ("k", [float(np.isin(said, common[:one].astype(str)).mean()) for one in k]),
                "chance": float(share[said].mean()),
                "without_class": ranks.attrs["without_class"] / (ranks.attrs["without_class"] + len(said)),
                "n_words": len(said),
            },
            {"layer": list(self.layers), "k": list(k)},
            {**self.settings, "n_classes": len(self.classes)},
        )

    def read(self, slm: SpeechTextModel, utterance: Utterance, k: int = 10) -> xr.Dataset:
        """What the probe says at every position, laid out as a lens reading: ranks of the utterance's own words among the classes.

        It was trained at one position of a word; at others it is read out of its training.

        Returns:
            `target_rank`, `target_log_prob` (layer, pos, target) and `top_word`, `top_log_prob` (layer, pos, k), with the coordinates
            `target_word`, `target_start` and `target_stop` of a `Reading`. Words without a class: `attrs["words_without_class"]`.

        Raises:
            ReadoutError: another model.
        """
        self._check_model(fingerprint_of(slm), slm.model.cfg.d_model)
        classes = self.classes
        resid = hooked.residuals(slm.model, slm.check(utterance).tokens)[list(self.layers)]
        scores = torch.stack([self.scores(one, layer) for one, layer in zip(resid, self.layers, strict=True)])
        words = [word for word in utterance.words if word.text in classes]
        right = torch.tensor([classes.index(word.text) for word in words], dtype=torch.long)
        top = scores.topk(min(k, len(classes)))
        cells = ("layer", "pos")
        return xr.Dataset(
            {
                "target_rank": ((*cells, "target"), rank_of(scores, right.expand(*scores.shape[:2], -1)).numpy()),
                "target_log_prob": ((*cells, "target"), scores[..., right].numpy()),
                "top_word": ((*cells, "k"), np.array(classes, dtype=object)[top.indices.numpy()]),
                "top_log_prob": ((*cells, "k"), top.values.numpy()),
            },
            {
                "layer": list(self.layers),
                "target_word": ("target", np.array([word.text for word in words], dtype=object)),
                "target_start": ("target", np.array([word.span.start for word in words], dtype=np.int64)),
                "target_stop": ("target", np.array([word.span.stop for word in words], dtype=np.int64)),
            },
            {**self.settings, "words_without_class": ",".join(word.text for word in utterance.words if word.text not in classes)},
        )

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write `probe.safetensors` and `probe.json` into a folder."""
        from safetensors.numpy import save_file

        with atomic_path(Path(folder) / "probe.safetensors") as path:
            save_file({str(name): np.ascontiguousarray(array.values) for name, array in self.dataset.data_vars.items()}, path)
        described = {"hash": self.hash, "layers": self.layers, "classes": self.classes, "attrs": self.dataset.attrs}
        write_text(Path(folder) / "probe.json", json.dumps(described, indent=1) + "\n")

    @staticmethod
    def load(folder: str | os.PathLike[str], slm: SpeechTextModel) -> WordProbe:
        """Read what `save` wrote, for the model it was trained on.

        Raises:
            ReadoutError: no such file, files that do not belong together, another model.
        """
        from safetensors.numpy import load_file

        path = Path(folder) / "probe.json"
        if not path.is_file():
            raise ReadoutError(f"No probe.json in {folder}. Give the folder that WordProbe.save wrote.")
        described = json.loads(path.read_text(encoding="utf-8"))
        tensors = load_file(Path(folder) / "probe.safetensors")
        probe = WordProbe(dataset_of(described["layers"], described["classes"], tensors, described["attrs"]))
        if probe.hash != described["hash"]:
            raise ReadoutError(
                f"{path} promises the probe {described['hash']}; its numbers make {probe.hash}. The files do not belong together."
            )
        probe._check_model(fingerprint_of(slm), slm.model.cfg.d_model)
        return probe

    def __repr__(self) -> str:
        said = self.dataset.attrs
        control = "" if said["control"] == "none" else f", control by {said['control']}"
        return f"WordProbe({said['target']} word at position {said['position']}{control}, {len(self.classes)} words, layers {list(self.layers)})"

    def _repr_html_(self) -> str:
        data = self.dataset
        table = data["penalty"].to_dataframe().T.to_html(float_format="{:.0e}".format)
        about = f"model {data.attrs['fingerprint'] or 'undeclared'}, {int(data['count'].sum())} training words, probe {self.hash}"
        return f"<div><b>{escape(repr(self))}</b><p>{escape(about)}. Penalty chosen at each layer:</p>{table}</div>"

    def _of(self, name: str, layer: int) -> Tensor:
        if layer not in self.layers:
            raise ReadoutError(f"This probe was trained at layers {list(self.layers)}; got {layer}.")
        return torch.from_numpy(self.dataset[name].sel(layer=layer).values)

    def _labels(self, states: States) -> np.ndarray:
        said = self.dataset.attrs
        return labels_of(states, said["target"], said["control"], said["seed"], json.loads(said["drawn_from_json"]))

    def _check(self, states: States, apart: Sequence[Apart]) -> None:
        data, said = states.dataset, self.dataset.attrs
        self._check_model(data.attrs["fingerprint"], data.sizes["d_model"])
        if data.attrs["position"] != said["position"]:
            raise ReadoutError(f"This probe was trained at position {said['position']}; these states are at {data.attrs['position']}.")
        missing = sorted(set(self.layers) - set(data["layer"].values.tolist()))
        if missing:
            raise ReadoutError(f"These states lack the layers {missing} of the probe. Collect them, or train on fewer.")
        for what in dict.fromkeys(("key", *apart)):
            shared = (set(json.loads(said["trained_on_json"])[what]) & set(data[what].values)) - {""}
            if shared:
                raise ReadoutError(
                    f"{len(shared)} {_NOUNS[what]} of these states were used to train this probe, {sorted(shared)[0]!r} among them. "
                    f"Divide the states first: train, test = split(states, by={what!r})."
                )

    def _check_model(self, fingerprint: str, d_model: int) -> None:
        wanted = self.dataset.attrs["fingerprint"]
        if wanted != fingerprint or d_model != self.dataset.sizes["d_model"]:
            raise ReadoutError(
                f"This probe was trained on the model {wanted or 'undeclared'} (d_model {self.dataset.sizes['d_model']}); "
                f"this is {fingerprint or 'undeclared'} (d_model {d_model}). Train one for it with train_probe."
            )


def dataset_of(layers: Sequence[int], classes: Sequence[str], tensors: Mapping[str, np.ndarray], attrs: Mapping[str, Any]) -> xr.Dataset:
    """The numbers of a probe, labelled."""
    dims = {"weight": ("layer", "class", "d_model"), "bias": ("layer", "class"), "penalty": ("layer",), "count": ("class",)}
    coordinates = {"layer": list(layers), "class": np.array(classes, dtype=object)}
    return xr.Dataset({name: (dims[name], tensors[name]) for name in dims}, coordinates, dict(attrs))


def rank_of(scores: Float[Tensor, "*cell class"], right: Int[Tensor, "*cell target"]) -> Float[Tensor, "*cell target"]:
    """Ranks from 0 by the rule of every reading: classes with a greater score, and half of the others with an equal one."""
    own = scores.gather(-1, right)[..., None]
    return (scores[..., None, :] > own).sum(-1) + ((scores[..., None, :] == own).sum(-1) - 1) / 2
