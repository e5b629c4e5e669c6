"""Cases of an organism: about the word that is heard (C1, C2), and about the word that is to be said (C3).

1. Contrast pairs are drawn and said (`organisms.contrasts`).
2. Names are spliced: the corrupted prompt is the clean one with the other name in it, so that nothing but the name's own units differs.
3. Homophones sound alike, so that with the word exchanged the prompts would be one. What tells them apart is what was said before. Here it is the
   *sound* of the word that is made one, and the context that stays: the clean prompt's word is spliced into the corrupted prompt in place of its homophone.
   At the word both prompts have the same units; a difference there has come from the context, and no swap there can be phonetic. The ceiling therefore holds
   all that the context has brought to the word's positions: which word it is, but also which part of speech, and what the sentence is about.
4. What is foreseen is asked after one and the same word in two sentences, each of which can go on with one word only. The word's sound is made one in the
   same way, so that the last position has the same unit in both: what differs there was brought by what was said before. Cases of one couple of phrasings
   depend on each other, and two couples share no phrasing, so the couple is their one label.
5. Words that cannot be told apart in text (`filling.why_not`) and pairs that cannot be spliced are left out, and listed.

| control | is |
|---|---|
| `third` | a word that is not said in the case, and of whom neither answer nor distractor is told; see below |
| `semantic` | the next such word of the category: in this world what is near in meaning is what stands in the same category |
| `phonetic` | the word of the lexicon that is nearest in phonemes to the clean one, with the same exclusions |
| `elsewhere` | as long as the word in the corrupted prompt: right before the heard word, else as late as can be; never the last position |
| `other_voice` | the corrupted sentence said whole by the next voice. It is not spliced: its frame is of that voice too |
| `written` | both prompts as text, then the marker of speech |

A third word is of the clean word's category, has as many pieces, and is the nearest in the world's frequency, then in letters. Where the category has
none it is taken from the whole lexicon, and listed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from slm_interp.causal.building.cases_built import CASE, Built, LeftOut
from slm_interp.causal.building.filling import begins_alike, elsewhere, last, matched, why_not, written
from slm_interp.causal.building.world_words import FIXED, frequencies, like, nearest_in_sound
from slm_interp.causal.cases import Case, Heard, Words
from slm_interp.errors import PatchingError
from slm_interp.model import SpeechTextModel
from slm_interp.organisms.contrast_plans import Cut
from slm_interp.organisms.contrasts import SIDES, ContrastPair, contrasts, said_before
from slm_interp.organisms.recipe import Speaking
from slm_interp.organisms.splicing import spliced_pair
from slm_interp.organisms.world import Side, World
from slm_interp.patching.spans import SpanPair
from slm_interp.speech.splicing import replaced
from slm_interp.utterance import Contrast, Span

HEARD, SPOKEN = ("names", "neighbours", "homophones"), ("names", "neighbours", "foreseen")
SPLICED = ("names", "neighbours")
_Builder: TypeAlias = Callable[["_Source", ContrastPair, LeftOut], Case]


@dataclass(frozen=True, eq=False)
class _Source:
    """What all cases of a call share."""

    slm: SpeechTextModel
    world: World
    voices: tuple[str, ...]


def heard_word(
    slm: SpeechTextModel,
    world: World,
    kind: str,
    count: int,
    seed: int = 0,
    sides: Sequence[Side] = SIDES,
    voices: Sequence[str] = Speaking().voices,
) -> Built:
    """Cases about the word that is heard, at its own positions: `names` and `neighbours` (C1), `homophones` (C2).

    Args:
        slm: the organism.
        world: whose facts are told.
        kind: one of `HEARD`.
        count: pairs that are drawn; there are as many cases, less those that are left out.
        seed: of the draws; more pairs of one seed begin with the same ones.
        sides: of the facts: heard, read only, withheld. Homophones ask no fact.
        voices: that speak; another of them, or of training, says the corrupted prompt again.

    Raises:
        PatchingError: another kind, or no case at all.
        SpeechError: as `organisms.contrasts.contrasts`.
    """
    return _built(_Source(slm, world, tuple(voices)), checked_kind(kind, HEARD), count, seed, sides, _heard)


def spoken_word(
    slm: SpeechTextModel,
    world: World,
    kind: str,
    count: int,
    seed: int = 0,
    sides: Sequence[Side] = SIDES,
    voices: Sequence[str] = Speaking().voices,
) -> Built:
    """Cases about the word that is to be said (C3): what each prompt goes on with, at its last position; one of `SPOKEN`.

    Arguments and errors as in `heard_word`; `foreseen` asks no fact.
    """
    return _built(_Source(slm, world, tuple(voices)), checked_kind(kind, SPOKEN), count, seed, sides, _spoken)


def checked_kind(kind: str, known: Sequence[str]) -> str:
    """A kind, once it is among those that cases are built of.

    Raises:
        PatchingError: another one.
    """
    if kind not in known:
        raise PatchingError(
            f"Here cases are built of contrasts of kind {', '.join(known)}; got {kind!r}. Of facts both prompts are one, of voices the words are, "
            "and after homophones words follow that are not of one category."
        )
    return kind


def _built(source: _Source, kind: str, count: int, seed: int, sides: Sequence[Side], build: _Builder) -> Built:
    left_out, cases = LeftOut(), []
    for pair in contrasts(source.slm, source.world, kind, count, seed, source.voices, sides):
        made = spliced_pair(pair) if kind in SPLICED else _sound_made_one(pair)
        trouble = "a unit would follow itself where the splice meets the prompt" if made is None else _trouble(source, made, build)
        if made is None or trouble is not None:
            left_out.add(pair.name, CASE, str(trouble))
        else:
            cases.append(build(source, made, left_out))
    return Built(tuple(cases), left_out.table(), f"{kind} of the world of seed {source.world.seed}")


def _trouble(source: _Source, pair: ContrastPair, build: _Builder) -> str | None:
    contrast = pair.contrast
    words = (pair.answer, pair.distractor) if build is _spoken else (pair.word_clean.text, pair.word_corrupted.text)
    if words[0] == words[1]:
        return f"both words are {words[0]!r}"
    return why_not(source.slm, *words) or begins_alike(
        source.slm, contrast.answer, contrast.distractor, (contrast.clean, contrast.corrupted)
    )


def _sound_made_one(pair: ContrastPair) -> ContrastPair | None:
    """Words of one sound in their own contexts, both said as in the clean prompt."""
    clean, corrupted = pair.word_clean, pair.word_corrupted
    prompt = replaced(pair.contrast.corrupted, corrupted.span, pair.contrast.clean, clean.span, corrupted.text)
    if prompt is None:
        return None
    contrast = Contrast(pair.contrast.clean, prompt, pair.contrast.answer, pair.contrast.distractor)
    word = next(one for one in prompt.words if one.span.start == corrupted.span.start)
    return replace(pair, contrast=contrast, name=f"{pair.name}-one-sound", word_corrupted=word)


def _heard(source: _Source, pair: ContrastPair, left_out: LeftOut) -> Case:
    clean, corrupted = pair.word_clean, pair.word_corrupted
    category = "name" if pair.kind in SPLICED else None
    words = _words(source, pair, (clean.text, corrupted.text), category, pair.name, left_out)
    return _case(source, pair, words, SpanPair("word", clean.span, corrupted.span), pair.name, left_out)


def _spoken(source: _Source, pair: ContrastPair, left_out: LeftOut) -> Case:
    category = pair.plan.category if pair.kind in SPLICED else FIXED if pair.kind == "foreseen" else None
    name = f"{pair.name}-next"
    words = _words(source, pair, (pair.answer, pair.distractor), category, name, left_out)
    return _case(source, pair, words, last(pair.contrast), name, left_out)


def _case(source: _Source, pair: ContrastPair, words: Words, span: SpanPair, name: str, left_out: LeftOut) -> Case:
    at_end = span.name == "end"
    away = elsewhere(source.slm, pair.contrast.corrupted, pair.word_corrupted.span, len(span.corrupted))
    if away is None:
        left_out.add(name, "elsewhere", "no stretch of speech before the word, or after it and before the last position, is as long")
    texts = (pair.text_clean, pair.text_corrupted)
    read, read_span = written(source.slm, texts, None if at_end else pair.plan.words, pair.contrast)
    return Case(
        name=name,
        contrast=pair.contrast,
        words=words,
        span=span,
        elsewhere=away,
        other_voice=_other_voice(source, pair, at_end, name, left_out),
        written=read,
        written_span=read_span,
        prompt=pair.plan.phrasing,
        word=pair.plan.phrasing if pair.kind == "foreseen" else " | ".join(sorted((words.clean, words.corrupted))),
    )


def _words(source: _Source, pair: ContrastPair, words: tuple[str, str], category: str | None, name: str, left_out: LeftOut) -> Words:
    """The two words, and words for controls; what there is none of is listed."""
    clean, corrupted = words
    said = {*pair.text_clean.split(), *pair.text_corrupted.split(), pair.answer, pair.distractor}
    taken = said | _names_of(source.world, pair)
    pool, often = like(clean, category), frequencies(source.world)
    candidates = matched(source.slm, clean, corrupted, [(one, often(one, pool)) for one in pool], taken, often(clean, pool), name)
    third = candidates[0] if candidates else None
    semantic = candidates[1] if len(candidates) > 1 else None
    if third is None:
        left_out.add(name, "third of its category", f"no other word of the category of {clean!r} will do; one of another category is taken")
        others = matched(source.slm, clean, corrupted, [(one, 1.0) for one in source.world.lexicon], taken, 1.0, name)
        third = others[0] if others else None
    voice = pair.plan.clean.prompt.voice.partition("+")[0]
    near = nearest_in_sound(source.slm, source.world, words, taken | {third or clean, semantic or clean}, voice)
    for what, found in (("third", third), ("semantic", semantic), ("phonetic", near)):
        if found is None:
            left_out.add(
                name, what, f"no other word like {clean!r} has as many pieces, a first piece of its own, and nothing to do with the case"
            )
    return Words(clean, corrupted, third, near, semantic)


def _names_of(world: World, pair: ContrastPair) -> set[str]:
    """Names of whom the answer or the distractor is told: to put one in would be to ask for it."""
    category, values = pair.plan.category, (pair.answer, pair.distractor)
    return {fact.name for fact in world.facts.values() if fact.category == category and fact.value in values}


def _other_voice(source: _Source, pair: ContrastPair, at_end: bool, name: str, left_out: LeftOut) -> Heard | None:
    """The corrupted sentence as the next voice says it; voices in which the word has no unit are passed over."""
    cut, own = pair.plan.corrupted, pair.plan.corrupted.prompt.voice
    voices = [one for one in source.voices if one != own] or [one for one in Speaking().voices if one != own]
    first = sum(map(ord, name)) % len(voices)
    for voice in voices[first:] + voices[:first]:
        made = said_before(source.slm, Cut(replace(cut.prompt, voice=voice), cut.at), pair.plan.words[1], f"{name}, by {voice}")
        if made is not None:
            prompt, word = made
            return Heard(source.slm.check(prompt), Span(len(prompt) - 1, len(prompt)) if at_end else word.span)
    left_out.add(name, "other_voice", f"the word has no unit in any of the voices {', '.join(voices)}")
    return None
