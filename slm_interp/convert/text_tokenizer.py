"""The tokenizer of a checkpoint's text: read from the files it lies in, never by code the folder brings along.

- `tokenizer.json`, `vocab.json`: by `transformers`.
- `tokenizer.model` of sentencepiece: by `transformers`, then compared with the sentencepiece library on `PROBES`.
- `tokenizer.model` of tiktoken (a line a token: base64, rank), as GLM-4 has it: by `tiktoken_tokenizer`.
"""

from __future__ import annotations

import base64
import binascii
import os
from copy import deepcopy
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import AutoTokenizer, LlamaTokenizer, PreTrainedTokenizerFast

from slm_interp.convert.checkpoint import read_json
from slm_interp.errors import CheckpointError, ConversionError

LONGEST_TOKEN = 1024  # bytes; a token is cut everywhere to find what it is merged from
FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
PROBES = ("and they went out together", "Paris,  the capital of France; 1999 (naïve)", "a\tb\nc …")
# How GLM-4 cuts text before merging; `tokenization_chatglm.py`. It is also that of Llama 3.
GLM_PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def text_tokenizer_of(folder: Path, given: Any | None) -> Any | None:
    """The text tokenizer: the one given (an object, a folder, a hub id), else the folder's own, else None.

    A given object is copied: families add their units to it, and it stays its owner's.

    Raises:
        ConversionError: files that are no tokenizer, or that two libraries read differently.
    """
    if given is not None and not isinstance(given, str | os.PathLike):
        return deepcopy(given)
    place = Path(folder if given is None else given)
    if given is None and not any((place / name).exists() for name in FILES):
        return None
    model = place / "tokenizer.model"
    try:
        if _is_tiktoken(place):
            return tiktoken_tokenizer(place)
        # Before transformers, which takes what is no sentencepiece model for one of tiktoken's and leaves copies of it elsewhere.
        reference = sentencepiece_of(model) if model.exists() else None
        # AutoTokenizer would go by the model's config.json and leave out the blank before a text where that is Mistral's.
        known = LlamaTokenizer if _is_sentencepiece(place) else AutoTokenizer
        tokenizer = known.from_pretrained(str(place), local_files_only=place.is_dir(), trust_remote_code=False)
        spelled = {text: tokenizer(text, add_special_tokens=False)["input_ids"] for text in PROBES}
    except ConversionError:
        raise
    except BaseException as error:  # transformers raises many kinds, and the panics of its libraries are no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise ConversionError(f"No tokenizer could be loaded from {str(place)!r}: {error}") from error
    if reference is not None:
        check_against_sentencepiece(spelled, reference)
    return tokenizer


def sentencepiece_of(file: Path) -> Any:
    """The sentencepiece library's own reading of a file.

    Raises:
        ConversionError: a file that is no sentencepiece model.
    """
    from sentencepiece import SentencePieceProcessor

    try:
        return SentencePieceProcessor(model_file=str(file))
    except (RuntimeError, OSError) as error:
        raise ConversionError(f"{file.name} is no sentencepiece model: {error}") from error


def check_against_sentencepiece(spelled: dict[str, list[int]], reference: Any) -> None:
    """Refuse a tokenizer that spells text otherwise than the sentencepiece library does with its model.

    Args:
        spelled: ids the tokenizer makes of each of `PROBES`.
        reference: of the library.

    Raises:
        ConversionError: with the first text that differs.
    """
    for text, ours in spelled.items():
        theirs = reference.encode(text)
        if ours != theirs:
            raise ConversionError(
                f"transformers spells {text!r} as {ours[:12]}, the sentencepiece library with tokenizer.model as {theirs[:12]}. "
                "Is there a tokenizer.json of another model beside it?"
            )


def _is_sentencepiece(folder: Path) -> bool:
    """Whether `tokenizer.model` is all there is."""
    return (folder / "tokenizer.model").is_file() and not (folder / "tokenizer.json").exists()


def _is_tiktoken(folder: Path) -> bool:
    """Whether it is lines of base64 and rank."""
    file = folder / "tokenizer.model"
    if not _is_sentencepiece(folder):
        return False
    with file.open("rb") as stream:
        first = stream.readline(200).split()
    return len(first) == 2 and first[1].isdigit()


def tiktoken_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """A tokenizer from tiktoken's ranks and the added tokens of `tokenizer_config.json`, which keep the ids they have there.

    Args:
        folder: with both files.

    Raises:
        CheckpointError: a damaged file. ConversionError: two tokens on one id.
    """
    ranks = _ranks(folder / "tokenizer.model")
    added = _added_tokens(read_json(folder / "tokenizer_config.json"))
    letters = _byte_letters()
    vocabulary = {_lettered(token, letters): rank for token, rank in ranks.items()}
    merges = [
        (rank, (_lettered(token[:cut], letters), _lettered(token[cut:], letters)))
        for token, rank in ranks.items()
        for cut in range(1, len(token))
        if token[:cut] in ranks and token[cut:] in ranks
    ]
    # Of two ways to merge a token tiktoken takes the one whose parts come first.
    merges.sort(key=lambda merge: (merge[0], max(vocabulary[part] for part in merge[1]), min(vocabulary[part] for part in merge[1])))
    taken = set(vocabulary.values())
    for token, identifier in added.items():
        if identifier in taken or token in vocabulary:
            raise ConversionError(f"Added token {token!r} (id {identifier}) is in tokenizer.model already.")
    tokenizer = Tokenizer(BPE({**vocabulary, **added}, [parts for _, parts in merges]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(GLM_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in added])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False)


def _ranks(file: Path) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        if not line:
            continue
        try:
            encoded, rank = line.split()
            token = base64.b64decode(encoded, validate=True)
            ranks[token] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise CheckpointError(f"{file.name}, line {number}, should be a token in base64 and its rank: {error}") from error
        if not 1 <= len(token) <= LONGEST_TOKEN:
            raise CheckpointError(f"{file.name}, line {number}: a token has 1 to {LONGEST_TOKEN} bytes; this one has {len(token)}.")
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing or len(set(ranks.values())) != len(ranks):
        raise CheckpointError(
            f"{file.name} has no token for byte {missing[0]}." if missing else f"{file.name} gives one rank to two tokens."
        )
    return ranks


def _added_tokens(config: dict[str, Any]) -> dict[str, int]:
    """Added tokens by their spelling."""
    decoder = config.get("added_tokens_decoder", {})
    try:
        added = {_text(entry["content"]): int(identifier) for identifier, entry in decoder.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"'added_tokens_decoder' of tokenizer_config.json must map ids to tokens with 'content': {error!r}"
        ) from error
    if len(added) != len(decoder) or len(set(added.values())) != len(decoder) or any(identifier < 0 for identifier in added.values()):
        raise CheckpointError(
            "'added_tokens_decoder' of tokenizer_config.json gives one token two ids, one id two tokens, or a negative id."
        )
    return added


def _text(content: Any) -> str:
    if not isinstance(content, str) or not content:
        raise TypeError(f"{content!r:.60} is no token")
    return content


def _lettered(token: bytes, letters: dict[int, str]) -> str:
    return "".join(letters[byte] for byte in token)


def _byte_letters() -> dict[int, str]:
    """The letter that stands for each byte in a byte-level BPE (GPT-2's table)."""
    kept = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [byte for byte in range(256) if byte not in kept]
    return {**{byte: chr(byte) for byte in kept}, **{byte: chr(256 + place) for place, byte in enumerate(moved)}}
