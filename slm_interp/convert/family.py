"""What every family answers, whether it is a file of Python or a declaration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from slm_interp.prompt import PromptFormat
from slm_interp.vocabulary import JointVocabulary

TokenIds = Mapping[str, int]  # of a checkpoint's tokenizer; empty where it has none


@dataclass(frozen=True)
class Reading:
    """What a family is asked to make a vocabulary of.

    Args:
        config: the checkpoint's own, wrapper and all.
        rows: of the embedding.
        tokenizer: of the text; None where there is none. The family may add tokens to it.
        n_units: units of each codebook, where they are not the family's own number.
        quantiser: hash of the codebook.
    """

    config: Mapping[str, Any]
    rows: int
    tokenizer: Any | None
    n_units: int | None = None
    quantiser: str | None = None


@dataclass(frozen=True)
class Family:
    """A family under one name.

    Args:
        name, licence: as `inspect` prints them.
        units: how many of which spelling, as `slm-interp families` prints them.
        forms: names of its prompt forms; the first is the default.
        recognises: whether a checkpoint is of this family, from its config and, only if the config may be, from its tokens.
        unwrap: the base model's config and the prefix of its tensor names, from the checkpoint's config.
        read: vocabulary, prompt forms and tokenizer.
    """

    name: str
    licence: str
    units: tuple[str, ...]
    forms: tuple[str, ...]
    recognises: Callable[[Mapping[str, Any], Callable[[], TokenIds]], bool]
    unwrap: Callable[[Mapping[str, Any]], tuple[dict[str, Any], str]]
    read: Callable[[Reading], tuple[JointVocabulary, PromptFormat, Any]]
