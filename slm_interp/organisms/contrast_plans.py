"""Which sentences make a contrast pair: texts and voices, before anything is said.

A pair needs four stretches of speech, each a `Cut` of a whole sentence: two prompts, up to a word, and two
continuations, that word itself. The prompts are cut from sentences that go on with a third word, the *carrier*, which is
neither continuation: a sound knows what follows it (a quantiser that subtracts the mean of its utterance, features that
look ahead, a mouth that prepares the next sound), so a prompt cut before its own answer would give it away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeAlias, TypeVar

import numpy as np

from slm_interp.errors import SpeechError
from slm_interp.organisms import grammar
from slm_interp.organisms.corpus import Prompt
from slm_interp.organisms.foreseen import couples
from slm_interp.organisms.gaps import could_stand, fillers, following
from slm_interp.organisms.lexicon import CATEGORIES, FACT_CATEGORIES, FACT_VALUES, HOMOPHONES, NAMES
from slm_interp.organisms.phonetic import nearest_pairs, sounds_in_sentences
from slm_interp.organisms.recipe import Speaking
from slm_interp.organisms.world import Fact, Side, World

CLOSEST = 60  # pairs of names near in sound that are drawn from

Item = TypeVar("Item")


@dataclass(frozen=True)
class Cut:
    """A sentence as it is said, and the number of the word at which it is cut."""

    prompt: Prompt
    at: int


@dataclass(frozen=True)
class Plan:
    """A pair before it is said.

    Args:
        clean: the prompt is what comes before the cut.
        corrupted: likewise.
        answer: the continuation is the word at the cut.
        distractor: likewise.
        words: numbers of the words that matter, in the clean and in the corrupted prompt.
        about: what the clean and the corrupted prompt are about, for clustering.
        category: of the facts, or what the words are.
        side: who may know the facts; empty where there is none.
        phrasing: of the clean prompt.
    """

    clean: Cut
    corrupted: Cut
    answer: Cut
    distractor: Cut
    words: tuple[int, int]
    about: tuple[str, str]
    category: str
    side: str
    phrasing: str

    @property
    def own_distractor(self) -> bool:
        """Whether the distractor belongs to another prompt than the answer: the corrupted one, in its voice."""
        return self.clean != self.corrupted and self.distractor.prompt.voice == self.corrupted.prompt.voice


Builder: TypeAlias = Callable[[World, Sequence[str], Side, np.random.Generator], tuple[Plan, ...]]
"""World, voices, side and a generator to plans that belong together; none if the draw came to nothing."""


def names(world: World, voices: Sequence[str], side: Side, rng: np.random.Generator) -> tuple[Plan, ...]:
    """One sentence about two names whose facts differ; each name's value continues its own prompt."""
    return (_apart(*_two_facts(world, side, rng), _draw_style(voices, rng), rng),)


def neighbours(world: World, voices: Sequence[str], side: Side, rng: np.random.Generator) -> tuple[Plan, ...]:
    """As `names`, of two names that are near in sound: the `CLOSEST` pairs whose facts differ."""
    style = _draw_style(voices, rng)
    near = _pick(_near_facts(world, side, style.voice.partition("+")[0]), rng)
    first, second = near if rng.integers(2) else near[::-1]
    return (_apart(first, second, style, rng),)


def facts(world: World, voices: Sequence[str], side: Side, rng: np.random.Generator) -> tuple[Plan, ...]:
    """Two items, of two names: its own value against the other's after the same prompt.

    Over the two each value is true once and false once, so a taste for either is worth nothing.
    """
    first, second = _two_facts(world, side, rng)
    pair = _apart(first, second, _draw_style(voices, rng), rng)
    items = []
    for own, prompt, answer, other in (
        (first, pair.clean, pair.answer, second),
        (second, pair.corrupted, pair.distractor, first),
    ):
        false = _told(pair.phrasing, own, other.value, prompt.prompt)
        items.append(replace(pair, clean=prompt, corrupted=prompt, answer=answer, distractor=false, about=(_label(own), _label(own))))
    return tuple(items)


def voices_apart(world: World, voices: Sequence[str], side: Side, rng: np.random.Generator) -> tuple[Plan, ...]:
    """The same words in two voices; answer and distractor are a true and a false value, both in the clean prompt's voice."""
    if len(set(voices)) < 2:
        raise SpeechError(f"Pairs that differ in voice need two voices or more; got {list(voices)}. Give more, or another kind.")
    first, second = _two_facts(world, side, rng)
    pair = _apart(first, second, _draw_style(voices, rng), rng)
    style = pair.clean.prompt
    other = replace(style, voice=_pick([voice for voice in voices if voice != style.voice], rng))
    false = _told(pair.phrasing, first, second.value, style)
    return (replace(pair, corrupted=Cut(other, pair.clean.at), distractor=false, about=(_label(first), _label(first))),)


def homophones(world: World, voices: Sequence[str], side: Side, rng: np.random.Generator) -> tuple[Plan, ...]:
    """Two words of one sound, each where the grammar has no place for the other; answer and distractor are what follows each.

    No fact is asked, so the side plays no part. In their prompts both words have the same phonemes and the same stress.
    """
    style = _draw_style(voices, rng)
    pair = _pick(HOMOPHONES, rng)
    words = pair if rng.integers(2) else pair[::-1]
    clean, corrupted = (_sentence_with(word, other, rng) for word, other in (words, words[::-1]))
    carrier = _pick(world.lexicon, rng)
    if clean is None or corrupted is None:
        return ()
    continuations = [text.split()[at + 1] for text, at, _ in (clean, corrupted)]
    if len({carrier, *continuations, *words}) < 5:
        return ()
    whole = [(text, at) for text, at, _ in (clean, corrupted)]
    prompts = [(" ".join([*text.split()[: at + 1], carrier]), at) for text, at in whole]
    if len(set(sounds_in_sentences(prompts, style.voice))) > 1:
        return ()
    before, other_before, after, other_after = (Cut(replace(style, text=text), at + 1) for text, at in (*prompts, *whole))
    about = "/".join(sorted(words))
    places = clean[1], corrupted[1]
    return (Plan(before, other_before, after, other_after, places, (about, about), "homophones", "", clean[2]),)


