"""Targets: which word is asked about at a place, and which ids count as it.

The paper says neither which piece of a word in several pieces nor which spelling it looked for; here both are named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np

from slm_interp.errors import ReadoutError, VocabularyError
from slm_interp.model import SpeechTextModel
from slm_interp.transcription.asking.windows import jittered
from slm_interp.utterance import Span, Utterance

Target = Literal["current", "next", "answer", "given"]
Spelling = Literal["first_piece", "variants", "all_pieces", "every_piece"]
Unspelled = Literal["refuse", "drop"]
Answers: TypeAlias = Sequence[str] | Mapping[str, str] | None
Given: TypeAlias = Sequence[Sequence[str | None]] | Mapping[str, str] | None

NOT_IN_THE_UTTERANCE = -1


@dataclass(frozen=True)
class Place:
    """A word that is heard, with its span, and the word asked about there.

    Args:
        utterance: number of the utterance.
        index: of the word that is heard.
        heard: its text.
        span: of the word that is heard, jittered if that was asked for.
        asked: the text asked about.
        asked_index: its number in the utterance; an answer's is the number of words, a given word's is -1.
    """

    utterance: int
    index: int
    heard: str
    span: Span
    asked: str
    asked_index: int


FORMS: Mapping[str, Callable[[str], str]] = {
    " word": lambda bare: f" {bare}",
    "word": lambda bare: bare,
    " lower": lambda bare: f" {bare.lower()}",
    "lower": lambda bare: bare.lower(),
    " Capitalised": lambda bare: f" {bare.capitalize()}",
    "Capitalised": lambda bare: bare.capitalize(),
}
"""How a word may be written, by the name of the form; in the order in which ids are listed."""


def first_piece(slm: SpeechTextModel, word: str) -> tuple[int, ...]:
    """The first piece of `" word"`."""
    return slm.word_ids(word)[:1]


def variants(slm: SpeechTextModel, word: str) -> tuple[int, ...]:
    """First pieces of {word, lower, Capitalised} with and without a leading space; those the tokenizer can spell.

    A first piece that is a mere blank stands before any word and counts for none.
    """
    return tuple(dict.fromkeys(by_form(slm, word).values())) or slm.word_ids(word)[:1]


def by_form(slm: SpeechTextModel, word: str) -> dict[str, int]:
    """The first piece of a word in each of `FORMS`, without those that the tokenizer cannot spell."""
    found = {form: _first_of_text(slm, written(word.strip())) for form, written in FORMS.items()}
    return {form: some[0] for form, some in found.items() if some}


def _first_of_text(slm: SpeechTextModel, text: str) -> tuple[int, ...]:
    try:
        first = int(slm.text_segment(text).ids[0])
    except VocabularyError:
        return ()
    return (first,) if slm.label(first).strip() else ()


def all_pieces(slm: SpeechTextModel, word: str) -> tuple[int, ...]:
    """Every piece of `" word"`, in order."""
    return slm.word_ids(word)


def pieces(slm: SpeechTextModel, word: str) -> int:
    """How many pieces `" word"` has; 0 if only another variant of it can be spelled."""
    try:
        return len(slm.word_ids(word))
    except VocabularyError:
        return 0


SPELLINGS: Mapping[str, Callable[[SpeechTextModel, str], tuple[int, ...]]] = {
    "first_piece": first_piece,
    "variants": variants,
    "all_pieces": all_pieces,
    "every_piece": all_pieces,
}


def spelled(
    slm: SpeechTextModel, words: Sequence[str], spelling: Spelling = "first_piece", unspelled: Unspelled = "refuse"
) -> dict[str, tuple[int, ...]]:
    """The ids that count as each of the words, which may repeat.

    Args:
        unspelled: `"drop"` leaves out the words that the tokenizer cannot spell; the caller counts them.

    Raises:
        VocabularyError: a model without text, or words that cannot be spelled, by name.
        ReadoutError: no such spelling.
    """
    if spelling not in SPELLINGS or unspelled not in get_args(Unspelled):
        raise ReadoutError(f"A spelling is one of {', '.join(SPELLINGS)}, unspelled is refuse or drop; got {spelling!r}, {unspelled!r}.")
    if slm.tokenizer is None or "text" not in slm.vocabulary.kinds:
        raise VocabularyError("This model has no text ids: it was trained on speech alone, and no word can be asked for.")
    ids = {word: _ids(slm, word, spelling) for word in dict.fromkeys(words)}
    found = {word: some for word, some in ids.items() if some}
    missing = [word for word in ids if word not in found]
    if missing and unspelled == "refuse":
        raise VocabularyError(
            f"The tokenizer cannot spell {len(missing)} of {len(ids)} words: {', '.join(map(repr, missing[:10]))}"
            f"{' ...' if len(missing) > 10 else ''}. Leave them out, or count them out with unspelled='drop'."
        )
    return found


def _ids(slm: SpeechTextModel, word: str, spelling: Spelling) -> tuple[int, ...]:
    try:
        return SPELLINGS[spelling](slm, word)
    except VocabularyError:
        return ()


def answer_of(answers: Answers, utterances: Sequence[Utterance]) -> list[str | None]:
    """The answer of each utterance, by number or by name.

    Raises:
        ReadoutError: another number of answers than utterances, or a name without an answer.
    """
    if answers is None:
        return [None] * len(utterances)
    if isinstance(answers, Mapping):
        missing = [one.name for one in utterances if one.name not in answers]
        if missing:
            raise ReadoutError(f"{len(missing)} utterances have no answer, the first is {missing[0]!r}. Answers by name need one for each.")
        return [answers[one.name] for one in utterances]
    if len(answers) != len(utterances):
        raise ReadoutError(f"{len(utterances)} utterances need {len(utterances)} answers; got {len(answers)}.")
    return list(answers)


def given_of(given: Given, utterances: Sequence[Utterance]) -> list[list[str | None]]:
    """What is asked within each word of each utterance by the user; None where nothing is.

    Args:
        given: for each utterance one text (or None) for each of its words; or from a word that is heard to the one to ask there.

    Raises:
        ReadoutError: another number of lists than utterances, or of texts than words.
    """
    if given is None:
        return [[None] * len(one.words) for one in utterances]
    if isinstance(given, Mapping):
        return [[given.get(word.text) for word in one.words] for one in utterances]
    if len(given) != len(utterances):
        raise ReadoutError(f"{len(utterances)} utterances need {len(utterances)} lists of words to ask for; got {len(given)}.")
    for number, (texts, one) in enumerate(zip(given, utterances, strict=True)):
        if isinstance(texts, str) or len(texts) != len(one.words):
            raise ReadoutError(
                f"Utterance {number} ({one.name or 'unnamed'}) has {len(one.words)} words and needs a list of as many to ask for, None where "
                f"there is nothing to ask; got {texts!r:.60}."
            )
    return [list(texts) for texts in given]


def places(
    utterances: Sequence[Utterance], target: Target, answers: Answers = None, jitter: int = 0, seed: int = 0, given: Given = None
) -> tuple[list[Place], Counter[str]]:
    """What is asked where, and how many words have nothing to be asked.

    `current`: each word within itself. `next`: within each word the one after it; within the last the answer, if there
    are answers. `answer`: within the last word. `given`: within each word the one the user gave for it.

    Raises:
        ReadoutError: an unknown target, answers or given words missing, or utterances without words.
    """
    if target not in get_args(Target):
        raise ReadoutError(f"A target is one of {', '.join(get_args(Target))}; got {target!r}.")
    if target == "answer" and answers is None:
        raise ReadoutError("The answer is not part of the prompt: give answers=, one for each utterance.")
    if (target == "given") != (given is not None):
        raise ReadoutError(f"Words to ask for and target='given' belong together; got target={target!r}, words={given!r:.60}.")
    rng = np.random.default_rng([seed, 0])
    found: list[Place] = []
    chosen = given_of(given, utterances)
    counted: Counter[str] = Counter()
    for number, (utterance, answer) in enumerate(zip(utterances, answer_of(answers, utterances), strict=True)):
        if not utterance.words:
            raise ReadoutError(f"Utterance {number} ({utterance.name or 'unnamed'}) has no words to ask for. Align it first.")
        texts: list[str | None] = [*(word.text for word in utterance.words), answer]
        for index, (word, span) in enumerate(zip(utterance.words, jittered(utterance, jitter, rng), strict=True)):
            if target == "answer" and index < len(utterance.words) - 1:
                continue
            asked_index = {"current": index, "given": NOT_IN_THE_UTTERANCE}.get(target, index + 1)
            asked = chosen[number][index] if target == "given" else texts[asked_index]
            if asked is None:
                counted["no word given" if target == "given" else "no next word"] += 1
            else:
                found.append(Place(number, index, word.text, span, asked, asked_index))
    return found, counted
