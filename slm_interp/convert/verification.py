"""Parity: does the converted model compute what its source computes?

Both sides run in one dtype over the same tokens, each a module at a time (see `streaming`), so that a 7B
model in float32 fits. The source side is the Hugging Face model of the base architecture, built from the same
config and fed by tensor name; it shares no code with the conversion but the reading of files.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import init_empty_weights
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM

from slm_interp import hooked
from slm_interp.convert.families import Named
from slm_interp.convert.loading import hooked_model, refuse_non_finite
from slm_interp.convert.source import Source, open_source, vocabulary_of
from slm_interp.convert.streaming import direct_owners, streamed
from slm_interp.errors import ParityError
from slm_interp.metrics import kl_divergence
from slm_interp.vocabulary import JointVocabulary

BOUND = 1e-4  # largest difference over the standard deviation of the reference, float32
LENGTH = 64


@dataclass(frozen=True, eq=False)
class Outputs:
    """What one side computes for a sequence: the residual stream after each block, and logits."""

    resid_post: Float[Tensor, "layer pos d_model"]
    logits: Float[Tensor, "pos d_vocab"]


@dataclass(frozen=True)
class Parity:
    """Agreement on one sequence. Differences are the largest anywhere, over the reference's standard deviation."""

    sequence: str
    positions: int
    logits: float
    resid_post: tuple[float, ...]
    kl: float
    top1: float


@dataclass(frozen=True)
class ParityReport:
    """What `verify` found.

    Args:
        checkpoint, family, architecture, dtype: what was compared, in which dtype.
        bound: on the differences of logits and of every `resid_post`.
        rows: one a sequence.
    """

    checkpoint: str
    family: str
    architecture: str
    dtype: str
    bound: float
    rows: tuple[Parity, ...]

    @property
    def passed(self) -> bool:
        """Every difference is a number within the bound."""
        return all(value <= self.bound for row in self.rows for value in (row.logits, *row.resid_post))

    def check(self) -> ParityReport:
        """Refuse a conversion that fails."""
        if not self.passed:
            raise ParityError(str(self))
        return self

    def table(self) -> list[dict[str, Any]]:
        """One row a sequence, for a DataFrame."""
        return [
            {
                "sequence": row.sequence,
                "positions": row.positions,
                "max |logit diff| / std": row.logits,
                "worst resid_post / std": max(row.resid_post),
                "worst layer": row.resid_post.index(max(row.resid_post)),
                "max KL (nats)": row.kl,
                "top-1 agreement": row.top1,
            }
            for row in self.rows
        ]

    def __str__(self) -> str:
        import pandas as pd

        head = f"{'PASSED' if self.passed else 'FAILED'}: {self.checkpoint} ({self.family} on {self.architecture}) in {self.dtype}, bound {self.bound:g}"
        return f"{head}\n{pd.DataFrame(self.table()).to_string(index=False, float_format='{:.3g}'.format)}"

    def _repr_html_(self) -> str:
        import pandas as pd

        return f"<b>{'passed' if self.passed else 'FAILED'}</b> {self.checkpoint}, bound {self.bound:g}{pd.DataFrame(self.table()).to_html(index=False)}"


def verify(
    path: str | os.PathLike[str],
    text_tokenizer: Any | None = None,
    *,
    family: Named | None = None,
    n_units: int | None = None,
    dtype: torch.dtype = torch.float32,
    bound: float = BOUND,
    length: int = LENGTH,
) -> ParityReport:
    """Compare a checkpoint converted to HookedTransformer with its Hugging Face source.

    Args:
        path: as for `load`.
        text_tokenizer: as for `load`.
        family: as for `load`.
        n_units: as for `load`.
        dtype: both sides compute in it. float32 whatever the files hold; bfloat16 shows what rounding does.
        bound: see `BOUND`; nothing but float32 can meet the default.
        length: positions in each sequence; no more than the model reads.

    Returns:
        A report over sequences of each modality and of both mixed; `.check()` raises when it failed.

    Raises:
        CheckpointError: NaN or infinite weights (every byte is read), or any failure to open the folder.
    """
    source = open_source(path, text_tokenizer, family)
    vocabulary = vocabulary_of(source, n_units, None)[0]
    refuse_non_finite(source, whole=True)
    rows = []
    for name, tokens in tqdm(sequences(vocabulary, min(length, source.fields["n_ctx"])).items(), desc="parity", leave=False):
        rows.append(compare(name, reference_outputs(source, tokens, dtype), converted_outputs(source, tokens, dtype)))
    return ParityReport(
        source.checkpoint.folder.resolve().name, source.family.name, source.architecture.name, str(dtype), bound, tuple(rows)
    )


def sequences(vocabulary: JointVocabulary, length: int, seed: int = 0) -> dict[str, Int[Tensor, " pos"]]:
    """Random ids of each modality, and of all living ids mixed."""
    generator = torch.Generator().manual_seed(seed)
    chosen: dict[str, Tensor] = {kind: vocabulary.mask(kind) for kind in vocabulary.kinds if kind in ("speech", "text")}
    chosen["mixed"] = ~vocabulary.mask("dead")
    pools = {name: mask.nonzero().flatten() for name, mask in chosen.items()}
    return {name: pool[torch.randint(len(pool), (length,), generator=generator)] for name, pool in pools.items()}


def compare(name: str, reference: Outputs, converted: Outputs) -> Parity:
    """One row of the report."""
    layers = tuple(spread_difference(ours, theirs) for ours, theirs in zip(converted.resid_post, reference.resid_post, strict=True))
    agreement = (converted.logits.argmax(-1) == reference.logits.argmax(-1)).float().mean().item()
    kl = kl_divergence(reference.logits, converted.logits).max().item()
    return Parity(name, len(reference.logits), spread_difference(converted.logits, reference.logits), layers, kl, agreement)


def spread_difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference over the standard deviation of the reference; NaN stays NaN, which passes no bound."""
    return ((ours.double() - theirs.double()).abs().max() / theirs.double().std()).item()


def converted_outputs(source: Source, tokens: Int[Tensor, " pos"], dtype: torch.dtype) -> Outputs:
    """What the conversion computes."""
    model = hooked_model(source, dtype, streamed=True)
    with streamed(hooked.parameter_owners(model), lambda name, stored: stored.to(dtype)):
        stream = hooked.residuals(model, tokens)
        return Outputs(stream[1:], model.unembed(hooked.final_norm(model, stream[-1])[None])[0])


def reference_outputs(source: Source, tokens: Int[Tensor, " pos"], dtype: torch.dtype) -> Outputs:
    """What the Hugging Face model computes, with eager attention."""
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(source.config.hf, attn_implementation="eager", dtype=dtype).eval()
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    tied = {f"{_name(model, head)}.weight": f"{_name(model, embedding)}.weight"} if source.fields["tie_word_embeddings"] else {}

    give = source.tensor if source.architecture.relaid is None else source.architecture.relaid(source.config, source.tensor)

    def read(name: str) -> Tensor:
        return give(tied.get(name, name)).to(dtype)

    stream: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        stream.append((output[0] if isinstance(output, tuple) else output)[0])

    handles = [layer.register_forward_hook(keep) for layer in model.get_submodule(source.architecture.layers)]
    with streamed(direct_owners(model), lambda name, empty: read(name)):
        logits = model(tokens[None], use_cache=False).logits[0]
    for handle in handles:
        handle.remove()
    return Outputs(torch.stack(stream), logits)


def _name(model: nn.Module, wanted: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is wanted)
