"""Cases of a planted model, with every control that such a model can have.

| control | is |
|---|---|
| `third` | a word whose follower has another onset than answer and distractor, so that putting it in raises neither |
| `phonetic` | a word that shares a unit with the clean one |
| `elsewhere` | the carriers before the word |
| `other_voice` | the corrupted word between the carriers of the clean prompt: nothing but the noise around the word is other |
| `written` | the word as text, then the carriers that follow it and the cue |

Words of a planted model mean nothing: there is no semantic neighbour. Carriers are drawn anew for every contrast, so each is a prompt of its own.
"""

from __future__ import annotations

from slm_interp.causal.cases import Case, Heard, Words
from slm_interp.causal.planted.lexicon import Lexicon
from slm_interp.causal.planted.planting import Planted
from slm_interp.model import SpeechTextModel
from slm_interp.patching.spans import SpanPair
from slm_interp.prompt import Segment
from slm_interp.speech.splicing import replaced
from slm_interp.utterance import Contrast, Utterance


def planted_cases(planted: Planted) -> tuple[Case, ...]:
    """One case a contrast of a planted model: its two words, where they are heard, and controls. None of them is left out."""
    return tuple(_case(planted, contrast) for contrast in planted.contrasts)


def _case(planted: Planted, contrast: Contrast) -> Case:
    clean, corrupted = contrast.clean.words[0], contrast.corrupted.words[0]
    a, b = (planted.lexicon.words.index(word.text) for word in (clean, corrupted))
    third = _third(planted.lexicon, a, b)
    phonetic = _phonetic(planted.lexicon, a, {a, b, third, planted.lexicon.following[a], planted.lexicon.following[b]})
    names = [None if word is None else planted.lexicon.words[word] for word in (third, phonetic)]
    otherwise = replaced(contrast.clean, clean.span, contrast.corrupted, corrupted.span, corrupted.text)
    read_clean, read_corrupted = (_written(planted.slm, prompt) for prompt in (contrast.clean, contrast.corrupted))
    name = f"{clean.text} / {corrupted.text}"
    return Case(
        name=name,
        contrast=contrast,
        words=Words(clean.text, corrupted.text, names[0], names[1]),
        span=SpanPair("word", clean.span, corrupted.span),
        elsewhere=corrupted.span.shifted(-len(corrupted.span)),
        other_voice=None if otherwise is None else Heard(otherwise, clean.span),
        written=Contrast(read_clean, read_corrupted, contrast.answer, contrast.distractor),
        written_span=SpanPair("word", read_clean.words[0].span, read_corrupted.words[0].span),
        prompt=f"carriers of {name}",
    )


def _third(lexicon: Lexicon, a: int, b: int) -> int | None:
    """Of the words whose follower has an onset of its own, one that shares least with the two and with what follows them."""
    following, taken = lexicon.following, {a, b, lexicon.following[a], lexicon.following[b]}
    onsets = {lexicon.onset[following[word]] for word in (a, b)}
    free = [word for word in range(len(lexicon.words)) if word not in taken and lexicon.onset[following[word]] not in onsets]

    def shared(word: int) -> tuple[int, int, int]:
        said, heard = lexicon.spelled(following[word]), lexicon.spelled(word)
        return (
            sum(unit in lexicon.spelled(following[one]) for one in (a, b) for unit in said),
            sum(unit in lexicon.spelled(one) for one in (a, b) for unit in heard),
            (word - a) % len(lexicon.words),
        )

    return min(free, key=shared, default=None)


def _phonetic(lexicon: Lexicon, a: int, taken: set[int | None]) -> int | None:
    near = [word for word in range(len(lexicon.words)) if word not in taken and set(lexicon.spelled(word)) & set(lexicon.spelled(a))]
    return min(near, key=lambda word: (word - a) % len(lexicon.words), default=None)


def _written(slm: SpeechTextModel, prompt: Utterance) -> Utterance:
    """The word read, and what is heard after it."""
    word = prompt.words[0]
    rest = Segment("speech", prompt.tokens[word.span.stop :], prompt.edges[word.span.stop :])
    read = slm.text_segment(f" {word.text}")
    return slm.check(slm.prompt([read, rest], quantiser=prompt.quantiser, name=f"{word.text}, read"))
