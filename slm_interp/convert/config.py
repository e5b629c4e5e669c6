"""A Hugging Face config, read key by key so that nothing which changes the numbers is overlooked.

`transformers` itself fills in the defaults of absent keys and brings old spellings (`rope_theta`,
`rope_scaling`, `rotary_pct`) to the new one (`rope_parameters`). Every key of the file must then be read by
the architecture, be known to change nothing, or hold the one value that changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import AutoConfig, PretrainedConfig

from slm_interp.errors import ConversionError

# Keys that no forward pass without dropout looks at.
HARMLESS = {
    key: reason
    for reason, keys in {
        "names the file": "architectures model_type _name_or_path transformers_version _commit_hash tokenizer_class name_or_path",
        "training only": "initializer_range init_std attention_dropout dropout hidden_dropout classifier_dropout activation_dropout layerdrop "
        "resid_pdrop embd_pdrop gradient_checkpointing pretraining_tp",
        "how to run, not what to compute": "use_cache torchscript return_dict output_attentions output_hidden_states attn_implementation "
        "_attn_implementation _attn_implementation_autoset attn_implementation_internal chunk_size_feed_forward use_bfloat16 tf_legacy_loss torch_dtype dtype "
        "use_safetensors",
        "ids of special tokens: the prompt format's business": "bos_token_id eos_token_id pad_token_id sep_token_id decoder_start_token_id",
        "classification heads": "id2label label2id problem_type finetuning_task num_labels task_specific_params",
        "sampling": "temperature top_k top_p typical_p do_sample num_beams num_beam_groups diversity_penalty max_length min_length early_stopping "
        "repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids num_return_sequences output_scores "
        "return_dict_in_generate forced_bos_token_id forced_eos_token_id remove_invalid_values exponential_decay_length_penalty suppress_tokens "
        "begin_suppress_tokens prefix",
        "an encoder's business": "cross_attention_hidden_size tie_encoder_decoder is_decoder",
        "resolved by transformers into layer_types": "use_sliding_window max_window_layers",
        "resolved by transformers into rope_parameters": "rope_theta rope_scaling rotary_pct rotary_emb_base",
    }.items()
    for key in keys.split()
}

# Keys that must hold the one value which changes nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "pruned_heads": ({}, None),
    "add_cross_attention": (False, None),
    "is_encoder_decoder": (False, None),
    "quantization_config": (None,),
    "auto_map": (None, {}),  # code of the checkpoint's own would compute something else
    "trust_remote_code": (None, False),
}


class ConfigReader:
    """The config of a checkpoint, with a memory of what was read.

    Args:
        raw: the config as the file has it, `model_type` included.
        values: `raw` with defaults filled in, where `transformers` does not know this `model_type`; else its own are taken.
        as_hugging_face: the config, as a file would have it, of the class of `transformers` that computes the same; `raw` if not given.

    Raises:
        ConversionError: a `model_type` that transformers does not know, or values it refuses.
    """

    def __init__(
        self, raw: Mapping[str, Any], values: Mapping[str, Any] | None = None, as_hugging_face: Mapping[str, Any] | None = None
    ) -> None:
        self.raw = dict(raw)
        self.hf = hugging_face_config(as_hugging_face or raw)
        self._values = self.hf.to_dict() if values is None else dict(values)
        self._read: set[str] = set()

    @property
    def keys_read(self) -> frozenset[str]:
        """What was read so far."""
        return frozenset(self._read)

    def __getitem__(self, key: str) -> Any:
        """The value of a key, noted as read."""
        self._read.add(key)
        if key not in self._values:
            raise ConversionError(f"The config lacks {key!r}.")
        return self._values[key]

    def require(self, key: str, *allowed: Any, why: str) -> None:
        """Refuse values HookedTransformer cannot express."""
        value = self[key]
        if value not in allowed:
            raise ConversionError(f"Config key {key!r} is {value!r}; only {' or '.join(map(repr, allowed))} can be expressed: {why}")

    def get(self, key: str, default: Any) -> Any:
        """The value of a key that the config class may not have, noted as read."""
        self._read.add(key)
        value = self._values.get(key)
        return default if value is None else value

    def table(self, key: str, expressible: Mapping[str, Any]) -> Any:
        """What a named choice means in TransformerLens.

        Raises:
            ConversionError: a choice that is not in the table.
        """
        value = self[key]
        if value not in expressible:
            raise ConversionError(f"Config key {key!r} is {value!r}; HookedTransformer expresses {', '.join(expressible)}.")
        return expressible[value]

    def finish(self) -> None:
        """Refuse what nobody read.

        Raises:
            ConversionError: names the first unread key and its value.
        """
        for key, value in self.raw.items():
            if key not in self._read and not changes_nothing(key, value):
                raise ConversionError(unread(key, value))


def changes_nothing(key: str, value: Any) -> bool:
    """Whether a key is known to leave the numbers alone, at this value."""
    return key in HARMLESS or (key in NEUTRAL and value in NEUTRAL[key])


def unread(key: str, value: Any) -> str:
    """The sentence about a key that nobody read."""
    return (
        f"Config key {key!r} = {value!r} is not read and may change the numbers. If it is known to change nothing, "
        "list it in HARMLESS in slm_interp/convert/config.py with the reason; if it matters, its architecture must read it."
    )


def hugging_face_config(raw: Mapping[str, Any]) -> PretrainedConfig:
    """The config as `transformers` understands it, made without touching the hub."""
    values = {
        key: value for key, value in raw.items() if key not in ("model_type", "torch_dtype", "dtype", "auto_map", "transformers_version")
    }
    model_type = raw.get("model_type")
    if not isinstance(model_type, str):
        raise ConversionError(f"The config needs a 'model_type'; got {model_type!r}.")
    try:
        return AutoConfig.for_model(model_type, **values)
    except Exception as error:  # transformers raises many kinds here, all of them about the config
        raise ConversionError(f"transformers refuses this {model_type!r} config: {error}") from error
