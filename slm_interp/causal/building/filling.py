"""What builders have in common: whether words can be exchanged, a stretch elsewhere, prompts that are text, a word that is matched."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from math import inf, log

from jaxtyping import Int
from torch import Tensor

from slm_interp.errors import VocabularyError
from slm_interp.model import SpeechTextModel
from slm_interp.patching.spans import SpanPair
from slm_interp.prompt import Modality
from slm_interp.streams import repeats_are_merged
from slm_interp.utterance import Contrast, Span, Utterance


def why_not(slm: SpeechTextModel, clean: str, corrupted: str) -> str | None:
    """Why the text of two words cannot be exchanged, or None: they cannot be spelled, or begin with the same piece or none of their own.

    Lens directions are those of first pieces, so words that share theirs have one direction.
    """
    pieces = [pieces_of(slm, word) for word in (clean, corrupted)]
    for word, own in zip((clean, corrupted), pieces, strict=True):
        if own is None:
            return f"the tokenizer cannot spell {word!r}"
        if not slm.label(own[0]).strip():
            return f"the tokenizer begins {word!r} with a bare blank, whose direction is no word's"
    if pieces[0] is not None and pieces[1] is not None and pieces[0][0] == pieces[1][0]:
        return f"{clean!r} and {corrupted!r} begin with the same piece, {slm.label(pieces[0][0])!r}"
    return None


def pieces_of(slm: SpeechTextModel, word: str) -> tuple[int, ...] | None:
    """Ids of a word, or None if it cannot be spelled."""
    try:
        return slm.word_ids(word)
    except VocabularyError:
        return None


def matched(
    slm: SpeechTextModel, word: str, other: str, pool: Iterable[tuple[str, float]], taken: Iterable[str], frequency: float, seed: str
) -> list[str]:
    """Words of a pool that could stand for `word`: as many pieces, none of whose first is that of `word`, `other` or a word that is taken.

    In order: nearest in frequency (ratio), then in letters; ties are broken by a hash of `seed` and the word, so that cases do not all get one word.

    Args:
        pool: words with their frequencies, in any unit that `frequency` has too.
        taken: words that are said anywhere in the case.
    """
    own, busy = pieces_of(slm, word), {word, other, *taken}
    firsts = {pieces[0] for one in busy if (pieces := pieces_of(slm, one))}
    found = []
    for one, often in pool:
        pieces = pieces_of(slm, one)
        if (
            one in busy
            or pieces is None
            or own is None
            or len(pieces) != len(own)
            or pieces[0] in firsts
            or not slm.label(pieces[0]).strip()
        ):
            continue
        ratio = abs(log(often / frequency)) if often > 0 and frequency > 0 else 0.0 if often == frequency else inf
        found.append((round(ratio, 6), abs(len(one) - len(word)), hashlib.blake2s(f"{seed}/{one}".encode()).hexdigest(), one))
    return [one for *_, one in sorted(found)]


def elsewhere(slm: SpeechTextModel, prompt: Utterance, word: Span, length: int) -> Span | None:
    """A stretch of speech at which the word is not heard: right before it, or, where there is no room, as late as can be without the last position."""
    speech = slm.vocabulary.mask("speech")[prompt.tokens].tolist()
    before, after = word.start - length, len(prompt) - 1 - length
    if before >= 0 and all(speech[before : word.start]):
        return Span(before, word.start)
    if after >= word.stop and all(speech[after : after + length]):
        return Span(after, after + length)
    return None


def written(
    slm: SpeechTextModel, texts: tuple[str, str], places: tuple[int, int] | None, contrast: Contrast, form: str | None = None
) -> tuple[Contrast, SpanPair]:
    """Both prompts as text, which the same units follow, and where the words stand in them.

    In a marked form the marker of speech stands at the end; in the others nothing does. Texts begin with a blank, as words do inside a sentence.

    Args:
        texts: what the clean and the corrupted prompt say.
        places: numbers of the words between blanks; None for the last position of either prompt.
        contrast: whose continuations follow.
        form: prompt form.

    Raises:
        VocabularyError: a model without text, or a text that its tokenizer cannot spell.
    """
    chosen = slm.prompts.form(form)
    marks = chosen.marked and not chosen.closed and "speech" in slm.prompts.markers
    then: Modality | None = "speech" if marks else None
    prompts = [slm.check(slm.text_prompt(f" {text}", form, then, name=f"{text}, read")) for text in texts]
    read = Contrast(prompts[0], prompts[1], contrast.answer, contrast.distractor)
    if places is None:
        return read, last(read)
    clean, corrupted = (_all_pieces(slm, one, at) for one, at in zip(prompts, places, strict=True))
    return read, SpanPair("word", clean, corrupted)


def _all_pieces(slm: SpeechTextModel, prompt: Utterance, at: int) -> Span:
    """A word of text with the blank before it, where that is a piece of its own."""
    span, pieces = prompt.words[at].span, slm.word_ids(prompt.words[at].text)
    start = span.stop - len(pieces)
    return Span(start, span.stop) if start >= 0 and tuple(prompt.tokens[start : span.stop].tolist()) == pieces else span


def last(contrast: Contrast) -> SpanPair:
    """The last position of both prompts, from which the continuation is predicted."""
    clean, corrupted = len(contrast.clean), len(contrast.corrupted)
    return SpanPair("end", Span(clean - 1, clean), Span(corrupted - 1, corrupted))


def begins_alike(
    slm: SpeechTextModel, answer: Int[Tensor, " answer_pos"], distractor: Int[Tensor, " distractor_pos"], prompts: Sequence[Utterance]
) -> str | None:
    """Why two continuations cannot be told apart after these prompts, or None: they are empty, equal, or begin with the unit a prompt ends with.

    The last is asked only where repeats are merged.
    """
    if not len(answer) or not len(distractor):
        return "a continuation has no unit"
    if answer.tolist() == distractor.tolist():
        return "both continuations have the same units"
    ends = {int(one.tokens[-1]) for one in prompts}
    if ends & {int(answer[0]), int(distractor[0])} and repeats_are_merged(slm.vocabulary, [one.tokens for one in prompts]):
        return "a continuation begins with the unit that a prompt ends with, and repeats are merged"
    return None
