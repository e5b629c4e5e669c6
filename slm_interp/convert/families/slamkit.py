"""slamkit's UnitLM: SIMS, Slam and anything trained with slamkit.

A UnitLM wraps a causal language model: its config holds the base model's config, its tensors carry the prefix
`lm.`. Two vocabularies exist. Speech only: `<PAD>` 0, `<S>` 1, units from 2. Interleaved: the text tokenizer's
ids, then the units, then `<speech>` and `<text>`; the checkpoint does not carry the text tokenizer.

Source: slamkit, `model/unit_lm.py`, `tokeniser/unit_tokeniser.py`, `tokeniser/interleaving_tokeniser.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from slm_interp.convert.config import changes_nothing, unread
from slm_interp.convert.family import Reading, TokenIds
from slm_interp.errors import ConversionError
from slm_interp.prompt import PromptForm, PromptFormat
from slm_interp.vocabulary import IdRange, JointVocabulary

NAME = "slamkit"
LICENCE = "slamkit's own checkpoints are MIT; those built on Llama carry the Llama licence as well."
PREFIX = "lm."
N_UNITS = 500  # mHuBERT 25 Hz, layer 11, 500 k-means centroids
FORMS = ("opened", "closed", "marked", "bare")  # of speech only: opened, closed, bare; of interleaved: marked, bare
UNIT, PAD, S, SPEECH, TEXT = "<Un{}>", "<PAD>", "<S>", "<speech>", "<text>"
UNITS = (f"{N_UNITS} {UNIT}",)

WRAPPER_KEYS = frozenset(
    {"base_model_name", "base_config", "vocab_size", "twist_init", "tie_word_embeddings", "max_position_embeddings", "is_composition"}
)


def recognises(config: Mapping[str, Any], tokens: Callable[[], TokenIds]) -> bool:
    """A UnitLM says so by its model type."""
    return config.get("model_type") == "speech_language_model"


def unwrap(config: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The base model's config with the wrapper's vocabulary size, and the prefix of its tensors.

    Raises:
        ConversionError: a wrapper key nobody knows, or a wrapper that contradicts its base.
    """
    base = config.get("base_config")
    if not isinstance(base, Mapping) or not isinstance(config.get("vocab_size"), int):
        raise ConversionError("A UnitLM config needs a 'base_config' object and an integer 'vocab_size'.")
    for key, value in config.items():
        if key not in WRAPPER_KEYS and not changes_nothing(key, value):
            raise ConversionError(unread(key, value))
    for key in ("tie_word_embeddings", "max_position_embeddings"):
        if key in config and key in base and config[key] != base[key]:
            raise ConversionError(
                f"The wrapper says {key} = {config[key]!r}, its base_config {base[key]!r}. slamkit copies one from the other; repair config.json."
            )
    return {**base, "vocab_size": config["vocab_size"]}, PREFIX


def read(reading: Reading) -> tuple[JointVocabulary, PromptFormat, Any]:
    """Vocabulary, prompt forms and tokenizer; the base model's tokenizer makes a checkpoint an interleaved one.

    Raises:
        ConversionError: rows that are not what tokenizer and units add up to.
    """
    units = N_UNITS if reading.n_units is None else reading.n_units
    if reading.tokenizer is None:
        return _speech_only(reading.rows, units, reading.quantiser)
    return _interleaved(reading.rows, reading.tokenizer, units, reading.quantiser)


def _speech_only(rows: int, n_units: int, quantiser: str | None) -> tuple[JointVocabulary, PromptFormat, Any]:
    if rows != n_units + 2:
        raise ConversionError(
            f"The embedding has {rows} rows; a speech-only vocabulary of {n_units} units has {n_units + 2}. "
            "If the checkpoint is interleaved, pass text_tokenizer= (the base model's tokenizer, a folder or hub id); "
            "if it has another number of units, pass n_units=."
        )
    ranges = (
        IdRange("marker", 0, 1, template=PAD),
        IdRange("marker", 1, 2, template=S),
        IdRange("speech", 2, rows, codebook=0, template=UNIT),
    )
    forms = (
        PromptForm("opened", opening=(1,), note="slamkit's build_prompt: <S> units"),
        PromptForm("closed", opening=(1,), closing=(1,), note="slamkit's tokenise and its training sequences: <S> units <S>"),
        PromptForm("bare", note="units alone"),
    )
    return JointVocabulary(ranges, rows, quantiser), PromptFormat(forms), unit_tokenizer(n_units)


def _interleaved(rows: int, text_tokenizer: Any, n_units: int, quantiser: str | None) -> tuple[JointVocabulary, PromptFormat, Any]:
    vocabulary = text_tokenizer.get_vocab()
    text = vocabulary[UNIT.format(0)] if UNIT.format(0) in vocabulary else len(text_tokenizer)
    if rows != text + n_units + 2:
        raise ConversionError(
            f"The embedding has {rows} rows; this tokenizer's {text} ids, {n_units} units and 2 markers make {text + n_units + 2}. "
            "Is it another model's tokenizer, or another number of units (n_units=)?"
        )
    ranges = (
        IdRange("text", 0, text),
        IdRange("speech", text, text + n_units, codebook=0, template=UNIT),
        IdRange("marker", rows - 2, rows - 1, template=SPEECH),
        IdRange("marker", rows - 1, rows, template=TEXT),
    )
    joint = JointVocabulary(ranges, rows, quantiser)
    text_tokenizer.add_tokens([*(UNIT.format(unit) for unit in range(n_units)), SPEECH, TEXT])
    joint.check_tokenizer(text_tokenizer)
    bos = opening_ids(text_tokenizer)
    forms = (
        PromptForm(
            "marked", opening=bos, marked=True, note="training sequences and lists of segments: <speech> or <text> before every change"
        ),
        PromptForm("bare", opening=bos, note="slamkit's wav path: units without a marker"),
    )
    return joint, PromptFormat(forms, {"speech": rows - 2, "text": rows - 1}, repeated=True), text_tokenizer


def opening_ids(tokenizer: Any) -> tuple[int, ...]:
    """The ids a tokenizer puts before a text (BOS), found by asking it."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    framed = tokenizer("a")["input_ids"]
    start = next(i for i in range(len(framed)) if framed[i : i + len(bare)] == bare)
    return tuple(framed[:start])


def unit_tokenizer(n_units: int) -> PreTrainedTokenizerFast:
    """slamkit's tokenizer of unit strings: `<Un3><Un49>` -> `<S> 5 51 <S>`."""
    tokenizer = Tokenizer(WordLevel({PAD: 0, S: 1, **{UNIT.format(unit): unit + 2 for unit in range(n_units)}}, unk_token="<UNK>"))
    tokenizer.pre_tokenizer = Split(pattern=">", behavior="merged_with_previous")
    tokenizer.post_processor = TemplateProcessing(single=f"{S} $0 {S}", special_tokens=[(S, 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD)
