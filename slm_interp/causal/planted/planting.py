"""`plant`: a planted model, its prompts and its true answer; `save`: the same model as a checkpoint in slamkit's layout."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from slm_interp import hooked
from slm_interp.causal.planted.codes import codes_of
from slm_interp.causal.planted.compiler import N_LAYERS, ROPE_THETA, WRITTEN, compiled, sizes
from slm_interp.causal.planted.kinds import Mixture, mixture_of
from slm_interp.causal.planted.lexicon import FILLERS, Lexicon, lexicon_of
from slm_interp.causal.planted.prompts import contrasts_of
from slm_interp.convert import load
from slm_interp.errors import PatchingError
from slm_interp.model import SpeechTextModel
from slm_interp.organisms.slamkit_layout import save_tokenizer, save_unit_lm
from slm_interp.utterance import Contrast

N_CTX = 64
QUANTISER = "planted"


@dataclass(frozen=True, eq=False)
class Planted:
    """A model whose answer is known.

    Args:
        slm: an ordinary `HookedTransformer` that came through slamkit's door.
        kind: one of `KINDS`.
        truth: weights of the text path and of the secret path, and the right verdict.
        contrasts: pairs of prompts about two words, which are `contrast.clean.words[0]` and `contrast.corrupted.words[0]` with their spans.
        layers: of `resid_post`, in blocks run: where the text code stands at the last unit of the word's span and has not been read yet.
        lexicon: words, units, successors.
        seed: of everything drawn.
    """

    slm: SpeechTextModel
    kind: str
    truth: Mixture
    contrasts: tuple[Contrast, ...]
    layers: tuple[int, ...]
    lexicon: Lexicon
    seed: int

    @property
    def fraction(self) -> float | None:
        """The share of the whole effect that runs through the text coordinates; None where there is no effect to share."""
        return None if self.truth.text == self.truth.secret == 0 else self.truth.text

    def __repr__(self) -> str:
        share = "no effect" if self.fraction is None else f"{self.fraction:g} of the effect through text"
        return (
            f"Planted({self.kind}: {share}, so {self.truth.verdict}; {len(self.lexicon.words)} words, d_model {self.slm.model.cfg.d_model}, "
            f"seed {self.seed}, {len(self.contrasts)} contrasts)"
        )


def plant(
    kind: str,
    fraction: float | None = None,
    seed: int = 0,
    d_model: int = 128,
    n_words: int = 16,
    n_contrasts: int = 16,
    dtype: torch.dtype = torch.float64,
) -> Planted:
    """A model whose answer is exact by construction.

    Args:
        kind: `"shadow"`, `"mediated"`, `"partial"` or `"dead"`.
        fraction: of `"partial"`: the share of the text path.
        seed: of lexicon, rotation, directions, noise and prompts. The same for every kind.
        d_model: width; 16 words need 105 and more.
        n_words: spoken words.
        n_contrasts: pairs of prompts.
        dtype: the identities hold to 1e-5 of the logits' spread in float64.

    Raises:
        PatchingError: an unknown kind, a fraction that does not belong, a width too small, a dtype too coarse.
    """
    if dtype not in (torch.float32, torch.float64):
        raise PatchingError(f"Codes are small beside the constant that keeps the norm, which takes float32 or float64; got {dtype}.")
    truth, generator = mixture_of(kind, fraction), torch.Generator().manual_seed(seed)
    lexicon = lexicon_of(n_words, generator)
    model = _llama(lexicon, truth, d_model, dtype, generator)
    with TemporaryDirectory() as folder:
        _write(model, lexicon, kind, folder)
        slm = load(folder, n_units=lexicon.n_units, quantiser=QUANTISER)
        for parameter in hooked.parameters(slm.model).values():
            parameter.data = parameter.data.clone()  # the file it is mapped from goes
    slm = replace(slm, folder=None, provenance={**slm.provenance, "checkpoint": f"planted-{kind}-{seed}"})
    return Planted(slm, kind, truth, contrasts_of(slm, lexicon, n_contrasts, generator), WRITTEN, lexicon, seed)


def save(planted: Planted, folder: str | os.PathLike[str]) -> None:
    """Write a planted model as slamkit writes its own; `si.load(folder, n_units=planted.lexicon.n_units, quantiser="planted")` reads it.

    The weights are compiled anew from the seed.
    """
    config, lexicon = planted.slm.model.cfg, planted.lexicon
    generator = torch.Generator().manual_seed(planted.seed)
    lexicon_of(len(lexicon.words), generator)  # draws what was drawn before the weights
    _write(_llama(lexicon, planted.truth, config.d_model, config.dtype, generator), lexicon, planted.kind, folder)


def _write(model: LlamaForCausalLM, lexicon: Lexicon, kind: str, folder: str | os.PathLike[str]) -> None:
    save_unit_lm(model, folder, f"slm_interp/planted-{kind}", twist_init=False)
    save_tokenizer(_tokenizer(lexicon), folder)


def _llama(lexicon: Lexicon, truth: Mixture, d_model: int, dtype: torch.dtype, generator: torch.Generator) -> LlamaForCausalLM:
    codes = codes_of(lexicon, d_model, generator)
    size = sizes(lexicon, codes)
    config = LlamaConfig(
        vocab_size=1 + len(lexicon.words) + len(FILLERS) + lexicon.n_units + 2,
        hidden_size=d_model,
        intermediate_size=size.d_mlp,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=size.d_head,
        max_position_embeddings=N_CTX,
        rms_norm_eps=1e-6,
        tie_word_embeddings=False,
        rope_parameters={"rope_theta": ROPE_THETA, "rope_type": "default"},
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    weights = {name: weight.to(dtype).contiguous() for name, weight in compiled(lexicon, codes, truth, generator).items()}
    model.load_state_dict(weights, assign=True)
    return model


def _tokenizer(lexicon: Lexicon) -> Any:
    """One token a word, with its leading space."""
    vocabulary = {"<unk>": 0, **{f"▁{word}": number for number, word in enumerate((*lexicon.words, *FILLERS), start=1)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")  # a word that opens a text is the same token
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
