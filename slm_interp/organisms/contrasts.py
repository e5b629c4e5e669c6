"""Contrast pairs for causal tests: two spoken prompts, what should follow each, and the words that tell them apart.

1. A kind (`KINDS`) draws the sentences from the world: `slm_interp.organisms.contrast_plans`.
2. Every sentence is said and quantised whole. A prompt is its units up to a word, a continuation the units of that word,
   both by slamkit's rule (`slm_interp.speech.spans.unit_slice`).
3. A draw is put aside if a word that matters has no unit, if both continuations have the same units, or if a prompt ends
   with the unit that a continuation begins with: repeats are merged, so such a row could not be heard.

| kind | clean and corrupted | answer, distractor | says |
|---|---|---|---|
| `names` | one sentence about two names | the value of each | does the name decide the value? |
| `facts` | the same prompt | its own value, another name's | is the fact known? |
| `homophones` | two words of one sound | what follows each | is it the word or the sound? |
| `neighbours` | two names near in sound | the value of each | `names`, hard to hear |
| `voices` | the same words in two voices | its own value, another's | does the voice matter? It should not |
| `foreseen` | two sentences up to the same word | the one word that can follow each | does what was said before decide what follows? |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, TypeAlias, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from slm_interp.audio import Audio
from slm_interp.errors import SpeechError
from slm_interp.model import SpeechTextModel
from slm_interp.organisms.contrast_plans import KINDS, Cut, Plan
from slm_interp.organisms.corpus import Prompt
from slm_interp.organisms.phonetic import bare_phonemes, edit_distance
from slm_interp.organisms.recipe import Speaking
from slm_interp.organisms.world import Side, World
from slm_interp.speech.spans import heard_words, unit_slice, words_to_spans
from slm_interp.speech.units import Units
from slm_interp.speech.words import TimedWord
from slm_interp.utterance import Contrast, Span, Utterance, Word

SIDES: tuple[Side, ...] = get_args(Side)
DRAWS_PER_PAIR = 40  # before a kind is given up


@dataclass(frozen=True, eq=False)
class ContrastPair:
    """A contrast and where it comes from.

    Args:
        contrast: prompts, and continuations as speech ids.
        kind: one of `KINDS`.
        name: kind, seed and number of the draw: the same name, the same pair.
        plan: its sentences, voices, category, side and phrasing.
        word_clean: the word that matters, with its span in the clean prompt.
        word_corrupted: the word that meets it in the corrupted prompt.
    """

    contrast: Contrast
    kind: str
    name: str
    plan: Plan
    word_clean: Word
    word_corrupted: Word

    @property
    def same_length(self) -> bool:
        """Whether both words have as many units, so that their positions can be paired one by one."""
        return len(self.word_clean.span) == len(self.word_corrupted.span)

    @property
    def text_clean(self) -> str:
        """What the clean prompt says."""
        return _text_before(self.plan.clean)

    @property
    def text_corrupted(self) -> str:
        """What the corrupted prompt says."""
        return _text_before(self.plan.corrupted)

    @property
    def answer(self) -> str:
        """The word that continues the clean prompt."""
        return _text_at(self.plan.answer)

    @property
    def distractor(self) -> str:
        """The word that does not."""
        return _text_at(self.plan.distractor)

    @property
    def cluster(self) -> str:
        """What both prompts are about: the label for resampling whole pairs."""
        return " | ".join(sorted(set(self.plan.about)))

    def __repr__(self) -> str:
        said = f"{self.text_clean!r} -> {self.answer!r} against {self.text_corrupted!r} -> {self.distractor!r}"
        return f"ContrastPair({self.name}: {said}, {self.word_clean.text!r} against {self.word_corrupted.text!r}, {self.cluster})"


def contrasts(
    slm: SpeechTextModel,
    world: World,
    kind: str,
    count: int,
    seed: int = 0,
    voices: Sequence[str] = Speaking().voices,
    sides: Sequence[Side] = SIDES,
) -> list[ContrastPair]:
    """Pairs of one kind, all different. Asking for more with the same seed begins with the same ones.

    Args:
        slm: whose quantiser and prompt form are used.
        world: whose facts are told.
        kind: one of `KINDS`.
        count: pairs.
        voices: eSpeak voices that speak; rates and pitches are those of training.
        sides: of the facts, in turn: as many pairs of each. `homophones` ask no fact.

    Raises:
        SpeechError: an unknown kind or side, no voice, no quantiser, or fewer different pairs than asked for.
    """
    _refuse(slm, kind, count, voices, sides)
    found: list[ContrastPair] = []
    seen: set[tuple[Cut, ...]] = set()
    groups = 0
    say = lru_cache(maxsize=32)(partial(_say, quantiser=slm.quantiser))
    for draw in range(DRAWS_PER_PAIR * count):
        plans = KINDS[kind](world, voices, sides[groups % len(sides)], np.random.default_rng([seed, draw]))
        named = [(plan, f"{kind}-{seed}-{draw}" + ("ab"[number] if len(plans) > 1 else "")) for number, plan in enumerate(plans)]
        pairs = [_pair(slm, say, plan, kind, name) for plan, name in named]
        keys = [(plan.clean, plan.corrupted, plan.answer, plan.distractor) for plan in plans]
        if not plans or None in pairs or seen & set(keys):
            continue
        seen |= set(keys)
        found += [pair for pair in pairs if pair is not None]
        groups += 1
        if len(found) >= count:
            return found[:count]
    raise SpeechError(
        f"Found {len(found)} different pairs of kind {kind!r} in {DRAWS_PER_PAIR * count} draws; wanted {count}. Ask for fewer."
    )


def said_before(slm: SpeechTextModel, cut: Cut, word: int, name: str = "") -> tuple[Utterance, Word] | None:
    """A sentence said up to its cut, and the word of that number in it; nothing where that word has no unit.

    Raises:
        SpeechError: a checkpoint without a quantiser.
    """
    if slm.quantiser is None:
        raise SpeechError("Sentences are said aloud and turned into the model's units; this checkpoint carries no quantiser to do so.")
    return _before(slm, _say(cut.prompt, slm.quantiser), cut.at, word, name)


def table(pairs: Sequence[ContrastPair]) -> pd.DataFrame:
    """One row a pair: texts, words, numbers of units, seconds of the clean word, voices, and labels to cluster by.

    `phonemes_apart` is the edit distance between the two words (see `slm_interp.organisms.phonetic`), as the clean voice's
    language has them. The quantiser is in `attrs`.

    Raises:
        SpeechError: no pairs.
    """
    if not pairs:
        raise SpeechError("A table of contrasts needs at least one pair.")
    rows = []
    for pair in pairs:
        plan, clean, corrupted = pair.plan, pair.word_clean, pair.word_corrupted
        rows.append(
            {
                "name": pair.name,
                "kind": pair.kind,
                "text_clean": pair.text_clean,
                "text_corrupted": pair.text_corrupted,
                "word_clean": clean.text,
                "word_corrupted": corrupted.text,
                "units_clean": len(clean.span),
                "units_corrupted": len(corrupted.span),
                "same_length": pair.same_length,
                "phonemes_apart": edit_distance(*(bare_phonemes(word.text, plan.clean.prompt.voice) for word in (clean, corrupted))),
                "start_s": clean.start_s,
                "end_s": clean.end_s,
                "answer": pair.answer,
                "distractor": pair.distractor,
                "units_answer": len(pair.contrast.answer),
                "units_distractor": len(pair.contrast.distractor),
                "voice_clean": plan.clean.prompt.voice,
                "voice_corrupted": plan.corrupted.prompt.voice,
                "rate": plan.clean.prompt.rate,
                "pitch": plan.clean.prompt.pitch,
                "category": plan.category,
                "side": plan.side,
                "phrasing": plan.phrasing,
                "cluster": pair.cluster,
            }
        )
    frame = pd.DataFrame(rows)
    frame.attrs = {"quantiser": pairs[0].contrast.clean.quantiser}
    return frame


@dataclass(frozen=True, eq=False)
class _Saying:
    """A sentence as it sounds."""

    audio: Audio
    words: tuple[TimedWord, ...]
    units: Units


_Say: TypeAlias = Callable[[Prompt], _Saying]


def _say(prompt: Prompt, quantiser: Any) -> _Saying:
    audio, words = prompt.audio(quantiser.recipe.sample_rate)
    return _Saying(audio, words, quantiser.encode(audio))


def _pair(slm: SpeechTextModel, say: _Say, plan: Plan, kind: str, name: str) -> ContrastPair | None:
    """A plan said aloud, or nothing where it cannot be used."""
    clean = _before(slm, say(plan.clean.prompt), plan.clean.at, plan.words[0], name)
    corrupted = clean if plan.corrupted == plan.clean else _before(slm, say(plan.corrupted.prompt), plan.corrupted.at, plan.words[1], name)
    answer, distractor = (_continuation(slm, say(cut.prompt), cut.at) for cut in (plan.answer, plan.distractor))
    if clean is None or corrupted is None or not len(answer) or not len(distractor) or torch.equal(answer, distractor):
        return None
    if {int(heard.tokens[-1]) for heard, _ in (clean, corrupted)} & {int(answer[0]), int(distractor[0])}:
        return None
    contrast = Contrast(slm.check(clean[0]), slm.check(corrupted[0]), answer, distractor)
    return ContrastPair(contrast, kind, name, plan, clean[1], corrupted[1])


def _continuation(slm: SpeechTextModel, saying: _Saying, at: int) -> Int[Tensor, " pos"]:
    """Ids of the units of a word."""
    own = saying.units.units[_slice_of(saying, at)]
    return slm.vocabulary.unit_to_id(torch.from_numpy(own).long())


def _before(slm: SpeechTextModel, saying: _Saying, at: int, word: int, name: str) -> tuple[Utterance, Word] | None:
    """The prompt before the word numbered `at`, and the word numbered `word` in it; nothing where that has no unit."""
    stop = _slice_of(saying, at).start
    heard = heard_words(saying.words, saying.units).words
    spans = words_to_spans(heard, saying.units)
    kept = [(timed, own) for timed, own in zip(heard, spans, strict=True) if own.span.start < stop]
    place = next((number for number, (timed, _) in enumerate(kept) if timed is saying.words[word]), None)
    if place is None:
        return None
    words = [replace(own, span=Span(own.span.start, min(own.span.stop, stop))) for _, own in kept]
    edges = saying.units.edges()[: stop + 1]
    samples = saying.audio.samples[: round(float(edges[-1]) * saying.audio.sample_rate)]
    prompt = slm.speech_prompt(
        torch.from_numpy(saying.units.units[:stop]).long(),
        torch.from_numpy(edges).float(),
        words,
        audio=Audio(samples, saying.audio.sample_rate),
        quantiser=saying.units.quantiser,
        name=name,
    )
    return prompt, prompt.words[place]


def _slice_of(saying: _Saying, at: int) -> slice:
    return unit_slice(saying.units, saying.words[at].start_s, saying.words[at].end_s)


def _text_before(cut: Cut) -> str:
    return " ".join(cut.prompt.text.split()[: cut.at])


def _text_at(cut: Cut) -> str:
    return cut.prompt.text.split()[cut.at]


def _refuse(slm: SpeechTextModel, kind: str, count: int, voices: Sequence[str], sides: Sequence[Side]) -> None:
    if kind not in KINDS:
        raise SpeechError(f"No contrasts of kind {kind!r}; there are: {', '.join(KINDS)}.")
    if count < 1 or not voices or not sides or set(sides) - set(SIDES):
        raise SpeechError(
            f"Contrasts need a count of 1 or more, voices, and sides among {', '.join(SIDES)}; "
            f"got count {count}, {len(voices)} voices, sides {list(sides)}."
        )
    if slm.quantiser is None:
        raise SpeechError("Contrasts are said aloud and turned into the model's units; this checkpoint carries no quantiser to do so.")
