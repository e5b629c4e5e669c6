"""How far the training of a tuned lens is, kept in a file that is whole or not there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from slm_interp.errors import ReadoutError
from slm_interp.files import atomic_path

Looked = tuple[int, int, int, str, float]  # step, positions seen, layer, modality, kl
TENSORS = ("map", "best", "inputs", "outputs", "constant", "input_scale", "best_kl", "since_best")
FILE = "training.safetensors"


@dataclass
class Progress:
    """Maps, curvature and what was seen so far; all of it changes.

    Args:
        map: `W` and, as its last column, `b / constant`, of each layer.
        best: those with the lowest held-out KL so far, and `best_kl` that KL, in nats.
        inputs, outputs: the two factors of the curvature (`kronecker`).
        constant: the last coordinate of the inputs, in the units of the others, so that a bias is a weight like others.
        input_scale: a coordinate's median square.
        since_best: looks at the held-out side since the lowest KL fell.
        step: Newton's steps taken.
        seen: positions run through the model to train on, repeats counted.
        looks: held-out KL so far.
    """

    map: Float[Tensor, "layer d_model input"]
    best: Float[Tensor, "layer d_model input"]
    inputs: Float[Tensor, "layer input input"]
    outputs: Float[Tensor, "layer d_model d_model"]
    constant: Float[Tensor, " layer"]
    input_scale: Float[Tensor, " layer"]
    best_kl: Float[Tensor, " layer"]
    since_best: Float[Tensor, " layer"]
    step: int = 0
    seen: int = 0
    looks: list[Looked] = field(default_factory=list)

    @staticmethod
    def new(n_layers: int, d_model: int, device: torch.device, dtype: torch.dtype) -> Progress:
        """Before anything was seen: maps of zeros."""

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, device=device, dtype=dtype)

        inputs = d_model + 1
        return Progress(
            zeros(n_layers, d_model, inputs),
            zeros(n_layers, d_model, inputs),
            zeros(n_layers, inputs, inputs),
            zeros(n_layers, d_model, d_model),
            zeros(n_layers),
            zeros(n_layers),
            torch.full((n_layers,), torch.inf),
            torch.zeros(n_layers),
        )

    def save(self, folder: Path, identity: Mapping[str, object]) -> None:
        """Write everything into one file of a folder."""
        from safetensors.torch import save_file

        said = {"identity": dict(identity), "step": self.step, "seen": self.seen, "looks": self.looks}
        tensors = {name: getattr(self, name).cpu().contiguous() for name in TENSORS}
        with atomic_path(folder / FILE) as path:
            save_file(tensors, path, metadata={"progress": json.dumps(said, sort_keys=True)})

    @staticmethod
    def load(folder: Path, identity: Mapping[str, object], device: torch.device) -> Progress | None:
        """What `save` wrote, or None where nothing lies in the folder.

        Args:
            folder: where.
            identity: what must be the same for the training to go on: model, rows, aim, recipe.
            device: where the curvature is to be.

        Raises:
            ReadoutError: the training of something else.
        """
        from safetensors import safe_open

        path = folder / FILE
        if not path.is_file():
            return None
        with safe_open(path, "pt") as file:
            said = json.loads(file.metadata()["progress"])
            differing = sorted(key for key in {*said["identity"], *identity} if said["identity"].get(key) != _plain(identity).get(key))
            if differing:
                key = differing[0]
                raise ReadoutError(
                    f"{path} is the training of another lens: its {key} is {said['identity'].get(key)}, this one's {identity.get(key)}. "
                    "Give another folder, or remove that file to begin anew."
                )
            tensors = {name: file.get_tensor(name) for name in TENSORS}
        on_cpu = ("best_kl", "since_best")
        placed = {name: tensor if name in on_cpu else tensor.to(device) for name, tensor in tensors.items()}
        looks = [(int(step), int(seen), int(layer), str(kind), float(kl)) for step, seen, layer, kind, kl in said["looks"]]
        return Progress(**placed, step=said["step"], seen=said["seen"], looks=looks)


def _plain(identity: Mapping[str, object]) -> dict[str, object]:
    """As it comes back from JSON."""
    return dict(json.loads(json.dumps(dict(identity))))
