"""Many sequences in one run, padded so that padding changes no number.

Padding goes wrong in three silent ways: a pad is attended to, positions are counted from the pads, or a tokenizer's
`padding_side` makes TransformerLens take real ids for pads. So the mask and the positions always come from the lengths
of the rows and never from ids, and every row is cut out of the batch before anybody sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from slm_interp.errors import ReadoutError
from slm_interp.hooked.installed import HookedTransformer, run_blocks
from slm_interp.hooked.reading import residuals
from slm_interp.hooked.sites import stream_names

PaddingSide = Literal["right", "left"]
PAD = 0  # any id that the model has; no real position reads it
MEMORY = 256 * 2**20


def residuals_of(
    model: HookedTransformer, rows: Sequence[Int[Tensor, " _"]], padding_side: PaddingSide = "right"
) -> list[Float[Tensor, "layer_and_one _ d_model"]]:
    """`residuals` of several sequences in one run; each has its own length, without pads.

    Equal to one run for each up to the rounding of larger matrix products.

    Raises:
        ReadoutError: no rows, an empty one, one longer than the model reads, or an unknown side.
    """
    if padding_side not in get_args(PaddingSide):
        raise ReadoutError(f"Rows are padded on the right or on the left; got {padding_side!r}.")
    lengths = [len(row) for row in rows]
    if not lengths or min(lengths) < 1 or max(lengths) > model.cfg.n_ctx:
        raise ReadoutError(
            f"A batch has one row or more of 1 to {model.cfg.n_ctx} positions each; got {len(lengths)} rows of "
            f"{min(lengths, default=0)} to {max(lengths, default=0)} positions."
        )
    if len(rows) == 1:
        return [residuals(model, rows[0])]
    longest = max(lengths)
    places = [slice(0, one) if padding_side == "right" else slice(longest - one, longest) for one in lengths]
    tokens = torch.full((len(rows), longest), PAD, dtype=rows[0].dtype, device=rows[0].device)
    mask = torch.zeros_like(tokens)
    for number, (row, place) in enumerate(zip(rows, places, strict=True)):
        tokens[number, place] = row
        mask[number, place] = 1
    stream: list[Tensor] = []

    def keep(resid: Tensor, hook: Any) -> None:
        stream.append(resid)

    with torch.no_grad():
        run_blocks(model, tokens, [(name, keep) for name in stream_names(model)], mask)
    return [torch.stack([layer[number, place] for layer in stream]) for number, place in enumerate(places)]


def each_residuals(
    model: HookedTransformer, rows: Sequence[Int[Tensor, " _"]], memory: int = MEMORY
) -> Iterator[tuple[int, Float[Tensor, "layer_and_one _ d_model"]]]:
    """The number of each sequence and its residuals, in batches of similar length: shortest first, not in the order given.

    Models in less than float32 run every sequence alone: the order in which a product of another size sums moves a bfloat16 residual
    by 0.3%, enough to change ranks, and then a result would depend on who else was in the batch.

    Args:
        memory: bytes that a batch's residuals and its largest block may take; a single long row may take more.

    Raises:
        ReadoutError: as `residuals_of`.
    """
    exact = model.cfg.dtype in (torch.float32, torch.float64)
    for numbers in batches([len(row) for row in rows], lambda count, length: exact and batch_bytes(model.cfg, count, length) <= memory):
        yield from zip(numbers, residuals_of(model, [rows[number] for number in numbers]), strict=True)


def batches(lengths: Sequence[int], fits: Callable[[int, int], bool]) -> list[list[int]]:
    """Numbers of the rows, by length, in as few batches as `fits(rows, longest)` allows; one row always fits."""
    found: list[list[int]] = []
    for number in sorted(range(len(lengths)), key=lambda one: lengths[one]):
        if found and fits(len(found[-1]) + 1, lengths[number]):
            found[-1].append(number)
        else:
            found.append([number])
    return found


def batch_bytes(config: Any, count: int, length: int) -> int:
    """About what a padded batch takes: residuals twice (as they come and cut to rows), one block's attention and MLP."""
    by_position = 2 * (config.n_layers + 1) * config.d_model + 3 * (config.d_mlp or 0) + 6 * config.d_model
    by_pair = 4 * config.n_heads
    return count * length * (by_position + by_pair * length) * config.dtype.itemsize
