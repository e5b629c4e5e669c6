"""Two sentences that differ in a word become a case, wherever they come from: word lists, fact tables, corpora.

1. A side is a prompt, the word of it that matters, and the units that follow it. `before` cuts a whole sentence there.
2. The corrupted word is spliced into the clean prompt (`speech.splicing`), so that nothing but the word's own units differs.
3. The third word, if none is given, is one that stands in the same frame elsewhere and does not ask for the answer or the distractor; if no frame
   has one, a word of the source, which is listed. The second such word of the frame is the semantic neighbour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from jaxtyping import Int
from torch import Tensor

from slm_interp.audio import Audio
from slm_interp.causal.building.cases_built import CASE, LeftOut
from slm_interp.causal.building.filling import begins_alike, elsewhere, matched, why_not, written
from slm_interp.causal.cases import Case, Heard, Words
from slm_interp.errors import PatchingError, VocabularyError
from slm_interp.model import SpeechTextModel
from slm_interp.patching.spans import SpanPair
from slm_interp.speech.splicing import spliced_contrast
from slm_interp.utterance import Contrast, Utterance


@dataclass(frozen=True, eq=False)
class Side:
    """A prompt with its word, and what follows.

    Args:
        prompt: up to the answer.
        at: number of its word among `prompt.words`.
        answer: units that follow, as ids.
        answer_text: what they say.
        says: all that the prompt says, words inside one unit too.
        place: number of its word in `says`.
    """

    prompt: Utterance
    at: int
    answer: Int[Tensor, " answer_pos"]
    answer_text: str
    says: tuple[str, ...]
    place: int

    @property
    def word(self) -> str:
        """The word that matters."""
        return self.prompt.words[self.at].text


def side_of(prompt: Utterance, at: int, answer: Int[Tensor, " answer_pos"], answer_text: str) -> Side:
    """A side of which nothing more is known than the words of its prompt."""
    return Side(prompt, at, answer, answer_text, tuple(word.text for word in prompt.words), at)


@dataclass(frozen=True)
class Stock:
    """Words that controls may be taken from.

    Args:
        frame: words that stand in the same frame, each with the answers it asks for.
        source: all words of the source, with how often they occur.
    """

    frame: Mapping[str, Set[str]] = field(default_factory=dict)
    source: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Given:
    """Words for controls that the user chose, and the corrupted prompt in another voice."""

    third: str | None = None
    phonetic: str | None = None
    semantic: str | None = None
    other_voice: Heard | None = None


def before(slm: SpeechTextModel, utterance: Utterance, word: int) -> Utterance:
    """A sentence up to its word of this number.

    Raises:
        PatchingError: nothing is said before it.
    """
    return _first(utterance, utterance.words[word].span.start, slm)


def opened(slm: SpeechTextModel, utterance: Utterance) -> Utterance:
    """An utterance up to its last unit: without what closes a prompt, since units are to follow."""
    speech = slm.vocabulary.mask("speech")[utterance.tokens].nonzero()
    return _first(utterance, int(speech[-1]) + 1 if len(speech) else 0, slm)


def units_between(utterance: Utterance, first: int, last: int) -> Int[Tensor, " pos"]:
    """Ids from the start of one word to the end of another."""
    return utterance.tokens[utterance.words[first].span.start : utterance.words[last].span.stop]


def _first(utterance: Utterance, stop: int, slm: SpeechTextModel) -> Utterance:
    if not stop or not slm.vocabulary.mask("speech")[utterance.tokens[:stop]].any():
        raise PatchingError(f"A prompt says something before its answer; of {utterance.name!r} nothing is left.")
    audio = utterance.audio
    if audio is not None:
        samples = audio.samples[: round(float(utterance.edges[stop]) * audio.sample_rate)]
        audio = Audio(samples, audio.sample_rate) if len(samples) else None
    words = tuple(word for word in utterance.words if word.span.stop <= stop)
    return replace(
        utterance,
        tokens=utterance.tokens[:stop],
        edges=utterance.edges[: stop + 1],
        words=words,
        labels=utterance.labels[:stop],
        audio=audio,
    )


def assembled(slm: SpeechTextModel, name: str, sides: tuple[Side, Side], stock: Stock, given: Given, left_out: LeftOut) -> Case | None:
    """A case of a clean and a corrupted side; None, with its reason in `left_out`, where they make none."""
    contrast, reason = _contrast(slm, *sides)
    if contrast is None:
        left_out.add(name, CASE, reason)
        return None
    clean, corrupted = (prompt.words[sides[0].at] for prompt in (contrast.clean, contrast.corrupted))
    away = elsewhere(slm, contrast.corrupted, corrupted.span, len(corrupted.span))
    if away is None:
        left_out.add(name, "elsewhere", "no stretch of speech before the word, or after it and before the last position, is as long")
    read, read_span = _written(slm, name, contrast, sides, left_out)
    return Case(
        name=name,
        contrast=contrast,
        words=_words(slm, name, sides, stock, given, left_out),
        span=SpanPair("word", clean.span, corrupted.span),
        elsewhere=away,
        other_voice=given.other_voice,
        written=read,
        written_span=read_span,
    )


def _contrast(slm: SpeechTextModel, clean: Side, corrupted: Side) -> tuple[Contrast | None, str]:
    """The spliced contrast, or why there is none."""
    speech = slm.vocabulary.mask("speech")
    reason = why_not(slm, clean.word, corrupted.word) if clean.word != corrupted.word else f"both words are {clean.word!r}"
    reason = reason or begins_alike(slm, clean.answer, corrupted.answer, (clean.prompt,))
    if reason:
        return None, reason
    spans = [side.prompt.words[side.at].span for side in (clean, corrupted)]
    heard = [side.prompt.tokens[span.start : span.stop] for side, span in zip((clean, corrupted), spans, strict=True)]
    if not all(speech[ids].all() for ids in (*heard, clean.answer, corrupted.answer)):
        return None, "a word or a continuation has ids that are not speech"
    made = spliced_contrast(Contrast(clean.prompt, corrupted.prompt, clean.answer, corrupted.answer), *spans)
    if made is None:
        return None, "a unit would follow itself where the splice meets the prompt"
    reason = begins_alike(slm, made.answer, made.distractor, (made.clean, made.corrupted))
    longest = max(len(made.clean), len(made.corrupted)) + max(len(made.answer), len(made.distractor))
    if longest > slm.model.cfg.n_ctx:
        reason = f"{longest} positions with the continuation; the model reads {slm.model.cfg.n_ctx}"
    if reason:
        return None, reason
    return Contrast(slm.check(made.clean), slm.check(made.corrupted), made.answer, made.distractor), ""


def _written(
    slm: SpeechTextModel, name: str, contrast: Contrast, sides: tuple[Side, Side], left_out: LeftOut
) -> tuple[Contrast | None, SpanPair | None]:
    """What the clean side says, with the one word and with the other."""
    clean, corrupted = sides
    texts = [[*clean.says[: clean.place], word, *clean.says[clean.place + 1 :]] for word in (clean.word, corrupted.word)]
    try:
        return written(slm, (" ".join(texts[0]), " ".join(texts[1])), (clean.place, clean.place), contrast, contrast.clean.form or None)
    except VocabularyError as error:
        left_out.add(name, "written", str(error))
        return None, None


def _words(slm: SpeechTextModel, name: str, sides: tuple[Side, Side], stock: Stock, given: Given, left_out: LeftOut) -> Words:
    """The two words, those that are given, and those that the stock has."""
    clean, corrupted = (side.word for side in sides)
    given = _usable(slm, name, given, (clean, corrupted), left_out)
    answers = {side.answer_text for side in sides}
    said = {word for side in sides for word in side.says} | answers
    chosen: Sequence[str] = [one for one in (given.third, given.phonetic, given.semantic) if one is not None]
    taken = {*said, *chosen}
    often = {word: float(stock.source.get(word, 1)) for word in (*stock.frame, *stock.source, clean)}
    apart = [(word, often[word]) for word, asks in stock.frame.items() if not asks & answers]
    near = matched(slm, clean, corrupted, apart, taken, often[clean], name)
    third, semantic = given.third, given.semantic
    if third is None and near:
        third = near.pop(0)
    if semantic is None and near:
        semantic = near.pop(0)
    if third is None:
        framed = set(stock.frame)
        pool = [(word, often[word]) for word in stock.source if word not in framed]
        others = matched(slm, clean, corrupted, pool, taken, often[clean], name)
        third = others[0] if others else None
        left_out.add(name, "third of its frame", "no other word of the frame will do" + (f"; {third!r} stands elsewhere" if third else ""))
    if third is None:
        left_out.add(name, "third", "no word of the source has as many pieces, a first piece of its own, and nothing to do with the case")
    return Words(clean, corrupted, third, given.phonetic, semantic)


def _usable(slm: SpeechTextModel, name: str, given: Given, words: tuple[str, str], left_out: LeftOut) -> Given:
    """What is given, less words whose text is not another one's than that of the two."""
    for what in ("third", "phonetic", "semantic"):
        chosen = getattr(given, what)
        if chosen is None:
            continue
        reasons = [f"both are {word!r}" if word == chosen else why_not(slm, word, chosen) for word in words]
        reason = next((one for one in reasons if one is not None), None)
        if reason is not None:
            left_out.add(name, what, reason)
            given = replace(given, **{what: None})
    return given
