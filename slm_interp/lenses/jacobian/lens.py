"""The Jacobian lens: a residual moved to the last layer by the mean Jacobian, then read by the model's own norm and unembedding.

Gurnee et al. 2026, "Verbalizable Representations Form a Global Workspace in Language Models"
(transformer-circuits.pub/2026/workspace); the estimator stands in `fit.py`. As published:

    scores = norm(J_l resid),  logits = W_U scores + b_U

1. `J_l resid` is computed in float32 (float64 for float64 models), and rounded to the model's dtype before the norm.
2. There is no offset: the lens is linear, not the tangent of the network at a point.
3. The norm is recomputed on the moved vector, with its weight and bias; the unembedding keeps its bias.
4. After the last block J is the identity: the last row of a reading is the model's own output.

The logit lens is the case `J_l = I`. Layers count blocks run, so `J_l` of this module is TransformerLens's and the reference
implementation's `J[l - 1]`; they do not have layer 0, the embedding, which is fitted here by the same rule.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from slm_interp import hooked
from slm_interp.errors import ReadoutError
from slm_interp.files import atomic_path, write_text
from slm_interp.lenses.directions import columns_of, directions_of, first_pieces
from slm_interp.lenses.lens import read
from slm_interp.lenses.probe.states import fingerprint_of
from slm_interp.lenses.reading import Reading
from slm_interp.model import SpeechTextModel
from slm_interp.utterance import Utterance

SAID = ("sources", "targets", "skip_first_positions", "max_seq_len", "corpus", "n_prompts")


@dataclass(frozen=True, eq=False)
class JacobianLens:
    """A fitted Jacobian lens of a model. Make one with `fit_jacobian`, `load` or `import_transformer_lens`.

    Args:
        slm: the model it was fitted on.
        layers: blocks run, ascending; a subset of 0 .. n_layers - 1.
        jacobians: one matrix a layer, `[output, input]`, in float32 (float64 for float64 models).
        fitted: what was averaged: `n_prompts`, `corpus` (hash), `sources`, `targets`, `skip_first_positions`, `max_seq_len`, `fingerprint`.

    Raises:
        ReadoutError: matrices that do not fit model and layers, or are not finite; no prompts.
    """

    slm: SpeechTextModel
    layers: tuple[int, ...]
    jacobians: Float[Tensor, "layer d_out d_in"]
    fitted: Mapping[str, Any]
    name: str = "jacobian"

    def __post_init__(self) -> None:
        config = self.slm.model.cfg
        wanted = (len(self.layers), config.d_model, config.d_model)
        if tuple(self.jacobians.shape) != wanted or not self.layers:
            raise ReadoutError(f"A Jacobian lens has one matrix a layer, here {wanted}; got {tuple(self.jacobians.shape)}.")
        if list(self.layers) != sorted(set(self.layers)) or self.layers[0] < 0 or self.layers[-1] >= config.n_layers:
            raise ReadoutError(
                f"Jacobians lead from layers 0 (embedding) to {config.n_layers - 1} to the last one, {config.n_layers}, each once and "
                f"ascending; got {list(self.layers)}."
            )
        broken = [layer for layer, one in zip(self.layers, self.jacobians, strict=True) if not one.isfinite().all()]
        if broken:
            raise ReadoutError(f"The Jacobians of layers {broken} are not finite. Fit the lens again.")
        if int(self.fitted["n_prompts"]) < 1:
            raise ReadoutError(f"A Jacobian lens is the mean over prompts; got {self.fitted['n_prompts']} of them.")

    @property
    def hash(self) -> str:
        """What tells this lens from another: the first 16 hex digits of SHA-256 over its numbers, layers and what was averaged."""
        digest = hashlib.sha256(json.dumps([self.layers, dict(self.fitted)], sort_keys=True).encode())
        digest.update(self.jacobians.double().cpu().contiguous().numpy().astype("<f8").tobytes())
        return digest.hexdigest()[:16]

    @property
    def settings(self) -> dict[str, str]:
        """What a reading has to say about this lens."""
        return {"lens": self.name, "jacobian": self.hash, **{f"jacobian_{key}": str(self.fitted.get(key, "")) for key in SAID}}

    def jacobian(self, layer: int) -> Float[Tensor, "d_out d_in"]:
        """The mean Jacobian from a layer to the last one; the identity from the last one.

        Raises:
            ReadoutError: a layer it was not fitted at.
        """
        if layer == self.slm.model.cfg.n_layers:
            return torch.eye(self.jacobians.shape[-1], dtype=self.jacobians.dtype, device=self.jacobians.device)
        if layer not in self.layers:
            raise ReadoutError(
                f"This Jacobian lens was fitted at layers {list(self.layers)}; got {layer}. Read with layers=, or fit it there. "
                "Lenses of other packages have no layer 0."
            )
        return self.jacobians[self.layers.index(layer)]

    def moved(self, resid: Float[Tensor, "*batch d_model"], layer: int) -> Float[Tensor, "*batch d_model"]:
        """Residuals of a layer moved to the last layer, before the final norm, in the lens's dtype.

        Raises:
            ReadoutError: a layer it was not fitted at.
        """
        matrix = self.jacobian(layer).to(resid.device)
        return resid.to(matrix.dtype) @ matrix.T

    def scores(self, resid: Float[Tensor, "*batch d_model"], layer: int) -> Float[Tensor, "*batch d_model"]:
        """Residuals of a layer as vectors ready for `W_U`: moved, in the dtype of the model, through the final norm.

        Raises:
            ReadoutError: a layer it was not fitted at.
        """
        moved = resid if layer == self.slm.model.cfg.n_layers else self.moved(resid, layer).to(resid.dtype)
        return hooked.final_norm(self.slm.model, moved)

    def directions(self, layer: int, words: Sequence[str]) -> Float[Tensor, "word d_model"]:
        """The direction along which each word's first piece is read at a layer, `J_l^T` of its direction at the last layer.

        There it is the column of `W_U` pulled back through the final norm: times its weight, centred for LayerNorm. TransformerLens's
        `lens_vectors`, `J_l^T W_U`, leave the norm out; `vectors` gives those.

        Raises:
            ReadoutError: a layer it was not fitted at.
            VocabularyError: words the tokenizer cannot spell.
        """
        return self.directions_of_ids(layer, first_pieces(self.slm, words))

    def directions_of_ids(self, layer: int, ids: Sequence[int]) -> Float[Tensor, "id d_model"]:
        """The same for ids instead of words.

        Raises:
            ReadoutError: a layer it was not fitted at.
            VocabularyError: ids outside the vocabulary.
        """
        columns = directions_of(self.slm, ids)
        return columns @ self.jacobian(layer).to(columns)

    def vectors(self, layer: int, ids: Sequence[int]) -> Float[Tensor, "id d_model"]:
        """The published J-lens vectors of some ids: rows of `W_U^T J_l`, without the final norm.

        Raises:
            ReadoutError: a layer it was not fitted at.
            VocabularyError: ids outside the vocabulary.
        """
        columns = columns_of(self.slm, ids)
        return columns @ self.jacobian(layer).to(columns)

    def read(self, utterance: Utterance | Int[Tensor, " pos"], **options: Any) -> Reading:
        """What every layer it was fitted at, and the last, says at every position; options and errors as in `lenses.read`."""
        options.setdefault("layers", [*self.layers, self.slm.model.cfg.n_layers])
        return read(self, self.slm, utterance, **options)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write `jacobian.safetensors` and `jacobian.json` into a folder."""
        from safetensors.torch import save_file

        with atomic_path(Path(folder) / "jacobian.safetensors") as path:
            save_file({"jacobians": self.jacobians.cpu().contiguous()}, path)
        described = {"hash": self.hash, "layers": self.layers, "fitted": dict(self.fitted)}
        write_text(Path(folder) / "jacobian.json", json.dumps(described, indent=1) + "\n")

    @staticmethod
    def load(folder: str | os.PathLike[str], slm: SpeechTextModel) -> JacobianLens:
        """Read what `save` wrote, for the model it was fitted on (in whichever dtype).

        Raises:
            ReadoutError: no such files, files that do not belong together, another model.
        """
        from safetensors.torch import load_file

        path, numbers = Path(folder) / "jacobian.json", Path(folder) / "jacobian.safetensors"
        if not (path.is_file() and numbers.is_file()):
            raise ReadoutError(f"No jacobian.json and jacobian.safetensors in {folder}. Give the folder that JacobianLens.save wrote.")
        described = json.loads(path.read_text(encoding="utf-8"))
        check_model(slm, described["fitted"].get("fingerprint", ""))
        lens = JacobianLens(slm, tuple(described["layers"]), load_file(numbers)["jacobians"], described["fitted"])
        if lens.hash != described["hash"]:
            raise ReadoutError(
                f"{path} promises the lens {described['hash']}; its numbers make {lens.hash}. The files do not belong together."
            )
        return lens

    def __repr__(self) -> str:
        said = self.fitted
        return (
            f"JacobianLens({said.get('sources', '?')} -> {said.get('targets', '?')} positions, {said['n_prompts']} prompts, "
            f"layers {self.layers[0]}..{self.layers[-1]}, d_model {self.jacobians.shape[-1]})"
        )

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><td>{escape(key)}</td><td>{escape(str(value))}</td></tr>" for key, value in self.fitted.items())
        return f"<div><b>{escape(repr(self))}</b><table>{rows}</table>lens {self.hash}</div>"


def check_model(slm: SpeechTextModel, fingerprint: str) -> None:
    """Refuse a model that is not the one a lens was fitted on.

    Raises:
        ReadoutError: another fingerprint.
    """
    if fingerprint != fingerprint_of(slm):
        raise ReadoutError(
            f"This Jacobian lens was fitted on the model {fingerprint or 'undeclared'}; this is {fingerprint_of(slm) or 'undeclared'}. "
            "Fit one for it with fit_jacobian."
        )
