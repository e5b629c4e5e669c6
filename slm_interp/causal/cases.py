"""What a causal test is asked of: a contrast with the words it is about, where they are heard, and what its controls need.

    case = Case("france / italy", contrast, Words("france", "italy"), SpanPair("word", Span(9, 14), Span(9, 13)))
    case.base, case.source          # the prompt whose run is changed, and the one that values come from

The run that is changed is that of the *corrupted* prompt (denoising): what is put in is what the clean prompt has there, or text of its word. An
effect is then a rise of `log p(answer) - log p(distractor)`, and the effect of everything is the ceiling.

| test | `words` are | `span` is |
|---|---|---|
| the heard word drives what follows (C1) | the words that tell the prompts apart | where they are heard |
| spelling without sound (C2) | two homophones | where they are heard |
| speaking out (C3) | what each prompt goes on with | the last position of the prompt |

Prompts should differ in the word alone: in pairs that were each said whole the last units before the answer may give it away (`organisms.splicing`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from slm_interp.errors import PatchingError
from slm_interp.patching.contrasts import clusters_of
from slm_interp.patching.spans import SpanPair
from slm_interp.utterance import Contrast, Span, Utterance


@dataclass(frozen=True)
class Words:
    """The two words whose text is exchanged, and words for controls.

    Args:
        clean, corrupted: of the two prompts.
        third: matched with them for frequency, length and category; in neither prompt and of neither continuation.
        phonetic: near in sound to the clean word.
        semantic: near in meaning to the clean word.
    """

    clean: str
    corrupted: str
    third: str | None = None
    phonetic: str | None = None
    semantic: str | None = None

    def __post_init__(self) -> None:
        given = [word for word in (self.clean, self.corrupted, self.third) if word is not None]
        if len(set(given)) < len(given):
            raise PatchingError(f"The words that are exchanged, and the third one, are all different; got {given}.")
        near = {self.phonetic, self.semantic} - {None}
        if near & {self.clean, self.corrupted}:
            raise PatchingError(f"A neighbour is another word than {self.clean!r} and {self.corrupted!r}; got {sorted(map(str, near))}.")


@dataclass(frozen=True, eq=False)
class Heard:
    """A prompt and the stretch of it where a word is heard."""

    prompt: Utterance
    span: Span

    def __post_init__(self) -> None:
        self.span.checked(len(self.prompt))


@dataclass(frozen=True, eq=False)
class Case:
    """A contrast and everything that a causal test and its controls ask of it. What is None is a control that this case cannot have.

    Args:
        name: in results; the same name, the same case.
        contrast: two prompts and what follows each.
        words: whose text is exchanged.
        span: where they are read, in both prompts.
        elsewhere: a stretch at which neither word is heard, as long as `span` in the corrupted prompt.
        other_voice: the corrupted prompt's words in another voice, and where its word is heard there.
        written: both prompts as text, followed by the same units; `written_span` is where the words stand in them.
        prompt, word: labels by which cases depend on each other: what is said around the words, and the pair of words. Empty: from the contrast.

    Raises:
        UtteranceError: a span past the end of its prompt.
        PatchingError: words that are not different, text prompts without a span or the reverse.
    """

    name: str
    contrast: Contrast
    words: Words
    span: SpanPair
    elsewhere: Span | None = None
    other_voice: Heard | None = None
    written: Contrast | None = None
    written_span: SpanPair | None = None
    prompt: str = ""
    word: str = ""

    def __post_init__(self) -> None:
        self.span.checked(self.contrast)
        if self.elsewhere is not None:
            self.elsewhere.checked(len(self.contrast.corrupted))
            if self.elsewhere.start < self.span.corrupted.stop and self.span.corrupted.start < self.elsewhere.stop:
                raise PatchingError(f"Elsewhere is off the word; of {self.name!r} {self.elsewhere} meets {self.span.corrupted}.")
        if (self.written is None) != (self.written_span is None):
            raise PatchingError(f"Prompts as text come with the span of the words in them; {self.name!r} has one of the two.")
        if self.written is not None and self.written_span is not None:
            self.written_span.checked(self.written)
        around, apart = clusters_of(self.contrast)
        object.__setattr__(self, "prompt", self.prompt or around)
        object.__setattr__(self, "word", self.word or apart or " | ".join(sorted((self.words.clean, self.words.corrupted))))

    @property
    def base(self) -> Utterance:
        """The prompt whose run is changed."""
        return self.contrast.corrupted

    @property
    def source(self) -> Utterance:
        """The prompt that values come from."""
        return self.contrast.clean

    def as_text(self) -> Case | None:
        """The same case with its prompts written: the positive control, in which text is what the model reads. None where there are none."""
        if self.written is None or self.written_span is None:
            return None
        return replace(
            self,
            name=f"{self.name}, written",
            contrast=self.written,
            span=self.written_span,
            elsewhere=None,
            other_voice=None,
            written=None,
            written_span=None,
        )

    def __repr__(self) -> str:
        controls = {
            "a third word": self.words.third,
            "a phonetic neighbour": self.words.phonetic,
            "a semantic neighbour": self.words.semantic,
            "elsewhere": self.elsewhere,
            "another voice": self.other_voice,
            "text prompts": self.written,
        }
        missing = [name for name, there in controls.items() if there is None]
        said = f"; without {', '.join(missing)}" if missing else ""
        return f"Case({self.name}: {self.words.clean!r} into {self.words.corrupted!r} at {self.span.corrupted}{said})"


def checked_cases(cases: Sequence[Case]) -> tuple[Case, ...]:
    """The cases, once they are known to be one or more, each of its own name.

    Raises:
        PatchingError: none, or two of one name.
    """
    names = [case.name for case in cases]
    double = sorted({name for name in names if names.count(name) > 1})
    if not names or double:
        raise PatchingError(f"A causal test is asked of one case or more, each of its own name; got {len(names)}, twice: {double[:3]}.")
    return tuple(cases)
