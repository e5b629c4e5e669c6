"""The tuned lens: an affine translator per layer, then the model's own final norm and unembedding (Belrose et al. 2023, arXiv 2303.08112).

`scores(h) = norm(h + W_l h + b_l)`, with `W_l` and `b_l` trained so that `softmax(W_U scores)` comes near to what the model itself says at
that position (`training.py`). Before training both are zero and the lens is the logit lens, bit for bit; layer `n_layers` has no
translator and is the model's own output.

A tuned lens says what the model is *going to say*, as far as an affine map can tell it, and not what is at a layer in the basis of its
unembedding. At speech positions the model is going to say *speech*: a lens trained there learns to show speech, and hides text that
the logit lens shows. So what was trained on what is part of the name of a lens and of every result of it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from slm_interp import hooked
from slm_interp.errors import ReadoutError
from slm_interp.files import atomic_path, write_text
from slm_interp.lenses.directions import directions_of, first_pieces
from slm_interp.lenses.lens import read
from slm_interp.lenses.probe.states import fingerprint_of
from slm_interp.lenses.reading import Reading
from slm_interp.lenses.tuned.aim import Aim
from slm_interp.model import SpeechTextModel
from slm_interp.utterance import Utterance

WEIGHTS, DESCRIPTION, HISTORY = "tuned.safetensors", "tuned.json", "history.csv"


@dataclass(frozen=True, eq=False)
class TunedLens:
    """A tuned lens of a model. Make one with `train_tuned`, `TunedLens.load`, `import_tuned` or `untrained`.

    Args:
        slm: the model to look into.
        layers: those that have a translator, in blocks run, ascending.
        weight, bias: of the translators, in float32 or better: the lens adds `W h + b` to a residual `h`.
        aim: what was trained on what; None where nothing was trained or nobody knows.
        trained: what else has to be known to repeat the training, by name; it goes into the file and the hash.
        history: held-out KL while it was trained: `step`, `positions_seen`, `layer`, `modality` of the position, `kl` in nats.

    Raises:
        ReadoutError: shapes that do not fit the model or one another, numbers that are not finite.
    """

    slm: SpeechTextModel
    layers: tuple[int, ...]
    weight: Float[Tensor, "layer d_model d_model"]
    bias: Float[Tensor, "layer d_model"]
    aim: Aim | None = None
    trained: Mapping[str, Any] = field(default_factory=dict)
    history: pd.DataFrame = field(default_factory=pd.DataFrame)

    def __post_init__(self) -> None:
        n_layers, d_model = self.slm.model.cfg.n_layers, self.slm.model.cfg.d_model
        if not self.layers or list(self.layers) != sorted(set(self.layers)) or not 0 <= self.layers[0] <= self.layers[-1] < n_layers:
            raise ReadoutError(
                f"Translators stand at layers 0 (embedding) to {n_layers - 1}, ascending; got {list(self.layers)}. "
                f"Layer {n_layers} is the model's own output and has none."
            )
        wanted = (len(self.layers), d_model, d_model)
        if tuple(self.weight.shape) != wanted or tuple(self.bias.shape) != wanted[:2]:
            raise ReadoutError(
                f"{wanted[0]} translators of d_model {d_model} need weights {wanted} and biases {wanted[:2]}; "
                f"got {tuple(self.weight.shape)} and {tuple(self.bias.shape)}."
            )
        bad = [
            layer
            for layer, w, b in zip(self.layers, self.weight, self.bias, strict=True)
            if not (w.isfinite().all() and b.isfinite().all())
        ]
        if bad:
            raise ReadoutError(
                f"The translator of layer {bad[0]} is not finite ({len(bad)} such layers). Train it again, on finite residuals."
            )

    @staticmethod
    def untrained(slm: SpeechTextModel) -> TunedLens:
        """A lens whose translators add nothing: the logit lens."""
        n_layers, d_model = slm.model.cfg.n_layers, slm.model.cfg.d_model
        return TunedLens(slm, tuple(range(n_layers)), torch.zeros(n_layers, d_model, d_model), torch.zeros(n_layers, d_model))

    @property
    def name(self) -> str:
        """What the lens is called in results: what was trained on what."""
        if self.aim is None:
            return f"tuned[{self.trained.get('from', 'untrained')}]"
        return f"tuned[{self.aim}]"

    @property
    def hash(self) -> str:
        """What tells this lens from another: the first 16 hex digits of SHA-256 over its numbers and how they came about."""
        digest = hashlib.sha256(json.dumps(self._described(), sort_keys=True).encode())
        for tensor in (self.weight, self.bias):
            digest.update(np.ascontiguousarray(tensor.detach().cpu().double().numpy(), dtype="<f8").tobytes())
        return digest.hexdigest()[:16]

    @property
    def settings(self) -> dict[str, str]:
        """What a reading has to say about this lens."""
        aim = {} if self.aim is None else self.aim.settings
        corpus = {} if "corpus" not in self.trained else {"corpus": str(self.trained["corpus"])}
        return {"lens": self.name, "tuned": self.hash, **aim, **corpus}

    def translated(self, resid: Float[Tensor, "*batch d_model"], layer: int) -> Float[Tensor, "*batch d_model"]:
        """Residuals of a layer as the lens takes the final ones to be, before the final norm, in float32 or better.

        Raises:
            ReadoutError: a layer without a translator.
        """
        work = torch.promote_types(resid.dtype, torch.float32)
        wide = resid.to(work)
        if layer == self.slm.model.cfg.n_layers:
            return wide
        weight, bias = self._of(layer)
        return wide + (wide @ weight.to(wide).T + bias.to(wide))

    def scores(self, resid: Float[Tensor, "*batch d_model"], layer: int) -> Float[Tensor, "*batch d_model"]:
        """Residuals of a layer as vectors ready for `W_U`: translated, then through the final norm, in the dtype they came in.

        Raises:
            ReadoutError: a layer without a translator.
        """
        return hooked.final_norm(self.slm.model, self.translated(resid, layer).to(resid.dtype))

    def directions(self, layer: int, words: Sequence[str]) -> Float[Tensor, "word d_model"]:
        """The direction along which the first piece of each word is read at a layer; moving along it raises the word's logit.

        Those of the logit lens, pulled back through the translator: `(1 + W)^T (scale * W_U e)`, centred for LayerNorm. Like them it
        leaves out that the norm divides by the residual's own deviation.

        Raises:
            ReadoutError: a layer without a translator.
            VocabularyError: words this model cannot spell.
        """
        return self.directions_of_ids(layer, first_pieces(self.slm, words))

    def directions_of_ids(self, layer: int, ids: Sequence[int]) -> Float[Tensor, "id d_model"]:
        """The same for ids instead of words.

        Raises:
            ReadoutError: a layer without a translator.
            VocabularyError: ids outside the vocabulary.
        """
        straight = directions_of(self.slm, ids)
        if layer == self.slm.model.cfg.n_layers:
            return straight
        return straight + straight @ self._of(layer)[0].to(straight)

    def read(self, utterance: Utterance | Int[Tensor, " pos"], **options: Any) -> Reading:
        """What every layer says at every position; options and errors as in `lenses.read`.

        Without `layers`, those that have a translator and the last.
        """
        options.setdefault("layers", [*self.layers, self.slm.model.cfg.n_layers])
        return read(self, self.slm, utterance, **options)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write `tuned.safetensors`, `tuned.json` and, where there is one, `history.csv` into a folder."""
        from safetensors.torch import save_file

        folder = Path(folder)
        if len(self.history):
            write_text(folder / HISTORY, self.history.to_csv(index=False))
        with atomic_path(folder / WEIGHTS) as path:
            save_file({"weight": self.weight.detach().cpu().contiguous(), "bias": self.bias.detach().cpu().contiguous()}, path)
        write_text(folder / DESCRIPTION, json.dumps({"hash": self.hash, **self._described()}, indent=1) + "\n")

    @staticmethod
    def load(folder: str | os.PathLike[str], slm: SpeechTextModel) -> TunedLens:
        """Read what `save` wrote, for the model it was trained on.

        Raises:
            ReadoutError: no such file, files that do not belong together, another model.
        """
        from safetensors.torch import load_file

        path = Path(folder) / DESCRIPTION
        if not path.is_file():
            raise ReadoutError(
                f"No {DESCRIPTION} in {folder}. Give the folder that TunedLens.save wrote; import_tuned reads tuned-lens's own."
            )
        said = json.loads(path.read_text(encoding="utf-8"))
        fingerprint, config = fingerprint_of(slm), slm.model.cfg
        if (said["fingerprint"], said["d_model"], said["n_layers"]) != (fingerprint, config.d_model, config.n_layers):
            raise ReadoutError(
                f"This lens was trained on the model {said['fingerprint'] or 'undeclared'} ({said['n_layers']} layers, d_model {said['d_model']}); "
                f"this is {fingerprint or 'undeclared'} ({config.n_layers} layers, d_model {config.d_model}). Train one for it with train_tuned."
            )
        tensors, history = load_file(Path(folder) / WEIGHTS), Path(folder) / HISTORY
        lens = TunedLens(
            slm,
            tuple(said["layers"]),
            tensors["weight"],
            tensors["bias"],
            None if said["aim"] is None else Aim(**said["aim"]),
            said["trained"],
            pd.read_csv(history) if history.is_file() else pd.DataFrame(),
        )
        if lens.hash != said["hash"]:
            raise ReadoutError(f"{path} promises the lens {said['hash']}; its numbers make {lens.hash}. The files do not belong together.")
        return lens

    def __repr__(self) -> str:
        return f"TunedLens({self.name}, layers {list(self.layers)}, {self.hash})"

    def _repr_html_(self) -> str:
        table = pd.DataFrame(self.trained.get("held_out", ()))
        if len(table):
            table = table.pivot(index="modality", columns="layer", values="kl")
        about = ", ".join(f"{key} {value}" for key, value in self.trained.items() if isinstance(value, (str, int, float)))
        shown = table.to_html(float_format="{:.3f}".format) if len(table) else ""
        return f"<div><b>{escape(repr(self))}</b><p>{escape(about)}. Held-out KL to the model's output, nats:</p>{shown}</div>"

    def _of(self, layer: int) -> tuple[Tensor, Tensor]:
        if layer not in self.layers:
            raise ReadoutError(
                f"This lens has translators at layers {list(self.layers)}, and layer {self.slm.model.cfg.n_layers} needs none; got {layer}."
            )
        place = self.layers.index(layer)
        return self.weight[place], self.bias[place]

    def _described(self) -> dict[str, Any]:
        return {
            "fingerprint": fingerprint_of(self.slm),
            "d_model": self.slm.model.cfg.d_model,
            "n_layers": self.slm.model.cfg.n_layers,
            "layers": list(self.layers),
            "aim": None if self.aim is None else self.aim.settings,
            "trained": dict(self.trained),
        }
