"""`load`: a checkpoint folder becomes a `SpeechTextModel`, its weights memory-mapped views of the files."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from slm_interp import hooked
from slm_interp.convert.families import Named
from slm_interp.convert.rules import convert
from slm_interp.convert.source import Source, open_source, vocabulary_of
from slm_interp.errors import CheckpointError, ConversionError
from slm_interp.model import SpeechTextModel

VERSIONED = ("slm-interp", "torch", "transformer-lens", "transformers")


def load(
    path: str | os.PathLike[str],
    text_tokenizer: Any | None = None,
    *,
    family: Named | None = None,
    n_units: int | None = None,
    quantiser: Any | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    allow_nan: bool = False,
) -> SpeechTextModel:
    """Load a speech-text checkpoint into a `HookedTransformer`.

    Weights stay where they are: every parameter is a view of the memory-mapped file, so loading takes
    seconds and next to no memory whatever the size. Norms are not folded and nothing is centred.

    Args:
        path: a folder, the name of a packaged organism ("tiny"), or a hub id (only then is the hub asked).
        text_tokenizer: tokenizer of the text ids, as an object, a folder or a hub id; needed for
            interleaved slamkit checkpoints, which do not carry one.
        family: whose vocabulary and prompt forms the checkpoint has: a name, a `.toml` or `.yaml` file that declares one, or a
            `Declaration`. None asks the families which of them recognises it.
        n_units: units of each codebook, where they are not the family's own number.
        quantiser: what makes the model's units, or the hash of its codebook, where the folder does not carry it.
        dtype: None keeps the files' own; another one is converted parameter by parameter, into memory.
        device: where to put the model, parameter by parameter; what goes to another device takes no memory here.
        allow_nan: load weights with NaN or infinite values. Tensors up to 1 MB are read whole for this
            check, larger ones sampled; `verify` reads every byte.

    Raises:
        CheckpointError: damaged or incomplete files, NaN weights. ConversionError: a config key that was
            not read, a tensor without a rule, a parameter left unfilled, a tokenizer that does not fit.
    """
    source = open_source(path, text_tokenizer, family)
    vocabulary, prompts, tokenizer, carried = vocabulary_of(source, n_units, quantiser)
    vocabulary.check_embedding(source.rows)
    if not allow_nan:
        refuse_non_finite(source, whole=False)
    model = hooked_model(source, dtype, device)
    if tokenizer is not None:
        hooked.attach_tokenizer(model, tokenizer)
    if torch.device(device).type != "cpu":
        model.to(device)  # the parameters are there already: this takes the buffers, and notes the device in the config
    return SpeechTextModel(model, vocabulary, prompts, tokenizer, provenance(source), carried, source.checkpoint.folder)


def hooked_model(
    source: Source, dtype: torch.dtype | None = None, device: str | torch.device = "cpu", *, streamed: bool = False
) -> hooked.HookedTransformer:
    """The model, filled.

    Args:
        source: an opened checkpoint.
        dtype: to compute in; None is the files' own.
        device: of the parameters.
        streamed: leave the weights in the files' dtype although the model computes in `dtype`; whoever
            runs it converts each module's weights as it comes.
    """
    stored = set(source.needed.values())
    if dtype is None and len(stored) > 1:
        raise ConversionError(f"The checkpoint mixes {', '.join(sorted(map(str, stored)))}; choose one with dtype=.")
    chosen = dtype or next(iter(stored))
    try:
        model = hooked.empty({**source.fields, "dtype": chosen})
    except Exception as error:  # sizes that contradict each other or overflow end in kinds of torch, numpy and TransformerLens
        raise ConversionError(f"No HookedTransformer has the sizes of config.json: {error!s:.200}") from error

    state = convert(
        source.rules,
        source.shapes,
        reader(source),
        {name: tuple(parameter.shape) for name, parameter in hooked.parameters(model).items()},
        {"d_head": source.fields["d_head"]},
        source.fields["n_layers"],
        chosen,
    )
    return hooked.fill(model, state if streamed else placed(state, chosen, device))


def placed(state: dict[str, Tensor], dtype: torch.dtype, device: str | torch.device) -> dict[str, Tensor]:
    """The same parameters in a dtype and on a device, each replaced before the next: there is never a second copy of them.

    What has both already stays as it is, a view of the mapped file. Of a view, only what it shows is converted, not the tensor it
    was cut from; and it moves first, so that converting takes memory where it is going and none here.

    Args:
        state: parameters by name; changed in place.
        dtype: of all of them.
        device: of all of them.
    """
    for name, tensor in state.items():
        state[name] = tensor.to(device).to(dtype)
    return state


def reader(source: Source) -> Callable[[str], Tensor]:
    """Gives tensors by name, as views of the files, so that no two parameters share memory.

    A tied matrix is read twice, and in a `pytorch_model.bin` two names may stand for the same memory; TransformerLens
    writes into parameters when it folds norms. The second reading comes from a mapping of its own.
    """
    taken: list[range] = []

    def read(name: str) -> Tensor:
        tensor = source.tensor(name)
        place = _bytes_of(tensor)
        if any(place.start < one.stop and one.start < place.stop for one in taken):
            return source.tensor(name, separate=True)
        taken.append(place)
        return tensor

    return read


def _bytes_of(tensor: Tensor) -> range:
    """The addresses from the first number of a tensor to its last."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return range(tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()) if tensor.numel() else range(0)


def refuse_non_finite(source: Source, whole: bool) -> None:
    """Refuse weights that are NaN or infinite: the attention would hide them behind finite logits."""
    bad = source.checkpoint.non_finite(source.needed, whole)
    if bad:
        raise CheckpointError(
            f"{len(bad)} tensors hold NaN or infinite values: {', '.join(bad[:5])}. To load them all the same, pass allow_nan=True."
        )


def provenance(source: Source) -> Mapping[str, str]:
    """Where a model came from and what read it."""
    return {
        "checkpoint": source.checkpoint.folder.resolve().name,
        "fingerprint": source.checkpoint.fingerprint(),
        "family": source.family.name,
        "architecture": source.architecture.name,
        **{package: version(package) for package in VERSIONED},
    }
