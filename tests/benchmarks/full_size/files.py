"""Writing a checkpoint larger than memory: every tensor's bytes go to its file block by block."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.benchmarks.full_size.shapes import Shape

SHARD_BYTES = 5_000_000_000
BLOCK = 2**24 - 3  # a prime: repeated, it makes no two rows of a matrix alike
SPREAD = 0.02


class Numbers:
    """Endless random bfloat16: one normal block over and over; around 1 for the weights of norms."""

    def __init__(self) -> None:
        self._block = torch.randn(BLOCK, generator=torch.Generator().manual_seed(0)).mul_(SPREAD).bfloat16()
        self._place = 0

    def write(self, file: BinaryIO, name: str, count: int) -> None:
        """The next `count` of them."""
        while count:
            part = self._block[self._place : self._place + count]
            self._place = (self._place + len(part)) % BLOCK
            count -= len(part)
            file.write((part + 1 if "norm" in name else part).view(torch.uint8).numpy())


def write(folder: Path, shape: Shape, shard_bytes: int = SHARD_BYTES) -> None:
    """The whole folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config, tensors = shape.laid_out()
    if shape.binary:
        write_binary(folder / "pytorch_model.bin", tensors, Numbers())
    else:
        write_shards(folder, tensors, Numbers(), shard_bytes)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / shape.tokenizer_folder).mkdir(exist_ok=True)
    shape.tokenizer(folder / shape.tokenizer_folder)


def write_shards(folder: Path, tensors: Mapping[str, Tensor], numbers: Numbers, shard_bytes: int) -> None:
    """safetensors files of at most `shard_bytes`, in the order of the tensors, and their index."""
    shards: list[dict[str, Tensor]] = [{}]
    for name, tensor in tensors.items():
        if shards[-1] and 2 * sum(one.numel() for one in [*shards[-1].values(), tensor]) > shard_bytes:
            shards.append({})
        shards[-1][name] = tensor
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        weight_map |= dict.fromkeys(shard, file)
        write_shard(folder / file, shard, numbers)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def write_shard(path: Path, tensors: Mapping[str, Tensor], numbers: Numbers) -> None:
    """A safetensors file."""
    header, offset = {}, 0
    for name, tensor in tensors.items():
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [offset, offset + 2 * tensor.numel()]}
        offset += 2 * tensor.numel()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, tensor in tensors.items():
            numbers.write(file, name, tensor.numel())


def write_binary(path: Path, tensors: Mapping[str, Tensor], numbers: Numbers) -> None:
    """What `torch.save` writes: it makes the archive around holes, which are filled afterwards.

    The archive's checksums are those of the holes. torch does not look at them.
    """
    with FakeTensorMode():
        state = {name: torch.empty(tensor.shape, dtype=torch.bfloat16) for name, tensor in tensors.items()}
        with torch.serialization.skip_data(materialize_fake_tensors=True):
            torch.save(state, path)
        places = {name: one.untyped_storage()._checkpoint_offset for name, one in torch.load(path, weights_only=True).items()}
    with path.open("r+b") as file:
        for name, tensor in tensors.items():
            file.seek(places[name])
            numbers.write(file, name, tensor.numel())
