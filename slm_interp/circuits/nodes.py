"""The nodes of a model and the edges between them, as plain tables.

A node that writes is the input (what the embedding wrote), a head, or an MLP; a *target* is an input that reads: queries, keys and values of heads apart
(`q k v`), the input of an MLP and of the final norm (`in`). Names are those of EAP-IG: `input`, `a3.h1`, `m3`, `logits`. Under grouped-query attention keys
and values belong to key-value heads, so their targets are called `a3.kv0`, and what they carry reaches every head of the group; without it they are the head's.

An edge leads from a writer to every target that comes after it: attention of a block reads what all blocks before wrote, an MLP also the heads
of its own block, unless the block is parallel (GPT-NeoX).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Bool

from slm_interp.errors import PatchingError

Kind: TypeAlias = Literal["input", "head", "mlp", "logits"]
Slot: TypeAlias = Literal["q", "k", "v", "in"]
SLOTS: tuple[Slot, ...] = ("q", "k", "v")


@dataclass(frozen=True)
class Writer:
    """A node that adds to the residual stream; its place among the writers is its place in every array."""

    name: str
    kind: Kind
    layer: int
    head: int


@dataclass(frozen=True)
class Target:
    """One input of a node.

    Args:
        node: whose; a key-value head for keys and values under grouped-query attention.
        slot: which of its inputs.
        kind, layer, head: of the node; -1 where there is none.
        before: how many writers come before it: those are the ones that reach it.
        feeds: places of the writers that compute with it; none for the logits.
    """

    node: str
    slot: Slot
    kind: Kind
    layer: int
    head: int
    before: int
    feeds: tuple[int, ...]

    @property
    def name(self) -> str:
        """`a3.h1<q>`, `m3`, `logits`."""
        return self.node if self.slot == "in" else f"{self.node}<{self.slot}>"


@dataclass(frozen=True)
class Shape:
    """What of a model decides its graph."""

    n_layers: int
    n_heads: int
    n_key_value_heads: int
    parallel: bool
    attn_only: bool

    @staticmethod
    def of(config: Any) -> Shape:
        """The shape of a model.

        Raises:
            PatchingError: a model in which what a head writes does not add to the residual stream as it is.
        """
        if getattr(config, "use_normalization_before_and_after", False):
            raise PatchingError(
                "This model norms what attention and MLP write, so its residual stream is no sum of heads; no edges are drawn."
            )
        if getattr(config, "positional_embedding_type", "") == "shortformer":
            raise PatchingError("This model adds positions to the inputs of queries and keys, which no edge carries; no edges are drawn.")
        return Shape(
            config.n_layers,
            config.n_heads,
            getattr(config, "n_key_value_heads", None) or config.n_heads,
            bool(getattr(config, "parallel_attn_mlp", False)),
            bool(getattr(config, "attn_only", False)),
        )

    @property
    def group(self) -> int:
        """Query heads that share a key-value head."""
        return self.n_heads // self.n_key_value_heads

    @property
    def per_block(self) -> int:
        """Writers in a block."""
        return self.n_heads + (not self.attn_only)

    def writer(self, kind: Kind, layer: int = 0, head: int = 0) -> int:
        """The place of a writer."""
        return 0 if kind == "input" else 1 + layer * self.per_block + (self.n_heads if kind == "mlp" else head)


@lru_cache
def writers(shape: Shape) -> tuple[Writer, ...]:
    """Input, then block by block the heads and the MLP."""
    found = [Writer("input", "input", -1, -1)]
    for layer in range(shape.n_layers):
        found += [Writer(f"a{layer}.h{head}", "head", layer, head) for head in range(shape.n_heads)]
        found += [] if shape.attn_only else [Writer(f"m{layer}", "mlp", layer, -1)]
    return tuple(found)


@lru_cache
def targets(shape: Shape) -> tuple[Target, ...]:
    """Block by block queries, keys, values and the MLP; the logits last."""
    found = []
    own = "h" if shape.group == 1 else "kv"
    for layer in range(shape.n_layers):
        before = 1 + layer * shape.per_block
        for slot in SLOTS:
            for head in range(shape.n_heads if slot == "q" else shape.n_key_value_heads):
                size = 1 if slot == "q" else shape.group
                feeds = tuple(shape.writer("head", layer, one) for one in range(head * size, (head + 1) * size))
                found.append(Target(f"a{layer}.{'h' if slot == 'q' else own}{head}", slot, "head", layer, head, before, feeds))
        if not shape.attn_only:
            reached = before + (0 if shape.parallel else shape.n_heads)
            found.append(Target(f"m{layer}", "in", "mlp", layer, -1, reached, (shape.writer("mlp", layer),)))
    return (*found, Target("logits", "in", "logits", shape.n_layers, -1, len(writers(shape)), ()))


def places(shape: Shape, layer: int, slot: Slot) -> slice:
    """Where the targets of a block's slot stand among the targets; `in` is its MLP."""
    per_block = shape.n_heads + 2 * shape.n_key_value_heads + (not shape.attn_only)
    starts = {"q": 0, "k": shape.n_heads, "v": shape.n_heads + shape.n_key_value_heads, "in": per_block - 1}
    sizes = {"q": shape.n_heads, "k": shape.n_key_value_heads, "v": shape.n_key_value_heads, "in": 1}
    return slice(layer * per_block + starts[slot], layer * per_block + starts[slot] + sizes[slot])


def real_edges(shape: Shape, spans: int) -> Bool[np.ndarray, "source target source_span target_span"]:
    """Which edges there are: from before to after, and in time.

    Only keys and values carry from one span to another; spans are in the order of their positions, and attention looks back.
    """
    n_writers, all_targets = len(writers(shape)), targets(shape)
    before = np.arange(n_writers)[:, None] < np.array([one.before for one in all_targets])
    across = np.array([one.slot in ("k", "v") for one in all_targets])
    own, back = np.eye(spans, dtype=bool), np.triu(np.ones((spans, spans), dtype=bool))
    return before[:, :, None, None] & np.where(across[:, None, None], back, own)[None]
