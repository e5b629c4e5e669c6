"""Where in a block the residual stream and what is added to it can be read: a table of sites, and what stands at each.

TransformerLens's own names of hooks; 3.9 and 4.x have them alike (4.x as aliases). What a name means is checked in
`tests/lenses/test_sites.py` by what the model does: `resid_mid = resid_pre + attn_out`, `resid_post = resid_mid + mlp_out`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from slm_interp.errors import ReadoutError
from slm_interp.hooked.installed import PARTIAL, VERSION, HookedTransformer, run_blocks


@dataclass(frozen=True)
class Site:
    """One place in every block.

    Args:
        hook: its name, by block.
        label: what a layer is called there, by block.
        says: what is read, for errors and pages.
        serial: only there where the MLP reads what attention wrote; absent where both read the same.
    """

    hook: str
    label: str
    says: str
    serial: bool = False


SITES: dict[str, Site] = {
    "resid_pre": Site("blocks.{}.hook_resid_pre", "{}_pre", "the residual stream before a block"),
    "resid_mid": Site("blocks.{}.hook_resid_mid", "{}_mid", "the residual stream between attention and MLP", serial=True),
    "resid_post": Site("blocks.{}.hook_resid_post", "{}_post", "the residual stream after a block"),
    "attn_out": Site("blocks.{}.hook_attn_out", "{}_attn_out", "what attention adds to the residual stream"),
    "mlp_out": Site("blocks.{}.hook_mlp_out", "{}_mlp_out", "what the MLP adds to the residual stream"),
}


HEADS: dict[str, Site] = {
    "q": Site("blocks.{}.attn.hook_q", "{}_q", "queries by head, before they are turned by position"),
    "k": Site("blocks.{}.attn.hook_k", "{}_k", "keys by key-value head, before they are turned by position"),
    "v": Site("blocks.{}.attn.hook_v", "{}_v", "values by key-value head"),
    "z": Site("blocks.{}.attn.hook_z", "{}_z", "mixed values by head; `result` is `z @ W_O`, so patching one is patching the other"),
    "pattern": Site("blocks.{}.attn.hook_pattern", "{}_pattern", "attention by head, from destination (row) to source (column)"),
}


def heads_at(model: HookedTransformer, site: str) -> range:
    """The heads of a site in `HEADS`: key-value heads for `k` and `v`, fewer than query heads under grouped-query attention.

    Raises:
        ReadoutError: a site without heads.
    """
    if site not in HEADS:
        raise ReadoutError(f"Heads stand at {', '.join(HEADS)}; got {site!r}.")
    config = model.cfg
    return range((config.n_key_value_heads or config.n_heads) if site in ("k", "v") else config.n_heads)


def layers_at(model: HookedTransformer, site: str) -> range:
    """The layers of a site: blocks run, 0 (the embedding) to n_layers, at `resid_post`; elsewhere the block, from 0.

    Raises:
        ReadoutError: no such site, or one that this model does not have.
    """
    if site not in SITES:
        raise ReadoutError(f"A model is read at {', '.join(SITES)}; got {site!r}.")
    if SITES[site].serial and getattr(model.cfg, "parallel_attn_mlp", False):
        raise ReadoutError(
            f"This model has no {site}: its attention and its MLP both read the residual stream before the block, so nothing stands "
            "between them. Read resid_pre, attn_out or mlp_out."
        )
    if site in ("resid_mid", "mlp_out") and getattr(model.cfg, "attn_only", False):
        raise ReadoutError(f"This model has no {site}: its blocks are attention alone. Read resid_pre, attn_out or resid_post.")
    return range(model.cfg.n_layers + (site == "resid_post"))


def whole(site: str) -> str:
    """The site, once it is known that what is written or differentiated at its hook is all that follows from it.

    Raises:
        ReadoutError: a hook that the installed TransformerLens shows to a part of the model alone.
    """
    if site in PARTIAL:
        raise ReadoutError(
            f"On TransformerLens {VERSION}, what stands at {site} reaches {PARTIAL[site]}. Use attn_out or resid_post, or TransformerLens 3.9."
        )
    return site


def hook_at(site: str, layer: int) -> str:
    """The name of a site's hook, of `SITES` or `HEADS`; layer 0 of `resid_post` is `blocks.0.hook_resid_pre`."""
    return _row(site, layer).hook.format(_block(site, layer))


def label_at(site: str, layer: int) -> str:
    """What a layer is called at a site: `3_mid`, `3_attn_out`; at `resid_post` `0_pre` for layer 0, `3_post` for layer 4."""
    return _row(site, layer).label.format(_block(site, layer))


def stream_names(model: HookedTransformer) -> list[str]:
    """Where the residual stream stands after 0, 1, ... n_layers blocks."""
    return [hook_at("resid_post", layer) for layer in layers_at(model, "resid_post")]


def _row(site: str, layer: int) -> Site:
    return (SITES | HEADS)["resid_pre" if (site, layer) == ("resid_post", 0) else site]


def _block(site: str, layer: int) -> int:
    return layer - 1 if site == "resid_post" and layer else layer


def captured(
    model: HookedTransformer, tokens: Int[Tensor, " pos"], names: Sequence[str], positions: Sequence[int] | None = None
) -> dict[str, Float[Tensor, "place ..."]]:
    """What stands at some hooks of the embedding and the blocks, for one sequence, without gradients; the unembedding is not computed.

    Args:
        names: of hooks, each once.
        positions: to keep, from 0; None is all of them.

    Raises:
        ReadoutError: more positions than the model reads, or a hook that never ran.
    """
    if len(tokens) > model.cfg.n_ctx:
        raise ReadoutError(f"The model reads at most {model.cfg.n_ctx} positions; this utterance has {len(tokens)}.")
    kept: dict[str, Tensor] = {}

    def keeper(name: str) -> Any:
        def keep(value: Tensor, hook: Any) -> None:
            kept[name] = value[0] if positions is None else value[0, list(positions)]

        return keep

    with torch.no_grad():
        run_blocks(model, tokens[None], [(name, keeper(name)) for name in names])
    silent = [name for name in names if name not in kept]
    if silent:
        raise ReadoutError(f"Nothing passed {silent[0]} ({len(silent)} such hooks): this model has no such place.")
    return {name: kept[name] for name in names}


def stream(model: HookedTransformer, tokens: Int[Tensor, " pos"], site: str = "resid_post") -> Float[Tensor, "layer pos d_model"]:
    """Every layer of a site for one sequence; layers as in `layers_at`.

    Raises:
        ReadoutError: as in `layers_at` and `captured`.
    """
    names = [hook_at(site, layer) for layer in layers_at(model, site)]
    return torch.stack(list(captured(model, tokens, names).values()))
