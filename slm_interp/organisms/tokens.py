"""The text side of an organism: a byte-level BPE tokenizer of its lexicon, and words as one piece or as letters."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from slm_interp.vocabulary import IdRange, JointVocabulary, tiled

SPEECH, TEXT = "<speech>", "<text>"
UNIT = "<Un{}>"


def text_tokenizer(lexicon: Sequence[str]) -> Any:
    """A Hugging Face tokenizer in which each word of the lexicon, with its leading space, is one token.

    Byte-level BPE as in GPT-2, Qwen2 and Llama-3: any text can be written, no BOS is added. The merges are learned
    from the lexicon until no word is in pieces.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1_000_000, min_frequency=1, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator([f" {word}" for word in sorted(lexicon)], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False)


def joint_vocabulary(text_size: int, n_units: int, quantiser: str | None) -> JointVocabulary:
    """slamkit's interleaved layout: the text tokenizer, then the units, then `<speech>` and `<text>`."""
    size = text_size + n_units + 2
    ranges = (
        IdRange("text", 0, text_size),
        IdRange("speech", text_size, size - 2, codebook=0, template=UNIT),
        IdRange("marker", size - 2, size - 1, template=SPEECH),
        IdRange("marker", size - 1, size, template=TEXT),
    )
    return tiled(ranges, size, quantiser)


class Speller:
    """Ids of words, whole or letter by letter.

    Args:
        tokenizer: of `text_tokenizer`.
        lexicon: the words that will be asked for.
    """

    def __init__(self, tokenizer: Any, lexicon: Sequence[str]) -> None:
        self.tokenizer, self.lexicon = tokenizer, tuple(lexicon)

    @cached_property
    def whole(self) -> dict[str, tuple[int, ...]]:
        """The tokenizer's own ids of each word with its leading space."""
        return {word: tuple(self.tokenizer.encode(f" {word}", add_special_tokens=False)) for word in self.lexicon}

    @cached_property
    def letters(self) -> dict[str, tuple[int, ...]]:
        """Each word with its leading space as single characters: BPE with every merge dropped."""
        return {word: tuple(self.tokenizer.convert_tokens_to_ids(["Ġ", *word])) for word in self.lexicon}

    @cached_property
    def line_break(self) -> int:
        """The id that separates sentences of plain text."""
        return int(self.tokenizer.convert_tokens_to_ids("Ċ"))