def foreseen(world: World, voices: Sequence[str], side: Side, rng: np.random.Generator) -> tuple[Plan, ...]:
    """Two sentences cut after one and the same word, where the grammar lets each go on with one word only, and not with the same.

    What comes before the word decides what follows it. No fact is asked, so the side plays no part. Phrasings meet in fixed couples (`foreseen.couples`):
    pairs of one couple depend on each other, those of two share no phrasing.
    """
    style = _draw_style(voices, rng)
    couple = _pick(couples(), rng)
    clean, corrupted = couple if rng.integers(2) else couple[::-1]
    first, second = (world.sentence(one.phrasing, rng).text.split() for one in (clean, corrupted))
    second[corrupted.at - 1] = first[clean.at - 1]
    texts = (first, clean.at), (second, corrupted.at)
    carrier = _pick(world.lexicon, rng)
    said = [words[: at + 1] for words, at in texts]
    repeated = any(beginning.count(first[clean.at - 1]) > 1 or carrier in beginning for beginning in said)
    if repeated or any(following(words[:at]) != {words[at]} for words, at in texts):
        return ()
    before, other_before = (Cut(replace(style, text=" ".join([*words[:at], carrier])), at) for words, at in texts)
    after, other_after = (Cut(replace(style, text=" ".join(words)), at) for words, at in texts)
    about, places = (clean.phrasing, corrupted.phrasing), (clean.at - 1, corrupted.at - 1)
    return (Plan(before, other_before, after, other_after, places, about, "foreseen", "", " | ".join(sorted(about))),)


KINDS: dict[str, Builder] = {
    "names": names,
    "facts": facts,
    "homophones": homophones,
    "neighbours": neighbours,
    "voices": voices_apart,
    "foreseen": foreseen,
}


def _apart(first: Fact, second: Fact, style: Prompt, rng: np.random.Generator) -> Plan:
    """One sentence about two names, each with its value."""
    phrasing = _pick(grammar.FACTS[first.category], rng)
    carrier = _pick([one for one in CATEGORIES[first.category][:FACT_VALUES] if one not in (first.value, second.value)], rng)
    name = phrasing.split().index("{name}")
    return Plan(
        clean=_told(phrasing, first, carrier, style),
        corrupted=_told(phrasing, second, carrier, style),
        answer=_told(phrasing, first, first.value, style),
        distractor=_told(phrasing, second, second.value, style),
        words=(name, name),
        about=(_label(first), _label(second)),
        category=first.category,
        side=first.side,
        phrasing=phrasing,
    )


def _told(phrasing: str, fact: Fact, value: str, style: Prompt) -> Cut:
    """A name's fact with this value, cut at the value."""
    return Cut(replace(style, text=phrasing.format(name=fact.name, value=value)), phrasing.split().index("{value}"))


def _label(fact: Fact) -> str:
    return f"{fact.name} {fact.category}"


def _draw_style(voices: Sequence[str], rng: np.random.Generator) -> Prompt:
    """One of the voices at one of the rates and pitches of training; the text is still to come."""
    speaking = Speaking()
    return Prompt("", _pick(voices, rng), _pick(speaking.rates, rng), _pick(speaking.pitches, rng))


def _two_facts(world: World, side: Side, rng: np.random.Generator) -> tuple[Fact, Fact]:
    """Of one category and side, with values that differ."""
    category = _pick(FACT_CATEGORIES, rng)
    told = [fact for fact in world.facts.values() if fact.category == category and fact.side == side]
    first = _pick(told, rng)
    return first, _pick([fact for fact in told if fact.value != first.value], rng)


@lru_cache(maxsize=16)
def _near_facts(world: World, side: Side, language: str) -> tuple[tuple[Fact, Fact], ...]:
    """Facts of names that are near in sound, of one category and side, with values that differ; the nearest first."""
    found = []
    for near in nearest_pairs(NAMES, language):
        for category in FACT_CATEGORIES:
            one, other = world.facts[near.one, category], world.facts[near.other, category]
            if one.side == other.side == side and one.value != other.value:
                found.append((one, other))
    return tuple(found[:CLOSEST])


def _sentence_with(word: str, other: str, rng: np.random.Generator) -> tuple[str, int, str] | None:
    """A sentence in which a word follows this one, where `other` could not stand; the word's number; the phrasing."""
    options = [
        (phrasing, at)
        for phrasing in (*grammar.PEOPLE, *grammar.PLAIN)
        for at, gap in enumerate(phrasing.split()[:-1])
        if word in fillers(gap)
    ]
    if not options:
        return None
    phrasing, at = _pick(options, rng)
    filled: list[str] = []
    for place, gap in enumerate(phrasing.split()):
        free = [one for one in fillers(gap) if one not in filled and one not in (word, other)]
        filled.append(word if place == at else _pick(free, rng) if gap.startswith("{") else gap)
    return None if could_stand(other, filled[:at]) else (" ".join(filled), at, phrasing)


def _pick(choices: Sequence[Item], rng: np.random.Generator) -> Item:
    return choices[int(rng.integers(len(choices)))]
