"""What other logit lenses do with the same residual vectors and the same unembedding, to be timed beside ours.

None of them gives in one call what `read_out` does; each is asked for what it has. TransformerLens 4.3: `logit_readout` with targets (values, ranks and
entropy over the whole vocabulary) or with a top-k. nnterp: what its `logit_lens` does with a layer, `project_on_vocab` and a softmax, which holds
every probability of the rows it is given and ranks nothing.

They are timed on fewer rows than ours, and the time is scaled: on one block of TransformerLens's (64 rows), and on a quarter of one with a hundred targets,
which it compares with the whole vocabulary at once.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from slm_interp import hooked
from slm_interp.hooked.installed import MAJOR, VERSION

HEADS, D_MLP = 7, 64
ROWS, ROWS_OF_MANY = 64, 16


def peer_readouts(resid: Tensor, weight: Tensor, targets: Tensor) -> dict[str, tuple[int, Callable[[], object]]]:
    """One call for each peer that is installed and each thing it can be asked for, with the rows it reads.

    Args:
        resid: `[row, d_model]`.
        weight: `W_U` as a checkpoint has it, `[d_vocab, d_model]`; the peers' models hold views of it.
        targets: a hundred ids.
    """
    found: dict[str, tuple[int, Callable[[], object]]] = {}
    if MAJOR == 4:
        from transformer_lens.tools.analysis import logit_readout

        model, name = bridge(weight), f"TransformerLens {VERSION}"
        for count in (5, 100):
            ids, some = targets[:count].tolist(), resid[: ROWS if count == 5 else ROWS_OF_MANY]
            run = lambda ids=ids, some=some: logit_readout(model, some, apply_ln=False, targets=ids)  # noqa: E731
            found[f"{name}, {count} targets"] = (len(some), run)
        found[f"{name}, top 10"] = (len(resid[:ROWS]), lambda: logit_readout(model, resid[:ROWS], apply_ln=False, top_k=10))
    with suppress(PackageNotFoundError):
        name, head = f"nnterp {version('nnterp')}", llama(weight)
        from nnterp import StandardizedTransformer
        from nnterp.nnsight_utils import project_on_vocab

        wrapped = StandardizedTransformer(head, tokenizer=_tokenizer(), check_renaming=False)

        @torch.no_grad()
        def probabilities() -> Tensor:
            return project_on_vocab(wrapped, resid[:ROWS]).softmax(-1)

        found[f"{name}, probabilities"] = (len(resid[:ROWS]), probabilities)
    return found


def bridge(weight: Tensor) -> hooked.HookedTransformer:
    """A model of one small block around the unembedding; everything but `W_E` and `W_U` is zero."""
    d_vocab, d_model = weight.shape
    fields = {
        "d_model": d_model,
        "n_layers": 1,
        "n_heads": HEADS,
        "d_head": d_model // HEADS,
        "d_mlp": D_MLP,
        "d_vocab": d_vocab,
        "n_ctx": 64,
        "act_fn": "silu",
        "normalization_type": "RMS",
        "final_rms": True,
        "gated_mlp": True,
        "positional_embedding_type": "rotary",
        "rotary_dim": d_model // HEADS,
        "rotary_base": 10_000.0,
        "dtype": weight.dtype,
    }
    model = hooked.empty(fields)
    state = {name: torch.zeros(tensor.shape, dtype=weight.dtype) for name, tensor in hooked.parameters(model).items() if "W_" not in name}
    matrices = {name: tensor.shape for name, tensor in hooked.parameters(model).items() if "W_" in name}
    state |= {name: torch.zeros(shape, dtype=weight.dtype) for name, shape in matrices.items() if not name.startswith(("embed", "unembed"))}
    return hooked.fill(model, {**state, "embed.W_E": weight, "unembed.W_U": weight.T})


def llama(weight: Tensor) -> Any:
    """A Hugging Face model of one small block, tied to the same weights."""
    d_vocab, d_model = weight.shape
    config = AutoConfig.for_model(
        "llama",
        hidden_size=d_model,
        intermediate_size=D_MLP,
        num_hidden_layers=1,
        num_attention_heads=HEADS,
        vocab_size=d_vocab,
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=weight.dtype)
    model.to_empty(device="cpu")
    model.model.embed_tokens.weight = model.lm_head.weight = torch.nn.Parameter(weight, requires_grad=False)
    torch.nn.init.ones_(model.model.norm.weight)
    return model.eval()


def _tokenizer() -> Any:
    from tests.replicas import text_tokenizer

    tokenizer = text_tokenizer()
    tokenizer.padding_side, tokenizer.pad_token = "left", "<unk>"
    return tokenizer
