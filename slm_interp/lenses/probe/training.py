"""Training a word probe, and its selectivity.

1. Residuals at one position of every word (`collect`), in sides that share no sentence (`split`).
2. At each layer a multinomial logistic regression with a ridge penalty (`multinomial`): of the penalties the one with the lowest cross-entropy
   on a quarter of the training sentences, then all of them again. Whole sentences, since the words of one lean on each other.
   Ridge regression on one-hot labels has a closed form but masks classes (Hastie, Tibshirani & Friedman, The Elements of Statistical
   Learning, 4.2), and the more of them there are the more it does so.
3. The same on a control task (`control`), for the selectivity of what was found.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from slm_interp.errors import ReadoutError
from slm_interp.lenses.probe.control import Control, counts, labels_of
from slm_interp.lenses.probe.multinomial import fit, whitening
from slm_interp.lenses.probe.probe import Apart, WordProbe, dataset_of
from slm_interp.lenses.probe.states import States, held_out

Asked: TypeAlias = Literal["current", "next", "previous"]

PENALTIES = (1e-1, 1e-2, 1e-3, 1e-4)
VALIDATION = 0.25  # of the training sentences


def train_probe(
    states: States,
    target: Asked = "current",
    layers: Sequence[int] | None = None,
    penalties: Sequence[float] = PENALTIES,
    control: Control = "none",
    seed: int = 0,
) -> WordProbe:
    """A probe of a word at every layer of some states, all of which are used: keep others for `accuracy`.

    Args:
        states: of at least two sentences.
        target: which word.
        layers: of the states; None is all of them.
        penalties: to choose from, in units of the mean variance of a coordinate.
        control: random labels for every `"word"` or every `"unit"` instead of words; see the top of this file.
        seed: of the validation sentences and of the control's labels.

    Raises:
        ReadoutError: fewer than two words or sentences, layers or penalties that are not there, a control that is the task itself.
    """
    if not penalties or min(penalties) <= 0:
        raise ReadoutError(f"Penalties are one or more positive numbers; got {list(penalties)}.")
    absent = sorted(set(layers or ()) - set(states.dataset["layer"].values.tolist()))
    if absent:
        raise ReadoutError(f"These states have no layers {absent}; they have {states.dataset['layer'].values.tolist()}.")
    states = states.where(states.labels(target) != "")
    drawn_from = counts(states.labels(target))
    labels = labels_of(states, target, control, seed, drawn_from)
    classes = sorted(set(labels))
    if len(classes) < 2:
        raise ReadoutError(f"A probe tells words apart and needs two of them; got {classes}.")
    chosen = sorted(set(layers)) if layers is not None else states.dataset["layer"].values.tolist()
    numbers = torch.from_numpy(np.searchsorted(classes, labels.astype(str)))
    held = torch.from_numpy(held_out(states, "sentence", VALIDATION, seed))
    fitted = [_fitted(torch.from_numpy(states.dataset["resid"].sel(layer=layer).values), numbers, held, penalties) for layer in chosen]
    said = counts(labels)
    tensors = {name: np.stack([one[name] for one in fitted]) for name in fitted[0]}
    tensors["count"] = np.array([said[word] for word in classes])
    trained_on = {what: sorted(set(states.dataset[what].values)) for what in ("key", "sentence", "voice")}
    attrs = {
        "target": target,
        "control": control,
        "seed": seed,
        **{name: states.dataset.attrs[name] for name in ("position", "fingerprint", "provenance_json")},
        "drawn_from_json": json.dumps(drawn_from, sort_keys=True),
        "trained_on_json": json.dumps(trained_on),
    }
    return WordProbe(dataset_of(chosen, classes, tensors, attrs))


def selectivity(
    train: States, test: States, target: Asked = "current", apart: Sequence[Apart] = ("key", "sentence"), **options: Any
) -> xr.Dataset:
    """Accuracy of a probe, of its control, and their difference, by layer; on `test`, which shares nothing with `train`.

    The control is `"unit"` for the current word and `"word"` for the others. Its `majority` is `control_majority`.

    Args:
        train, test: states, as from `split`.
        target: which word.
        apart: see `WordProbe.ranks`.
        **options: layers, penalties and seed of `train_probe`.

    Raises:
        ReadoutError: what `train_probe` and `WordProbe.accuracy` refuse.
    """
    control: Control = "unit" if target == "current" else "word"
    task, other = (
        train_probe(train, target, control=one, **options).accuracy(test, (1,), apart).sel(k=1, drop=True) for one in ("none", control)
    )
    parts = {f"control_{name}": other[name] for name in ("accuracy", "majority", "chance", "without_class")}
    parts["selectivity"] = task["accuracy"] - other["accuracy"]
    return task.assign(parts).assign_attrs(control=control)


def _fitted(
    resid: Float[Tensor, "word d_model"], labels: Int[Tensor, " word"], held: Bool[Tensor, " word"], penalties: Sequence[float]
) -> dict[str, np.ndarray]:
    """Weight, bias and penalty at one layer. A penalty alone needs no validation."""
    penalty = penalties[0] if len(set(penalties)) == 1 else _chosen(resid, labels, held, penalties)
    weight, bias = fit(whitening(resid), labels, int(labels.max()) + 1, penalty)
    return {"weight": weight.numpy(), "bias": bias.numpy(), "penalty": np.array(penalty)}


def _chosen(
    resid: Float[Tensor, "word d_model"], labels: Int[Tensor, " word"], held: Bool[Tensor, " word"], penalties: Sequence[float]
) -> float:
    """The penalty with the lowest cross-entropy on held words that the others have too; of equals the greatest."""
    there, inside = labels[~held].unique(return_inverse=True)
    asked = held & torch.isin(labels, there)
    if len(there) < 2 or not asked.any():
        raise ReadoutError(
            "Too few words said in several sentences to choose a penalty by. Give more utterances, or one penalty: penalties=(1e-3,)."
        )
    right, points = torch.searchsorted(there, labels[asked]), whitening(resid[~held])
    losses = {}
    for penalty in sorted(set(penalties), reverse=True):
        weight, bias = fit(points, inside, len(there), penalty)
        losses[penalty] = float(cross_entropy(resid[asked] @ weight.T + bias, right))
    return min(losses, key=lambda one: losses[one])
