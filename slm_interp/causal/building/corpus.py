"""Minimal pairs of an aligned corpus, found by themselves: two sentences that begin alike but for one word, and then go on with different words.

1. Of every sentence, each beginning of `k` words with a gap at its word `i` is a key. Sentences of one key say the same around the gap.
2. Longer beginnings first, two sentences of one key are a pair if their words at the gap differ and so do their words after the beginning. So the words in
   between are the same, and the first difference after the gap is what follows.
3. The prompts are the two beginnings; the continuations are the units of the word after each. Each sentence is used once, so that no two cases share a sound.
4. The second word is spliced into the first sentence. Where speakers differ, what differs is then the speaker too: tell them, and only one speaker's
   sentences are paired.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tqdm import tqdm

from slm_interp.causal.building.cases_built import Built, LeftOut
from slm_interp.causal.building.sentences import Given, Stock, assembled, before, side_of, units_between
from slm_interp.causal.cases import Case
from slm_interp.errors import PatchingError
from slm_interp.model import SpeechTextModel
from slm_interp.speech.corpus import Corpus
from slm_interp.utterance import Utterance

ALONE = "no other sentence begins as it does but for one word"
SAME = "those that begin as it does but for one word go on with the same word"
PAIRED = "all that it could be paired with are in other pairs, or make none with it"


@dataclass(frozen=True)
class _Frame:
    """A beginning with a gap."""

    words: tuple[str, ...]
    gap: int
    speaker: str


def corpus_pairs(
    slm: SpeechTextModel, corpus: Corpus | Sequence[Utterance], around: int = 2, speakers: Sequence[str] | None = None
) -> Built:
    """A case of every minimal pair of a corpus. Pairs that make no case are listed (`case`), and sentences that are in none (`sentence`), each with its reason.

    Args:
        slm: the model.
        corpus: utterances with words: of `speech.corpus`, or any others. Words inside one unit are not among them, and so do not count.
        around: fewest words that both prompts share.
        speakers: of each utterance; None takes all for one.

    Raises:
        PatchingError: utterances without names of their own or without words, another number of speakers, no pair at all.
    """
    utterances = list(corpus)
    names = [one.name for one in utterances]
    if not utterances or len(set(names)) < len(names) or not all(names) or not all(one.words for one in utterances) or around < 1:
        raise PatchingError(
            f"Minimal pairs are looked for among utterances with words, each of its own name, that share one word or more; got {len(utterances)}, "
            f"{len(set(names) - {''})} names, {sum(not one.words for one in utterances)} without words, around={around}."
        )
    if speakers is not None and len(speakers) != len(utterances):
        raise PatchingError(f"{len(utterances)} utterances need as many speakers; got {len(speakers)}.")
    frames = _frames(utterances, around, speakers or [""] * len(utterances))
    left_out, cases = LeftOut(), list[Case]()
    used: set[int] = set()
    spoken = Counter(word.text for one in utterances for word in one.words)
    for frame, members in tqdm(frames.items(), desc="frames", mininterval=5, disable=None):
        for one, other in _pairs(frame, members, utterances, used):
            made = _case(slm, frame, (utterances[one], utterances[other]), members, utterances, spoken, left_out)
            if made is not None:
                used |= {one, other}
                cases.append(made)
    if not frames:
        raise PatchingError(
            f"No case could be built from a corpus of {len(utterances)} utterances: no two of one speaker begin alike but for one word, "
            f"sharing {around} words, and go on after it. A minimal pair is 'the capital of peru is lima' and 'the capital of spain is madrid'; "
            "a .csv of words asks for such sentences."
        )
    for number, why in _why(frames, utterances, used):
        left_out.add(names[number], "sentence", why)
    return Built(tuple(cases), left_out.table(), f"a corpus of {len(utterances)} utterances")


def _frames(utterances: Sequence[Utterance], around: int, speakers: Sequence[str]) -> dict[_Frame, list[int]]:
    """Beginnings with a gap that several sentences have, the longest first; only sentences that go on are there."""
    found: dict[_Frame, list[int]] = defaultdict(list)
    for number, (one, speaker) in enumerate(zip(utterances, speakers, strict=True)):
        texts = [word.text for word in one.words]
        for length in range(around + 1, len(texts)):
            for gap in range(length):
                found[_Frame((*texts[:gap], "_", *texts[gap + 1 : length]), gap, speaker)].append(number)
    return {
        frame: found[frame]
        for frame in sorted(found, key=lambda frame: (-len(frame.words), frame.words, frame.gap))
        if len(found[frame]) > 1
    }


def _pairs(frame: _Frame, members: Sequence[int], utterances: Sequence[Utterance], used: set[int]) -> Iterator[tuple[int, int]]:
    """Of a frame, pairs of sentences that are in none yet. `used` grows between two pairs."""
    for place, one in enumerate(members):
        for other in members[place + 1 :]:
            if one not in used and other not in used and _differ(frame, utterances[one], utterances[other]):
                yield one, other


def _differ(frame: _Frame, one: Utterance, other: Utterance) -> bool:
    return all(one.words[at].text != other.words[at].text for at in (frame.gap, len(frame.words)))


def _case(
    slm: SpeechTextModel,
    frame: _Frame,
    pair: tuple[Utterance, Utterance],
    members: Sequence[int],
    utterances: Sequence[Utterance],
    spoken: Counter[str],
    left_out: LeftOut,
) -> Case | None:
    after = len(frame.words)
    clean, corrupted = (
        side_of(before(slm, one, after), frame.gap, units_between(one, after, after), one.words[after].text) for one in pair
    )
    asks: dict[str, set[str]] = defaultdict(set)
    for number in members:
        words = utterances[number].words
        asks[words[frame.gap].text].add(words[after].text)
    return assembled(slm, f"{pair[0].name} / {pair[1].name}", (clean, corrupted), Stock(asks, spoken), Given(), left_out)


def _why(frames: dict[_Frame, list[int]], utterances: Sequence[Utterance], used: set[int]) -> Iterator[tuple[int, str]]:
    """Sentences that are in no pair, and why."""
    partners: dict[int, bool] = {}  # of a sentence: whether one of those that begin as it does goes on otherwise
    for frame, members in frames.items():
        for one in members:
            differing = [other for other in members if utterances[other].words[frame.gap].text != utterances[one].words[frame.gap].text]
            if differing:
                partners[one] = partners.get(one, False) or any(_differ(frame, utterances[one], utterances[other]) for other in differing)
    for number in range(len(utterances)):
        if number not in used:
            yield number, ALONE if number not in partners else PAIRED if partners[number] else SAME
