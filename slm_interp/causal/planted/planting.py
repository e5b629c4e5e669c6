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
from slm_interp.causal.planted.block import ROPE_THETA
from slm_interp.causal.planted.codes import codes_of
from slm_interp.causal.planted.compiler import NEXT_WRITTEN, WRITTEN, blocks_of, compiled, sizes
from slm_interp.causal.planted.kinds import Chain, Mixture, truth_of
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
        kind: one of `KINDS` or of `SERIAL`.
        truth: weights of the text path and of the secret path, and the right verdict, for a test that is asked at the heard word.
        contrasts: pairs of prompts about two words, which are `contrast.clean.words[0]` and `contrast.corrupted.words[0]` with their spans.
        layers: of `resid_post`, in blocks run: where the text code stands at the last unit of the word's span and has not been read yet.
        lexicon: words, units, successors.
        seed: of everything drawn.
        chain: of a serial model: what is computed from what.
        next_layers: of a serial model: where the next word's text stands at the last position of the prompt and has not been read yet.
    """

    slm: SpeechTextModel
    kind: str
    truth: Mixture
    contrasts: tuple[Contrast, ...]
    layers: tuple[int, ...]
    lexicon: Lexicon
    seed: int
    chain: Chain | None = None
    next_layers: tuple[int, ...] = ()

    @property
    def fraction(self) -> float | None:
        """The share of the whole effect that runs through the text coordinates; None where there is no effect to share."""
        return None if self.truth.text == self.truth.secret == 0 else self.truth.text

    def follower(self, word: str) -> str:
        """The word that is said after a word.

        Raises:
            PatchingError: a word that this model does not hear.
        """
        words = self.lexicon.words
        if word not in words:
            raise PatchingError(f"This model hears {', '.join(words)}; got {word!r}.")
        return words[self.lexicon.following[words.index(word)]]

    def __repr__(self) -> str:
        share = "no effect" if self.fraction is None else f"{self.fraction:g} of the effect through text"
        share += "" if self.chain is None else f", {self.chain.units:g} through that of the next word"
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
    noise: float = 0.0,
) -> Planted:
    """A model whose answer is exact by construction.

    Args:
        kind: `"shadow"`, `"mediated"`, `"partial"` or `"dead"`; or one that also writes the next word as text: `"serial"`, `"parallel"`,
            `"skipped"`, `"silent"` or `"branching"`.
        fraction: of `"partial"`: the share of the text path. Of `"branching"`: the share of it that runs through the next word's text.
        seed: of lexicon, rotation, directions, noise and prompts. The same for every kind.
        d_model: width; 16 words need 105 and more.
        n_words: spoken words.
        n_contrasts: pairs of prompts.
        dtype: the identities hold to 1e-5 of the logits' spread in float64.
        noise: how much shares differ between words, and effects between carriers; 0: not at all. See `Mixture`; not for serial kinds.

    Raises:
        PatchingError: an unknown kind, a fraction that does not belong, a width too small, a dtype too coarse.
    """
    if dtype not in (torch.float32, torch.float64):
        raise PatchingError(f"Codes are small beside the constant that keeps the norm, which takes float32 or float64; got {dtype}.")
    truth, generator = truth_of(kind, fraction, noise), torch.Generator().manual_seed(seed)
    lexicon = lexicon_of(n_words, generator)
    model = _llama(lexicon, truth, d_model, dtype, generator)
    with TemporaryDirectory() as folder:
        _write(model, lexicon, kind, folder)
        slm = load(folder, n_units=lexicon.n_units, quantiser=QUANTISER)
        for parameter in hooked.parameters(slm.model).values():
            parameter.data = parameter.data.clone()  # the file it is mapped from goes
    slm = replace(slm, folder=None, provenance={**slm.provenance, "checkpoint": f"planted-{kind}-{seed}"})
    contrasts = contrasts_of(slm, lexicon, n_contrasts, generator)
    if isinstance(truth, Chain):
        return Planted(slm, kind, truth.mixture, contrasts, WRITTEN, lexicon, seed, truth, NEXT_WRITTEN)
    return Planted(slm, kind, truth, contrasts, WRITTEN, lexicon, seed)


def save(planted: Planted, folder: str | os.PathLike[str]) -> None:
    """Write a planted model as slamkit writes its own; `si.load(folder, n_units=planted.lexicon.n_units, quantiser="planted")` reads it.

    The weights are compiled anew from the seed.
    """
    config, lexicon = planted.slm.model.cfg, planted.lexicon
    generator = torch.Generator().manual_seed(planted.seed)
    lexicon_of(len(lexicon.words), generator)  # draws what was drawn before the weights
    _write(_llama(lexicon, planted.chain or planted.truth, config.d_model, config.dtype, generator), lexicon, planted.kind, folder)


def _write(model: LlamaForCausalLM, lexicon: Lexicon, kind: str, folder: str | os.PathLike[str]) -> None:
    save_unit_lm(model, folder, f"slm_interp/planted-{kind}", twist_init=False)
    save_tokenizer(_tokenizer(lexicon), folder)


def _llama(lexicon: Lexicon, truth: Mixture | Chain, d_model: int, dtype: torch.dtype, generator: torch.Generator) -> LlamaForCausalLM:
    codes = codes_of(lexicon, d_model, generator)
    size = sizes(lexicon, codes, truth)
    config = LlamaConfig(
        vocab_size=1 + len(lexicon.words) + len(FILLERS) + lexicon.n_units + 2,
        hidden_size=d_model,
        intermediate_size=size.d_mlp,
        num_hidden_layers=len(blocks_of(truth)),
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
