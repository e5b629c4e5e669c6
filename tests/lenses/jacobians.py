"""Models for the Jacobian lens, and its definition written out: every derivative of every position by every other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slm_interp.convert import load
from slm_interp.hooked.installed import MAJOR
from slm_interp.model import SpeechTextModel
from tests.replicas import N_UNITS, VARIANTS, text_tokenizer, write_slamkit

# Hugging Face's RMSNorm, which 4.x runs, computes in float32 whatever the dtype.
ROUNDING = 1e-8 if MAJOR == 3 else 5e-5
FAMILIES = ("llama", "qwen2-mha-tied", "opt", "gpt_neox")


def interleaved(folder: Path, variant: str, seed_scale: float = 0.3, **options: Any) -> SpeechTextModel:
    """A replica with text, units and markers."""
    tokenizer = text_tokenizer()
    write_slamkit(folder, VARIANTS[variant], vocab_size=len(tokenizer) + N_UNITS + 2, scale=seed_scale)
    return load(folder, text_tokenizer=tokenizer, n_units=N_UNITS, quantiser="tiny", **options)


def rows(slm: SpeechTextModel, count: int, length: int = 9, seed: int = 0) -> list[Tensor]:
    """Rows of live ids of any kind."""
    live = (~slm.vocabulary.mask("dead")).nonzero().flatten() if "dead" in slm.vocabulary.kinds else torch.arange(slm.vocabulary.size)
    generator = torch.Generator().manual_seed(seed)
    return [live[torch.randint(len(live), (length,), generator=generator)] for _ in range(count)]


def every_derivative(slm: SpeechTextModel, tokens: Tensor, layer: int) -> Tensor:
    """`d last[later] / d resid_layer[earlier]` by `torch.autograd.functional.jacobian`: [later, d_out, earlier, d_in]."""
    model = slm.model
    name = f"blocks.{layer - 1}.hook_resid_post" if layer else "blocks.0.hook_resid_pre"
    last = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
    seen: dict[str, Tensor] = {}

    def run(change: Tensor) -> Tensor:
        hooks = [(name, lambda resid, hook: resid + change), (last, lambda resid, hook: seen.update(last=resid))]
        model.run_with_hooks(tokens[None], fwd_hooks=hooks, prepend_bos=False)
        return seen["last"][0]

    nothing = torch.zeros(len(tokens), model.cfg.d_model, dtype=slm.model.cfg.dtype)
    return torch.autograd.functional.jacobian(run, nothing)


def by_definition(derivative: Tensor, sources: list[int], targets: list[int]) -> Tensor:
    """Summed over targets, averaged over sources."""
    return derivative[targets][:, :, sources].sum(0).mean(1)


def silence_blocks(slm: SpeechTextModel) -> None:
    """No block adds anything any more."""
    from slm_interp import hooked

    with torch.no_grad():
        for name, tensor in hooked.parameters(slm.model).items():
            if name.split(".")[-1] in ("W_O", "b_O", "W_out", "b_out"):
                tensor.zero_()


def break_weights(slm: SpeechTextModel) -> None:
    """A NaN in the middle block."""
    for name, parameter in nn.Module.named_parameters(slm.model):
        if ".1." in name and parameter.ndim == 1:
            with torch.no_grad():
                parameter.fill_(torch.nan)
            return
