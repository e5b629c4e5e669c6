"""The text side of an organism: a byte-level BPE tokenizer, and the ways to spell a word with it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from slm_interp.vocabulary import IdRange, JointVocabulary, tiled

SPEECH, TEXT = "<speech>", "<text>"
UNIT = "<Un{}>"
VARIANTS = 8


def text_tokenizer(texts: Iterable[str], size: int) -> Any:
    """A Hugging Face tokenizer with the byte-level BPE of GPT-2, Qwen2 and Llama-3: it can write any text and adds no BOS.

    The merges are learned from `texts` until there are `size` tokens, so frequent words are one token with their leading
    space and rare ones two or three.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, min_frequency=1, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator((f" {text}" for text in texts), trainer)
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
    """Ids of words: as the tokenizer writes them, letter by letter, or with some merges left out.

    Args:
        tokenizer: of `text_tokenizer`.
        lexicon: the words that will be asked for.
        seed: of the variants.
    """

    def __init__(self, tokenizer: Any, lexicon: Sequence[str], seed: int = 0) -> None:
        self.tokenizer, self.lexicon, self.seed = tokenizer, tuple(lexicon), seed

    @cached_property
    def whole(self) -> dict[str, tuple[int, ...]]:
        """The tokenizer's own ids of each word with its leading space."""
        return {word: tuple(self.tokenizer.encode(f" {word}", add_special_tokens=False)) for word in self.lexicon}

    @cached_property
    def letters(self) -> dict[str, tuple[int, ...]]:
        """Each word with its leading space as single characters: BPE with every merge dropped."""
        return {word: tuple(self.tokenizer.convert_tokens_to_ids(["Ġ", *word])) for word in self.lexicon}

    @cached_property
    def variants(self) -> dict[str, tuple[tuple[int, ...], ...]]:
        """`VARIANTS` spellings of each word by BPE-dropout (Provilkov et al. 2020), each with a dropout of its own."""
        merges = json.loads(self.tokenizer.backend_tokenizer.to_str())["model"]["merges"]
        order = {tuple(pair): place for place, pair in enumerate(merges)}
        found = {}
        for number, word in enumerate(self.lexicon):
            rng = np.random.default_rng([self.seed, 7, number])
            pieces = [_dropped(["Ġ", *word], order, rng.uniform(0.2, 1.0), rng) for _ in range(VARIANTS)]
            found[word] = tuple(tuple(self.tokenizer.convert_tokens_to_ids(some)) for some in pieces)
        return found

    @cached_property
    def line_break(self) -> int:
        """The id that separates documents of plain text."""
        return int(self.tokenizer.convert_tokens_to_ids("Ċ"))

    @cached_property
    def period(self) -> int:
        """The id that ends a sentence of text."""
        return int(self.tokenizer.convert_tokens_to_ids("."))


def _dropped(pieces: list[str], order: Mapping[tuple[str, str], int], dropout: float, rng: np.random.Generator) -> list[str]:
    """Merge the earliest pair there is until none is left; at each round every pair is passed over with this chance."""
    while True:
        pairs = [(order[pair], place) for place, pair in enumerate(pairwise(pieces)) if pair in order and rng.random() >= dropout]
        if not pairs:
            return pieces
        place = min(pairs)[1]
        pieces = [*pieces[:place], pieces[place] + pieces[place + 1], *pieces[place + 2 :]]
