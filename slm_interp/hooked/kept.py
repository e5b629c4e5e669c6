"""What is kept of a run so that later runs may begin in its middle, and what such a run writes; alike on every TransformerLens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

KeysAndValues: TypeAlias = tuple[tuple[Tensor, Tensor], ...]


@dataclass(frozen=True, eq=False)
class Kept:
    """A run of rows that begin with one prompt.

    Args:
        tokens: padded on the right.
        lengths: of each row without its pads.
        prompt: positions at the start that are alike in every row.
        stream: the residual stream after 0, 1, ... n_layers blocks.
        past: keys and values of every block at the prompt, `[1 pos head d_head]` each, as the model's own cache has them; None where
            TransformerLens has no such cache (4.x).
        at: what stood at the hooks asked for, at the prompt of the first row.
        broken: hooks where a value was not finite: residuals, queries, keys, values.
    """

    tokens: Int[Tensor, "row pos"]
    lengths: tuple[int, ...]
    prompt: int
    stream: Float[Tensor, "layer_and_one row pos d_model"]
    past: KeysAndValues | None
    at: Mapping[str, Tensor]
    broken: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Writes:
    """Vectors that replace those of a batch of runs, one entry for each vector.

    Args:
        run: whose activation is changed.
        pos: where; for an attention pattern the destination.
        values: what is put there; for an attention pattern the weights of the sources from position 0 on.
        head: of which head, at hooks that have heads.
        pattern: whether the activation is an attention pattern, `[run head dest src]`, and not `[run pos ...]`.
    """

    run: Int[Tensor, " entry"]
    pos: Int[Tensor, " entry"]
    values: Float[Tensor, "entry size"]
    head: Int[Tensor, " entry"] | None = None
    pattern: bool = False

    def into(self, activation: Float[Tensor, "run ..."], offset: int = 0) -> Float[Tensor, "run ..."]:
        """The activation with these vectors in place; the one given stays as it is.

        Args:
            offset: position that the activation begins with.
        """
        device = activation.device
        run, pos, values = self.run.to(device), self.pos.to(device) - offset, self.values.to(activation)
        changed = activation.clone()
        if self.head is None:
            changed[run, pos] = values
        elif self.pattern:
            changed[run, self.head.to(device), pos, : values.shape[1]] = values
        else:
            changed[run, pos, self.head.to(device)] = values
        return changed

    def among(self, kept: Bool[Tensor, " entry"]) -> Writes:
        """Some of the entries."""
        head = None if self.head is None else self.head[kept]
        return replace(self, run=self.run[kept], pos=self.pos[kept], values=self.values[kept.to(self.values.device)], head=head)

    def of(self, runs: Int[Tensor, " some_run"]) -> Writes:
        """The entries of some runs, which are counted from 0 in the order given."""
        place = torch.zeros(int(torch.cat([self.run, runs]).max()) + 1, dtype=torch.long)
        place[runs] = torch.arange(len(runs))
        own = self.among(torch.isin(self.run, runs))
        return replace(own, run=place[own.run])


def joined(parts: list[Writes]) -> Writes:
    """The entries of several, of one kind."""
    heads = [part.head for part in parts if part.head is not None]
    return Writes(
        torch.cat([part.run for part in parts]),
        torch.cat([part.pos for part in parts]),
        torch.cat([part.values for part in parts]),
        torch.cat(heads) if heads else None,
        parts[0].pattern,
    )
