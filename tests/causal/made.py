"""Cases for the tests of causal runs: two of the tiny model, with every control."""

from __future__ import annotations

import torch

from slm_interp.causal import Case, Heard, Words
from slm_interp.model import SpeechTextModel
from slm_interp.patching.spans import SpanPair
from slm_interp.prompt import Segment
from slm_interp.utterance import Contrast, Span, Utterance, Word

AT = Span(3, 6)


def heard(slm: SpeechTextModel, units: list[int], span: Span, word: str, quantiser: str = "tiny") -> Utterance:
    """A prompt of units in which one word is told."""
    edges = 0.04 * torch.arange(len(units) + 1, dtype=torch.float32)
    words = [Word(word, span, float(edges[span.start]), float(edges[span.stop]))]
    return slm.speech_prompt(torch.tensor(units), edges, words, quantiser=quantiser, name=word)


def tiny_case(slm: SpeechTextModel, name: str = "first", longer: bool = False, by: int = 0) -> Case:
    """A case of the tiny model with every control; `longer`: the corrupted word has two units more; `by`: other units."""
    word = [(unit + by) % 14 for unit in (2, 11, 5, 9, 1)]
    corrupted_at = Span(3, 8) if longer else AT
    clean = heard(slm, [3, 7, 0, 11, 4, 6, 0, 1], AT, "france")
    corrupted = heard(slm, [3, 8, 0, *word[: len(corrupted_at)], 0, 1], corrupted_at, "rome")
    voice = heard(slm, [13, 8, 6, 2, 10, 5, 0, 1], AT, "rome")
    answer, distractor = (slm.vocabulary.unit_to_id(torch.tensor(units)) for units in ([4, 9, 2], [6, 13]))
    rest = Segment("speech", corrupted.tokens[-2:], torch.tensor([0.0, 0.04, 0.08]))
    read = [slm.prompt([slm.text_segment(f" the {word}"), rest], quantiser="tiny", name=word) for word in ("france", "rome")]
    at = Span(read[0].words[1].span.start, read[0].words[1].span.stop)
    return Case(
        name,
        Contrast(clean, corrupted, answer, distractor),
        Words("france", "rome", "paris", "sea", "see"),
        SpanPair("word", AT, corrupted_at),
        elsewhere=None if longer else Span(0, 3),
        other_voice=Heard(voice, AT),
        written=Contrast(read[0], read[1], answer, distractor),
        written_span=SpanPair("word", at, at),
        prompt=f"around {by}",
    )
